//! One client: a connection, its request, and what it has seen.

use std::io;
use std::os::fd::OwnedFd;

use crate::coding::Coding;
use crate::http::Response;
use crate::process::now;
use crate::socket;
use crate::sse::Stream;
use crate::tally::Tally;

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The connect has not been answered.
    Connecting,
    /// The request is out, the response's head is not in.
    Requested,
    /// A 200 came; the stream runs.
    Open,
    /// The stream reached its proper end.
    Complete,
    /// It ended otherwise: refused, not a 200, cut, or not understood.
    Failed,
}

/// A connection and the state of its parsers.
#[derive(Debug)]
pub struct Client {
    /// None as soon as it is over.
    pub fd: Option<OwnedFd>,
    /// How far it is.
    pub stage: Stage,
    /// The number its next event must have.
    pub expected: Option<u64>,
    /// Benchmark events on this connection.
    pub events: u64,
    /// When the last of them came.
    pub last_event: u64,
    /// When its request was sent.
    requested: u64,
    /// Leaves its input unread once it is open.
    pub stalls: bool,
    response: Response,
    coding: Coding,
    stream: Stream,
}

impl Client {
    /// A client whose socket is connecting.
    pub fn new(fd: OwnedFd, stalls: bool) -> Self {
        Self {
            fd: Some(fd),
            stage: Stage::Connecting,
            expected: None,
            events: 0,
            last_event: 0,
            requested: 0,
            stalls,
            response: Response::default(),
            coding: Coding::default(),
            stream: Stream::default(),
        }
    }

    /// From now on remembers the last event's id, as an `EventSource` does.
    pub fn remember_id(&mut self) {
        self.stream.keep_id();
    }

    /// That id; empty where none came.
    pub fn last_id(&self) -> &[u8] {
        self.stream.last_id()
    }

    /// Whether its socket is still of interest.
    pub fn alive(&self) -> bool {
        self.fd.is_some()
    }

    /// Sends the request once the connect is through.
    pub fn on_connected(&mut self, request: &[u8]) -> io::Result<()> {
        let Some(fd) = &self.fd else { return Ok(()) };
        socket::connected(fd)?;
        self.requested = now();
        socket::send(fd, request)?;
        self.stage = Stage::Requested;
        Ok(())
    }

    /// Reads once and accounts for what came. Level-triggered: whatever is left is reported again.
    pub fn on_input(&mut self, buffer: &mut [u8], tally: &mut Tally) {
        let Some(fd) = &self.fd else { return };
        match socket::receive(fd, buffer) {
            Ok(0) => {
                let proper = self.stage == Stage::Open && self.response.ends_with_connection();
                self.end(if proper { Stage::Complete } else { Stage::Failed });
            }
            Ok(count) => self.on_bytes(&buffer[..count], tally),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.end(Stage::Failed),
        }
    }

    fn on_bytes(&mut self, bytes: &[u8], tally: &mut Tally) {
        let at = now();
        tally.bytes += bytes.len() as u64;
        tally.reads += 1;
        let before = tally.events;
        let Self { response, coding, stream, expected, .. } = self;
        let mut decodes = true;
        let fed = response.feed(bytes, |body| {
            decodes &=
                coding.feed(body, |text| stream.feed(text, &mut |item| tally.take(item, at, expected)));
        });
        if tally.events > before {
            if self.events == 0 {
                tally.first_event.record(at.saturating_sub(self.requested));
            }
            self.events += tally.events - before;
            self.last_event = at;
        }
        if fed.is_err() || !decodes || !matches!(self.response.status, 0 | 200) {
            self.end(Stage::Failed);
        } else if self.response.done() {
            self.end(Stage::Complete);
        } else if self.response.status == 200 {
            self.stage = Stage::Open;
        }
    }

    /// Closes the socket.
    pub fn end(&mut self, stage: Stage) {
        self.stage = stage;
        self.fd = None;
    }
}
