//! The topics that have ended, and the holders of leases: a small file beside the log, which is replaced whenever it
//! changes, and read again after another process has replaced it.
//!
//! ```text
//! ended UNTIL TOPIC
//! lease UNTIL TOKEN NAME
//! ```
//! Times are milliseconds by the log's clock. Lines whose time is over are left out.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::directory::Directory;
use super::held::Held;

const FILE: &str = "life";

/// The content of the file. Clones share the open file.
#[derive(Debug, Default, Clone)]
pub struct Life {
    /// The file that was read. It stays open, so that no other file is taken for it.
    file: Option<Arc<Held>>,
    ended: BTreeMap<String, u64>,
    leases: BTreeMap<String, (String, u64)>,
    is_changed: bool,
}

fn after(now: u64, time: Duration) -> u64 {
    now.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl Life {
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
                ("ended", _) => drop(self.ended.insert(rest.into(), until)),
                ("lease", Some((token, name))) => {
                    self.leases.insert(name.into(), (token.into(), until));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Write the file, if something has changed. The log is locked.
    ///
    /// # Errors
    /// The system's error.
    pub fn write(&mut self, directory: &Directory, now: u64, is_synced: bool) -> io::Result<()> {
        if !self.is_changed {
            return Ok(());
        }
        self.ended.retain(|_, until| now < *until);
        self.leases.retain(|_, (_, until)| now < *until);
        let mut text = String::new();
        for (topic, until) in &self.ended {
            let _ = writeln!(text, "ended {until} {topic}");
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
        self.ended.get(topic).is_some_and(|until| now < *until)
    }

    pub fn end(&mut self, topic: &str, now: u64, keep: Duration) {
        self.ended.insert(topic.into(), after(now, keep));
        self.is_changed = true;
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
