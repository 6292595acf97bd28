//! The core of sse-hub: a Server-Sent Events hub that compiles, and is tested, without Python.
//!
//! Arrows go one way: `event <- frame <- {log, history, queue} <- subscriber <- reader <- hub <- {reactor,
//! broker} <- py`; of a broker the hub knows the trait.
//! Only `py` knows Python.

pub mod broker;
pub mod clock;
pub mod config;
pub mod control;
pub mod entry;
pub mod error;
pub mod event;
pub mod frame;
pub mod heartbeat;
pub mod history;
pub mod hub;
pub mod log;
pub mod numbering;
#[cfg(feature = "python")]
pub mod py;
pub mod queue;
pub mod reactor;
pub mod reader;
pub mod stats;
pub mod subscriber;
pub mod sync;
pub mod topic;
pub mod waker;
