//! A history that is slow and obvious: every event that ever was, in one vector.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sse_hub::history::Retention;

/// What keeping an event costs beside its bytes; the one number taken from the real one.
pub const OVERHEAD: usize = 224;

pub struct Event {
    pub seq: u64,
    pub topics: Vec<u64>,
    pub len: usize,
    pub at: Duration,
    /// The topics in which it is still kept.
    pub kept_in: BTreeSet<u64>,
}

#[derive(Default)]
pub struct Reference {
    pub events: Vec<Event>,
    pub rules: BTreeMap<u64, Retention>,
    /// The newest number each topic lost, since it was last opened.
    pub lost: BTreeMap<u64, u64>,
    /// What each topic had lost when it was forgotten.
    pub forgotten: BTreeMap<u64, u64>,
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
        if let Some(lost) = self.lost.remove(&topic) {
            self.forgotten.insert(topic, lost);
        }
    }

    pub fn append(&mut self, event: Event) {
        let (seq, topics, now) = (event.seq, event.topics.clone(), event.at);
        let len = event.len;
        self.events.push(event);
        for &topic in &topics {
            let Some(&rule) = self.rules.get(&topic) else { continue };
            if rule.count == 0 || len > rule.bytes {
                // What was kept is of no use behind a hole.
                let mut gone = self.kept(topic);
                gone.push(seq);
                self.lose(topic, &gone);
            } else {
                self.events.last_mut().unwrap().kept_in.insert(topic);
            }
        }
        for topic in topics {
            self.shrink(topic, now);
        }
        while self.bytes() > self.total_bytes {
            let oldest = self.events.iter().find(|event| !event.kept_in.is_empty()).unwrap();
            let (seq, kept_in) = (oldest.seq, oldest.kept_in.clone());
            for topic in kept_in {
                self.lose(topic, &[seq]);
            }
        }
    }

    /// The numbers a topic keeps, in order.
    pub fn kept(&self, topic: u64) -> Vec<u64> {
        self.events.iter().filter(|event| event.kept_in.contains(&topic)).map(|event| event.seq).collect()
    }

    pub fn bytes(&self) -> usize {
        let kept = self.events.iter().filter(|event| !event.kept_in.is_empty());
        kept.map(|event| event.len + OVERHEAD).sum()
    }

    pub fn count(&self) -> usize {
        self.events.iter().filter(|event| !event.kept_in.is_empty()).count()
    }

    /// The newest number a topic lost; that of every forgotten topic for one that is unknown.
    pub fn lost(&self, topic: u64) -> u64 {
        self.lost.get(&topic).copied().unwrap_or_else(|| self.forgotten.values().copied().max().unwrap_or(0))
    }

    pub fn reaches(&self, topics: &[u64], seq: u64) -> bool {
        topics.iter().all(|&topic| self.lost(topic) <= seq)
    }

    /// Every event there ever was up to `until` that comes after its topic's own floor.
    pub fn between(&self, floors: &BTreeMap<u64, u64>, until: u64) -> Vec<u64> {
        let meant = |event: &&Event| {
            event.topics.iter().any(|topic| floors.get(topic).is_some_and(|&floor| event.seq > floor))
        };
        let numbers = self.events.iter().filter(meant).map(|event| event.seq);
        numbers.filter(|&number| number <= until).collect()
    }

    pub fn shrink(&mut self, topic: u64, now: Duration) {
        let Some(&rule) = self.rules.get(&topic) else { return };
        loop {
            let kept: Vec<&Event> =
                self.events.iter().filter(|event| event.kept_in.contains(&topic)).collect();
            let bytes: usize = kept.iter().map(|event| event.len).sum();
            let Some(oldest) = kept.first() else { return };
            let old = rule.age.is_some_and(|age| now.saturating_sub(oldest.at) > age);
            if kept.len() <= rule.count && bytes <= rule.bytes && !old {
                return;
            }
            let seq = oldest.seq;
            self.lose(topic, &[seq]);
        }
    }

    fn lose(&mut self, topic: u64, numbers: &[u64]) {
        for event in self.events.iter_mut().filter(|event| numbers.contains(&event.seq)) {
            event.kept_in.remove(&topic);
            if let Some(lost) = self.lost.get_mut(&topic) {
                *lost = (*lost).max(event.seq);
            }
        }
    }
}
