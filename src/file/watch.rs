//! Waiting for what is appended. The write itself is the notice: it cannot be early, and a writer that was killed has
//! given it to everybody.

use std::io;
use std::path::Path;
use std::time::Duration;

/// How often a log is looked at where the system has no notices to give.
const LOOK: Duration = Duration::from_millis(20);

/// Notices of changes in a directory.
pub struct Watch(Option<system::Notices>);

impl Watch {
    /// Watch a directory. Where there are no notices, the log is looked at again and again; why there are none.
    pub fn new(dir: &Path) -> (Self, Option<io::Error>) {
        match system::Notices::new(dir) {
            Ok(notices) => (Self(notices), None),
            Err(error) => (Self(None), Some(error)),
        }
    }

    /// Forget the notices so far: the log is read after that.
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

    use crate::file::held::Held;

    /// Bytes of notices that are read at once; each has 16 and a name.
    const NOTICES: usize = 4096;

    /// inotify(7), by one watch on the directory.
    pub struct Notices(AsyncFd<Held>);

    impl Notices {
        pub fn new(dir: &Path) -> io::Result<Option<Self>> {
            let inotify = Held::new(inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?);
            let wanted =
                WatchFlags::MODIFY | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
            inotify::add_watch(&inotify, dir, wanted | WatchFlags::ONLYDIR)?;
            // SAFETY: a `Held` gives the one descriptor that it owns, which is open until it is dropped, and the
            // `AsyncFd` drops it.
            Ok(Some(Self(unsafe { AsyncFd::register(inotify) }?)))
        }

        /// Read what there is; whether there was something.
        fn read(&self) -> bool {
            let mut bytes = [0; NOTICES];
            let mut is_new = false;
            // What the notices say is not asked: the log says it. A queue that ran over gives a notice, too.
            while io::Read::read(&mut &**self.0.get_ref(), &mut bytes).is_ok_and(|count| count > 0) {
                is_new = true;
            }
            is_new
        }

        pub fn forget(&mut self) {
            self.read();
        }

        pub async fn changed(&mut self) {
            loop {
                let Ok(mut ready) = self.0.readable().await else { return };
                if self.read() {
                    return;
                }
                ready.clear_ready();
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

        pub fn forget(&mut self) {}

        pub async fn changed(&mut self) {}
    }
}
