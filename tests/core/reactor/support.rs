//! A reactor with clients on real sockets.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use sse_hub::clock::Clock;
use sse_hub::config::Config;
use sse_hub::frame::{Draft, FrameBuilder};
use sse_hub::history::Retention;
use sse_hub::hub::{Hub, Request};
use sse_hub::identity::{CloseReason, Identity};
use sse_hub::ids::GroupId;
use sse_hub::queue::Capacity;
use sse_hub::reactor::{Listener, Reactor};
use sse_hub::topic::Topic;

use crate::usual_config;

pub const SOON: Duration = Duration::from_secs(60);

pub struct Ends(Mutex<Sender<(String, String)>>);

impl Listener for Ends {
    fn closed(&self, identity: &Arc<Identity>, reason: &CloseReason) {
        let _ = self.0.lock().unwrap().send((identity.name().to_string(), reason.as_str().to_string()));
    }
}

pub struct Setup {
    pub hub: Arc<Hub>,
    pub reactor: Reactor,
    pub ends: Receiver<(String, String)>,
}

pub fn config() -> Config {
    Config {
        retention: Retention { count: 100_000, bytes: 256 << 20, age: None },
        history_total_bytes: 256 << 20,
        capacity: Capacity { events: 64, bytes: 1 << 20 },
        backlog_bytes: 64 << 20,
        max_event_bytes: 1 << 20,
        ..usual_config::config()
    }
}

pub fn setup(config: Config) -> Setup {
    let hub = Arc::new(Hub::new(config, Clock::real()));
    let (sender, ends) = channel();
    let reactor = Reactor::start(hub.clone(), Box::new(Ends(Mutex::new(sender)))).unwrap();
    Setup { hub, reactor, ends }
}

/// Have the kernel drop everything that arrives at this socket from now on: to its peer, the client has vanished.
#[cfg(target_os = "linux")]
pub fn vanish(client: &TcpStream) {
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
pub fn narrow_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_recv_buffer_size(4096).unwrap();
    client.connect(&listener.local_addr().unwrap().into()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let client = TcpStream::from(client);
    client.set_read_timeout(Some(SOON)).unwrap();
    (client, server)
}

pub fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    (client, server)
}

pub fn request(last_event_id: Option<String>) -> Request {
    Request { topics: vec![Topic::new("t").unwrap()], last_event_id, group: GroupId(7), ..Request::default() }
}

impl Setup {
    pub fn connect(&self, last_event_id: Option<String>) -> (Client, Arc<Identity>) {
        self.connect_with(pair(), last_event_id)
    }

    pub fn connect_with(
        &self,
        (client, server): (TcpStream, TcpStream),
        last_event_id: Option<String>,
    ) -> (Client, Arc<Identity>) {
        self.welcome((client, server), &request(last_event_id))
    }

    /// A client that comes as the hand-off brings it: newcomers are served before the reactor's thread knows them.
    pub fn welcome(
        &self,
        (client, server): (TcpStream, TcpStream),
        request: &Request,
    ) -> (Client, Arc<Identity>) {
        let (turn, reader) = (self.reactor.turn(), &self.reactor.reader);
        let identity = if request.begins_plain() {
            let (identity, _) = self.hub.subscribe_silently(reader, request).unwrap();
            self.reactor.welcome(OwnedFd::from(server), &identity, turn);
            identity
        } else {
            let identity = self.hub.subscribe(reader, request).unwrap();
            self.reactor.adopt(OwnedFd::from(server), identity.clone());
            identity
        };
        (Client { stream: client, body: Vec::new(), read: 0, over: false }, identity)
    }

    pub fn publish(&self, text: &str) -> String {
        self.hub.publish(&[Topic::new("t").unwrap()], draft(text)).unwrap().to_string()
    }

    pub fn stat(&self, name: &str) -> u64 {
        self.hub.stats().into_iter().find(|(found, _)| *found == name).unwrap().1
    }

    pub fn ended(&self) -> (String, String) {
        self.ends.recv_timeout(SOON).expect("a stream ends")
    }
}

pub fn draft(text: &str) -> Draft {
    let mut builder = FrameBuilder::new(None, None);
    builder.text(text);
    builder.finish(None)
}

/// A client that decodes the chunked body.
pub struct Client {
    pub stream: TcpStream,
    pub body: Vec<u8>,
    pub read: usize,
    pub over: bool,
}

impl Client {
    /// The text of the next chunk; none at the end of the body.
    pub fn chunk(&mut self) -> Option<String> {
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
    pub fn event(&mut self) -> Option<String> {
        loop {
            let chunk = self.chunk()?;
            if !chunk.contains("event: stream-") && !chunk.starts_with(": ") {
                let data = chunk.lines().find_map(|line| line.strip_prefix("data: "));
                return Some(data.expect("data").to_string());
            }
        }
    }

    /// Whether the server closes, reading whatever still comes.
    pub fn closes(&mut self) -> bool {
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

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "{what}");
        std::thread::yield_now();
    }
}
