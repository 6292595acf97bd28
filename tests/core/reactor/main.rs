//! The reactor on real sockets: what a client reads, and what happens to clients that misbehave.
#![cfg(unix)]

mod delivery;
#[path = "../inert_broker.rs"]
mod inert_broker;
mod slow;
mod support;
mod turns;
#[path = "../usual_config.rs"]
mod usual_config;
