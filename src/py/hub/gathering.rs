//! How long the events of an event loop's runs wait for each other, so that one wake-up of a reader serves several, and
//! a watcher gets several in one write. They are in the hub's log by then; only the readers' wake-ups wait.
//!
//! An event is gathered if the one before it of the same run came less than [`CLOSELY`] ago. Readers are woken for what
//! is gathered when a turn of the loop begins, as soon as
//!
//! - the runs have [`EACH`] such events each, on average, and the oldest is [`RECENT`] old, or [`CLOSELY`];
//! - or [`TURNS`] turns have brought nothing more. That takes some microseconds when the loop has nothing else to do.
//!
//! Any other event wakes them at once, or when the next turn begins if they were woken less than [`RECENT`] ago.
//!
//! A reader that is not woken has promised to drain within a moment, or is this loop's own. So a step that blocks the
//! loop delays an event for no longer than that.

use std::time::{Duration, Instant};

const CLOSELY: Duration = Duration::from_millis(1);
const RECENT: Duration = Duration::from_micros(100);
const EACH: u32 = 2;
/// One for the task that feeds a run, one for its own, and one because the order of tasks within a turn is not known.
const TURNS: u8 = 3;
/// How many events wake the readers at once after one that nothing followed.
const SKIPPED: u8 = 16;
/// Bytes for which no more is awaited.
const FULL: usize = 64 << 10;

/// The events of a loop's runs for which readers have yet to be woken.
#[derive(Default)]
pub struct Gathering {
    /// When readers were woken last.
    woken: Option<Instant>,
    /// Counts the wake-ups, from 1 on once there was an event.
    round: u64,
    /// When the first event came; `None` where none waits.
    oldest: Option<Instant>,
    events: u32,
    bytes: usize,
    /// How many runs they are of.
    runs: u32,
    /// Whether one of them waits for the next turn only.
    is_due: bool,
    /// Turns of the loop since the last one came.
    turns: u8,
    /// How many events are not gathered from now on.
    skips: u8,
}

/// What a run knows of it.
#[derive(Default)]
pub struct Part {
    /// When its latest event came.
    latest: Option<Instant>,
    /// Whether that followed another one closely.
    follows: bool,
    /// The round in which it was gathered.
    round: u64,
}

/// What follows for the caller.
#[derive(Debug, PartialEq, Eq)]
pub enum Then {
    /// Wake the readers.
    Wake,
    /// Call [`Gathering::turn`] when the loop's next turn begins.
    Turn,
    /// It will be called already.
    Nothing,
}

impl Part {
    /// An event of the run comes. Whether it follows another one closely.
    pub fn comes(&mut self, now: Instant) -> bool {
        self.follows = self.latest.replace(now).is_some_and(|latest| now - latest < CLOSELY);
        self.follows
    }
}

impl Gathering {
    /// Whether the event that comes need not wake the readers at once.
    pub fn takes(&mut self, now: Instant, part: &mut Part) -> bool {
        if part.follows {
            part.follows = self.skips == 0;
            self.skips = self.skips.saturating_sub(1);
        }
        part.follows || self.woken.is_some_and(|woken| now - woken < RECENT)
    }

    /// The event has woken all readers.
    pub fn woke(&mut self, now: Instant) {
        self.woken = Some(now);
    }

    /// The event, of so many bytes, has not woken all readers.
    pub fn gather(&mut self, now: Instant, bytes: usize, part: &mut Part) -> Then {
        let begins = self.oldest.is_none();
        if begins {
            self.round += 1;
            self.oldest = Some(now);
            (self.events, self.bytes, self.runs, self.is_due) = (0, 0, 0, false);
        }
        self.turns = 0;
        self.events += 1;
        self.bytes += bytes;
        self.is_due |= !part.follows;
        self.runs += u32::from(std::mem::replace(&mut part.round, self.round) != self.round);
        if begins {
            return Then::Turn;
        }
        if self.bytes < FULL {
            return Then::Nothing;
        }
        self.bytes = 0;
        Then::Wake
    }

    /// A turn of the loop begins.
    pub fn turn(&mut self, now: Instant) -> Then {
        let Some(oldest) = self.oldest else { return Then::Nothing };
        self.turns += 1;
        let age = now - oldest;
        let is_over = self.turns >= TURNS;
        let are_enough = age >= RECENT && self.events >= EACH * self.runs;
        if !(is_over || are_enough || self.is_due || age >= CLOSELY) {
            return Then::Turn;
        }
        if is_over {
            self.skips = SKIPPED;
        }
        (self.oldest, self.woken) = (None, Some(now));
        Then::Wake
    }
}
