//! A stream in memory that plays the broker, and processes that follow it, one step at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sse_hub::broker::letter::{Arrived, Letter, Step, To, Whose};
use sse_hub::clock::Clock;
use sse_hub::config::Config;
use sse_hub::control::ResetReason;
use sse_hub::ending::Ending;
use sse_hub::hub::{Hub, Verdict};
use sse_hub::ids::{BEGINNINGS, StreamId, SubscriberId};
use sse_hub::topic::Topic;
use sse_hub::waker::Wake;

use crate::ends::KEEP;
use crate::inert_broker::{InertBroker, Notes};
use crate::support::{World, draft, topics};

/// What an entry of the stream carries. An event without topics is a broadcast.
#[derive(Debug, Clone)]
pub enum Sent {
    Event(Vec<&'static str>, String),
    One(String, String),
    Kick(String),
    Life(&'static str, Step),
}

#[derive(Debug, Clone)]
pub struct Kept {
    id: StreamId,
    before: StreamId,
    sent: Sent,
}

impl Kept {
    fn letter(&self) -> Letter {
        match &self.sent {
            Sent::Event(names, data) if names.is_empty() => Letter::Event { to: To::All, draft: draft(data) },
            Sent::Event(names, data) => {
                Letter::Event { to: To::Topics(topics(names).into()), draft: draft(data) }
            }
            Sent::One(name, data) => Letter::Event { to: To::One(name.as_str().into()), draft: draft(data) },
            Sent::Kick(name) => Letter::Kick { whose: Whose::Id(name.as_str().into()), reason: "out".into() },
            Sent::Life(name, step) => Letter::Life { topic: Topic::new(name).unwrap(), step: step.clone() },
        }
    }

    fn arrived(&self) -> Arrived {
        Arrived { id: self.id, before: Some(self.before), letter: Ok(self.letter()) }
    }
}

/// The stream, as Redis keeps it, with a beginning of its own.
#[derive(Debug)]
pub struct Stream {
    pub entries: Vec<Kept>,
    pub last: StreamId,
    pub ms: u64,
    /// How often it lost its newest entries: part of all ids, so that none is given twice.
    pub losses: u64,
}

impl Default for Stream {
    fn default() -> Self {
        Self { entries: Vec::new(), last: beginning(0), ms: 0, losses: 0 }
    }
}

/// The id before the first entry of a stream that begins at this time.
pub fn beginning(ms: u64) -> StreamId {
    StreamId { ms, seq: BEGINNINGS }
}

impl Stream {
    pub fn add(&mut self, sent: Sent) -> StreamId {
        self.ms += 1;
        let id = StreamId { ms: self.ms, seq: self.losses };
        self.entries.push(Kept { id, before: self.last, sent });
        self.last = id;
        id
    }

    pub fn publish(&mut self, names: &[&'static str], data: &str) -> StreamId {
        self.add(Sent::Event(names.to_vec(), data.into()))
    }

    pub fn begin_run(&mut self, name: &'static str) -> StreamId {
        self.add(Sent::Life(name, Step::Begin { keep: KEEP }))
    }

    /// End a topic; its name is free after `KEEP`.
    pub fn end(&mut self, name: &'static str) -> StreamId {
        self.add(Sent::Life(name, Step::End { keep: KEEP, ending: Ending::ENDED }))
    }

    /// Keep the newest.
    pub fn trim(&mut self, keep: usize) {
        let gone = self.entries.len().saturating_sub(keep);
        self.entries.drain(..gone);
    }

    /// Delete all, the stream's last id included; it starts over behind this one.
    pub fn empty(&mut self, beginning: StreamId) {
        self.entries.clear();
        self.last = beginning;
        self.ms = beginning.ms;
    }

    /// Lose the newest entries, as a server that was not written to disk in time, or a replica that was behind and
    /// becomes the primary; its clock may be behind too. Gives their ids.
    pub fn lose_tail(&mut self, count: usize, is_clock_behind: bool) -> Vec<StreamId> {
        let mut kept = self.entries.len().saturating_sub(count);
        if self.entries.first().is_some_and(|entry| entry.before.is_any_beginning()) {
            // Which stream it is would show with the next entry only.
            kept = kept.max(1);
        }
        let gone = self.entries.split_off(kept);
        if let Some(first) = gone.first() {
            self.last = first.before;
        }
        if is_clock_behind {
            self.ms = self.last.ms;
        }
        self.losses += 1;
        gone.into_iter().map(|entry| entry.id).collect()
    }

    fn after(&self, id: StreamId, count: usize) -> Vec<Kept> {
        let first = self.entries.partition_point(|entry| entry.id <= id);
        self.entries[first..].iter().take(count).cloned().collect()
    }
}

/// Where a client's question stands.
enum Stage {
    Ask,
    Wait,
    Fetch { at: StreamId, end: StreamId, wanted: Arc<Wanted> },
}

struct Question {
    subscriber: SubscriberId,
    id: Option<StreamId>,
    stage: Stage,
}

#[derive(Default)]
pub struct Wanted(AtomicUsize);

impl Wake for Wanted {
    fn wake(&self) {
        self.0.store(1, Ordering::SeqCst);
    }
}

struct Next(Arc<Wanted>);

impl Wake for Next {
    fn wake(&self) {
        self.0.wake();
    }
}

/// The questions of the hub.
#[derive(Default)]
struct Asked(Mutex<Vec<(SubscriberId, Option<StreamId>)>>);

impl Notes for Asked {
    fn resolve(&self, subscriber: SubscriberId, asked: Option<StreamId>) {
        self.0.lock().push((subscriber, asked));
    }
}

/// One process: a hub with one reader, and how far it followed the stream.
pub struct Worker {
    pub world: World,
    pub at: Option<StreamId>,
    /// What was before the stream's oldest entry when it began.
    found: Option<StreamId>,
    asked: Arc<InertBroker<Asked>>,
    questions: Vec<Question>,
}

impl Worker {
    pub fn new(config: Config) -> Self {
        let hub = Arc::new(Hub::of_stream(config, Clock::manual()));
        let asked = Arc::new(InertBroker::<Asked>::default());
        hub.set_broker(asked.clone());
        Self { world: World::of(&hub), at: None, found: None, asked, questions: Vec::new() }
    }

    /// A worker that has begun.
    pub fn begun(config: Config, stream: &Stream, kept: usize) -> Self {
        let mut worker = Self::new(config);
        worker.begin(stream, kept);
        worker
    }

    /// The first connection: take over the newest so many entries, as far as they are whole.
    pub fn begin(&mut self, stream: &Stream, kept: usize) {
        let mut taken: Vec<Kept> = Vec::new();
        let mut expected = stream.last;
        for entry in stream.entries.iter().rev().take(kept) {
            if entry.id != expected {
                break;
            }
            expected = entry.before;
            taken.insert(0, entry.clone());
        }
        let base = taken.first().map_or(stream.last, |entry| entry.before);
        let kept = taken.iter().map(|entry| (entry.arrived(), Duration::ZERO)).collect();
        self.world.hub.open_log(base, kept);
        self.at = Some(stream.last);
        self.found = stream.entries.first().map(|entry| entry.before).or(self.at);
    }

    /// Deliver at most so many of the next entries. True when there was any.
    pub fn follow(&mut self, stream: &Stream, count: usize) -> bool {
        let Some(mut cursor) = self.at else { return false };
        let page = stream.after(cursor, count);
        let mut whole = Vec::new();
        for entry in &page {
            if entry.before != cursor || entry.before.is_any_beginning() {
                self.world.hub.deliver(std::mem::take(&mut whole));
                self.world.hub.break_log(entry.before);
            }
            whole.push((entry.id, entry.letter()));
            cursor = entry.id;
        }
        self.world.hub.deliver(whole);
        self.at = Some(cursor);
        !page.is_empty()
    }

    /// The id behind which a stream that ends before the position has new entries.
    fn new_from(&self, stream: &Stream) -> StreamId {
        let known = |id: &StreamId| self.world.hub.has_followed(*id);
        let ids = stream.entries.iter().rev().flat_map(|entry| [entry.id, entry.before]);
        let new = stream
            .entries
            .first()
            .map(|entry| entry.before)
            .filter(|id| id.is_beginning() && (id.is_any_beginning() || self.found != Some(*id)));
        std::iter::once(stream.last).chain(ids).find(known).or(new).unwrap_or(stream.last)
    }

    /// Check whether the stream was emptied, has lost its end, or lacks the next entry.
    pub fn check_position(&mut self, stream: &Stream) {
        let Some(at) = self.at else { return };
        let base = match stream.last.cmp(&at) {
            std::cmp::Ordering::Less => self.new_from(stream),
            std::cmp::Ordering::Greater if stream.after(at, 1).is_empty() => stream.last,
            _ => return,
        };
        self.world.hub.break_log(base);
        self.at = Some(base);
    }

    /// Go one step on with the question at this place, if there is one. True when anything was done.
    pub fn answer(&mut self, stream: &Stream, which: usize) -> bool {
        let new = std::mem::take(&mut *self.asked.0.0.lock());
        let new = new.into_iter().map(|(subscriber, id)| Question { subscriber, id, stage: Stage::Ask });
        self.questions.extend(new);
        let Some(at) = self.at else { return false };
        if self.questions.is_empty() {
            return false;
        }
        let mut question = self.questions.swap_remove(which % self.questions.len());
        let (moved, goes_on) = self.step(stream, at, &mut question);
        if goes_on {
            self.questions.push(question);
        }
        moved
    }

    fn step(&self, stream: &Stream, at: StreamId, question: &mut Question) -> (bool, bool) {
        let (hub, subscriber) = (&self.world.hub, question.subscriber);
        match &mut question.stage {
            Stage::Ask => {
                let Some(id) = question.id.filter(|_| !hub.knows_start(subscriber)) else {
                    hub.resolve(subscriber, Verdict::Here);
                    return (true, false);
                };
                if let Some(reason) = lost(stream, id) {
                    hub.resolve(subscriber, Verdict::Lost(reason));
                    return (true, false);
                }
                if at > stream.last {
                    // This process has not noticed what the stream lost.
                    return (false, true);
                }
                question.stage = Stage::Wait;
                (true, true)
            }
            Stage::Wait => {
                let id = question.id.unwrap();
                if at < id {
                    question.stage = Stage::Ask;
                    return (false, true);
                }
                if hub.knows_start(subscriber) {
                    hub.resolve(subscriber, Verdict::Here);
                    return (true, false);
                }
                let wanted = Arc::new(Wanted::default());
                let end = hub.resolve(subscriber, Verdict::Kept(id, Box::new(Next(wanted.clone()))));
                let Some(end) = end else { return (true, false) };
                question.stage = Stage::Fetch { at: id, end, wanted };
                (true, true)
            }
            Stage::Fetch { at, end, wanted } => {
                if wanted.0.swap(0, Ordering::SeqCst) == 0 {
                    return (false, true);
                }
                let page = stream.after(*at, 2);
                let mut is_lost = page.is_empty() && *at < *end;
                for entry in &page {
                    is_lost |= entry.before != *at;
                    *at = entry.id;
                }
                let done = page.is_empty() || *at >= *end;
                let piece = page.iter().filter(|entry| entry.id <= *end).map(Kept::arrived).collect();
                let goes_on = hub.deliver_piece(subscriber, piece, is_lost, done) && !done;
                (true, goes_on)
            }
        }
    }

    /// How many questions are open.
    pub fn open(&self) -> usize {
        self.questions.len() + self.asked.0.0.lock().len()
    }

    /// Answer all that can be answered.
    pub fn answer_all(&mut self, stream: &Stream) {
        loop {
            let mut moved = false;
            for which in 0..self.open().max(1) {
                moved |= self.answer(stream, which);
            }
            if !moved {
                return;
            }
        }
    }
}

/// Why what followed `id` is not to be had.
fn lost(stream: &Stream, id: StreamId) -> Option<ResetReason> {
    if id > stream.last {
        return Some(ResetReason::Ahead);
    }
    match stream.after(id, 1).first() {
        None if id == stream.last => None,
        Some(first) if first.before == id => None,
        _ => Some(ResetReason::Evicted),
    }
}
