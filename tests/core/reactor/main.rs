//! The reactor on real sockets: what a client reads, and what happens to clients that misbehave.
#![cfg(unix)]

mod delivery;
mod slow;
mod support;
