//! What a drain leaves to do once the reader is unlocked.

use std::sync::Arc;

use crate::identity::{CloseReason, Identity};

/// What a drain leaves to do after the locks are released.
#[derive(Default)]
pub struct Effects {
    /// Consumers to resume, by key.
    pub resume: Vec<usize>,
    /// Subscribers whose stream was ended, and why.
    pub closed: Vec<(Arc<Identity>, CloseReason)>,
    /// Subscribers whose consumer is to say what its client has not taken yet ([`Reader::report_unsent`]).
    pub progress: Vec<Arc<Identity>>,
}
