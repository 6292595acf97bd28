//! The hub without Python: history and queues against naive models, streams on a clock moved by hand, and the
//! storms of the core: on a hub's own log (`storm_core`), and on a broker's stream (`storm_stream`).
#![expect(clippy::unchecked_time_subtraction, reason = "a test that subtracts too much fails, as it should")]

mod closing;
mod compress;
mod compress_model;
mod control;
mod ends;
mod ends_members;
mod ends_model;
mod flow;
mod heartbeats;
mod history;
mod history_model;
#[path = "../inert_broker.rs"]
mod inert_broker;
mod initial;
mod memory_store;
mod opening;
mod parking;
mod queue;
mod rate;
mod runs;
mod stalls;
mod storm_client;
mod storm_core;
mod storm_stream;
mod stream;
mod stream_broker;
mod stream_broker_claims;
mod stream_broker_ends;
mod stream_broker_loss;
mod stream_broker_storm;
mod stream_broker_unread;
mod stream_waiting;
mod stream_world;
mod support;
mod topics;
mod transfer;
#[path = "../usual_config.rs"]
mod usual_config;
