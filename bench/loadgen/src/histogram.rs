//! Latencies in logarithmic buckets: constant memory, one increment per event, 3 % resolution.

use serde_json::{Value, json};

/// Buckets per power of two: 2^5.
const SUB_BITS: u32 = 5;

/// A histogram of nanoseconds.
#[derive(Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; 64 << SUB_BITS], count: 0, sum: 0, min: u64::MAX, max: 0 }
    }
}

impl Histogram {
    /// Adds one value.
    pub fn record(&mut self, ns: u64) {
        self.buckets[bucket(ns)] += 1;
        self.count += 1;
        self.sum += u128::from(ns);
        self.min = self.min.min(ns);
        self.max = self.max.max(ns);
    }

    /// The value below which the share `quantile` (0 to 1) of all values lies; 0 without values.
    pub fn quantile(&self, quantile: f64) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a counter
        let rank = ((self.count as f64 * quantile).ceil() as u64).max(1);
        let mut below = 0;
        for (index, in_bucket) in self.buckets.iter().enumerate() {
            below += in_bucket;
            if below >= rank {
                return middle(index).clamp(self.min, self.max);
            }
        }
        0
    }

    /// The summary that goes into the report, in microseconds.
    pub fn summary(&self) -> Value {
        if self.count == 0 {
            return Value::Null;
        }
        let us = |ns: u64| ns as f64 / 1e3;
        json!({
            "count": self.count,
            "min_us": us(self.min),
            "mean_us": self.sum as f64 / self.count as f64 / 1e3,
            "p50_us": us(self.quantile(0.5)),
            "p90_us": us(self.quantile(0.9)),
            "p99_us": us(self.quantile(0.99)),
            "p999_us": us(self.quantile(0.999)),
            "max_us": us(self.max),
        })
    }
}

/// Values below 2^6 have a bucket each; above, the top six bits choose it.
fn bucket(ns: u64) -> usize {
    let shift = (ns | 1).ilog2().saturating_sub(SUB_BITS);
    let index = (u64::from(shift) << SUB_BITS) + (ns >> shift);
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn middle(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index >> SUB_BITS).saturating_sub(1);
    let low = (index - (shift << SUB_BITS)) << shift;
    low + (1_u64 << shift >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_ordered_and_within_three_percent() {
        let mut previous = 0;
        for exponent in 0..62 {
            for fraction in [0_u64, 1, 5, 9] {
                let value = (1_u64 << exponent) + ((1_u64 << exponent) / 10) * fraction;
                let index = bucket(value);
                assert!(index >= previous);
                previous = index;
                let error = middle(index).abs_diff(value) as f64 / value as f64;
                assert!(error < 0.032, "{value}: {error}");
            }
        }
        assert!(bucket(u64::MAX) < 64 << SUB_BITS);
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        for value in 1..=1000 {
            histogram.record(value * 1000);
        }
        let median = histogram.quantile(0.5) as f64;
        assert!((median - 500_000.0).abs() < 16_000.0, "{median}");
        assert_eq!(histogram.quantile(1.0), 1_000_000);
        assert_eq!(histogram.count, 1000);
    }
}
