//! Counters, and their snapshot.

use crate::sync::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What the hub counts. Each counter only grows while the hub lives. Relaxed: nothing is concluded from one
        /// counter about another, or about anything else in memory.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64),* }

        impl Counters {
            /// The counters' names and values.
            #[must_use]
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed))),*]
            }
        }
    };
}

counters! {
    /// Events that were published.
    published,
    /// Everything handed to clients' writers: replayed events, heartbeats and control events too.
    delivered,
    /// Events dropped by an overflow policy; each was followed by `stream-lagged`.
    dropped,
    /// Values that a newer one of their key replaced before a client was given them.
    superseded,
    /// Streams ended because too much waited.
    overflowed,
    /// Streams ended because the client took nothing for `stall_timeout`.
    stalled,
    /// Streams that began, or went on, with `stream-reset`.
    resets,
    /// Streams that resumed completely.
    resumed,
    /// Heartbeats.
    heartbeats,
    /// Subscribers that joined.
    connected,
    /// Subscribers that left.
    disconnected,
    /// Events sent to one subscriber that was not there any more.
    undeliverable,
    /// Publications refused because the hub was full.
    refused,
    /// Newcomers turned away at `max_subscribers`.
    turned_away,
}

/// Add to a counter.
pub fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
