//! Ids of entries that the log acknowledged to this process and that this process has not read back. They reveal
//! entries that the log lost although it had acknowledged them.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::ids::StreamId;

/// How many ids are remembered. A process reads back what it wrote within milliseconds; beyond this number, every
/// second id of the older half is forgotten: a log loses its end, which is many entries in a row.
const MOST: usize = 4096;

/// Acknowledged ids that were not read back, ascending.
#[derive(Default)]
pub struct Acknowledged(Mutex<VecDeque<StreamId>>);

impl Acknowledged {
    /// Add the id of the last entry of an acknowledged batch: no log keeps the last entry of a batch without the rest.
    pub fn add(&self, id: StreamId) {
        let mut ids = self.0.lock();
        // In a log that lost its end, smaller ids may come after greater ones.
        let at = ids.partition_point(|known| *known < id);
        if ids.get(at) != Some(&id) {
            ids.insert(at, id);
        }
        if ids.len() > MOST {
            let mut place = 0;
            ids.retain(|_| {
                place += 1;
                place > MOST / 2 || place % 2 == 0
            });
        }
    }

    /// The newest, if any waits to be read back.
    pub fn newest(&self) -> Option<StreamId> {
        self.0.lock().back().copied()
    }

    /// Take the ids up to `id`: the log was read that far.
    pub fn take(&self, id: StreamId) -> Vec<StreamId> {
        let mut ids = self.0.lock();
        let count = ids.partition_point(|known| *known <= id);
        ids.drain(..count).collect()
    }

    /// Forget the ids after `first` up to `last`: they will never be read back.
    pub fn forget(&self, first: StreamId, last: StreamId) {
        self.0.lock().retain(|id| *id <= first || *id > last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> StreamId {
        StreamId { ms, seq: 0 }
    }

    #[test]
    fn ids_are_taken_in_order_once() {
        let acknowledged = Acknowledged::default();
        for ms in [5, 3, 9, 5] {
            acknowledged.add(id(ms));
        }
        assert_eq!(acknowledged.newest(), Some(id(9)));
        assert_eq!(acknowledged.take(id(5)), [id(3), id(5)]);
        assert_eq!(acknowledged.take(id(5)), []);
        acknowledged.forget(id(8), id(9));
        assert_eq!(acknowledged.newest(), None);
    }

    #[test]
    fn the_newest_are_remembered_of_very_many() {
        let acknowledged = Acknowledged::default();
        for ms in 1..=20_000 {
            acknowledged.add(id(ms));
        }
        let all = acknowledged.take(id(20_000));
        assert!(all.len() <= MOST, "{}", all.len());
        let newest: Vec<_> = (20_000 - 1000..=20_000).map(id).collect();
        assert!(all.ends_with(&newest));
    }
}
