//! How a stream is read on its event loop, and whether its consumer left it.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::identity::CloseReason;

/// Only the loop's thread changes it, and nothing else is published by it, so no ordering is needed; atomics because
/// Python's objects are shared.
#[derive(Default)]
pub struct Reading {
    /// How many loops there are.
    loops: AtomicUsize,
    left: AtomicU8,
}

/// How the last loop was left by an exception.
#[derive(Clone, Copy)]
pub enum Left {
    /// The consumer failed.
    Failed = 1,
    /// The consumer was cancelled or closed, or could not send: its client is gone.
    ClientGone = 2,
}

impl Reading {
    /// A loop begins.
    pub fn begin_loop(&self) {
        self.loops.fetch_add(1, Ordering::Relaxed);
    }

    /// A loop ends.
    pub fn end_loop(&self) {
        self.loops.fetch_sub(1, Ordering::Relaxed);
    }

    /// The loop that ended was left by an exception.
    pub fn leave(&self, left: Left) {
        self.left.store(left as u8, Ordering::Relaxed);
    }

    /// The stream is read: its consumer goes on.
    pub fn go_on(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// Why a stream closes that has no consumer left.
    pub fn reason(&self) -> CloseReason {
        if self.left.load(Ordering::Relaxed) == Left::ClientGone as u8 {
            CloseReason::Client
        } else {
            CloseReason::CLOSED
        }
    }

    /// Whether the last loop was left by an exception, and the stream was not read since.
    pub fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed) != 0 && self.loops.load(Ordering::Relaxed) == 0
    }
}
