//! The terms of a new subscriber: its own options, or else the hub's; and whether there is room for it.

use std::collections::HashSet;
use std::time::Duration;

use super::{Hub, Request, State};
use crate::deadlines::{Heartbeat, a_little_before};
use crate::error::{Error, Result, shown};
use crate::queue::Capacity;
use crate::subscriber::{Limit, Terms, Times};
use crate::topic::Topic;

impl Hub {
    /// How long ago an authorization expired that was valid until `expires`, a time since the Unix epoch; `None` while
    /// it is valid.
    #[must_use]
    pub fn expired(&self, expires: Duration) -> Option<Duration> {
        self.clock.time_of_day().checked_sub(expires)
    }

    /// The times of a stream that is requested now.
    ///
    /// # Errors
    /// [`Error::Expired`].
    pub(super) fn times(&self, request: &Request, random: u64, now: Duration) -> Result<Times> {
        Ok(Times {
            heartbeat: self.config.heartbeat.map(|longest| Heartbeat::spread(longest, random)),
            limit: self.limit(request, random, now)?.map(Box::new),
        })
    }

    /// The terms that a request gets.
    pub(super) fn terms(&self, request: &Request) -> Terms {
        let config = &self.config;
        Terms {
            capacity: if request.follows_run {
                Capacity { events: usize::MAX, bytes: usize::MAX }
            } else {
                Capacity { events: request.capacity.unwrap_or(config.capacity.events), ..config.capacity }
            },
            overflow: request.overflow.unwrap_or(config.overflow),
            // The hub's is for topics: a run that is written at a rate looks as if it were slow.
            interval: request.interval.or(config.interval.filter(|_| !request.follows_run)),
            compress: request.compress,
            stall_timeout: config.stall_timeout,
            control: !request.no_control,
            format: request.format,
        }
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

    /// How many streams a user has in this process; 0 where the hub does not limit them.
    #[must_use]
    pub fn count_of_user(&self, user: &str) -> usize {
        self.state.lock().users.as_ref().map_or(0, |users| users.count(user))
    }

    /// Whether a subscriber that is in so many topics may be in these too.
    ///
    /// # Errors
    /// [`Error::TooManyTopics`].
    pub(super) fn check_topics<'a>(&self, has: usize, new: impl Iterator<Item = &'a Topic>) -> Result<()> {
        let Some(limit) = self.config.max_topics else { return Ok(()) };
        let count = has + new.map(Topic::as_str).collect::<HashSet<_>>().len();
        if count > limit { Err(Error::TooManyTopics { count, limit }) } else { Ok(()) }
    }
}

impl State {
    /// Whether there is room for a subscriber.
    ///
    /// # Errors
    /// [`Error::TooManySubscribers`], [`Error::UserFull`].
    pub(super) fn check_room(&self, hub: &Hub, request: &Request) -> Result<()> {
        let config = &hub.config;
        if let Some(limit) = config.max_subscribers.filter(|&limit| self.subscribers.len() >= limit) {
            return Err(Error::TooManySubscribers { limit });
        }
        if let (Some(limit), Some(users), Some(user)) = (config.max_per_user, &self.users, &request.user)
            && !request.claim.is_some_and(|claim| users.has_claim(claim))
            && users.count(user) >= request.user_room.unwrap_or(limit)
        {
            return Err(Error::UserFull { user: shown(user).into(), limit });
        }
        Ok(())
    }
}
