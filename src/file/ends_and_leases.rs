//! The topics that have ended, and the holders of leases: a small file beside the log, which is replaced whenever it
//! changes, and read again after another process has replaced it.
//!
//! ```text
//! ended UNTIL ID HOW TOPIC
//! lease UNTIL TOKEN NAME
//! ```
//! Times are milliseconds by the log's clock. Lines whose time is over are left out. How a topic ended is JSON text
//! without a space; the id is that of the entry that ended it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::directory::Directory;
use super::owned::OwnedFile;
use crate::ids::StreamId;
use crate::stream_broker::store::{Ended, Ends};

const FILE: &str = "life";

/// The content of the file. Clones share the open file.
#[derive(Debug, Default, Clone)]
pub struct EndsAndLeases {
    /// The file that was read. It stays open, so that no other file is taken for it.
    file: Option<Arc<OwnedFile>>,
    ended: BTreeMap<String, End>,
    leases: BTreeMap<String, (String, u64)>,
    is_changed: bool,
}

/// The end of a topic.
#[derive(Debug, Clone)]
struct End {
    until: u64,
    id: StreamId,
    note: Arc<str>,
}

fn after(now: u64, time: Duration) -> u64 {
    now.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl EndsAndLeases {
    /// Read the file, unless it is the one that was read last.
    ///
    /// # Errors
    /// The system's error.
    pub fn read(&mut self, directory: &Directory) -> io::Result<()> {
        let there = directory.identity_of(FILE);
        let known = self.file.as_ref().and_then(|file| file.identity().ok());
        if there == known || self.is_changed {
            return Ok(());
        }
        *self = Self { file: directory.open_file(FILE)?.map(Arc::new), ..Self::default() };
        let Some(file) = &self.file else { return Ok(()) };
        let text = io::read_to_string(&***file)?;
        for line in text.lines() {
            let mut parts = line.splitn(2, ' ');
            let (kind, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let Some((until, rest)) = rest.split_once(' ') else { continue };
            let Ok(until) = until.parse() else { continue };
            match (kind, rest.split_once(' ')) {
                ("ended", Some((id, rest))) => self.read_end(until, id, rest),
                ("lease", Some((token, name))) => {
                    self.leases.insert(name.into(), (token.into(), until));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_end(&mut self, until: u64, id: &str, rest: &str) {
        if let (Some(id), Some((how, topic))) = (StreamId::parse(id), rest.split_once(' '))
            && let Ok(note) = serde_json::from_str::<String>(how)
        {
            self.ended.insert(topic.into(), End { until, id, note: note.into() });
        }
    }

    /// Write the file, if something has changed. The log is locked.
    ///
    /// # Errors
    /// The system's error.
    pub fn write(&mut self, directory: &Directory, now: u64, is_synced: bool) -> io::Result<()> {
        if !self.is_changed {
            return Ok(());
        }
        self.ended.retain(|_, end| now < end.until);
        self.leases.retain(|_, (_, until)| now < *until);
        let mut text = String::new();
        for (topic, End { until, id, note }) in &self.ended {
            let how = serde_json::Value::from(&**note).to_string().replace(' ', "\\u0020");
            let _ = writeln!(text, "ended {until} {id} {how} {topic}");
        }
        for (name, (token, until)) in &self.leases {
            let _ = writeln!(text, "lease {until} {token} {name}");
        }
        self.file = Some(Arc::new(directory.replace_file(FILE, &text, is_synced)?));
        self.is_changed = false;
        Ok(())
    }

    #[must_use]
    pub fn has_ended(&self, topic: &str, now: u64) -> bool {
        self.ended.get(topic).is_some_and(|end| now < end.until)
    }

    /// End a topic. The id of its end is noted by [`EndsAndLeases::ended_by`].
    pub fn end(&mut self, topic: &str, now: u64, ends: &Ends) {
        let end = End { until: after(now, ends.keep), id: StreamId::default(), note: ends.note.clone() };
        self.ended.insert(topic.into(), end);
        self.is_changed = true;
    }

    /// Note the id of the entry that has ended a topic.
    pub fn ended_by(&mut self, topic: &str, id: StreamId) {
        if let Some(end) = self.ended.get_mut(topic) {
            end.id = id;
        }
    }

    /// How a topic has ended, if its name is not free.
    #[must_use]
    pub fn ended(&self, topic: &str, now: u64) -> Option<Ended> {
        let End { until, id, note } = self.ended.get(topic)?;
        let left = Duration::from_millis(until.saturating_sub(now));
        (!left.is_zero()).then(|| Ended { id: *id, left, note: (**note).into() })
    }

    /// The token that holds a lease.
    #[must_use]
    pub fn holder(&self, name: &str, now: u64) -> Option<&str> {
        self.leases.get(name).filter(|(_, until)| now < *until).map(|(token, _)| &**token)
    }

    /// Take or renew a lease. Returns whether this token holds it now.
    pub fn lease(&mut self, name: &str, token: &str, now: u64, ttl: Duration) -> bool {
        let is_free = self.holder(name, now).is_none_or(|holder| holder == token);
        if is_free {
            self.leases.insert(name.into(), (token.into(), after(now, ttl)));
            self.is_changed = true;
        }
        is_free
    }

    pub fn release(&mut self, name: &str, token: &str, now: u64) {
        if self.holder(name, now) == Some(token) {
            self.leases.remove(name);
            self.is_changed = true;
        }
    }
}
