//! A client's socket, which a forked child closes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::kernel;
use crate::descriptors::{NoFork, disown, no_fork};

/// A socket that a forked child closes: its descriptor was recorded when it was opened.
#[derive(Debug)]
pub struct Owned {
    fd: OwnedFd,
    /// Whether its close sends a reset and drops what is unsent.
    resets: bool,
    /// While it is being closed.
    no_fork: Option<NoFork>,
}

impl Owned {
    /// Have the socket's close, also at the process's end, send a reset and drop what is unsent, or not.
    pub fn reset_on_close(&mut self, resets: bool) {
        if self.resets != resets {
            self.resets = resets;
            let _ = kernel::reset_on_close(self.as_fd(), resets);
        }
    }
}

impl From<OwnedFd> for Owned {
    fn from(fd: OwnedFd) -> Self {
        Self { fd, resets: false, no_fork: None }
    }
}

impl AsFd for Owned {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Owned {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // A FIN would wait behind bytes that the peer does not take, and the kernel gives up both one day without a
        // word to the peer. A reset waits for nothing.
        if let Some(bytes) = kernel::unacknowledged(self.as_fd()) {
            self.reset_on_close(bytes > 0);
        }
        // Before it is closed: another file may get its number then.
        self.no_fork = Some(no_fork());
        disown(self.as_raw_fd());
    }
}
