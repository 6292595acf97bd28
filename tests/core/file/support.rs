//! A directory for a test, logs in it, and a reader that checks everything.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sse_hub::broker::letter::{Arrived, Letter, To};
use sse_hub::file::format;
use sse_hub::file::journal::{Appended, Journal, Settings};
use sse_hub::file::place::Place;
use sse_hub::file::system::{Machine, System};
use sse_hub::frame::FrameBuilder;
use sse_hub::ids::StreamId;
use sse_hub::stream_broker::{Kept, envelope};

/// A directory that is deleted with the test.
pub struct Scratch(pub PathBuf);

static SCRATCHES: AtomicU64 = AtomicU64::new(0);

impl Scratch {
    pub fn new() -> Self {
        let number = SCRATCHES.fetch_add(1, Ordering::Relaxed);
        // In memory where that can be: a damaged log is synced thousands of times here.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        let path = parent.join(format!("sse-hub-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn root(&self) -> PathBuf {
        self.0.join("events")
    }

    pub fn log(&self) -> PathBuf {
        self.root().join("default")
    }

    /// The segments, in their order.
    pub fn segments(&self) -> Vec<PathBuf> {
        segments(&self.log())
    }

    /// A copy of the log's directory, under another name.
    pub fn copy(&self) -> Scratch {
        let copy = Scratch::new();
        copy_dir(&self.root(), &copy.root());
        copy
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "log"))
        .collect();
    found.sort();
    found
}

pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Where a segment has the version of its format.
pub const VERSION: std::ops::Range<u64> = 8..12;

/// Turn one bit of a byte of a file.
pub fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (at % 8))], at).unwrap();
}

/// The machine, with a clock that the test moves and a disk with so much room, which may fail to sync.
#[derive(Clone)]
pub struct Broken {
    pub now: Arc<AtomicU64>,
    pub room: Arc<AtomicI64>,
    /// The lengths of files when they were synced.
    pub synced: Arc<Mutex<Vec<u64>>>,
    pub is_failing: Arc<AtomicBool>,
}

impl Default for Broken {
    fn default() -> Self {
        let now = Arc::new(AtomicU64::new(1_764_000_000_000));
        let room = Arc::new(AtomicI64::new(i64::MAX));
        Self { now, room, synced: Arc::default(), is_failing: Arc::default() }
    }
}

impl System for Broken {
    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let room = self.room.load(Ordering::Relaxed);
        let fits = bytes.len().min(usize::try_from(room).unwrap_or(0));
        if fits == 0 {
            return Err(io::Error::from_raw_os_error(28)); // ENOSPC
        }
        self.room.fetch_sub(i64::try_from(fits).unwrap(), Ordering::Relaxed);
        file.write_at(&bytes[..fits], offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        if self.is_failing.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(5)); // EIO
        }
        self.synced.lock().unwrap().push(file.metadata()?.len());
        Ok(())
    }
}

pub fn kept(count: usize) -> Kept {
    Kept { count, age: None, min_age: Duration::ZERO, bytes: 1 << 20 }
}

/// A log of a directory, with segments of a few hundred bytes.
pub fn journal_with(root: &Path, kept: Kept, system: impl System + 'static) -> Journal {
    Journal::new(settings(root, kept, system))
}

pub fn settings(root: &Path, kept: Kept, system: impl System + 'static) -> Settings {
    let place = Place::new(root, 0o600, Path::new("/")).unwrap();
    let dir = place.of_hub("default").unwrap();
    Settings { place, dir, kept, is_synced: false, least_bytes: 200, system: Arc::new(system) }
}

pub fn journal(root: &Path) -> Journal {
    journal_with(root, kept(1000), Machine)
}

/// Act while the log is locked and settled.
pub fn locked<T>(journal: &mut Journal, act: impl FnOnce(&mut Journal) -> T) -> io::Result<T> {
    loop {
        let lock = journal.lock_file()?;
        assert!(lock.try_lock()?, "nobody else has it");
        let settled = journal.settle();
        if matches!(settled, Ok(true)) {
            let done = act(journal);
            lock.unlock();
            return Ok(done);
        }
        lock.unlock();
        settled?;
    }
}

pub fn letter(text: &str) -> Letter {
    let mut builder = FrameBuilder::new(None, None);
    builder.text(text);
    Letter::Event { to: To::All, draft: builder.finish(None) }
}

pub fn body(text: &str) -> Vec<u8> {
    format::encode(&envelope::fields(&letter(text))).unwrap()
}

pub fn try_append(journal: &mut Journal, texts: &[&str]) -> io::Result<Appended> {
    let bodies: Vec<_> = texts.iter().map(|text| body(text)).collect();
    locked(journal, |journal| journal.append(&bodies))
}

pub fn append(journal: &mut Journal, texts: &[&str]) -> Appended {
    try_append(journal, texts).unwrap()
}

pub fn append_one(journal: &mut Journal, text: &str) -> StreamId {
    let appended = append(journal, &[text]);
    assert_eq!(appended.refused, "");
    appended.ids[0]
}

/// The text of an entry; `None` when it cannot be read.
pub fn text(entry: &Arrived) -> Option<String> {
    let Ok(Letter::Event { draft, .. }) = &entry.letter else { return None };
    let data = String::from_utf8(draft.parts().1.to_vec()).unwrap();
    Some(data.trim_start_matches("data: ").trim_end().into())
}

/// All entries after `id`, as a reader gets them who may lock.
pub fn all_after(journal: &mut Journal, id: StreamId) -> Vec<Arrived> {
    let (mut at, mut id, mut all) = (None, id, Vec::new());
    loop {
        let page = journal.read_after(&mut at, id, 7, false).unwrap();
        let page = if page.entries.is_empty() && page.is_unsettled {
            locked(journal, |journal| journal.read_after(&mut at, id, 7, true).unwrap()).unwrap()
        } else {
            page
        };
        let Some(last) = page.entries.last() else { return all };
        id = last.id;
        all.extend(page.entries);
    }
}

/// What was acknowledged, by its ids.
pub type Written = BTreeMap<StreamId, String>;

/// Check that a log, whatever was done to it, gives nothing that was not written, and that every client that stood at
/// an id that was written gets what followed, or a reset. Returns how many clients were reset.
pub fn check(journal: &mut Journal, written: &Written) -> usize {
    let last = locked(journal, |journal| journal.last().unwrap()).unwrap();
    for entry in all_after(journal, StreamId::default()) {
        if let Some(found) = text(&entry) {
            assert_eq!(written.get(&entry.id), Some(&found), "{} was not written", entry.id);
        }
    }
    let ids: Vec<_> = written.keys().copied().collect();
    let mut told = 0;
    for (at, id) in ids.iter().enumerate() {
        let mut expected = ids[at + 1..].iter();
        let mut cursor = *id;
        let mut is_told = false;
        for entry in all_after(journal, *id) {
            assert!(entry.id > cursor, "ids go up");
            if entry.before != Some(cursor) || entry.letter.is_err() {
                is_told = true;
                break;
            }
            assert_eq!(expected.next(), Some(&entry.id), "a silent gap behind {cursor}");
            cursor = entry.id;
        }
        is_told |= cursor != last;
        told += usize::from(is_told);
        assert!(
            is_told || expected.next().is_none(),
            "{id} is told of nothing, and what followed is missing"
        );
    }
    told
}
