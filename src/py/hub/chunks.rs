//! The `bytes` a loop hands out, shared by the subscribers that get the same events.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::entry::Entry;
use crate::sync::Mutex;

/// How many joined chunks a loop remembers, and how many bytes of them.
const CACHED_CHUNKS: usize = 8;
const CACHED_BYTES: usize = 4 << 20;

/// The newest chunks of one loop.
#[derive(Default)]
pub struct Chunks(Mutex<Cache>);

#[derive(Default)]
struct Cache {
    recent: Vec<(Vec<Arc<Entry>>, Py<PyBytes>)>,
    bytes: usize,
}

impl Chunks {
    /// One `bytes` for these entries, shared by all subscribers of the loop that get the same.
    pub fn join(&self, py: Python<'_>, entries: Vec<Arc<Entry>>) -> Py<PyBytes> {
        // A chunk of this subscriber alone would evict chunks that others need.
        let shared = entries.iter().all(|entry| Arc::strong_count(entry) > 1);
        if shared {
            let same = |known: &Vec<Arc<Entry>>| {
                known.len() == entries.len() && known.iter().zip(&entries).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            let cache = self.0.lock();
            if let Some((_, bytes)) = cache.recent.iter().rev().find(|(known, _)| same(known)) {
                return bytes.clone_ref(py);
            }
        }
        let bytes = match &entries[..] {
            [entry] => PyBytes::new(py, entry.frame.sse()),
            entries => {
                let parts: Vec<&[u8]> = entries.iter().map(|entry| entry.frame.sse()).collect();
                PyBytes::new(py, &parts.concat())
            }
        };
        let bytes = bytes.unbind();
        if shared {
            let evicted = self.0.lock().add(py, entries, bytes.clone_ref(py));
            // Python's objects are dropped without the lock.
            drop(evicted);
        }
        bytes
    }

    /// Forget them: quiet topics keep no chunk in memory.
    pub fn clear(&self) {
        let old = std::mem::take(&mut *self.0.lock());
        drop(old);
    }
}

impl Cache {
    /// Add a chunk. Returns the chunks that it evicts.
    fn add(
        &mut self,
        py: Python<'_>,
        entries: Vec<Arc<Entry>>,
        bytes: Py<PyBytes>,
    ) -> Vec<(Vec<Arc<Entry>>, Py<PyBytes>)> {
        self.bytes += bytes.as_bytes(py).len();
        self.recent.push((entries, bytes));
        let mut evicted = Vec::new();
        while self.recent.len() > 1 && (self.recent.len() > CACHED_CHUNKS || self.bytes > CACHED_BYTES) {
            let oldest = self.recent.remove(0);
            self.bytes -= oldest.1.as_bytes(py).len();
            evicted.push(oldest);
        }
        evicted
    }
}
