//! Whether a client takes what was written to it.
//!
//! A write that the kernel takes says nothing about the client: the kernel's buffer may have had room. So the rule
//! looks at what the peer acknowledged, every quarter of `stall_timeout`. A client that acknowledged anything since
//! the last check is alive, however little that was. A client that acknowledged nothing for `stall_timeout` while
//! something was outstanding has stalled or vanished.

use std::time::Duration;

/// What one client has taken. Values in, values out; time is an argument.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that the kernel took since the adoption.
    written: i64,
    /// How many of them the peer had acknowledged at the last check. Below the truth by what was unacknowledged
    /// at the adoption, and for a Unix socket by the kernel's overhead: only a rise counts.
    acknowledged: i64,
    /// When the last check found an acknowledgement; `None` when it found nothing outstanding.
    since: Option<Duration>,
}

impl Progress {
    /// The kernel took this many bytes.
    pub fn wrote(&mut self, bytes: usize) {
        self.written = self.written.wrapping_add_unsigned(bytes as u64);
    }

    /// Whether nothing was outstanding at the last check, and nothing was written since.
    pub fn is_idle(&self) -> bool {
        self.since.is_none() && self.written == self.acknowledged
    }

    /// Check what the peer has acknowledged; returns for how long it has acknowledged nothing of what is
    /// outstanding. `unacknowledged` is the kernel's answer. Where the kernel does not say, a write that it takes
    /// after the socket was full (`is_blocked`) counts as an acknowledgement.
    pub fn check(&mut self, unacknowledged: Option<usize>, is_blocked: bool, now: Duration) -> Duration {
        let is_outstanding = is_blocked || unacknowledged.is_some_and(|bytes| bytes > 0);
        let acknowledged = self.written.wrapping_sub_unsigned(unacknowledged.unwrap_or(0) as u64);
        let moved = acknowledged > self.acknowledged;
        self.acknowledged = if is_outstanding { acknowledged } else { self.written };
        match self.since {
            _ if !is_outstanding => self.since = None,
            Some(since) if !moved => return now.saturating_sub(since),
            _ => self.since = Some(now),
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_client_that_acknowledges_one_byte_at_a_time_is_never_quiet() {
        let mut progress = Progress::default();
        progress.wrote(1000);
        for second in 0..500 {
            let left = 1000 - usize::try_from(second).unwrap();
            assert_eq!(progress.check(Some(left), true, at(second)), Duration::ZERO);
        }
    }

    #[test]
    fn a_client_that_acknowledges_nothing_is_quiet_since_the_last_check_that_found_something() {
        let mut progress = Progress::default();
        progress.wrote(1000);
        assert_eq!(progress.check(Some(1000), false, at(0)), Duration::ZERO);
        assert_eq!(progress.check(Some(400), false, at(1)), Duration::ZERO);
        // A write changes nothing.
        progress.wrote(50);
        assert_eq!(progress.check(Some(450), true, at(5)), at(4));
        assert_eq!(progress.check(Some(450), true, at(9)), at(8));
        assert_eq!(progress.check(Some(449), true, at(10)), Duration::ZERO);
    }

    #[test]
    fn the_time_without_anything_outstanding_does_not_count() {
        let mut progress = Progress::default();
        assert!(progress.is_idle());
        progress.wrote(10);
        assert!(!progress.is_idle());
        assert_eq!(progress.check(Some(0), false, at(0)), Duration::ZERO);
        assert!(progress.is_idle());
        // Long idle, then something in flight at the moment of the check.
        progress.wrote(10);
        assert_eq!(progress.check(Some(10), false, at(100)), Duration::ZERO);
        assert_eq!(progress.check(Some(10), false, at(101)), at(1));
    }

    #[test]
    fn bytes_from_before_the_adoption_count_when_they_are_acknowledged() {
        let mut progress = Progress::default();
        progress.wrote(10);
        // The head of the response, 300 bytes, was on its way.
        assert_eq!(progress.check(Some(310), false, at(0)), Duration::ZERO);
        assert_eq!(progress.check(Some(310), false, at(1)), at(1));
        assert_eq!(progress.check(Some(10), false, at(2)), Duration::ZERO);
    }

    #[test]
    fn without_the_kernels_answer_a_write_that_it_takes_counts() {
        let mut progress = Progress::default();
        progress.wrote(100);
        assert_eq!(progress.check(None, true, at(0)), Duration::ZERO);
        assert_eq!(progress.check(None, true, at(3)), at(3));
        progress.wrote(1);
        assert_eq!(progress.check(None, true, at(4)), Duration::ZERO);
        assert_eq!(progress.check(None, false, at(9)), Duration::ZERO);
    }
}
