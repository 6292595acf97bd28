//! Open files that a forked child closes, and the identity of files.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{FlockOperation, Stat, flock};

use crate::descriptors;

/// An open file. A lock on it belongs to the open file description, which a forked child shares; so the child
/// closes its copy at once, and the lock ends with this process.
#[derive(Debug)]
pub struct OwnedFile(File);

impl OwnedFile {
    pub fn new(file: impl Into<OwnedFd>) -> Self {
        let file = File::from(file.into());
        descriptors::own(file.as_raw_fd());
        Self(file)
    }

    /// The file's identity.
    ///
    /// # Errors
    /// The system's error.
    pub fn identity(&self) -> io::Result<Identity> {
        Ok(Identity::of(&rustix::fs::fstat(&self.0)?))
    }

    /// Its length in bytes.
    ///
    /// # Errors
    /// The system's error.
    pub fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(rustix::fs::fstat(&self.0)?.st_size).unwrap_or_default())
    }

    /// Take an exclusive lock; false when another process has locked the file.
    ///
    /// # Errors
    /// The system's error.
    pub fn try_lock(&self) -> io::Result<bool> {
        self.try_flock(FlockOperation::NonBlockingLockExclusive)
    }

    /// Take a shared lock; false when another process has an exclusive one.
    ///
    /// # Errors
    /// The system's error.
    pub fn try_share(&self) -> io::Result<bool> {
        self.try_flock(FlockOperation::NonBlockingLockShared)
    }

    fn try_flock(&self, operation: FlockOperation) -> io::Result<bool> {
        match flock(self.0.as_fd(), operation) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Unlock it, even if another process has a copy of the descriptor for a moment.
    pub fn unlock(&self) {
        // It never fails for an open descriptor.
        let _ = flock(self.0.as_fd(), FlockOperation::Unlock);
    }
}

impl Deref for OwnedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl AsFd for OwnedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for OwnedFile {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Drop for OwnedFile {
    fn drop(&mut self) {
        // Before the file is closed: after that, its number may belong to another file.
        descriptors::disown(self.0.as_raw_fd());
    }
}

/// The identity of the file behind a descriptor or a path. While the file is open, no other file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(u64, u64);

impl Identity {
    #[must_use]
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss, reason = "the types differ between systems")]
    pub fn of(stat: &Stat) -> Self {
        Self(stat.st_dev as u64, stat.st_ino as u64)
    }
}
