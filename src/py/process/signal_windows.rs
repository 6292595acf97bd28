//! Waking an event loop from any thread on Windows, whose default loop (the proactor) cannot watch descriptors:
//! through a call that the loop makes on its next turn.

use std::io;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::exit;
use crate::sync::Mutex;

/// Wakes a loop.
#[derive(Debug)]
pub struct Signal {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `None` while it is not watched.
    watched: Option<Watched>,
    /// Whether it was set while it was not watched.
    is_set: bool,
}

/// Weak, as the reader that is drained owns its signal.
#[derive(Debug)]
struct Watched {
    event_loop: Py<PyWeakrefReference>,
    reader: Py<PyWeakrefReference>,
}

impl Signal {
    /// A signal that is not watched.
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it needs a descriptor")]
    pub fn new() -> io::Result<Self> {
        Ok(Self { state: Mutex::default() })
    }

    /// Make `event_loop` call the reader's `_drain` whenever it is set.
    pub fn watch(&self, event_loop: &Bound<'_, PyAny>, reader: &Bound<'_, PyAny>, _: bool) -> PyResult<()> {
        let watched = Watched {
            event_loop: PyWeakrefReference::new(event_loop)?.unbind(),
            reader: PyWeakrefReference::new(reader)?.unbind(),
        };
        let (old, is_set) = {
            let mut state = self.state.lock();
            (state.watched.replace(watched), std::mem::take(&mut state.is_set))
        };
        drop(old);
        if is_set {
            self.set();
        }
        Ok(())
    }

    /// Stop watching.
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere a loop is called")]
    pub fn unwatch(&self, _: &Bound<'_, PyAny>) -> PyResult<()> {
        let old = self.state.lock().watched.take();
        drop(old);
        Ok(())
    }

    /// The call was made.
    #[allow(clippy::unused_self, reason = "elsewhere it is read")]
    pub fn clear(&self) {}

    /// Schedule the call for the loop's next turn. May wait for the GIL, which is why a caller must hold no lock.
    pub fn set(&self) {
        if exit::is_ending() {
            return;
        }
        Python::try_attach(|py| {
            let watched = {
                let mut state = self.state.lock();
                state.is_set |= state.watched.is_none();
                state.watched.as_ref().map(|it| (it.event_loop.clone_ref(py), it.reader.clone_ref(py)))
            };
            let Some((event_loop, reader)) = watched else { return };
            let (Some(event_loop), Some(reader)) = (event_loop.bind(py).upgrade(), reader.bind(py).upgrade())
            else {
                return;
            };
            // A closed loop needs no wake-up.
            let _ = reader
                .getattr(intern!(py, "_drain"))
                .and_then(|drain| event_loop.call_method1(intern!(py, "call_soon_threadsafe"), (drain,)));
        });
    }
}
