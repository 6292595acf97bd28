//! Presence: a file for each worker, which is locked while its process lives. The system unlocks it when the process
//! ends, however it ends; a process that finds it unlocked deletes it.
//!
//! A line says that a subscriber is in a topic, `+TOPIC TAB ID`, or no longer is, `-TOPIC TAB ID`; topics contain no
//! control characters. The last line counts.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::directory::open_at;
use super::owned::{Identity, OwnedFile};
use crate::broker::PresenceChange;

/// The file that a process locks while it claims a place for a subscriber. Counting reads the files of all workers,
/// which takes too long for the lock of the log.
const CLAIMS: &str = ".claims";
/// The suffix of a new file until it is locked and renamed.
const NEW: &str = ".new";
/// A file longer than this many bytes, and than this many times its first length, is written anew.
const ROOM: u64 = 64 << 10;
const TIMES: u64 = 4;
/// Longer than any process takes to write a file.
const LEFT: Duration = Duration::from_secs(60);

/// This process's file.
pub struct Mine {
    file: OwnedFile,
    identity: Identity,
    len: u64,
    /// Its length when it was written anew.
    whole: u64,
}

fn lines(changes: &[PresenceChange]) -> String {
    let mut text = String::new();
    for change in changes {
        for topic in &change.topics {
            let sign = if change.is_in { '+' } else { '-' };
            let _ = writeln!(text, "{sign}{topic}\t{}", change.subscriber);
        }
    }
    text
}

impl Mine {
    /// Write the file of `worker` anew; readers see the former one until the new one is complete.
    ///
    /// # Errors
    /// The system's error.
    pub fn write(workers: &OwnedFile, mode: u32, worker: &str, all: &[PresenceChange]) -> io::Result<Self> {
        let new = format!("{worker}{NEW}");
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR;
        let file = open_at(workers, &new, flags, mode)?;
        let text = lines(all);
        file.write_all_at(text.as_bytes(), 0)?;
        if !file.try_lock()? {
            return Err(io::Error::other(format!("{new} is locked by another process")));
        }
        rustix::fs::renameat(workers, &*new, workers, worker)?;
        let len = text.len() as u64;
        Ok(Self { identity: file.identity()?, file, len, whole: len })
    }

    /// Append changes. Returns false when the file must be written anew: it is no longer this worker's, or has grown
    /// too long.
    ///
    /// # Errors
    /// The system's error.
    pub fn update(
        &mut self,
        workers: &OwnedFile,
        worker: &str,
        changes: &[PresenceChange],
    ) -> io::Result<bool> {
        let text = lines(changes);
        self.file.write_all_at(text.as_bytes(), self.len)?;
        self.len += text.len() as u64;
        let there = rustix::fs::statat(workers, worker, AtFlags::SYMLINK_NOFOLLOW);
        let is_mine = there.is_ok_and(|stat| Identity::of(&stat) == self.identity);
        Ok(is_mine && self.len <= ROOM.max(self.whole * TIMES))
    }
}

/// The file that is locked while a place is claimed.
///
/// # Errors
/// The system's error.
pub fn lock_of_claims(workers: &OwnedFile, mode: u32) -> io::Result<OwnedFile> {
    open_at(workers, CLAIMS, OFlags::CREATE | OFlags::RDWR, mode)
}

/// Delete a worker's file.
///
/// # Errors
/// The system's error.
pub fn remove(workers: &OwnedFile, worker: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(workers, worker, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The subscribers of a topic at all workers whose processes live.
///
/// # Errors
/// The system's error.
pub fn present(workers: &OwnedFile, topic: &str) -> io::Result<Vec<String>> {
    let mut found = BTreeSet::new();
    for name in workers.names()? {
        if name.starts_with('.') {
            continue;
        }
        if name.ends_with(NEW) {
            remove_left(workers, &name);
            continue;
        }
        let Some(text) = alive(workers, &name)? else { continue };
        // A line without its line end is still being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let (sign, rest) = line.split_at_checked(1).unwrap_or_default();
            match rest.split_once('\t') {
                Some((named, id)) if named == topic && sign == "+" => drop(found.insert(id.to_owned())),
                Some((named, id)) if named == topic => drop(found.remove(id)),
                _ => {}
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Delete the leftover of a worker that ended while it wrote its file anew.
fn remove_left(workers: &OwnedFile, name: &str) {
    let found = rustix::fs::statat(workers, name, AtFlags::SYMLINK_NOFOLLOW);
    let since = found
        .ok()
        .and_then(|stat| u64::try_from(stat.st_mtime).ok())
        .map(|at| UNIX_EPOCH + Duration::from_secs(at));
    if since.is_some_and(|since| since.elapsed().is_ok_and(|age| age > LEFT)) {
        // Another process may have done it.
        let _ = remove(workers, name);
    }
}

/// The content of a worker's file; `None` when its process has ended: then the file is deleted.
fn alive(workers: &OwnedFile, name: &str) -> io::Result<Option<String>> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = match OwnedFile::open(|| rustix::fs::openat(workers, name, flags, Mode::empty())) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::ISDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Others may look at the same time: a lock that excluded them would make the worker look alive to them.
    if file.try_share()? {
        let there = rustix::fs::statat(workers, name, AtFlags::SYMLINK_NOFOLLOW);
        // Unless it was just given this name by a worker that writes its file anew.
        if there.is_ok_and(|stat| file.identity().is_ok_and(|mine| mine == Identity::of(&stat))) {
            remove(workers, name)?;
            return Ok(None);
        }
    }
    io::read_to_string(&*file).map(Some)
}
