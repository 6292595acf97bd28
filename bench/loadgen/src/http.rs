//! An incremental HTTP/1.1 response parser: just enough to strip the head and the transfer coding.

use memchr::memmem;

/// Heads longer than this are an error: no server under test sends that much.
const MAX_HEAD: usize = 16 * 1024;

/// Where the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    ChunkSize,
    ChunkExtension,
    ChunkData,
    ChunkEnd,
    Trailer,
    Sized,
    UntilClose,
    Done,
}

/// Why a response cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The head is not HTTP/1.x, or is too long.
    Head,
    /// A chunk's size line or its end is wrong.
    Chunk,
}

/// One response being received. `feed` takes bytes as they come, cut anywhere.
#[derive(Debug)]
pub struct Response {
    state: State,
    /// Bytes left of the chunk or of the sized body; digits of a chunk size are collected here.
    left: u64,
    /// The status code; 0 until the head is complete.
    pub status: u16,
    /// An incomplete head. Empty, and without memory of its own, in almost every case.
    head: Vec<u8>,
    line: usize,
}

impl Default for Response {
    fn default() -> Self {
        Self { state: State::Head, left: 0, status: 0, head: Vec::new(), line: 0 }
    }
}

impl Response {
    /// Whether the body's end was received.
    pub fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is the proper end of this body.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Done)
    }

    /// Takes received bytes and hands each piece of the body to `sink`.
    pub fn feed(&mut self, mut input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<(), Malformed> {
        while !input.is_empty() {
            match self.state {
                State::Head => input = self.feed_head(input)?,
                State::ChunkData | State::Sized => {
                    let take = usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
                    sink(&input[..take]);
                    input = &input[take..];
                    self.left -= take as u64;
                    if self.left == 0 {
                        self.state = if self.state == State::Sized { State::Done } else { State::ChunkEnd };
                    }
                }
                State::UntilClose => {
                    sink(input);
                    return Ok(());
                }
                State::Done => return Ok(()),
                _ => {
                    self.frame_byte(input[0])?;
                    input = &input[1..];
                }
            }
        }
        Ok(())
    }

    /// One byte of the chunked coding outside the data.
    fn frame_byte(&mut self, byte: u8) -> Result<(), Malformed> {
        match (self.state, byte) {
            (State::ChunkSize, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.left >> 56 != 0 {
                    return Err(Malformed::Chunk);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                self.left = self.left << 4 | u64::from(digit);
                self.line += 1;
            }
            (State::ChunkSize, b'\r' | b';' | b' ') if self.line > 0 => {
                self.state = State::ChunkExtension;
            }
            (State::ChunkExtension, b'\n') => {
                self.line = 0;
                self.state = if self.left == 0 { State::Trailer } else { State::ChunkData };
            }
            (State::ChunkEnd, b'\n') => self.state = State::ChunkSize,
            (State::ChunkExtension, _) | (State::ChunkEnd | State::Trailer, b'\r') => {}
            (State::Trailer, b'\n') if self.line == 0 => self.state = State::Done,
            (State::Trailer, b'\n') => self.line = 0,
            (State::Trailer, _) => self.line += 1,
            _ => return Err(Malformed::Chunk),
        }
        Ok(())
    }

    /// Collects the head; returns what follows it.
    fn feed_head<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let before = self.head.len();
        self.head.extend_from_slice(input);
        let Some(end) = memmem::find(&self.head, b"\r\n\r\n") else {
            return if self.head.len() > MAX_HEAD { Err(Malformed::Head) } else { Ok(&[]) };
        };
        let head = std::mem::take(&mut self.head);
        self.read_head(&head[..end])?;
        Ok(&input[end + 4 - before..])
    }

    fn read_head(&mut self, head: &[u8]) -> Result<(), Malformed> {
        let head = str::from_utf8(head).map_err(|_| Malformed::Head)?;
        let mut lines = head.split("\r\n");
        let status =
            lines.next().and_then(|line| line.strip_prefix("HTTP/1.")).and_then(|rest| rest.get(2..5));
        self.status = status.and_then(|code| code.parse().ok()).ok_or(Malformed::Head)?;
        self.state = State::UntilClose;
        for line in lines {
            let (name, value) = line.split_once(':').ok_or(Malformed::Head)?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
                self.state = State::ChunkSize;
            } else if name.eq_ignore_ascii_case("content-length") && self.state != State::ChunkSize {
                self.left = value.parse().map_err(|_| Malformed::Head)?;
                self.state = if self.left == 0 { State::Done } else { State::Sized };
            }
        }
        if self.state == State::ChunkSize {
            self.left = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(wire: &[u8], step: usize) -> (Vec<u8>, Response) {
        let mut response = Response::default();
        let mut body = Vec::new();
        for piece in wire.chunks(step) {
            response.feed(piece, |part| body.extend_from_slice(part)).expect("well-formed");
        }
        (body, response)
    }

    #[test]
    fn chunked_bodies_are_joined_wherever_they_are_cut() {
        let wire =
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
            5\r\nhello\r\n1A;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\ntrailer: 1\r\n\r\n";
        for step in 1..=wire.len() {
            let (body, response) = body_of(wire, step);
            assert_eq!(body, b"helloabcdefghijklmnopqrstuvwxyz", "cut every {step}");
            assert!(response.done());
            assert_eq!(response.status, 200);
        }
    }

    #[test]
    fn sized_and_unsized_bodies() {
        let (body, response) = body_of(b"HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nabc", 2);
        assert_eq!((body.as_slice(), response.status, response.done()), (&b"abc"[..], 503, true));
        let (body, response) = body_of(b"HTTP/1.0 200 OK\r\n\r\nabc", 3);
        assert_eq!((body.as_slice(), response.done()), (&b"abc"[..], false));
        assert!(response.ends_with_connection());
    }

    #[test]
    fn nonsense_is_refused() {
        let mut response = Response::default();
        assert_eq!(response.feed(b"SSH-2.0-x\r\n\r\n", |_| ()), Err(Malformed::Head));
        let mut response = Response::default();
        let wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloX";
        assert_eq!(response.feed(wire, |_| ()), Err(Malformed::Chunk));
    }
}
