//! History: a ring of events for each topic, limited by count, bytes and age, and by one budget for the hub.
//!
//! An entry published to several topics stands in several rings and counts once. Each ring remembers the newest
//! entry it lost, so that the hub knows exactly whether a client's gap can be filled. For evicted topics the same is
//! remembered by name, for the last 65,536 that lost anything; one number, on the safe side, stands for all others.
//!
//! Of the events with one key a ring keeps the newest (`ring.rs`). A replaced value is not lost: who resumes gets the
//! newer one. A value does not age; the limits by count and bytes evict it like any event, and then it is lost.

mod forgotten;
mod replay;
mod retention;
mod ring;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::entry::Entry;
use crate::ids::StreamId;
use crate::topic::TopicId;

use forgotten::Forgotten;
use replay::Place;
pub use replay::{Page, Past, Replay};
pub use retention::Retention;
use ring::{Ring, RingCursor};

/// Memory of one entry beside its bytes: the entry, its places in ring and budget, the allocator's share.
const ENTRY_OVERHEAD: usize = 224;
/// The same of a key, for its places in a ring's table.
const KEY_OVERHEAD: usize = 96;

/// What an entry costs the hub-wide budget.
fn cost(entry: &Entry) -> usize {
    let key = entry.key().map_or(0, |key| key.as_str().len() + KEY_OVERHEAD);
    entry.len() + ENTRY_OVERHEAD + key
}

/// The rings of all topics.
#[derive(Debug)]
pub struct History {
    rings: FxHashMap<TopicId, Ring>,
    /// The entries of all rings, oldest first; some may no longer be in any ring.
    kept: VecDeque<Arc<Entry>>,
    stale: usize,
    bytes: usize,
    total_bytes: usize,
    /// Of pinned rings, whose entries are not counted in `bytes` and stand in no budget.
    pinned_bytes: usize,
    pinned_events: usize,
    forgotten: Forgotten,
    /// Nothing was published up to this number, so nothing was lost up to it.
    beginning: u64,
    /// The order began, or began anew, behind something that was not read.
    has_unread: bool,
}

impl History {
    /// An empty history with a budget for all topics together, in bytes.
    #[must_use]
    pub fn new(total_bytes: usize) -> Self {
        Self {
            rings: FxHashMap::default(),
            kept: VecDeque::new(),
            stale: 0,
            bytes: 0,
            total_bytes,
            pinned_bytes: 0,
            pinned_events: 0,
            forgotten: Forgotten::default(),
            beginning: 0,
            has_unread: false,
        }
    }

    /// Add a topic's ring, or change its limits. What the topic lost before it was evicted counts as lost.
    pub fn open(&mut self, topic: TopicId, name: &str, retention: Retention) {
        let lost = self.forgotten.of(name);
        self.rings.entry(topic).or_insert_with(|| Ring::new(retention, lost)).retention = retention;
        self.shrink(topic, Duration::ZERO);
    }

    /// Keep everything that is published to a topic behind `seq`, the newest number, until the topic is forgotten.
    /// What it has kept before goes. `id` is that of the number in a broker's log.
    pub fn pin(&mut self, topic: TopicId, seq: u64, id: Option<StreamId>) {
        self.empty(topic);
        if let Some(ring) = self.rings.get_mut(&topic) {
            ring.begun = seq;
            ring.begun_id = id;
            ring.is_pinned = true;
        }
    }

    /// The same, but what the topic has kept before stays, and what it has lost counts as lost.
    pub fn pin_rest(&mut self, topic: TopicId) {
        let Some(ring) = self.rings.get_mut(&topic).filter(|ring| !ring.is_pinned) else { return };
        ring.is_pinned = true;
        self.pinned_bytes += ring.bytes;
        self.pinned_events += ring.len();
        let entries: Vec<_> = ring.entries().cloned().collect();
        for entry in &entries {
            self.release(entry);
        }
    }

    /// Whether everything of a topic is kept.
    #[must_use]
    pub fn is_pinned(&self, topic: TopicId) -> bool {
        self.rings.get(&topic).is_some_and(|ring| ring.is_pinned)
    }

    /// The topics of which everything is kept.
    pub fn pinned(&self) -> impl Iterator<Item = TopicId> {
        self.rings.iter().filter(|(_, ring)| ring.is_pinned).map(|(&topic, _)| topic)
    }

    /// Evict a topic. What it has lost is remembered.
    pub fn evict_topic(&mut self, topic: TopicId, name: &str) {
        self.release_name(topic, name);
        self.drop_topic(topic);
    }

    /// The name of a topic is another topic's from now on, to which what this one keeps counts as lost. Replays go on
    /// until the topic is dropped.
    pub fn release_name(&mut self, topic: TopicId, name: &str) {
        if let Some(ring) = self.rings.get(&topic) {
            self.forgotten.add(name, ring.newest());
        }
    }

    /// Forget a topic whose name was released.
    pub fn drop_topic(&mut self, topic: TopicId) {
        self.empty(topic);
        self.rings.remove(&topic);
    }

    /// Begin a new order behind `seq`, up to which nothing can be replayed; `is_first` where there was none before.
    pub fn begin(&mut self, seq: u64, is_first: bool) {
        self.forgotten = Forgotten::all_lost(seq);
        self.has_unread = !is_first;
        if is_first {
            self.beginning = seq;
        }
        let topics: Vec<TopicId> = self.rings.keys().copied().collect();
        for topic in topics {
            self.empty(topic);
            if let Some(ring) = self.rings.get_mut(&topic) {
                ring.lost = seq;
                ring.begun_id = None;
            }
        }
    }

    /// Whether something came before the order that was not read.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        self.has_unread
    }

    /// Lose everything a topic keeps.
    fn empty(&mut self, topic: TopicId) {
        let Some(ring) = self.rings.get_mut(&topic) else { return };
        let bytes = ring.bytes;
        let entries = ring.clear();
        if ring.is_pinned {
            self.pinned_bytes -= bytes;
            self.pinned_events -= entries.len();
            return;
        }
        for entry in &entries {
            self.release(entry);
        }
    }

    /// Append an entry to the rings of its topics.
    pub fn append(&mut self, entry: &Arc<Entry>) {
        let Some(seq) = entry.seq else { return };
        let topics = entry.target.rings();
        let mut holders = 0;
        let mut replaced: SmallVec<[Arc<Entry>; 2]> = SmallVec::new();
        for &topic in topics {
            let Some(ring) = self.rings.get_mut(&topic) else { continue };
            if ring.is_pinned {
                ring.push(entry);
                self.pinned_bytes += entry.len();
                self.pinned_events += 1;
                continue;
            }
            if ring.retention.count == 0 || entry.len() > ring.retention.bytes {
                // Too large for the ring, or nothing is kept. Everything up to here is lost to a later replay, also
                // the entries still in the ring: their replay would have a gap.
                ring.lost = seq;
                self.empty(topic);
                continue;
            }
            replaced.extend(ring.push(entry));
            holders += 1;
        }
        entry.held_by(holders);
        for older in &replaced {
            self.release(older);
        }
        if holders > 0 {
            self.bytes += cost(entry);
            self.kept.push_back(entry.clone());
        }
        for &topic in topics {
            self.shrink(topic, entry.at);
        }
        self.keep_budget();
    }

    /// The number of a broker's entry that a topic keeps of which everything is kept.
    #[must_use]
    pub fn number_in_pinned(&self, topics: &[TopicId], id: StreamId) -> Option<u64> {
        let mut pinned =
            topics.iter().filter_map(|topic| self.rings.get(topic)).filter(|ring| ring.is_pinned);
        pinned.find_map(|ring| ring.find(id))
    }

    /// Whether the run of one of these topics has begun behind this number.
    #[must_use]
    pub fn has_begun_behind(&self, topics: &[TopicId], seq: u64) -> bool {
        topics.iter().filter_map(|topic| self.rings.get(topic)).any(|ring| ring.begun > seq)
    }

    /// The same for an id of a broker's log.
    #[must_use]
    pub fn has_begun_behind_id(&self, topics: &[TopicId], id: StreamId) -> bool {
        topics.iter().filter_map(|topic| self.rings.get(topic)).any(|ring| ring.begun_id > Some(id))
    }

    /// Whether everything published to these topics after `seq` is still kept.
    pub fn reaches(&mut self, topics: &[TopicId], seq: u64, now: Duration) -> bool {
        for &topic in topics {
            self.shrink(topic, now);
        }
        topics
            .iter()
            .all(|topic| self.rings.get(topic).map_or(self.forgotten.newest, |ring| ring.lost) <= seq)
    }

    /// Whether these topics keep something that was published after `seq`, up to and including `until`.
    #[must_use]
    pub fn has_between(&self, topics: &[TopicId], seq: u64, until: u64) -> bool {
        let first = |topic: &TopicId| self.rings.get(topic)?.after(seq)?.seq;
        topics.iter().filter_map(first).any(|first| first <= until)
    }

    /// Whether everything ever published to these topics is still kept.
    pub fn is_whole(&mut self, topics: &[TopicId], now: Duration) -> bool {
        for &topic in topics {
            self.shrink(topic, now);
        }
        topics.iter().all(|topic| match self.rings.get(topic) {
            Some(ring) => ring.lost <= self.beginning.max(ring.begun),
            None => self.forgotten.newest <= self.beginning,
        })
    }

    /// A replay of the events after `seq`, up to and including `until`.
    #[must_use]
    pub fn resume(&self, topics: &[TopicId], seq: u64, until: u64) -> Replay {
        let places = topics.iter().map(|&topic| Place::behind(topic, seq)).collect();
        Replay { places, until, unclaimed: 0, given: 0 }
    }

    /// A replay of the events that these topics still keep after `seq`, for a client whose gap was announced.
    #[must_use]
    pub fn remains(&self, topics: &[TopicId], seq: u64, until: u64) -> Replay {
        let after = |topic: &TopicId| self.rings.get(topic)?.after(seq)?.seq.map(|first| first - 1);
        let place = |topic: &TopicId| Place::behind(*topic, after(topic).unwrap_or(until));
        Replay { places: topics.iter().map(place).collect(), until, unclaimed: until, given: 0 }
    }

    /// A newcomer's replay.
    pub fn past(&mut self, topics: &[TopicId], past: Past, until: u64, now: Duration) -> Replay {
        let mut places = SmallVec::new();
        for &topic in topics {
            self.shrink(topic, now);
            let Some(ring) = self.rings.get(&topic) else { continue };
            let first = match past {
                Past::All => ring.after(0),
                Past::Last(n) => ring.nth_from_end(n),
            };
            let first = first.and_then(|entry| entry.seq);
            places.push(Place::behind(topic, first.map_or(until, |seq| seq - 1)));
        }
        Replay { places, until, unclaimed: until, given: 0 }
    }

    /// The next piece of a replay: at most `max_entries` and about `max_bytes`, merged by sequence number.
    pub fn page(&mut self, replay: &mut Replay, max_entries: usize, max_bytes: usize, now: Duration) -> Page {
        let mut page = Page::default();
        let mut heads: SmallVec<[RingCursor<'_>; 4]> = SmallVec::new();
        for place in &replay.places {
            self.shrink(place.topic, now);
        }
        let unclaimed = std::mem::take(&mut replay.unclaimed);
        for place in &mut replay.places {
            let ring = self.rings.get(&place.topic);
            let lost = ring.map_or(self.forgotten.newest, |ring| ring.lost);
            if lost > place.settled() && place.settled() < replay.until {
                page.lost |= lost.min(replay.until) > unclaimed;
                place.lost = lost;
            }
            // The subscriber left this topic, and it was evicted since.
            let Some(ring) = ring else { continue };
            heads.push(ring.cursor(place.after));
        }
        let mut bytes = 0;
        let mut last = None;
        page.done = loop {
            let next = heads.iter().filter_map(RingCursor::peek).min_by_key(|entry| entry.seq);
            let Some(entry) = next.filter(|entry| entry.seq <= Some(replay.until)) else {
                break true;
            };
            if page.entries.len() >= max_entries || bytes >= max_bytes {
                break false;
            }
            let entry = entry.clone();
            for head in &mut heads {
                head.pass(entry.seq);
            }
            bytes += entry.len();
            last = entry.seq;
            page.entries.push(entry);
        };
        if let Some(last) = last {
            for place in &mut replay.places {
                place.after = place.after.max(last);
            }
        }
        replay.add(page.entries.len());
        page
    }

    /// Evict a topic's events that are too old.
    pub fn expire(&mut self, topic: TopicId, now: Duration) {
        self.shrink(topic, now);
    }

    /// Whether a topic keeps nothing.
    #[must_use]
    pub fn keeps_nothing(&self, topic: TopicId) -> bool {
        self.rings.get(&topic).is_none_or(|ring| ring.len() == 0)
    }

    /// Bytes of the kept events, with their overhead.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes + self.pinned_bytes + self.pinned_events * ENTRY_OVERHEAD
    }

    #[must_use]
    pub fn events(&self) -> usize {
        self.kept.len() - self.stale + self.pinned_events
    }

    /// Bring a ring within its limits.
    fn shrink(&mut self, topic: TopicId, now: Duration) {
        let mut released: SmallVec<[Arc<Entry>; 4]> = SmallVec::new();
        if let Some(ring) = self.rings.get_mut(&topic).filter(|ring| !ring.is_pinned) {
            released.extend(std::iter::from_fn(|| ring.evict(now)));
        }
        for entry in &released {
            self.release(entry);
        }
    }

    fn release(&mut self, entry: &Arc<Entry>) {
        if entry.released() {
            self.bytes -= cost(entry);
            self.stale += 1;
            // What a busy topic evicts is in front, as a rule: it is freed now, and the next entry gets its memory.
            while self.kept.front().is_some_and(|oldest| !oldest.is_held()) {
                self.kept.pop_front();
                self.stale -= 1;
            }
            // A quiet topic's old entry at the front must not keep a busy topic's evicted entries in memory.
            if self.stale > 64 && self.stale * 2 > self.kept.len() {
                self.kept.retain(|entry| entry.is_held());
                self.stale = 0;
            }
        }
    }

    /// Evict the oldest entries until the hub's budget holds.
    fn keep_budget(&mut self) {
        while self.bytes > self.total_bytes {
            let Some(entry) = self.kept.pop_front() else { break };
            if !entry.is_held() {
                self.stale -= 1;
                continue;
            }
            for topic in entry.target.rings() {
                let Some(ring) = self.rings.get_mut(topic) else { continue };
                // Everything older is gone already: if this ring still holds it, it is in front.
                if !ring.is_pinned {
                    ring.remove(&entry);
                }
            }
            entry.forget_rings();
            self.bytes -= cost(&entry);
        }
    }
}
