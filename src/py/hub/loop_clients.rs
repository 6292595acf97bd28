//! What Python holds for each subscriber of an event loop: the future its consumer waits on, and what the
//! application gave with it.

use pyo3::intern;
use pyo3::prelude::*;

use crate::identity::Identity;
use crate::ids::SubscriberId;
use crate::sync::Mutex;

/// By the subscriber's key. Python's objects are dropped without the lock: dropping one may run any code.
#[derive(Default)]
pub struct LoopClients(Mutex<Vec<Client>>);

#[derive(Default)]
struct Client {
    /// Whose this is: keys are used again.
    subscriber: Option<SubscriberId>,
    /// The future its consumer waits on.
    waiter: Option<Py<PyAny>>,
    /// The application's own, of any kind.
    info: Option<Py<PyAny>>,
    /// Called with the reason when somebody else than the consumer ends the stream.
    on_close: Option<Py<PyAny>>,
    /// Says how many bytes of what the consumer wrote its client has not taken yet.
    unsent: Option<Py<PyAny>>,
}

impl LoopClients {
    /// None when the subscriber gave up its key, whoever has it now.
    fn with<T>(&self, identity: &Identity, act: impl FnOnce(&mut Client) -> T) -> Option<T> {
        let mut clients = self.0.lock();
        clients.get_mut(identity.key).filter(|client| client.subscriber == Some(identity.id)).map(act)
    }

    /// Make room for a new subscriber.
    pub fn add(&self, identity: &Identity, info: Option<Py<PyAny>>) {
        let client = Client { subscriber: Some(identity.id), info, ..Client::default() };
        let mut clients = self.0.lock();
        if clients.len() <= identity.key {
            clients.resize_with(identity.key + 1, Client::default);
        }
        let old = std::mem::replace(&mut clients[identity.key], client);
        drop(clients);
        drop(old);
    }

    /// Forget a subscriber.
    pub fn remove(&self, identity: &Identity) {
        let old = self.with(identity, std::mem::take);
        drop(old);
    }

    /// Forget all.
    pub fn clear(&self) {
        let old = std::mem::take(&mut *self.0.lock());
        drop(old);
    }

    pub fn info(&self, py: Python<'_>, identity: &Identity) -> Option<Py<PyAny>> {
        self.with(identity, |client| client.info.as_ref().map(|info| info.clone_ref(py))).flatten()
    }

    pub fn set_on_close(&self, identity: &Identity, callback: Option<Py<PyAny>>) {
        let old = self.with(identity, |client| std::mem::replace(&mut client.on_close, callback));
        drop(old);
    }

    /// The callback, which is called at most once. Of an ended stream nothing else is asked.
    pub fn take_on_close(&self, identity: &Identity) -> Option<Py<PyAny>> {
        let taken = self.with(identity, |client| (client.on_close.take(), client.unsent.take()));
        // The connection it refers to may be over long before the subscription is dropped.
        let (on_close, _unsent) = taken?;
        on_close
    }

    pub fn set_unsent(&self, identity: &Identity, callback: Py<PyAny>) {
        let old = self.with(identity, |client| client.unsent.replace(callback));
        drop(old);
    }

    /// How many bytes a subscriber's client has not taken yet; None when that is not known.
    pub fn unsent(&self, py: Python<'_>, identity: &Identity) -> Option<usize> {
        let unsent = self.with(identity, |client| client.unsent.as_ref().map(|call| call.clone_ref(py)));
        let unsent = unsent.flatten()?;
        let answer = unsent.call0(py).and_then(|answer| answer.extract(py));
        answer.unwrap_or_else(|error| {
            error.write_unraisable(py, Some(unsent.bind(py)));
            None
        })
    }

    pub fn set_waiter(&self, identity: &Identity, waiter: Py<PyAny>) {
        let old = self.with(identity, |client| client.waiter.replace(waiter));
        drop(old);
    }

    /// Whether a consumer waits.
    pub fn has_waiter(&self, py: Python<'_>, identity: &Identity) -> PyResult<bool> {
        let waiter = self.with(identity, |client| client.waiter.as_ref().map(|waiter| waiter.clone_ref(py)));
        match waiter.flatten() {
            None => Ok(false),
            Some(waiter) => Ok(!waiter.call_method0(py, intern!(py, "done"))?.is_truthy(py)?),
        }
    }

    /// The futures of those of these subscribers that wait.
    pub fn take_waiters(&self, keys: &[usize]) -> Vec<Py<PyAny>> {
        let mut waiters = Vec::with_capacity(keys.len());
        let mut clients = self.0.lock();
        waiters.extend(keys.iter().filter_map(|&key| clients.get_mut(key)?.waiter.take()));
        waiters
    }
}
