//! Clients that come back with an id this process does not know: another worker's newest, or one from before this
//! process began. The store is asked for the id's place in the log, and for the entries behind it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::backoff::Backoff;
use super::fetch::{Gap, LogTime, fetch};
use super::shared::Shared;
use super::store::{Answer, Log, Store};
use crate::control::ResetReason;
use crate::hub::Verdict;
use crate::ids::{StreamId, SubscriberId};
use crate::waker::Wake;

/// How long this process may take to read what another delivered, before the log is asked again.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The question where a subscriber starts: the subscriber, and its last id.
pub type Question = (SubscriberId, Option<StreamId>);

struct Next(Arc<Notify>);

impl Wake for Next {
    fn wake(&self) {
        self.0.notify_one();
    }
}

/// Answer questions concurrently.
pub async fn run<S: Store>(shared: Arc<Shared<S>>, mut questions: mpsc::UnboundedReceiver<Question>) {
    while let Some((subscriber, id)) = questions.recv().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            resolve(shared.clone(), subscriber, id).await;
            if id.is_none() {
                shared.newcomers.answer();
            }
        });
    }
}

/// What the log knows of an id.
enum Standing {
    /// All entries behind it are kept, up to the log's last id. The time, if events have a maximum age.
    Whole(StreamId, Option<LogTime>),
    /// It does not belong to this log, or entries behind it are lost.
    Lost(ResetReason),
    /// The client has left.
    Gone,
}

async fn resolve<S: Store>(shared: Arc<Shared<S>>, subscriber: SubscriberId, asked: Option<StreamId>) {
    if !shared.until_connected(subscriber).await {
        return;
    }
    let mut progress = shared.progress.subscribe();
    if progress.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let (hub, id, time) = loop {
        let Some(hub) = shared.hub.upgrade() else { return };
        let Some(id) = asked.filter(|_| !hub.knows_start(subscriber)) else {
            hub.resolve(subscriber, Verdict::Here);
            return;
        };
        drop(hub);
        let delivered = *progress.borrow_and_update();
        let (last, time) = match shared.standing(subscriber, id).await {
            Standing::Whole(last, time) => (last, time),
            Standing::Lost(reason) => {
                if matches!(reason, ResetReason::Evicted) {
                    // Another worker's id, that this one has not read yet: a reset to its own place would send the
                    // client back, to events that it has seen.
                    let reached = progress.wait_for(|at| at.is_some_and(|at| at >= id));
                    let _ = timeout(CATCH_UP, reached).await;
                }
                shared.resolve(subscriber, Verdict::Lost(reason));
                return;
            }
            Standing::Gone => return,
        };
        if delivered > Some(last) {
            // The log was emptied, or lost its end, and this process has not noticed yet: the client may have received
            // from another process what this one is about to deliver again.
            let _ = timeout(CATCH_UP, progress.changed()).await;
            continue;
        }
        // Another worker delivered it before this one has read it. Do not wait forever: the log may be emptied while
        // this waits.
        let reached = progress.wait_for(|at| at.is_some_and(|at| at >= id));
        if timeout(CATCH_UP, reached).await.is_err() {
            continue;
        }
        let Some(hub) = shared.hub.upgrade() else { return };
        if hub.knows_start(subscriber) {
            hub.resolve(subscriber, Verdict::Here);
            return;
        }
        break (hub, id, time);
    };
    let wanted = Arc::new(Notify::new());
    let end = hub.resolve(subscriber, Verdict::Kept(id, Box::new(Next(wanted.clone()))));
    drop(hub);
    if let Some(end) = end {
        fetch(&shared, subscriber, Gap { after: id, end, time }, &wanted).await;
    }
}

impl<S: Store> Shared<S> {
    fn resolve(&self, subscriber: SubscriberId, verdict: Verdict) {
        if let Some(hub) = self.hub.upgrade() {
            hub.resolve(subscriber, verdict);
        }
    }

    /// Wait for a connection; while there is none, the client's stream opens. False when the client has left.
    async fn until_connected(&self, subscriber: SubscriberId) -> bool {
        let mut is_open = false;
        loop {
            let changed = self.connection_changed.notified();
            if self.connected.load(Ordering::Acquire) {
                return true;
            }
            if !self.has(subscriber) {
                return false;
            }
            if is_open {
                // Each attempt wakes this, which checks whether the client is still there.
                changed.await;
                continue;
            }
            // A process that has just started is about to be connected.
            let patience = timeout(self.store.connect_timeout(), changed);
            if patience.await.is_err() || !self.connected.load(Ordering::Acquire) {
                is_open = true;
                self.resolve(subscriber, Verdict::Later);
            }
        }
    }

    /// Ask the log about an id, however long that takes.
    async fn standing(&self, subscriber: SubscriberId, id: StreamId) -> Standing {
        let mut backoff = Backoff::new();
        loop {
            match self.standing_once(id).await {
                Ok(standing) => return standing,
                Err(error) if error.is_refusal() => {
                    self.report_refusal(&error);
                    return Standing::Lost(ResetReason::Broker);
                }
                Err(_) => {}
            }
            if !self.has(subscriber) {
                return Standing::Gone;
            }
            self.resolve(subscriber, Verdict::Later);
            backoff.pause().await;
        }
    }

    async fn standing_once(&self, id: StreamId) -> Answer<Standing> {
        let mut log = self.store.log();
        let last = log.last().await?.unwrap_or_default();
        if id > last {
            return Ok(Standing::Lost(ResetReason::Ahead));
        }
        let page = log.after(id, 1).await?;
        self.pages.read(&page);
        let time = match (self.kept.age, page.is_empty()) {
            (Some(_), false) => Some(LogTime::new(log.now().await?)),
            _ => None,
        };
        let is_too_old = |id| time.is_some_and(|time| self.kept.is_too_old(id, time.now()));
        Ok(match page.first() {
            None if id == last => Standing::Whole(last, time),
            Some(first) if first.before == Some(id) && !is_too_old(first.id) => Standing::Whole(last, time),
            _ => Standing::Lost(ResetReason::Evicted),
        })
    }
}
