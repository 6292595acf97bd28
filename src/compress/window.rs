//! One deflate stream for all clients of a reader that are in the same topics.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use flate2::Compress;

use super::deflate::{closing, compressor, piece, stored};
use super::sum::Sum;
use super::zipped::zipped;
use crate::entry::Entry;
use crate::topic::TopicIds;

/// While clients are outside, the window starts over after this many events or this time.
const EVENTS: usize = 64;
const TIME: Duration = Duration::from_secs(5);
/// Pieces that are kept for clients that are behind, and bytes of their events: a little more than a reader delivers
/// before it writes.
const KEPT: usize = 1152;
const KEPT_BYTES: usize = 1 << 20;
/// The level below, which does not look for a longer match, costs one byte more of a tick of 101 bytes, and nine more of a
/// table of 1,743 bytes with one row changed, which takes 50. Higher levels gain 1 %.
const LEVEL: u32 = 7;

/// One event.
struct Piece {
    event: Arc<Entry>,
    zipped: Arc<Entry>,
    /// The same behind what closes the piece before, if it refers to nothing before it.
    closed_and_zipped: Option<Arc<Entry>>,
    /// Bits that begin the next piece, or are closed.
    due: u8,
    /// Of the window's events before it, and with it.
    before: Sum,
    after: Sum,
}

/// Where a client is that has everything of a window from `from` up to `to`, and needs this piece next.
#[derive(Debug, Clone, Copy)]
pub struct Inside {
    pub window: u64,
    pub next: u64,
    pub from: Sum,
    pub to: Sum,
    /// Bits that begin this piece, or are closed.
    pub due: u8,
}

/// A deflate stream that clients share.
pub struct Window {
    number: u64,
    topics: TopicIds,
    /// Made when the first event comes; about 300 KB. `None` also when it failed: the next event starts over.
    compress: Option<Box<Compress>>,
    pieces: VecDeque<Piece>,
    /// The numbers of the pieces with which it starts over.
    starts: VecDeque<u64>,
    bytes: usize,
    /// The number of the first piece that is kept.
    first: u64,
    /// The number of the last event in the hub's order.
    seq: Option<u64>,
    /// The number of the last event that a client outside took before anybody inside.
    missed: Option<u64>,
    sum: Sum,
    due: u8,
    since_start: usize,
    started: Duration,
    /// Whether a client outside wants the window to start over.
    is_wanted: bool,
    used: Duration,
}

impl Window {
    /// A window of these topics, in order.
    pub fn new(number: u64, topics: TopicIds, now: Duration) -> Self {
        Self {
            number,
            topics,
            compress: None,
            pieces: VecDeque::new(),
            starts: VecDeque::new(),
            bytes: 0,
            first: 0,
            seq: None,
            missed: None,
            sum: Sum::default(),
            due: 0,
            since_start: 0,
            started: now,
            is_wanted: false,
            used: now,
        }
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether an event is for all that are in one of its topics.
    pub fn has(&self, event: &Entry) -> bool {
        event.target.rings().iter().any(|topic| self.topics.binary_search(topic).is_ok())
    }

    /// How long nobody has used it.
    pub fn idle(&self, now: Duration) -> Duration {
        now.saturating_sub(self.used)
    }

    fn end(&self) -> u64 {
        self.first + self.pieces.len() as u64
    }

    fn piece(&self, number: u64) -> Option<&Piece> {
        self.pieces.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn is(&self, number: u64, event: &Arc<Entry>) -> bool {
        self.piece(number).is_some_and(|piece| Arc::ptr_eq(&piece.event, event))
    }

    fn is_due(&self, event: &Entry, now: Duration) -> bool {
        // The last event that a client outside took was taken by nobody inside.
        let is_left = self.missed > self.seq && event.seq > self.missed;
        let is_old = self.since_start >= EVENTS || now.saturating_sub(self.started) >= TIME;
        self.compress.is_none() || (self.is_wanted && (is_left || is_old))
    }

    /// Whether an event may come next. Those who take it in time would find an older one between: a client that
    /// replays, or takes late, adds nothing.
    fn accepts(&self, event: &Entry) -> bool {
        event.seq > self.seq && self.has(event)
    }

    /// The number of the piece that a client needs for an event; `None` outside.
    pub fn place_of(&mut self, client: Option<Inside>, event: &Arc<Entry>, now: Duration) -> Option<u64> {
        self.used = now;
        if let Some(Inside { next, .. }) = client.filter(|client| client.window == self.number) {
            if self.is(next, event) {
                return Some(next);
            }
            if next == self.end() && self.accepts(event) {
                return Some(self.append(event, now));
            }
        }
        if let Some(&start) = self.starts.iter().rev().find(|&&start| self.is(start, event)) {
            return Some(start);
        }
        self.is_wanted = true;
        if !self.accepts(event) {
            return None;
        }
        if !self.is_due(event, now) {
            self.missed = event.seq;
            return None;
        }
        Some(self.append(event, now))
    }

    /// A piece, and where a client is then that has it; `client` is where it is now, if this is the piece that it needs.
    pub fn give(&self, number: u64, client: Option<Inside>) -> Option<(Arc<Entry>, Inside)> {
        let piece = self.piece(number)?;
        let from = client.map_or(piece.before, |client| client.from);
        let inside = Inside { window: self.number, next: number + 1, from, to: piece.after, due: piece.due };
        let closed = piece.closed_and_zipped.as_ref().filter(|_| client.is_some());
        Some((closed.unwrap_or(&piece.zipped).clone(), inside))
    }

    fn append(&mut self, event: &Arc<Entry>, now: Duration) -> u64 {
        let starts_over = self.is_due(event, now);
        let mut compress = self.compress.take().unwrap_or_else(|| Box::new(compressor(LEVEL)));
        if starts_over {
            compress.reset();
            (self.since_start, self.started, self.is_wanted) = (0, now, false);
            self.starts.push_back(self.end());
        }
        let made = piece(&mut compress, event.frame.sse());
        let closed = |bytes: &[u8]| [closing(self.due), bytes].concat();
        let (bytes, due) = match made {
            Some(made) => {
                self.compress = Some(compress);
                made
            }
            None if starts_over => (stored(event.frame.sse()), 0),
            None => (closed(&stored(event.frame.sse())), 0),
        };
        let closed_and_zipped = starts_over.then(|| zipped(std::slice::from_ref(event), &closed(&bytes)));
        let before = self.sum;
        self.sum.add(event.frame.sse());
        self.due = due;
        self.since_start += 1;
        self.bytes += event.len();
        self.seq = event.seq;
        let zipped = zipped(std::slice::from_ref(event), &bytes);
        let number = self.end();
        self.pieces.push_back(Piece {
            event: event.clone(),
            zipped,
            closed_and_zipped,
            due,
            before,
            after: self.sum,
        });
        while self.pieces.len() > KEPT || (self.bytes > KEPT_BYTES && self.pieces.len() > 1) {
            self.drop_first();
        }
        number
    }

    fn drop_first(&mut self) {
        let Some(piece) = self.pieces.pop_front() else { return };
        self.bytes -= piece.event.len();
        self.first += 1;
        if piece.closed_and_zipped.is_some() {
            self.starts.pop_front();
        }
    }

    /// Let go of the events: history may have evicted them. A client that has all of them stays inside.
    pub fn forget(&mut self) {
        while !self.pieces.is_empty() {
            self.drop_first();
        }
        self.pieces.shrink_to_fit();
    }
}
