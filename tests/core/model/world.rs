//! The world of every model test: a hub, the loop of its one reader, and consumers.

use std::collections::HashMap;

use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use sse_hub::clock::Clock;
use sse_hub::entry::Entry;
use sse_hub::frame::{Draft, FrameBuilder};
use sse_hub::hub::{Hub, Request};
use sse_hub::identity::{CloseReason, Identity};
use sse_hub::reader::{Effects, Reader};
use sse_hub::subscriber::Taken;
use sse_hub::topic::Topic;
use sse_hub::waker::Wake;

use crate::usual_config::config;

/// A flag that is waited for: what an eventfd is to an event loop, a future to a consumer.
#[derive(Default)]
struct Flag {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Flag {
    fn set(&self) {
        *self.set.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let mut set = self.set.lock().unwrap();
        while !*set {
            set = self.changed.wait(set).unwrap();
        }
        *set = false;
    }
}

struct Eventfd(Arc<Flag>);

impl Wake for Eventfd {
    fn wake(&self) {
        self.0.set();
    }
}

/// Wakes nobody.
pub fn nobody() -> Box<dyn Wake> {
    Box::new(Eventfd(Arc::default()))
}

/// A hub with one reader, whose loop runs in a thread of its own and resumes consumers that wait.
pub struct World {
    pub hub: Hub,
    pub reader: std::sync::Arc<Reader>,
    signal: Arc<Flag>,
    consumers: Mutex<HashMap<usize, Arc<Flag>>>,
    stop: Mutex<bool>,
}

pub fn topics(names: &[&str]) -> Vec<Topic> {
    names.iter().map(|name| Topic::new(name).unwrap()).collect()
}

pub fn draft() -> Draft {
    FrameBuilder::new(None, None).finish(None)
}

impl World {
    fn new() -> Arc<Self> {
        let hub = Hub::new(config(), Clock::manual());
        let signal = Arc::new(Flag::default());
        let reader = hub.add_reader(Box::new(Eventfd(signal.clone())));
        Arc::new(Self { hub, reader, signal, consumers: Mutex::default(), stop: Mutex::new(false) })
    }

    /// The loop: sleeps until the bell rings, or does not sleep where it has promised that; drains, resumes who waits.
    fn run(&self) {
        let mut promised = false;
        loop {
            if !promised {
                self.signal.wait();
            }
            if *self.stop.lock().unwrap() {
                return;
            }
            promised = self.reader.bell.events_follow();
            self.reader.bell.promise(promised);
            let mut effects = Effects::default();
            let drained = self.hub.drain(&self.reader, &mut effects);
            for key in effects.resume {
                self.resume(key);
            }
            if drained.more {
                self.reader.bell.ring();
            }
        }
    }

    /// A reader that has no loop: the caller drains it.
    pub fn add_reader(&self) -> std::sync::Arc<Reader> {
        self.hub.add_reader(nobody())
    }

    /// Wake the consumer of the world's reader with that key.
    pub fn resume(&self, key: usize) {
        let consumer = self.consumers.lock().unwrap().get(&key).cloned();
        if let Some(consumer) = consumer {
            consumer.set();
        }
    }

    /// Publish an event; its id.
    pub fn publish(&self, names: &[&str]) -> u64 {
        self.hub.publish(&topics(names), draft()).unwrap().seq
    }

    /// A stream of these topics, its opening taken; `last` is the id it resumes from.
    pub fn subscribe(self: &Arc<Self>, names: &[&str], last: Option<u64>) -> Client {
        let request = Request {
            topics: topics(names),
            last_event_id: last.map(|seq| format!("{}-{seq}", self.hub.epoch)),
            ..Request::default()
        };
        let identity = self.hub.subscribe(&self.reader, &request).unwrap();
        assert_eq!(identity.recovered.get(), Some(&last.map(|_| true)));
        self.consumer(identity).opened()
    }

    /// The consumer of a subscriber of the world's reader; it has taken nothing yet.
    pub fn consumer(self: &Arc<Self>, identity: std::sync::Arc<Identity>) -> Client {
        let flag = Arc::new(Flag::default());
        self.consumers.lock().unwrap().insert(identity.key, flag.clone());
        Client { world: self.clone(), identity, flag, seen: 0, got: Vec::new() }
    }

    /// A thread of this world.
    pub fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        run: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let world = self.clone();
        thread::spawn(move || run(&world))
    }

    /// A thread that publishes to these topics so many times.
    pub fn publisher(self: &Arc<Self>, names: &'static [&str], times: usize) -> thread::JoinHandle<()> {
        self.spawn(move |world| (0..times).for_each(|_| _ = world.publish(names)))
    }
}

/// One consumer, in the thread it is used in.
pub struct Client {
    world: Arc<World>,
    pub identity: std::sync::Arc<Identity>,
    flag: Arc<Flag>,
    /// The newest id it has.
    pub seen: u64,
    /// The ids it got after the opening, in order; 0 for an event without.
    pub got: Vec<u64>,
}

impl Client {
    /// Take the opening.
    pub fn opened(mut self) -> Self {
        let mut opening = self.next().expect("a stream that was just opened");
        self.seen = opening.remove(0).seq.expect("stream-open has the cursor's id");
        self.keep(opening);
        self
    }

    /// The newest id before the first it got.
    pub fn start(&self) -> u64 {
        self.seen - self.got.len() as u64
    }

    /// What there is, waiting for it; none at the end of the stream.
    pub fn next(&mut self) -> Option<Vec<std::sync::Arc<Entry>>> {
        loop {
            let mut out = Vec::new();
            match self.world.hub.take(&self.world.reader, &self.identity, &mut out) {
                Taken::Some | Taken::Last => return Some(out),
                Taken::Nothing => self.flag.wait(),
                Taken::End | Taken::Gap | Taken::Finished => return None,
            }
        }
    }

    /// Note what was taken.
    pub fn keep(&mut self, entries: Vec<std::sync::Arc<Entry>>) {
        for entry in entries {
            let seq = entry.seq.unwrap_or(0);
            assert!(seq == 0 || seq > self.seen, "{seq} after {}: not in order, or twice", self.seen);
            self.seen = self.seen.max(seq);
            self.got.push(seq);
        }
    }

    /// Take until `seq` is there.
    pub fn until(&mut self, seq: u64) {
        while self.seen < seq {
            let entries = self.next().expect("the stream goes on");
            self.keep(entries);
        }
    }

    /// Take everything up to the stream's end.
    pub fn drain_to_end(&mut self) {
        while let Some(entries) = self.next() {
            self.keep(entries);
        }
    }

    /// The client leaves.
    pub fn close(&self) {
        self.world.hub.drop_subscriber(&self.world.reader, &self.identity, CloseReason::Client);
    }
}

/// Every id after `start` up to the last one, none left out.
pub fn assert_no_gap(start: u64, got: &[u64]) {
    let expected: Vec<u64> = (start + 1..).take(got.len()).collect();
    assert_eq!(got, expected, "after {start}");
}

/// Runs the test under that many random schedules, and half as many that delay a thread for long. The world's
/// loop runs meanwhile, and in the end nobody is there any more.
pub fn check(schedules: usize, test: fn(&Arc<World>)) {
    let run = move || {
        let world = World::new();
        let the_loop = world.spawn(|world| world.run());
        test(&world);
        *world.stop.lock().unwrap() = true;
        world.signal.set();
        the_loop.join().unwrap();
        // Only now: the drain that ends a stream forgets its subscriber last.
        assert_eq!(world.hub.count(None), 0);
    };
    shuttle::check_random(run, schedules);
    shuttle::check_pct(run, schedules / 2, 3);
}
