//! What a drain leaves to do once the reader is unlocked.

use std::sync::Arc;

use crate::identity::{CloseReason, Identity};

/// What a drain leaves to do after the locks are released.
#[derive(Default)]
pub struct Effects {
    /// Consumers to resume, by key.
    pub resume: Vec<usize>,
    /// Subscribers whose stream was closed, and why.
    pub closed: Vec<(Arc<Identity>, CloseReason)>,
    /// Subscribers whose consumer must report its unsent bytes ([`Reader::report_unsent`]).
    pub progress: Vec<Arc<Identity>>,
}
