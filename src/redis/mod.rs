//! Redis Streams as a hub's broker: one thread, which never touches Python, with a connection that follows the
//! stream and one for everything else.
//!
//! One stream is one hub. Every process reads all of it, in its order, which so is everybody's; what each entry
//! says of the one before proves that nothing is missing. What cannot be proven becomes a `stream-reset`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::broker::letter::Letter;
use crate::broker::{Broker, PresenceChange};
use crate::error::Result;
use crate::hub::Hub;
use crate::ids::{StreamId, SubscriberId};
use crate::outcome::{Failure, Outcome, ReportFailure};

mod follower;
mod link;
pub mod options;
mod page;
mod presence;
mod publisher;
#[doc(hidden)] // public for its fuzz target
pub mod reply;
mod resume;
mod scripts;

use link::Commands;
use options::{Kept, Keys, Server};
use page::Pages;
use publisher::Outbox;

/// The longest a process waits for a worker's goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long to wait for readers that are behind, at a time.
const BEHIND: Duration = Duration::from_millis(5);
/// How long the stream is not read because of readers that are behind, before they are looked at: longer than a
/// burst takes.
const LAGGING: Duration = Duration::from_millis(250);

/// Hears what an operator should know, and what readers have to do with it. Called on the broker's thread, which
/// must not wait.
pub trait Observer: Send + Sync {
    /// Something went wrong, or is right again.
    fn warn(&self, message: String);

    /// Nothing more is read, because readers are behind. Should they be dead, they are to be removed from the hub.
    fn lagging(&self);
}

/// What the broker's tasks share.
struct Shared {
    server: Server,
    keys: Keys,
    kept: Kept,
    backlog_bytes: usize,
    hub: Weak<Hub>,
    observer: Box<dyn Observer>,
    /// This process among the workers.
    worker: Box<str>,
    commands: Commands,
    outbox: Outbox,
    failed: AtomicU64,
    connected: AtomicBool,
    /// Why the stream could not be followed when that was tried last.
    why: Mutex<String>,
    /// The connection came or went.
    settles_changed: Notify,
    /// It is known from where on this process delivers the stream.
    joined: watch::Sender<bool>,
    /// How large the stream's entries are.
    pages: Pages,
    /// Up to where the stream was delivered.
    progress: watch::Sender<Option<StreamId>>,
    /// The newest entry that this process wrote.
    last_sent: Mutex<StreamId>,
    presence: Mutex<presence::Changes>,
    writing_presence: tokio::sync::Mutex<()>,
    stopping: watch::Sender<bool>,
    /// It was said that Redis refuses to be asked what clients missed.
    refusal_told: AtomicBool,
}

impl Shared {
    fn warn(&self, message: &str) {
        self.observer.warn(message.to_owned());
    }

    /// Wait until the readers have room for more.
    async fn until_delivered(&self) {
        let mut since = Instant::now();
        while self.hub.upgrade().is_some_and(|hub| hub.is_behind()) {
            if since.elapsed() >= LAGGING {
                since = Instant::now();
                self.observer.lagging();
            }
            tokio::time::sleep(BEHIND).await;
        }
    }

    /// A letter that did not get through: streams that were to end still do, those of this process.
    fn fallback(&self, letter: &Letter) {
        let Letter::Kick { whose, reason } = letter else { return };
        if let Some(hub) = self.hub.upgrade() {
            hub.kick(whose, reason);
        }
    }
}

/// A hub's connection to Redis.
pub struct RedisBroker {
    shared: Arc<Shared>,
    settles: mpsc::UnboundedSender<resume::Asked>,
    runtime: Handle,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl RedisBroker {
    /// Start the thread that connects `hub`, which was made with [`Hub::of_stream`], and give the hub its
    /// broker. Does not wait for the connection.
    ///
    /// # Errors
    /// What the system says when it has no thread or descriptor to give.
    pub fn start(
        hub: &Arc<Hub>,
        server: Server,
        keys: Keys,
        kept: Kept,
        observer: Box<dyn Observer>,
    ) -> std::io::Result<Arc<Self>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (settles, asked) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            server,
            keys,
            kept,
            backlog_bytes: hub.config.backlog_bytes,
            hub: Arc::downgrade(hub),
            observer,
            worker: hub.epoch.as_str().into(),
            commands: Commands::default(),
            outbox: Outbox::default(),
            failed: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            why: Mutex::default(),
            settles_changed: Notify::new(),
            joined: watch::Sender::new(false),
            pages: Pages::default(),
            progress: watch::Sender::new(None),
            last_sent: Mutex::default(),
            presence: Mutex::default(),
            writing_presence: tokio::sync::Mutex::default(),
            stopping: watch::Sender::new(false),
            refusal_told: AtomicBool::new(false),
        });
        let handle = runtime.handle().clone();
        let tasks = shared.clone();
        let thread = std::thread::Builder::new().name("sse-hub-redis".into()).spawn(move || {
            runtime.block_on(async move {
                tokio::spawn(follower::run(tasks.clone()));
                tokio::spawn(resume::run(tasks.clone(), asked));
                let presence = tokio::spawn(presence::run(tasks.clone()));
                // It ends when the broker stops and everything was sent.
                if tokio::spawn(publisher::run(tasks.clone())).await.is_err() {
                    tasks.outbox.abandon();
                }
                let _ = tokio::time::timeout(GOODBYE, presence).await;
            });
            // The name of a server is looked up in a thread that may take its time.
            runtime.shutdown_background();
        })?;
        let broker = Arc::new(Self { shared, settles, runtime: handle, thread: Mutex::new(Some(thread)) });
        hub.set_broker(broker.clone());
        Ok(broker)
    }

    /// Whether it is the broker of this hub.
    #[must_use]
    pub fn is_of(&self, hub: &Arc<Hub>) -> bool {
        std::ptr::eq(self.shared.hub.as_ptr(), Arc::as_ptr(hub))
    }

    /// Stop as soon as everything was sent.
    pub fn stop(&self) {
        self.shared.stopping.send_replace(true);
    }

    /// Wait for the thread's end, at most until `deadline`. True when it ended.
    pub fn join(&self, deadline: Instant) -> bool {
        let Some(thread) = self.thread.lock().take() else { return true };
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                *self.thread.lock() = Some(thread);
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        thread.join().is_ok()
    }

    /// Wait until everything was sent, or until nothing more is: how many letters are left.
    ///
    /// However slow Redis is, it has the time it takes. It is given up on when no letter got an outcome for longer
    /// than one may take.
    #[must_use]
    pub fn wait_sent(&self) -> usize {
        self.wait_while_sending(|| self.unsent() == 0)
    }

    /// [`RedisBroker::stop`], and wait as [`RedisBroker::wait_sent`] does.
    #[must_use]
    pub fn finish(&self) -> usize {
        self.stop();
        self.wait_while_sending(|| self.join(Instant::now()))
    }

    fn wait_while_sending(&self, is_done: impl Fn() -> bool) -> usize {
        let patience = self.shared.server.timeout * 2 + self.shared.server.connect_timeout + GOODBYE;
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

    /// Say that so many letters are given up on.
    pub fn tell_given_up(&self, letters: usize) {
        self.shared.warn(&format!(
            "the process ends before {letters} of what was published were sent to {}",
            self.shared.server.shown
        ));
    }

    /// Whether this process has not yet delivered all that it published itself.
    #[must_use]
    pub fn is_behind_itself(&self) -> bool {
        let sent = *self.shared.last_sent.lock();
        self.is_connected() && self.shared.progress.borrow().is_some_and(|at| at < sent)
    }

    /// Ask who is in a topic, at all workers; none: in the hub.
    #[must_use]
    pub fn present(&self, topic: Option<String>) -> oneshot::Receiver<Result<Vec<String>, Failure>> {
        let (answer, answered) = oneshot::channel();
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            let _ = answer.send(shared.present(topic).await);
        });
        answered
    }
}

impl Broker for RedisBroker {
    fn post(&self, letter: Letter) -> Result<Arc<Outcome>> {
        self.shared.outbox.post(letter, self.shared.backlog_bytes)
    }

    fn settle(&self, subscriber: SubscriberId, asked: Option<StreamId>) {
        let _ = self.settles.send((subscriber, asked));
    }

    fn presence_changed(&self, change: PresenceChange) {
        self.shared.note_presence(change);
    }

    fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Acquire)
    }

    fn unsent(&self) -> usize {
        self.shared.outbox.unsent()
    }

    fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }
}

impl ReportFailure for RedisBroker {
    fn report_unseen(&self, failure: &Failure) {
        self.shared.warn(&format!("1 of what was published failed: {failure}"));
    }
}
