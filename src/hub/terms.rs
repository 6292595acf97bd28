//! The terms of a new subscriber: its own options, or else the hub's.

use std::time::Duration;

use super::{Hub, Request};
use crate::deadlines::{Heartbeat, a_little_before};
use crate::error::{Error, Result};
use crate::queue::Capacity;
use crate::subscriber::{Limit, Terms};

impl Hub {
    /// How long ago an authorization expired that was valid until `expires`, a time since the Unix epoch; `None` while
    /// it is valid.
    #[must_use]
    pub fn expired(&self, expires: Duration) -> Option<Duration> {
        self.clock.time_of_day().checked_sub(expires)
    }

    /// # Errors
    /// [`Error::Expired`].
    pub(super) fn terms(&self, request: &Request, random: u64, now: Duration) -> Result<Terms> {
        let config = &self.config;
        Ok(Terms {
            capacity: if request.has_all_room {
                Capacity { events: usize::MAX, bytes: usize::MAX }
            } else {
                Capacity { events: request.capacity.unwrap_or(config.capacity.events), ..config.capacity }
            },
            overflow: request.overflow.unwrap_or(config.overflow),
            heartbeat: config.heartbeat.map(|longest| Heartbeat::spread(longest, random)),
            stall_timeout: config.stall_timeout,
            limit: self.limit(request, random, now)?,
            control: !request.no_control,
            format: request.format,
        })
    }

    fn limit(&self, request: &Request, random: u64, now: Duration) -> Result<Option<Limit>> {
        let aged = request.max_age.map(|age| Limit { at: now + age, is_expiry: false });
        let Some(expires) = request.expires else { return Ok(aged) };
        let left = expires.checked_sub(self.clock.time_of_day()).filter(|left| !left.is_zero());
        let Some(left) = left else {
            return Err(Error::Expired { ago: self.expired(expires).unwrap_or_default() });
        };
        // Other bits than those that spread heartbeats and `retry:`.
        let at = now + a_little_before(left, random >> 32);
        Ok(Some(aged.filter(|aged| aged.at <= at).unwrap_or(Limit { at, is_expiry: true })))
    }
}
