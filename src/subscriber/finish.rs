//! The end of a subscriber's topics: its stream ends when all of them have, after everything that waits for it.

use std::sync::Arc;
use std::time::Duration;

use super::phase::{Phase, Subscriber};
use super::topic_ends::Finish;
use crate::ending::TopicEnd;
use crate::entry::Entry;
use crate::topic::TopicId;

impl Subscriber {
    /// One of its topics has ended; it is in `others` still. True when these were all: its consumer is to come for
    /// the end, and nothing more is to be dispatched to it.
    pub fn end_topic(&mut self, end: &Arc<TopicEnd>, others: &[TopicId]) -> bool {
        if !self.is_finished() {
            self.finish = Finish::Some(end.clone());
        }
        self.leave_topics(others)
    }

    /// It is in `others` only. True when all its topics have ended, which it has just learnt.
    pub fn leave_topics(&mut self, others: &[TopicId]) -> bool {
        match &self.finish {
            Finish::Some(end) if others.iter().all(|&topic| topic == TopicId::BROADCAST) => {
                self.finish = Finish::All(end.clone());
                true
            }
            _ => false,
        }
    }

    /// Whether all its topics have ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.finish, Finish::All(_))
    }

    /// Without having been given everything, it is not told that it was.
    pub(super) fn forget_end(&mut self) {
        self.finish = Finish::None;
    }

    /// Everything else was taken: the end comes, if it is time.
    pub(super) fn take_end(&mut self, now: Duration, out: &mut Vec<Arc<Entry>>) {
        let Finish::All(end) = &self.finish else { return };
        let end = end.clone();
        match self.phase {
            Phase::Live => self.phase = Phase::Finished,
            Phase::Closed { replay: None, .. } => self.forget_end(),
            _ => return,
        }
        // In several topics, of which it left the last, the client may have events from behind the end. An id before
        // theirs would have them come again.
        let seen = out.iter().filter_map(|entry| entry.seq).fold(self.last_seq, u64::max);
        let cursor = end.cursor().filter(|cursor| cursor.seq >= seen);
        out.extend(end.ending.tail(self.terms.format, self.terms.control, cursor, now));
    }
}
