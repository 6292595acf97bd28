//! Many small frames in one buffer, made once for all clients that get the same frames. To the kernel every part
//! of a gathering write costs more than copying it.

use std::sync::Arc;

use crate::entry::Entry;

/// From this many frames on. A write of four small frames, held by a rate, took 19 µs gathered.
const FEW: usize = 2;
/// Larger frames are gathered: the copy would cost more than it saves.
const LARGE: usize = 4 << 10;
/// The size of the buffer.
const BYTES: usize = 64 << 10;

/// The buffer that was made last.
#[derive(Default)]
pub struct Coalesced {
    entries: Vec<Arc<Entry>>,
    bytes: Vec<u8>,
    /// The next frame did not fit, so the buffer also serves longer lists that begin with its entries.
    full: bool,
}

impl Coalesced {
    /// The first of `entries` in one buffer; `None` when it is better to gather them.
    pub fn of(&mut self, entries: &[Arc<Entry>]) -> Option<&[u8]> {
        let is_large = |entry: &Arc<Entry>| entry.frame.chunk().len() > LARGE;
        if entries.len() < FEW || entries[..FEW].iter().any(is_large) {
            return None;
        }
        if !self.serves(entries) {
            self.fill(entries);
        }
        Some(&self.bytes)
    }

    fn serves(&self, entries: &[Arc<Entry>]) -> bool {
        let fits =
            if self.full { self.entries.len() <= entries.len() } else { self.entries.len() == entries.len() };
        fits && self.entries.iter().zip(entries).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    fn fill(&mut self, entries: &[Arc<Entry>]) {
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

    /// Let go of the entries: history may have evicted them.
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

    fn concatenated(entries: &[Arc<Entry>]) -> Vec<u8> {
        entries.iter().flat_map(|entry| entry.frame.chunk().iter().copied()).collect()
    }

    #[test]
    fn clients_that_get_the_same_frames_share_a_buffer() {
        let mut coalesced = Coalesced::default();
        let all = entries(&[10; 20]);
        let first = coalesced.of(&all).unwrap().as_ptr();
        assert_eq!(coalesced.of(&all.clone()).unwrap().as_ptr(), first);
        assert_eq!(coalesced.of(&all).unwrap(), concatenated(&all));
        // Other entries, fewer and more.
        for other in [&entries(&[10; 20])[..], &all[1..], &all[..19], &all] {
            assert_eq!(coalesced.of(other).unwrap(), concatenated(other));
        }
    }

    #[test]
    fn few_and_large_frames_are_not_coalesced() {
        let mut coalesced = Coalesced::default();
        assert!(coalesced.of(&entries(&[10; FEW - 1])).is_none());
        assert!(coalesced.of(&entries(&[LARGE; FEW])).is_none());
        // Up to a large frame, and up to the size of the buffer.
        let mut sizes = [10; 20];
        sizes[12] = LARGE;
        let some = entries(&sizes);
        assert_eq!(coalesced.of(&some).unwrap(), concatenated(&some[..12]));
        let many = entries(&[1000; 100]);
        let buffer = coalesced.of(&many).unwrap().to_vec();
        assert!(
            buffer.len() <= BYTES && concatenated(&many).starts_with(&buffer) && buffer.len() > BYTES - 2000
        );
        // A full buffer serves longer lists, too.
        let for_fewer = coalesced.of(&many[..90]).unwrap();
        assert_eq!(for_fewer, buffer);
    }
}
