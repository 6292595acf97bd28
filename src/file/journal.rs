//! The log itself: its end, appending, mending and trimming. Calls block, but briefly: nothing here waits, not even
//! for the lock, which the caller takes.
//!
//! # The end of the log
//! A writer that dies leaves a partial record. It was never acknowledged, so it is cut off. Any other bytes that are
//! not a record are damage: the log goes on in a new segment, behind an id that no entry has, so that no reader takes
//! what follows for the continuation of what it has read.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::directory::Directory;
use super::format::{self, HEAD};
use super::owned::OwnedFile;
use super::place::Place;
use super::salt::Salt;
use super::segment::{CHUNK, Segment, Stop};
use super::system::{self, System};
use crate::ids::StreamId;
use crate::stream_broker::envelope::LastTopic;
use crate::stream_broker::{Kept, envelope};

/// The history is kept in about this many segments, and one segment is kept beyond it.
const SEGMENTS: usize = 8;
/// A segment that is not old has at least this many bytes.
pub const LEAST_BYTES: u64 = 16 << 10;
/// A segment has at most this many bytes.
const MOST_BYTES: u64 = 64 << 20;

/// How a log is kept.
pub struct Settings {
    /// The broker's directory.
    pub place: Place,
    /// The log's own directory.
    pub dir: PathBuf,
    /// What is kept.
    pub kept: Kept,
    /// Whether an entry is on disk before it is acknowledged.
    pub is_synced: bool,
    /// A segment that is not old has at least this many bytes; [`LEAST_BYTES`].
    pub least_bytes: u64,
    /// The clock, and the disk.
    pub system: Arc<dyn System>,
}

/// The end of the log, as far as this process has read.
#[derive(Debug, Clone)]
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u64,
    pub(super) last: StreamId,
    /// Number of records in the segment.
    count: u64,
    /// When its first record was written.
    began: Option<u64>,
}

impl Tail {
    pub(super) fn of(segment: Arc<Segment>) -> Self {
        let last = segment.head.base;
        Self { segment, offset: HEAD as u64, last, count: 0, began: None }
    }

    pub(super) fn given(&self) -> u64 {
        self.segment.head.given + self.count
    }
}

/// The open directory, and the log's end in it.
pub(super) struct Attached {
    pub(super) directory: Directory,
    pub(super) tail: Option<Tail>,
    /// Whether this process has checked that the machine did not stop before the log was on disk.
    is_checked: bool,
}

/// The log's end, as seen without its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Here.
    At(StreamId),
    /// Perhaps here: what follows is being written, or must be mended by a process that holds the lock.
    Unsettled(StreamId),
    /// There is no log yet.
    Missing,
}

/// The outcome of a batch.
#[derive(Debug, Default)]
pub struct Appended {
    /// The ids of the entries that were written: all of them, or the first ones.
    pub ids: Vec<StreamId>,
    /// Why the others were not written.
    pub refused: String,
    /// The segment that must be synced before they are acknowledged.
    pub unsynced: Option<Arc<Segment>>,
}

/// One log.
pub struct Journal {
    /// How it is kept.
    pub settings: Settings,
    pub(super) attached: Option<Attached>,
    pub(super) salt: Salt,
    /// The greatest id that this process has seen, in whatever files were here: no id up to it is assigned again.
    pub(super) seen: StreamId,
    /// The buffer for reads.
    pub(super) buffer: Vec<u8>,
    /// The topic of the last entry that was read.
    pub(super) last_topic: LastTopic,
    /// Counts the openings of the directory: positions from an earlier one are invalid.
    pub generation: u64,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
    /// Entries may be missing, and the log does not say so.
    pub is_doubtful: bool,
}

impl Journal {
    /// A log that is not open yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            attached: None,
            salt: Salt::draw(0),
            seen: StreamId::default(),
            buffer: Vec::new(),
            last_topic: LastTopic::default(),
            generation: 0,
            warnings: Vec::new(),
            is_doubtful: false,
        }
    }

    /// Close all files; the next call opens them again.
    pub fn detach(&mut self) {
        self.attached = None;
    }

    /// Whether its files are open.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attached.is_some()
    }

    /// The open directory.
    #[must_use]
    pub fn directory(&mut self) -> Option<&mut Directory> {
        self.attached.as_mut().map(|attached| &mut attached.directory)
    }

    pub(super) fn attach(&mut self) -> io::Result<&mut Attached> {
        if self.attached.is_none() {
            let settings = &self.settings;
            let directory = Directory::open(&settings.place, settings.dir.clone(), settings.system.clone())?;
            self.attached = Some(Attached { directory, tail: None, is_checked: false });
            self.generation += 1;
            self.draw_salt();
        }
        self.attached.as_mut().ok_or_else(|| io::Error::other("the log is not open"))
    }

    pub(super) fn draw_salt(&mut self) {
        self.salt = Salt::draw(self.settings.system.now());
    }

    /// The file to lock for a batch.
    ///
    /// # Errors
    /// The system's error.
    pub fn lock_file(&mut self) -> io::Result<Arc<OwnedFile>> {
        Ok(self.attach()?.directory.lock.clone())
    }

    /// Read on to the end. `is_thorough` also checks that the files are still the same.
    ///
    /// # Errors
    /// The system's error.
    pub fn look(&mut self, is_thorough: bool) -> io::Result<End> {
        let buffer = &mut std::mem::take(&mut self.buffer);
        let mut found = self.look_once(is_thorough, buffer)?;
        if found.is_none() {
            // The files were replaced, or cut by another process: start over.
            self.detach();
            found = self.look_once(true, buffer)?;
        }
        if buffer.len() > CHUNK {
            buffer.truncate(CHUNK);
            buffer.shrink_to_fit();
        }
        self.buffer = std::mem::take(buffer);
        self.seen = self.seen.max(self.last().unwrap_or_default());
        found.ok_or_else(|| io::Error::other("the log's files are being replaced"))
    }

    fn look_once(&mut self, is_thorough: bool, buffer: &mut Vec<u8>) -> io::Result<Option<End>> {
        let is_new = self.attached.is_none();
        let attached = self.attach()?;
        let directory = &mut attached.directory;
        let known = attached.tail.as_ref().map(|tail| tail.segment.clone());
        if is_thorough && !is_new && !directory.is_current(known.as_deref()) {
            return Ok(None);
        }
        let noted = directory.noted();
        if is_thorough || known.as_ref().is_none_or(|known| noted != Some(known.head.base)) {
            directory.list()?;
        }
        let Some(newest) = directory.newest().cloned() else { return Ok(Some(End::Missing)) };
        if attached.tail.as_ref().is_none_or(|tail| !Arc::ptr_eq(&tail.segment, &newest)) {
            attached.tail = Some(Tail::of(newest.clone()));
        }
        let is_broken = directory.broken().last().is_some_and(|broken| *broken > newest.head.base);
        let Some(tail) = &mut attached.tail else { return Ok(Some(End::Missing)) };
        match newest.file.len()? {
            cut if cut < tail.offset => return Ok(None),
            known if known == tail.offset && !is_broken => return Ok(Some(End::At(tail.last))),
            _ => {}
        }
        let Tail { offset, last, count, began, .. } = tail;
        let (end, stop) = newest.scan(*offset, buffer, |record| {
            // A record whose id goes back is not part of the log.
            let follows = record.header.id > *last;
            if follows {
                *last = record.header.id;
                *count += 1;
                began.get_or_insert(record.header.id.ms);
            }
            follows
        })?;
        *offset = end;
        let is_settled = stop == Stop::End && !is_broken;
        Ok(Some(if is_settled { End::At(*last) } else { End::Unsettled(*last) }))
    }

    /// Put the log's end in order. The caller has locked the file that [`Journal::lock_file`] returned. Returns false
    /// when that file is no longer the log's, and the lock must be taken again.
    ///
    /// # Errors
    /// The system's error.
    pub fn settle(&mut self) -> io::Result<bool> {
        let generation = self.generation;
        let newest = self.attached.as_ref().and_then(|it| it.tail.as_ref()).map(|tail| tail.segment.clone());
        let is_current = self.directory().is_some_and(|directory| directory.is_current(newest.as_deref()));
        if !is_current {
            self.detach();
            return Ok(false);
        }
        let is_first = self.attached.as_ref().is_some_and(|attached| !attached.is_checked);
        let end = self.look(is_first)?;
        if self.generation != generation {
            return Ok(false);
        }
        match end {
            End::At(_) => {}
            End::Missing => self.begin()?,
            End::Unsettled(_) => self.mend()?,
        }
        if is_first {
            // On a full disk, the log can still be read; the next batch tries again.
            let is_checked = self.check_boot().is_ok();
            if let Some(attached) = &mut self.attached {
                attached.directory.mend_note()?;
                attached.is_checked = is_checked;
            }
        }
        if self.has_lost_its_end() {
            // Without room for the gap nothing else is appended, either.
            self.append_gap();
        }
        Ok(true)
    }

    /// Whether entries that this process has seen are gone: the file was cut, or an older copy was put in its place.
    /// The ids do not show that to a client that had read less, nor to other processes.
    #[must_use]
    pub fn has_lost_its_end(&self) -> bool {
        self.last().is_some_and(|last| last < self.seen)
    }

    /// The last id, as far as this process has read.
    #[must_use]
    pub fn last(&self) -> Option<StreamId> {
        Some(self.attached.as_ref()?.tail.as_ref()?.last)
    }

    /// The newest segment.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Segment>> {
        Some(self.attached.as_ref()?.tail.as_ref()?.segment.clone())
    }

    /// The time by the log's clock, which never goes back.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.settings.system.now().max(self.last().unwrap_or_default().ms)
    }

    /// Append a batch of encoded fields. The log is locked and settled.
    pub fn append(&mut self, batch: &[impl AsRef<[u8]>]) -> Appended {
        let mut appended = Appended::default();
        if let Err(error) = self.append_to(batch, &mut appended) {
            appended.refused = error.to_string();
        }
        appended
    }

    fn append_to(&mut self, batch: &[impl AsRef<[u8]>], appended: &mut Appended) -> io::Result<()> {
        if self.has_lost_its_end() {
            return Err(io::Error::other("the log has lost its end, and there is no room to say so"));
        }
        self.append_whole(batch, appended)
    }

    /// Append an entry that says that entries before it may be missing. Returns whether there was room for it.
    pub(super) fn append_gap(&mut self) -> bool {
        let (fields, mut appended) =
            (format::encode(&envelope::gap()).unwrap_or_default(), Appended::default());
        self.append_whole(&[fields], &mut appended).is_ok()
    }

    fn append_whole(&mut self, batch: &[impl AsRef<[u8]>], appended: &mut Appended) -> io::Result<()> {
        let now = self.settings.system.now();
        self.rotate(now)?;
        let (mut salt, seen, is_synced) = (self.salt, self.seen, self.settings.is_synced);
        let Some(Attached { tail: Some(tail), .. }) = &mut self.attached else {
            return Err(io::Error::other("the log is not open"));
        };
        let key = tail.segment.head.key;
        let size = batch.iter().map(|fields| format::RECORD + fields.as_ref().len()).sum();
        let (mut bytes, mut last) = (Vec::with_capacity(size), tail.last);
        let mut ends = Vec::with_capacity(batch.len());
        for fields in batch {
            let id = salt.next_id(last.max(seen), now).ok_or_else(format::too_late)?;
            let offset = tail.offset + bytes.len() as u64;
            if !format::put(&mut bytes, key, offset, id, last, fields.as_ref()) {
                return Err(format::too_late());
            }
            ends.push((bytes.len(), id));
            last = id;
        }
        let (written, failed) =
            system::write_all(&*self.settings.system, &tail.segment.file, &bytes, tail.offset);
        let whole = ends.partition_point(|(end, _)| *end <= written);
        let end = whole.checked_sub(1).map_or(0, |at| ends[at].0);
        if end < written {
            // Readers ignore a partial record. If cutting it fails too, the next append repairs it.
            let _ = tail.segment.file.set_len(tail.offset + end as u64);
        }
        if let Some((_, id)) = whole.checked_sub(1).map(|at| ends[at]) {
            (tail.last, tail.offset) = (id, tail.offset + end as u64);
            tail.count += whole as u64;
            tail.began.get_or_insert(id.ms);
            appended.ids = ends[..whole].iter().map(|(_, id)| *id).collect();
            appended.unsynced = is_synced.then(|| tail.segment.clone());
            (self.seen, self.salt) = (self.seen.max(id), salt);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Begin a segment when the newest is large or old enough, and delete those that are not kept.
    fn rotate(&mut self, now: u64) -> io::Result<()> {
        let (kept, is_synced) = (self.settings.kept, self.settings.is_synced);
        let Some(Attached { directory, tail: Some(tail), .. }) = &mut self.attached else { return Ok(()) };
        if is_due(tail, kept, self.settings.least_bytes, now) {
            let segment = directory.create(tail.last, tail.given(), is_synced)?;
            *tail = Tail::of(segment);
        }
        loop {
            let mut oldest = directory.segments().values();
            let (Some(first), Some(next)) = (oldest.next(), oldest.next()) else { return Ok(()) };
            let age = Duration::from_millis(now.saturating_sub(next.head.base.ms));
            let is_over = tail.given().saturating_sub(next.head.given) >= kept.count as u64;
            if !(is_over && age >= kept.min_age || kept.age.is_some_and(|most| age > most)) {
                return Ok(());
            }
            let base = first.head.base;
            directory.remove(base);
        }
    }
}

fn is_due(tail: &Tail, kept: Kept, least_bytes: u64, now: u64) -> bool {
    let Some(began) = tail.began else { return false };
    let age = Duration::from_millis(now.saturating_sub(began));
    let parts = u32::try_from(SEGMENTS).unwrap_or(1);
    let is_large = tail.count >= (kept.count / SEGMENTS) as u64
        && tail.offset >= least_bytes
        && age >= kept.min_age / parts;
    is_large || tail.offset >= MOST_BYTES || kept.age.is_some_and(|most| age >= most / parts)
}
