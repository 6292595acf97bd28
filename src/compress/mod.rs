//! Compressed streams: gzip bodies that many clients share.
//!
//! A body is a gzip header, raw deflate blocks and a trailer. The blocks come from two places:
//!
//! * a [`Window`]: one deflate stream for all clients of a reader that are in the same topics. An event is compressed
//!   once, with everything before it as its dictionary, and the same bytes, a *piece*, go to each of these clients. While
//!   clients are outside, the window *starts over* now and then: a piece refers to nothing before it.
//! * [`Blocks`]: each refers to nothing but itself and ends at a byte, for all other bytes.
//!
//! A piece ends within a byte: an end at a byte would take four more, of forty. A client that leaves its window
//! is given what *closes* its last piece: it then is at a byte, where anything may follow.
//!
//! ```text
//!               a piece with which the window starts over
//! outside ---------------------------------------------------> inside: the window's next pieces
//!    '-- blocks <-------------------------------------------------'
//!               anything else
//! ```
//!
//! A client is outside when it is new, resumed or lagged, or was given a heartbeat or anything of its own: its decoder
//! then holds bytes that the window does not, and a piece would refer to the wrong place.
//!
//! **What is not shared.** A window has the *shared* topics of its clients: those with clients of at least two users at
//! this reader. An event of other topics, an event sent to one client, an initial event and the hub's own events are
//! blocks, alone or with events of the same topics. So the length of a piece says nothing about them that somebody else
//! could learn by publishing similar text. Topics that one stream alone has together get blocks as well.
//!
//! **Lanes.** Streams with a rate are written to in groups, and with keys each group receives other values. A window
//! whose next piece is not what such a client takes next is another group's; the client goes on in a window of its own
//! group's *lane*.

mod blocks;
mod deflate;
mod sum;
mod window;
mod zipped;

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::entry::Entry;
use crate::ids::SubscriberId;
use crate::topic::TopicIds;
use blocks::Blocks;
use deflate::closing;
use sum::Sum;
use window::{Inside, Window};
use zipped::zipped;

/// Windows of one reader. Each has about 300 KB, and up to 1 MB of events.
const WINDOWS: usize = 32;
/// Sets of topics that a reader remembers.
const GROUPS: usize = 1024;
/// Another window may take the place of one that was not used for this long.
const UNUSED: Duration = Duration::from_secs(5);
/// Events that wait for clients that are behind are kept for this long.
const QUIET: Duration = Duration::from_secs(10);
/// A window that nobody uses is kept for this long.
const IDLE: Duration = Duration::from_secs(60);
/// RFC 1952: deflate, no name, no time, an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// The group in which a stream with a rate is written to: its interval, and the part of it.
pub type Lane = Option<(Duration, u8)>;

/// One client's compressed body.
#[derive(Debug)]
pub struct Zip {
    inside: Option<Inside>,
    /// Of the events it was given, without those since it is inside.
    sum: Sum,
    owes_header: bool,
    is_over: bool,
    lane: Lane,
    /// The window that it may use, as of this state of the reader's topics.
    window: Option<u64>,
    checked: Option<u64>,
}

impl Zip {
    /// A body whose header goes out with the first event, or was sent already.
    #[must_use]
    pub fn new(owes_header: bool) -> Self {
        Self {
            inside: None,
            sum: Sum::default(),
            owes_header,
            is_over: false,
            lane: None,
            window: None,
            checked: None,
        }
    }

    /// Whether the end was given.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Leave the window, if it is in one, so that anything may follow.
    fn leave(&mut self, out: &mut Vec<Arc<Entry>>) {
        if let Some(Inside { from, to, due, .. }) = self.inside.take() {
            self.sum = self.sum.then(to.behind(from));
            if due > 0 {
                out.push(zipped(&[], closing(due)));
            }
        }
    }

    /// The piece of a window with which the client goes on to an event; `None` where that is in no window. `lane` is the
    /// client's, if it has one.
    fn place_in(
        &mut self,
        window: &mut Window,
        event: &Arc<Entry>,
        lane: Lane,
        now: Duration,
    ) -> Option<u64> {
        if !event.is_published {
            return None;
        }
        let place = window.place_of(self.inside, event, now);
        let conflicts = self.inside.is_some_and(|inside| Some(inside.next) != place) && window.has(event);
        if conflicts && lane.is_some() && lane != self.lane {
            (self.lane, self.checked) = (lane, None);
        }
        place
    }

    /// Go on with this piece of a window.
    fn go_on(&mut self, window: &Window, place: u64, out: &mut Vec<Arc<Entry>>) {
        let follows = |inside: &Inside| (inside.window, inside.next) == (window.number(), place);
        if !self.inside.as_ref().is_some_and(follows) {
            self.leave(out);
        }
        if let Some((piece, inside)) = window.give(place, self.inside) {
            out.push(piece);
            self.inside = Some(inside);
        }
    }

    fn give_header(&mut self, out: &mut Vec<Arc<Entry>>) {
        if std::mem::take(&mut self.owes_header) {
            out.push(zipped(&[], &HEADER));
        }
    }

    /// The end of the body: an empty last block, and the trailer. False when it was given before.
    pub fn end(&mut self, out: &mut Vec<Arc<Entry>>) -> bool {
        if std::mem::replace(&mut self.is_over, true) {
            return false;
        }
        self.leave(out);
        self.give_header(out);
        let mut bytes = vec![3, 0];
        bytes.extend_from_slice(&self.sum.crc.to_le_bytes());
        // RFC 1952: the number of bytes modulo 2^32.
        bytes.extend_from_slice(&self.sum.len.to_le_bytes()[..4]);
        out.push(zipped(&[], &bytes));
        true
    }
}

/// The clients that are in the same shared topics.
enum Group {
    /// Only this one was seen.
    Alone(SubscriberId),
    Window(u64),
}

/// What a reader compresses for its clients.
#[derive(Default)]
pub struct Zipper {
    windows: FxHashMap<u64, Window>,
    groups: FxHashMap<(TopicIds, Lane), Group>,
    blocks: Blocks,
    /// What is compressed now.
    plain: Vec<Arc<Entry>>,
    numbers: u64,
    /// Changes with the topics of the reader's clients, and with the windows.
    version: u64,
    forget_at: Duration,
}

impl Zipper {
    /// A client has joined or left a topic of this reader.
    pub fn topics_changed(&mut self) {
        self.version += 1;
    }

    /// Compress what a client takes. `lane` is that of a stream with a rate; `shared` returns the topics, in order, that
    /// it shares with others.
    pub fn zip(
        &mut self,
        zip: &mut Zip,
        client: SubscriberId,
        lane: Lane,
        shared: impl FnOnce() -> TopicIds,
        entries: &mut Vec<Arc<Entry>>,
        now: Duration,
    ) {
        let is_gone = |number| !self.windows.contains_key(&number);
        if zip.checked != Some(self.version) || zip.window.is_some_and(is_gone) {
            zip.window = self.window_of(client, zip.lane, shared(), now);
            zip.checked = Some(self.version);
        }
        let Self { windows, blocks, plain, .. } = self;
        std::mem::swap(plain, entries);
        let mut window = zip.window.and_then(|number| windows.get_mut(&number));
        zip.give_header(entries);
        let mut outside = 0;
        for (at, event) in plain.iter().enumerate() {
            let place = window.as_deref_mut().and_then(|window| zip.place_in(window, event, lane, now));
            let Some((window, place)) = window.as_deref().zip(place) else {
                zip.leave(entries);
                continue;
            };
            give_blocks(blocks, zip, Some(window), &plain[outside..at], entries);
            outside = at + 1;
            zip.go_on(window, place, entries);
        }
        give_blocks(blocks, zip, window.as_deref(), &plain[outside..], entries);
        plain.clear();
    }

    /// The window for a client that shares these topics; `None` where it is the only one.
    fn window_of(
        &mut self,
        client: SubscriberId,
        lane: Lane,
        topics: TopicIds,
        now: Duration,
    ) -> Option<u64> {
        if topics.is_empty() {
            return None;
        }
        let key = (topics, lane);
        match self.groups.get(&key) {
            Some(Group::Window(number)) if self.windows.contains_key(number) => return Some(*number),
            Some(Group::Alone(first)) if *first == client => return None,
            Some(_) => {}
            None => {
                if self.groups.len() >= GROUPS {
                    self.forget_groups();
                }
                if self.groups.len() < GROUPS {
                    self.groups.insert(key, Group::Alone(client));
                }
                return None;
            }
        }
        if self.windows.len() >= WINDOWS && !self.make_room(now) {
            return None;
        }
        self.numbers += 1;
        self.windows.insert(self.numbers, Window::new(self.numbers, key.0.clone(), now));
        self.groups.insert(key, Group::Window(self.numbers));
        // The other client has yet to learn of it.
        self.version += 1;
        Some(self.numbers)
    }

    /// Drop the window that was not used for the longest time; false when all are in use.
    fn make_room(&mut self, now: Duration) -> bool {
        let longest = self.windows.values().max_by_key(|window| window.idle(now));
        match longest.filter(|window| window.idle(now) >= UNUSED).map(Window::number) {
            Some(number) => self.windows.remove(&number).is_some(),
            None => false,
        }
    }

    fn forget_groups(&mut self) {
        let Self { groups, windows, .. } = self;
        groups.retain(|_, group| matches!(group, Group::Window(number) if windows.contains_key(number)));
    }

    /// Let go of what has not been used for a while.
    pub fn forget(&mut self, now: Duration) {
        if self.numbers == 0 && self.blocks.is_empty() || now < self.forget_at {
            return;
        }
        self.forget_at = now + QUIET;
        self.blocks.forget();
        let before = self.windows.len();
        self.windows.retain(|_, window| window.idle(now) < IDLE);
        self.windows.values_mut().filter(|window| window.idle(now) >= QUIET).for_each(Window::forget);
        if self.windows.len() < before {
            self.forget_groups();
        }
    }
}

/// Give a client blocks of these events, which are in no window.
fn give_blocks(
    blocks: &mut Blocks,
    zip: &mut Zip,
    window: Option<&Window>,
    events: &[Arc<Entry>],
    out: &mut Vec<Arc<Entry>>,
) {
    let are_together = |one: &Arc<Entry>, other: &Arc<Entry>| {
        let are_shared = |window: &Window| window.has(one) && window.has(other);
        one.is_published
            && other.is_published
            && (one.target == other.target || window.is_some_and(are_shared))
    };
    for run in events.chunk_by(are_together) {
        for event in run {
            zip.sum.add(event.frame.sse());
        }
        out.push(blocks.of(run));
    }
}
