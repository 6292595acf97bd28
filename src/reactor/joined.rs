//! Many small frames in one piece, made once for all who get the same: to the kernel every part of a gathering
//! write costs more than copying it.

use std::sync::Arc;

use crate::entry::Entry;

/// From this many on. Few are gathered without a copy.
const FEW: usize = 8;
/// Larger ones are gathered: these are worth no copy.
const LARGE: usize = 4 << 10;
/// As much as the piece has.
const BYTES: usize = 64 << 10;

/// The piece that was made last.
#[derive(Default)]
pub struct Joined {
    entries: Vec<Arc<Entry>>,
    bytes: Vec<u8>,
    /// Nothing more would be joined to it.
    full: bool,
}

impl Joined {
    /// The first of `entries` in one piece; none when it is better to gather them.
    pub fn of(&mut self, entries: &[Arc<Entry>]) -> Option<&[u8]> {
        let is_large = |entry: &Arc<Entry>| entry.frame.chunk().len() > LARGE;
        if entries.len() < FEW || entries[..FEW].iter().any(is_large) {
            return None;
        }
        if !self.is_of(entries) {
            self.make(entries);
        }
        Some(&self.bytes)
    }

    fn is_of(&self, entries: &[Arc<Entry>]) -> bool {
        let fits =
            if self.full { self.entries.len() <= entries.len() } else { self.entries.len() == entries.len() };
        fits && self.entries.iter().zip(entries).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    fn make(&mut self, entries: &[Arc<Entry>]) {
        self.entries.clear();
        self.bytes.clear();
        self.full = false;
        for entry in entries {
            let chunk = entry.frame.chunk();
            if chunk.len() > LARGE || self.bytes.len() + chunk.len() > BYTES {
                self.full = true;
                break;
            }
            self.entries.push(entry.clone());
            self.bytes.extend_from_slice(chunk);
        }
    }

    /// Keep nothing: what is forgotten elsewhere is to be freed.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::entry::Target;
    use crate::frame::FrameBuilder;

    fn entries(sizes: &[usize]) -> Vec<Arc<Entry>> {
        let entry = |&size: &usize| {
            let mut builder = FrameBuilder::new(None, None);
            builder.text(&"x".repeat(size));
            Arc::new(Entry::new(None, Target::All, Duration::ZERO, builder.finish(None).seal(None)))
        };
        sizes.iter().map(entry).collect()
    }

    fn together(entries: &[Arc<Entry>]) -> Vec<u8> {
        entries.iter().flat_map(|entry| entry.frame.chunk().iter().copied()).collect()
    }

    #[test]
    fn a_piece_is_shared_by_those_who_get_the_same() {
        let mut joined = Joined::default();
        let all = entries(&[10; 20]);
        let first = joined.of(&all).unwrap().as_ptr();
        assert_eq!(joined.of(&all.clone()).unwrap().as_ptr(), first);
        assert_eq!(joined.of(&all).unwrap(), together(&all));
        // Others, fewer and more of them.
        for other in [&entries(&[10; 20])[..], &all[1..], &all[..19], &all] {
            assert_eq!(joined.of(other).unwrap(), together(other));
        }
    }

    #[test]
    fn few_and_large_ones_are_not_joined() {
        let mut joined = Joined::default();
        assert!(joined.of(&entries(&[10; FEW - 1])).is_none());
        assert!(joined.of(&entries(&[LARGE; FEW])).is_none());
        // Up to a large one, and to as much as a piece has.
        let mut sizes = [10; 20];
        sizes[12] = LARGE;
        let some = entries(&sizes);
        assert_eq!(joined.of(&some).unwrap(), together(&some[..12]));
        let many = entries(&[1000; 100]);
        let piece = joined.of(&many).unwrap().to_vec();
        assert!(piece.len() <= BYTES && together(&many).starts_with(&piece) && piece.len() > BYTES - 2000);
        // Full, it serves those who have more behind it.
        let for_fewer = joined.of(&many[..90]).unwrap();
        assert_eq!(for_fewer, piece);
    }
}
