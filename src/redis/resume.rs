//! Clients that come back with an id this process does not know: another worker's newest, or one from before
//! this process began. Redis is asked where it stands, and for what followed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::Value;
use tokio::sync::{Notify, mpsc};

use super::link::{Backoff, Trouble};
use super::{Shared, reply};
use crate::broker::letter::Arrived;
use crate::control::ResetReason;
use crate::hub::Verdict;
use crate::ids::{StreamId, SubscriberId};
use crate::waker::Wake;

/// How long this process gets to read what another delivered, before the stream is looked at again.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Entries fetched at once for a client, at most, and about how many bytes: many may come back at once.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 256 << 10;

/// Asks to find out where a subscriber begins: it, and the id it came back with.
pub type Asked = (SubscriberId, Option<StreamId>);

struct Next(Arc<Notify>);

impl Wake for Next {
    fn wake(&self) {
        self.0.notify_one();
    }
}

/// Answer what is asked, each beside the others.
pub async fn run(shared: Arc<Shared>, mut asked: mpsc::UnboundedReceiver<Asked>) {
    while let Some((subscriber, id)) = asked.recv().await {
        tokio::spawn(settle(shared.clone(), subscriber, id));
    }
}

/// What time it was by Redis's clock, which gave the ids.
#[derive(Clone, Copy)]
struct Told {
    ms: u64,
    at: Instant,
}

impl Told {
    /// By now, in milliseconds.
    fn now(self) -> u64 {
        self.ms.saturating_add(u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// What the stream says of an id.
enum Standing {
    /// Nothing is missing behind it, up to the stream's last id. The time, where events grow too old.
    Whole(StreamId, Option<Told>),
    /// It is not of this stream, or what followed is gone.
    Lost(ResetReason),
    /// Nobody wants to know any more.
    Gone,
}

async fn settle(shared: Arc<Shared>, subscriber: SubscriberId, asked: Option<StreamId>) {
    if !shared.until_connected(subscriber).await {
        return;
    }
    let mut progress = shared.progress.subscribe();
    if progress.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let (hub, id, told) = loop {
        let Some(hub) = shared.hub.upgrade() else { return };
        let Some(id) = asked.filter(|_| !hub.is_here(subscriber)) else {
            hub.settle(subscriber, Verdict::Here);
            return;
        };
        drop(hub);
        let delivered = *progress.borrow_and_update();
        let (last, told) = match shared.standing(subscriber, id).await {
            Standing::Whole(last, told) => (last, told),
            Standing::Lost(reason) => {
                shared.settle(subscriber, Verdict::Lost(reason));
                return;
            }
            Standing::Gone => return,
        };
        if delivered > Some(last) {
            // The stream was emptied, or lost its end, and this process has not noticed yet: what it is about to
            // deliver again, the client may have from another.
            let _ = tokio::time::timeout(CATCH_UP, progress.changed()).await;
            continue;
        }
        // Another worker was faster in delivering it than this one is in reading it. Not for ever: the stream
        // may be emptied meanwhile.
        let reached = progress.wait_for(|at| at.is_some_and(|at| at >= id));
        if tokio::time::timeout(CATCH_UP, reached).await.is_err() {
            continue;
        }
        let Some(hub) = shared.hub.upgrade() else { return };
        if hub.is_here(subscriber) {
            hub.settle(subscriber, Verdict::Here);
            return;
        }
        break (hub, id, told);
    };
    let wanted = Arc::new(Notify::new());
    let end = hub.settle(subscriber, Verdict::Kept(id, Box::new(Next(wanted.clone()))));
    drop(hub);
    if let Some(end) = end {
        fetch(&shared, subscriber, (id, end), told, &wanted).await;
    }
}

/// Fetch what stands in the stream between two ids, a piece at a time.
async fn fetch(
    shared: &Shared,
    subscriber: SubscriberId,
    (after, end): (StreamId, StreamId),
    told: Option<Told>,
    wanted: &Notify,
) {
    let mut at = after;
    loop {
        wanted.notified().await;
        let count = shared.pages.entries(PAGE_BYTES, PAGE);
        let page = shared.page(subscriber, at, count).await;
        let Some(hub) = shared.hub.upgrade() else { return };
        let mut lost = false;
        let too_old = |entry: &Arrived| told.is_some_and(|told| shared.kept.is_too_old(entry.id, told.now()));
        let old = page.iter().flatten().take_while(|entry| too_old(entry)).count();
        for (index, entry) in page.iter().flatten().enumerate() {
            // What comes next grew too old while the client was slow to take what was before.
            lost |= entry.before != Some(at) || entry.letter.is_none() || (index < old && entry.id <= end);
            at = entry.id;
        }
        let done = page.as_ref().is_none_or(Vec::is_empty) || at >= end;
        lost |= page.as_ref().is_none_or(Vec::is_empty) && at < end;
        let piece = page.into_iter().flatten().skip(old).filter(|entry| entry.id <= end).collect();
        if !hub.fetched(subscriber, piece, lost, done) || done {
            return;
        }
    }
}

impl Shared {
    fn settle(&self, subscriber: SubscriberId, verdict: Verdict) {
        if let Some(hub) = self.hub.upgrade() {
            hub.settle(subscriber, verdict);
        }
    }

    /// Wait for a connection; meanwhile the client's stream opens. False when it is gone.
    async fn until_connected(&self, subscriber: SubscriberId) -> bool {
        let mut told = false;
        loop {
            let changed = self.settles_changed.notified();
            if self.connected.load(Ordering::Acquire) {
                return true;
            }
            if !self.has(subscriber) {
                return false;
            }
            if told {
                // Told of every attempt, this looks at each whether the client is still there.
                changed.await;
                continue;
            }
            // A process that has just begun is about to be connected.
            let patience = tokio::time::timeout(self.server.connect_timeout, changed);
            if patience.await.is_err() || !self.connected.load(Ordering::Acquire) {
                told = true;
                self.settle(subscriber, Verdict::Later);
            }
        }
    }

    /// Ask Redis what it has of an id, as long as it takes.
    async fn standing(&self, subscriber: SubscriberId, id: StreamId) -> Standing {
        let mut backoff = Backoff::new();
        loop {
            let mut command = redis::cmd("XINFO");
            command.arg("STREAM").arg(&self.keys.events);
            let last = match self.commands.run::<Value>(&self.server, &command).await {
                Ok(value) => reply::last_id(&value),
                Err(why) if why.text.contains("no such key") => Some(StreamId::default()),
                Err(why) if why.is_refusal => return self.refused(&why),
                Err(_) => None,
            };
            if let Some(last) = last {
                if id > last {
                    return Standing::Lost(ResetReason::Ahead);
                }
                match self.page_and_time(id).await {
                    Ok((page, told)) => {
                        let too_old = |id| told.is_some_and(|told| self.kept.is_too_old(id, told.now()));
                        return match page.first() {
                            None if id == last => Standing::Whole(last, told),
                            Some(first) if first.before == Some(id) && !too_old(first.id) => {
                                Standing::Whole(last, told)
                            }
                            _ => Standing::Lost(ResetReason::Evicted),
                        };
                    }
                    Err(why) if why.is_refusal => return self.refused(&why),
                    Err(_) => {}
                }
            }
            if !self.has(subscriber) {
                return Standing::Gone;
            }
            self.settle(subscriber, Verdict::Later);
            backoff.pause().await;
        }
    }

    /// Whether a client is still there.
    fn has(&self, subscriber: SubscriberId) -> bool {
        self.hub.upgrade().is_some_and(|hub| hub.has(subscriber))
    }

    /// Redis does not let itself be asked: nothing can be proven.
    fn refused(&self, why: &Trouble) -> Standing {
        if !self.refusal_told.swap(true, Ordering::Relaxed) {
            self.warn(&format!("{} does not say what clients missed: {}", self.server.shown, why.text));
        }
        Standing::Lost(ResetReason::Broker)
    }

    /// What follows `after`, as long as it takes to get it; none when it is not to be read, or nobody waits.
    async fn page(
        &self,
        subscriber: SubscriberId,
        after: StreamId,
        mut count: usize,
    ) -> Option<Vec<Arrived>> {
        let mut backoff = Backoff::new();
        while self.has(subscriber) {
            match self.page_once(after, count).await {
                Ok(page) => return Some(page),
                Err(why) if why.is_refusal => {
                    self.refused(&why);
                    return None;
                }
                Err(_) => {
                    // A reply larger than the server has room for ends the connection.
                    count = (count / 2).max(1);
                    backoff.pause().await;
                }
            }
        }
        None
    }

    /// The entry that follows `after`, and the time where that matters.
    async fn page_and_time(&self, after: StreamId) -> Result<(Vec<Arrived>, Option<Told>), Trouble> {
        let page = self.page_once(after, 1).await?;
        if self.kept.age.is_none() || page.is_empty() {
            return Ok((page, None));
        }
        let value = self.commands.run::<Value>(&self.server, &redis::cmd("TIME")).await?;
        let ms = reply::time(&value)
            .ok_or_else(|| Trouble { text: "TIME gave no time".into(), is_refusal: true })?;
        Ok((page, Some(Told { ms, at: Instant::now() })))
    }

    async fn page_once(&self, after: StreamId, count: usize) -> Result<Vec<Arrived>, Trouble> {
        let mut command = redis::cmd("XRANGE");
        command.arg(&self.keys.events).arg(format!("({after}")).arg("+").arg("COUNT").arg(count);
        let value = self.commands.run::<Value>(&self.server, &command).await?;
        let page = reply::range(&value)
            .ok_or_else(|| Trouble { text: "XRANGE gave no entries".into(), is_refusal: true })?;
        self.pages.read(&page);
        Ok(page)
    }
}
