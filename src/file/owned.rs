//! Open files that a forked child closes, and the identity of files.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{FlockOperation, Stat, flock};

use crate::descriptors::{self, NoFork, no_fork};

/// An open file. A lock on it belongs to the open file description, which a forked child shares; so the child
/// closes its copy at once, and the lock ends with this process.
#[derive(Debug)]
pub struct OwnedFile(File, Option<NoFork>);

impl OwnedFile {
    /// Open it.
    ///
    /// # Errors
    /// What `open` returns.
    pub fn open<E>(open: impl FnOnce() -> Result<OwnedFd, E>) -> Result<Self, E> {
        Ok(Self(File::from(descriptors::open_owned(open)?), None))
    }

    /// The file's identity.
    ///
    /// # Errors
    /// The system's error.
    pub fn identity(&self) -> io::Result<Identity> {
        Ok(Identity::of(&rustix::fs::fstat(&self.0)?))
    }

    /// The names in a directory, but for those that no log uses: not UTF-8.
    ///
    /// # Errors
    /// The system's error.
    pub fn names(&self) -> io::Result<Vec<String>> {
        // The system reads them by a descriptor of its own.
        let _no_fork = no_fork();
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
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
        self.1 = Some(no_fork());
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
