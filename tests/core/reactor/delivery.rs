//! What clients receive, and how their streams end.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sse_hub::change::Who;
use sse_hub::config::Config;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::ids::GroupId;
use sse_hub::queue::Capacity;

use crate::support::*;

#[test]
fn events_arrive_in_order_and_the_body_ends_properly() {
    let setup = setup(config());
    let (mut client, identity) = setup.connect(None);
    assert!(client.chunk().unwrap().contains("event: stream-open"));
    for number in 0..1000 {
        setup.publish(&number.to_string());
    }
    for number in 0..1000 {
        assert_eq!(client.event().unwrap(), number.to_string());
    }
    setup.publish("last");
    setup.hub.disconnect(Who::Id(identity.id), CloseReason::Kicked("enough".into()));
    assert_eq!(client.event().unwrap(), "last");
    assert_eq!(client.event(), None);
    assert!(client.closes());
    assert_eq!(setup.ended(), (identity.name().to_string(), "enough".to_string()));
    until("the stream is not counted", || setup.reactor.open(GroupId(7)) == 0);
    assert_eq!(setup.hub.count(None), 0);
}

#[test]
fn a_client_that_resumes_gets_what_it_missed_through_a_small_socket() {
    let setup = setup(config());
    let first = setup.publish("0");
    let filler = "x".repeat(1000);
    for number in 1..5000 {
        setup.publish(&format!("{number} {filler}"));
    }
    let (mut client, identity) = setup.connect(Some(first));
    for number in 1..5000 {
        assert_eq!(client.event().unwrap(), format!("{number} {filler}"));
    }
    assert_eq!(identity.recovered.get(), Some(&Some(true)));
    // The places in the socket's buffer and in history meet without a seam.
    setup.publish("live");
    assert_eq!(client.event().unwrap(), "live");
}

/// Small ones are written in one piece that clients share, large ones by themselves.
#[test]
fn events_of_all_sizes_reach_clients_that_resume_from_different_places() {
    let setup = setup(Config { capacity: Capacity { events: 1 << 20, bytes: 1 << 30 }, ..config() });
    let text = |number: usize| {
        let length = if number.is_multiple_of(97) { 20_000 } else { number * 7919 % 400 };
        format!("{number} {}", "x".repeat(length))
    };
    let mut ids = Vec::new();
    let publish = |ids: &mut Vec<String>, until: usize| {
        for number in ids.len()..until {
            ids.push(setup.publish(&text(number)));
        }
    };
    publish(&mut ids, 2000);
    let mut clients = Vec::new();
    for from in [0, 0, 1, 7, 96, 97, 500, 1990, 1995, 1999] {
        clients.push((setup.connect(Some(ids[from].clone())).0, from + 1));
        clients.push((setup.connect(None).0, ids.len()));
        publish(&mut ids, clients.len() * 20 + 2000);
    }
    publish(&mut ids, 3000);
    for (client, next) in &mut clients {
        for number in *next..ids.len() {
            assert_eq!(client.event().unwrap(), text(number));
        }
    }
    assert!(setup.ends.try_recv().is_err(), "nobody's stream ended");
}

#[test]
fn a_client_that_leaves_is_noticed() {
    let setup = setup(config());
    for leave in [Shutdown::Both, Shutdown::Write] {
        let (client, identity) = setup.connect(None);
        client.stream.shutdown(leave).unwrap();
        assert_eq!(setup.ended(), (identity.name().to_string(), "client".to_string()));
        assert_eq!(setup.hub.count(None), 0);
    }
}

/// The reactor's thread is not woken for a newcomer alone: it must come in time for what the newcomer is promised, and
/// here it looks at its clients only after minutes.
#[test]
fn a_newcomer_gets_its_heartbeat_and_its_end_in_time() {
    let rarely = Config { stall_timeout: Duration::from_secs(600), ..config() };
    let setup = setup(Config { heartbeat: Some(Duration::from_millis(100)), ..rarely.clone() });
    let (mut client, _) = setup.connect(None);
    assert!(client.chunk().unwrap().contains("event: stream-open"));
    assert!(client.chunk().unwrap().starts_with(':'), "a heartbeat");

    let setup = self::setup(rarely);
    let (mut first, _) = setup.connect(None);
    setup.publish("the thread knows the first");
    assert!(first.event().is_some());
    let limited = Request { max_age: Some(Duration::from_millis(50)), ..request(None) };
    // It may not sleep yet when the first of them comes.
    for _ in 0..5 {
        let (mut next, identity) = setup.welcome(pair(), &limited);
        assert_eq!(next.event(), None);
        assert_eq!(setup.ended(), (identity.name().to_string(), "max_age".to_string()));
    }
}

#[test]
fn newcomers_that_nothing_wakes_the_thread_for_are_all_known_to_it() {
    let setup = setup(config());
    let mut clients: Vec<Client> = (0..150).map(|_| setup.connect(None).0).collect();
    setup.publish("to all");
    for client in &mut clients {
        assert_eq!(client.event().as_deref(), Some("to all"));
    }
    drop(clients);
    until("all have left", || setup.hub.count(None) == 0);
}

#[test]
fn a_client_that_sends_rubbish_is_closed_beyond_a_limit() {
    let setup = setup(config());
    let (mut client, identity) = setup.connect(None);
    client.stream.write_all(&[b'x'; 1000]).unwrap();
    setup.publish("still here");
    assert_eq!(client.event().unwrap(), "still here");
    // The rest may find the connection closed already.
    let _ = client.stream.write_all(&vec![b'x'; 1 << 20]);
    assert_eq!(setup.ended(), (identity.name().to_string(), "client".to_string()));
    assert!(client.closes());
}

#[test]
fn a_stalled_client_delays_nobody_and_overflows_alone() {
    let setup = setup(config());
    let (_stalled, stalled) = setup.connect(None);
    let (mut healthy, _) = setup.connect(None);
    let filler = "x".repeat(100_000);
    let mut number = 0;
    // Until the stalled one's socket and queue are full, whatever the kernel's buffers are.
    while setup.hub.get(&stalled.name()).is_some() {
        setup.publish(&format!("{number} {filler}"));
        assert_eq!(healthy.event().unwrap(), format!("{number} {filler}"));
        number += 1;
        assert!(number < 5000, "a client that reads nothing is never cut");
    }
    assert_eq!(setup.ended(), (stalled.name().to_string(), "overflow".to_string()));
    assert_eq!(setup.hub.count(None), 1);
    until("the connection is closed", || setup.reactor.open(GroupId(7)) == 1);
}

#[test]
fn a_client_that_takes_nothing_is_freed_by_the_stall_timeout() {
    let stall_timeout = Duration::from_millis(200);
    let capacity = Capacity { events: 1 << 20, bytes: 1 << 30 };
    let setup = setup(Config { stall_timeout, capacity, ..config() });
    let (_client, stalled) = setup.connect(None);
    let filler = "x".repeat(100_000);
    for _ in 0..100 {
        setup.publish(&filler);
    }
    assert_eq!(setup.ended(), (stalled.name().to_string(), "stalled".to_string()));
    until("the connection is closed", || setup.reactor.open(GroupId(7)) == 0);
}

#[test]
fn a_client_that_takes_nothing_of_the_end_is_freed_by_the_stall_timeout() {
    let setup = setup(Config { stall_timeout: Duration::from_millis(200), ..config() });
    // A socket whose kernel does not time out what is unsent.
    let (mut client, server) = UnixStream::pair().unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let identity = setup.hub.subscribe(&setup.reactor.reader, &request(None)).unwrap();
    setup.reactor.adopt(OwnedFd::from(server), identity.clone());
    assert!(client.read(&mut [0; 4096]).unwrap() > 0, "the stream is open");
    // Its last event and its end in one look at the log: nothing is unwritten when the end is seen.
    let held = setup.reactor.reader.bell.hold();
    setup.publish(&"x".repeat(1_000_000));
    setup.hub.disconnect(Who::Id(identity.id), CloseReason::Kicked("enough".into()));
    drop(held);
    assert_eq!(setup.ended(), (identity.name().to_string(), "enough".to_string()));
    until("the connection is closed", || setup.reactor.open(GroupId(7)) == 0);
}

#[test]
fn a_server_that_stops_ends_its_streams_and_aborts_the_stalled() {
    let capacity = Capacity { events: 1 << 20, bytes: 1 << 30 };
    let setup = setup(Config { capacity, ..config() });
    let (mut reading, _) = setup.connect(None);
    let (_stalled, _) = setup.connect(None);
    let filler = "x".repeat(100_000);
    for number in 0..60 {
        setup.publish(&format!("{number} {filler}"));
    }
    setup.hub.disconnect(Who::Group(GroupId(7)), CloseReason::Shutdown);
    for number in 0..60 {
        assert_eq!(reading.event().unwrap(), format!("{number} {filler}"));
    }
    assert_eq!(reading.event(), None);
    drop(reading);
    setup.reactor.abort(GroupId(7));
    until("nothing is left", || setup.reactor.open(GroupId(7)) == 0);
}

#[test]
fn a_reactor_that_is_dropped_closes_everything() {
    let setup = setup(config());
    let (mut client, _) = setup.connect(None);
    assert!(client.chunk().is_some());
    drop(setup.reactor);
    assert!(client.closes());
    assert_eq!(setup.hub.count(None), 0);
    assert!(setup.hub.stats().contains(&("readers", 0)), "nothing is held for it");
}

/// What a test with thousands of sockets needs.
fn allow_descriptors(number: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a valid struct.
    let allowed = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_cur.max(number.min(limit.rlim_max));
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0 && limit.rlim_cur >= number
    };
    assert!(allowed, "this test needs {number} descriptors");
}

#[test]
fn a_client_that_waits_for_its_turn_is_not_cut_by_what_is_published_meanwhile() {
    allow_descriptors(4200);
    let capacity = Capacity { events: 4, bytes: 1 << 20 };
    let setup = setup(Config { capacity, ..config() });
    let mut clients: Vec<Client> = (0..2000).map(|_| setup.connect(None).0).collect();
    // One round of the line takes longer than many of these.
    for number in 0..500 {
        setup.publish(&number.to_string());
        std::thread::sleep(Duration::from_micros(300));
    }
    setup.publish("last");
    for client in &mut clients {
        for number in 0..500 {
            assert_eq!(client.event().as_deref(), Some(&*number.to_string()));
        }
        assert_eq!(client.event().as_deref(), Some("last"));
    }
    assert_eq!(setup.hub.count(None), clients.len());
}
