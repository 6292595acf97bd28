//! Counters and measurements, and their snapshots.

use std::time::Duration;

use crate::histogram::{Histogram, Snapshot};
use crate::identity::CloseReason;
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
    /// Bytes of what was handed to the writers of compressed streams, before it was compressed.
    uncompressed_bytes,
    /// The same after that.
    compressed_bytes,
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
    /// Newcomers turned away at `max_subscribers` or `max_per_user`.
    turned_away,
    /// Runs whose process ended, of which this one has told the watchers.
    runs_lost,
}

/// Add to a counter.
pub fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// The bounds for the time from publishing to writing, in seconds.
const FAST: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
/// The bounds for the life of a stream, in seconds.
const LONG: [f64; 10] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0];
/// The bounds for the number of events in a replay.
const MANY: [f64; 9] = [0.0, 1.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 10000.0];

/// What the hub measures.
#[derive(Debug)]
pub struct Measures {
    /// From publishing to writing: one observation for each batch that a reader delivers, of its oldest event and its
    /// last client. With a broker it counts from the arrival in this process.
    pub publish_to_write: Histogram,
    /// From the broker's id of an entry to its arrival in this process, once for each batch.
    pub broker_lag: Histogram,
    /// From a stream's registering to its end.
    pub lifetime: Histogram,
    /// The events of each complete replay.
    pub replay: Histogram,
    /// Ended streams, by the kind of their end. Relaxed, as [`Counters`].
    ends: [AtomicU64; CloseReason::KINDS.len()],
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            publish_to_write: Histogram::new(&FAST),
            broker_lag: Histogram::new(&FAST),
            lifetime: Histogram::new(&LONG),
            replay: Histogram::new(&MANY),
            ends: Default::default(),
        }
    }
}

impl Measures {
    /// Count the end of a stream; without a reason, its event loop was closed.
    pub fn ended(&self, reason: Option<&CloseReason>, lifetime: Duration) {
        let kind = reason.map_or(CloseReason::LOOP_CLOSED, CloseReason::kind);
        if let Some(place) = CloseReason::KINDS.iter().position(|known| *known == kind) {
            count(&self.ends[place], 1);
        }
        self.lifetime.observe_time(lifetime);
    }

    /// Ended streams, by the kind of their end.
    #[must_use]
    pub fn ends(&self) -> Vec<(&'static str, u64)> {
        let counts = self.ends.iter().map(|ends| ends.load(Ordering::Relaxed));
        CloseReason::KINDS.into_iter().zip(counts).collect()
    }

    /// The histograms, by name.
    #[must_use]
    pub fn histograms(&self) -> [(&'static str, Snapshot); 4] {
        [
            ("publish_to_write", self.publish_to_write.snapshot()),
            ("broker_lag", self.broker_lag.snapshot()),
            ("lifetime", self.lifetime.snapshot()),
            ("replay", self.replay.snapshot()),
        ]
    }
}
