//! The directory of one log: its segments, and the file that is locked for a batch.
//!
//! The lock file also notes the newest segment, so that a process need not list the directory to know that there is no
//! newer one. The note is written before the segment appears: a note of a segment that does not exist makes a reader
//! list the directory, while an outdated note would make a writer append to the wrong file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::format::{self, Head, HeadError};
use super::owned::{Identity, OwnedFile};
use super::place::Place;
use super::segment::{self, Segment};
use super::system::{self, System};
use crate::ids::StreamId;

const LOCK: &str = "lock";
/// The name of a new file until it is renamed.
const NEW: &str = "new.tmp";

/// The directory of a log, open.
pub struct Directory {
    path: PathBuf,
    mode: u32,
    system: Arc<dyn System>,
    identity: Identity,
    pub dir: Arc<OwnedFile>,
    pub lock: Arc<OwnedFile>,
    lock_identity: Identity,
    segments: BTreeMap<StreamId, Arc<Segment>>,
    /// Segments whose heads cannot be read, by the ids in their names.
    broken: BTreeSet<StreamId>,
}

fn open_flags() -> OFlags {
    OFlags::CLOEXEC | OFlags::NOFOLLOW
}

impl Directory {
    /// Open the directory, which is created if it does not exist.
    ///
    /// # Errors
    /// The system's error; the reason why logs may not be stored there; or that another version of sse-hub wrote the
    /// log, to which nothing was then written.
    pub fn open(place: &Place, path: PathBuf, system: Arc<dyn System>) -> io::Result<Self> {
        place.create(&path)?;
        let flags = open_flags() | OFlags::DIRECTORY | OFlags::RDONLY;
        let dir = OwnedFile::open(|| rustix::fs::open(&path, flags, Mode::empty()))?;
        let identity = dir.identity()?;
        let (segments, broken) = list(&dir, &BTreeMap::new())?;
        let lock = open_at(&dir, LOCK, OFlags::CREATE | OFlags::RDWR, place.mode)?;
        let lock_identity = lock.identity()?;
        let (dir, lock) = (Arc::new(dir), Arc::new(lock));
        Ok(Self { path, mode: place.mode, system, identity, dir, lock, lock_identity, segments, broken })
    }

    /// Whether the path still leads to this directory, with this lock and this segment.
    #[must_use]
    pub fn is_current(&self, newest: Option<&Segment>) -> bool {
        let is_there = rustix::fs::stat(&self.path).is_ok_and(|stat| Identity::of(&stat) == self.identity);
        is_there
            && self.identity_of(LOCK) == Some(self.lock_identity)
            && newest.is_none_or(|it| Some(it.identity) == self.identity_of(&segment::name(it.head.base)))
    }

    /// The identity of the file with this name.
    #[must_use]
    pub fn identity_of(&self, name: &str) -> Option<Identity> {
        let found = rustix::fs::statat(&*self.dir, name, AtFlags::SYMLINK_NOFOLLOW);
        found.ok().map(|stat| Identity::of(&stat))
    }

    /// The newest segment according to the note in the lock file; `None` when there is no note.
    #[must_use]
    pub fn noted(&self) -> Option<StreamId> {
        let mut bytes = [0; 8];
        self.lock.read_exact_at(&mut bytes, 0).ok()?;
        format::unpack(i64::from_le_bytes(bytes))
    }

    /// Note the newest segment. The log is locked.
    fn note(&self, base: StreamId) -> io::Result<()> {
        let number = format::pack(base).ok_or_else(format::too_late)?;
        self.write(&self.lock, &number.to_le_bytes())
    }

    /// Correct the note if it does not name the newest segment. The log is locked.
    ///
    /// # Errors
    /// The system's error.
    pub fn mend_note(&self) -> io::Result<()> {
        match self.newest().map(|newest| newest.head.base) {
            Some(newest) if self.noted() != Some(newest) => self.note(newest),
            _ => Ok(()),
        }
    }

    /// Find segments that were added, removed or replaced.
    ///
    /// # Errors
    /// As [`Directory::open`].
    pub fn list(&mut self) -> io::Result<()> {
        (self.segments, self.broken) = list(&self.dir, &self.segments)?;
        Ok(())
    }

    #[must_use]
    pub fn segments(&self) -> &BTreeMap<StreamId, Arc<Segment>> {
        &self.segments
    }

    /// The ids in the names of segments whose heads cannot be read.
    #[must_use]
    pub fn broken(&self) -> &BTreeSet<StreamId> {
        &self.broken
    }

    #[must_use]
    pub fn newest(&self) -> Option<&Arc<Segment>> {
        self.segments.values().next_back()
    }

    /// The first segment after `base`.
    #[must_use]
    pub fn next(&self, base: StreamId) -> Option<&Arc<Segment>> {
        self.segments.range(base..).find(|(other, _)| **other > base).map(|(_, segment)| segment)
    }

    /// The segment in which to start reading for the entries after `id`.
    #[must_use]
    pub fn holding(&self, id: StreamId) -> Option<&Arc<Segment>> {
        let before = self.segments.range(..=id).next_back();
        before.or_else(|| self.segments.first_key_value()).map(|(_, segment)| segment)
    }

    /// Add a segment, which becomes the newest. The log is locked.
    ///
    /// # Errors
    /// The system's error; the log is unchanged.
    pub fn create(&mut self, base: StreamId, given: u64, is_synced: bool) -> io::Result<Arc<Segment>> {
        let head = Head { base, given, key: random() };
        let bytes = head.write().ok_or_else(format::too_late)?;
        let name = segment::name(base);
        if self.identity_of(&name).is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} is there already")));
        }
        let file = self.write_new(&bytes)?;
        if is_synced {
            file.sync_all()?;
        }
        self.note(base)?;
        self.rename_new(&name)?;
        if is_synced {
            self.dir.sync_all()?;
        }
        let segment =
            Segment::open(file)?.map_err(|_| io::Error::other("the head of a new segment is damaged"))?;
        self.segments.insert(base, segment.clone());
        Ok(segment)
    }

    /// Delete a segment. The log is locked.
    pub fn remove(&mut self, base: StreamId) {
        self.segments.remove(&base);
        self.unlink(base);
        let gone: Vec<_> = self.broken.iter().copied().filter(|broken| *broken <= base).collect();
        for broken in gone {
            self.broken.remove(&broken);
            self.unlink(broken);
        }
    }

    fn unlink(&self, base: StreamId) {
        // A file that cannot be deleted is listed again, and deleted then.
        let _ = rustix::fs::unlinkat(&*self.dir, segment::name(base), AtFlags::empty());
    }

    /// Open a small file to read it; `None` when it does not exist.
    ///
    /// # Errors
    /// The system's error.
    pub fn open_file(&self, name: &str) -> io::Result<Option<OwnedFile>> {
        match open_at(&self.dir, name, OFlags::RDONLY, 0) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replace a small file: readers see either the old content or the new one. The log is locked.
    ///
    /// # Errors
    /// The system's error.
    pub fn replace_file(&self, name: &str, content: &str, is_synced: bool) -> io::Result<OwnedFile> {
        let file = self.write_new(content.as_bytes())?;
        if is_synced {
            file.sync_all()?;
        }
        self.rename_new(name)?;
        if is_synced {
            self.dir.sync_all()?;
        }
        Ok(file)
    }

    fn write_new(&self, bytes: &[u8]) -> io::Result<OwnedFile> {
        let file = open_at(&self.dir, NEW, OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR, self.mode)?;
        self.write(&file, bytes)?;
        Ok(file)
    }

    fn write(&self, file: &OwnedFile, bytes: &[u8]) -> io::Result<()> {
        system::write_all(&*self.system, file, bytes, 0).1.map_or(Ok(()), Err)
    }

    fn rename_new(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&*self.dir, NEW, &*self.dir, name)?)
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without random bytes the checksums still find damage.
    let _ = getrandom::fill(&mut bytes);
    u32::from_le_bytes(bytes)
}

/// Open a file in a directory. A file that is created gets this mode, whatever the umask.
pub fn open_at(dir: &OwnedFile, name: &str, flags: OFlags, mode: u32) -> io::Result<OwnedFile> {
    let all = open_flags() | flags;
    let existing = OwnedFile::open(|| rustix::fs::openat(dir, name, all - OFlags::CREATE, Mode::empty()));
    match existing {
        Err(rustix::io::Errno::NOENT) if flags.contains(OFlags::CREATE) => {
            #[allow(clippy::cast_possible_truncation, reason = "at most 0o777; macOS has 16 bits for it")]
            let mode = Mode::from_raw_mode(mode as _);
            let file = OwnedFile::open(|| rustix::fs::openat(dir, name, all, mode))?;
            // Another process that created it at the same time has set the mode.
            let _ = rustix::fs::fchmod(&file, mode);
            Ok(file)
        }
        existing => Ok(existing?),
    }
}

type Listed = (BTreeMap<StreamId, Arc<Segment>>, BTreeSet<StreamId>);

/// The segments of a directory; those that are `known` and unchanged are not opened again.
fn list(dir: &OwnedFile, known: &BTreeMap<StreamId, Arc<Segment>>) -> io::Result<Listed> {
    let (mut segments, mut broken) = (BTreeMap::new(), BTreeSet::new());
    for name in dir.names()? {
        let Some(base) = segment::base_of(&name) else { continue };
        if let Some(segment) = known.get(&base)
            && rustix::fs::statat(dir, &*name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| Identity::of(&stat) == segment.identity)
        {
            segments.insert(base, segment.clone());
            continue;
        }
        let file = match open_at(dir, &name, OFlags::RDWR, 0) {
            Ok(file) => file,
            // It has been trimmed since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match Segment::open(file)? {
            Ok(segment) if segment.head.base == base => drop(segments.insert(base, segment)),
            Ok(_) | Err(HeadError::Damaged) => drop(broken.insert(base)),
            Err(HeadError::Version(version)) => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!(
                        "another version of sse-hub wrote {name} (format {version}, and this one has format {}): \
                         run the same version in all workers, or choose another path; nothing was changed",
                        format::VERSION
                    ),
                ));
            }
        }
    }
    Ok((segments, broken))
}
