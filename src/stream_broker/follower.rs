//! Following the log: one connection reads it, and proves at every entry that none is missing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::changes::Changes;
use super::shared::Shared;
use super::store::{Answer, Log, Opened, Store, StoreError, Trouble};
use crate::broker::letter::{Arrived, Letter, Unread};
use crate::ending::EndState;
use crate::hub::Hub;
use crate::ids::StreamId;

/// The most entries, and about the most bytes, that one read requests.
const PAGE: usize = 512;
const PAGE_BYTES: usize = 2 << 20;
/// How long the first reads on a connection wait. They show that the log can be followed. Not zero: a wait of zero
/// would last forever.
const BRIEFLY: Duration = Duration::from_millis(1);
/// The shortest time between two reports of gaps.
const QUIET: Duration = Duration::from_secs(10);

/// Follow the log until the task is dropped.
pub async fn run<S: Store>(shared: Arc<Shared<S>>) {
    let mut follower = Follower::new(shared.clone());
    loop {
        let error = match shared.store.open(follower.is_redirected).await {
            Err(error) => error,
            Ok(Opened { mut log, is_doubtful, warnings }) => {
                for warning in warnings {
                    shared.warn(&warning);
                }
                follower.is_doubtful |= is_doubtful;
                let error = follower.follow(&mut log).await;
                shared.store.disconnect().await;
                error
            }
        };
        follower.end_connection(&error);
        follower.backoff.pause().await;
    }
}

/// Follows the log, over any number of connections.
pub struct Follower<S> {
    pub shared: Arc<Shared<S>>,
    /// The end of the log when this process first saw it: entries before it are history.
    pub joined: Option<StreamId>,
    /// The id before the oldest entry when this process first saw the log, if that is known.
    pub found: Option<StreamId>,
    /// The last id that was delivered; `None` before the first connection.
    pub cursor: Option<StreamId>,
    /// When a gap was last reported.
    reported: Option<Instant>,
    /// The most entries to request at once: fewer after a read that ended the connection, because a reply that is too
    /// large for the server does that.
    most: usize,
    backoff: Backoff,
    /// When the connection was lost, as reported to the operator.
    lost: Option<Instant>,
    /// The server that was followed has redirected this process to another one.
    is_redirected: bool,
    /// Entries that this process has not read may be missing, and the log does not announce it.
    is_doubtful: bool,
}

impl<S: Store> Follower<S> {
    fn new(shared: Arc<Shared<S>>) -> Self {
        Self {
            shared,
            joined: None,
            found: None,
            cursor: None,
            reported: None,
            most: PAGE,
            backoff: Backoff::new(),
            lost: None,
            is_redirected: false,
            is_doubtful: false,
        }
    }

    /// Follow on this connection until it fails. Returns the reason.
    async fn follow(&mut self, log: &mut S::Log) -> StoreError {
        if let Err(error) = self.start(log).await {
            return error;
        }
        self.set_connected();
        let (mut wait, mut compared) = (BRIEFLY, Instant::now());
        loop {
            if !self.shared.has_hub() {
                // What this process published is still sent, but there is no hub to deliver to.
                tokio::time::sleep(S::HELD).await;
                continue;
            }
            let is_idle = match self.next(log, std::mem::replace(&mut wait, S::HELD)).await {
                Ok(is_idle) => is_idle,
                Err(error) => return error,
            };
            self.set_followed();
            if is_idle || compared.elapsed() >= S::HELD {
                compared = Instant::now();
                if let Err(error) = self.compare(log, is_idle).await {
                    return error;
                }
            }
        }
    }

    /// Find the position, and check that the log can be followed at all: if the user may only look at it, or reads that
    /// wait are refused, this process would otherwise connect and disconnect by turns.
    async fn start(&mut self, log: &mut S::Log) -> Answer<()> {
        self.check_position(log, true).await?;
        if std::mem::take(&mut self.is_doubtful)
            && let (Some(hub), Some(cursor)) = (self.shared.hub.upgrade(), self.cursor)
        {
            self.report("another server has taken over and may have lost entries");
            hub.break_log(cursor);
        }
        let end = self.cursor.unwrap_or_default();
        log.wait_after(end, 1, BRIEFLY).await.map(drop)
    }

    /// Compare the log with this process's position.
    async fn compare(&mut self, log: &mut S::Log, is_idle: bool) -> Answer<()> {
        if log.is_doubtful().await? {
            return Err(StoreError::connection("another server has taken over its data"));
        }
        self.check_position(log, is_idle).await
    }

    /// The connection is made. The start of waiting clients is resolved now, before anything is delivered.
    fn set_connected(&mut self) {
        self.shared.connected.store(true, Ordering::Release);
        self.shared.connection_changed.notify_waiters();
        self.is_redirected = false;
    }

    /// A read has worked.
    fn set_followed(&mut self) {
        self.backoff = Backoff::new();
        if let Some(since) = self.lost.take() {
            let place = self.shared.store.place();
            let seconds = since.elapsed().as_secs_f64();
            self.shared.warn(&format!("connected to {place} again, after {seconds:.1} seconds"));
        }
    }

    /// The connection failed, or could not be made.
    fn end_connection(&mut self, error: &StoreError) {
        let was_connected = self.shared.connected.swap(false, Ordering::AcqRel);
        self.shared.note_presence(Changes::outdate);
        self.shared.why.lock().clone_from(&error.text);
        if error.trouble == Trouble::Elsewhere && self.lost.is_none() {
            // Nothing was lost: another node of the cluster has the log.
            self.is_redirected |= was_connected;
            return;
        }
        self.is_redirected = false;
        self.shared.connection_changed.notify_waiters();
        if self.lost.is_none() {
            self.lost = Some(Instant::now());
            self.shared.warn(&format!(
                "no connection to {}: {}; clients stay connected and catch up after the reconnect",
                self.shared.store.place(),
                error.text
            ));
        }
    }

    /// Read new entries, for which the store waits at most `wait`. Returns whether none came.
    async fn next(&mut self, log: &mut S::Log, wait: Duration) -> Answer<bool> {
        self.shared.until_delivered().await;
        let (cursor, count) = (self.cursor.unwrap_or_default(), self.page());
        let arrived = log.wait_after(cursor, count, wait).await;
        let arrived = self.read(arrived, count)?;
        if arrived.is_empty() {
            return Ok(true);
        }
        self.deliver(arrived, cursor);
        Ok(false)
    }

    /// Deliver entries, each of which must name the one before it.
    fn deliver(&mut self, arrived: Vec<Arrived>, mut cursor: StreamId) {
        let shared = self.shared.clone();
        let Some(hub) = shared.hub.upgrade() else { return };
        self.check_passed(&hub, cursor);
        let end = arrived.last().map_or(cursor, |entry| entry.id);
        let mut acknowledged = shared.acknowledged.take(end).into_iter().peekable();
        let (mut whole, mut freed, mut changed) = (Vec::with_capacity(arrived.len()), Vec::new(), Vec::new());
        let mut lost_runs = Vec::new();
        for Arrived { id, before, letter } in arrived {
            let mut lost = None;
            while let Some(passed) = acknowledged.next_if(|passed| *passed <= id) {
                lost = lost.or(Some(passed).filter(|passed| *passed < id));
            }
            let (before, letter) = match letter.and_then(|it| Ok((before.ok_or(Unread::Damaged)?, it))) {
                Ok(read) => read,
                Err(why) => {
                    lost_runs.extend(hub.deliver(std::mem::take(&mut whole)));
                    self.report(&unread::<S>(id, why));
                    hub.break_log(id);
                    cursor = id;
                    continue;
                }
            };
            // The beginning that any log may have does not identify this log.
            if before != cursor || before.is_any_beginning() {
                lost_runs.extend(hub.deliver(std::mem::take(&mut whole)));
                self.report(&format!("the entries after {cursor}, up to {before}, are gone"));
                hub.break_log(before);
            } else if let Some(lost) = lost {
                lost_runs.extend(hub.deliver(std::mem::take(&mut whole)));
                self.report(&lost_although_acknowledged(lost));
                hub.break_log(before);
            }
            match &letter {
                Letter::Release { lease } => freed.push(lease.clone()),
                Letter::Life { topic, step } => changed.push((topic.clone(), step.end())),
                _ => {}
            }
            whole.push((id, letter));
            cursor = id;
        }
        lost_runs.extend(hub.deliver(whole));
        self.set_cursor(cursor);
        for lease in freed {
            shared.leases.freed(&lease);
        }
        for topic in lost_runs {
            shared.lives.changed(&topic, Some(EndState::Lost));
        }
        for (topic, end) in changed {
            shared.lives.changed(&topic, end);
        }
    }

    /// Check for entries that the log acknowledged but that this process read past without seeing.
    pub fn check_passed(&mut self, hub: &Hub, cursor: StreamId) {
        let passed = self.shared.acknowledged.take(cursor);
        if let Some(lost) = passed.into_iter().find(|id| !hub.has_followed(*id)) {
            self.report(&lost_although_acknowledged(lost));
            hub.break_log(cursor);
        }
    }

    pub fn set_cursor(&mut self, cursor: StreamId) {
        self.cursor = Some(cursor);
        self.shared.progress.send_replace(Some(cursor));
    }

    /// Report that clients are reset for a gap, and why; but not for every entry, in case all of them are a reason.
    pub fn report(&mut self, why: &str) {
        self.shared.note_presence(Changes::doubt);
        if self.reported.is_none_or(|at| at.elapsed() >= QUIET) {
            self.reported = Some(Instant::now());
            let log = self.shared.store.log_name();
            self.shared.warn(&format!("clients are reset, because of a gap in {log}: {why}"));
        }
    }

    /// How many entries to request.
    pub fn page(&self) -> usize {
        self.shared.pages.entries(PAGE_BYTES, self.most)
    }

    /// Note the result of a request for `count` entries.
    pub fn read(&mut self, page: Answer<Vec<Arrived>>, count: usize) -> Answer<Vec<Arrived>> {
        match &page {
            Ok(page) => {
                self.shared.pages.read(page);
                if page.len() < count {
                    // The backlog is read.
                    self.most = PAGE;
                }
            }
            Err(_) => self.most = (count / 2).max(1),
        }
        page
    }
}

/// What an entry without a letter means, and what to do about it.
fn unread<S: Store>(id: StreamId, why: Unread) -> String {
    match why {
        Unread::Gap => format!("entry {id} says that entries before it may be missing, because {}", S::DOUBT),
        Unread::Version => format!(
            "another version of sse-hub wrote entry {id}: run the same version in all processes of the hub"
        ),
        Unread::Damaged => format!("entry {id} cannot be read: it is damaged, or no hub wrote it"),
    }
}

pub fn lost_although_acknowledged(id: StreamId) -> String {
    format!("entry {id} was acknowledged and is gone: the log has lost its end")
}
