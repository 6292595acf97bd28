//! One client's socket: its unwritten bytes, and how far the end of its stream is.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};

use super::coalesce::Coalesced;
use super::descriptors::Owned;
use crate::entry::Entry;
use crate::identity::Identity;

/// The end of a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Unsent bytes beyond which the kernel reports a socket as full: a stalled client pins this much memory, not
/// megabytes.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_LIMIT: u32 = 64 << 10;
/// Bytes a client may send after its request before its connection is closed.
const INPUT_LIMIT: usize = 64 << 10;
/// Frames in one gathering write.
const GATHER: usize = 64;
#[cfg(any(target_os = "linux", target_os = "android"))]
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT;

/// Where a connection is between its first event and its close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Events are written.
    Open,
    /// The end of the body is written, up to this many bytes.
    Ending(usize),
    /// Everything is written; the client closes first if it does so in time.
    Lingering,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The socket took everything.
    All,
    /// The socket is full.
    Blocked,
}

/// A client's connection.
pub struct Connection {
    socket: Owned,
    pub identity: Arc<Identity>,
    pub phase: Phase,
    /// Whether the worker will serve it in this round.
    pub is_scheduled: bool,
    /// Entries that the socket did not take; `offset` bytes of the first one are written.
    backlog: Vec<Arc<Entry>>,
    offset: usize,
    received: usize,
}

impl Connection {
    pub fn new(owned: Owned, identity: Arc<Identity>, stall_timeout: Duration) -> io::Result<Self> {
        let socket = SockRef::from(&owned);
        socket.set_nonblocking(true)?;
        // A Unix socket has neither option: there only the stall timeout finds a peer that vanished.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let _ = socket.set_tcp_user_timeout(Some(stall_timeout));
            let _ = socket.set_tcp_notsent_lowat(UNSENT_LIMIT);
        }
        // Apple's send has no flag for this.
        #[cfg(target_vendor = "apple")]
        socket.set_nosigpipe(true)?;
        let keepalive = TcpKeepalive::new().with_time(stall_timeout.max(Duration::from_secs(1)));
        let _ = socket.set_tcp_keepalive(&keepalive);
        Ok(Self {
            socket: owned,
            identity,
            phase: Phase::Open,
            is_scheduled: false,
            backlog: Vec::new(),
            offset: 0,
            received: 0,
        })
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub fn is_blocked(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// How much is unwritten: changes with every byte that the socket takes.
    pub fn unwritten(&self) -> (usize, usize) {
        (self.backlog.len(), self.offset)
    }

    /// Write `entries` in as few calls as possible and keep what the socket does not take. The backlog must be
    /// empty.
    pub fn write(&mut self, entries: &mut Vec<Arc<Entry>>, coalesced: &mut Coalesced) -> io::Result<Written> {
        let (whole, offset) = send_all(&SockRef::from(&self.socket), entries, 0, coalesced)?;
        if whole == entries.len() {
            entries.clear();
            return Ok(Written::All);
        }
        self.offset = offset;
        self.backlog = entries.drain(whole..).collect();
        entries.clear();
        Ok(Written::Blocked)
    }

    /// Write the backlog, and the end of the body when it is due.
    pub fn flush(&mut self, coalesced: &mut Coalesced) -> io::Result<Written> {
        if !self.backlog.is_empty() {
            let (whole, offset) =
                send_all(&SockRef::from(&self.socket), &self.backlog, self.offset, coalesced)?;
            self.offset = offset;
            if whole < self.backlog.len() {
                self.backlog.drain(..whole);
                return Ok(Written::Blocked);
            }
            self.backlog = Vec::new();
        }
        if let Phase::Ending(sent) = &mut self.phase {
            while *sent < LAST_CHUNK.len() {
                match SockRef::from(&self.socket).send_with_flags(&LAST_CHUNK[*sent..], SEND_FLAGS) {
                    Ok(n) => *sent += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Written::Blocked),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Written::All)
    }

    /// Send FIN; the client's own is awaited.
    pub fn linger(&mut self) -> io::Result<()> {
        self.phase = Phase::Lingering;
        SockRef::from(&self.socket).shutdown(std::net::Shutdown::Write)
    }

    /// Read and discard input; false when the client has gone, or sends more than [`INPUT_LIMIT`].
    pub fn discard_input(&mut self) -> bool {
        let mut scratch = [MaybeUninit::uninit(); 4096];
        loop {
            match SockRef::from(&self.socket).recv(&mut scratch) {
                Ok(0) => return false,
                Ok(n) => {
                    self.received += n;
                    if self.received > INPUT_LIMIT {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

/// Send from `offset` in the first entry on. Returns how many entries went out whole, and how many bytes of the
/// next one.
fn send_all(
    socket: &Socket,
    entries: &[Arc<Entry>],
    mut offset: usize,
    coalesced: &mut Coalesced,
) -> io::Result<(usize, usize)> {
    let mut whole = 0;
    while whole < entries.len() {
        let sent = if entries.len() - whole == 1 {
            socket.send_with_flags(&entries[whole].frame.chunk()[offset..], SEND_FLAGS)
        } else if offset == 0
            && let Some(bytes) = coalesced.of(&entries[whole..])
        {
            socket.send_with_flags(bytes, SEND_FLAGS)
        } else {
            let mut slices = [IoSlice::new(&[]); GATHER];
            let mut count = 0;
            for (slice, entry) in slices.iter_mut().zip(&entries[whole..]) {
                let from = if count == 0 { offset } else { 0 };
                *slice = IoSlice::new(&entry.frame.chunk()[from..]);
                count += 1;
            }
            socket.send_vectored_with_flags(&slices[..count], SEND_FLAGS)
        };
        let mut sent = match sent {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((whole, offset)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        while whole < entries.len() {
            let left = entries[whole].frame.chunk().len() - offset;
            if sent < left {
                offset += sent;
                break;
            }
            sent -= left;
            whole += 1;
            offset = 0;
        }
    }
    Ok((whole, offset))
}
