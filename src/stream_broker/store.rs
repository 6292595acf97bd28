//! What an append-only log must provide for [`super::StreamBroker`] to carry a hub over it.
//!
//! # Ids and the chain
//! An entry's id is greater than every id that the log assigned before, for as long as the log exists. Each entry names
//! the id before its own: the last one that the log *assigned*, whether that entry is still kept or not. A reader whose
//! position is that id therefore knows that nothing is missing in between. A new log has a beginning
//! ([`StreamId::is_beginning`]) in place of an entry before its first; no two logs share one, nor do two logs assign
//! the same id to different entries.
//!
//! # What may be lost
//! A store may trim the oldest entries at any time, and lose the log altogether. A store that *may* have lost
//! acknowledged entries at its end, such as a replica that became the primary, appends [`super::envelope::gap`] once,
//! before anything else is appended and before it lets itself be followed again: neither a reader that had not
//! reached the lost entries, nor a client that comes back later, can see such a loss in the ids.
//!
//! # Failures
//! No method hangs: each gives up after a bounded time (a read that waits: after that plus the time it may wait).
//! After [`Trouble::Connection`] a [`Log`] is not used again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::PresenceChange;
use crate::broker::letter::{Arrived, Fence, Letter};
use crate::ids::StreamId;
use crate::topic::Topic;

/// Why a request to a store has no answer.
#[derive(Debug, Clone)]
pub struct StoreError {
    /// The error as text of one line.
    pub text: String,
    /// What can be done about it.
    pub trouble: Trouble,
}

/// What can be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The connection is broken; another one may work.
    Connection,
    /// The store refused the request, and would refuse it again.
    Refused,
    /// The log is at another place now, with all its entries. The next connection leads there.
    Elsewhere,
}

impl StoreError {
    /// The connection is broken.
    pub fn connection(text: impl Into<String>) -> Self {
        Self { text: text.into(), trouble: Trouble::Connection }
    }

    /// The store refused the request.
    pub fn refused(text: impl Into<String>) -> Self {
        Self { text: text.into(), trouble: Trouble::Refused }
    }

    /// Whether the store would refuse the same request again.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.trouble == Trouble::Refused
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An answer of a store.
pub type Answer<T> = Result<T, StoreError>;

/// An entry to append, and its conditions. They are checked in the log's order: no entry of another process comes
/// between the check and this entry.
#[derive(Debug, Clone)]
pub struct Append<'letter> {
    /// The entry: its fields are [`super::envelope::fields`].
    pub letter: &'letter Letter,
    /// Topics none of which may have ended; otherwise the entry is refused as [`AppendError::Ended`].
    pub open: &'letter [Topic],
    /// The required state of a lease; otherwise the entry is refused as [`AppendError::Fenced`].
    pub fence: Option<Fence>,
    /// The entry ends `open[0]`.
    pub ends: Option<Ends>,
    /// The entry releases the lease of its fence, which is held.
    pub frees: bool,
}

/// What the end of a topic leaves behind.
#[derive(Debug, Clone)]
pub struct Ends {
    /// For this long, entries for the topic are refused.
    pub keep: Duration,
    /// How it ended: a text of this crate, which the store gives back.
    pub note: Arc<str>,
}

/// A topic that has ended, and whose name is not free yet.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The id of the entry that ended it.
    pub id: StreamId,
    /// How long entries for it will be refused.
    pub left: Duration,
    /// As in [`Ends`].
    pub note: String,
}

/// Why an entry has no id.
#[derive(Debug, Clone)]
pub enum AppendError {
    /// This topic has ended: the entry was not appended.
    Ended(Arc<str>),
    /// The lease is not in the required state: the entry was not appended.
    Fenced,
    /// The entry was not appended.
    Refused(String),
    /// The entry may have been appended: the reply was lost.
    Unknown(String),
    /// The log is at another place, and the whole batch was refused for that: append it again.
    Elsewhere,
}

/// What a worker's entry in the presence table becomes.
#[derive(Debug, Clone, Copy)]
pub enum PresenceWrite<'a> {
    /// Exactly these subscribers. A reader sees the former ones until all of these are written.
    Replace(&'a [PresenceChange]),
    /// The former subscribers, with these changes applied in order.
    Update(&'a [PresenceChange]),
}

/// A log that was opened for following.
pub struct Opened<L> {
    /// The log.
    pub log: L,
    /// Acknowledged entries may be missing, and the store could not append a gap: this process resets its clients.
    pub is_doubtful: bool,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// A store: a log, and the presence table. Shared by all tasks of a broker.
pub trait Store: Send + Sync + 'static {
    /// The store's log.
    type Log: Log;

    /// The name of the broker's thread.
    const THREAD: &'static str;

    /// Why this store appends a gap, for messages.
    const DOUBT: &'static str;

    /// How long a read waits for new entries, and how often the log is compared with this process's position: a log that
    /// was emptied while the clock was set back assigns smaller ids, which a reader would never receive.
    const HELD: Duration = Duration::from_secs(1);

    /// Where the store is, for messages: without a password.
    fn place(&self) -> &str;

    /// The log's name there, for messages.
    fn log_name(&self) -> &str;

    /// The longest that an answer may take.
    fn timeout(&self) -> Duration;

    /// The longest that connecting may take.
    fn connect_timeout(&self) -> Duration;

    /// Open a connection of its own for following the log. Appends a gap first if the store may have lost
    /// acknowledged entries. `is_redirected`: the follower was sent here by the place where it read before, which has
    /// lost nothing.
    fn open(&self, is_redirected: bool) -> impl Future<Output = Answer<Opened<Self::Log>>> + Send;

    /// The log over the connection that everything but following shares. Connects nothing yet.
    fn log(&self) -> Self::Log;

    /// Connect what [`Store::append`] uses, if it is not connected.
    fn connect(&self) -> impl Future<Output = Answer<()>> + Send;

    /// Drop the shared connections: the one that is followed has failed.
    fn disconnect(&self) -> impl Future<Output = ()> + Send;

    /// Append entries, in this order, with no entry of another process in between. Returns each one's id, or why it has
    /// none. Calls do not overlap. A store with a durability option waits until it is met before it returns an id.
    /// The end of a topic is forgotten after the time given in the entry that ended it; a log that is lost loses it,
    /// too.
    fn append(
        &self,
        batch: Vec<Append<'_>>,
    ) -> impl Future<Output = Vec<Result<StreamId, AppendError>>> + Send;

    /// Take a lease for `ttl`, or renew it, unless another token holds it. Returns whether this token holds it now. The
    /// store's clock decides, and [`Store::append`] sees the change at once.
    fn lease(&self, name: &str, token: &str, ttl: Duration) -> impl Future<Output = Answer<bool>> + Send;

    /// Release a lease, if this token holds it.
    fn release(&self, name: &str, token: &str) -> impl Future<Output = Answer<()>> + Send;

    /// The token that holds a lease.
    fn holder(&self, name: &str) -> impl Future<Output = Answer<Option<String>>> + Send;

    /// How those of these topics have ended whose names are not free, whether the log still keeps their ends or not. Not
    /// more than a few hundred.
    fn ended(&self, topics: &[Topic]) -> impl Future<Output = Answer<Vec<(Topic, Ended)>>> + Send;

    /// Write which subscribers a worker has, and that it is alive. Returns whether the worker's table is complete: it
    /// is not when what was written before has been lost.
    fn write_presence(
        &self,
        worker: &str,
        write: PresenceWrite<'_>,
    ) -> impl Future<Output = Answer<bool>> + Send;

    /// Remove a worker that ends.
    fn remove_presence(&self, worker: &str) -> impl Future<Output = Answer<()>> + Send;

    /// The public ids of the subscribers of a topic at all workers that are alive; `""` is the hub itself.
    fn present(&self, topic: &str) -> impl Future<Output = Answer<Vec<String>>> + Send;

    /// Add a subscriber under a topic to a worker's table, if fewer than `limit` subscribers of workers that are alive
    /// are there; no other claim comes in between. Returns whether it is there now; `None` when the worker's table is not
    /// complete: then it is written anew, without the subscriber.
    fn claim(
        &self,
        worker: &str,
        topic: &str,
        subscriber: &str,
        limit: usize,
    ) -> impl Future<Output = Answer<Option<bool>>> + Send;

    /// This process ends its use of the store: note what helps the next one. If that takes too long, it is dropped.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// A log that is read. Reads return entries in the log's order unless they say otherwise.
pub trait Log: Send + 'static {
    /// The last id that the log assigned; `None` when there is no log.
    fn last(&mut self) -> impl Future<Output = Answer<Option<StreamId>>> + Send;

    /// The same, but a log that does not exist is created. Then the id is the log's beginning, or `0-0` if the reader
    /// may not create a log: that is any log's beginning and proves nothing.
    fn begin(&mut self) -> impl Future<Output = Answer<StreamId>> + Send;

    /// At most `count` entries after `id`.
    fn after(&mut self, id: StreamId, count: usize) -> impl Future<Output = Answer<Vec<Arrived>>> + Send;

    /// The same; when there are none, wait for the first, for at most `wait`.
    fn wait_after(
        &mut self,
        id: StreamId,
        count: usize,
        wait: Duration,
    ) -> impl Future<Output = Answer<Vec<Arrived>>> + Send;

    /// At most `count` entries up to `end`, the newest first; `is_included` says whether `end` may be one of them.
    fn backwards(
        &mut self,
        end: StreamId,
        is_included: bool,
        count: usize,
    ) -> impl Future<Output = Answer<Vec<Arrived>>> + Send;

    /// The time by the clock from which ids are made, in milliseconds.
    fn now(&mut self) -> impl Future<Output = Answer<u64>> + Send;

    /// Whether acknowledged entries may have been lost since the log was opened: then it is opened again.
    fn is_doubtful(&mut self) -> impl Future<Output = Answer<bool>> + Send;
}
