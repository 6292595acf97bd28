//! Descriptors of clients' sockets that Python holds on their way to a reactor. On Windows there are none.

use pyo3::prelude::*;

#[cfg(unix)]
pub use system::close_inherited;
pub use system::socket;

// A duplicate of a descriptor, which a forked child closes from now on. It belongs to the caller, which
// passes it to a hub, to `_close`, or to `_release`.
//
// Raises OSError when no descriptor is available.
#[pyfunction]
pub fn _duplicate(fd: i32) -> PyResult<i32> {
    Ok(system::duplicate(fd)?)
}

// Forget the descriptor. True unless this is a forked child, which has closed it.
#[pyfunction]
pub fn _release(fd: i32) -> bool {
    system::disown(fd)
}

// Close such a descriptor. In a forked child it is already closed, and nothing happens.
#[pyfunction]
pub fn _close(fd: i32) {
    system::close(fd);
}

// How many bytes were written to a socket that its peer has not acknowledged; None where the system does
// not say.
#[pyfunction]
pub fn _unacknowledged(fd: i32) -> Option<usize> {
    system::unacknowledged(fd)
}

// How many bytes the peer of a TCP connection has acknowledged since it was made; None where the system does
// not say.
#[pyfunction]
pub fn _acknowledged(fd: i32) -> Option<u64> {
    system::acknowledged(fd)
}

// Have the kernel take few bytes of a socket that it cannot send yet, or as many as usual. Only on Linux.
#[pyfunction]
pub fn _limit_unsent(fd: i32, limited: bool) {
    system::limit_unsent(fd, limited);
}

#[cfg(unix)]
mod system {
    use std::io;
    use std::os::fd::{BorrowedFd, FromRawFd};

    pub use crate::descriptors::disown;
    use crate::descriptors::{disown_all, no_fork, open_owned};
    use crate::reactor::{Socket, kernel};

    /// In a forked child: close the clients' connections, which must not stay open here when the parent closes
    /// them. Closing a copy sends nothing, and leaves the parent's epoll set as it is.
    pub fn close_inherited() {
        disown_all(|fd| {
            // SAFETY: the descriptor was a reactor's, whose thread does not exist in this process.
            unsafe { libc::close(fd) };
        });
    }

    pub fn duplicate(fd: i32) -> io::Result<i32> {
        open_owned(|| {
            // From 3 on: a program that closed its standard streams must not get a socket in their place.
            // SAFETY: fcntl with this command takes no pointers.
            let duplicate = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
            if duplicate < 0 { Err(io::Error::last_os_error()) } else { Ok(duplicate) }
        })
    }

    pub fn close(fd: i32) {
        let _no_fork = no_fork();
        if disown(fd) {
            drop(socket(fd));
        }
    }

    pub fn unacknowledged(fd: i32) -> Option<usize> {
        // A socket that was closed has the number -1.
        // SAFETY: the caller's socket is open during the call, and only queried.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) }).and_then(kernel::unacknowledged)
    }

    pub fn acknowledged(fd: i32) -> Option<u64> {
        // SAFETY: as above.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) }).and_then(kernel::acknowledged)
    }

    pub fn limit_unsent(fd: i32, limited: bool) {
        if fd >= 0 {
            // SAFETY: the caller's socket is open during the call.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            kernel::limit_unsent(fd, if limited { kernel::LEAST_UNSENT } else { 0 });
        }
    }

    /// The socket behind such a descriptor, whose ownership the caller gives up.
    pub fn socket(fd: i32) -> Socket {
        // SAFETY: it was duplicated, or taken over, for the caller, and its owner gives it up.
        unsafe { Socket::from_raw_fd(fd) }
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;

    use crate::reactor::{Socket, unsupported};

    pub fn duplicate(_: i32) -> io::Result<i32> {
        Err(unsupported())
    }

    pub fn close(_: i32) {}

    pub fn disown(_: i32) -> bool {
        false
    }

    pub fn unacknowledged(_: i32) -> Option<usize> {
        None
    }

    pub fn acknowledged(_: i32) -> Option<u64> {
        None
    }

    pub fn limit_unsent(_: i32, _: bool) {}

    pub fn socket(_: i32) -> Socket {
        unreachable!("no reactor could be started")
    }
}
