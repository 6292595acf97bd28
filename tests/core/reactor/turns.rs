//! Clients that are served by the thread that delivers a broker's events, in the place of the reactor's own.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread::{ThreadId, current};
use std::time::Duration;

use sse_hub::broker::letter::{Letter, To, Whose};
use sse_hub::clock::Clock;
use sse_hub::config::Config;
use sse_hub::hub::{Hub, Request, Verdict};
use sse_hub::identity::{CloseReason, Identity};
use sse_hub::ids::{GroupId, StreamId};
use sse_hub::reactor::{Listener, Reactor};
use sse_hub::topic::Topic;

use crate::inert_broker::{InertBroker, Notes};
use crate::support::*;

struct Silent;

impl Notes for Silent {}

/// Which threads have closed streams.
struct Closers(Arc<Mutex<Vec<ThreadId>>>);

impl Listener for Closers {
    fn closed(&self, _: &Arc<Identity>, _: &CloseReason) {
        self.0.lock().unwrap().push(current().id());
    }
}

/// A hub with a reactor, whose broker's thread is the test's.
struct Brokered {
    hub: Arc<Hub>,
    reactor: Reactor,
    closers: Arc<Mutex<Vec<ThreadId>>>,
    last: StreamId,
}

impl Brokered {
    fn new() -> Self {
        // The thread comes back to idle clients after a quarter of the time: too late for any test.
        let config = Config { stall_timeout: 10 * SOON, ..config() };
        let hub = Arc::new(Hub::of_stream(config, Clock::real()));
        hub.set_broker(Arc::new(InertBroker(Silent)));
        let last = StreamId { ms: 1, seq: 0 };
        hub.open_log(last, Vec::new());
        let closers = Arc::default();
        let reactor = Reactor::start(hub.clone(), Box::new(Closers(Arc::clone(&closers)))).unwrap();
        Self { hub, reactor, closers, last }
    }

    fn connect(&self, narrow: bool, request: &Request) -> (Client, Arc<Identity>) {
        let (client, server) = if narrow { narrow_pair() } else { pair() };
        let identity = self.hub.subscribe(&self.reactor.reader, request).unwrap();
        self.hub.resolve(identity.id, Verdict::Here);
        self.reactor.adopt(OwnedFd::from(server), identity.clone());
        let mut client = Client { stream: client, body: Vec::new(), read: 0, over: false };
        assert!(client.chunk().unwrap().contains("event: stream-open"));
        (client, identity)
    }

    fn deliver(&mut self, letters: Vec<Letter>) {
        let with_ids = letters.into_iter().map(|letter| {
            self.last.seq += 1;
            (self.last, letter)
        });
        let arrived = with_ids.collect();
        self.hub.deliver(arrived);
    }

    fn publish(&mut self, text: &str) {
        let to = To::Topics([Topic::new("t").unwrap()].into());
        self.deliver(vec![Letter::Event { to, draft: draft(text) }]);
    }

    fn kick(&mut self, identity: &Identity) {
        let whose = Whose::Id(identity.name().to_string().into());
        self.deliver(vec![Letter::Kick { whose, reason: "enough".into() }]);
    }

    /// The threads that have closed `count` streams.
    fn closers(&self, count: usize) -> HashSet<ThreadId> {
        until("the streams are closed", || self.closers.lock().unwrap().len() == count);
        self.closers.lock().unwrap().drain(..).collect()
    }
}

#[test]
fn few_clients_are_served_by_the_thread_that_delivers() {
    let mut setup = Brokered::new();
    let (mut other, _) = setup.connect(false, &request(None));
    let mut is_here = false;
    for number in 0..100 {
        let (mut client, identity) = setup.connect(false, &request(None));
        setup.publish(&number.to_string());
        setup.kick(&identity);
        // The reactor's own thread serves them when it was awake.
        is_here |= setup.closers(1).contains(&current().id());
        assert_eq!(client.event().unwrap(), number.to_string());
        assert_eq!(client.event(), None);
        assert_eq!(other.event().unwrap(), number.to_string());
    }
    assert!(is_here);
}

#[test]
fn a_batch_of_small_events_is_served_by_the_thread_that_delivers() {
    let mut setup = Brokered::new();
    let mut is_here = false;
    for round in 0..50 {
        let (mut client, identity) = setup.connect(false, &request(None));
        let event = |number| Letter::Event { to: To::All, draft: draft(&format!("{round} {number}")) };
        let mut letters: Vec<_> = (0..200).map(event).collect();
        let whose = Whose::Id(identity.name().to_string().into());
        letters.push(Letter::Kick { whose, reason: "enough".into() });
        setup.deliver(letters);
        is_here |= setup.closers(1).contains(&current().id());
        for number in 0..200 {
            assert_eq!(client.event().unwrap(), format!("{round} {number}"));
        }
        assert_eq!(client.event(), None);
    }
    assert!(is_here);
}

#[test]
fn many_clients_and_large_events_are_left_to_the_reactors_thread() {
    let user = || Request { user: Some("ann".into()), ..request(None) };
    let kick = || Letter::Kick { whose: Whose::User("ann".into()), reason: "enough".into() };
    let large = || Letter::Event { to: To::All, draft: draft(&"x".repeat(100_000)) };
    for (count, letters) in [(65, vec![kick()]), (1, vec![large(), kick()])] {
        let mut setup = Brokered::new();
        let clients: Vec<_> = (0..count).map(|_| setup.connect(false, &user())).collect();
        setup.deliver(letters);
        assert!(!setup.closers(count).contains(&current().id()), "{count} clients");
        for (mut client, _) in clients {
            while client.event().is_some() {}
        }
    }
}

#[test]
fn a_slow_client_that_both_threads_serve_gets_everything_in_order() {
    let mut setup = Brokered::new();
    let (mut slow, _) = setup.connect(true, &request(None));
    let filler = "x".repeat(2000);
    let reader = std::thread::spawn(move || {
        for number in 0..2000 {
            let event = slow.event().unwrap();
            assert_eq!(event.split(' ').next(), Some(number.to_string().as_str()));
        }
    });
    for number in 0..2000 {
        // Its queue has room for few: the reader is fast, when all is well.
        until("the client takes them", || setup.reactor.reader.queued().0 < 32);
        setup.publish(&format!("{number} {filler}"));
    }
    reader.join().unwrap();
}

/// The thread sleeps for minutes when it is not woken for that.
#[test]
fn the_reactors_thread_does_in_time_what_another_leaves_to_it() {
    let mut setup = Brokered::new();
    let interval = Some(Duration::from_millis(30));
    let (mut paced, identity) = setup.connect(false, &Request { interval, ..request(None) });
    for round in 0..5 {
        for part in 0..3 {
            setup.publish(&format!("{round} {part}"));
        }
        for part in 0..3 {
            assert_eq!(paced.event().unwrap(), format!("{round} {part}"));
        }
    }
    setup.kick(&identity);
    assert_eq!(paced.event(), None);
    until("the stream is not counted", || setup.reactor.open(GroupId(7)) == 0);
    assert!(paced.closes());
}
