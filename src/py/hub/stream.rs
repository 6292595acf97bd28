//! One subscriber's stream, shared by `Subscription` and its iterators: its deliverer, taking entries,
//! waiting, closing, and the transfer to a reactor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::closing::loop_closed;
use super::generations::Generations;
use super::loop_clients::Wait;
use super::loop_reader::LoopReader;
use super::reactors::{HandedClient, Reactors};
use super::reading::Reading;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{CloseReason, Identity};
use crate::ids::GroupId;
use crate::py::process::descriptors;
use crate::py::process::fork::Process;
use crate::py::values::end_reason::end_reason;
use crate::reader::Reader;
use crate::subscriber::Taken;
use crate::topic::Topic;

/// The result of a consumer's visit.
pub enum Poll {
    Ready(Py<PyBytes>),
    Pending,
    Ended,
    /// The client missed events, and the gap cannot be announced.
    Broken,
}

/// The deliverer of a subscriber.
pub enum Place {
    Loop(Py<LoopReader>),
    Reactor(Arc<Reactors>),
}

/// A subscriber's stream.
pub struct Stream {
    pub generations: Arc<Generations>,
    pub hub: Arc<Hub>,
    pub reader: Arc<Reader>,
    pub place: Place,
    /// As it was subscribed; see [`Stream::identity`].
    pub first: Arc<Identity>,
    pub reading: Reading,
    /// Whether its connection is to hold few bytes once it carries values of keys. Relaxed: set and read on the
    /// stream's loop.
    awaits_values: AtomicBool,
    process: Process,
}

impl Stream {
    pub fn new(
        generations: Arc<Generations>,
        hub: Arc<Hub>,
        reader: Arc<Reader>,
        place: Place,
        identity: Arc<Identity>,
    ) -> Self {
        let (reading, process) = (Reading::default(), Process::current());
        let awaits_values = AtomicBool::new(false);
        Self { generations, hub, reader, place, first: identity, reading, awaits_values, process }
    }

    /// Whether it was made in this process: if not, none of its locks may be taken.
    pub fn is_ours(&self) -> bool {
        self.process.is_current()
    }

    /// Whether the stream has not ended, in this process.
    pub fn is_open(&self) -> bool {
        self.is_ours() && self.identity().closed.get().is_none()
    }

    /// The subscriber's identity: another one once its stream was handed off and goes on at a reactor.
    pub fn identity(&self) -> &Arc<Identity> {
        self.first.current()
    }

    /// Whether it was iterated on a loop first, and then handed off.
    pub fn was_handed_off(&self) -> bool {
        self.first.successor.get().is_some()
    }

    /// Why the stream ended, if it has. A stream whose loop was closed has ended, too: it can no longer be read.
    pub fn closed(&self, py: Python<'_>) -> Option<&CloseReason> {
        let closed = &self.identity().closed;
        if closed.get().is_none()
            && let Some(reader) = self.loop_reader().filter(|_| self.is_ours())
            && !reader.get().is_alive(py)
        {
            self.generations.forget_closed_loops(py);
            // A hub that closed may have removed it before.
            let _ = closed.set(loop_closed());
        }
        closed.get()
    }

    /// The loop's reader, if the stream can be iterated.
    pub fn loop_reader(&self) -> Option<&Py<LoopReader>> {
        match &self.place {
            Place::Loop(reader) if !self.was_handed_off() => Some(reader),
            Place::Loop(_) | Place::Reactor(_) => None,
        }
    }

    /// The reactors, if they deliver to the stream; `None` once they have ended.
    fn reactors(&self) -> Option<Arc<Reactors>> {
        match &self.place {
            Place::Reactor(reactors) => Some(reactors.clone()),
            Place::Loop(_) if self.was_handed_off() => self.generations.reactors_of(&self.hub),
            Place::Loop(_) => None,
        }
    }

    /// Take the entries that wait.
    pub fn poll(&self, py: Python<'_>) -> Poll {
        self.reading.go_on();
        let Some(reader) = self.loop_reader().filter(|_| self.is_ours()) else { return Poll::Ended };
        let mut out = Vec::new();
        match self.hub.take(&self.reader, &self.first, &mut out) {
            Taken::Some | Taken::Last => {
                if self.awaits_values.load(Ordering::Relaxed) && out.iter().any(|entry| entry.key().is_some())
                {
                    self.keep_fresh(py, reader.get());
                }
                Poll::Ready(reader.get().chunks.join(py, out))
            }
            Taken::Nothing => Poll::Pending,
            Taken::End => match self.first.closed.get() {
                Some(CloseReason::Gap) => Poll::Broken,
                _ => Poll::Ended,
            },
            Taken::Finished => {
                let _ = self.end(py, &CloseReason::Ended);
                // A compressed body has yet to be given its end.
                match self.hub.take(&self.reader, &self.first, &mut out) {
                    Taken::Some | Taken::Last => Poll::Ready(reader.get().chunks.join(py, out)),
                    _ => Poll::Ended,
                }
            }
            Taken::Gap => {
                // An error in a callback of the application is not the consumer's.
                let _ = self.end(py, &CloseReason::Gap);
                Poll::Broken
            }
        }
    }

    /// Call `limit`, which has the connection hold few bytes, once the stream carries what may be dropped or replaced as
    /// long as the hub has it.
    pub fn keep_fresh_by(&self, py: Python<'_>, limit: Py<PyAny>) -> PyResult<()> {
        let Some(reader) = self.loop_reader().filter(|_| self.is_ours()) else { return Ok(()) };
        if self.reader.may_drop(&self.first) {
            return limit.call0(py).map(drop);
        }
        reader.get().clients.set_limit(&self.first, limit);
        self.awaits_values.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The first value of a key is about to be written.
    fn keep_fresh(&self, py: Python<'_>, reader: &LoopReader) {
        self.awaits_values.store(false, Ordering::Relaxed);
        if let Some(limit) = reader.clients.take_limit(&self.first)
            && let Err(error) = limit.call0(py)
        {
            error.write_unraisable(py, Some(limit.bind(py)));
        }
    }

    /// Whether a task reads the stream, or waits for its turn.
    pub fn is_read(&self, py: Python<'_>) -> PyResult<bool> {
        match self.loop_reader().filter(|_| self.is_ours()) {
            Some(reader) => reader.get().clients.is_read(py, &self.first),
            None => Ok(false),
        }
    }

    /// Refuse a task that reads while another one does. Returns the number of the last wait.
    pub fn check_turn(&self, py: Python<'_>) -> PyResult<Wait> {
        let last = match self.loop_reader().filter(|_| self.is_ours()) {
            Some(reader) => reader.get().clients.last_wait(py, &self.first)?,
            None => Some(0),
        };
        last.ok_or_else(iterated_already)
    }

    /// A future that is done when entries wait. Only the caller, who has seen the wait of number `last`, may read the
    /// stream until [`Stream::end_wait`].
    pub fn wait(&self, py: Python<'_>, last: Wait) -> PyResult<(Py<PyAny>, Wait)> {
        match self.loop_reader() {
            Some(reader) => reader.get().wait(py, &self.first, last)?.ok_or_else(iterated_already),
            None => Err(PyRuntimeError::new_err("a handed-off stream cannot be iterated")),
        }
    }

    /// The task that waited has its turn. Refuses another one that comes with the same wait before.
    pub fn take_turn(&self, py: Python<'_>, wait: Wait) -> PyResult<()> {
        match &self.place {
            Place::Loop(reader)
                if self.is_ours() && !reader.get().clients.take_turn(py, &self.first, wait)? =>
            {
                Err(iterated_already())
            }
            _ => Ok(()),
        }
    }

    /// The task that waited gave its turn up.
    pub fn end_wait(&self, wait: Wait) {
        if let (Place::Loop(reader), true) = (&self.place, self.is_ours()) {
            reader.get().clients.end_wait(&self.first, wait);
        }
    }

    /// Join topics. False when the client is gone, or it belongs to another process.
    pub fn join(&self, py: Python<'_>, topics: &[Topic]) -> Result<bool> {
        if !self.is_ours() {
            return Ok(false);
        }
        match self.hub.join(self.first.id, topics) {
            Err(Error::ReaderBehind { .. }) => {
                // The reader that is behind may belong to a closed loop.
                self.generations.forget_closed_loops(py);
                self.hub.join(self.first.id, topics)
            }
            joined => joined,
        }
    }

    /// Close the stream. Does nothing when it has ended, or belongs to another process.
    pub fn end(&self, py: Python<'_>, reason: &CloseReason) -> PyResult<()> {
        if !self.is_ours() {
            return Ok(());
        }
        if let Some(reader) = self.loop_reader()
            && let Some((reason, wake)) = self.hub.close(&self.reader, &self.first, reason.clone())
        {
            if wake {
                reader.get().resume_soon(self.first.key);
            }
            return LoopReader::announce(reader.bind(py), &self.first, &reason);
        }
        // The stream is at a reactor, perhaps since this moment, or was closed before.
        let (Some(reactors), identity) = (self.reactors(), self.identity()) else { return Ok(()) };
        if let Some(reactor) = reactors.find(identity.reader)
            && let Some((reason, _)) = self.hub.close(&reactor.reader, identity, reason.clone())
        {
            // A reactor whose write is unfinished must check, too: the client may never take the rest.
            reactor.resume(identity.key);
            reactors.report(identity, &reason);
        }
        Ok(())
    }

    /// Wake the deliverer for this subscriber.
    pub fn resume(&self) {
        match &self.place {
            Place::Loop(reader) => reader.get().resume_soon(self.first.key),
            Place::Reactor(reactors) => {
                if let Some(reactor) = reactors.find(self.first.reader) {
                    reactor.resume(self.first.key);
                }
            }
        }
    }

    /// Whether the stream can be transferred to a reactor now. Starts everything that this needs.
    pub fn can_hand_off(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(reader) = self.loop_reader().filter(|_| self.is_ours()) else { return Ok(false) };
        let is_new = !self.reader.was_taken(&self.first);
        if !is_new || self.identity().closed.get().is_some() || !self.generations.is_current(&self.hub) {
            return Ok(false);
        }
        let here = py.import(intern!(py, "asyncio"))?.call_method0(intern!(py, "get_running_loop"))?;
        if !reader.get().event_loop(py).is_some_and(|event_loop| event_loop.is(&here)) {
            return Ok(false);
        }
        self.generations.start_reactors(py, &self.hub)?;
        Ok(true)
    }

    /// Transfer the subscriber to a reactor, with the client's socket. False, and the socket stays the
    /// caller's, when the stream has ended or cannot be iterated.
    pub fn hand_off(&self, py: Python<'_>, fd: i32, group: GroupId, client: HandedClient) -> PyResult<bool> {
        let Some(reader) = self.loop_reader().filter(|_| self.is_ours()).map(Py::get) else {
            return Ok(false);
        };
        let reactors = self.generations.start_reactors(py, &self.hub)?;
        let reactor = reactors.pick();
        // The socket wakes its thread, once for both.
        let held = reactor.reader.bell.hold();
        // Before the transfer: from then on its end may be reported at any moment.
        reactors.remember(&self.first, reader.reports.clone(), client);
        let Some(identity) = self.hub.transfer(&self.reader, &reactor.reader, &self.first, group) else {
            drop(reactors.forget(self.first.id));
            return Ok(false);
        };
        reader.clients.remove(&self.first);
        if let Some(reason) = self.first.closed.get() {
            // `on_disconnect` was called when that happened; `on_end` was not known then.
            let ended = reactors.forget(identity.id);
            if let (Some(on_end), Some(event_loop)) = (ended.on_end, reader.event_loop(py)) {
                event_loop.call_method1(intern!(py, "call_soon"), (on_end, end_reason(py, reason)?))?;
            }
        }
        reactor.adopt(descriptors::socket(fd), identity);
        held.forget();
        Ok(true)
    }
}

fn iterated_already() -> PyErr {
    PyRuntimeError::new_err("this subscription is iterated by another task already")
}
