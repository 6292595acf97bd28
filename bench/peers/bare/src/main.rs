//! The floor: what the kernel takes for the same bytes at the same pace, when nothing else is done.
//!
//! It accepts sockets, answers the head, and sends each event to every socket, one send(2) each. No queue, no
//! registration, no heartbeat; whoever is not ready to receive is waited for. Not a server anyone could use.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, clock_gettime};

/// As long as the head that sse-hub's clients get from uvicorn.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\nserver: bare\r\n\
    cache-control: no-store\r\nx-accel-buffering: no\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
    transfer-encoding: chunked\r\n\r\n";

#[derive(Default)]
struct State {
    clients: Vec<TcpStream>,
    sequence: u64,
}

impl State {
    /// Drops the clients that left; says how many stay.
    fn count(&mut self) -> usize {
        self.clients.retain(|client| {
            client.peek(&mut [0]).map_or_else(|error| error.kind() == ErrorKind::WouldBlock, |got| got > 0)
        });
        self.clients.len()
    }

    fn publish(&mut self, size: usize) {
        let frame = frame(self.sequence, size);
        self.sequence += 1;
        for client in &self.clients {
            // A client that left stays in the list until it is counted: it costs a failing call.
            let _ = send(client, frame.as_bytes());
        }
    }
}

/// Event number `seq`, stamped now, as sse-hub frames it: an id, `size` characters of data, in a chunk.
fn frame(seq: u64, size: usize) -> String {
    let now = clock_gettime(ClockId::Monotonic);
    let head = format!("{seq} {} ", now.tv_sec * 1_000_000_000 + now.tv_nsec);
    let event = format!("id: bare000000-{}\ndata: {head:x<size$}\n\n", seq + 1);
    format!("{:x}\r\n{event}\r\n", event.len())
}

/// Sends all of it; waits where the socket's buffer is full.
fn send(mut client: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match client.write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(&client, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn parameter(target: &str, name: &str) -> Option<f64> {
    let query = target.split_once('?')?.1;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Publishes at a steady pace, as the other peers do.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the benchmark's own numbers
fn run(state: &Mutex<State>, target: &str) -> String {
    let number = |name, otherwise| parameter(target, name).unwrap_or(otherwise);
    let (n, batch, size) = (number("n", 0.0), number("batch", 1.0), number("bytes", 128.0) as usize);
    let (rate, begin) = (number("rate", 0.0), Instant::now());
    let first = state.lock().unwrap_or_else(PoisonError::into_inner).sequence;
    let mut sent = 0.0;
    while sent < n {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..batch.min(n - sent) as u64 {
            state.publish(size);
        }
        drop(state);
        sent += batch;
        if rate > 0.0 {
            thread::sleep(Duration::from_secs_f64(sent / rate).saturating_sub(begin.elapsed()));
        }
    }
    format!(r#"{{"first":{first},"n":{n}}}"#)
}

fn request(mut client: &TcpStream) -> io::Result<String> {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        match client.read(&mut part)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            got => bytes.extend_from_slice(&part[..got]),
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    text.split(' ').nth(1).map(str::to_owned).ok_or_else(|| ErrorKind::InvalidData.into())
}

fn answer(mut client: &TcpStream, body: &str) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ";
    client.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes())
}

fn serve(client: TcpStream, state: &Arc<Mutex<State>>) -> io::Result<()> {
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let target = request(&client)?;
    match target.split('?').next() {
        Some("/events") => {
            send(&client, HEAD)?;
            client.set_nonblocking(true)?;
            state.lock().unwrap_or_else(PoisonError::into_inner).clients.push(client);
            Ok(())
        }
        Some("/publish") => {
            let state = Arc::clone(state);
            // Of its own thread, so that further requests are accepted meanwhile.
            thread::spawn(move || answer(&client, &run(&state, &target)));
            Ok(())
        }
        Some("/count") => {
            let count = state.lock().unwrap_or_else(PoisonError::into_inner).count();
            answer(&client, &format!(r#"{{"count":{count}}}"#))
        }
        _ => answer(&client, r#"{"pong":true}"#),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("usage: peer-bare PORT")?.parse()?;
    let state = Arc::default();
    for client in TcpListener::bind(("127.0.0.1", port))?.incoming() {
        if let Err(error) = serve(client?, &state) {
            // The probe whether the port is open sends nothing; all else is worth a line.
            if error.kind() != ErrorKind::UnexpectedEof {
                eprintln!("peer-bare: {error}");
            }
        }
    }
    Ok(())
}
