//! A histogram: how many observations lie up to each of a few bounds. Counting one takes no lock.

use std::time::Duration;

use crate::sync::{AtomicU64, Ordering};

/// Most bounds of a histogram.
const MOST: usize = 16;

/// Observations by size. Relaxed: each part only grows, and a snapshot that misses the newest observation in one of
/// them has it in the next.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// Observations up to each bound, without those up to the bound before; the last place is for the larger ones.
    counts: [AtomicU64; MOST + 1],
    /// The sum of all observations, in millionths.
    sum: AtomicU64,
}

/// What a histogram holds: the bounds, how many observations lie up to each (and, last, all of them), and their sum.
pub type Snapshot = (&'static [f64], Vec<u64>, f64);

impl Histogram {
    /// An empty histogram with these bounds: ascending, [`MOST`] at most.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.len() <= MOST && bounds.is_sorted());
        Self { bounds, counts: Default::default(), sum: AtomicU64::new(0) }
    }

    /// Count a duration, in seconds.
    pub fn observe_time(&self, time: Duration) {
        self.add(time.as_secs_f64(), u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Count a number.
    pub fn observe(&self, number: u32) {
        self.add(f64::from(number), u64::from(number) * 1_000_000);
    }

    fn add(&self, value: f64, millionths: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(millionths, Ordering::Relaxed);
    }

    /// What it holds.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut sum = 0;
        let counts = self.counts[..=self.bounds.len()].iter().map(|count| {
            sum += count.load(Ordering::Relaxed);
            sum
        });
        let counts = counts.collect();
        #[allow(
            clippy::cast_precision_loss,
            reason = "a sum of 285 years of seconds loses less than a second"
        )]
        let total = self.sum.load(Ordering::Relaxed) as f64 / 1e6;
        (self.bounds, counts, total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_counts_up_to_the_bound_that_it_does_not_exceed() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        for millis in [500, 501, 1000, 1001] {
            histogram.observe_time(Duration::from_millis(millis));
        }
        let (bounds, counts, sum) = histogram.snapshot();
        assert_eq!((bounds, counts), (&[0.5, 1.0][..], vec![1, 3, 4]));
        assert!((sum - 3.002).abs() < 1e-9);
    }

    #[test]
    fn numbers_add_up() {
        let histogram = Histogram::new(&[0.0, 10.0]);
        for number in [0, 7, 11, u32::MAX] {
            histogram.observe(number);
        }
        assert_eq!(histogram.snapshot().1, [1, 2, 4]);
        assert!((histogram.snapshot().2 - f64::from(u32::MAX) - 18.0).abs() < 1e-3);
    }
}
