//! Detects that the log may have lost acknowledged entries, because the machine stopped before they were on disk.
//!
//! A process that is killed loses nothing: the system has what it wrote. A machine that stops loses what was not
//! synced. So the log notes during which boot of the machine it was written, whether all writers synced, and up to
//! which id it was on disk when a process last closed it.

use std::fmt::Write;

use crate::ids::StreamId;

/// The file's name.
pub const FILE: &str = "boot";

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Note {
    /// The boot of the machine.
    pub boot: String,
    /// Whether every entry was on disk before it was acknowledged.
    pub is_synced: bool,
    /// The id up to which the log is on disk.
    pub closed: Option<StreamId>,
}

impl Note {
    #[must_use]
    pub fn write(&self) -> String {
        let mut text = format!("boot {}\nsynced {}\n", self.boot, if self.is_synced { "yes" } else { "no" });
        if let Some(id) = self.closed {
            let _ = writeln!(text, "closed {id}");
        }
        text
    }

    #[must_use]
    pub fn read(text: &str) -> Self {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Self {
            boot: field("boot").unwrap_or_default().into(),
            is_synced: field("synced") == Some("yes"),
            closed: field("closed").and_then(StreamId::parse),
        }
    }

    /// Whether a log that ends at `last` may lack acknowledged entries.
    #[must_use]
    pub fn is_doubtful(&self, boot: &str, last: StreamId) -> bool {
        match self.closed {
            Some(closed) if last < closed => true,
            Some(closed) if last == closed => false,
            _ => self.boot != boot && !self.is_synced,
        }
    }
}

/// The current boot of the machine; always the same on a system that does not report it.
#[must_use]
pub fn current() -> String {
    let said = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    said.trim().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> StreamId {
        StreamId { ms, seq: 3 }
    }

    #[test]
    fn notes_round_trip() {
        for is_synced in [false, true] {
            for closed in [None, Some(id(5))] {
                let note = Note { boot: "a-b".into(), is_synced, closed };
                assert_eq!(Note::read(&note.write()), note);
            }
        }
        assert_eq!(Note::read(""), Note::default());
    }

    #[test]
    fn what_was_not_on_disk_when_the_machine_stopped_is_doubtful() {
        let note =
            |is_synced, closed: Option<u64>| Note { boot: "a".into(), is_synced, closed: closed.map(id) };
        for (note, boot, is_doubtful) in [
            (note(false, None), "a", false),
            (note(false, None), "b", true),
            (note(true, None), "b", false),
            (note(false, Some(5)), "b", false),
            (note(false, Some(4)), "b", true),
            (note(true, Some(4)), "b", false),
            (note(false, Some(6)), "a", true),
            (note(true, Some(6)), "b", true),
        ] {
            assert_eq!(note.is_doubtful(boot, id(5)), is_doubtful, "{note:?} {boot}");
        }
    }
}
