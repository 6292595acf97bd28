//! How the hub's order is written on the wire, and read back.
//!
//! Inside the hub, events have consecutive sequence numbers. On the wire, an event has an id: the hub's epoch and the
//! number, or with a broker the id that the broker's log gave it, so that all processes use the same id.

use std::collections::VecDeque;

use crate::control::ResetReason;
use crate::ids::{Epoch, EventId, StreamId};

/// Ids of a broker's log that are remembered. For an older one the broker is asked; a log that lost more than these is
/// not recognized.
const REMEMBERED: usize = 1 << 16;

/// Where a reconnecting client's id lies in the hub's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In this hub's own order.
    Here(u64),
    /// Not among the ids that this process remembers: the broker must be asked.
    Elsewhere(StreamId),
    /// Nowhere: the client's gap cannot be closed.
    Nowhere(ResetReason),
}

/// The ids of a broker's entries, in the hub's order.
#[derive(Debug, Default)]
pub struct Names {
    /// The ids that this process has read, ascending. Empty until the end of the log was found.
    ids: VecDeque<StreamId>,
    /// Where the current order, which has no gap, begins in `ids`; the ids before it belong to a broken one.
    start: usize,
    /// The sequence number of `ids[start]`.
    first: u64,
}

/// How a hub numbers what it publishes.
#[derive(Debug)]
pub enum Numbering {
    /// By itself.
    Own(Epoch),
    /// As the broker's log does.
    Stream(Names),
}

impl Names {
    fn find(&self, id: StreamId) -> Option<u64> {
        let at = self.ids.binary_search(&id).ok()?.checked_sub(self.start)?;
        Some(self.first + at as u64)
    }
}

impl Numbering {
    /// The id of the event with the number `seq`; `None` when it is not remembered.
    #[must_use]
    pub fn id(&self, seq: u64) -> Option<EventId> {
        match self {
            Self::Own(epoch) => Some(EventId { epoch: *epoch, seq }),
            Self::Stream(names) => {
                let at = usize::try_from(seq.checked_sub(names.first)?).ok()?;
                names.ids.get(names.start.checked_add(at)?)?.event_id()
            }
        }
    }

    /// Whether the hub knows where its order stands.
    #[must_use]
    pub fn has_started(&self) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Stream(names) => !names.ids.is_empty(),
        }
    }

    /// Where the id of a client stands; `head` is the newest number.
    #[must_use]
    pub fn find(&self, text: &str, head: u64) -> Place {
        let Some(id) = EventId::parse(text) else { return Place::Nowhere(ResetReason::Unknown) };
        match self {
            Self::Own(epoch) if id.epoch != *epoch => Place::Nowhere(ResetReason::Epoch),
            Self::Own(_) if id.seq > head => Place::Nowhere(ResetReason::Ahead),
            Self::Own(_) => Place::Here(id.seq),
            Self::Stream(names) => match StreamId::from_event_id(id) {
                None => Place::Nowhere(ResetReason::Unknown),
                Some(id) if id.is_any_beginning() => Place::Nowhere(ResetReason::Broker),
                Some(id) => names.find(id).map_or(Place::Elsewhere(id), Place::Here),
            },
        }
    }

    /// Follow the log from `id` on, which gets the number `seq`; the order before it is over.
    pub fn begin(&mut self, id: StreamId, seq: u64) {
        if let Self::Stream(names) = self {
            names.ids.truncate(names.ids.partition_point(|known| *known < id));
            names.start = names.ids.len();
            names.first = seq;
            names.ids.push_back(id);
        }
    }

    /// Append the next entry of the log.
    pub fn follow(&mut self, id: StreamId) {
        if let Self::Stream(names) = self {
            names.ids.push_back(id);
            if names.ids.len() > REMEMBERED {
                names.ids.pop_front();
                match names.start.checked_sub(1) {
                    Some(start) => names.start = start,
                    None => names.first += 1,
                }
            }
        }
    }

    /// The number of the log's entry `id`; for one from before the current order, the number of its beginning.
    #[must_use]
    pub fn number(&self, id: StreamId) -> Option<u64> {
        let Self::Stream(names) = self else { return None };
        let at = names.ids.partition_point(|known| *known < id);
        Some(names.first + at.saturating_sub(names.start) as u64)
    }

    /// Whether the log was once followed up to `id`: a log that has this id is the same log, whatever else it lost.
    #[must_use]
    pub fn has_followed(&self, id: StreamId) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Stream(names) => !id.is_any_beginning() && names.ids.binary_search(&id).is_ok(),
        }
    }

    /// The id up to which the log was followed.
    #[must_use]
    pub fn end(&self) -> Option<StreamId> {
        match self {
            Self::Own(_) => None,
            Self::Stream(names) => names.ids.back().copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64, seq: u64) -> StreamId {
        StreamId { ms, seq }
    }

    #[test]
    fn a_streams_entries_are_found_by_their_exact_name() {
        let mut numbering = Numbering::Stream(Names::default());
        assert!(!numbering.has_started());
        assert_eq!(numbering.find("5-0", 0), Place::Elsewhere(id(5, 0)));
        numbering.begin(id(5, 0), 41);
        numbering.follow(id(7, 0));
        numbering.follow(id(7, 1));
        assert!(numbering.has_started());
        assert_eq!(numbering.end(), Some(id(7, 1)));
        assert_eq!(numbering.find("5-0", 43), Place::Here(41));
        assert_eq!(numbering.find("7-1", 43), Place::Here(43));
        // Between two entries: from another life of the stream, so nothing is known of what followed it.
        assert_eq!(numbering.find("6-0", 43), Place::Elsewhere(id(6, 0)));
        assert_eq!(numbering.find("8-0", 43), Place::Elsewhere(id(8, 0)));
        // Any stream's beginning.
        assert_eq!(numbering.find("0-0", 43), Place::Nowhere(ResetReason::Broker));
        assert_eq!(numbering.find("k3f9x2-1", 43), Place::Nowhere(ResetReason::Unknown));
        assert_eq!(numbering.id(42).unwrap().to_string(), "7-0");
        assert_eq!(numbering.id(40), None);
        assert_eq!(numbering.id(44), None);
    }

    #[test]
    fn nobody_resumes_from_a_beginning_that_every_stream_may_have() {
        let mut numbering = Numbering::Stream(Names::default());
        numbering.begin(StreamId::default(), 1);
        numbering.follow(id(6, 0));
        assert_eq!(numbering.id(1).unwrap().to_string(), "0-0");
        assert_eq!(numbering.find("0-0", 2), Place::Nowhere(ResetReason::Broker));
        assert_eq!(numbering.find("6-0", 2), Place::Here(2));
    }

    #[test]
    fn a_new_beginning_forgets_the_old_names() {
        let mut numbering = Numbering::Stream(Names::default());
        numbering.begin(id(5, 0), 1);
        numbering.follow(id(6, 0));
        numbering.begin(id(2, 0), 3);
        assert_eq!(numbering.find("6-0", 3), Place::Elsewhere(id(6, 0)));
        assert_eq!(numbering.find("2-0", 3), Place::Here(3));
        assert_eq!(numbering.id(2), None);
    }

    #[test]
    fn a_stream_that_lost_its_end_is_known_again() {
        let mut numbering = Numbering::Stream(Names::default());
        numbering.begin(id(5, 0), 1);
        (6..=9).for_each(|ms| numbering.follow(id(ms, 0)));
        numbering.begin(id(7, 0), 6);
        numbering.follow(id(7, 3));
        let followed = |ms, seq| numbering.has_followed(id(ms, seq));
        assert!(followed(5, 0) && followed(6, 0) && followed(7, 0) && followed(7, 3));
        assert!(!followed(8, 0) && !followed(9, 0));
        // What was read before that is not replayed from here.
        assert_eq!(numbering.find("6-0", 7), Place::Elsewhere(id(6, 0)));
        assert_eq!(numbering.find("7-0", 7), Place::Here(6));
        assert_eq!(numbering.find("7-3", 7), Place::Here(7));
        assert_eq!(numbering.id(7).unwrap().to_string(), "7-3");
        assert_eq!(numbering.id(5), None);
        for ms in 10..10 + REMEMBERED as u64 {
            numbering.follow(id(ms, 0));
        }
        assert!(!numbering.has_followed(id(7, 3)));
        assert_eq!(numbering.find("10-0", 0), Place::Here(8));
        assert_eq!(numbering.id(8).unwrap().to_string(), "10-0");
    }

    #[test]
    fn a_beginning_that_any_stream_may_have_is_no_sign_of_one() {
        let mut numbering = Numbering::Stream(Names::default());
        numbering.begin(StreamId::default(), 1);
        assert!(!numbering.has_followed(StreamId::default()));
    }

    #[test]
    fn only_so_many_names_are_remembered() {
        let mut numbering = Numbering::Stream(Names::default());
        numbering.begin(id(0, 0), 1);
        for ms in 1..=REMEMBERED as u64 + 10 {
            numbering.follow(id(ms, 0));
        }
        let head = REMEMBERED as u64 + 11;
        assert_eq!(numbering.find("10-0", head), Place::Elsewhere(id(10, 0)));
        assert_eq!(numbering.find("11-0", head), Place::Here(12));
        assert_eq!(numbering.id(12).unwrap().to_string(), "11-0");
        assert_eq!(numbering.id(head).unwrap().to_string(), format!("{}-0", head - 1));
    }
}
