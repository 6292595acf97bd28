//! The locks of the core, so that the model tests can put a scheduler's own in their place.
//!
//! Locks that are held together have a [`Rank`]. A debug build panics where a thread takes one that does not rank
//! above all it holds: two threads could wait for each other for ever there, on another day.

#[cfg(not(feature = "shuttle"))]
pub use parking_lot::{Mutex, MutexGuard};
#[cfg(not(feature = "shuttle"))]
pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[cfg(feature = "shuttle")]
pub use shuttle::sync::{
    MutexGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::ids::ReaderId;

/// `shuttle`'s mutex with `parking_lot`'s face: a panic elsewhere does not poison it.
#[cfg(feature = "shuttle")]
#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

#[cfg(feature = "shuttle")]
impl<T> Mutex<T> {
    /// A new mutex around `value`.
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    /// Lock it, waiting as long as it takes.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The order in which one thread may take locks: the lower rank first, and no rank twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A reader's; of two readers, the one with the lower number comes first.
    Reader(ReaderId),
    /// The hub's.
    Hub,
    /// The lock under which changes of presence are handed to the broker.
    Presence,
    /// The changes of presence that the broker has yet to get.
    PresenceQueue,
}

/// A mutex with a rank. Release builds and the model tests do not check it.
#[derive(Debug)]
pub struct RankedMutex<T> {
    mutex: Mutex<T>,
    #[cfg(all(debug_assertions, not(feature = "shuttle")))]
    rank: Rank,
}

#[cfg(not(all(debug_assertions, not(feature = "shuttle"))))]
impl<T> RankedMutex<T> {
    /// A new mutex around `value`.
    #[inline]
    pub const fn new(_rank: Rank, value: T) -> Self {
        Self { mutex: Mutex::new(value) }
    }

    /// Lock it, waiting as long as it takes.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.mutex.lock()
    }
}

/// In debug builds: panic if this thread holds a ranked lock. For code that may wait, lock, or call a waker.
#[inline]
pub fn assert_unlocked() {
    #[cfg(all(debug_assertions, not(feature = "shuttle")))]
    checked::assert_unlocked();
}

#[cfg(all(debug_assertions, not(feature = "shuttle")))]
mod checked {
    use std::cell::RefCell;
    use std::ops::{Deref, DerefMut};

    use super::{Mutex, MutexGuard, Rank, RankedMutex};

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    impl<T> RankedMutex<T> {
        /// A new mutex around `value`.
        pub const fn new(rank: Rank, value: T) -> Self {
            Self { mutex: Mutex::new(value), rank }
        }

        /// Lock it, waiting as long as it takes.
        ///
        /// # Panics
        /// When this thread holds a lock of the same rank, or of a higher one.
        pub fn lock(&self) -> RankedGuard<'_, T> {
            let rank = self.rank;
            HELD.with_borrow_mut(|held| {
                assert!(held.iter().all(|&other| other < rank), "lock order: {rank:?} after {held:?}");
                held.push(rank);
            });
            RankedGuard { guard: self.mutex.lock(), rank }
        }
    }

    /// Access to the value of a [`RankedMutex`].
    pub struct RankedGuard<'a, T> {
        guard: MutexGuard<'a, T>,
        rank: Rank,
    }

    impl<T> Deref for RankedGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.guard
        }
    }

    impl<T> DerefMut for RankedGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.guard
        }
    }

    impl<T> Drop for RankedGuard<'_, T> {
        fn drop(&mut self) {
            // Guards may be dropped in any order.
            HELD.with_borrow_mut(|held| held.retain(|&rank| rank != self.rank));
        }
    }

    pub fn assert_unlocked() {
        HELD.with_borrow(|held| assert!(held.is_empty(), "called under a lock: {held:?}"));
    }
}

#[cfg(all(test, debug_assertions, not(feature = "shuttle")))]
mod tests {
    use super::*;

    fn reader(id: u64) -> RankedMutex<()> {
        RankedMutex::new(Rank::Reader(ReaderId(id)), ())
    }

    #[test]
    fn locks_are_taken_in_their_order() {
        let (one, two, hub) = (reader(1), reader(2), RankedMutex::new(Rank::Hub, ()));
        let held = (one.lock(), two.lock(), hub.lock());
        drop(held);
        let (first, second) = (one.lock(), hub.lock());
        drop(first);
        drop(second);
        assert_unlocked();
        drop(one.lock());
    }

    #[test]
    #[should_panic(expected = "lock order: Reader(ReaderId(1)) after [Hub]")]
    fn a_reader_after_the_hub_panics() {
        let hub = RankedMutex::new(Rank::Hub, ());
        let _held = hub.lock();
        let _ = reader(1).lock();
    }

    #[test]
    #[should_panic(expected = "lock order: Reader(ReaderId(1)) after [Reader(ReaderId(2))]")]
    fn two_readers_in_the_wrong_order_panic() {
        let two = reader(2);
        let _held = two.lock();
        let _ = reader(1).lock();
    }

    #[test]
    #[should_panic(expected = "called under a lock: [Hub]")]
    fn a_waker_called_under_a_lock_panics() {
        let hub = RankedMutex::new(Rank::Hub, ());
        let _held = hub.lock();
        assert_unlocked();
    }
}
