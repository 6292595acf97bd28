//! Pieces that refer to nothing but themselves.

use std::collections::VecDeque;
use std::sync::Arc;

use flate2::Compress;

use super::deflate::{block, compressor, stored};
use super::zipped::zipped;
use crate::entry::Entry;

/// Blocks that are kept for other clients that receive the same events, and bytes of these events.
const RECENT: usize = 8;
const RECENT_BYTES: usize = 1 << 20;
/// Fewer bytes than these are stored: a compressor begins anew for each block.
const FEW: usize = 96;
/// A page of a replay, 64 KB, takes about 0.5 ms, in which the reader's other clients wait.
const LEVEL: u32 = 2;

/// Makes blocks. Clients that receive the same published events share one.
#[derive(Default)]
pub struct Blocks {
    compress: Option<Box<Compress>>,
    recent: VecDeque<(Vec<Arc<Entry>>, Arc<Entry>)>,
    bytes: usize,
}

fn are_same(some: &[Arc<Entry>], others: &[Arc<Entry>]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(one, other)| Arc::ptr_eq(one, other))
}

impl Blocks {
    /// One block for all of `run`.
    pub fn of(&mut self, run: &[Arc<Entry>]) -> Arc<Entry> {
        let is_shared = run.iter().all(|entry| entry.is_published);
        if is_shared
            && let Some((_, block)) = self.recent.iter().rev().find(|(known, _)| are_same(known, run))
        {
            return block.clone();
        }
        let block = zipped(run, &self.compress(run));
        if is_shared {
            self.bytes += run.iter().map(|entry| entry.len()).sum::<usize>();
            self.recent.push_back((run.to_vec(), block.clone()));
            while self.recent.len() > RECENT || (self.bytes > RECENT_BYTES && self.recent.len() > 1) {
                let Some((old, _)) = self.recent.pop_front() else { break };
                self.bytes -= old.iter().map(|entry| entry.len()).sum::<usize>();
            }
        }
        block
    }

    fn compress(&mut self, run: &[Arc<Entry>]) -> Vec<u8> {
        let parts = || run.iter().map(|entry| entry.frame.sse());
        let len: usize = run.iter().map(|entry| entry.len()).sum();
        let stored = || stored(&parts().collect::<Vec<_>>().concat());
        if len < FEW {
            return stored();
        }
        let compress = self.compress.get_or_insert_with(|| Box::new(compressor(LEVEL)));
        compress.reset();
        block(compress, parts()).filter(|block| block.len() < len).unwrap_or_else(stored)
    }

    pub fn is_empty(&self) -> bool {
        self.recent.is_empty()
    }

    /// Let go of the events: history may have evicted them.
    pub fn forget(&mut self) {
        (self.recent, self.bytes) = (VecDeque::new(), 0);
    }
}
