//! The state that the parts of a store share: the log and its lock. Everything here runs on the broker's thread, and
//! pauses while it waits for another process; only what waits for the disk runs elsewhere.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::OFlags;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};
use tokio::task::coop::consume_budget;

use super::directory::open_at;
use super::ends_and_leases::EndsAndLeases;
use super::journal::{End, Journal};
use super::owned::OwnedFile;
use super::place::WORKERS;
use super::reading::{Cursor, Page};
use super::segment::Segment;
use super::workers::{self, Mine};
use crate::ids::StreamId;
use crate::stream_broker::store::{Answer, StoreError};

/// How often a lock that another process holds is tried without a pause; then pauses follow, which the runtime rounds
/// up to a millisecond. A batch takes a few microseconds.
const AT_ONCE: u32 = 8;
const PAUSE: Duration = Duration::from_micros(500);
/// How long a process that finds the log without its end waits for the lock.
const ANNOUNCING: Duration = Duration::from_millis(250);
/// How often a process that closes a log syncs it: another one may go on writing.
const CLOSINGS: usize = 3;

/// The state that the parts of a store share.
pub struct Inner {
    pub place: String,
    pub timeout: Duration,
    pub mode: u32,
    pub journal: Mutex<Journal>,
    /// The lock file excludes other processes; this orders the tasks of one process.
    pub exclusive: AsyncMutex<()>,
    pub workers: Mutex<Workers>,
    /// The topics that have ended and the leases, as last read.
    pub ends_and_leases: Mutex<EndsAndLeases>,
}

#[derive(Default)]
pub struct Workers {
    pub mine: Option<Mine>,
    /// Whether the operator has been warned that the directory cannot be watched.
    pub is_warned: bool,
}

/// The log is locked and settled, until this is dropped.
pub struct Exclusive<'a> {
    _locked: Locked,
    _order: MutexGuard<'a, ()>,
}

/// A locked lock file.
pub struct Locked(Arc<OwnedFile>);

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

/// A system error, which may go away.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub fn failed(error: io::Error) -> StoreError {
    StoreError::connection(error.to_string())
}

impl Inner {
    /// Lock the log, and put its end in order. Other processes hold the lock for microseconds, but one that is
    /// suspended while it holds the lock keeps it.
    pub async fn exclusive(&self) -> Answer<Exclusive<'_>> {
        self.locked(self.timeout).await?.ok_or_else(|| {
            StoreError::connection(format!(
                "another process has had the log locked for {:?}: a process of the hub is stopped, or hangs",
                self.timeout
            ))
        })
    }

    /// The same, waiting at most `patience`; `None` when another process holds the lock.
    pub async fn locked(&self, patience: Duration) -> Answer<Option<Exclusive<'_>>> {
        let since = Instant::now();
        let Ok(order) = tokio::time::timeout(patience.max(PAUSE), self.exclusive.lock()).await else {
            return Ok(None);
        };
        let mut tries = 0;
        loop {
            let lock = self.journal.lock().lock_file().map_err(failed)?;
            if lock.try_lock().map_err(failed)? {
                let locked = Locked(lock);
                if self.journal.lock().settle().map_err(failed)? {
                    return Ok(Some(Exclusive { _locked: locked, _order: order }));
                }
                // Another directory has taken its place, with another lock.
            }
            if since.elapsed() >= patience {
                return Ok(None);
            }
            tries += 1;
            if tries < AT_ONCE {
                std::thread::yield_now();
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// The log's last id; a log that does not exist is created.
    pub async fn end(&self) -> Answer<StreamId> {
        consume_budget().await;
        let (end, has_lost_its_end) = {
            let mut journal = self.journal.lock();
            (journal.look(true).map_err(failed)?, journal.has_lost_its_end())
        };
        match end {
            End::At(last) if !has_lost_its_end => return Ok(last),
            _ => {}
        }
        let settled = match end {
            End::Missing => Some(self.exclusive().await?),
            // One process says it for all, before any of them goes on from here.
            End::At(_) => self.locked(self.timeout.min(ANNOUNCING)).await?,
            // The process that holds the lock is about to finish its write, or to mend the end.
            End::Unsettled(_) => self.locked(Duration::ZERO).await?,
        };
        drop(settled);
        self.journal.lock().last().ok_or_else(|| StoreError::connection("the log does not exist"))
    }

    /// Read entries after `id`. What only a holder of the lock can tell from damage is judged under the lock, if it is
    /// free.
    pub async fn after(&self, at: &mut Option<Cursor>, id: StreamId, count: usize) -> Answer<Page> {
        consume_budget().await;
        let read = |at: &mut Option<Cursor>, is_locked| {
            self.journal.lock().read_after(at, id, count, is_locked).map_err(failed)
        };
        let page = read(at, false)?;
        if !page.is_unsettled || !page.entries.is_empty() {
            return Ok(page);
        }
        let Some(_settled) = self.locked(Duration::ZERO).await? else { return Ok(page) };
        read(at, true)
    }

    /// Sync appended entries to disk.
    pub async fn sync(&self, segment: Arc<Segment>) -> Result<(), String> {
        let system = self.journal.lock().settings.system.clone();
        let written = tokio::task::spawn_blocking(move || system.sync(&segment.file));
        let why = match tokio::time::timeout(self.timeout, written).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not within {:?}", self.timeout),
        };
        Err(format!("{} did not have it on disk: {why}", self.place))
    }

    /// Sync the log to disk, and note up to where it is there. Entries that another process appends meanwhile are
    /// synced, too, a few times: the last process that closes a log notes all of it.
    pub async fn note_closed(&self, patience: Duration) -> Answer<()> {
        let mut synced = None;
        for _ in 0..CLOSINGS {
            let (newest, last) = {
                let journal = self.journal.lock();
                (journal.newest(), journal.last())
            };
            let (Some(newest), Some(last)) = (newest, last) else { return Ok(()) };
            if synced.replace(last) != Some(last) {
                self.sync(newest).await.map_err(StoreError::connection)?;
            }
            let Some(_exclusive) = self.locked(patience).await? else { return Ok(()) };
            if self.journal.lock().note_closed(last).map_err(failed)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Act on the ended topics and the leases at the time of the log's clock, and write the changes. The log is locked,
    /// unless `act` changes nothing.
    pub fn with_ends_and_leases<T>(&self, act: impl FnOnce(&mut EndsAndLeases, u64) -> T) -> io::Result<T> {
        let mut journal = self.journal.lock();
        journal.lock_file()?;
        let (now, is_synced) = (journal.now(), journal.settings.is_synced);
        let Some(directory) = journal.directory() else {
            return Err(io::Error::other("the log is not open"));
        };
        let mut notes = self.ends_and_leases.lock();
        notes.read(directory)?;
        let done = act(&mut notes, now);
        if let Err(error) = notes.write(directory, now, is_synced) {
            *notes = EndsAndLeases::default();
            return Err(error);
        }
        Ok(done)
    }

    /// Lock the presence table against claims of other processes, until this is dropped.
    pub async fn claiming(&self) -> Answer<Locked> {
        let since = Instant::now();
        let lock = Arc::new(self.with_workers(|dir, _| workers::lock_of_claims(dir, self.mode))?);
        while !lock.try_lock().map_err(failed)? {
            if since.elapsed() >= self.timeout {
                let text = "another process has had the file .claims locked for";
                return Err(StoreError::connection(format!("{text} {:?}", self.timeout)));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(Locked(lock))
    }

    /// Act on the presence table in the directory of the log.
    pub fn with_workers<T>(&self, act: impl FnOnce(&OwnedFile, &mut Workers) -> io::Result<T>) -> Answer<T> {
        let dir = {
            let mut journal = self.journal.lock();
            journal.lock_file().map_err(failed)?;
            journal.directory().map(|directory| directory.dir.clone())
        };
        let dir = dir.ok_or_else(|| StoreError::connection("the log is not open"))?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let opened = open_at(&dir, WORKERS, flags, 0).map_err(failed)?;
        act(&opened, &mut self.workers.lock()).map_err(failed)
    }
}
