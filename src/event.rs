//! The rule for an event's name, checked before the event is encoded.
//!
//! Data and comments need no check. The WHATWG grammar allows every character in them (`any-char`, NUL
//! included) and their line ends are the encoder's business, see [`crate::frame`].

use crate::error::{Error, Result, shown};

/// The hub's rule for the name of an event that a user publishes.
///
/// # Errors
/// [`Error::InvalidEvent`] for an empty name, a control character (CR, LF and NUL are some), and the names
/// that mean something else to a client: `open` and `error`, which `EventSource` fires itself, and
/// `stream-*`, which are the hub's own.
pub fn check_event_type(name: &str) -> Result<()> {
    let refuse = |rule: &str| Err(Error::InvalidEvent(format!("event {} {rule}", shown(name))));
    if name.is_empty() {
        return refuse("must not be empty; leave it out for a message");
    }
    if let Some(found) = name.chars().find(|found| found.is_control()) {
        return refuse(&format!("must not contain control characters, found {found:?}"));
    }
    if name == "open" || name == "error" {
        return refuse("is fired by EventSource itself; use another name");
    }
    if name.starts_with("stream-") {
        return refuse("is reserved: names that start with stream- are the hub's own");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types() {
        for name in ["tick", "message", "opened", "stream", "streams-x", "a b", " a", "é", "a:b", "Open"] {
            assert_eq!(check_event_type(name), Ok(()), "{name:?}");
        }
        for name in ["", "a\rb", "a\nb", "a\0b", "a\tb", "\u{7f}", "\u{85}", "open", "error", "stream-reset"]
        {
            let Err(Error::InvalidEvent(text)) = check_event_type(name) else { panic!("{name:?} was taken") };
            assert!(text.contains(&format!("{name:?}")), "{text}");
        }
    }
}
