//! Forgetting topics that have no subscribers and keep no events.

use std::sync::Arc;
use std::time::Duration;

use super::sweep::{STEP, Sweep};
use super::{Hub, State};
use crate::topic::TopicId;

impl Hub {
    /// Forget all topics that nobody needs now, unlocking the hub between two steps.
    pub(super) fn sweep_all(&self) {
        let now = self.clock.now();
        let until = self.state.lock().topics.newest();
        let mut examined = Some(TopicId::BROADCAST);
        while let Some(after) = examined {
            let mut state = self.state.lock();
            state.expire(self, now);
            examined = state.forget_idle(after, until, STEP, now);
            if examined.is_none() {
                state.sweep = Sweep::after(state.topics.len());
            }
        }
    }
}

impl State {
    /// A step of the pass over all topics, if one runs or begins.
    pub(super) fn sweep(&mut self, hub: &Hub, now: Duration) {
        let newest = self.topics.newest();
        let Some((after, most)) = self.sweep.due(self.topics.len(), newest) else { return };
        self.expire(hub, now);
        match self.forget_idle(after, newest, most, now) {
            Some(examined) => self.sweep.go_on(examined, newest),
            None => self.sweep = Sweep::after(self.topics.len()),
        }
    }

    /// Examine at most `most` topics behind `after`, up to `until`, and forget those that nobody needs. Returns the last
    /// one that was examined, or `None` at the end.
    fn forget_idle(&mut self, after: TopicId, until: TopicId, most: usize, now: Duration) -> Option<TopicId> {
        let (mut examined, mut last) = (0, None);
        let mut idle: Vec<(TopicId, Arc<str>)> = Vec::new();
        for (id, info) in self.topics.behind(after).take_while(|(id, _)| *id <= until).take(most) {
            (examined, last) = (examined + 1, Some(id));
            if info.subscribers == 0 && !self.ends.needs(id) && !self.history.is_pinned(id) {
                idle.push((id, info.name.clone()));
            }
        }
        for (id, name) in idle {
            self.history.expire(id, now);
            if self.history.keeps_nothing(id) {
                self.history.evict_topic(id, &name);
                self.topics.remove(id);
                self.ends.forget_answer(id);
            }
        }
        last.filter(|_| examined == most)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sweep::FIRST;
    use super::*;
    use crate::clock::Clock;
    use crate::config::Config;
    use crate::frame::FrameBuilder;
    use crate::history::Retention;
    use crate::queue::{Capacity, OverflowPolicy};
    use crate::topic::Topic;

    const SECOND: Duration = Duration::from_secs(1);

    fn hub() -> Hub {
        let config = Config {
            retention: Retention { count: 10, bytes: 1 << 20, age: Some(SECOND) },
            history_total_bytes: 1 << 30,
            heartbeat: None,
            reconnect_ms: (1, 1),
            capacity: Capacity { events: 10, bytes: 1 << 20 },
            overflow: OverflowPolicy::Disconnect,
            interval: None,
            stall_timeout: SECOND,
            backlog_bytes: 1 << 20,
            max_event_bytes: 1 << 20,
            max_subscribers: None,
            max_per_user: None,
            max_topics: None,
        };
        Hub::new(config, Clock::manual())
    }

    fn publish(hub: &Hub, names: impl Iterator<Item = String>) -> usize {
        let names: Vec<Topic> = names.map(|name| Topic::new(&name).unwrap()).collect();
        hub.publish(&names, FrameBuilder::new(None, None).finish(None)).unwrap();
        hub.state.lock().topics.len()
    }

    fn fill(hub: &Hub, count: usize) {
        for n in 0..count {
            publish(hub, std::iter::once(format!("idle {n}")));
        }
        assert_eq!(hub.state.lock().topics.len(), count);
        assert!(hub.clock.advance(2 * SECOND));
    }

    #[test]
    fn a_publication_examines_a_few_topics_and_all_are_forgotten_in_the_end() {
        let hub = hub();
        // 8,000 topics lie between two passes, at 4,096 and 8,192.
        fill(&hub, 8000);
        let mut before = publish(&hub, (0..1000).map(|n| format!("used {n}")));
        assert_eq!(before, 9000 - STEP);
        let mut publications = 0;
        while before > 1000 {
            let after = publish(&hub, std::iter::once("used 0".to_owned()));
            assert!((1..=STEP).contains(&(before - after)), "{before} {after}");
            (before, publications) = (after, publications + 1);
        }
        assert_eq!((before, publications), (1000, 8000usize.div_ceil(STEP) - 1));
    }

    #[test]
    fn a_pass_ends_however_many_topics_each_publication_adds() {
        let hub = hub();
        fill(&hub, 8000);
        for round in 0..20 {
            publish(&hub, (0..2000).map(|n| format!("{round} {n}")));
            assert!(hub.clock.advance(SECOND));
        }
        assert!(hub.state.lock().topics.len() < 20_000, "{}", hub.state.lock().topics.len());
    }

    #[test]
    fn what_is_asked_for_is_forgotten_at_once() {
        let hub = hub();
        fill(&hub, 3 * STEP + 1);
        hub.sweep_all();
        assert_eq!(hub.state.lock().topics.len(), 0);
        assert_eq!(hub.state.lock().sweep.begins_at, FIRST);
    }
}
