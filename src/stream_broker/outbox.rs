//! Letters that wait to be appended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::broker::letter::{Fence, Letter};
use crate::error::{Error, Result};
use crate::outcome::{Failure, Outcome};

/// The most letters, and about the most bytes, appended at once.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// About how much memory a letter takes besides its bytes: its topics, its place, its outcome, the allocator's share.
const LETTER_OVERHEAD: usize = 320;

/// A letter and its outcome.
pub struct Posted {
    pub letter: Letter,
    pub fence: Option<Fence>,
    pub outcome: Arc<Outcome>,
    at: Instant,
}

impl Drop for Posted {
    fn drop(&mut self) {
        // A task that failed must not leave its waiters waiting. An outcome that is known stays as it is.
        if self.outcome.get().is_none() {
            self.outcome.complete(Err(Failure::Unknown("the connection to the broker has failed".into())));
        }
    }
}

/// About how much memory a waiting letter takes.
fn size(letter: &Letter) -> usize {
    letter.len() + LETTER_OVERHEAD
}

#[derive(Default)]
struct Queue {
    letters: VecDeque<Posted>,
    bytes: usize,
    /// Letters that were taken and have no outcome yet.
    taken: usize,
    /// Their outcomes are known, and their waiters may have yet to learn of it.
    is_giving: bool,
    is_closed: bool,
}

/// The letters that wait for the store.
#[derive(Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
    pub posted: Notify,
}

impl Outbox {
    /// Queue a letter.
    pub fn post(&self, letter: Letter, fence: Option<Fence>, limit: usize) -> Result<Arc<Outcome>> {
        let size = size(&letter);
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return Err(Error::HubClosed);
        }
        if queue.bytes > 0 && queue.bytes + size > limit {
            return Err(Error::HubFull { waiting: queue.bytes, limit });
        }
        let outcome = Arc::new(Outcome::default());
        queue.bytes += size;
        queue.letters.push_back(Posted { letter, fence, outcome: outcome.clone(), at: Instant::now() });
        drop(queue);
        self.posted.notify_one();
        Ok(outcome)
    }

    /// Close; the outcomes of waiting letters are unknown.
    pub fn abandon(&self) {
        let mut queue = self.queue.lock();
        queue.is_closed = true;
        queue.taken = 0;
        queue.is_giving = false;
        queue.bytes = 0;
        let letters = std::mem::take(&mut queue.letters);
        drop(queue);
        drop(letters);
    }

    /// How many letters have no outcome yet.
    pub fn unsent(&self) -> usize {
        let queue = self.queue.lock();
        queue.letters.len() + queue.taken
    }

    /// Whether every letter has its outcome, and whoever waits for it, or for a report of its failure, has that, too.
    pub fn is_settled(&self) -> bool {
        let queue = self.queue.lock();
        queue.letters.is_empty() && queue.taken == 0 && !queue.is_giving
    }

    /// Close, unless letters wait. Returns whether it is closed.
    pub fn close(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.is_closed = queue.letters.is_empty();
        queue.is_closed
    }

    pub fn is_empty(&self) -> bool {
        self.queue.lock().letters.is_empty()
    }

    /// Take the next letters; [`Outbox::give`] is called when they have their outcomes.
    pub fn take(&self) -> Vec<Posted> {
        let mut queue = self.queue.lock();
        let mut batch = Vec::with_capacity(queue.letters.len().min(BATCH));
        let mut bytes = 0;
        while let Some(posted) = queue.letters.front() {
            let size = size(&posted.letter);
            if batch.len() == BATCH || (bytes > 0 && bytes + size > BATCH_BYTES) {
                break;
            }
            bytes += size;
            batch.extend(queue.letters.pop_front());
        }
        queue.bytes -= bytes;
        queue.taken += batch.len();
        batch
    }

    /// Put back a batch of which nothing was appended; it will be appended elsewhere, in the same order.
    pub fn put_back(&self, batch: Vec<Posted>) {
        let mut queue = self.queue.lock();
        queue.taken -= batch.len();
        for posted in batch.into_iter().rev() {
            queue.bytes += size(&posted.letter);
            queue.letters.push_front(posted);
        }
    }

    /// Take the letters that have waited for too long.
    pub fn expired(&self, age: Duration) -> Vec<Posted> {
        let mut queue = self.queue.lock();
        let mut expired = Vec::new();
        while queue.letters.front().is_some_and(|posted| posted.at.elapsed() >= age) {
            if let Some(posted) = queue.letters.pop_front() {
                queue.bytes -= size(&posted.letter);
                queue.taken += 1;
                expired.push(posted);
            }
        }
        expired
    }

    /// `count` letters that were taken have their outcomes, which `give` passes on. Who learns of one then finds that its
    /// letter no longer counts as unsent.
    pub fn give(&self, count: usize, give: impl FnOnce()) {
        let mut queue = self.queue.lock();
        queue.taken -= count;
        queue.is_giving = true;
        drop(queue);
        give();
        self.queue.lock().is_giving = false;
    }
}
