//! Waking: all that the core knows of event loops and of threads that deliver.

use crate::sync::{AtomicBool, Ordering, assert_unlocked};

/// Wakes the thread or loop behind a reader. Called from any thread, without any lock held; must be cheap
/// and must not fail.
pub trait Wake: Send + Sync {
    /// Let the reader drain soon.
    fn wake(&self);

    /// The same, called by a thread that delivers and never runs Python: it may serve the reader's clients in the place
    /// of the reader's own thread, if there are at most `most`. Returns how many there were.
    fn serve(&self, most: usize) -> usize {
        let _ = most;
        self.wake();
        0
    }
}

/// A bell that rings once until it is heard: many publications make one wake-up.
pub struct Bell {
    /// `SeqCst`. A reader that marks the bell as heard and then finds nothing must not have missed what was published
    /// by a thread that found the bell rung. Where both sides lock what they share in between, as the log and the
    /// reader's state are, that lock orders them already; for a source that publishes without one, store and load
    /// must not pass each other.
    rung: AtomicBool,
    /// Whether events follow each other closely. `SeqCst`, like the next, which needs the order of the log's lock alone:
    /// see [`Bell::promise`].
    follows: AtomicBool,
    /// Whether the reader drains again within a moment, rung or not.
    promised: AtomicBool,
    wake: Box<dyn Wake>,
}

impl Bell {
    /// A bell that was not rung.
    #[must_use]
    pub fn new(wake: Box<dyn Wake>) -> Self {
        let [rung, follows, promised] = [(); 3].map(|()| AtomicBool::new(false));
        Self { rung, follows, promised, wake }
    }

    /// Ring, unless it was rung and not heard yet.
    pub fn ring(&self) {
        assert_unlocked();
        if !self.rung.swap(true, Ordering::SeqCst) {
            self.wake.wake();
        }
    }

    /// The same by a thread that delivers, which may serve the reader's clients itself: see [`Wake::serve`].
    #[must_use]
    pub fn ring_or_serve(&self, most: usize) -> usize {
        assert_unlocked();
        if self.rung.swap(true, Ordering::SeqCst) { 0 } else { self.wake.serve(most) }
    }

    /// Ring for an event that others follow closely, unless the reader has promised to drain within a moment. Whether it
    /// has; the caller then rings soon, so that one wake-up serves several events.
    #[must_use]
    pub fn ring_unless_promised(&self) -> bool {
        assert_unlocked();
        self.follows.store(true, Ordering::SeqCst);
        let promised = self.promised.load(Ordering::SeqCst);
        if !promised {
            self.ring();
        }
        promised
    }

    /// Whether events followed each other closely since the last call.
    pub fn events_follow(&self) -> bool {
        self.follows.swap(false, Ordering::SeqCst)
    }

    /// Promise to drain again within a moment, rung or not, or end that promise. Must come *before* the log is read: an
    /// event that is published between the two finds what is promised now, because the log's lock orders it behind this.
    pub fn promise(&self, promised: bool) {
        self.promised.store(promised, Ordering::SeqCst);
    }

    /// Suppress wake-ups while the caller prepares to wake the reader itself: by dropping the result, or by other
    /// means, and then it forgets the result. For a moment only.
    #[must_use]
    pub fn hold(&self) -> Held<'_> {
        self.rung.store(true, Ordering::SeqCst);
        Held(self)
    }

    /// The reader is about to read the log; publications from now on ring again. Must come *before* the reading, or a
    /// publication between the two wakes nobody.
    pub fn heard(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }
}

/// A bell whose wake-ups are suppressed: see [`Bell::hold`].
pub struct Held<'a>(&'a Bell);

impl Held<'_> {
    /// The reader was woken.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.wake.wake();
    }
}
