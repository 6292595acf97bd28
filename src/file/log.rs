//! A reader of the log, as a store has it: it reads on where it was, and waits for new entries by a watch.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::inner::{Inner, failed};
use super::reading::Cursor;
use super::watch::Watch;
use crate::broker::letter::Arrived;
use crate::ids::StreamId;
use crate::stream_broker::store::{Answer, Log};

/// A reader of the log.
pub struct FileLog {
    pub(super) inner: Arc<Inner>,
    pub(super) at: Option<Cursor>,
    /// The id behind which nothing followed when the log was last read, after the notices so far were forgotten.
    pub(super) end: Option<StreamId>,
    /// A follower's watch, and the generation of the directory to which it belongs.
    pub(super) watch: Option<(Watch, u64)>,
}

impl FileLog {
    /// Watch the directory. Returns the error if it cannot be watched.
    pub(super) fn watch(&mut self) -> Option<io::Error> {
        let (generation, dir) = {
            let journal = self.inner.journal.lock();
            (journal.generation, journal.settings.dir.clone())
        };
        let (watch, error) = Watch::new(&dir);
        self.watch = Some((watch, generation));
        error
    }
}

impl Log for FileLog {
    async fn last(&mut self) -> Answer<Option<StreamId>> {
        self.inner.end().await.map(Some)
    }

    async fn begin(&mut self) -> Answer<StreamId> {
        self.inner.end().await
    }

    async fn after(&mut self, id: StreamId, count: usize) -> Answer<Vec<Arrived>> {
        Ok(self.inner.after(&mut self.at, id, count).await?.entries)
    }

    async fn wait_after(&mut self, id: StreamId, count: usize, wait: Duration) -> Answer<Vec<Arrived>> {
        let until = tokio::time::Instant::now() + wait;
        let (mut is_over, mut is_noticed) = (false, false);
        loop {
            let generation = self.inner.journal.lock().generation;
            if self.watch.as_ref().is_none_or(|(_, of)| *of != generation) {
                self.watch();
                (self.end, is_noticed) = (None, false);
            }
            if is_over || self.end.take() != Some(id) {
                if !is_noticed {
                    // Files answer at once: a reader of a long log would keep every other task from running.
                    tokio::task::yield_now().await;
                    if let Some((watch, _)) = &mut self.watch {
                        watch.forget();
                    }
                }
                let page = self.inner.after(&mut self.at, id, count).await?;
                if page.is_end && self.watch.is_some() {
                    self.end = Some(page.entries.last().map_or(id, |last| last.id));
                }
                if is_over || !page.entries.is_empty() || self.watch.is_none() {
                    return Ok(page.entries);
                }
            }
            let Some((watch, _)) = &mut self.watch else { continue };
            // The log is read once more at the end: no notice is needed to find what is there.
            is_over = tokio::time::timeout_at(until, watch.changed()).await.is_err();
            is_noticed = !is_over;
            self.end = None;
        }
    }

    async fn backwards(&mut self, end: StreamId, is_included: bool, count: usize) -> Answer<Vec<Arrived>> {
        tokio::task::coop::consume_budget().await;
        self.inner.journal.lock().read_backwards(end, is_included, count).map_err(failed)
    }

    async fn now(&mut self) -> Answer<u64> {
        Ok(self.inner.journal.lock().now())
    }

    async fn is_doubtful(&mut self) -> Answer<bool> {
        Ok(false)
    }
}
