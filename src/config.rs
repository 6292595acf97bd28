//! A hub's options, and their rules.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::history::Retention;
use crate::queue::{Capacity, OverflowPolicy};

/// A hub's options. Their defaults are the Python wrapper's.
#[derive(Debug, Clone)]
pub struct Config {
    /// What a topic keeps unless said otherwise.
    pub retention: Retention,
    /// What all topics keep together, in bytes.
    pub history_total_bytes: usize,
    /// Longest silence; none switches heartbeats off.
    pub heartbeat: Option<Duration>,
    /// The range of `retry:`, in milliseconds.
    pub reconnect_ms: (u64, u64),
    /// How much may wait behind a client's unfinished write.
    pub capacity: Capacity,
    /// What happens beyond.
    pub overflow: OverflowPolicy,
    /// Shortest time between two writes of events to a client; `None` where each is written when it comes.
    pub interval: Option<Duration>,
    /// Longest time a client may take nothing.
    pub stall_timeout: Duration,
    /// How far publishers may run ahead of delivery, in bytes.
    pub backlog_bytes: usize,
    /// Largest event, in bytes on the wire without its id.
    pub max_event_bytes: usize,
    /// Most subscribers.
    pub max_subscribers: Option<usize>,
    /// Most subscribers of one user.
    pub max_per_user: Option<usize>,
    /// Most topics of one subscriber.
    pub max_topics: Option<usize>,
}

/// Seconds, as Python gives them, as a duration.
///
/// # Errors
/// [`Error::InvalidOption`] when they are negative, not a number, or beyond a century.
pub fn seconds(option: &str, value: f64) -> Result<Duration> {
    if value.is_nan() || !(0.0..=3.2e9).contains(&value) {
        return Err(Error::InvalidOption(format!(
            "{option} must be a number of seconds from 0 to 3.2e9, not {value}"
        )));
    }
    Ok(Duration::from_secs_f64(value))
}

/// The year 10000, in seconds since the Unix epoch. Milliseconds, which other languages count, are beyond it.
const YEAR_10000: f64 = 253_402_300_800.0;

/// Seconds since the Unix epoch, as Python gives them, as a duration since then.
///
/// # Errors
/// [`Error::InvalidOption`] when they are not a number, before 1970, or from the year 10000 on.
pub fn moment(option: &str, value: f64) -> Result<Duration> {
    if value.is_nan() || !(0.0..YEAR_10000).contains(&value) {
        return Err(Error::InvalidOption(format!(
            "{option} must be seconds (not milliseconds) since the epoch, from 0 to the year 10000, not {value}"
        )));
    }
    Ok(Duration::from_secs_f64(value))
}

/// As [`seconds`], but more than none.
///
/// # Errors
/// As [`seconds`], and for zero.
pub fn positive_seconds(option: &str, value: f64) -> Result<Duration> {
    let duration = seconds(option, value)?;
    if duration.is_zero() {
        return Err(Error::InvalidOption(format!("{option} must be more than 0 seconds, not {value}")));
    }
    Ok(duration)
}

/// The bounds of a rate, in writes a second. Timers tell no more than about a hundred apart.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=100.0;

/// The shortest time between two writes, from a rate.
///
/// # Errors
/// [`Error::InvalidOption`] when the rate is not a number within [`RATES`].
pub fn interval(rate: f64) -> Result<Duration> {
    if !RATES.contains(&rate) {
        let (least, most) = (RATES.start(), RATES.end());
        return Err(Error::InvalidOption(format!(
            "rate must be a number of writes a second from {least} to {most}, not {rate}"
        )));
    }
    Ok(Duration::from_secs_f64(1.0 / rate))
}

impl OverflowPolicy {
    /// The policy called `name`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for another name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "disconnect" => Ok(Self::Disconnect),
            "drop_oldest" => Ok(Self::DropOldest),
            "drop_newest" => Ok(Self::DropNewest),
            _ => Err(Error::InvalidOption(format!(
                "overflow must be 'disconnect', 'drop_oldest' or 'drop_newest', not {name:?}"
            ))),
        }
    }
}
