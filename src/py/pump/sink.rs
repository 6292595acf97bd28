//! Where a response's body goes: to its connection in chunks (RFC 9112, 7.1), through the socket while that takes
//! everything and the transport for the rest; or to a function that sends it.

use std::cell::Cell;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::step::Awaited;

/// Room for a chunk's head: eight digits and a line end.
const HEAD: usize = 10;
/// A buffer larger than this is not kept for the next write.
const KEPT: usize = 256 * 1024;

thread_local! {
    /// The buffer of the thread's streams: few of them gather at the same time.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

pub struct Sink {
    way: Way,
    /// The head's room and what is gathered; empty where nothing is.
    chunk: Vec<u8>,
}

enum Way {
    Connection(Connection),
    /// A coroutine function that sends bytes.
    Function(Py<PyAny>),
}

struct Connection {
    transport: Py<PyAny>,
    /// uvicorn's flow control of the connection.
    flow: Py<PyAny>,
    /// The transport's socket; `None` where its bytes are not the wire's, as with TLS.
    socket: Option<i32>,
    /// The response's head, where it goes out with the first chunk; empty once it was written.
    head: Vec<u8>,
}

impl Sink {
    pub fn connection(transport: Py<PyAny>, flow: Py<PyAny>, socket: Option<i32>, head: Vec<u8>) -> Self {
        Self { way: Way::Connection(Connection { transport, flow, socket, head }), chunk: Vec::new() }
    }

    pub fn function(send: Py<PyAny>) -> Self {
        Self { way: Way::Function(send), chunk: Vec::new() }
    }

    /// Whether it writes to the connection.
    pub fn is_connection(&self) -> bool {
        matches!(self.way, Way::Connection(_))
    }

    /// Bytes that wait to be written.
    pub fn gathered(&self) -> usize {
        self.chunk.len().saturating_sub(HEAD)
    }

    /// Add what `write` appends; nothing when it fails.
    pub fn gather(&mut self, write: impl FnOnce(&mut Vec<u8>) -> PyResult<()>) -> PyResult<()> {
        if self.chunk.is_empty() {
            self.chunk = SCRATCH.take();
            self.chunk.clear();
            self.chunk.resize(HEAD, 0);
        }
        let before = self.chunk.len();
        let written = write(&mut self.chunk);
        if written.is_err() {
            self.chunk.truncate(before);
        }
        written
    }

    /// Write what is gathered, and a head that was not written. Returns what has to be awaited for that, if it is sent by a function.
    pub fn flush(&mut self, py: Python<'_>) -> PyResult<Option<Awaited>> {
        let mut chunk = std::mem::take(&mut self.chunk);
        let written = match &mut self.way {
            Way::Connection(connection) if !connection.head.is_empty() => {
                connection.write_head(py, &mut chunk).map(|()| None)
            }
            _ if chunk.len() <= HEAD => Ok(None),
            Way::Connection(connection) => connection.write(py, framed(&mut chunk)).map(|()| None),
            Way::Function(send) => send
                .bind(py)
                .call1((PyBytes::new(py, &chunk[HEAD..]),))
                .and_then(|it| Awaited::new(&it))
                .map(Some),
        };
        if (1..=KEPT).contains(&chunk.capacity()) {
            SCRATCH.set(chunk);
        }
        written
    }

    /// Whether the connection holds so much that it has to drain before more is written.
    pub fn is_paused(&self, py: Python<'_>) -> PyResult<bool> {
        match &self.way {
            Way::Connection(connection) => connection.is_paused(py),
            Way::Function(_) => Ok(false),
        }
    }

    /// What to await before more is written, if the connection has to drain.
    pub fn drained(&self, py: Python<'_>) -> PyResult<Option<Awaited>> {
        match &self.way {
            Way::Connection(connection) => connection.drained(py),
            Way::Function(_) => Ok(None),
        }
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.way {
            Way::Connection(connection) => {
                visit.call(&connection.transport)?;
                visit.call(&connection.flow)
            }
            Way::Function(send) => visit.call(send),
        }
    }
}

impl Connection {
    /// Write the response's head, and the first chunk if there is one.
    fn write_head(&mut self, py: Python<'_>, chunk: &mut Vec<u8>) -> PyResult<()> {
        let mut first = std::mem::take(&mut self.head);
        if chunk.len() > HEAD {
            first.extend_from_slice(framed(chunk));
        }
        self.write(py, &first)
    }

    /// Write what the socket takes; the rest goes to the transport, which writes it before anything that comes later.
    /// As in uvicorn, writes to a connection that is closing are dropped.
    fn write(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<()> {
        let transport = self.transport.bind(py);
        if transport.call_method0(intern!(py, "is_closing"))?.is_truthy()? {
            return Ok(());
        }
        let mut rest = bytes;
        if let Some(socket) = self.socket {
            let waiting: usize = transport.call_method0(intern!(py, "get_write_buffer_size"))?.extract()?;
            if waiting == 0 {
                rest = &bytes[send(socket, bytes)..];
            }
        }
        if !rest.is_empty() {
            transport.call_method1(intern!(py, "write"), (PyBytes::new(py, rest),))?;
        }
        Ok(())
    }

    fn is_paused(&self, py: Python<'_>) -> PyResult<bool> {
        self.flow.bind(py).getattr(intern!(py, "write_paused"))?.is_truthy()
    }

    fn drained(&self, py: Python<'_>) -> PyResult<Option<Awaited>> {
        if !self.is_paused(py)? {
            return Ok(None);
        }
        Awaited::new(&self.flow.bind(py).call_method0(intern!(py, "drain"))?).map(Some)
    }
}

/// What stands behind the room for a chunk's head, as one chunk.
fn framed(chunk: &mut Vec<u8>) -> &[u8] {
    let size = format!("{:x}\r\n", chunk.len() - HEAD);
    chunk.extend_from_slice(b"\r\n");
    let from = HEAD - size.len();
    chunk[from..HEAD].copy_from_slice(size.as_bytes());
    &chunk[from..]
}

/// Write to a socket what it takes without waiting. Returns how many bytes that was, and 0 after an error: the
/// transport, which then receives them, finds the same error and ends the connection by its own rules.
#[cfg(unix)]
fn send(socket: i32, bytes: &[u8]) -> usize {
    #[cfg(target_os = "linux")]
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // macOS has no flag for SIGPIPE, which Python ignores.
    #[cfg(not(target_os = "linux"))]
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: the transport is not closing, so the descriptor is its open socket's; the buffer is valid.
    let sent = unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(sent).unwrap_or(0)
}

#[cfg(not(unix))]
fn send(_: i32, _: &[u8]) -> usize {
    0
}
