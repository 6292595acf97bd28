//! A model test of the path from publisher to consumer: log, cursors, joining and wake-up, on a scheduler
//! that tries thousands of interleavings of the same threads (`make test-core`; shuttle prints the schedule
//! of a failure).
//!
//! Nothing here rings a bell after the last publication, so a wake-up that is lost shows as a deadlock, which
//! the scheduler finds. That it does find it: with the line `reader.bell.heard()` of `Hub::drain` moved behind
//! the block that reads the log, `everything_published_is_delivered_without_another_ring` deadlocks within
//! the first few dozen schedules, because a publication between the look and the hearing rings a bell that
//! counts as rung already; six of the other seven tests deadlock too.
#![allow(missing_docs)]

use std::collections::HashMap;

use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use sse_hub::clock::Clock;
use sse_hub::config::Config;
use sse_hub::entry::Entry;
use sse_hub::frame::{Draft, FrameBuilder};
use sse_hub::history::Retention;
use sse_hub::hub::{Hub, Request};
use sse_hub::queue::{Capacity, OverflowPolicy};
use sse_hub::reader::{Effects, Reader};
use sse_hub::subscriber::{CloseReason, Identity, Taken, Who};
use sse_hub::topic::Topic;
use sse_hub::waker::Wake;

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

/// A hub with one reader, whose loop runs in a thread of its own and resumes consumers that wait.
struct World {
    hub: Hub,
    reader: std::sync::Arc<Reader>,
    signal: Arc<Flag>,
    consumers: Mutex<HashMap<usize, Arc<Flag>>>,
    stop: Mutex<bool>,
}

fn config() -> Config {
    Config {
        retention: Retention { count: 100, bytes: 1 << 20, age: None },
        history_total_bytes: 1 << 24,
        heartbeat: None,
        reconnect_ms: (1, 1),
        capacity: Capacity { events: 100, bytes: 1 << 20 },
        overflow: OverflowPolicy::Disconnect,
        stall_timeout: std::time::Duration::from_secs(30),
        backlog_bytes: 1 << 20,
        max_event_bytes: 1 << 16,
        max_subscribers: None,
    }
}

fn topics(names: &[&str]) -> Vec<Topic> {
    names.iter().map(|name| Topic::new(name).unwrap()).collect()
}

fn draft() -> Draft {
    FrameBuilder::new(None, None).finish(None)
}

impl World {
    fn new() -> Arc<Self> {
        let hub = Hub::new(config(), Clock::manual());
        let signal = Arc::new(Flag::default());
        let reader = hub.add_reader(Box::new(Eventfd(signal.clone())));
        Arc::new(Self { hub, reader, signal, consumers: Mutex::default(), stop: Mutex::new(false) })
    }

    /// The loop: sleeps until the bell rings, drains, resumes who waits.
    fn run(&self) {
        loop {
            self.signal.wait();
            if *self.stop.lock().unwrap() {
                return;
            }
            let mut effects = Effects::default();
            let drained = self.hub.drain(&self.reader, &mut effects);
            for key in effects.wake {
                self.resume(key);
            }
            if drained.more {
                self.reader.bell.ring();
            }
        }
    }

    fn resume(&self, key: usize) {
        let consumer = self.consumers.lock().unwrap().get(&key).cloned();
        if let Some(consumer) = consumer {
            consumer.set();
        }
    }

    fn publish(&self, names: &[&str]) -> u64 {
        self.hub.publish(&topics(names), draft()).unwrap().seq
    }

    fn subscribe(self: &Arc<Self>, names: &[&str], last: Option<u64>) -> Client {
        let request = Request {
            topics: topics(names),
            last_event_id: last.map(|seq| format!("{}-{seq}", self.hub.epoch)),
            ..Request::default()
        };
        let identity = self.hub.subscribe(&self.reader, &request).unwrap();
        let flag = Arc::new(Flag::default());
        self.consumers.lock().unwrap().insert(identity.key, flag.clone());
        assert_eq!(identity.recovered.get(), Some(&last.map(|_| true)));
        let mut client = Client { world: self.clone(), identity, flag, seen: 0, got: Vec::new() };
        let mut opening = client.next().expect("a stream that was just opened");
        client.seen = opening.remove(0).seq.expect("stream-open has the cursor's id");
        client.keep(opening);
        client
    }

    fn start(self: &Arc<Self>) -> thread::JoinHandle<()> {
        let world = self.clone();
        thread::spawn(move || world.run())
    }

    fn finish(&self, the_loop: thread::JoinHandle<()>) {
        *self.stop.lock().unwrap() = true;
        self.signal.set();
        the_loop.join().unwrap();
    }
}

/// One consumer, in the thread it is used in.
struct Client {
    world: Arc<World>,
    identity: std::sync::Arc<Identity>,
    flag: Arc<Flag>,
    /// The newest id it has.
    seen: u64,
    /// The ids it got after the opening, in order; 0 for an event without.
    got: Vec<u64>,
}

impl Client {
    /// What there is, waiting for it; none at the end of the stream.
    fn next(&mut self) -> Option<Vec<std::sync::Arc<Entry>>> {
        loop {
            let mut out = Vec::new();
            match self.world.hub.take(&self.world.reader, &self.identity, &mut out) {
                Taken::Some | Taken::Last => return Some(out),
                Taken::Nothing => self.flag.wait(),
                Taken::End => return None,
            }
        }
    }

    fn keep(&mut self, entries: Vec<std::sync::Arc<Entry>>) {
        for entry in entries {
            let seq = entry.seq.unwrap_or(0);
            assert!(seq == 0 || seq > self.seen, "{seq} after {}: not in order, or twice", self.seen);
            self.seen = self.seen.max(seq);
            self.got.push(seq);
        }
    }

    /// Take until `seq` is there.
    fn until(&mut self, seq: u64) {
        while self.seen < seq {
            let entries = self.next().expect("the stream goes on");
            self.keep(entries);
        }
    }

    fn drain_to_end(&mut self) {
        while let Some(entries) = self.next() {
            self.keep(entries);
        }
    }

    fn close(&self) {
        self.world.hub.drop_subscriber(&self.world.reader, &self.identity, CloseReason::Client);
    }
}

/// Every id after `start` up to the last one, none left out.
fn assert_no_gap(start: u64, got: &[u64]) {
    let expected: Vec<u64> = (start + 1..).take(got.len()).collect();
    assert_eq!(got, expected, "after {start}");
}

fn check(schedules: usize, test: fn()) {
    shuttle::check_random(test, schedules);
    shuttle::check_pct(test, schedules / 2, 3);
}

#[test]
fn everything_published_is_delivered_without_another_ring() {
    check(2000, || {
        let world = World::new();
        let the_loop = world.start();
        let mut client = world.subscribe(&["a"], None);
        let publishers: Vec<_> = (0..2)
            .map(|_| {
                let world = world.clone();
                thread::spawn(move || {
                    world.publish(&["a", "b"]);
                    world.publish(&["a"]);
                })
            })
            .collect();
        let start = client.seen;
        client.until(4);
        assert_no_gap(start, &client.got);
        for publisher in publishers {
            publisher.join().unwrap();
        }
        client.close();
        world.finish(the_loop);
    });
}

#[test]
fn who_joins_between_publications_misses_none_after_its_cursor() {
    check(1500, || {
        let world = World::new();
        let the_loop = world.start();
        let publisher = {
            let world = world.clone();
            thread::spawn(move || (0..4).for_each(|_| _ = world.publish(&["a"])))
        };
        let clients: Vec<_> = (0..2)
            .map(|_| {
                let world = world.clone();
                thread::spawn(move || {
                    let mut client = world.subscribe(&["a"], None);
                    let start = client.seen - client.got.len() as u64;
                    client.until(4);
                    assert_no_gap(start, &client.got);
                    client.close();
                })
            })
            .collect();
        for thread in clients.into_iter().chain([publisher]) {
            thread.join().unwrap();
        }
        assert_eq!(world.hub.count(None), 0);
        world.finish(the_loop);
    });
}

#[test]
fn who_leaves_and_resumes_at_any_moment_misses_none_and_gets_none_twice() {
    check(1500, || {
        let world = World::new();
        let the_loop = world.start();
        let publishers: Vec<_> = (0..2)
            .map(|_| {
                let world = world.clone();
                thread::spawn(move || (0..3).for_each(|_| _ = world.publish(&["a", "b"])))
            })
            .collect();
        let mut client = world.subscribe(&["a", "b"], None);
        let start = client.seen - client.got.len() as u64;
        let mut all = Vec::new();
        while client.seen < 6 {
            all.append(&mut client.got);
            // Between the last event it took and its leaving, more may be queued: history gives it again.
            client.close();
            client = world.subscribe(&["a", "b"], Some(client.seen));
            if client.got.is_empty() && client.seen < 6 {
                let entries = client.next().expect("the stream goes on");
                client.keep(entries);
            }
        }
        all.append(&mut client.got);
        assert_no_gap(start, &all);
        client.close();
        for publisher in publishers {
            publisher.join().unwrap();
        }
        world.finish(the_loop);
    });
}

#[test]
fn a_topic_begins_and_ends_exactly_where_it_is_joined_and_left() {
    check(1000, || {
        let world = World::new();
        let the_loop = world.start();
        let other = {
            let world = world.clone();
            thread::spawn(move || (0..3).for_each(|_| _ = world.publish(&["b"])))
        };
        let mut client = world.subscribe(&["a"], None);
        let id = client.identity.id;
        let before = world.publish(&["b"]);
        assert_eq!(world.hub.join(id, &topics(&["b"])), Ok(true));
        let within = world.publish(&["b"]);
        assert!(world.hub.leave(id, &topics(&["b"])));
        let after = world.publish(&["b"]);
        let last = world.publish(&["a"]);
        client.until(last);
        assert!(!client.got.contains(&before), "published before it joined");
        assert!(client.got.contains(&within), "published while it was in the topic");
        assert!(!client.got.contains(&after), "published after it left");
        client.close();
        other.join().unwrap();
        world.finish(the_loop);
    });
}

#[test]
fn a_kick_ends_every_stream_after_what_was_published_before_it() {
    check(1000, || {
        let world = World::new();
        let the_loop = world.start();
        let publisher = {
            let world = world.clone();
            thread::spawn(move || (0..3).for_each(|_| _ = world.publish(&["a"])))
        };
        let clients: Vec<_> = (0..2)
            .map(|_| {
                let mut client = world.subscribe(&["a"], None);
                thread::spawn(move || {
                    let start = client.seen - client.got.len() as u64;
                    client.drain_to_end();
                    assert_no_gap(start, &client.got);
                    let seen = client.seen;
                    client.close();
                    seen
                })
            })
            .collect();
        let mine = world.publish(&["a"]);
        let kicked = world.hub.disconnect(Who::All, CloseReason::Kicked("out".into()));
        assert_eq!(kicked, 2);
        for client in clients {
            assert!(client.join().unwrap() >= mine, "an event published before the kick was lost");
        }
        publisher.join().unwrap();
        // The drain that ends a stream forgets its subscriber last.
        world.finish(the_loop);
        assert_eq!(world.hub.count(None), 0);
    });
}

#[test]
fn a_close_from_another_thread_wakes_the_consumer_once_and_for_all() {
    check(1000, || {
        let world = World::new();
        let the_loop = world.start();
        let mut client = world.subscribe(&["a"], None);
        let closer = {
            let (world, identity) = (world.clone(), client.identity.clone());
            thread::spawn(move || {
                if world.hub.close(&world.reader, &identity, CloseReason::Closed) == Some(true) {
                    world.resume(identity.key);
                }
            })
        };
        let publisher = {
            let world = world.clone();
            thread::spawn(move || (0..2).for_each(|_| _ = world.publish(&["a"])))
        };
        let start = client.seen;
        client.drain_to_end();
        assert_no_gap(start, &client.got);
        closer.join().unwrap();
        publisher.join().unwrap();
        client.close();
        assert_eq!(world.hub.count(None), 0);
        world.finish(the_loop);
    });
}

#[test]
fn initial_events_come_before_anything_newer() {
    check(1000, || {
        let world = World::new();
        let the_loop = world.start();
        let publisher = {
            let world = world.clone();
            thread::spawn(move || (0..3).for_each(|_| _ = world.publish(&["a"])))
        };
        let request = Request { topics: topics(&["a"]), initial: true, ..Request::default() };
        let identity = world.hub.subscribe(&world.reader, &request).unwrap();
        let flag = Arc::new(Flag::default());
        world.consumers.lock().unwrap().insert(identity.key, flag.clone());
        let maker = {
            let (world, identity) = (world.clone(), identity.clone());
            thread::spawn(move || {
                if world.hub.initial(&world.reader, &identity, vec![draft(), draft()]).unwrap() {
                    world.resume(identity.key);
                }
            })
        };
        let mut client = Client { world: world.clone(), identity, flag, seen: 0, got: Vec::new() };
        let mut entries = Vec::new();
        while entries.len() < 3 || entries.last().is_some_and(|last: &Option<u64>| last.unwrap_or(0) < 3) {
            entries.extend(client.next().expect("the stream goes on").iter().map(|entry| entry.seq));
        }
        // stream-open and the first initial event carry no id: cut there, the client begins anew.
        assert_eq!(entries[..2], [None, None]);
        let cursor = entries[2].expect("the last initial event has the cursor's id");
        let newer: Vec<u64> = entries[3..].iter().flatten().copied().collect();
        assert_no_gap(cursor, &newer);
        client.close();
        maker.join().unwrap();
        publisher.join().unwrap();
        world.finish(the_loop);
    });
}

#[test]
fn readers_come_and_go_without_holding_the_log_back() {
    check(1000, || {
        let world = World::new();
        let the_loop = world.start();
        let second = {
            let world = world.clone();
            thread::spawn(move || {
                let reader = world.hub.add_reader(Box::new(Eventfd(Arc::new(Flag::default()))));
                let request = Request { topics: topics(&["a"]), ..Request::default() };
                world.hub.subscribe(&reader, &request).unwrap();
                // Its loop never runs; it is found dead and taken away.
                assert_eq!(world.hub.remove_reader(&reader).len(), 1);
            })
        };
        let mut client = world.subscribe(&["a"], None);
        let start = client.seen;
        (0..3).for_each(|_| _ = world.publish(&["a"]));
        client.until(start + 3);
        assert_no_gap(start, &client.got);
        second.join().unwrap();
        client.close();
        let stats: HashMap<_, _> = world.hub.stats().into_iter().collect();
        assert_eq!((stats["backlog_bytes"], stats["subscribers"], stats["readers"]), (0, 0, 1));
        world.finish(the_loop);
    });
}

/// A client of another loop, which the caller's thread is; at the last moment it moves to the world's reader.
struct Mover {
    world: Arc<World>,
    from: std::sync::Arc<Reader>,
    identity: std::sync::Arc<Identity>,
}

impl Mover {
    fn new(world: &Arc<World>) -> Self {
        let from = world.hub.add_reader(Box::new(Eventfd(Arc::new(Flag::default()))));
        let request = Request { topics: topics(&["a"]), ..Request::default() };
        let identity = world.hub.subscribe(&from, &request).unwrap();
        Self { world: world.clone(), from, identity }
    }

    fn moved(&self) -> Client {
        let world = &self.world;
        let identity = world.hub.hand_to(&self.from, &world.reader, &self.identity, 1).unwrap();
        let flag = Arc::new(Flag::default());
        world.consumers.lock().unwrap().insert(identity.key, flag.clone());
        let mut client = Client { world: world.clone(), identity, flag, seen: 0, got: Vec::new() };
        let mut opening = client.next().expect("a stream that was just opened");
        client.seen = opening.remove(0).seq.expect("stream-open has the cursor's id");
        client.keep(opening);
        client
    }
}

#[test]
fn a_move_to_another_reader_loses_nothing_and_doubles_nothing() {
    check(1000, || {
        let world = World::new();
        let the_loop = world.start();
        let resident = world.subscribe(&["a"], None);
        let mover = Mover::new(&world);
        let start = world.publish(&["a"]) - 1;
        let publisher = {
            let world = world.clone();
            thread::spawn(move || (0..3).for_each(|_| _ = world.publish(&["a"])))
        };
        // What was published by now is in the subscriber's queue; the rest finds it before or behind the move.
        world.hub.drain(&mover.from, &mut Effects::default());
        let mut client = mover.moved();
        assert_eq!(client.seen - client.got.len() as u64, start);
        client.until(start + 4);
        assert_no_gap(start, &client.got);
        publisher.join().unwrap();
        // The reader it left holds nothing back.
        client.close();
        resident.close();
        let stats: HashMap<_, _> = world.hub.stats().into_iter().collect();
        assert_eq!((stats["backlog_bytes"], stats["subscribers"]), (0, 0));
        world.finish(the_loop);
    });
}

#[test]
fn a_kick_finds_a_subscriber_on_the_move() {
    check(1000, || {
        let world = World::new();
        let the_loop = world.start();
        let mover = Mover::new(&world);
        let kicker = {
            let (world, id) = (world.clone(), mover.identity.id);
            thread::spawn(move || {
                let mine = world.publish(&["a"]);
                assert_eq!(world.hub.disconnect(Who::Id(id), CloseReason::Kicked("out".into())), 1);
                world.publish(&["a"]);
                mine
            })
        };
        let mut client = mover.moved();
        client.drain_to_end();
        assert_eq!(client.seen, kicker.join().unwrap(), "what came before the kick, and nothing else");
        assert_eq!(client.identity.closed.get(), Some(&CloseReason::Kicked("out".into())));
        client.close();
        world.finish(the_loop);
        assert_eq!(world.hub.count(None), 0);
    });
}

#[test]
fn a_close_from_another_thread_finds_a_subscriber_on_the_move() {
    check(1000, || {
        let world = World::new();
        let the_loop = world.start();
        let mover = Mover::new(&world);
        let closer = {
            let (world, from, identity) = (world.clone(), mover.from.clone(), mover.identity.clone());
            thread::spawn(move || {
                // As a handle does it: where it was known to be, then where it is now.
                if world.hub.close(&from, &identity, CloseReason::Closed).is_none()
                    && world.hub.close(&world.reader, identity.current(), CloseReason::Closed) == Some(true)
                {
                    world.resume(identity.current().key);
                }
            })
        };
        let mut client = mover.moved();
        client.drain_to_end();
        closer.join().unwrap();
        client.close();
        world.finish(the_loop);
        assert_eq!(world.hub.count(None), 0);
    });
}
