//! The contract between a hub and what connects its processes.
//!
//! A hub with a broker delivers only what its broker gives it. [`Broker::post`] takes publications; the broker hands
//! the entries of its log to the hub, in the log's order, in the publishing process as in every other.
//!
//! # Threads and locks
//! A broker runs on threads of its own and never touches Python. Every method may be called from any thread. Those
//! that may block say so; the others return at once, because the hub or an event loop waits for them: they may take
//! a lock of the broker's, but never call the hub while they hold it.
//!
//! # What a broker calls
//! The methods of [`Hub`](crate::hub::Hub) under "brokers", from one thread at a time, without holding a lock of its
//! own:
//! - `open_log` once, first: the position in the log from which the hub goes on.
//! - `deliver` with entries that follow each other without a gap; `break_log` where that cannot be proven.
//! - `resolve`, exactly once for each question of [`Broker::resolve`] whose subscriber is still registered, after
//!   `open_log`. Questions may be answered in any order. Before the answer, `Verdict::Later` may be given any
//!   number of times; it opens the stream.
//! - `deliver_piece` after the verdict `Kept`, a piece whenever the verdict's waker is woken, until it returns false or the
//!   last piece was given.
//!
//! A broker holds its hub weakly: a hub that is dropped ends its broker's work.

use std::pin::Pin;
use std::sync::Arc;

use crate::broker::letter::{Fence, Letter};
use crate::ending::EndState;
use crate::error::Result;
use crate::ids::{StreamId, SubscriberId};
use crate::outcome::{Failure, Outcome, ReportFailure};
use crate::topic::Topic;

pub mod letter;

/// The public ids of subscribers, sorted, each once; `None` when the broker stopped before it could answer.
pub type Present = Pin<Box<dyn Future<Output = Option<Result<Vec<String>, Failure>>> + Send>>;

/// What a broker answers later; `None` when it stopped before it could.
pub type Answered<T> = Pin<Box<dyn Future<Output = Option<Result<T, Failure>>> + Send>>;

/// How a run has ended, as soon as it has.
pub type WatchedEnd = Box<dyn Fn() -> Option<EndState> + Send + Sync>;

/// What carries a hub's events between processes.
///
/// Every outcome of [`Broker::post`] is completed sooner or later, whatever happens to the broker. Letters of one
/// thread get their places in the log in the order in which they were posted.
pub trait Broker: ReportFailure {
    /// Queue a letter. Its outcome is known when the log has acknowledged it, which may be before or after the hub
    /// delivers it. The log refuses it where the fence does not hold, and where one of its topics has ended.
    ///
    /// # Errors
    /// [`crate::error::Error::HubFull`] when too much waits already, [`crate::error::Error::HubClosed`] after the
    /// broker has stopped; nothing was queued.
    fn post(&self, letter: Letter, fence: Option<Fence>) -> Result<Arc<Outcome>>;

    /// Take a lease, unless another token holds it, and renew it until it is released or the broker stops. Gives
    /// whether this token holds it; before the answer true, the hub follows whatever was appended under the lease
    /// before. The future needs no runtime.
    fn take_lease(&self, name: Arc<str>, token: Arc<str>) -> Answered<bool>;

    /// The same, but wait until the lease is free: at once when its holder releases it, and within a few seconds when
    /// the holder dies. Never gives false.
    fn await_lease(&self, name: Arc<str>, token: Arc<str>) -> Answered<bool>;

    /// Whether a lease that was taken here is held still.
    fn holds(&self, name: &str, token: &str) -> bool;

    /// Wait until a lease that was taken here is no longer held. The future needs no runtime.
    fn lost(&self, name: Arc<str>, token: Arc<str>) -> Answered<()>;

    /// Give a lease up, so that others may take it; or no longer wait for it, whatever the answer will be.
    fn release(&self, name: &str, token: &str);

    /// Find out whether there is a run that this process does not follow: another process may have begun it just now,
    /// or the log may have trimmed its beginning or all of it. Before the answer true, the broker brings the hub to
    /// where it follows the run: `Hub::adopt_run`, or `Hub::adopt_end`. The future needs no runtime.
    fn find_run(&self, topic: Topic) -> Answered<bool>;

    /// Wait for the next change of a run after this call, which the hub shows then: it has begun, was asked to stop, or
    /// has ended. With the token of the run's lease, wait for its loss as well. Also answered when the broker stops.
    /// Gives how the run has ended, if that is the change. The future needs no runtime.
    fn run_changed(&self, topic: Topic, token: Option<Arc<str>>) -> Answered<Option<EndState>>;

    /// Remember the end of a run from this call on for as long as the caller keeps the answer, which gives it: its name
    /// may be free soon after.
    fn watch_end(&self, topic: Topic) -> WatchedEnd;

    /// Find out where a newcomer begins (`asked` is the id it came back with, which this process does not know). The
    /// answer goes to `Hub::resolve`, from the broker's thread.
    fn resolve(&self, subscriber: SubscriberId, asked: Option<StreamId>);

    /// The hub has topics that may have ended by an entry that this process has not read and will not read: the log had
    /// trimmed it, or it was in a gap. The broker takes them by `Hub::take_unknown_ends`, a few at a time. For those that
    /// have ended, `Hub::adopt_end` follows; where that cannot be found out yet, `Hub::return_unknown_ends`.
    fn look_for_ends(&self);

    /// A subscriber was registered, unregistered, or changed its topics. The changes of one subscriber come in their
    /// order, and each no earlier than `Hub::presence` shows it. One thread at a time calls this, and the others that
    /// made a change wait for it; it does not hold the hub's lock.
    fn presence_changed(&self, change: PresenceChange);

    /// Ask which subscribers are in a topic, in all processes; `None` asks for the whole hub. The answer contains
    /// every subscriber of this process that was registered before the call. The future needs no runtime.
    fn present(&self, topic: Option<String>) -> Present;

    /// Claim a place among the streams of a user, for a subscriber that [`Hub::begin_claim`] announced. True when the
    /// user had fewer than `limit` streams and claimed places in all processes, those of this process that were
    /// registered before the call included; no other claim comes between the count and this one. The broker then calls
    /// `Hub::grant_claim` before it answers. The future needs no runtime.
    ///
    /// [`Hub::begin_claim`]: crate::hub::Hub::begin_claim
    fn claim(&self, user: Arc<str>, subscriber: SubscriberId, limit: usize) -> Answered<bool>;

    /// Whether what is published reaches the other processes now.
    fn is_connected(&self) -> bool;

    /// Whether the log acknowledged letters of this process that the hub has not delivered yet. False while the
    /// broker is not connected: then nothing says when they come.
    fn is_behind_itself(&self) -> bool;

    /// How many letters have no outcome yet.
    fn unsent(&self) -> usize;

    /// How many letters failed.
    fn failed(&self) -> u64;

    /// Take no more letters once those that wait have their outcome; then end the threads. Does not wait. May be
    /// called more than once.
    fn stop(&self);

    /// Whether the broker's threads have ended.
    fn has_ended(&self) -> bool;

    /// Block until no letter waits, or until no letter has got an outcome for longer than one may take. Returns how
    /// many letters are left. Must not be called on a thread of an event loop.
    fn wait_sent(&self) -> usize;

    /// [`Broker::stop`], then block as [`Broker::wait_sent`] does, until the threads have ended.
    fn finish(&self) -> usize;

    /// Report that the process ends before so many letters were sent.
    fn report_given_up(&self, letters: usize);
}

/// A change of who is in which topic. An empty topic's name is the hub itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    /// The subscriber's public id.
    pub subscriber: Box<str>,
    /// The topics' names.
    pub topics: Vec<Arc<str>>,
    /// Whether it is in them now.
    pub is_in: bool,
}
