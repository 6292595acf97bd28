//! What all clients together received, checked.

use serde_json::{Value, json};

use crate::histogram::Histogram;
use crate::sse::Item;

/// Counters of one phase of a run.
#[derive(Debug, Default)]
pub struct Tally {
    /// Benchmark events received.
    pub events: u64,
    /// Numbers that were skipped.
    pub gaps: u64,
    /// Events whose number was not above the one before: doubled or out of order.
    pub disorder: u64,
    /// Events whose data was not of the size asked for.
    pub wrong_size: u64,
    /// Events with other data.
    pub foreign: u64,
    /// Comment lines.
    pub comments: u64,
    /// The server's own events.
    pub control: u64,
    /// Bytes received, with HTTP's framing.
    pub bytes: u64,
    /// Reads that returned something.
    pub reads: u64,
    /// From the stamp in the event to its receipt here.
    pub latency: Histogram,
    /// From a client's request to its first event.
    pub first_event: Histogram,
    /// The size every event must have; 0 is any.
    pub expect_size: usize,
    /// When the last event came.
    pub last_event: u64,
    /// When the first event was published, by its stamp.
    pub first_published: u64,
    /// The number of the phase's first event: what `slowest` is indexed from.
    base: Option<u64>,
    /// Per event, the latency of the client that got it last.
    slowest: Vec<u64>,
}

impl Tally {
    /// An empty tally that expects events of `size` bytes of data.
    pub fn expecting(size: usize) -> Self {
        Self { expect_size: size, ..Self::default() }
    }

    /// Takes one item of a client's stream; `expected` is the number that client should see next.
    pub fn take(&mut self, item: Item, at: u64, expected: &mut Option<u64>) {
        match item {
            Item::Event { seq, published, size } => {
                self.event(seq, published, at);
                match *expected {
                    Some(next) if seq > next => self.gaps += seq - next,
                    Some(next) if seq < next => self.disorder += 1,
                    _ => {}
                }
                *expected = Some(seq + 1);
                if size != self.expect_size && self.expect_size != 0 {
                    self.wrong_size += 1;
                }
            }
            Item::Foreign => self.foreign += 1,
            Item::Control => self.control += 1,
            Item::Comment => self.comments += 1,
        }
    }

    fn event(&mut self, seq: u64, published: u64, at: u64) {
        let latency = at.saturating_sub(published);
        if self.events == 0 || published < self.first_published {
            self.first_published = published;
        }
        self.events += 1;
        self.last_event = at;
        self.latency.record(latency);
        let base = *self.base.get_or_insert(seq);
        let Ok(index) = usize::try_from(seq.saturating_sub(base)) else {
            return;
        };
        // A wrong number must not allocate gigabytes.
        if index < 1 << 20 {
            if self.slowest.len() <= index {
                self.slowest.resize(index + 1, 0);
            }
            self.slowest[index] = self.slowest[index].max(latency);
        }
    }

    /// Whether everything that came was what had to come.
    pub fn clean(&self) -> bool {
        self.gaps + self.disorder + self.wrong_size + self.foreign == 0
    }

    /// The report's part about events.
    pub fn summary(&self) -> Value {
        let mut slowest = Histogram::default();
        for &latency in &self.slowest {
            slowest.record(latency);
        }
        // Not from the first receipt: a server that queues everything before it sends would be timed only for
        // what it does afterwards.
        let span = self.last_event.saturating_sub(self.first_published);
        json!({
            "events": self.events,
            "events_per_s": if span == 0 { Value::Null } else { json!(self.events as f64 * 1e9 / span as f64) },
            "gaps": self.gaps,
            "disorder": self.disorder,
            "wrong_size": self.wrong_size,
            "foreign": self.foreign,
            "comments": self.comments,
            "control": self.control,
            "bytes": self.bytes,
            "reads": self.reads,
            "latency": self.latency.summary(),
            "first_event": self.first_event.summary(),
            "last_client_latency": slowest.summary(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_disorder_are_counted() {
        let mut tally = Tally::expecting(4);
        let mut expected = None;
        for seq in [5, 6, 9, 9, 10] {
            tally.take(Item::Event { seq, published: 10, size: 4 }, 30, &mut expected);
        }
        assert_eq!((tally.events, tally.gaps, tally.disorder), (5, 2, 1));
        assert!(!tally.clean());
        assert_eq!(tally.latency.quantile(1.0), 20);
    }
    #[test]
    fn speed_counts_from_when_the_first_event_was_published() {
        let (mut tally, second) = (Tally::default(), 1_000_000_000);
        for (client, at) in [(0, 3 * second), (1, 4 * second), (2, 5 * second)] {
            // Of several clients the one that began first need not be the first that is seen.
            let published = if client == 1 { second } else { 2 * second };
            tally.take(Item::Event { seq: 0, published, size: 4 }, at, &mut None);
            tally.take(Item::Event { seq: 1, published: 2 * second, size: 4 }, at, &mut Some(1));
        }
        assert_eq!(tally.summary()["events_per_s"], json!(1.5));
    }
}
