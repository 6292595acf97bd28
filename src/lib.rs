//! The core of sse-hub: a Server-Sent Events hub that compiles, and is tested, without Python.
//!
//! Dependencies point down only, and a test fails on one that does not:
//!
//! ```text
//! values        descriptors ids key trace event frame entry identity outcome topic, error histogram stats clock sync
//!               waker
//! pure parts    change compress log history queue deadlines pace control numbering config
//! subscriber    one subscriber as a state machine
//! reader        the subscribers of one event loop or reactor thread
//! broker        the contract between a hub and what connects its processes
//! hub           topics, subscribers, publishing
//! stream_broker a broker over any append-only log
//! drivers       file redis reactor
//! py            the Python module, the only place that knows Python
//! ```

pub mod broker;
pub mod change;
pub mod clock;
pub mod compress;
pub mod config;
pub mod control;
pub mod deadlines;
#[cfg(unix)]
pub mod descriptors;
pub mod ending;
pub mod entry;
pub mod error;
pub mod event;
#[cfg(unix)]
pub mod file;
pub mod frame;
pub mod histogram;
pub mod history;
pub mod hub;
pub mod identity;
pub mod ids;
pub mod key;
pub mod log;
pub mod numbering;
pub mod outcome;
pub mod pace;
#[cfg(feature = "python")]
pub mod py;
pub mod queue;
pub mod reactor;
pub mod reader;
pub mod redis;
pub mod stats;
pub mod stream_broker;
pub mod subscriber;
pub mod sync;
pub mod topic;
pub mod trace;
pub mod waker;
