//! The brokers that a hub can be given.

pub mod file;
pub mod link;
pub mod redis;
pub mod running;
