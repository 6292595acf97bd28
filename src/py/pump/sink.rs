//! The connection of a response whose body goes out in chunks (RFC 9112, 7.1): its socket while that takes
//! everything, its transport for the rest.

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
    /// The buffer of the thread's streams: only one of them gathers at a time, and none while it waits.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

pub struct Sink {
    transport: Py<PyAny>,
    /// uvicorn's flow control of the connection.
    flow: Py<PyAny>,
    /// The transport's socket; `None` where its bytes are not the wire's, as with TLS.
    socket: Option<i32>,
    /// The head's room and what is gathered; empty where nothing is.
    chunk: Vec<u8>,
}

impl Sink {
    pub fn new(transport: Py<PyAny>, flow: Py<PyAny>, socket: Option<i32>) -> Self {
        Self { transport, flow, socket, chunk: Vec::new() }
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

    /// Write what is gathered, as one chunk. What the socket does not take goes to the transport, which writes it
    /// before anything that comes later. As in uvicorn, writes to a connection that is closing are dropped.
    pub fn flush(&mut self, py: Python<'_>) -> PyResult<()> {
        let size = self.gathered();
        let mut chunk = std::mem::take(&mut self.chunk);
        if size > 0 {
            chunk.extend_from_slice(b"\r\n");
            let head = format!("{size:x}\r\n");
            let from = HEAD - head.len();
            chunk[from..HEAD].copy_from_slice(head.as_bytes());
            self.write(py, &chunk[from..])?;
        }
        if chunk.capacity() <= KEPT {
            SCRATCH.set(chunk);
        }
        Ok(())
    }

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

    /// Whether the connection has to drain before more is written.
    pub fn is_paused(&self, py: Python<'_>) -> PyResult<bool> {
        self.flow.bind(py).getattr(intern!(py, "write_paused"))?.is_truthy()
    }

    /// An awaitable that is done once it has drained.
    pub fn drained(&self, py: Python<'_>) -> PyResult<Awaited> {
        Awaited::new(&self.flow.bind(py).call_method0(intern!(py, "drain"))?)
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.transport)?;
        visit.call(&self.flow)
    }
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
