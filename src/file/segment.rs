//! One file of a log, `<id before the first>.log`: its records from one end to the other.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::format::{self, HEAD, Head, HeadError, Header, Parsed, RECORD};
use super::owned::{Identity, OwnedFile};
use crate::ids::StreamId;

/// The suffix of segments' names.
pub const SUFFIX: &str = ".log";
/// Bytes per read.
pub const CHUNK: usize = 64 << 10;
/// Bytes between two remembered offsets of a segment.
const MARKED: u64 = 64 << 10;

/// The name of the segment that follows `base`.
#[must_use]
pub fn name(base: StreamId) -> String {
    format!("{base}{SUFFIX}")
}

/// The id in a segment's name; `None` for the name of another file.
#[must_use]
pub fn base_of(name: &str) -> Option<StreamId> {
    let id = StreamId::parse(name.strip_suffix(SUFFIX)?)?;
    format::pack(id).map(|_| id)
}

/// A segment that is open.
#[derive(Debug)]
pub struct Segment {
    /// The file.
    pub file: OwnedFile,
    /// Its head.
    pub head: Head,
    /// The file's identity.
    pub identity: Identity,
    /// Offsets of records and the id before each, ascending; collected as the segment is read.
    marks: Mutex<Vec<(StreamId, u64)>>,
}

/// Why the reading of a segment stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It ends here.
    End,
    /// The last record is partial: it is being written, or its writer died.
    Torn,
    /// The bytes here are not a record.
    Damaged,
    /// The caller has enough.
    Enough,
}

/// A record that was read.
pub struct Record<'a> {
    /// Its first bytes.
    pub header: Header,
    /// Where it begins.
    pub offset: u64,
    /// Its fields, as they were encoded.
    pub fields: &'a [u8],
}

impl Segment {
    /// Open a segment by reading its head.
    ///
    /// # Errors
    /// The system's error, or the head cannot be read.
    pub fn open(file: OwnedFile) -> io::Result<Result<Arc<Self>, HeadError>> {
        let mut bytes = [0; HEAD];
        let count = read_full(&file, &mut bytes, 0)?;
        let head = match Head::read(&bytes[..count]) {
            Ok(head) => head,
            Err(error) => return Ok(Err(error)),
        };
        let identity = file.identity()?;
        Ok(Ok(Arc::new(Self { file, head, identity, marks: Mutex::default() })))
    }

    /// The offset at which to start reading for the entries after `id`.
    #[must_use]
    pub fn place_before(&self, id: StreamId) -> u64 {
        let marks = self.marks.lock();
        let at = marks.partition_point(|(before, _)| *before <= id);
        at.checked_sub(1).map_or(HEAD as u64, |at| marks[at].1)
    }

    /// Ascending offsets at which to start reading, to get everything before `end` one part at a time. A segment that
    /// was not read yet is read once for this.
    ///
    /// # Errors
    /// The system's error.
    pub fn places_before(&self, end: StreamId, buffer: &mut Vec<u8>) -> io::Result<Vec<u64>> {
        if self.marks.lock().is_empty() && self.file.len()? > 2 * MARKED {
            self.scan(HEAD as u64, buffer, |record| record.header.id < end)?;
        }
        let marks = self.marks.lock();
        let before = marks.iter().take_while(|(before, _)| *before < end).map(|(_, place)| *place);
        Ok(std::iter::once(HEAD as u64).chain(before).collect())
    }

    fn mark(&self, before: StreamId, offset: u64) {
        let mut marks = self.marks.lock();
        let last = marks.last().map_or(HEAD as u64, |mark| mark.1);
        if offset >= last + MARKED {
            marks.push((before, offset));
        }
    }

    /// Pass the records from `offset` on to `visit`, which returns whether it took the record and wants more. Returns
    /// the offset behind the last record that was taken, and why the scan stopped.
    ///
    /// # Errors
    /// The system's error.
    pub fn scan(
        &self,
        offset: u64,
        buffer: &mut Vec<u8>,
        visit: impl FnMut(&Record<'_>) -> bool,
    ) -> io::Result<(u64, Stop)> {
        self.scan_by(read_full, offset, buffer, visit)
    }

    /// The same with fewer system calls: a read that does not fill the buffer is taken for the end. So it is, unless
    /// the disk has failed behind it; the caller must not write there.
    ///
    /// # Errors
    /// The system's error.
    pub fn skim(
        &self,
        offset: u64,
        buffer: &mut Vec<u8>,
        visit: impl FnMut(&Record<'_>) -> bool,
    ) -> io::Result<(u64, Stop)> {
        self.scan_by(read_once, offset, buffer, visit)
    }

    fn scan_by(
        &self,
        read: fn(&OwnedFile, &mut [u8], u64) -> io::Result<usize>,
        mut offset: u64,
        buffer: &mut Vec<u8>,
        mut visit: impl FnMut(&Record<'_>) -> bool,
    ) -> io::Result<(u64, Stop)> {
        buffer.resize(CHUNK.max(buffer.len()), 0);
        loop {
            let count = read(&self.file, buffer, offset)?;
            let (bytes, is_end) = (&buffer[..count], count < buffer.len());
            let mut at = 0;
            let wanted = loop {
                let rest = &bytes[at..];
                let here = offset + at as u64;
                let header = match format::header(rest, self.head.key, here) {
                    Parsed::Header(header) => header,
                    Parsed::Short if is_end => {
                        return Ok((here, if rest.is_empty() { Stop::End } else { Stop::Torn }));
                    }
                    Parsed::Short => break 0,
                    Parsed::Damaged => return Ok((here, Stop::Damaged)),
                };
                let Some(fields) = rest.get(RECORD..header.len) else {
                    if is_end {
                        return Ok((here, Stop::Torn));
                    }
                    break header.len;
                };
                self.mark(header.before, here);
                if !visit(&Record { header, offset: here, fields }) {
                    return Ok((here, Stop::Enough));
                }
                at += header.len;
            };
            offset += at as u64;
            if wanted > buffer.len() {
                buffer.resize(wanted, 0);
            }
        }
    }
}

/// Read until the buffer is full or the file ends.
fn read_full(file: &OwnedFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match read_once(file, &mut buffer[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

fn read_once(file: &OwnedFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}
