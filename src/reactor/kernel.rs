//! What the kernel knows of a connection's peer, and how it closes the connection.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use socket2::SockRef;

/// The bytes that the kernel takes, besides those it can send, of values, which grow old on their way. Each time that a
/// burst fills it costs a wake-up.
pub const LEAST_UNSENT: u32 = 2 << 10;

/// Bytes that were written to a socket and that the peer has not acknowledged, FIN included; `None` where the
/// system does not say. On Linux, a Unix socket counts the memory of what its peer has not read instead.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn unacknowledged(fd: BorrowedFd<'_>) -> Option<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ) writes one int to the pointer, which is valid; the descriptor is borrowed.
    let outcome = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    (outcome == 0).then(|| usize::try_from(bytes).unwrap_or(0))
}

/// Bytes that were written to a socket and that the peer has not acknowledged.
#[cfg(target_vendor = "apple")]
pub fn unacknowledged(fd: BorrowedFd<'_>) -> Option<usize> {
    option::<libc::c_int>(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NWRITE)
        .and_then(|bytes| usize::try_from(bytes).ok())
}

/// Bytes that were written to a socket and that the peer has not acknowledged: unknown on this system.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
pub fn unacknowledged(_: BorrowedFd<'_>) -> Option<usize> {
    None
}

/// How many bytes the peer of a TCP connection, which has sent something, has acknowledged since it was made; `None` where
/// the system does not say.
#[cfg(all(feature = "python", any(target_os = "linux", target_os = "android")))]
pub fn acknowledged(fd: BorrowedFd<'_>) -> Option<u64> {
    /// The beginning of the kernel's `struct tcp_info`, of which `libc` has less.
    #[repr(C)]
    struct Info {
        before: [u64; 15],
        bytes_acked: u64,
        bytes_received: u64,
    }
    let info = option::<Info>(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO)?;
    let _ = info.before;
    // Its request was received: a system that counts none of it counts nothing.
    (info.bytes_received > 0).then_some(info.bytes_acked)
}

/// How many bytes the peer of a TCP connection has acknowledged: this system does not say.
#[cfg(all(feature = "python", not(any(target_os = "linux", target_os = "android"))))]
pub fn acknowledged(_: BorrowedFd<'_>) -> Option<u64> {
    None
}

/// Whether the peer has sent no segment for `time` and leaves the kernel's questions open: a peer that is there
/// answers a retransmission, and a probe of its closed window. It may leave one probe open, but not two that follow each
/// other: Linux answers one in half a second, and sends the second one 0.4 s after the first, the third 0.8 s later.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn has_vanished(fd: BorrowedFd<'_>, time: Duration) -> bool {
    option::<libc::tcp_info>(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO).is_some_and(|info| {
        let is_asked = info.tcpi_probes > 1 || info.tcpi_retransmits > 0;
        is_asked && Duration::from_millis(info.tcpi_last_ack_recv.into()) >= time
    })
}

/// Whether the peer has sent no segment for `time`: this system does not say.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn has_vanished(_: BorrowedFd<'_>, _: Duration) -> bool {
    false
}

/// A socket option's value. `T` is the plain C type that the system documents for the option.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn option<T>(fd: RawFd, level: libc::c_int, name: libc::c_int) -> Option<T> {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<T>()).ok()?;
    // SAFETY: the pointers are valid, and the system writes at most `length` bytes, the size of the value. Every
    // `T` used here is a C struct or integer for which all bit patterns are valid, and an older kernel that writes
    // less leaves zeros.
    let outcome = unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut length) };
    // SAFETY: as above.
    (outcome == 0).then(|| unsafe { value.assume_init() })
}

/// Have the kernel take no more than about this many bytes that it cannot send yet; 0 for the system's own limit. Other
/// systems take what fits into their buffer.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn limit_unsent(fd: BorrowedFd<'_>, bytes: u32) {
    // A Unix socket has no such option, and a small buffer.
    let _ = SockRef::from(&fd).set_tcp_notsent_lowat(bytes);
}

/// Have the kernel take less: this system has no such option.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn limit_unsent(_: BorrowedFd<'_>, _: u32) {}

/// Have the close of a socket, also at the process's end, send a reset and drop what is unsent, or not.
pub fn reset_on_close(fd: BorrowedFd<'_>, resets: bool) -> io::Result<()> {
    SockRef::from(&fd).set_linger(resets.then_some(Duration::ZERO))
}
