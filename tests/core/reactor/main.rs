//! The reactor on real sockets: what a client reads, and what becomes of clients that misbehave.
#![cfg(unix)]

mod delivery;
mod slow;
mod support;
