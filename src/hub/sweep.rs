//! Where the pass is that forgets idle topics.
//!
//! A pass over all topics begins when they are twice as many as the last pass left. It is spread over publications and
//! subscriptions, a step each: the hub's lock is held for a step, not for hundreds of thousands of topics.

use crate::topic::TopicId;

/// Number of topics at which the first pass begins.
pub(super) const FIRST: usize = 1024;
/// Most topics that a step examines, besides those for which new topics pay.
pub(super) const STEP: usize = 512;
/// Topics that are examined for each new one while a pass runs, so that it ends however fast topics come.
const PER_NEW: usize = 2;

/// Where the pass over all topics is, and when the next one begins.
#[derive(Debug)]
pub(super) struct Sweep {
    /// Number of topics at which the next pass begins.
    pub(super) begins_at: usize,
    pass: Option<Pass>,
}

#[derive(Debug)]
struct Pass {
    /// Up to here the topics are examined.
    examined: TopicId,
    /// The newest topic at the last step.
    newest: TopicId,
}

impl Default for Sweep {
    fn default() -> Self {
        Self::after(0)
    }
}

impl Sweep {
    /// A pass has ended, and left this many topics.
    pub(super) fn after(left: usize) -> Self {
        Self { begins_at: (left * 2).max(FIRST), pass: None }
    }

    /// The step that is due with this many topics, of which this is the newest: the topic behind which it begins, and
    /// how many topics it examines.
    pub(super) fn due(&self, topics: usize, newest: TopicId) -> Option<(TopicId, usize)> {
        match &self.pass {
            Some(pass) => {
                let added = usize::try_from(newest.0 - pass.newest.0).unwrap_or(usize::MAX);
                Some((pass.examined, STEP.saturating_add(added.saturating_mul(PER_NEW))))
            }
            None => (topics >= self.begins_at).then_some((TopicId::BROADCAST, STEP)),
        }
    }

    /// The pass goes on behind `examined`.
    pub(super) fn go_on(&mut self, examined: TopicId, newest: TopicId) {
        self.pass = Some(Pass { examined, newest });
    }
}
