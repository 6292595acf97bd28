//! The only SSE encoder of the project, and [`Frame`], an event's immutable bytes on the wire.
//!
//! Fields are written in this order: comment, id, traceparent, event, data, retry, blank line. Text is split on CRLF,
//! CR and LF, the line ends of the event-stream grammar, and on nothing else: U+2028, VT, FF and NEL are text.
//! `traceparent` is no field of the grammar, and parsers ignore such a field (WHATWG HTML, 9.2.6).
//!
//! # One allocation
//! A frame holds three parts in one piece of memory, so that a socket can take all of it in one write and an
//! HTTP library that frames bodies itself can take the middle:
//!
//! ```text
//! | unused | "1f" CRLF | : comment LF  id: .. LF  event: .. LF  data: .. LF  LF | CRLF |
//!            chunk head  ^------------------- SSE bytes ------------------------^
//! ```
//!
//! The id is known last, under the hub's lock. So [`FrameBuilder`] leaves room for the longest id and chunk
//! head in front, and [`Draft::seal`] writes them right-aligned into it: nothing is allocated, and no data is
//! moved (a comment is, by the few bytes the id is shorter than the longest).

use crate::ids::{EventId, MAX_EVENT_ID_LEN};
use crate::key::Key;
use crate::trace::{TRACEPARENT_LEN, TraceParent};

/// Room for the hexadecimal digits of a `usize` and CRLF.
const CHUNK_ROOM: usize = 2 * size_of::<usize>() + 2;
/// Room for `id: `, the longest id and LF.
const ID_ROOM: usize = 4 + MAX_EVENT_ID_LEN + 1;
/// The name of the field that carries an event's trace.
const TRACE_FIELD: &str = "traceparent: ";
/// Bytes of the line that carries an event's trace.
const TRACE_LINE: usize = TRACE_FIELD.len() + TRACEPARENT_LEN + 1;
const CRLF: &[u8] = b"\r\n";
/// Spare bytes that a finished frame may keep, beyond a quarter of its length, before it is shrunk.
const SLACK: usize = 64;

/// Writes `text` as lines of a field: `prefix` (`data: `), the line, `sep`, for each line of `text`.
///
/// Text that ends in a line end has an empty last line, and empty text is one empty line, so that a parser
/// returns the same text.
pub fn write_lines(out: &mut Vec<u8>, prefix: &str, text: &str, sep: &str) {
    // With constants for the two short pieces the compiler writes them with one store each instead of calling
    // memcpy: a third less time for a text of 1,000 lines.
    match (prefix, sep) {
        ("data: ", "\n") => write_lines_of(out, "data: ", text, "\n"),
        ("data: ", "\r\n") => write_lines_of(out, "data: ", text, "\r\n"),
        _ => write_lines_of(out, prefix, text, sep),
    }
}

/// Escapes the line separators that JSON allows as they are, U+0085, U+2028 and U+2029, in the JSON text from
/// `start` on: some clients split lines at them. In JSON they can only occur inside strings.
pub fn escape_separators(json: &mut Vec<u8>, start: usize) {
    let Some(first) = find_separator(&json[start..]) else { return };
    let mut rest = &json.split_off(start + first)[..];
    while let Some((escaped, len)) = separator(rest) {
        json.extend_from_slice(escaped);
        rest = &rest[len..];
        let next = find_separator(rest).unwrap_or(rest.len());
        json.extend_from_slice(&rest[..next]);
        rest = &rest[next..];
    }
}

fn find_separator(json: &[u8]) -> Option<usize> {
    memchr::memchr2_iter(0xC2, 0xE2, json).find(|&at| separator(&json[at..]).is_some())
}

/// The escape of the separator that `json` begins with, and the length of the separator in UTF-8.
fn separator(json: &[u8]) -> Option<(&'static [u8], usize)> {
    match json {
        [0xC2, 0x85, ..] => Some((b"\\u0085", 2)),
        [0xE2, 0x80, 0xA8, ..] => Some((b"\\u2028", 3)),
        [0xE2, 0x80, 0xA9, ..] => Some((b"\\u2029", 3)),
        _ => None,
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "its constants count only where it is inlined")]
fn write_lines_of(out: &mut Vec<u8>, prefix: &str, text: &str, sep: &str) {
    let bytes = text.as_bytes();
    out.reserve(prefix.len() + bytes.len() + sep.len());
    let mut start = 0;
    // The iterator keeps its place in a vector register's worth of matches, which pays for short lines.
    for at in memchr::memchr2_iter(b'\r', b'\n', bytes) {
        // The LF of a CRLF, which ended the line before.
        if at < start {
            continue;
        }
        write_line(out, prefix, &bytes[start..at], sep);
        let crlf = bytes[at] == b'\r' && bytes.get(at + 1) == Some(&b'\n');
        start = at + 1 + usize::from(crlf);
    }
    write_line(out, prefix, &bytes[start..], sep);
}

/// Writes one field of one line, with the line ends in `value` left out.
pub fn write_joined(out: &mut Vec<u8>, prefix: &str, value: &str, sep: &str) {
    let bytes = value.as_bytes();
    out.extend_from_slice(prefix.as_bytes());
    let mut start = 0;
    for at in memchr::memchr2_iter(b'\r', b'\n', bytes) {
        out.extend_from_slice(&bytes[start..at]);
        start = at + 1;
    }
    out.extend_from_slice(&bytes[start..]);
    out.extend_from_slice(sep.as_bytes());
}

/// Writes one field whose value has no line end in it.
#[inline(always)]
#[expect(clippy::inline_always, reason = "for the constants of its callers")]
pub fn write_line(out: &mut Vec<u8>, prefix: &str, line: &[u8], sep: &str) {
    // One check for room instead of three: a text of 1,000 lines comes here 1,000 times.
    out.reserve(prefix.len() + line.len() + sep.len());
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(line);
    out.extend_from_slice(sep.as_bytes());
}

/// Writes one event up to its data, in LF form; [`FrameBuilder::finish`] adds the rest.
#[derive(Debug)]
pub struct FrameBuilder {
    /// Room for the chunk head, the comment, room for the id, event and data.
    buf: Vec<u8>,
    comment_len: usize,
    is_traced: bool,
    /// A `data: ` line was started by `json` and not ended.
    open_line: bool,
}

impl FrameBuilder {
    /// Starts an event. `event` was checked with [`crate::event::check_event_type`], or is one of the hub's
    /// own names; a comment may have any number of lines.
    #[must_use]
    pub fn new(comment: Option<&str>, event: Option<&str>) -> Self {
        Self::traced(None, comment, event)
    }

    /// The same, with the trace that the event belongs to.
    #[must_use]
    pub fn traced(trace: Option<&TraceParent>, comment: Option<&str>, event: Option<&str>) -> Self {
        let known = comment.map_or(0, str::len) + trace.map_or(0, |_| TRACE_LINE) + event.map_or(0, str::len);
        let mut buf = Vec::with_capacity(CHUNK_ROOM + ID_ROOM + SLACK + known);
        buf.resize(CHUNK_ROOM, 0);
        if let Some(comment) = comment {
            write_lines(&mut buf, ": ", comment, "\n");
        }
        let comment_len = buf.len() - CHUNK_ROOM;
        buf.resize(buf.len() + ID_ROOM, 0);
        if let Some(trace) = trace {
            write_line(&mut buf, TRACE_FIELD, trace.as_bytes(), "\n");
        }
        if let Some(event) = event {
            debug_assert!(!event.contains(['\r', '\n']), "unchecked event type");
            write_joined(&mut buf, "event: ", event, "\n");
        }
        Self { buf, comment_len, is_traced: trace.is_some(), open_line: false }
    }

    /// Adds text as data, one `data:` line for each of its lines.
    pub fn text(&mut self, data: &str) {
        self.end_line();
        self.buf.reserve(data.len() + SLACK);
        write_lines(&mut self.buf, "data: ", data, "\n");
    }

    /// Starts a `data: ` line and returns the buffer, to which the caller appends one line: compact JSON, which
    /// contains no line end. The caller must not touch what the buffer holds already.
    pub fn json(&mut self) -> &mut Vec<u8> {
        self.end_line();
        self.buf.extend_from_slice(b"data: ");
        self.open_line = true;
        &mut self.buf
    }

    fn end_line(&mut self) {
        if self.open_line {
            self.buf.push(b'\n');
            self.open_line = false;
        }
    }

    /// Ends the event: everything but the id is encoded. `retry` is in milliseconds.
    #[must_use]
    pub fn finish(self, retry: Option<u64>) -> Draft {
        self.end(retry, b"\n")
    }

    /// Ends the lines without a blank one: what comes next on the wire is a part of the same event.
    #[must_use]
    pub fn finish_lines(self, retry: Option<u64>) -> Draft {
        self.end(retry, b"")
    }

    fn end(mut self, retry: Option<u64>, blank: &[u8]) -> Draft {
        self.end_line();
        if let Some(retry) = retry {
            write_line(&mut self.buf, "retry: ", itoa::Buffer::new().format(retry).as_bytes(), "\n");
        }
        self.buf.extend_from_slice(blank);
        self.buf.extend_from_slice(CRLF);
        // History keeps frames for a long time, and would keep what a growing buffer over-allocated with them.
        if self.buf.capacity() - self.buf.len() > SLACK + self.buf.len() / 4 {
            self.buf.shrink_to_fit();
        }
        Draft { buf: self.buf, comment_len: self.comment_len, is_traced: self.is_traced, key: None }
    }
}

/// An event that is encoded except for its id.
#[derive(Debug)]
pub struct Draft {
    buf: Vec<u8>,
    comment_len: usize,
    is_traced: bool,
    key: Option<Key>,
}

impl Draft {
    /// A comment line without text, which ends no event.
    #[must_use]
    pub fn empty_comment() -> Self {
        let comment = b":\n";
        let mut buf = vec![0; CHUNK_ROOM];
        buf.extend_from_slice(comment);
        buf.resize(buf.len() + ID_ROOM, 0);
        buf.extend_from_slice(CRLF);
        Self { buf, comment_len: comment.len(), is_traced: false, key: None }
    }

    /// The event as the newest value of `key`.
    #[must_use]
    pub fn keyed(self, key: Option<Key>) -> Self {
        Self { key, ..self }
    }

    /// What it is the newest value of.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Bytes of the event on the wire, without its id line.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an event is never empty: it ends in a blank line")]
    pub fn len(&self) -> usize {
        self.buf.len() - CHUNK_ROOM - ID_ROOM - CRLF.len()
    }

    /// The parts to send to another process: the comment's lines, and what comes after id and trace.
    #[must_use]
    pub fn parts(&self) -> (&[u8], &[u8]) {
        let comment = &self.buf[CHUNK_ROOM..CHUNK_ROOM + self.comment_len];
        let trace = if self.is_traced { TRACE_LINE } else { 0 };
        (comment, &self.buf[CHUNK_ROOM + self.comment_len + ID_ROOM + trace..self.buf.len() - CRLF.len()])
    }

    /// The trace that the event belongs to.
    #[must_use]
    pub fn trace(&self) -> Option<TraceParent> {
        let line = &self.buf[CHUNK_ROOM + self.comment_len + ID_ROOM..];
        self.is_traced.then(|| TraceParent::parse(&line[TRACE_FIELD.len()..TRACE_LINE - 1])).flatten()
    }

    /// Reassembles a draft that [`Draft::parts`] took apart in another process. The parts must be a comment's lines,
    /// and the fields of one event without an id, in UTF-8; `None` for other bytes.
    #[must_use]
    pub fn from_parts(trace: Option<&TraceParent>, comment: &[u8], rest: &[u8]) -> Option<Self> {
        let fields = str::from_utf8(rest).ok()?.as_bytes().strip_suffix(b"\n")?;
        let comment_lines = str::from_utf8(comment).ok()?.as_bytes();
        if !are_lines_of(comment_lines, &[b":"]) || !are_lines_of(fields, &[b"data:", b"event:", b"retry:"]) {
            return None;
        }
        let trace_len = if trace.is_some() { TRACE_LINE } else { 0 };
        let parts = comment.len() + trace_len + rest.len();
        let mut buf = Vec::with_capacity(CHUNK_ROOM + ID_ROOM + parts + CRLF.len());
        buf.extend_from_slice(&[0; CHUNK_ROOM]);
        buf.extend_from_slice(comment);
        buf.extend_from_slice(&[0; ID_ROOM]);
        if let Some(trace) = trace {
            write_line(&mut buf, TRACE_FIELD, trace.as_bytes(), "\n");
        }
        buf.extend_from_slice(rest);
        buf.extend_from_slice(CRLF);
        Some(Self { buf, comment_len: comment.len(), is_traced: trace.is_some(), key: None })
    }

    /// Writes the id and the chunk head. Allocates nothing and moves no data.
    #[must_use]
    pub fn seal(mut self, id: Option<EventId>) -> Frame {
        let body = CHUNK_ROOM + self.comment_len + ID_ROOM;
        let mut id_at = body;
        if let Some(id) = id {
            let mut line = [0; MAX_EVENT_ID_LEN];
            let len = id.write_to(&mut line);
            id_at = body - len - 5;
            self.buf[id_at..id_at + 4].copy_from_slice(b"id: ");
            self.buf[id_at + 4..body - 1].copy_from_slice(&line[..len]);
            self.buf[body - 1] = b'\n';
        }
        let start = id_at - self.comment_len;
        self.buf.copy_within(CHUNK_ROOM..CHUNK_ROOM + self.comment_len, start);
        let chunk = self.write_chunk_head(start);
        Frame { buf: self.buf, chunk: small(chunk), sse: small(start), key: self.key }
    }

    /// Writes the length of what starts at `start` right before it; returns where that length begins.
    fn write_chunk_head(&mut self, start: usize) -> usize {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut rest = self.buf.len() - CRLF.len() - start;
        self.buf[start - 2..start].copy_from_slice(CRLF);
        let mut at = start - 2;
        loop {
            at -= 1;
            self.buf[at] = DIGITS[rest & 15];
            rest >>= 4;
            if rest == 0 {
                return at;
            }
        }
    }
}

/// Whether each line of `text`, which may be empty, begins with one of the prefixes, has no CR and ends in LF.
fn are_lines_of(text: &[u8], prefixes: &[&[u8]]) -> bool {
    let mut start = 0;
    for at in memchr::memchr2_iter(b'\r', b'\n', text) {
        let line = &text[start..at];
        if text[at] == b'\r' || !prefixes.iter().any(|prefix| line.starts_with(prefix)) {
            return false;
        }
        start = at + 1;
    }
    start == text.len()
}

/// An offset into the room in front of an event, which is far below 256.
fn small(offset: usize) -> u8 {
    debug_assert!(offset <= CHUNK_ROOM + ID_ROOM);
    u8::try_from(offset).unwrap_or(u8::MAX)
}

const _: () = assert!(CHUNK_ROOM + ID_ROOM <= u8::MAX as usize);

/// An event as it goes over the wire. Never changes.
#[derive(Debug)]
pub struct Frame {
    buf: Vec<u8>,
    chunk: u8,
    sse: u8,
    key: Option<Key>,
}

impl Frame {
    /// Bytes that take events' place on the wire: their compressed form.
    #[must_use]
    pub fn of_bytes(bytes: &[u8], key: Option<Key>) -> Self {
        let mut buf = Vec::with_capacity(CHUNK_ROOM + bytes.len() + CRLF.len());
        buf.resize(CHUNK_ROOM, 0);
        buf.extend_from_slice(bytes);
        buf.extend_from_slice(CRLF);
        let mut draft = Draft { buf, comment_len: 0, is_traced: false, key };
        let chunk = draft.write_chunk_head(CHUNK_ROOM);
        Self { buf: draft.buf, chunk: small(chunk), sse: small(CHUNK_ROOM), key: draft.key }
    }

    /// The event as a piece of an event stream, for a server that frames the body itself.
    #[must_use]
    pub fn sse(&self) -> &[u8] {
        &self.buf[usize::from(self.sse)..self.buf.len() - CRLF.len()]
    }

    /// The event as one chunk of an HTTP/1.1 chunked body.
    #[must_use]
    pub fn chunk(&self) -> &[u8] {
        &self.buf[usize::from(self.chunk)..]
    }

    /// What the event is the newest value of.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Bytes of memory the frame holds besides itself.
    #[must_use]
    pub fn allocated(&self) -> usize {
        self.buf.capacity()
    }
}

#[cfg(test)]
mod tests;
