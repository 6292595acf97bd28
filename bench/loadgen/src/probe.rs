//! Times an unrelated endpoint.
//!
//! In a thread of its own: on the thread of the streams an answer waits behind all of their events that are ready
//! before it, and what is timed is how quick they are taken here.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::exchange::Exchange;
use crate::histogram::Histogram;
use crate::process::now;
use crate::socket::{Epoll, Ready};

/// Requests under way at a time at most: at the usual pace ten seconds without an answer.
const UNDER_WAY: usize = 500;

/// Asks at a steady pace until it is finished, whether or not what it asked before was answered; on a connection
/// for each request.
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
    /// Requests without a proper answer, and those that were not made as too many were under way.
    pub failed: u64,
}

impl Probe {
    /// Begins at once. When it is finished, answers that are still due are awaited for `patience`.
    pub fn start(path: &str, target: SocketAddrV4, every: Duration, patience: Duration) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let mut asking = Asking {
            epoll: Epoll::new()?,
            target,
            path: path.to_owned(),
            under_way: HashMap::new(),
            asked: 0,
            answers: Answers::default(),
            ready: Vec::new(),
            buffer: vec![0; 4096],
        };
        let thread = Builder::new().name("probe".into()).spawn(move || {
            let mut due = now();
            while !seen.load(Ordering::Relaxed) {
                if now() < due {
                    asking.turn(due);
                } else {
                    asking.ask(due);
                    due += nanoseconds(every);
                }
            }
            asking.wait_until(now() + nanoseconds(patience))
        })?;
        Ok(Self { over, thread })
    }

    /// Asks no more and awaits what is under way.
    pub fn finish(self) -> Answers {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The requests of a probe.
struct Asking {
    epoll: Epoll,
    target: SocketAddrV4,
    path: String,
    /// By token, with when each was due.
    under_way: HashMap<u64, (u64, Exchange)>,
    asked: u64,
    answers: Answers,
    ready: Vec<Ready>,
    buffer: Vec<u8>,
}

impl Asking {
    fn ask(&mut self, due: u64) {
        self.asked += 1;
        let begun = (self.under_way.len() < UNDER_WAY)
            .then(|| Exchange::start(&self.epoll, self.asked, self.target, "GET", &self.path).ok());
        match begun.flatten() {
            Some(exchange) => {
                self.under_way.insert(self.asked, (due, exchange));
            }
            None => self.answers.failed += 1,
        }
    }

    /// Takes the answers that come until then, or until some came.
    fn turn(&mut self, until: u64) {
        let mut ready = std::mem::take(&mut self.ready);
        let within = Duration::from_nanos(until.saturating_sub(now()));
        // Nothing ready: what is under way counts as unanswered in the end.
        if self.epoll.wait_within(within, &mut ready).is_err() {
            ready.clear();
        }
        for event in &ready {
            let Some((due, exchange)) = self.under_way.get_mut(&event.token) else { continue };
            exchange.on_ready(&self.epoll, event.writable, &mut self.buffer);
            match exchange.outcome().map(|answer| answer.is_ok()) {
                None => continue,
                Some(true) => self.answers.latency.record(now().saturating_sub(*due)),
                Some(false) => self.answers.failed += 1,
            }
            self.under_way.remove(&event.token);
        }
        self.ready = ready;
    }

    /// What came of all requests; those that are not answered by then failed.
    fn wait_until(mut self, end: u64) -> Answers {
        while !self.under_way.is_empty() && now() < end {
            self.turn(end);
        }
        self.answers.failed += self.under_way.len() as u64;
        self.answers
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const EVERY: Duration = Duration::from_millis(2);

    fn listen() -> (TcpListener, SocketAddrV4) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = listener.local_addr().expect("bound").to_string().parse().expect("IPv4");
        (listener, target)
    }

    fn answer(mut client: TcpStream) {
        let got = client.read(&mut [0; 4096]).expect("a request");
        assert!(got > 0);
        client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npong").expect("written");
    }

    #[test]
    fn it_asks_on_while_nothing_is_answered_and_times_each_from_when_it_was_due() {
        let (listener, target) = listen();
        let (told, held) = mpsc::channel();
        thread::spawn(move || {
            // The first is answered only after nine more came: who waits for it would wait for ever.
            let waiting: Vec<_> = listener.incoming().take(10).collect();
            waiting.into_iter().flatten().for_each(answer);
            let _ = told.send(());
            listener.incoming().flatten().for_each(answer);
        });
        let probe = Probe::start("/", target, EVERY, Duration::from_secs(60)).expect("a thread");
        held.recv_timeout(Duration::from_secs(60)).expect("ten at once");
        let answers = probe.finish();
        assert_eq!(answers.failed, 0);
        assert!(answers.latency.quantile(1.0) >= 8 * nanoseconds(EVERY));
    }

    #[test]
    fn what_is_not_answered_failed() {
        let (listener, target) = listen();
        let probe = Probe::start("/", target, EVERY, Duration::from_millis(20)).expect("a thread");
        let mut clients: Vec<_> = listener.incoming().take(3).collect();
        // Refused, not 2xx, left alone.
        drop(clients.pop());
        let refused = clients.pop().expect("three").expect("accepted");
        { refused }.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").expect("written");
        let answers = probe.finish();
        assert!(answers.failed >= 3, "{answers:?}");
        assert_eq!(answers.latency.quantile(1.0), 0);
    }

    #[test]
    fn more_than_are_allowed_under_way_are_not_made_but_counted() {
        let (listener, target) = listen();
        let mut asking = Asking {
            epoll: Epoll::new().expect("descriptors"),
            target,
            path: "/".into(),
            under_way: HashMap::new(),
            asked: 0,
            answers: Answers::default(),
            ready: Vec::new(),
            buffer: vec![0; 4096],
        };
        for _ in 0..UNDER_WAY + 7 {
            asking.ask(now());
        }
        assert_eq!((asking.under_way.len(), asking.answers.failed), (UNDER_WAY, 7));
        assert_eq!(asking.wait_until(now()).failed, UNDER_WAY as u64 + 7);
        drop(listener);
    }
}
