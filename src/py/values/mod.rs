//! Python's values as the core's, and back: the fields of an event, JSON, options, requests and exceptions.

pub mod arguments;
pub mod convert;
pub mod encode;
pub mod end_reason;
pub mod exceptions;
pub mod json;
mod json_kinds;
mod json_scalars;
pub mod options;
pub mod request;
