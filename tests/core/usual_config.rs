//! The configuration of a hub that tests of the core begin with.

use std::time::Duration;

use sse_hub::config::Config;
use sse_hub::history::Retention;
use sse_hub::queue::{Capacity, OverflowPolicy};

/// Of a small hub without heartbeats.
pub fn config() -> Config {
    Config {
        retention: Retention { count: 100, bytes: 1 << 20, age: None },
        history_total_bytes: 1 << 24,
        heartbeat: None,
        reconnect_ms: (1000, 1000),
        capacity: Capacity { events: 100, bytes: 1 << 20 },
        overflow: OverflowPolicy::Disconnect,
        interval: None,
        stall_timeout: Duration::from_secs(30),
        backlog_bytes: 1 << 20,
        max_event_bytes: 1 << 16,
        max_subscribers: None,
        max_per_user: None,
        max_topics: None,
    }
}
