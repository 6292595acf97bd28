//! The hub without Python: history and queues against naive models, streams on a clock moved by hand, and
//! clients that come, lag, leave and resume at random.
#![allow(missing_docs)]
#![expect(clippy::unchecked_time_subtraction, reason = "a test that subtracts too much fails, as it should")]

mod closing;
mod flow;
mod heartbeats;
mod history;
mod history_model;
mod moving;
mod opening;
mod parking;
mod queue;
mod storm;
mod storm_client;
mod stream;
mod stream_storm;
mod stream_world;
mod support;
mod topics;
