//! The brokers that a hub can be given.

pub mod redis;
