//! The loop: one thread, one epoll, all clients.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::client::{Client, Stage};
use crate::exchange::Exchange;
use crate::process::{Server, now, own_cpu};
use crate::socket::{self, Epoll, Ready};
use crate::tally::Tally;

/// How often own CPU use and the server's RSS are sampled.
const SAMPLE_NS: u64 = 100_000_000;
const CONTROL_TOKEN: u64 = u64::MAX;
/// A stalled client's receive buffer: small, so that it stalls after kilobytes, not megabytes.
const STALLED_BUFFER: i32 = 4096;

/// What was sampled while a phase ran.
#[derive(Debug, Default)]
pub struct Samples {
    /// The largest share of a sampling interval that this process computed.
    pub own_share_peak: f64,
    /// The server's largest resident size in bytes.
    pub rss_peak: u64,
    wall: u64,
    cpu: u64,
}

fn request(target: SocketAddrV4, path: &str, further: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {target}\r\nAccept: text/event-stream\r\n\
        Cache-Control: no-cache\r\n{further}\r\n"
    )
    .into_bytes()
}

/// Everything a mode works with.
#[derive(Debug)]
pub struct Engine {
    /// The server under test.
    pub server: Server,
    /// All clients, by token.
    pub clients: Vec<Client>,
    /// What they received in this phase.
    pub tally: Tally,
    /// What was sampled in this phase.
    pub samples: Samples,
    /// How many streams failed since the start.
    pub failures: u64,
    /// How many streams are open now.
    pub open: usize,
    /// How many connects or requests are under way.
    pub pending: usize,
    /// The pause before each look at the sockets.
    ///
    /// Were this thread asleep in `epoll_wait`, each of the server's writes would wake it: an interrupt to
    /// another core, and in a virtual machine an exit, that a server pays for only because its clients are on
    /// its own machine. While it sleeps on a timer instead, writes just queue.
    pub gather: Duration,
    control: Option<Exchange>,
    target: SocketAddrV4,
    sources: u8,
    request: Vec<u8>,
    epoll: Epoll,
    ready: Vec<Ready>,
    buffer: Vec<u8>,
}

impl Engine {
    /// `sources` is how many addresses from 127.0.0.2 on the clients come from in turn.
    pub fn new(server: Server, target: SocketAddrV4, path: &str, sources: u8) -> io::Result<Self> {
        Ok(Self {
            server,
            clients: Vec::new(),
            tally: Tally::default(),
            samples: Samples::default(),
            failures: 0,
            open: 0,
            pending: 0,
            gather: Duration::ZERO,
            control: None,
            target,
            sources: sources.max(1),
            request: request(target, path, ""),
            epoll: Epoll::new()?,
            ready: Vec::with_capacity(1024),
            buffer: vec![0; 64 * 1024],
        })
    }

    /// From now on clients accept these codings.
    pub fn accept(&mut self, path: &str, codings: &str) {
        if !codings.is_empty() {
            self.request = request(self.target, path, &format!("Accept-Encoding: {codings}\r\n"));
        }
    }

    /// From now on clients come back with this id.
    pub fn resume_from(&mut self, path: &str, id: &str) {
        self.request = request(self.target, path, &format!("Last-Event-ID: {id}\r\n"));
    }

    /// Starts one more client.
    pub fn open_client(&mut self, stalls: bool) -> io::Result<()> {
        let token = self.clients.len() as u64;
        let client = self.connect(token, stalls)?;
        self.clients.push(client);
        Ok(())
    }

    /// Starts a client in the place of one that is over.
    pub fn reopen_client(&mut self, index: usize) -> io::Result<()> {
        self.clients[index] = self.connect(index as u64, false)?;
        Ok(())
    }

    fn connect(&mut self, token: u64, stalls: bool) -> io::Result<Client> {
        let turn = u8::try_from(token % u64::from(self.sources)).unwrap_or(0);
        let source = Ipv4Addr::new(127, 0, 0, 2 + turn);
        let fd = socket::connect(source, self.target, stalls.then_some(STALLED_BUFFER))?;
        self.epoll.await_connect(&fd, token)?;
        self.pending += 1;
        Ok(Client::new(fd, stalls))
    }

    /// Closes an open client's connection from this side.
    pub fn close_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        match client.stage {
            Stage::Open => self.open -= 1,
            Stage::Connecting | Stage::Requested => self.pending -= 1,
            Stage::Complete | Stage::Failed => return,
        }
        client.end(Stage::Complete);
    }

    /// Waits up to `timeout_ms` for input and handles all of it.
    pub fn turn(&mut self, timeout_ms: i32) -> io::Result<()> {
        if !self.gather.is_zero() {
            std::thread::sleep(self.gather);
        }
        let mut ready = std::mem::take(&mut self.ready);
        self.epoll.wait(timeout_ms, &mut ready)?;
        for event in &ready {
            match event.token {
                CONTROL_TOKEN => {
                    if let Some(control) = &mut self.control {
                        control.on_ready(&self.epoll, event.writable, &mut self.buffer);
                    }
                }
                token => {
                    self.client_ready(usize::try_from(token).unwrap_or(usize::MAX), event.writable)?;
                }
            }
        }
        self.ready = ready;
        self.sample();
        Ok(())
    }

    fn client_ready(&mut self, index: usize, writable: bool) -> io::Result<()> {
        let client = &mut self.clients[index];
        let before = client.stage;
        if before == Stage::Connecting && writable {
            match client.on_connected(&self.request) {
                Ok(()) => {
                    if let Some(fd) = &client.fd {
                        self.epoll.await_input(fd, index as u64)?;
                    }
                }
                Err(_) => client.end(Stage::Failed),
            }
        } else {
            client.on_input(&mut self.buffer, &mut self.tally);
        }
        let after = client.stage;
        if after == before {
            return Ok(());
        }
        match before {
            Stage::Open => self.open -= 1,
            Stage::Connecting | Stage::Requested if after != Stage::Requested => self.pending -= 1,
            _ => {}
        }
        match after {
            Stage::Open => {
                self.open += 1;
                if let Some(fd) = client.fd.as_ref().filter(|_| client.stalls) {
                    self.epoll.forget(fd)?;
                }
            }
            Stage::Failed => self.failures += 1,
            _ => {}
        }
        Ok(())
    }

    fn sample(&mut self) {
        let at = now();
        if at - self.samples.wall < SAMPLE_NS {
            return;
        }
        let cpu = own_cpu();
        if self.samples.wall != 0 {
            let share = (cpu - self.samples.cpu) as f64 / (at - self.samples.wall) as f64;
            self.samples.own_share_peak = self.samples.own_share_peak.max(share);
        }
        self.samples.rss_peak = self.samples.rss_peak.max(self.server.rss_quick());
        (self.samples.wall, self.samples.cpu) = (at, cpu);
    }

    /// Begins a new phase: forgets what was counted, keeps what each client must see next.
    pub fn new_phase(&mut self, expect_size: usize) {
        self.tally = Tally::expecting(expect_size);
        self.samples = Samples::default();
    }

    /// Sends a control request; its answer is awaited while the streams go on.
    pub fn start_request(&mut self, method: &str, path: &str) -> io::Result<()> {
        self.control = Some(Exchange::start(&self.epoll, CONTROL_TOKEN, self.target, method, path)?);
        Ok(())
    }

    /// The control request's answer, once.
    pub fn take_answer(&mut self) -> Option<Result<String, String>> {
        let answer = self.control.as_ref()?.outcome()?.map(|body| String::from_utf8_lossy(body).into_owned());
        self.control = None;
        Some(answer)
    }
}
