//! Waiting for new entries. The write itself is the notice: it cannot come too early, and a writer that is killed after
//! it has notified every process.

use std::io;
use std::path::Path;
use std::time::Duration;

/// How often a log is polled where the system gives no notices.
const LOOK: Duration = Duration::from_millis(20);

/// Notices of changes in a directory.
pub struct Watch(Option<system::Notices>);

impl Watch {
    /// Watch a directory. Without notices, the log is polled; the error says why there are none.
    pub fn new(dir: &Path) -> (Self, Option<io::Error>) {
        match system::Notices::new(dir) {
            Ok(notices) => (Self(notices), None),
            Err(error) => (Self(None), Some(error)),
        }
    }

    /// Forget the notices so far: the log is read after this.
    pub fn forget(&mut self) {
        if let Some(notices) = &mut self.0 {
            notices.forget();
        }
    }

    /// Wait for a notice.
    pub async fn changed(&mut self) {
        match &mut self.0 {
            Some(notices) => notices.changed().await,
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::path::Path;

    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    use tokio::io::unix::AsyncFd;

    use crate::file::owned::OwnedFile;

    /// Bytes of notices per read.
    const NOTICES: usize = 4096;
    /// The most that one notice has: 16 bytes and a name.
    const NOTICE: usize = 16 + 256;

    /// inotify(7), with one watch on the directory.
    pub struct Notices(AsyncFd<OwnedFile>);

    impl Notices {
        pub fn new(dir: &Path) -> io::Result<Option<Self>> {
            let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
            let inotify = OwnedFile::open(|| inotify::init(flags))?;
            let wanted =
                WatchFlags::MODIFY | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
            inotify::add_watch(&inotify, dir, wanted | WatchFlags::ONLYDIR)?;
            // SAFETY: an `OwnedFile` gives the one descriptor that it owns, which is open until it is dropped, and the
            // `AsyncFd` drops it.
            Ok(Some(Self(unsafe { AsyncFd::register(inotify) }?)))
        }

        /// Read all waiting notices. Returns whether there were any.
        fn read(&self) -> bool {
            let mut bytes = [0; NOTICES];
            let mut is_new = false;
            // The content of the notices is ignored: the log has it. A queue that overflowed contains a notice, too.
            while let Ok(count @ 1..) = io::Read::read(&mut &**self.0.get_ref(), &mut bytes) {
                is_new = true;
                if count <= NOTICES - NOTICE {
                    // There was room for another one.
                    break;
                }
            }
            is_new
        }

        pub fn forget(&mut self) {
            self.read();
        }

        pub async fn changed(&mut self) {
            loop {
                let Ok(mut ready) = self.0.readable().await else { return };
                let is_new = self.read();
                // All of them were read: whatever comes after that makes it ready again.
                ready.clear_ready();
                if is_new {
                    return;
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::path::Path;

    /// There are none.
    pub enum Notices {}

    impl Notices {
        #[allow(clippy::unnecessary_wraps, reason = "elsewhere the system can refuse")]
        pub fn new(_: &Path) -> io::Result<Option<Self>> {
            Ok(None)
        }

        pub fn forget(&mut self) {
            match *self {}
        }

        pub fn changed(&mut self) -> std::future::Ready<()> {
            match *self {}
        }
    }
}
