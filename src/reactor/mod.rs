//! The hand-off: a thread that owns clients' sockets. It reads the log as an event loop does, without Python: it
//! writes frames, notices clients that leave, keeps heartbeats and ends streams.
//!
//! # Fairness
//! The thread polls its sockets, commands and timers again after 256 clients or 1 ms, so a broadcast to 19,000
//! clients delays no disconnect and no heartbeat.
//!
//! # Turns
//! A thread that has delivered an event from a broker to few clients also writes to them, if this one sleeps
//! (`desk.rs`): two threads cost a wake-up more than one. It leaves sockets and timers to this thread, and wakes it when
//! more is left to do, or is due earlier than the thread would wake.
//!
//! # Newcomers
//! Many clients leave as soon as their stream is open. The thread that brings a newcomer writes what that gets first, and
//! this one is woken for it only if it would sleep for too long, or has passed it by (`shared.rs`).
//!
//! # Closing
//! A stream that ends gets its queued events and the end of the chunked body. The connection is kept until the
//! client has taken them, and for a moment more so that the client may close first: unread input would turn our FIN
//! into a reset. A connection that is given up with unacknowledged bytes is closed with a reset, because a FIN would
//! wait behind them.
//!
//! # Stalling
//! A client that acknowledges anything is alive (`progress.rs`). The kernel's `TCP_USER_TIMEOUT` is not set: it also
//! ends a slow client whose window is closed most of the time.

#[cfg(unix)]
mod coalesce;
#[cfg(unix)]
mod connection;
#[cfg(unix)]
mod desk;
#[cfg(unix)]
mod handle;
#[cfg(unix)]
pub(crate) mod kernel;
#[cfg(unix)]
mod owned;
#[cfg(unix)]
mod progress;
#[cfg(unix)]
mod rounds;
#[cfg(unix)]
mod shared;
#[cfg(unix)]
mod signal;
#[cfg(unix)]
mod sockets;
#[cfg(not(unix))]
mod unsupported;
#[cfg(unix)]
mod worker;

use std::sync::Arc;

use crate::identity::{CloseReason, Identity};
#[cfg(unix)]
pub use handle::Reactor;
#[cfg(not(unix))]
pub use unsupported::{Reactor, unsupported};

/// A client's socket.
#[cfg(unix)]
pub type Socket = std::os::fd::OwnedFd;
/// A client's socket.
#[cfg(not(unix))]
pub type Socket = std::net::TcpStream;

/// Learns of streams that end: on the reactor's thread, with no lock held.
pub trait Listener: Send + Sync {
    /// `identity`'s stream ended.
    fn closed(&self, identity: &Arc<Identity>, reason: &CloseReason);
}
