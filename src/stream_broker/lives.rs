//! Waiting for changes of runs, so that nothing has to look for them again and again.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, watch};

use crate::ending::EndState;
use crate::topic::Topic;

/// How a run has ended, if that is its change.
pub type Change = Option<EndState>;

/// The runs that somebody waits for.
#[derive(Default)]
pub struct Lives {
    waiting: Mutex<FxHashMap<Topic, watch::Sender<Change>>>,
    /// Notified when there may be a run or a lease.
    pub news: Notify,
}

impl Lives {
    /// The next change of a run from now on.
    pub fn watch(&self, topic: &Topic) -> watch::Receiver<Change> {
        let mut waiting = self.waiting.lock();
        if let Some(sender) = waiting.get(topic) {
            return sender.subscribe();
        }
        let (sender, changed) = watch::channel(None);
        waiting.insert(topic.clone(), sender);
        changed
    }

    /// The hub shows a change of a run. Each waiter looks, and waits anew. The end is the last change of a run: the next
    /// one of this name is another.
    pub fn changed(&self, topic: &Topic, change: Change) {
        let mut waiting = self.waiting.lock();
        if change.is_some() {
            if let Some(sender) = waiting.remove(topic) {
                sender.send_replace(change);
            }
        } else if let Some(sender) = waiting.get(topic) {
            sender.send_replace(None);
        }
        drop(waiting);
        self.news.notify_one();
    }

    /// The hub shows the runs that the log keeps.
    pub fn all_changed(&self) {
        self.waiting.lock().values().for_each(|sender| sender.send_modify(|_| {}));
        self.news.notify_one();
    }

    /// A waiter has its answer, or has given up, and has dropped its receiver.
    pub fn tidy(&self, topic: &Topic) {
        let mut waiting = self.waiting.lock();
        if waiting.get(topic).is_some_and(watch::Sender::is_closed) {
            waiting.remove(topic);
        }
    }
}

/// A run that somebody will ask about. Its end is known from this on, also when its name is free again.
pub struct Watched {
    lives: Arc<Lives>,
    topic: Topic,
    changed: Option<watch::Receiver<Change>>,
}

impl Watched {
    pub fn new(lives: &Arc<Lives>, topic: Topic) -> Self {
        let changed = Some(lives.watch(&topic));
        Self { lives: lives.clone(), topic, changed }
    }

    /// How it has ended.
    pub fn end(&self) -> Change {
        self.changed.as_ref().and_then(|changed| *changed.borrow())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.changed = None;
        self.lives.tidy(&self.topic);
    }
}
