//! The hand-off: a thread that owns clients' sockets. It is a reader of the log like an event loop, without
//! Python: it writes frames, notices clients that leave, keeps heartbeats and ends streams.
//!
//! # Fairness
//! Between two looks at sockets, commands and timers at most 256 clients are served, or 1 ms passes, so a
//! broadcast to 19,000 delays no disconnect and no heartbeat.
//!
//! # Closing
//! A stream that ends gets what is queued, the end of the chunked body, and a moment for the client to close
//! first: unread input would turn our FIN into a reset. What is stalled is closed as it is.

#[cfg(not(unix))]
mod absent;
#[cfg(unix)]
mod connection;
#[cfg(unix)]
pub mod descriptors;
#[cfg(unix)]
mod handle;
#[cfg(unix)]
mod joined;
#[cfg(unix)]
mod worker;

use std::sync::Arc;

use crate::identity::{CloseReason, Identity};
#[cfg(not(unix))]
pub use absent::{Reactor, unsupported};
#[cfg(unix)]
pub use handle::Reactor;

/// A client's socket.
#[cfg(unix)]
pub type Socket = std::os::fd::OwnedFd;
/// A client's socket.
#[cfg(not(unix))]
pub type Socket = std::net::TcpStream;

/// Is told, on the reactor's thread and without a lock, that a stream ended.
pub trait Listener: Send + Sync {
    /// `identity`'s stream ended.
    fn closed(&self, identity: &Arc<Identity>, reason: &CloseReason);
}
