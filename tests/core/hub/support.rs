//! A hub on a clock moved by hand, its readers, and streams read as a browser reads them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sse_hub::clock::Clock;
use sse_hub::config::Config;
use sse_hub::entry::Entry;
use sse_hub::error::Result;
use sse_hub::frame::{Draft, FrameBuilder};
use sse_hub::hub::{Drained, Hub, Request};
use sse_hub::identity::{CloseReason, Identity};
use sse_hub::ids::EventId;
use sse_hub::queue::Capacity;
use sse_hub::reader::{Effects, Reader};
use sse_hub::subscriber::Taken;
use sse_hub::topic::Topic;
use sse_hub::waker::Wake;

use crate::usual_config;

pub const SECOND: Duration = Duration::from_secs(1);
pub const MS: Duration = Duration::from_millis(1);
pub const HEARTBEAT: Duration = Duration::from_secs(15);
pub const STALL: Duration = Duration::from_secs(30);

/// How many cases of a property are tried; `make explore` multiplies that.
pub fn cases(usual: u32) -> u32 {
    usual * std::env::var("SSE_HUB_EXPLORE").map_or(1, |times| times.parse::<u32>().expect("a number"))
}

pub fn config() -> Config {
    Config {
        heartbeat: Some(HEARTBEAT),
        reconnect_ms: (1000, 5000),
        capacity: Capacity { events: 4, bytes: 1 << 20 },
        stall_timeout: STALL,
        ..usual_config::config()
    }
}

pub fn topics(names: &[&str]) -> Vec<Topic> {
    names.iter().map(|name| Topic::new(name).unwrap()).collect()
}

pub fn draft(data: &str) -> Draft {
    let mut builder = FrameBuilder::new(None, None);
    builder.text(data);
    builder.finish(None)
}

pub fn request(names: &[&str]) -> Request {
    Request { topics: topics(names), ..Request::default() }
}

/// Of a client that comes back with this id.
pub fn resume(names: &[&str], id: &str) -> Request {
    Request { last_event_id: Some(id.into()), ..request(names) }
}

/// One event as a browser dispatches it; a comment has neither a name nor data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub id: Option<String>,
    pub name: String,
    pub data: String,
}

pub fn parse(entry: &Entry) -> Seen {
    let text = std::str::from_utf8(entry.frame.sse()).unwrap();
    // A heartbeat, or the lines in front of the first event of a stream without control events, end no event.
    assert!(text.ends_with("\n\n") || text.ends_with('\n') && !text.contains("data:"), "{text:?}");
    let mut seen = Seen { id: None, name: String::new(), data: String::new() };
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => seen.id = Some(id.into()),
            Some(("event", name)) => seen.name = name.into(),
            Some(("data", data)) => seen.data = data.into(),
            _ => {}
        }
    }
    seen
}

impl Seen {
    /// Name, data and the sequence number of the id: `tick 1 #5`, `stream-open #5`, `: ` for a comment.
    pub fn short(&self) -> String {
        let id = self.id.as_ref().map(|id| format!("#{}", id.rsplit_once('-').unwrap().1));
        let comment = (self.name.is_empty() && self.data.is_empty() && id.is_none()).then(|| ":".to_owned());
        let name = (!self.name.is_empty()).then(|| self.name.clone());
        let data = (!self.data.is_empty()).then(|| self.data.clone());
        [comment, name, data, id].into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

struct Rings(Arc<AtomicU64>);

impl Wake for Rings {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A hub, and one reader of it whose loop is turned by the test.
pub struct World {
    pub hub: Arc<Hub>,
    pub reader: Arc<Reader>,
    pub rings: Arc<AtomicU64>,
}

impl World {
    pub fn new(config: Config) -> Self {
        Self::of(&Arc::new(Hub::new(config, Clock::manual())))
    }

    /// Another reader of the same hub.
    pub fn of(hub: &Arc<Hub>) -> Self {
        let rings = Arc::new(AtomicU64::new(0));
        let reader = hub.add_reader(Box::new(Rings(rings.clone())));
        Self { hub: hub.clone(), reader, rings }
    }

    pub fn advance(&self, by: Duration) {
        assert!(self.hub.clock.advance(by));
    }

    pub fn publish(&self, names: &[&str], data: &str) -> u64 {
        self.try_publish(names, data).unwrap().seq
    }

    pub fn try_publish(&self, names: &[&str], data: &str) -> Result<EventId> {
        self.hub.publish(&topics(names), draft(data))
    }

    /// One turn of the loop.
    pub fn turn(&self) -> (Drained, Effects) {
        let mut effects = Effects::default();
        let drained = self.hub.drain(&self.reader, &mut effects);
        (drained, effects)
    }

    /// Turn until nothing is left to dispatch. Returns the streams that closed, and why.
    pub fn drain(&self) -> Vec<(Arc<Identity>, CloseReason)> {
        let mut closed = Vec::new();
        loop {
            let (drained, effects) = self.turn();
            closed.extend(effects.closed);
            if !drained.more {
                return closed;
            }
        }
    }

    /// Let time pass in steps short enough that nothing due is late, as a loop's timer does.
    pub fn pass(&self, time: Duration) -> Vec<(Arc<Identity>, CloseReason)> {
        let end = self.hub.clock.now() + time;
        let mut closed = self.drain();
        loop {
            let (drained, effects) = self.turn();
            closed.extend(effects.closed);
            let now = self.hub.clock.now();
            match drained.next.soonest().filter(|&next| next < end) {
                Some(next) => self.advance(next.saturating_sub(now).max(MS).min(end - now)),
                None => break self.advance(end - now),
            }
        }
        closed.extend(self.drain());
        closed
    }

    pub fn subscribe(&self, request: &Request) -> Stream {
        self.try_subscribe(request).unwrap()
    }

    pub fn try_subscribe(&self, request: &Request) -> Result<Stream> {
        Ok(self.stream_of(self.hub.subscribe(&self.reader, request)?))
    }

    /// The stream of a subscriber that is at this reader.
    pub fn stream_of(&self, identity: Arc<Identity>) -> Stream {
        Stream { hub: self.hub.clone(), reader: self.reader.clone(), identity }
    }

    /// A live stream whose consumer waits: its opening is taken.
    pub fn live(&self, names: &[&str]) -> Stream {
        self.live_with(&request(names))
    }

    pub fn live_with(&self, request: &Request) -> Stream {
        let stream = self.subscribe(request);
        self.drain();
        while stream.take() == Taken::Some {}
        stream
    }

    /// Enough turns and time that a consumer which does not come back counts as stuck: the events it takes
    /// are published to `topic`.
    pub fn stick(&self, topic: &str) {
        for _ in 0..8 {
            self.publish(&[topic], "stick");
            self.turn();
        }
        self.advance(20 * MS);
    }

    pub fn stat(&self, name: &str) -> u64 {
        self.hub.stats().into_iter().collect::<HashMap<_, _>>()[name]
    }

    /// Whether a client with this id has received everything that these topics will ever give it.
    pub fn has_everything(&self, names: &[&str], id: &str) -> bool {
        self.hub.has_everything(&resume(names, id))
    }

    pub fn id(&self, seq: u64) -> String {
        EventId { epoch: self.hub.epoch, seq }.to_string()
    }
}

/// One subscriber's consumer.
pub struct Stream {
    pub hub: Arc<Hub>,
    pub reader: Arc<Reader>,
    pub identity: Arc<Identity>,
}

impl Stream {
    /// What one visit gives.
    pub fn poll(&self) -> (Taken, Vec<Seen>) {
        let mut out = Vec::new();
        let taken = self.hub.take(&self.reader, &self.identity, &mut out);
        assert_eq!(taken == Taken::Some, !out.is_empty());
        (taken, out.iter().map(|entry| parse(entry)).collect())
    }

    /// What one visit gives to a consumer that writes at once.
    pub fn poll_last(&self) -> (Taken, Vec<Seen>) {
        let mut out = Vec::new();
        let taken = self.hub.take_last(&self.reader, (&*self.identity).into(), &mut out);
        (taken, out.iter().map(|entry| parse(entry)).collect())
    }

    /// The consumer could not write all that it took.
    pub fn write_blocked(&self) {
        self.reader.write_blocked(&self.identity, self.hub.clock.now());
    }

    pub fn take(&self) -> Taken {
        self.poll().0
    }

    /// Everything there is until it waits or ends, in short.
    pub fn all(&self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let (taken, seen) = self.poll();
            all.extend(seen.iter().map(Seen::short));
            if taken != Taken::Some {
                return all;
            }
        }
    }

    /// What one visit gives, in short.
    pub fn once(&self) -> Vec<String> {
        self.poll().1.iter().map(Seen::short).collect()
    }

    pub fn initial(&self, events: &[&str]) -> bool {
        let events = events.iter().map(|data| draft(data)).collect();
        self.hub.deliver_initial(&self.reader, &self.identity, events).unwrap()
    }

    pub fn close(&self, reason: CloseReason) -> Option<bool> {
        self.hub.close(&self.reader, &self.identity, reason).map(|(_, wake)| wake)
    }

    pub fn leave(&self) -> bool {
        self.hub.drop_subscriber(&self.reader, &self.identity, CloseReason::Client)
    }

    pub fn closed(&self) -> Option<&str> {
        self.identity.closed.get().map(CloseReason::as_str)
    }

    pub fn recovered(&self) -> Option<bool> {
        *self.identity.recovered.get().unwrap()
    }
}
