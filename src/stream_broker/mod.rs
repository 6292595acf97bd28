//! A broker over any append-only log: one thread, which never touches Python, follows the log and appends to it.
//!
//! One log is one hub. Every process reads all of it, in its order, which all processes therefore share. Each entry
//! names the one before it, which proves that nothing is missing. What cannot be proven becomes a `stream-reset`.
//!
//! | file | |
//! |---|---|
//! | [`store`] | what a log must provide |
//! | [`envelope`] | a letter as the fields of an entry |
//! | `follower` | the log, from its connection to the hub |
//! | `position` | this process's position in a log that may have lost its end, or begun anew |
//! | `publisher`, `outbox`, `acknowledged` | letters, from the hub to the log, and their outcomes |
//! | `resume`, `fetch` | clients that come back with an id this process does not know |
//! | `leases`, `held` | the leases of this process |
//! | `lives` | waiting for changes of runs |
//! | `ends` | topics that have ended by entries that this process does not read |
//! | `runs` | runs of other processes: those that died, and those that the log no longer has |
//! | `presence` | which subscribers all workers have |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::broker::letter::{Fence, Letter};
use crate::broker::{Answered, Broker, PresenceChange, Present, WatchedEnd};
use crate::ending::EndState;
use crate::error::Result;
use crate::hub::Hub;
use crate::ids::{StreamId, SubscriberId};
use crate::outcome::{Failure, Outcome, ReportFailure};
use crate::topic::Topic;

mod acknowledged;
mod backoff;
mod changes;
mod ends;
pub mod envelope;
mod fetch;
mod follower;
mod kept;
mod leases;
mod lives;
mod outbox;
mod own_leases;
mod pages;
mod position;
mod presence;
mod publisher;
mod resume;
mod runs;
mod shared;
pub mod store;

use acknowledged::Acknowledged;
pub use kept::Kept;
use lives::Watched;
use outbox::Outbox;
use own_leases::Leases;
use pages::Pages;
pub use presence::PRESENCE_TTL;
pub use runs::lease_of as lease_of_run;
pub use shared::Observer;
use shared::Shared;
use store::Store;

/// The longest time a process waits until it is removed from the presence table.
const GOODBYE: Duration = Duration::from_secs(1);
/// A hub's broker over a store.
pub struct StreamBroker<S: Store> {
    shared: Arc<Shared<S>>,
    questions: mpsc::UnboundedSender<resume::Question>,
    runtime: Handle,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<S: Store> StreamBroker<S> {
    /// Start the thread that connects `hub`, which was made with [`Hub::of_stream`], and give the hub its broker.
    /// Does not wait for the connection.
    ///
    /// # Errors
    /// The system's error when no thread or descriptor is available.
    pub fn start(
        hub: &Arc<Hub>,
        store: S,
        kept: Kept,
        observer: Box<dyn Observer>,
    ) -> std::io::Result<Arc<Self>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (questions, asked) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            store,
            kept,
            backlog_bytes: hub.config.backlog_bytes,
            hub: Arc::downgrade(hub),
            observer,
            worker: hub.epoch.as_str().into(),
            outbox: Outbox::default(),
            failed: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            started: Instant::now(),
            why: Mutex::default(),
            connection_changed: Notify::new(),
            joined: watch::Sender::new(false),
            pages: Pages::default(),
            newcomers: shared::Newcomers::default(),
            progress: watch::Sender::new(None),
            acknowledged: Acknowledged::default(),
            presence: Mutex::default(),
            presence_news: Notify::new(),
            unknown_ends: Notify::new(),
            leases: Leases::default(),
            lives: Arc::default(),
            writing_presence: tokio::sync::Mutex::default(),
            stopping: watch::Sender::new(false),
            refusal_reported: AtomicBool::new(false),
        });
        let handle = runtime.handle().clone();
        let tasks = shared.clone();
        let thread = std::thread::Builder::new().name(S::THREAD.into()).spawn(move || {
            runtime.block_on(run(tasks, asked));
            // A name look-up runs in a thread of the runtime, and may take long.
            runtime.shutdown_background();
        })?;
        let broker = Arc::new(Self { shared, questions, runtime: handle, thread: Mutex::new(Some(thread)) });
        hub.set_broker(broker.clone());
        Ok(broker)
    }

    /// The answer to a question, which is worked out on the broker's thread.
    fn ask<T: Send + 'static>(
        &self,
        answer: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Answered<T> {
        let (give, given) = oneshot::channel();
        self.runtime.spawn(async move {
            let _ = give.send(answer.await);
        });
        Box::pin(async move { given.await.ok() })
    }

    /// Wait for something on the broker's thread, as long as the answer is wanted; then call `after`.
    fn wait_for<T: Send + 'static>(
        &self,
        something: impl Future<Output = T> + Send + 'static,
        after: impl FnOnce() + Send + 'static,
    ) -> Answered<T> {
        let (mut give, given) = oneshot::channel();
        self.runtime.spawn(async move {
            let happened = tokio::select! {
                happened = something => Some(happened),
                () = give.closed() => None,
            };
            after();
            if let Some(happened) = happened {
                let _ = give.send(Ok(happened));
            }
        });
        Box::pin(async move { given.await.ok() })
    }

    fn wait_while_sending(&self, is_done: impl Fn() -> bool) -> usize {
        let store = &self.shared.store;
        let patience = store.timeout() * 2 + store.connect_timeout() + GOODBYE;
        let (mut left, mut since) = (self.unsent(), Instant::now());
        while !is_done() {
            let now_left = self.unsent();
            if now_left < left {
                (left, since) = (now_left, Instant::now());
            }
            if since.elapsed() >= patience {
                return now_left;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        0
    }
}

/// The thread's work, until the broker stops and everything was sent.
async fn run<S: Store>(shared: Arc<Shared<S>>, questions: mpsc::UnboundedReceiver<resume::Question>) {
    tokio::spawn(follower::run(shared.clone()));
    tokio::spawn(resume::run(shared.clone(), questions));
    tokio::spawn(ends::run(shared.clone()));
    let presence = tokio::spawn(presence::run(shared.clone()));
    let leases = tokio::spawn(leases::run(shared.clone()));
    if tokio::spawn(publisher::run(shared.clone())).await.is_err() {
        shared.outbox.abandon();
    }
    let _ = tokio::time::timeout(GOODBYE, async { (presence.await, leases.await) }).await;
    let _ = tokio::time::timeout(GOODBYE, shared.store.close()).await;
}

impl<S: Store> Broker for StreamBroker<S> {
    fn post(&self, letter: Letter, fence: Option<Fence>) -> Result<Arc<Outcome>> {
        self.shared.outbox.post(letter, fence, self.shared.backlog_bytes)
    }

    fn take_lease(&self, name: Arc<str>, token: Arc<str>) -> Answered<bool> {
        // Now, so that a release that follows at once finds it.
        self.shared.want(name.clone(), token.clone(), false);
        let shared = self.shared.clone();
        self.ask(async move { shared.take_lease(&name, &token).await })
    }

    fn await_lease(&self, name: Arc<str>, token: Arc<str>) -> Answered<bool> {
        let changed = self.shared.want(name.clone(), token.clone(), true);
        let shared = self.shared.clone();
        self.ask(async move { shared.await_lease(&name, &token, &changed).await })
    }

    fn find_run(&self, topic: Topic) -> Answered<bool> {
        let shared = self.shared.clone();
        self.ask(async move { shared.find_run(&topic).await })
    }

    fn run_changed(&self, topic: Topic, token: Option<Arc<str>>) -> Answered<Option<EndState>> {
        // Now, so that the caller misses no change.
        let changed = self.shared.lives.watch(&topic);
        let (shared, after) = (self.shared.clone(), self.shared.clone());
        let name = topic.clone();
        let change = async move { shared.until_changed(&name, token.as_deref(), changed).await };
        self.wait_for(change, move || after.lives.tidy(&topic))
    }

    fn watch_end(&self, topic: Topic) -> WatchedEnd {
        let watched = Watched::new(&self.shared.lives, topic);
        Box::new(move || watched.end())
    }

    fn lost(&self, name: Arc<str>, token: Arc<str>) -> Answered<()> {
        let shared = self.shared.clone();
        self.wait_for(async move { shared.until_lost(&name, &token).await }, || {})
    }

    fn holds(&self, name: &str, token: &str) -> bool {
        self.shared.leases.holds(name, token)
    }

    fn release(&self, name: &str, token: &str) {
        if self.shared.release(name, token) {
            let (shared, name, token) = (self.shared.clone(), name.to_owned(), token.to_owned());
            self.runtime.spawn(async move { shared.store.release(&name, &token).await });
        }
    }

    fn resolve(&self, subscriber: SubscriberId, asked: Option<StreamId>) {
        if asked.is_none() {
            self.shared.newcomers.ask();
        }
        let _ = self.questions.send((subscriber, asked));
    }

    fn look_for_ends(&self) {
        self.shared.unknown_ends.notify_one();
    }

    fn presence_changed(&self, change: PresenceChange) {
        self.shared.note_presence(|presence| presence.note(change));
    }

    fn present(&self, topic: Option<String>) -> Present {
        let shared = self.shared.clone();
        self.ask(async move { shared.present(topic).await })
    }

    fn claim(&self, user: Arc<str>, subscriber: SubscriberId, limit: usize) -> Answered<bool> {
        let shared = self.shared.clone();
        self.ask(async move { shared.claim(&user, subscriber, limit).await })
    }

    fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Acquire)
    }

    fn is_behind_itself(&self) -> bool {
        let Some(newest) = self.shared.acknowledged.newest() else { return false };
        self.is_connected() && self.shared.progress.borrow().is_some_and(|at| at < newest)
    }

    fn unsent(&self) -> usize {
        self.shared.outbox.unsent()
    }

    fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        for (name, token) in self.shared.leases.all() {
            self.release(&name, &token);
        }
        self.shared.stopping.send_replace(true);
    }

    fn has_ended(&self) -> bool {
        let mut thread = self.thread.lock();
        match thread.take_if(|thread| thread.is_finished()) {
            // Whether the thread panicked or not, it has ended.
            Some(ended) => drop(ended.join()),
            None if thread.is_some() => return false,
            None => {}
        }
        true
    }

    fn wait_sent(&self) -> usize {
        self.wait_while_sending(|| self.shared.outbox.is_settled())
    }

    fn finish(&self) -> usize {
        self.stop();
        self.wait_while_sending(|| self.has_ended())
    }

    fn report_given_up(&self, letters: usize) {
        let place = self.shared.store.place();
        self.shared.warn(&format!("the process ends before {letters} publications were sent to {place}"));
    }
}

impl<S: Store> ReportFailure for StreamBroker<S> {
    fn report_unseen(&self, failure: &Failure) {
        self.shared.warn(&format!("1 publication failed: {failure}"));
    }
}
