//! A client's socket, which a forked child closes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::kernel;
use crate::descriptors::{disown, own};

/// A socket that a forked child closes.
#[derive(Debug)]
pub struct Owned(OwnedFd);

impl From<OwnedFd> for Owned {
    fn from(fd: OwnedFd) -> Self {
        own(fd.as_raw_fd());
        Self(fd)
    }
}

impl AsFd for Owned {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Owned {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // A FIN would wait behind bytes that the peer does not take, and the kernel gives up both one day without a
        // word to the peer. A reset waits for nothing.
        if let Some(bytes) = kernel::unacknowledged(self.as_fd()) {
            let _ = kernel::reset_on_close(self.as_fd(), bytes > 0);
        }
        // Before it is closed: another file may get its number then.
        disown(self.as_raw_fd());
    }
}
