//! A log in files as a store.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::ends_and_leases::EndsAndLeases;
use super::inner::{Inner, failed};
use super::journal::{Journal, Settings};
use super::log::FileLog;
use super::workers::{self, Mine};
use crate::broker::PresenceChange;
use crate::ids::StreamId;
use crate::stream_broker::store::{Answer, Append, AppendError, Ended, Opened, PresenceWrite, Store};
use crate::topic::Topic;

/// The longest time for which opening a log may delay the opening of a client's stream.
const OPENING: Duration = Duration::from_millis(1500);
/// The longest time for which closing waits for the lock: other workers that close hold it while they sync.
const CLOSING: Duration = Duration::from_millis(500);

/// A log in files, as the store of one hub.
pub struct FileStore(Arc<Inner>);

impl FileStore {
    /// A store whose log is opened later.
    #[must_use]
    pub fn new(settings: Settings, timeout: Duration) -> Self {
        let place = settings.dir.display().to_string();
        let mode = settings.place.mode;
        let journal = Mutex::new(Journal::new(settings));
        let inner = Inner {
            place,
            timeout,
            mode,
            journal,
            exclusive: AsyncMutex::default(),
            workers: Mutex::default(),
            ends_and_leases: Mutex::default(),
        };
        Self(Arc::new(inner))
    }
}

impl Store for FileStore {
    type Log = FileLog;

    const THREAD: &'static str = "sse-hub-file";

    const DOUBT: &'static str = "the machine stopped, or files were replaced";

    /// In between, the directory is watched, or polled where it cannot be. An idle process does nothing else.
    const HELD: Duration = Duration::from_secs(2);

    fn place(&self) -> &str {
        &self.0.place
    }

    fn log_name(&self) -> &str {
        &self.0.place
    }

    fn timeout(&self) -> Duration {
        self.0.timeout
    }

    fn connect_timeout(&self) -> Duration {
        self.0.timeout.min(OPENING)
    }

    async fn open(&self, _is_redirected: bool) -> Answer<Opened<FileLog>> {
        drop(self.0.exclusive().await?);
        let mut log = self.log();
        let mut warnings = std::mem::take(&mut self.0.journal.lock().warnings);
        if let Some(error) = log.watch()
            && !std::mem::replace(&mut self.0.workers.lock().is_warned, true)
        {
            warnings.push(format!(
                "{} cannot be watched ({error}): it is polled every 20 ms instead; raise \
                 fs.inotify.max_user_instances or the limit of open files",
                self.0.place
            ));
        }
        let is_doubtful = std::mem::take(&mut self.0.journal.lock().is_doubtful);
        Ok(Opened { log, is_doubtful, warnings })
    }

    fn log(&self) -> FileLog {
        FileLog { inner: self.0.clone(), at: None, end: None, watch: None }
    }

    async fn connect(&self) -> Answer<()> {
        if self.0.journal.lock().is_attached() {
            return Ok(());
        }
        self.0.exclusive().await.map(drop)
    }

    async fn disconnect(&self) {
        self.0.journal.lock().detach();
    }

    async fn append(&self, batch: Vec<Append<'_>>) -> Vec<Result<StreamId, AppendError>> {
        self.0.append(&batch).await
    }

    async fn lease(&self, name: &str, token: &str, ttl: Duration) -> Answer<bool> {
        let _exclusive = self.0.exclusive().await?;
        self.0.with_ends_and_leases(|notes, now| notes.lease(name, token, now, ttl)).map_err(failed)
    }

    async fn release(&self, name: &str, token: &str) -> Answer<()> {
        let _exclusive = self.0.exclusive().await?;
        self.0.with_ends_and_leases(|notes, now| notes.release(name, token, now)).map_err(failed)
    }

    async fn holder(&self, name: &str) -> Answer<Option<String>> {
        self.0.with_ends_and_leases(|notes, now| notes.holder(name, now).map(Into::into)).map_err(failed)
    }

    async fn ended(&self, topics: &[Topic]) -> Answer<Vec<(Topic, Ended)>> {
        let named = |notes: &EndsAndLeases, now, topic: &Topic| {
            notes.ended(topic.as_str(), now).map(|ended| (topic.clone(), ended))
        };
        self.0
            .with_ends_and_leases(|notes, now| {
                topics.iter().filter_map(|topic| named(notes, now, topic)).collect()
            })
            .map_err(failed)
    }

    async fn write_presence(&self, worker: &str, write: PresenceWrite<'_>) -> Answer<bool> {
        self.0.with_workers(|dir, workers| match write {
            PresenceWrite::Replace(all) => {
                workers.mine = Some(Mine::write(dir, self.0.mode, worker, all)?);
                Ok(true)
            }
            PresenceWrite::Update(changes) => {
                workers.mine.as_mut().map_or(Ok(false), |mine| mine.update(dir, worker, changes))
            }
        })
    }

    async fn remove_presence(&self, worker: &str) -> Answer<()> {
        self.0.with_workers(|dir, workers| {
            workers.mine = None;
            workers::remove(dir, worker)
        })
    }

    async fn present(&self, topic: &str) -> Answer<Vec<String>> {
        self.0.with_workers(|dir, _| workers::present(dir, topic))
    }

    async fn claim(&self, worker: &str, topic: &str, subscriber: &str, limit: usize) -> Answer<Option<bool>> {
        let _claiming = self.0.claiming().await?;
        self.0.with_workers(|dir, workers| {
            let Some(mine) = workers.mine.as_mut() else { return Ok(None) };
            if workers::present(dir, topic)?.len() >= limit {
                return Ok(Some(false));
            }
            let topics = vec![topic.into()];
            let change = PresenceChange { subscriber: subscriber.into(), topics, is_in: true };
            Ok(mine.update(dir, worker, &[change])?.then_some(true))
        })
    }

    async fn close(&self) {
        // Without the note, a machine that stops now looks as if it had lost entries, but nothing worse happens.
        let _ = self.0.note_closed(CLOSING).await;
        self.0.journal.lock().detach();
    }
}
