//! A hub as Python sees it. From the bottom: `generations` holds the core hub and its deliverers, `stream`
//! one subscriber's stream, `subscription` and `class` are the classes.

mod announcing;
mod answers;
mod awaitable;
mod chunks;
pub mod class;
mod closing;
mod ends;
mod gathering;
mod generations;
mod inherited;
mod iteration;
mod joining;
mod loop_clients;
mod loop_reader;
mod next;
pub mod publication;
mod reactors;
mod reading;
pub mod run_pump;
mod running_loop;
mod stream;
pub mod subscription;
