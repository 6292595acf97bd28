//! The process: its end, its forks, its interpreter, its descriptors, the wakers of its event loops and the runtime on
//! which Python awaits. Nothing here knows a hub.

pub mod awaiting;
pub mod context;
pub mod descriptors;
pub mod exit;
pub mod fork;
pub mod interpreter;
pub mod log;
#[cfg_attr(not(unix), path = "signal_windows.rs")]
pub mod signal;
