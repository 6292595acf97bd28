//! How many entries to request at once: as many as fill a page of a certain size, whatever the size of events.

use parking_lot::Mutex;

use crate::broker::letter::{Arrived, Letter};

/// About how many bytes an entry has besides its letter: its id, its fields, the reply's own parts.
const OVERHEAD: usize = 512;
/// The number of entries from which the size of the next ones is estimated.
const REMEMBERED: usize = 1024;

#[derive(Clone, Copy)]
struct Seen {
    entries: usize,
    bytes: usize,
}

impl Seen {
    fn fit(self, bytes: usize) -> usize {
        bytes.saturating_mul(self.entries) / self.bytes
    }
}

struct Measured {
    lately: Seen,
    /// The last page: when large entries follow small ones, the next request is for few.
    last: Seen,
}

/// The sizes of entries so far.
pub struct Pages(Mutex<Measured>);

impl Default for Pages {
    /// As if two of the largest events that a hub accepts by default had been seen: from there, pages double in size.
    fn default() -> Self {
        let seen = Seen { entries: 2, bytes: 2 << 20 };
        Self(Mutex::new(Measured { lately: seen, last: seen }))
    }
}

impl Pages {
    /// How many entries have about `bytes` bytes; at least one, at most `most`.
    pub fn entries(&self, bytes: usize, most: usize) -> usize {
        let measured = self.0.lock();
        measured.lately.fit(bytes).min(measured.last.fit(bytes)).clamp(1, most)
    }

    /// Note the sizes of entries that were read.
    pub fn read(&self, page: &[Arrived]) {
        if page.is_empty() {
            return;
        }
        let size = |entry: &Arrived| entry.letter.as_ref().map_or(0, Letter::len) + OVERHEAD;
        let last = Seen { entries: page.len(), bytes: page.iter().map(size).sum() };
        let mut measured = self.0.lock();
        measured.last = last;
        let lately = &mut measured.lately;
        lately.entries += last.entries;
        lately.bytes += last.bytes;
        while lately.entries > REMEMBERED {
            lately.entries /= 2;
            lately.bytes /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::letter::Whose;
    use crate::ids::StreamId;

    const PAGE: usize = 2 << 20;

    fn entries(count: usize, bytes: usize) -> Vec<Arrived> {
        let letter = || Letter::Kick { whose: Whose::Id("a".into()), reason: "x".repeat(bytes).into() };
        let id = StreamId::default();
        (0..count).map(|_| Arrived { id, before: Some(id), letter: Ok(letter()) }).collect()
    }

    #[test]
    fn a_page_of_small_entries_grows_to_the_most() {
        let pages = Pages::default();
        let mut counts = Vec::new();
        for _ in 0..9 {
            let count = pages.entries(PAGE, 512);
            pages.read(&entries(count, 100));
            counts.push(count);
        }
        assert_eq!(counts, [2, 3, 6, 12, 24, 48, 94, 181, 335]);
        pages.read(&entries(512, 100));
        assert_eq!(pages.entries(PAGE, 512), 512);
    }

    #[test]
    fn a_page_of_large_entries_has_few() {
        let pages = Pages::default();
        for _ in 0..10 {
            pages.read(&entries(512, 100));
        }
        pages.read(&entries(64, 1 << 20));
        assert!(pages.entries(PAGE, 512) <= 2);
        assert_eq!(pages.entries(1, 512), 1, "never none");
        pages.read(&entries(1, 100));
        let count = pages.entries(PAGE, 512);
        assert!((3..=64).contains(&count), "{count}: one small one says little of the next");
    }

    #[test]
    fn nothing_read_changes_nothing() {
        let pages = Pages::default();
        pages.read(&[]);
        assert_eq!(pages.entries(PAGE, 512), 2);
    }
}
