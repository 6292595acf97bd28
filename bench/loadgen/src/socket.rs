//! Non-blocking IPv4 sockets and epoll, on libc: the only file with system calls on descriptors.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Readiness of one descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// What it was registered with.
    pub token: u64,
    /// It can be written, or its connect failed.
    pub writable: bool,
}

/// An epoll instance, level-triggered.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Epoll {
    /// Fails only where the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked and owned once.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; 1024] })
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: &OwnedFd,
        token: u64,
        interest: libc::c_int,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.cast_unsigned(), u64: token };
        // SAFETY: both descriptors are open, the event is a live local.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) })?;
        Ok(())
    }

    /// Watches a socket until it can be written: how a connect reports its end.
    pub fn await_connect(&self, fd: &OwnedFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, libc::EPOLLOUT)
    }

    /// From now on watches a socket for input.
    pub fn await_input(&self, fd: &OwnedFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, libc::EPOLLIN)
    }

    /// Watches it no more.
    pub fn forget(&self, fd: &OwnedFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    /// Waits up to `within`, which need not be whole milliseconds, and fills `ready`.
    pub fn wait_within(&mut self, within: Duration, ready: &mut Vec<Ready>) -> io::Result<()> {
        let mut this = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let seconds = libc::time_t::try_from(within.as_secs()).unwrap_or(libc::time_t::MAX);
        let time = libc::timespec { tv_sec: seconds, tv_nsec: within.subsec_nanos().into() };
        // SAFETY: one live local of each; no signal mask.
        unsafe { libc::ppoll(&raw mut this, 1, &raw const time, std::ptr::null()) };
        // Interrupted or not: what is ready is seen here.
        self.wait(0, ready)
    }

    /// Waits up to `timeout_ms` and fills `ready`.
    pub fn wait(&mut self, timeout_ms: i32, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        let room = i32::try_from(self.events.len()).unwrap_or(i32::MAX);
        // SAFETY: the buffer holds `room` events.
        let count = match check(unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, timeout_ms)
        }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => usize::try_from(other?).unwrap_or(0),
        };
        ready.extend(self.events[..count].iter().map(|event| {
            let bits = event.events.cast_signed();
            let ended = bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
            Ready { token: event.u64, writable: ended || bits & libc::EPOLLOUT != 0 }
        }));
        Ok(())
    }
}

fn address(of: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: FAMILY,
        sin_port: of.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(of.ip().octets()) },
        sin_zero: [0; 8],
    }
}

#[allow(clippy::cast_possible_truncation)] // 2
const FAMILY: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
#[allow(clippy::cast_possible_truncation)] // 16
const ADDRESS_SIZE: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;
#[allow(clippy::cast_possible_truncation)] // 4
const INT_SIZE: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;

fn set(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option is an int and points to a live local.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), INT_SIZE) })?;
    Ok(())
}

/// Ethernet's. With loopback's 64 KiB segments the server's kernel takes 3 MB for a client that reads nothing, so
/// that its server would not meet it at all; with these 74 KB.
const SEGMENT: libc::c_int = 1460;

/// Starts to connect from `source` to `target`. `receive_buffer` is for clients that are to stall early.
pub fn connect(source: Ipv4Addr, target: SocketAddrV4, receive_buffer: Option<i32>) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the result is checked and owned once.
    let fd = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, kind, 0))?) };
    set(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    if let Some(bytes) = receive_buffer {
        set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
        set(&fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG, SEGMENT)?;
    }
    // The port is chosen at connect, when the whole four-tuple is known: else one source address would
    // offer its ports only once for all targets.
    set(&fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    let from = address(SocketAddrV4::new(source, 0));
    // SAFETY: a live local of the size given.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const from).cast(), ADDRESS_SIZE) })?;
    let to = address(target);
    // SAFETY: a live local of the size given.
    match check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const to).cast(), ADDRESS_SIZE) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(fd),
    }
}

/// How a connect ended.
pub fn connected(fd: &OwnedFd) -> io::Result<()> {
    let mut error: libc::c_int = 0;
    let mut size = INT_SIZE;
    // SAFETY: live locals of the size given.
    check(unsafe {
        let value = (&raw mut error).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR, value, &raw mut size)
    })?;
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Receives into `buffer`; `Ok(0)` is the end.
pub fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for its length.
    let got = unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Sends a request, which always fits into an empty send buffer.
pub fn send(fd: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer is valid for its length.
    let sent = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    match usize::try_from(sent) {
        Ok(sent) if sent == bytes.len() => Ok(()),
        Ok(_) => Err(io::Error::new(io::ErrorKind::WriteZero, "the request did not fit")),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
