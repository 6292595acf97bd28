//! The core of sse-hub: a Server-Sent Events hub that compiles, and is tested, without Python.
//!
//! Arrows go one way: `event <- frame <- {log, history, queue} <- subscriber <- hub <- py`.

pub mod error;
pub mod event;
pub mod frame;
