//! Times an unrelated endpoint.
//!
//! In a thread of its own: on the thread of the streams an answer waits behind all of their events that are ready
//! before it, and what is timed is how quick they are taken here.

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::Duration;

use crate::histogram::Histogram;
use crate::http::Response;
use crate::process::now;

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks at a steady pace, on a connection for each request, until it is finished.
#[derive(Debug)]
pub struct Probe {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Answers>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Answers {
    /// From when a request was due to its answer: a late start counts against the server.
    pub latency: Histogram,
    /// Requests without a proper answer.
    pub failed: u64,
}

impl Probe {
    /// Begins at once.
    pub fn start(path: &str, target: SocketAddrV4, every: Duration) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
        let thread = Builder::new().name("probe".into()).spawn(move || {
            let mut answers = Answers::default();
            let mut due = now();
            while !seen.load(Ordering::Relaxed) {
                match ask(target, request.as_bytes()) {
                    Ok(()) => answers.latency.record(now().saturating_sub(due)),
                    Err(_) => answers.failed += 1,
                }
                due += u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
                sleep(Duration::from_nanos(due.saturating_sub(now())));
            }
            answers
        })?;
        Ok(Self { over, thread })
    }

    /// Ends after the request under way.
    pub fn finish(self) -> Answers {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn ask(target: SocketAddrV4, request: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut response = Response::default();
    let mut buffer = [0; 4096];
    while !response.done() {
        match stream.read(&mut buffer)? {
            0 if response.ends_with_connection() => break,
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => response
                .feed(&buffer[..count], |_| {})
                .map_err(|error| io::Error::other(format!("{error:?}")))?,
        }
    }
    if (200..300).contains(&response.status) {
        Ok(())
    } else {
        Err(io::Error::other("not answered with 2xx"))
    }
}
