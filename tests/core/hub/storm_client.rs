//! A client that acts as a browser does: it keeps the last id that it received completely, comes back with it, and
//! believes nothing that it cannot check against the log.

use proptest::prelude::*;
use sse_hub::history::Past;
use sse_hub::hub::Request;
use sse_hub::queue::OverflowPolicy;
use sse_hub::subscriber::Taken;

use crate::support::{Seen, Stream, World, topics};

pub const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// What was published: at `log[seq - 1]` the topics of the event `seq`, as indices of [`NAMES`]; none for a
/// broadcast.
pub type Log = Vec<Option<Vec<usize>>>;

/// What kind of client it is.
#[derive(Debug, Clone)]
pub struct Kind {
    pub topics: Vec<usize>,
    pub overflow: OverflowPolicy,
    pub past: bool,
    pub initial: bool,
}

pub struct Client {
    kind: Kind,
    pub stream: Option<Stream>,
    /// The last id it has whole.
    last: Option<u64>,
    /// Whether this stream's beginning has given it a place in the order.
    placed: bool,
    /// Up to here a gap was announced, or it never had a claim.
    excused: u64,
    /// Dropped events that were announced and that it has not come past yet.
    dropped: u64,
    /// The newest id when this stream joined.
    joined: u64,
    pub wants_initial: bool,
}

impl Client {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            stream: None,
            last: None,
            placed: false,
            excused: 0,
            dropped: 0,
            joined: 0,
            wants_initial: false,
        }
    }

    pub fn connect(&mut self, world: &World, head: u64) {
        let names: Vec<&str> = self.kind.topics.iter().map(|&topic| NAMES[topic]).collect();
        let request = Request {
            topics: topics(&names),
            last_event_id: self.last.map(|seq| world.id(seq)),
            past: self.kind.past.then_some(Past::All),
            initial: self.kind.initial,
            overflow: Some(self.kind.overflow),
            user: Some("someone".into()),
            ..Request::default()
        };
        // At the hub's limit it comes again later.
        let Ok(stream) = world.try_subscribe(&request) else { return };
        self.joined = head;
        self.dropped = 0;
        let resumed = stream.recovered() == Some(true);
        self.placed = resumed;
        self.excused = if resumed { 0 } else { head };
        self.wants_initial = self.kind.initial && !resumed;
        self.stream = Some(stream);
    }

    /// The consumer's visit. Of what it takes only the first `whole` events reach the client, then the
    /// connection is cut; none means it holds.
    pub fn visit(&mut self, whole: Option<usize>, log: &Log) -> Result<(), TestCaseError> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let (taken, seen) = stream.poll();
        for event in seen.iter().take(whole.unwrap_or(usize::MAX)) {
            self.see(event, log)?;
        }
        if taken == Taken::End || whole.is_some() {
            self.cut();
        }
        Ok(())
    }

    pub fn cut(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.leave();
        }
    }

    /// The application's snapshot is there.
    pub fn give_initial(&mut self) {
        if let Some(stream) = &self.stream
            && std::mem::take(&mut self.wants_initial)
        {
            stream.initial(&["row", "last row"]);
        }
    }

    /// Its topics' events after `after` up to `until`.
    fn between(&self, after: u64, until: u64, log: &Log) -> u64 {
        let mine = |seq: &u64| match &log[usize::try_from(*seq).unwrap() - 1] {
            None => true,
            Some(topics) => topics.iter().any(|topic| self.kind.topics.contains(topic)),
        };
        (after + 1..=until).filter(mine).count() as u64
    }

    /// Everything up to `until` was delivered, or its loss was announced exactly.
    fn is_complete_to(&mut self, until: u64, log: &Log) -> Result<(), TestCaseError> {
        let from = self.last.unwrap_or(0).max(self.excused);
        let missing = self.between(from, until, log);
        let is_told = missing == self.dropped || (self.excused > self.joined && missing < self.dropped);
        prop_assert!(is_told, "{} missing, {} dropped from {} to {}", missing, self.dropped, from, until);
        self.dropped = 0;
        Ok(())
    }

    fn see(&mut self, event: &Seen, log: &Log) -> Result<(), TestCaseError> {
        let seq = event.id.as_ref().map(|id| id.rsplit_once('-').unwrap().1.parse::<u64>().unwrap());
        let text = event.short();
        match event.name.as_str() {
            "stream-lagged" => {
                prop_assert_eq!(seq, None);
                let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
                self.dropped += data["dropped"].as_u64().unwrap();
                return Ok(());
            }
            // History lost something while a replay was under way, which may have grown since it joined.
            "stream-reset" if self.placed => {
                prop_assert_eq!(seq, None);
                self.excused = log.len() as u64;
                return Ok(());
            }
            _ => {}
        }
        let Some(seq) = seq else { return Ok(()) };
        if !self.placed {
            let places = matches!(event.name.as_str(), "stream-open" | "stream-reset" | "stream-cursor");
            prop_assert!(places || event.data == "last row", "{} before a place in the order", text);
            prop_assert!(seq <= self.joined, "{} is beyond the head at joining, {}", text, self.joined);
            prop_assert!(self.kind.past || self.last.is_some() || seq == self.joined);
            self.placed = true;
            self.last = Some(seq);
            return Ok(());
        }
        let last = self.last.unwrap_or(0);
        match event.name.as_str() {
            "stream-open" => prop_assert_eq!(seq, last),
            "stream-cursor" => {
                prop_assert!(seq > last, "{} after {}", text, last);
                self.is_complete_to(seq, log)?;
            }
            _ => {
                prop_assert!(seq > last, "{} after {}: twice, or out of order", text, last);
                prop_assert_eq!(self.between(seq - 1, seq, log), 1, "{} is not of its topics", text);
                self.is_complete_to(seq - 1, log)?;
            }
        }
        self.last = Some(seq);
        Ok(())
    }

    /// Nothing waits for it any more: it has everything.
    pub fn check_whole(&mut self, log: &Log) -> Result<(), TestCaseError> {
        if self.stream.is_some() && self.placed {
            self.is_complete_to(log.len() as u64, log)?;
        }
        Ok(())
    }
}
