//! The Python objects of each subscriber of an event loop: the task that reads the stream, and the objects that the
//! application gave with it.
//!
//! One task at a time reads a stream. From the moment it waits to its next turn on the loop the stream is its
//! own, and every other task is refused, also between its wake-up and its turn: otherwise another task could take the
//! event, and the first one would wait forever.
//!
//! ```text
//! Free -- wait --> Waiting -- wake --> Woken -- its turn, or it is dropped --> Free
//!                     '------ it is dropped (cancelled) -----------------------^
//! ```

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::identity::Identity;
use crate::ids::SubscriberId;
use crate::sync::Mutex;

/// By the subscriber's key. Python's objects are dropped without the lock: dropping one may run any code.
#[derive(Default)]
pub struct LoopClients(Mutex<Vec<Client>>);

#[derive(Default)]
struct Client {
    /// The subscriber, because keys are reused.
    subscriber: Option<SubscriberId>,
    turn: Turn,
    /// Counts waits.
    waits: Wait,
    info: Info,
    /// Called with the reason when the stream is closed by anything but its consumer.
    on_close: Option<Py<PyAny>>,
    /// Returns how many bytes that the consumer wrote are unsent, and how many its client has acknowledged.
    progress: Option<Py<PyAny>>,
    /// Has the connection hold few bytes that its peer has not taken.
    limit: Option<Py<PyAny>>,
}

/// The place of the object that the application passed with a subscriber.
#[derive(Default)]
enum Info {
    #[default]
    None,
    /// At its Subscription, which is weakly referenced: the loop would keep an object that refers to its own
    /// Subscription, and the Subscription with it, forever.
    Owner(Py<PyWeakrefReference>),
    /// Here: the Subscription is being dropped.
    Here(Py<PyAny>),
}

/// One task's wait, by its number: a later one has another.
pub type Wait = u64;

/// The task that may read the stream.
#[derive(Default)]
enum Turn {
    #[default]
    Free,
    /// A task waits on this future.
    Waiting(Py<PyAny>),
    /// Its future is done, or about to be, and the task has not run since.
    Woken(Py<PyAny>),
}

impl Turn {
    fn future(&self) -> Option<&Py<PyAny>> {
        match self {
            Self::Free => None,
            Self::Waiting(future) | Self::Woken(future) => Some(future),
        }
    }
}

impl LoopClients {
    /// `None` when the key no longer belongs to the subscriber.
    fn with<T>(&self, identity: &Identity, act: impl FnOnce(&mut Client) -> T) -> Option<T> {
        let mut clients = self.0.lock();
        clients.get_mut(identity.key).filter(|client| client.subscriber == Some(identity.id)).map(act)
    }

    /// Add a subscriber.
    pub fn add(&self, identity: &Identity) {
        let client = Client { subscriber: Some(identity.id), ..Client::default() };
        let mut clients = self.0.lock();
        if clients.len() <= identity.key {
            clients.resize_with(identity.key + 1, Client::default);
        }
        let old = std::mem::replace(&mut clients[identity.key], client);
        drop(clients);
        drop(old);
    }

    /// Remove a subscriber.
    pub fn remove(&self, identity: &Identity) {
        let old = self.with(identity, std::mem::take);
        drop(old);
    }

    /// Remove all subscribers.
    pub fn clear(&self) {
        let old = std::mem::take(&mut *self.0.lock());
        drop(old);
    }

    /// Take a subscriber's info from `owner`, its Subscription.
    pub fn set_owner(&self, identity: &Identity, owner: &Bound<'_, PyAny>) -> PyResult<()> {
        let owner = Info::Owner(PyWeakrefReference::new(owner)?.unbind());
        let old = self.with(identity, |client| std::mem::replace(&mut client.info, owner));
        drop(old);
        Ok(())
    }

    /// Set a subscriber's info.
    pub fn set_info(&self, identity: &Identity, info: Py<PyAny>) {
        let old = self.with(identity, |client| std::mem::replace(&mut client.info, Info::Here(info)));
        drop(old);
    }

    pub fn info(&self, py: Python<'_>, identity: &Identity) -> Option<Py<PyAny>> {
        let find = |client: &mut Client| match &client.info {
            Info::None => None,
            Info::Owner(owner) => Some(Info::Owner(owner.clone_ref(py))),
            Info::Here(info) => Some(Info::Here(info.clone_ref(py))),
        };
        match self.with(identity, find).flatten()? {
            Info::None => None,
            Info::Owner(owner) => Some(owner.bind(py).upgrade()?.getattr(intern!(py, "info")).ok()?.unbind()),
            Info::Here(info) => Some(info),
        }
    }

    pub fn set_on_close(&self, identity: &Identity, callback: Option<Py<PyAny>>) {
        let old = self.with(identity, |client| std::mem::replace(&mut client.on_close, callback));
        drop(old);
    }

    /// Take the callback, which is called at most once. After that, `progress` is not called either.
    pub fn take_on_close(&self, identity: &Identity) -> Option<Py<PyAny>> {
        let take =
            |client: &mut Client| (client.on_close.take(), client.progress.take(), client.limit.take());
        let taken = self.with(identity, take);
        // The connection they refer to may be over long before the subscription is dropped.
        let (on_close, _progress, _limit) = taken?;
        on_close
    }

    pub fn set_progress(&self, identity: &Identity, callback: Py<PyAny>) {
        let old = self.with(identity, |client| client.progress.replace(callback));
        drop(old);
    }

    /// `callback` is called before the first value of a key is written.
    pub fn set_limit(&self, identity: &Identity, callback: Py<PyAny>) {
        let old = self.with(identity, |client| client.limit.replace(callback));
        drop(old);
    }

    /// Take that callback, which is called at most once.
    pub fn take_limit(&self, identity: &Identity) -> Option<Py<PyAny>> {
        self.with(identity, |client| client.limit.take()).flatten()
    }

    /// How many bytes of a subscriber are unsent, and how many its client has acknowledged; `None` when that is not known.
    pub fn progress(&self, py: Python<'_>, identity: &Identity) -> Option<(usize, Option<u64>)> {
        let progress = self.with(identity, |client| client.progress.as_ref().map(|call| call.clone_ref(py)));
        let progress = progress.flatten()?;
        let answer = progress.call0(py).and_then(|answer| answer.extract(py));
        answer.unwrap_or_else(|error| {
            error.write_unraisable(py, Some(progress.bind(py)));
            None
        })
    }

    /// The number of the last wait, for a task that is about to read the stream. `None` while another one does.
    pub fn last_wait(&self, py: Python<'_>, identity: &Identity) -> PyResult<Option<Wait>> {
        let look =
            |client: &mut Client| (client.waits, client.turn.future().map(|future| future.clone_ref(py)));
        match self.with(identity, look).unwrap_or_default() {
            (last, None) => Ok(Some(last)),
            // A task whose future was cancelled gave its turn up.
            (last, Some(future)) => {
                let cancelled = future.call_method0(py, intern!(py, "cancelled"))?.is_truthy(py)?;
                Ok(cancelled.then_some(last))
            }
        }
    }

    /// The task that reads the stream waits on `future`. `None`, and it does not, if another one, perhaps of another
    /// thread, has waited since the wait of number `last`.
    pub fn wait(&self, identity: &Identity, last: Wait, future: Py<PyAny>) -> Option<Wait> {
        let begin = |client: &mut Client| {
            if client.waits != last {
                return (None, Turn::Waiting(future));
            }
            client.waits += 1;
            (Some(client.waits), std::mem::replace(&mut client.turn, Turn::Waiting(future)))
        };
        // A subscriber that is gone is woken by nobody, but its task has taken the end by then.
        let (wait, old) = self.with(identity, begin).unwrap_or_else(|| (Some(last), Turn::Free));
        drop(old);
        wait
    }

    /// The task that waited has its turn. False while its future is not done: then another task has come with the
    /// same `__anext__()` object.
    pub fn take_turn(&self, py: Python<'_>, identity: &Identity, wait: Wait) -> PyResult<bool> {
        let take = |client: &mut Client| match &client.turn {
            Turn::Waiting(future) if client.waits == wait => Err(future.clone_ref(py)),
            _ => Ok((client.waits == wait).then(|| std::mem::take(&mut client.turn))),
        };
        if let Some(Err(future)) = self.with(identity, take) {
            if !future.call_method0(py, intern!(py, "done"))?.is_truthy(py)? {
                return Ok(false);
            }
            self.end_wait(identity, wait);
        }
        Ok(true)
    }

    /// The task has had its turn, or gave it up.
    pub fn end_wait(&self, identity: &Identity, wait: Wait) {
        let end = |client: &mut Client| (client.waits == wait).then(|| std::mem::take(&mut client.turn));
        let old = self.with(identity, end);
        drop(old);
    }

    /// Whether a task reads the stream.
    pub fn is_read(&self, py: Python<'_>, identity: &Identity) -> PyResult<bool> {
        self.last_wait(py, identity).map(|last| last.is_none())
    }

    /// The futures of those of these subscribers that wait, to be woken.
    pub fn wake(&self, py: Python<'_>, keys: &[usize]) -> Vec<Py<PyAny>> {
        let mut futures = Vec::with_capacity(keys.len());
        let mut clients = self.0.lock();
        for &key in keys {
            let Some(client) = clients.get_mut(key) else { continue };
            client.turn = match std::mem::take(&mut client.turn) {
                Turn::Waiting(future) => {
                    futures.push(future.clone_ref(py));
                    Turn::Woken(future)
                }
                turn => turn,
            };
        }
        futures
    }

    /// For Python's garbage collector, which calls while no thread runs that could hold the lock.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(clients) = self.0.try_lock() else { return Ok(()) };
        for client in &*clients {
            if let Info::Here(info) = &client.info {
                visit.call(info)?;
            }
            visit.call(client.turn.future())?;
            visit.call(&client.on_close)?;
        }
        Ok(())
    }
}
