//! One client's socket: what is unwritten, and how far it is.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};

use super::descriptors::Owned;
use super::joined::Joined;
use crate::entry::Entry;
use crate::identity::Identity;

/// The end of a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Unsent bytes beyond which the kernel says that a socket takes no more: a stalled client pins this much, not
/// megabytes.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_LIMIT: u32 = 64 << 10;
/// What a client may send after its request before it is closed.
const INPUT_LIMIT: usize = 64 << 10;
/// Frames in one system call.
const GATHER: usize = 64;
#[cfg(any(target_os = "linux", target_os = "android"))]
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT;

/// How far the end of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Events are written.
    Open,
    /// The end of the body is written, up to this many bytes.
    Ending(usize),
    /// Everything is written; the client is to close.
    Lingering,
}

/// What a write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Everything was taken.
    All,
    /// The socket takes no more now.
    Blocked,
}

/// A client's connection.
pub struct Connection {
    socket: Owned,
    pub identity: Arc<Identity>,
    pub phase: Phase,
    /// Whether it stands in the line of those to be served.
    pub in_line: bool,
    /// What the socket did not take, and how much of the first of it it did.
    backlog: Vec<Arc<Entry>>,
    offset: usize,
    received: usize,
}

impl Connection {
    /// Take over a socket.
    pub fn new(owned: Owned, identity: Arc<Identity>, stall_timeout: Duration) -> io::Result<Self> {
        let socket = SockRef::from(&owned);
        socket.set_nonblocking(true)?;
        // A Unix socket has none of these; then the stall timeout alone finds a peer that vanished.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let _ = socket.set_tcp_user_timeout(Some(stall_timeout));
            let _ = socket.set_tcp_notsent_lowat(UNSENT_LIMIT);
        }
        // There no flag of a send says so.
        #[cfg(target_vendor = "apple")]
        socket.set_nosigpipe(true)?;
        let keepalive = TcpKeepalive::new().with_time(stall_timeout.max(Duration::from_secs(1)));
        let _ = socket.set_tcp_keepalive(&keepalive);
        Ok(Self {
            socket: owned,
            identity,
            phase: Phase::Open,
            in_line: false,
            backlog: Vec::new(),
            offset: 0,
            received: 0,
        })
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whether something is unwritten.
    pub fn is_blocked(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// What is unwritten: it changes with every byte that is taken.
    pub fn unwritten(&self) -> (usize, usize) {
        (self.backlog.len(), self.offset)
    }

    /// Write these entries, all in as few calls as can be; what is not taken waits. Nothing waits yet.
    pub fn write(&mut self, entries: &mut Vec<Arc<Entry>>, joined: &mut Joined) -> io::Result<Written> {
        let (whole, offset) = send_all(&SockRef::from(&self.socket), entries, 0, joined)?;
        if whole == entries.len() {
            entries.clear();
            return Ok(Written::All);
        }
        self.offset = offset;
        self.backlog = entries.drain(whole..).collect();
        entries.clear();
        Ok(Written::Blocked)
    }

    /// Write what waits, and the end of the body when it is due.
    pub fn flush(&mut self, joined: &mut Joined) -> io::Result<Written> {
        if !self.backlog.is_empty() {
            let (whole, offset) = send_all(&SockRef::from(&self.socket), &self.backlog, self.offset, joined)?;
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

    /// Send FIN, and wait for the client's.
    pub fn linger(&mut self) -> io::Result<()> {
        self.phase = Phase::Lingering;
        SockRef::from(&self.socket).shutdown(std::net::Shutdown::Write)
    }

    /// Read and discard; false when the client is gone or sends more than it has any reason to.
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

/// Send from `offset` in the first entry on; how many entries went whole, and how much of the next.
fn send_all(
    socket: &Socket,
    entries: &[Arc<Entry>],
    mut offset: usize,
    joined: &mut Joined,
) -> io::Result<(usize, usize)> {
    let mut whole = 0;
    while whole < entries.len() {
        let sent = if entries.len() - whole == 1 {
            socket.send_with_flags(&entries[whole].frame.chunk()[offset..], SEND_FLAGS)
        } else if offset == 0
            && let Some(bytes) = joined.of(&entries[whole..])
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
