//! The reactor on real sockets: what a client reads, and what becomes of clients that misbehave.
#![cfg(unix)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use sse_hub::change::Who;
use sse_hub::clock::Clock;
use sse_hub::config::Config;
use sse_hub::frame::{Draft, FrameBuilder};
use sse_hub::history::Retention;
use sse_hub::hub::{Hub, Request};
use sse_hub::identity::{CloseReason, Identity};
use sse_hub::ids::GroupId;
use sse_hub::queue::{Capacity, OverflowPolicy};
use sse_hub::reactor::{Listener, Reactor};
use sse_hub::topic::Topic;

const SOON: Duration = Duration::from_secs(60);

struct Ends(Mutex<Sender<(String, String)>>);

impl Listener for Ends {
    fn closed(&self, identity: &Arc<Identity>, reason: &CloseReason) {
        let _ = self.0.lock().unwrap().send((identity.name().to_string(), reason.as_str().to_string()));
    }
}

struct Setup {
    hub: Arc<Hub>,
    reactor: Reactor,
    ends: Receiver<(String, String)>,
}

fn config() -> Config {
    Config {
        retention: Retention { count: 100_000, bytes: 256 << 20, age: None },
        history_total_bytes: 256 << 20,
        heartbeat: None,
        reconnect_ms: (1000, 1000),
        capacity: Capacity { events: 64, bytes: 1 << 20 },
        overflow: OverflowPolicy::Disconnect,
        stall_timeout: Duration::from_secs(30),
        backlog_bytes: 64 << 20,
        max_event_bytes: 1 << 20,
        max_subscribers: None,
    }
}

fn setup(config: Config) -> Setup {
    let hub = Arc::new(Hub::new(config, Clock::real()));
    let (sender, ends) = channel();
    let reactor = Reactor::start(hub.clone(), Box::new(Ends(Mutex::new(sender)))).unwrap();
    Setup { hub, reactor, ends }
}

/// Have the kernel drop everything that arrives at this socket from now on: to its peer, the client has vanished.
#[cfg(target_os = "linux")]
fn vanish(client: &TcpStream) {
    let mut code =
        [libc::sock_filter { code: u16::try_from(libc::BPF_RET | libc::BPF_K).unwrap(), jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: code.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of_val(&program)).unwrap();
    // SAFETY: the pointers are valid during the call, and the kernel copies the program.
    let outcome = unsafe {
        let program = (&raw const program).cast();
        libc::setsockopt(client.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program, size)
    };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}

/// A pair with a small window, as it was before the connection.
fn narrow_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_recv_buffer_size(4096).unwrap();
    client.connect(&listener.local_addr().unwrap().into()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let client = TcpStream::from(client);
    client.set_read_timeout(Some(SOON)).unwrap();
    (client, server)
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    (client, server)
}

fn request(last_event_id: Option<String>) -> Request {
    Request { topics: vec![Topic::new("t").unwrap()], last_event_id, group: GroupId(7), ..Request::default() }
}

impl Setup {
    fn connect(&self, last_event_id: Option<String>) -> (Client, Arc<Identity>) {
        self.connect_with(pair(), last_event_id)
    }

    fn connect_with(
        &self,
        (client, server): (TcpStream, TcpStream),
        last_event_id: Option<String>,
    ) -> (Client, Arc<Identity>) {
        let identity = self.hub.subscribe(&self.reactor.reader, &request(last_event_id)).unwrap();
        self.reactor.adopt(OwnedFd::from(server), identity.clone());
        (Client { stream: client, body: Vec::new(), read: 0, over: false }, identity)
    }

    fn publish(&self, text: &str) -> String {
        self.hub.publish(&[Topic::new("t").unwrap()], draft(text)).unwrap().to_string()
    }

    fn stat(&self, name: &str) -> u64 {
        self.hub.stats().into_iter().find(|(found, _)| *found == name).unwrap().1
    }

    fn ended(&self) -> (String, String) {
        self.ends.recv_timeout(SOON).expect("a stream ends")
    }
}

fn draft(text: &str) -> Draft {
    let mut builder = FrameBuilder::new(None, None);
    builder.text(text);
    builder.finish(None)
}

/// A client that decodes the chunked body.
struct Client {
    stream: TcpStream,
    body: Vec<u8>,
    read: usize,
    over: bool,
}

impl Client {
    /// The text of the next chunk; none at the end of the body.
    fn chunk(&mut self) -> Option<String> {
        loop {
            let rest = &self.body[self.read..];
            if let Some(line) = rest.windows(2).position(|pair| pair == b"\r\n") {
                let length = std::str::from_utf8(&rest[..line]).unwrap();
                let length = usize::from_str_radix(length, 16).expect("a chunk's length");
                if rest.len() >= line + 2 + length + 2 {
                    let chunk = rest[line + 2..line + 2 + length].to_vec();
                    assert_eq!(&rest[line + 2 + length..line + 4 + length], b"\r\n");
                    self.read += line + 4 + length;
                    self.over |= length == 0;
                    return (!self.over).then(|| String::from_utf8(chunk).unwrap());
                }
            }
            let mut buffer = [0; 1 << 13];
            match self.stream.read(&mut buffer).expect("the server writes") {
                0 => panic!("the connection ended inside the body"),
                n => self.body.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// The data of the next published event.
    fn event(&mut self) -> Option<String> {
        loop {
            let chunk = self.chunk()?;
            if !chunk.contains("event: stream-") && !chunk.starts_with(": ") {
                let data = chunk.lines().find_map(|line| line.strip_prefix("data: "));
                return Some(data.expect("data").to_string());
            }
        }
    }

    /// Whether the server closes, reading whatever still comes.
    fn closes(&mut self) -> bool {
        let mut buffer = [0; 1 << 13];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "{what}");
        std::thread::yield_now();
    }
}

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

/// A heartbeat or two that nobody takes: nothing waits at the hub.
#[test]
fn a_client_that_stalls_with_everything_in_the_kernel_is_told_by_a_reset() {
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

/// The end of a stream waits behind what the client takes slowly, and arrives; nobody waits for one that stalls.
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
