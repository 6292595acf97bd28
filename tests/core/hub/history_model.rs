//! A history that is slow and obvious: every event that ever was, in one vector.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sse_hub::history::Retention;

/// What keeping an event, and a key, costs beside its bytes; taken from the real one.
pub const OVERHEAD: usize = 224;
const KEY_OVERHEAD: usize = 96;

pub struct Event {
    pub seq: u64,
    pub topics: Vec<u64>,
    pub len: usize,
    pub at: Duration,
    /// What it is the newest value of.
    pub key: Option<u8>,
    /// The topics in which it is still kept.
    pub kept_in: BTreeSet<u64>,
    /// The topics in which a newer value of its key replaced it.
    pub replaced_in: BTreeSet<u64>,
    /// The pinned topics among `kept_in`.
    pub pinned_in: BTreeSet<u64>,
}

impl Event {
    /// Whether a client of a topic may still need it, which knows that events up to `lost` are missing.
    fn is_due(&self, topic: u64, lost: u64) -> bool {
        !self.replaced_in.contains(&topic) && (self.seq > lost || self.kept_in.contains(&topic))
    }

    /// Whether a topic keeps it that is not pinned.
    fn is_in_budget(&self) -> bool {
        self.kept_in.len() > self.pinned_in.len()
    }

    fn cost(&self) -> usize {
        let key = self.key.map_or(0, |key| key.to_string().len() + KEY_OVERHEAD);
        self.len + OVERHEAD + key
    }
}

/// How far a client is in a topic.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    /// It was given everything up to here.
    pub read: u64,
    /// It knows that events up to here are lost.
    pub lost: u64,
}

impl Floor {
    pub fn behind(read: u64) -> Self {
        Self { read, lost: 0 }
    }
}

#[derive(Default)]
pub struct Reference {
    pub events: Vec<Event>,
    pub rules: BTreeMap<u64, Retention>,
    /// The newest number each topic lost, since it was last opened.
    pub lost: BTreeMap<u64, u64>,
    /// What each topic had lost when it was forgotten.
    pub forgotten: BTreeMap<u64, u64>,
    /// The topics that keep everything.
    pub pinned: BTreeSet<u64>,
    pub total_bytes: usize,
}

impl Reference {
    pub fn open(&mut self, topic: u64, rule: Retention) {
        self.rules.insert(topic, rule);
        let forgotten = self.forgotten.get(&topic).copied().unwrap_or(0);
        self.lost.entry(topic).or_insert(forgotten);
        self.shrink(topic, Duration::ZERO);
    }

    pub fn forget(&mut self, topic: u64) {
        let kept: Vec<u64> = self.kept(topic);
        self.lose(topic, &kept);
        self.rules.remove(&topic);
        self.pinned.remove(&topic);
        if let Some(lost) = self.lost.remove(&topic) {
            self.forgotten.insert(topic, lost);
        }
    }

    /// Keep everything from now on, and what is kept already if `rest`.
    pub fn pin(&mut self, topic: u64, rest: bool) {
        if !rest {
            let kept = self.kept(topic);
            self.lose(topic, &kept);
        }
        if self.rules.contains_key(&topic) && self.pinned.insert(topic) {
            for event in self.events.iter_mut().filter(|event| event.kept_in.contains(&topic)) {
                event.pinned_in.insert(topic);
            }
        }
    }

    pub fn append(&mut self, event: Event) {
        let (seq, topics, now) = (event.seq, event.topics.clone(), event.at);
        let len = event.len;
        self.events.push(event);
        for &topic in &topics {
            let Some(&rule) = self.rules.get(&topic) else { continue };
            if self.pinned.contains(&topic) {
                let newest = self.events.last_mut().unwrap();
                newest.kept_in.insert(topic);
                newest.pinned_in.insert(topic);
            } else if rule.count == 0 || len > rule.bytes {
                // What was kept is of no use behind a hole.
                let mut gone = self.kept(topic);
                gone.push(seq);
                self.lose(topic, &gone);
            } else {
                self.replace(topic);
                self.events.last_mut().unwrap().kept_in.insert(topic);
            }
        }
        for topic in topics {
            self.shrink(topic, now);
        }
        while self.budgeted() > self.total_bytes {
            let oldest = self.events.iter().find(|event| event.is_in_budget()).unwrap();
            let (seq, evicted) = (oldest.seq, &oldest.kept_in - &oldest.pinned_in);
            for topic in evicted {
                self.lose(topic, &[seq]);
            }
        }
    }

    /// The newest event takes the place of the older value of its key.
    fn replace(&mut self, topic: u64) {
        let Some((newest, older)) = self.events.split_last_mut() else { return };
        let same = |event: &&mut Event| event.key.is_some() && event.key == newest.key;
        for event in older.iter_mut().filter(same).filter(|event| event.topics.contains(&topic)) {
            if event.kept_in.remove(&topic) {
                event.replaced_in.insert(topic);
            }
        }
    }

    /// The numbers a topic keeps, in order.
    pub fn kept(&self, topic: u64) -> Vec<u64> {
        self.events.iter().filter(|event| event.kept_in.contains(&topic)).map(|event| event.seq).collect()
    }

    /// What counts in the hub's budget.
    pub fn budgeted(&self) -> usize {
        self.events.iter().filter(|event| event.is_in_budget()).map(Event::cost).sum()
    }

    pub fn bytes(&self) -> usize {
        let pinned = |event: &Event| event.pinned_in.len() * (event.len + OVERHEAD);
        self.budgeted() + self.events.iter().map(pinned).sum::<usize>()
    }

    /// An event counts once, and once more for each pinned topic.
    pub fn count(&self) -> usize {
        let count = |event: &Event| usize::from(event.is_in_budget()) + event.pinned_in.len();
        self.events.iter().map(count).sum()
    }

    /// The newest number a topic lost; that of every forgotten topic for one that is unknown.
    pub fn lost(&self, topic: u64) -> u64 {
        self.lost.get(&topic).copied().unwrap_or_else(|| self.forgotten.values().copied().max().unwrap_or(0))
    }

    /// The place of a client behind `read`, which was not promised what the topic has lost.
    pub fn unpromised(&self, topic: u64, read: u64) -> Floor {
        Floor { read, lost: self.lost(topic) }
    }

    pub fn reaches(&self, topics: &[u64], seq: u64) -> bool {
        topics.iter().all(|&topic| self.lost(topic) <= seq)
    }

    /// Every event there ever was up to `until` that comes after its topic's own floor, without those whose loss is
    /// known, and values that a newer one replaced.
    pub fn between(&self, floors: &BTreeMap<u64, Floor>, until: u64) -> Vec<u64> {
        let meant = |event: &&Event| {
            let behind = |topic: &u64| {
                floors
                    .get(topic)
                    .is_some_and(|floor| event.seq > floor.read && event.is_due(*topic, floor.lost))
            };
            event.topics.iter().any(behind)
        };
        let numbers = self.events.iter().filter(meant).map(|event| event.seq);
        numbers.filter(|&number| number <= until).collect()
    }

    pub fn shrink(&mut self, topic: u64, now: Duration) {
        let Some(&rule) = self.rules.get(&topic).filter(|_| !self.pinned.contains(&topic)) else { return };
        loop {
            let kept: Vec<&Event> =
                self.events.iter().filter(|event| event.kept_in.contains(&topic)).collect();
            let bytes: usize = kept.iter().map(|event| event.len).sum();
            let is_old = |event: &&&Event| {
                event.key.is_none() && rule.age.is_some_and(|age| now.saturating_sub(event.at) > age)
            };
            let gone = if kept.len() > rule.count || bytes > rule.bytes {
                kept.first()
            } else {
                kept.iter().find(is_old)
            };
            let Some(seq) = gone.map(|event| event.seq) else { return };
            self.lose(topic, &[seq]);
        }
    }

    fn lose(&mut self, topic: u64, numbers: &[u64]) {
        for event in self.events.iter_mut().filter(|event| numbers.contains(&event.seq)) {
            event.kept_in.remove(&topic);
            event.pinned_in.remove(&topic);
            if let Some(lost) = self.lost.get_mut(&topic) {
                *lost = (*lost).max(event.seq);
            }
        }
    }
}
