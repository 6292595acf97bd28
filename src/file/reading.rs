//! The log, read: what follows an id, and what comes before one.
//!
//! Readers take no lock. A partial record at the end of the newest segment may still be in the middle of a write; only
//! a reader that holds the lock can tell it from damage.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::format::HEAD;
use super::journal::Journal;
use super::segment::{Record, Segment, Stop};
use crate::broker::letter::Arrived;
use crate::ids::StreamId;
use crate::stream_broker::envelope::LastTopic;

/// The id that a reader read last, and the offset behind it.
#[derive(Debug, Clone)]
pub struct Cursor {
    segment: Arc<Segment>,
    offset: u64,
    id: StreamId,
    generation: u64,
}

/// Entries that were read.
#[derive(Debug, Default)]
pub struct Page {
    /// The entries that can be judged.
    pub entries: Vec<Arrived>,
    /// Whether bytes follow that only a reader with the lock can judge.
    pub is_unsettled: bool,
    /// Whether this was the end of the log.
    pub is_end: bool,
}

impl Journal {
    /// The position behind `id`, or before the next entry if `id` is not in the log; `None` when there is no log.
    fn find(&mut self, id: StreamId) -> io::Result<Option<Cursor>> {
        self.look(true)?;
        let generation = self.generation;
        let Some(directory) = self.directory() else { return Ok(None) };
        let segment = directory.holding(id).cloned();
        Ok(segment.map(|segment| {
            let offset = segment.place_before(id);
            Cursor { segment, offset, id, generation }
        }))
    }

    /// Read at most `count` entries after `id`; `at` is where the last read ended. `is_locked`: no process writes.
    ///
    /// # Errors
    /// The system's error.
    pub fn read_after(
        &mut self,
        at: &mut Option<Cursor>,
        id: StreamId,
        count: usize,
        is_locked: bool,
    ) -> io::Result<Page> {
        let known =
            at.take().filter(|at| at.id == id && at.generation == self.generation && self.is_attached());
        let mut page = Page::default();
        let Some(mut cursor) = (if known.is_some() { known } else { self.find(id)? }) else {
            return Ok(page);
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut last_topic = std::mem::take(&mut self.last_topic);
        let topics = &mut last_topic;
        loop {
            // Looked up before the segment is read: what was written to it before the next one began comes first.
            let next = self.next_segment(&cursor.segment)?;
            let is_final = is_locked || next.is_some();
            let (key, mut last) = (cursor.segment.head.key, cursor.id);
            let visit = |record: &Record<'_>| {
                if record.header.id <= last {
                    return true;
                }
                if page.entries.len() >= count {
                    return false;
                }
                let is_sound = record.header.is_sound(record.fields, key);
                let is_judged = is_final || is_sound;
                if is_judged {
                    last = record.header.id;
                    page.entries.push(record.header.arrived(record.fields, is_sound, topics));
                }
                is_judged
            };
            let (offset, stop) = if is_final {
                cursor.segment.scan(cursor.offset, &mut buffer, visit)?
            } else {
                cursor.segment.skim(cursor.offset, &mut buffer, visit)?
            };
            (cursor.offset, cursor.id) = (offset, last);
            if page.entries.len() >= count {
                break;
            }
            let Some(next) = next else {
                page.is_end = stop == Stop::End;
                page.is_unsettled = !page.is_end;
                break;
            };
            cursor = Cursor { segment: next, offset: HEAD as u64, ..cursor };
        }
        (self.buffer, self.last_topic) = (buffer, last_topic);
        self.seen = self.seen.max(page.entries.last().map_or(StreamId::default(), |last| last.id));
        *at = Some(cursor);
        Ok(page)
    }

    fn next_segment(&mut self, segment: &Segment) -> io::Result<Option<Arc<Segment>>> {
        let base = segment.head.base;
        let Some(directory) = self.directory() else { return Ok(None) };
        if directory.noted() == Some(base) {
            return Ok(None);
        }
        if directory.next(base).is_none() {
            directory.list()?;
        }
        Ok(directory.next(base).cloned())
    }

    /// Read at most `count` entries up to `end`, the newest first.
    ///
    /// # Errors
    /// The system's error.
    pub fn read_backwards(
        &mut self,
        end: StreamId,
        is_included: bool,
        count: usize,
    ) -> io::Result<Vec<Arrived>> {
        self.look(true)?;
        let Some(directory) = self.directory() else { return Ok(Vec::new()) };
        let segments: Vec<_> = directory.segments().range(..=end).rev().map(|(_, it)| it.clone()).collect();
        let is_wanted = |id: StreamId| id < end || (is_included && id == end);
        let mut buffer = std::mem::take(&mut self.buffer);
        let (mut found, topics) = (Vec::new(), &mut LastTopic::default());
        for segment in segments {
            let places = segment.places_before(end, &mut buffer)?;
            let mut until = u64::MAX;
            for place in places.into_iter().rev() {
                // The last records are wanted, and only they are decoded: the first pass finds where they begin.
                let mut offsets = VecDeque::new();
                segment.scan(place, &mut buffer, |record| {
                    let is_here = record.offset < until && is_wanted(record.header.id);
                    if is_here {
                        if offsets.len() == count - found.len() {
                            offsets.pop_front();
                        }
                        offsets.push_back(record.offset);
                    }
                    is_here
                })?;
                let mut part = Vec::with_capacity(offsets.len());
                if let Some(first) = offsets.front() {
                    segment.scan(*first, &mut buffer, |record| {
                        let is_here = part.len() < offsets.len();
                        if is_here {
                            let is_sound = record.header.is_sound(record.fields, segment.head.key);
                            part.push(record.header.arrived(record.fields, is_sound, topics));
                        }
                        is_here
                    })?;
                }
                until = place;
                found.extend(part.into_iter().rev());
                if found.len() >= count {
                    self.buffer = buffer;
                    return Ok(found);
                }
            }
        }
        self.buffer = buffer;
        Ok(found)
    }
}
