//! The key of a value: what an event is the newest value of.

use std::sync::Arc;

use crate::error::{Error, Result};

/// Longest key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 255;

/// A validated key. Of events with the same key and topic only the newest is kept, and waits for a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// Check `text`.
    ///
    /// # Errors
    /// [`Error::InvalidEvent`] when it is empty or longer than [`MAX_KEY_BYTES`].
    pub fn new(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::InvalidEvent(
                "key is empty: leave it out for an event that no other replaces".into(),
            ));
        }
        if text.len() > MAX_KEY_BYTES {
            return Err(Error::InvalidEvent(format!(
                "key has {} bytes of UTF-8, at most {MAX_KEY_BYTES} are allowed",
                text.len()
            )));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
