//! Clients that are slow, stall, or vanish.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use sse_hub::change::Who;
use sse_hub::config::Config;
use sse_hub::identity::CloseReason;
use sse_hub::ids::GroupId;
use sse_hub::queue::Capacity;

use crate::support::*;

#[test]
fn a_client_that_is_slow_but_takes_something_is_not_stalled() {
    let stall_timeout = Duration::from_secs(1);
    let capacity = Capacity { events: 1 << 20, bytes: 1 << 30 };
    let setup = setup(Config { stall_timeout, capacity, ..config() });
    let (mut client, identity) = setup.connect(None);
    socket2::SockRef::from(&client.stream).set_recv_buffer_size(32 << 10).unwrap();
    let filler = "x".repeat(100_000);
    for number in 0..100 {
        setup.publish(&format!("{number} {filler}"));
    }
    // One write of 10 MB, taken in the time of several timeouts.
    let start = Instant::now();
    for number in 0..100 {
        assert_eq!(client.event().unwrap(), format!("{number} {filler}"));
        if number == 20 {
            setup.publish("waits behind it");
        }
        std::thread::sleep(stall_timeout / 20);
    }
    assert_eq!(client.event().unwrap(), "waits behind it");
    assert!(start.elapsed() > 4 * stall_timeout);
    assert_eq!(identity.closed.get(), None);
}

/// Its window is closed most of the time, and what it takes in a second is less than a write.
#[test]
fn a_client_that_takes_few_bytes_is_never_cut() {
    let stall_timeout = Duration::from_secs(1);
    let capacity = Capacity { events: 1 << 20, bytes: 1 << 30 };
    let setup = setup(Config { stall_timeout, capacity, ..config() });
    let (client, identity) = setup.connect_with(narrow_pair(), None);
    let (mut local, server) = UnixStream::pair().unwrap();
    let other = setup.hub.subscribe(&setup.reactor.reader, &request(None)).unwrap();
    setup.reactor.adopt(OwnedFd::from(server), other.clone());
    let filler = "x".repeat(100_000);
    for _ in 0..20 {
        setup.publish(&filler);
    }
    let mut stream = client.stream;
    let start = Instant::now();
    let mut buffer = [0; 500];
    while start.elapsed() < 6 * stall_timeout {
        assert!(stream.read(&mut buffer).unwrap() > 0);
        assert!(local.read(&mut buffer).unwrap() > 0);
        std::thread::sleep(stall_timeout / 20);
    }
    assert_eq!((identity.closed.get(), other.closed.get()), (None, None));
    assert_eq!(setup.stat("stalled"), 0);
}

/// A heartbeat or two wait in the kernel, and nothing at the hub.
#[test]
fn a_client_that_stalls_with_everything_in_the_kernel_is_ended_by_a_reset() {
    let stall_timeout = Duration::from_millis(300);
    let setup = setup(Config { stall_timeout, ..config() });
    let (mut client, identity) = setup.connect_with(narrow_pair(), None);
    setup.publish(&"x".repeat(30_000));
    until("it is ended", || identity.closed.get().is_some());
    assert_eq!(setup.ended(), (identity.name().to_string(), "stalled".to_string()));
    assert_eq!(setup.stat("stalled"), 1);
    assert!(client.closes());
    assert_eq!(setup.reactor.open(GroupId(7)), 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_client_that_vanishes_is_noticed_when_something_is_written_to_it() {
    let stall_timeout = Duration::from_secs(1);
    let setup = setup(Config { stall_timeout, ..config() });
    let (mut client, identity) = setup.connect(None);
    assert!(client.chunk().is_some());
    vanish(&client.stream);
    std::thread::sleep(2 * stall_timeout);
    assert_eq!(identity.closed.get(), None, "nothing was written that it could acknowledge");
    setup.publish("into the void");
    assert_eq!(setup.ended(), (identity.name().to_string(), "client".to_string()));
    assert_eq!(setup.stat("stalled"), 0);
}

/// The end of a stream waits behind what the client takes slowly, and arrives; a stalled client is not waited for.
#[test]
fn the_end_of_a_stream_reaches_a_slow_client() {
    let stall_timeout = Duration::from_secs(1);
    let capacity = Capacity { events: 1 << 20, bytes: 1 << 30 };
    let setup = setup(Config { stall_timeout, capacity, ..config() });
    let (mut slow, _) = setup.connect_with(narrow_pair(), None);
    let (stalled, _) = setup.connect_with(narrow_pair(), None);
    let filler = "x".repeat(10_000);
    for number in 0..20 {
        setup.publish(&format!("{number} {filler}"));
    }
    setup.hub.disconnect(Who::All, CloseReason::Kicked("enough".into()));
    let start = Instant::now();
    for number in 0..20 {
        assert_eq!(slow.event().unwrap(), format!("{number} {filler}"));
        std::thread::sleep(stall_timeout / 6);
    }
    assert_eq!(slow.event(), None);
    assert!(start.elapsed() > 3 * stall_timeout);
    assert!(slow.closes());
    let mut stalled = stalled;
    assert!(stalled.closes());
    until("both are counted out", || setup.reactor.open(GroupId(7)) == 0);
    assert_eq!((setup.ended().1.as_str(), setup.ended().1.as_str()), ("enough", "enough"));
}
