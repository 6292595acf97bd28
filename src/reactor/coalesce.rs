//! Many small frames in one buffer, made once for all clients that get the same frames. To the kernel every part
//! of a gathering write costs more than copying it.

use std::sync::Arc;

use crate::entry::Entry;

/// From this many frames on. A write of four small frames, held by a rate, took 19 µs gathered.
const FEW: usize = 2;
/// Larger frames are gathered: the copy would cost more than it saves.
const LARGE: usize = 4 << 10;
/// The size of one buffer.
const BYTES: usize = 64 << 10;
/// Buffers: a batch of the log, which all clients get, has at most a megabyte.
const BUFFERS: usize = 16;

/// The buffers that were made last.
#[derive(Default)]
pub struct Coalesced {
    buffers: Vec<Buffer>,
    /// The buffer that served last: the one behind it comes next, for the same client; or the first, for another one.
    latest: usize,
}

#[derive(Default)]
struct Buffer {
    entries: Vec<Arc<Entry>>,
    bytes: Vec<u8>,
    /// The next frame did not fit, so the buffer also serves longer lists that begin with its entries.
    full: bool,
}

impl Coalesced {
    /// The first of `entries` in one buffer, and their number; `None` when it is better to gather them.
    pub fn of(&mut self, entries: &[Arc<Entry>]) -> Option<(&[u8], usize)> {
        let is_large = |entry: &Arc<Entry>| entry.frame.chunk().len() > LARGE;
        if entries.len() < FEW || entries[..FEW].iter().any(is_large) {
            return None;
        }
        let places = (self.latest + 1..self.buffers.len()).chain(0..=self.latest);
        let found =
            places.into_iter().find(|&at| self.buffers.get(at).is_some_and(|one| one.serves(entries)));
        self.latest = found.unwrap_or_else(|| {
            let place = if self.buffers.len() < BUFFERS {
                self.buffers.push(Buffer::default());
                self.buffers.len() - 1
            } else {
                (self.latest + 1) % BUFFERS
            };
            self.buffers[place].fill(entries);
            place
        });
        let buffer = &self.buffers[self.latest];
        Some((&buffer.bytes, buffer.entries.len()))
    }

    /// Let go of the entries: history may have evicted them.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Buffer {
    fn serves(&self, entries: &[Arc<Entry>]) -> bool {
        let fits =
            if self.full { self.entries.len() <= entries.len() } else { self.entries.len() == entries.len() };
        fits && self.entries.iter().zip(entries).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    fn fill(&mut self, entries: &[Arc<Entry>]) {
        *self = Self::default();
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

    /// Where the bytes are, for how many entries; they are the bytes of these.
    fn place_of(coalesced: &mut Coalesced, entries: &[Arc<Entry>]) -> (*const u8, usize) {
        let (bytes, count) = coalesced.of(entries).unwrap();
        assert_eq!(bytes, concatenated(&entries[..count]));
        (bytes.as_ptr(), count)
    }

    #[test]
    fn clients_that_get_the_same_frames_share_a_buffer() {
        let mut coalesced = Coalesced::default();
        let all = entries(&[10; 20]);
        let first = place_of(&mut coalesced, &all);
        assert_eq!(place_of(&mut coalesced, &all.clone()), first);
        // Other entries, fewer and more.
        for other in [&entries(&[10; 20])[..], &all[1..], &all[..19], &all] {
            assert_eq!(place_of(&mut coalesced, other).1, other.len());
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
        assert_eq!(place_of(&mut coalesced, &entries(&sizes)).1, 12);
        let many = entries(&[1000; 100]);
        let first = place_of(&mut coalesced, &many);
        assert!((BYTES - 2000..=BYTES).contains(&concatenated(&many[..first.1]).len()));
        // A full buffer serves longer lists, too.
        assert_eq!(place_of(&mut coalesced, &many[..90]), first);
    }

    #[test]
    fn clients_share_the_buffers_of_a_batch_that_is_longer_than_one() {
        let mut coalesced = Coalesced::default();
        let all = entries(&[1000; 300]);
        let mut clients = [(); 3].map(|()| {
            let (mut left, mut places) = (&all[..], Vec::new());
            while !left.is_empty() {
                let (place, count) = place_of(&mut coalesced, left);
                places.push(place);
                left = &left[count..];
            }
            places
        });
        assert!(clients[0].len() > 3);
        clients.sort();
        assert_eq!(clients[0], clients[2]);
        // More lists than buffers: the oldest buffers go.
        for size in FEW..3 * BUFFERS {
            place_of(&mut coalesced, &all[..size]);
        }
        assert_eq!(coalesced.buffers.len(), BUFFERS);
    }
}
