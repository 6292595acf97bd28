//! An incremental parser of event streams, reduced to what the benchmark looks at.
//!
//! A benchmark event's data is `SEQ NS PADDING`: a sequence number, the publisher's `CLOCK_MONOTONIC` in
//! nanoseconds, and padding up to the size asked for. Lines end in LF or CRLF; servers that end lines in a
//! bare CR are not measured with this tool.

use memchr::memchr;

/// What a stream consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A benchmark event.
    Event {
        /// The number the publisher gave it.
        seq: u64,
        /// When it was published, `CLOCK_MONOTONIC` in nanoseconds.
        published: u64,
        /// The size of its data in bytes.
        size: usize,
    },
    /// An event whose data is not the benchmark's.
    Foreign,
    /// An event named `stream-…`: the server's own.
    Control,
    /// A comment line: what heartbeats are made of.
    Comment,
}

/// The state between two pieces of a stream.
#[derive(Debug, Default)]
pub struct Stream {
    /// A line whose end has not come yet.
    partial: Vec<u8>,
    data: Option<(u64, u64)>,
    size: usize,
    lines: u32,
    control: bool,
    /// The last id, where it is asked for.
    last_id: Option<Vec<u8>>,
}

impl Stream {
    /// From now on keeps the last id that came.
    pub fn keep_id(&mut self) {
        self.last_id = Some(Vec::new());
    }

    /// The last id; empty where none came or none is kept.
    pub fn last_id(&self) -> &[u8] {
        self.last_id.as_deref().unwrap_or_default()
    }

    /// Takes a piece of the stream, cut anywhere, and reports what it completes.
    pub fn feed(&mut self, mut input: &[u8], sink: &mut impl FnMut(Item)) {
        while let Some(end) = memchr(b'\n', input) {
            let (line, rest) = (&input[..end], &input[end + 1..]);
            if self.partial.is_empty() {
                self.line(line, sink);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole, sink);
                // Keeps the allocation: a server that cuts once will cut again.
                whole.clear();
                self.partial = whole;
            }
            input = rest;
        }
        self.partial.extend_from_slice(input);
    }

    fn line(&mut self, line: &[u8], sink: &mut impl FnMut(Item)) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.first() {
            None => self.dispatch(sink),
            Some(b':') => sink(Item::Comment),
            Some(b'd') => {
                if let Some(value) = field(line, b"data:") {
                    self.lines += 1;
                    self.size += value.len();
                    self.data = numbers(value);
                }
            }
            Some(b'e') => {
                if let Some(value) = field(line, b"event:") {
                    self.control = value.starts_with(b"stream-");
                }
            }
            Some(b'i') => {
                if let (Some(last), Some(value)) = (&mut self.last_id, field(line, b"id:")) {
                    last.clear();
                    last.extend_from_slice(value);
                }
            }
            Some(_) => {}
        }
    }

    fn dispatch(&mut self, sink: &mut impl FnMut(Item)) {
        if self.lines > 0 || self.control {
            sink(match (self.control, self.lines, self.data) {
                (true, ..) => Item::Control,
                (false, 1, Some((seq, published))) => Item::Event { seq, published, size: self.size },
                _ => Item::Foreign,
            });
        }
        (self.data, self.size, self.lines, self.control) = (None, 0, 0, false);
    }
}

/// A field's value, without the one space that may stand before it.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// The two numbers at the start of a benchmark event.
fn numbers(value: &[u8]) -> Option<(u64, u64)> {
    let (seq, rest) = number(value)?;
    let (published, _) = number(rest.strip_prefix(b" ")?)?;
    Some((seq, published))
}

fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || digits > 19 {
        return None;
    }
    let value = text[..digits].iter().fold(0_u64, |sum, byte| sum.wrapping_mul(10) + u64::from(byte - b'0'));
    Some((value, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_the_same_wherever_the_stream_is_cut() {
        let wire = b": hi\r\n\r\nretry: 1500\nevent: stream-open\nid: k-0\ndata\n\nid: k-1\ndata: 7 123456789 xxxx\n\n\
            data:8 123456790 y\r\n\r\ndata: hello\n\ndata: 9 1\ndata: 2\n\n: ping\n\nevent: tick\ndata: 10 5\n\n";
        let expected = [
            Item::Comment,
            Item::Control,
            Item::Event { seq: 7, published: 123_456_789, size: 16 },
            Item::Event { seq: 8, published: 123_456_790, size: 13 },
            Item::Foreign,
            Item::Foreign,
            Item::Comment,
            Item::Event { seq: 10, published: 5, size: 4 },
        ];
        for step in 1..=wire.len() {
            let mut stream = Stream::default();
            stream.keep_id();
            let mut items = Vec::new();
            for piece in wire.chunks(step) {
                stream.feed(piece, &mut |item| items.push(item));
            }
            assert_eq!(items, expected, "cut every {step}");
            assert_eq!(stream.last_id(), b"k-1");
        }
    }
}
