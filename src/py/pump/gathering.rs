//! How long a stream's events may wait for others, so that they go out in one write.
//!
//! An event that comes when nothing was written for a while is written at once. One that comes soon after is gathered:
//!
//! - while the content does not wait at all, for [`WITHOUT_WAITS`];
//! - over waits after which it goes on soon, until the next event that comes when this one is [`OVER_WAITS`] old. So a
//!   stream with an event every 0.3 ms has every second one delayed by that; and one with an event every 10 µs,
//!   all by up to 0.1 ms.

use std::time::{Duration, Instant};

const WITHOUT_WAITS: Duration = Duration::from_millis(1);
const OVER_WAITS: Duration = Duration::from_micros(100);
/// No event is held for longer while its content waits. Content with as much time between its events is not fast.
const AT_MOST: Duration = WITHOUT_WAITS;

pub struct Gathering {
    /// When events were last written; `None` where the next one is the first after a long wait.
    written: Option<Instant>,
    /// When the oldest event came that is gathered.
    oldest: Option<Instant>,
    /// Whether the content has waited since events were last written.
    has_waited: bool,
}

impl Gathering {
    pub fn new() -> Self {
        Self { written: None, oldest: None, has_waited: true }
    }

    /// An event came. Whether it waits for more; otherwise all that is gathered is written now.
    pub fn came(&mut self, now: Instant) -> bool {
        let waits = self.may_go_on(now);
        if waits {
            self.oldest.get_or_insert(now);
        }
        waits
    }

    /// All that was gathered is written. Whether the content has waited since the last time.
    pub fn wrote(&mut self, now: Instant) -> bool {
        (self.written, self.oldest) = (Some(now), None);
        std::mem::replace(&mut self.has_waited, false)
    }

    /// The content waits. Whether what is gathered waits with it, or the next event if nothing is.
    pub fn waits(&mut self, now: Instant) -> bool {
        self.has_waited = true;
        self.may_go_on(now)
    }

    /// Whether events are gathered that are young enough to be held for longer.
    pub fn is_young(&self, now: Instant) -> bool {
        self.oldest.is_some_and(|oldest| now - oldest < AT_MOST)
    }

    pub fn is_empty(&self) -> bool {
        self.oldest.is_none()
    }

    /// All that was gathered is written, and the next event will be at once.
    pub fn begin_anew(&mut self) {
        *self = Self::new();
    }

    fn may_go_on(&self, now: Instant) -> bool {
        match (self.oldest, self.written) {
            (Some(oldest), _) if self.has_waited => now - oldest < OVER_WAITS,
            (_, Some(written)) => now - written < WITHOUT_WAITS,
            (_, None) => false,
        }
    }
}
