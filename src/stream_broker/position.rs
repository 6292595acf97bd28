//! This process's position in the log: at first, and after the log may have lost its end or begun anew.

use std::collections::VecDeque;
use std::time::Duration;

use super::follower::{Follower, lost_although_acknowledged};
use super::store::{Answer, Log, Store};
use crate::broker::letter::Arrived;
use crate::ids::StreamId;

impl<S: Store> Follower<S> {
    /// Compare the log's end with the position. `is_idle`: the last read returned nothing.
    pub async fn check_position(&mut self, log: &mut S::Log, is_idle: bool) -> Answer<()> {
        // Read before the log is asked: what was acknowledged by then is in it, unless it has lost its end.
        let acknowledged = self.shared.acknowledged.newest();
        let last = log.begin().await?;
        let Some(cursor) = self.cursor else { return self.begin(log, last).await };
        let shared = self.shared.clone();
        let Some(hub) = shared.hub.upgrade() else { return Ok(()) };
        self.check_passed(&hub, cursor);
        let base = if last < cursor {
            let base = self.new_from(log, last).await?;
            self.report(&format!("it goes on at {last}, before {cursor}: its end was lost, or all of it"));
            base
        } else if let Some(lost) = acknowledged.filter(|id| *id > last) {
            self.report(&lost_although_acknowledged(lost));
            cursor
        } else if is_idle && last > cursor && log.after(cursor, 1).await?.is_empty() {
            // The next entry would reveal it too, whenever it comes.
            self.report(&format!("the entries after {cursor}, up to {last}, are gone"));
            last
        } else {
            return Ok(());
        };
        if let Some(newest) = acknowledged {
            shared.acknowledged.forget(last, newest);
        }
        hub.break_log(base);
        self.set_cursor(base);
        Ok(())
    }

    /// The id behind which a log that ends before the position has entries that this process has not delivered.
    ///
    /// A server that was not written to disk in time, or a replica that was behind, has lost the newest entries: its
    /// log is the same up to an id that this process once followed, and may have gone on from there since. A log that
    /// was emptied is new from its beginning on.
    async fn new_from(&mut self, log: &mut S::Log, last: StreamId) -> Answer<StreamId> {
        let shared = self.shared.clone();
        let has_followed = |id| shared.hub.upgrade().is_some_and(|hub| hub.has_followed(id));
        if has_followed(last) {
            return Ok(last);
        }
        let (mut end, mut is_included, mut oldest) = (last, true, None);
        loop {
            let page = self.backwards(log, end, is_included).await?;
            let Some(first) = page.last() else { break };
            (end, is_included, oldest) = (first.id, false, first.before);
            let mut ids = page.iter().flat_map(|entry| [Some(entry.id), entry.before]).flatten();
            if let Some(known) = ids.find(|id| has_followed(*id)) {
                return Ok(known);
            }
        }
        // A log with the beginning that this process found, or that no longer has its beginning, has lost more than is
        // remembered: its entries were there before.
        let is_new = |id: &StreamId| {
            id.is_beginning() && (id.is_any_beginning() || self.found.is_some_and(|found| found != *id))
        };
        Ok(oldest.filter(is_new).unwrap_or(last))
    }

    async fn backwards(
        &mut self,
        log: &mut S::Log,
        end: StreamId,
        is_included: bool,
    ) -> Answer<Vec<Arrived>> {
        let count = self.page();
        let page = log.backwards(end, is_included, count).await;
        self.read(page, count)
    }

    /// The first connection: take over what the log keeps, and begin behind its end.
    async fn begin(&mut self, log: &mut S::Log, last: StreamId) -> Answer<()> {
        // An earlier attempt may have failed after it released the publisher.
        let last = last.min(*self.joined.get_or_insert(last));
        self.shared.joined.send_replace(true);
        let now = log.now().await?;
        // With a user who may not ask this, less of a log that is new one day is delivered: see `new_from`.
        self.found = match log.after(StreamId::default(), 1).await {
            Ok(first) => first.first().map_or(Some(last), |entry| entry.before),
            Err(_) => None,
        };
        let kept = self.kept(log, last, now).await?;
        let base = kept.front().and_then(|entry| entry.before).unwrap_or(last);
        if let Some(hub) = self.shared.hub.upgrade() {
            let aged = |entry: Arrived| {
                let age = Duration::from_millis(now.saturating_sub(entry.id.ms));
                (entry, age)
            };
            hub.open_log(base, kept.into_iter().map(aged).collect());
            self.shared.lives.all_changed();
        }
        self.set_cursor(last);
        Ok(())
    }

    /// The entries that the log keeps up to `last`, as far as they are complete and this process has room for them.
    async fn kept(&mut self, log: &mut S::Log, last: StreamId, now: u64) -> Answer<VecDeque<Arrived>> {
        let wanted = self.shared.kept;
        let mut kept: VecDeque<Arrived> = VecDeque::new();
        let (mut bytes, mut expected, mut end, mut is_included) = (0, last, last, true);
        while kept.len() < wanted.count && bytes < wanted.bytes {
            let page = self.backwards(log, end, is_included).await?;
            if page.is_empty() {
                break;
            }
            for entry in page {
                let (Some(before), Ok(letter)) = (entry.before, &entry.letter) else { return Ok(kept) };
                if entry.id != expected || wanted.is_too_old(entry.id, now) || kept.len() >= wanted.count {
                    return Ok(kept);
                }
                bytes += letter.len();
                expected = before;
                (end, is_included) = (entry.id, false);
                kept.push_front(entry);
            }
        }
        Ok(kept)
    }
}
