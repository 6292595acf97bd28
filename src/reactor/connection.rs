//! One client's socket: its unwritten bytes, and how far the end of its stream is.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use super::coalesce::Coalesced;
use super::kernel;
use super::owned::Owned;
use super::progress::Progress;
use crate::entry::Entry;
use crate::identity::{Identity, Keyed};

/// The end of a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Unsent bytes beyond which the kernel reports a socket as full: a stalled client pins this much memory, not
/// megabytes.
const UNSENT_LIMIT: u32 = 64 << 10;
/// Bytes a client may send after its request before its connection is closed.
const INPUT_LIMIT: usize = 64 << 10;
/// The most bytes in one piece for a slow client, and for any client of a Unix socket. How far the peer has read
/// shows only when a whole piece is acknowledged, or freed by a Unix socket.
const PIECE: usize = 4 << 10;
/// The same where little is given to the kernel at a time: it takes a whole piece more than its limit.
const FRESH_PIECE: usize = 2 << 10;
/// Frames in one gathering write.
const GATHER: usize = 64;
#[cfg(any(target_os = "linux", target_os = "android"))]
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT;
/// Keeps the kernel from joining later bytes to those of this write.
#[cfg(any(target_os = "linux", target_os = "android"))]
const END_OF_PIECE: i32 = libc::MSG_EOR;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const END_OF_PIECE: i32 = 0;
/// Keeps the end of the body back until the FIN, which goes out with it: a client that had the end alone would take the
/// connection for one that is kept, and send its next request there.
#[cfg(any(target_os = "linux", target_os = "android"))]
const WITH_FIN: i32 = SEND_FLAGS | libc::MSG_MORE;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const WITH_FIN: i32 = SEND_FLAGS;

/// Where a connection is between its first event and its close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Events are written.
    Open,
    /// The end of the body is written, up to this many bytes.
    Ending(usize),
    /// Everything is written; the client takes it, and closes first if it does so in time.
    Lingering,
}

impl Phase {
    /// The last chunk is left out: the client finds the body incomplete.
    pub const BREAKING: Self = Self::Ending(LAST_CHUNK.len());
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
#[expect(clippy::struct_excessive_bools, reason = "what happened to a socket, each by itself")]
pub struct Connection {
    socket: Owned,
    pub identity: Arc<Identity>,
    /// The identity's.
    key: usize,
    pub phase: Phase,
    /// Whether the worker will serve it in this round.
    pub is_scheduled: bool,
    /// Entries that the socket did not take; `offset` bytes of the first one are written.
    backlog: Vec<Arc<Entry>>,
    offset: usize,
    received: usize,
    progress: Progress,
    /// The most bytes in one write.
    most: usize,
    /// The most bytes in one piece: less than [`PIECE`] where little is given to the kernel.
    piece: usize,
    /// Bytes that the kernel may still join to one piece.
    joinable: usize,
    /// Whether the socket was full, and whether its room is polled since.
    was_full: bool,
    is_polled_for_room: bool,
    /// Whether the kernel was told how much to take. Like the next, it is not told before that matters: many clients
    /// leave as soon as their stream is open.
    is_limited: bool,
    /// Whether the kernel was told to ask for a client that is silent.
    is_probed: bool,
    /// Whether it counts as open for those who wait for the streams to end.
    pub is_counted: bool,
    linger: Option<Box<Linger>>,
}

/// How far the client is with the end of its stream.
pub struct End {
    /// Whether it has acknowledged everything, the FIN included.
    pub is_taken: bool,
    /// Since the stream ended.
    pub waited: Duration,
    /// For how long it has acknowledged nothing.
    pub quiet: Duration,
}

struct Linger {
    since: Instant,
    moved: Instant,
    unacknowledged: usize,
}

impl Connection {
    pub fn new(owned: Owned, identity: Arc<Identity>) -> Self {
        // Apple's send has no flag for this.
        #[cfg(target_vendor = "apple")]
        let _ = SockRef::from(&owned).set_nosigpipe(true);
        Self {
            socket: owned,
            key: identity.key,
            identity,
            phase: Phase::Open,
            is_scheduled: false,
            backlog: Vec::new(),
            offset: 0,
            received: 0,
            progress: Progress::default(),
            most: usize::MAX,
            piece: PIECE,
            joinable: PIECE,
            was_full: false,
            is_polled_for_room: false,
            is_limited: false,
            is_probed: false,
            is_counted: true,
            linger: None,
        }
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Its subscriber.
    pub fn subscriber(&self) -> Keyed<'_> {
        Keyed { key: self.key, identity: &self.identity }
    }

    pub fn is_blocked(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Whether its room must be polled from now on. True once.
    pub fn awaits_room(&mut self) -> bool {
        self.was_full && !std::mem::replace(&mut self.is_polled_for_room, true)
    }

    /// Write a newcomer's first entries. Those that a broken socket refuses are kept, so that the next write finds the
    /// same error.
    pub fn write_first(&mut self, mut entries: Vec<Arc<Entry>>) -> Written {
        if let Ok(written) = self.write(&mut entries, &mut Coalesced::default()) {
            written
        } else {
            self.backlog = entries;
            Written::Blocked
        }
    }

    /// Check whether the client takes what was written; for how long it has taken nothing of it. The first check comes
    /// within a quarter of `stall_timeout`.
    pub fn check(&mut self, now: Duration, stall_timeout: Duration) -> Duration {
        if self.progress.is_idle() {
            // What is written more often than it is checked shows by itself whether its client is there.
            if !std::mem::replace(&mut self.is_probed, true) {
                // No TCP_USER_TIMEOUT: it also ends a slow client whose window is closed most of the time, and an
                // orphaned socket without a word to its peer.
                let _ = SockRef::from(&self.socket).set_tcp_keepalive(&keepalive(stall_timeout));
            }
            return Duration::ZERO;
        }
        let unacknowledged = kernel::unacknowledged(self.socket.as_fd());
        let quiet = self.progress.check(unacknowledged, self.is_blocked(), now);
        // Should the process end before the client takes something, a FIN would wait behind the rest.
        if !quiet.is_zero() {
            self.most = self.piece;
        }
        // When it has been quiet for a check or more, a FIN may never reach it.
        self.socket.reset_on_close(!quiet.is_zero());
        quiet
    }

    /// Whether the peer has answered nothing for this long.
    pub fn has_vanished(&self, time: Duration) -> bool {
        kernel::has_vanished(self.socket.as_fd(), time)
    }

    /// Give the kernel little at a time from now on: what this stream carries may be dropped, or replaced by something
    /// newer, as long as the hub has it.
    pub fn keep_fresh(&mut self) {
        (self.most, self.piece) = (FRESH_PIECE, FRESH_PIECE);
        kernel::limit_unsent(self.socket.as_fd(), kernel::LEAST_UNSENT);
    }

    /// Tell the kernel how much to take, before the first bytes of which it could take too much.
    fn limit(&mut self) {
        self.is_limited = true;
        if self.piece == PIECE {
            kernel::limit_unsent(self.socket.as_fd(), UNSENT_LIMIT);
        }
        if SockRef::from(&self.socket).local_addr().is_ok_and(|address| address.is_unix()) {
            self.most = self.piece;
        }
    }

    /// Write `entries` in as few calls as possible and keep what the socket does not take. The backlog must be
    /// empty.
    pub fn write(&mut self, entries: &mut Vec<Arc<Entry>>, coalesced: &mut Coalesced) -> io::Result<Written> {
        if self.piece == PIECE && entries.iter().any(|entry| entry.key().is_some()) {
            self.keep_fresh();
        }
        let whole = self.send(entries, coalesced)?;
        let written = if whole == entries.len() { Written::All } else { Written::Blocked };
        self.backlog = entries.drain(whole..).collect();
        entries.clear();
        Ok(written)
    }

    /// Write the backlog, and the end of the body when it is due.
    pub fn flush(&mut self, coalesced: &mut Coalesced) -> io::Result<Written> {
        if !self.backlog.is_empty() {
            let mut backlog = std::mem::take(&mut self.backlog);
            let whole = self.send(&backlog, coalesced)?;
            if whole < backlog.len() {
                backlog.drain(..whole);
                self.backlog = backlog;
                return Ok(Written::Blocked);
            }
        }
        while let Phase::Ending(sent) = self.phase
            && sent < LAST_CHUNK.len()
        {
            match SockRef::from(&self.socket).send_with_flags(&LAST_CHUNK[sent..], WITH_FIN) {
                Ok(n) => {
                    self.phase = Phase::Ending(sent + n);
                    self.progress.wrote(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.was_full = true;
                    return Ok(Written::Blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Written::All)
    }

    /// Send FIN; the client's own is awaited.
    pub fn linger(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.phase = Phase::Lingering;
        self.linger = Some(Box::new(Linger { since: now, moved: now, unacknowledged: usize::MAX }));
        SockRef::from(&self.socket).shutdown(std::net::Shutdown::Write)
    }

    /// Check how far the client is with the end of its stream; `None` before it has ended.
    pub fn check_end(&mut self) -> Option<End> {
        let linger = self.linger.as_mut()?;
        let now = Instant::now();
        let unacknowledged = kernel::unacknowledged(self.socket.as_fd()).unwrap_or(0);
        if unacknowledged < std::mem::replace(&mut linger.unacknowledged, unacknowledged) {
            linger.moved = now;
        }
        Some(End {
            is_taken: unacknowledged == 0,
            waited: now.saturating_duration_since(linger.since),
            quiet: now.saturating_duration_since(linger.moved),
        })
    }

    /// Read and discard input; false when the client has gone, or sends more than [`INPUT_LIMIT`].
    pub fn discard_input(&mut self) -> bool {
        let mut scratch = [MaybeUninit::uninit(); 4096];
        loop {
            match SockRef::from(&self.socket).recv_with_flags(&mut scratch, libc::MSG_DONTWAIT) {
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

    /// Send from `offset` in the first entry on, and move `offset`. Returns how many entries went out whole.
    fn send(&mut self, entries: &[Arc<Entry>], coalesced: &mut Coalesced) -> io::Result<usize> {
        let mut whole = 0;
        if !self.is_limited {
            // `joinable` is what is left of the first piece.
            let bytes: usize = entries.iter().map(|entry| entry.frame.chunk().len()).sum();
            if bytes > self.joinable {
                self.limit();
            }
        }
        while whole < entries.len() {
            let rest = &entries[whole..];
            // On a connection with a large MSS (loopback) the kernel would join 32 KiB, and then wait until the
            // window has opened that far, although the client reads all the time.
            let ends = self.joinable == 0 || (self.most == self.piece && rest.len() > 1);
            let flags = if ends { SEND_FLAGS | END_OF_PIECE } else { SEND_FLAGS };
            let (mut sent, count) =
                match send_once(&self.socket, rest, self.offset, self.most, flags, coalesced) {
                    Ok(sent) => sent,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.was_full = true;
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
            self.progress.wrote(sent);
            self.joinable = if ends { self.piece } else { self.joinable.saturating_sub(sent) };
            if count > 0 {
                whole += count;
                self.offset = 0;
                continue;
            }
            while whole < entries.len() {
                let left = entries[whole].frame.chunk().len() - self.offset;
                if sent < left {
                    self.offset += sent;
                    break;
                }
                sent -= left;
                whole += 1;
                self.offset = 0;
            }
        }
        Ok(whole)
    }
}

/// One system call; returns how many bytes it took, and how many entries these are, or 0 if they have to be counted.
fn send_once(
    socket: &Owned,
    entries: &[Arc<Entry>],
    offset: usize,
    most: usize,
    flags: i32,
    coalesced: &mut Coalesced,
) -> io::Result<(usize, usize)> {
    let socket = SockRef::from(socket);
    let send = |bytes: &[u8], count: usize| {
        let sent = socket.send_with_flags(&bytes[..bytes.len().min(most)], flags)?;
        Ok((sent, if sent == bytes.len() { count } else { 0 }))
    };
    if let [entry] = entries {
        return send(&entry.frame.chunk()[offset..], 1);
    }
    if offset == 0
        && let Some((bytes, count)) = coalesced.of(entries)
    {
        return send(bytes, count);
    }
    let mut slices = [IoSlice::new(&[]); GATHER];
    let (mut count, mut left) = (0, most);
    for (slice, entry) in slices.iter_mut().zip(entries) {
        let rest = &entry.frame.chunk()[if count == 0 { offset } else { 0 }..];
        let rest = &rest[..rest.len().min(left)];
        left -= rest.len();
        *slice = IoSlice::new(rest);
        count += 1;
        if left == 0 {
            break;
        }
    }
    Ok((socket.send_vectored_with_flags(&slices[..count], flags)?, 0))
}

/// Probes for an idle connection, on which there is nothing to acknowledge: without an answer it ends after twice
/// `stall_timeout`, of which up to a quarter is over.
fn keepalive(stall_timeout: Duration) -> TcpKeepalive {
    let second = Duration::from_secs(1);
    let keepalive = TcpKeepalive::new().with_time((stall_timeout * 3 / 4).max(second));
    // Other systems have no such options.
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    let keepalive = keepalive.with_interval((stall_timeout / 3).max(second)).with_retries(3);
    keepalive
}
