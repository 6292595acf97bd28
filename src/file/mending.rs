//! Puts the end of a log in order, while the caller holds its lock: a new log, one whose writer died, a damaged one,
//! and one of a machine that stopped.

use std::io;

use super::boot::{self, Note};
use super::directory::Directory;
use super::format;
use super::journal::{Journal, Tail};
use super::segment::Stop;
use crate::ids::StreamId;

impl Journal {
    /// Create the log's first segment. It starts at an id at which no other log starts.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let now = self.settings.system.now();
        let is_synced = self.settings.is_synced;
        let (salt, seen) = (self.salt, self.seen);
        let attached = self.attach()?;
        let broken = attached.directory.broken().last().copied().unwrap_or_default();
        let ms = now.saturating_sub(1).max(broken.max(seen).ms + 1);
        let base = salt.beginning(ms);
        let segment = attached.directory.create(base, 0, is_synced)?;
        attached.tail = Some(Tail::of(segment));
        Ok(())
    }

    /// Cut off what a dead writer left, or go on behind the damage.
    pub(super) fn mend(&mut self) -> io::Result<()> {
        self.draw_salt();
        let mut buffer = std::mem::take(&mut self.buffer);
        let now = self.settings.system.now();
        let is_synced = self.settings.is_synced;
        let (mut salt, seen) = (self.salt, self.seen);
        let attached = self.attach()?;
        let Some(tail) = &mut attached.tail else { return Ok(()) };
        let broken = attached.directory.broken().last().copied();
        let is_broken = broken.is_some_and(|broken| broken > tail.segment.head.base);
        let (_, stop) = tail.segment.scan(tail.offset, &mut buffer, |_| false)?;
        if stop == Stop::Torn && !is_broken {
            tail.segment.file.set_len(tail.offset)?;
        } else {
            let (whole, given) = (tail.last, tail.given());
            let behind = seen.max(whole).max(broken.unwrap_or_default());
            let base = salt.next_id(behind, now).ok_or_else(format::too_late)?;
            let segment = attached.directory.create(base, given, is_synced)?;
            attached.tail = Some(Tail::of(segment));
            let place = self.settings.dir.display();
            self.warnings.push(format!(
                "{place}: what follows {whole} is damaged; the log goes on behind it, and clients are told of a gap"
            ));
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Append a gap when the machine may have stopped before all of the log was on disk.
    pub(super) fn check_boot(&mut self) -> io::Result<()> {
        let boot = boot::current();
        let is_synced = self.settings.is_synced;
        let Some(last) = self.last() else { return Ok(()) };
        let attached = self.attach()?;
        let note = read_note(&attached.directory)?;
        let is_new = last.is_beginning();
        let is_doubtful = note.as_ref().map_or(!is_new, |note| note.is_doubtful(&boot, last));
        let mut next = Note { boot: boot.clone(), is_synced, closed: None };
        if let Some(note) = note.as_ref().filter(|_| !is_doubtful) {
            next.closed = note.closed.filter(|closed| *closed <= last);
            next.is_synced &= note.is_synced || note.boot != boot;
            if *note == next {
                return Ok(());
            }
        }
        if is_doubtful {
            if !self.append_gap() {
                // Each process resets its own clients until there is room to append the gap for all of them.
                self.is_doubtful = true;
                return Ok(());
            }
            let place = self.settings.dir.display();
            self.warnings.push(format!(
                "{place} may have lost what was acknowledged, because the machine stopped or files were replaced: \
                 clients are told of a gap (sync=True has everything on disk first)"
            ));
        }
        self.attach()?.directory.replace_file(boot::FILE, &next.write(), true).map(drop)
    }

    /// Note, when a process closes the log, that everything it has read, up to `synced`, is on disk. Returns false when
    /// the log goes on behind `synced`. The log is locked.
    ///
    /// # Errors
    /// The system's error.
    pub fn note_closed(&mut self, synced: StreamId) -> io::Result<bool> {
        if self.last() != Some(synced) {
            return Ok(false);
        }
        let directory = &self.attach()?.directory;
        let Some(note) = read_note(directory)?.filter(|note| note.closed != Some(synced)) else {
            return Ok(true);
        };
        let note = Note { closed: Some(synced), ..note };
        directory.replace_file(boot::FILE, &note.write(), true)?;
        Ok(true)
    }
}

fn read_note(directory: &Directory) -> io::Result<Option<Note>> {
    let Some(file) = directory.open_file(boot::FILE)? else { return Ok(None) };
    Ok(Some(Note::read(&io::read_to_string(&*file)?)))
}
