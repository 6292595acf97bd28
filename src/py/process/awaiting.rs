//! A small runtime on which pyo3-async-runtimes completes the futures of a broker's answers for Python.
//! It has no part in delivery. A forked child starts its own, and the interpreter's end waits for it.

use std::cell::OnceCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3_async_runtimes::TaskLocals;
use pyo3_async_runtimes::generic::{self, ContextExt, JoinError};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{self, JoinHandle};

use super::exit;
use super::fork::PerProcess;

/// The longest time that the interpreter's end waits for calls of Python, and for futures that are being completed.
const PATIENCE: Duration = Duration::from_secs(1);

static RUNTIME: PerProcess<Option<Runtime>> = PerProcess::new();

tokio::task_local! {
    static LOCALS: OnceCell<TaskLocals>;
}

/// The current runtime, started on first use.
fn handle() -> Handle {
    RUNTIME.with(|runtime| runtime.lock().get_or_insert_with(start).handle().clone())
}

fn start() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .thread_name("sse-hub-await")
        .build()
        .expect("the system gives two threads")
}

/// The interpreter ends.
pub fn end(py: Python<'_>) {
    py.detach(|| {
        let runtime = RUNTIME.with(|runtime| runtime.try_lock_for(PATIENCE)?.take());
        if let Some(runtime) = runtime {
            // The runtime would drop calls that wait for their turn: what a broker reports last.
            let (done, all_done) = mpsc::channel::<()>();
            runtime.spawn_blocking(move || drop(done));
            let _ = all_done.recv_timeout(PATIENCE);
            runtime.shutdown_timeout(PATIENCE);
        }
    });
}

/// `pyo3_async_runtimes`' name for the runtime.
struct Awaiting;

/// Why a task has no result.
struct Failed(task::JoinError);

impl JoinError for Failed {
    fn is_panic(&self) -> bool {
        self.0.is_panic()
    }

    fn into_panic(self) -> Box<dyn std::any::Any + Send + 'static> {
        self.0.into_panic()
    }
}

/// A task's end, as the crate wants it.
struct Joined(JoinHandle<()>);

impl Future for Joined {
    type Output = Result<(), Failed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(Failed)
    }
}

impl generic::Runtime for Awaiting {
    type JoinError = Failed;
    type JoinHandle = Joined;

    fn spawn<F>(future: F) -> Joined
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Joined(handle().spawn(future))
    }

    fn spawn_blocking<F>(act: F) -> Joined
    where
        F: FnOnce() + Send + 'static,
    {
        Joined(handle().spawn_blocking(act))
    }
}

impl ContextExt for Awaiting {
    fn scope<F, R>(locals: TaskLocals, future: F) -> Pin<Box<dyn Future<Output = R> + Send>>
    where
        F: Future<Output = R> + Send + 'static,
    {
        let cell = OnceCell::new();
        let _ = cell.set(locals);
        Box::pin(LOCALS.scope(cell, future))
    }

    fn get_task_locals() -> Option<TaskLocals> {
        LOCALS.try_with(|cell| cell.get().cloned()).unwrap_or_default()
    }
}

/// An asyncio future, on the loop that runs here, for the result of `future`.
pub fn into_python<'py, F, T>(py: Python<'py>, future: F) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + Send + 'static,
    T: for<'any> IntoPyObject<'any> + Send + 'static,
{
    let _inside = exit::enter(py);
    let event_loop = EventLoop(pyo3_async_runtimes::get_running_loop(py)?.unbind());
    let locals = TaskLocals::new(Bound::new(py, event_loop)?.into_any()).copy_context(py)?;
    generic::future_into_py_with_locals::<Awaiting, _, _>(py, locals, future)
}

/// An event loop as the crate calls it. A closed loop raises no error, because the crate would print its traceback.
#[pyclass(frozen, module = "sse_hub._core")]
struct EventLoop(Py<PyAny>);

#[pymethods]
impl EventLoop {
    fn create_future(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.0.call_method0(py, intern!(py, "create_future"))
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn call_soon_threadsafe(
        &self,
        py: Python<'_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        match self.0.call_method(py, intern!(py, "call_soon_threadsafe"), args, kwargs) {
            Err(error) if error.is_instance_of::<PyRuntimeError>(py) && self.is_closed(py)? => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    fn is_closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.0.call_method0(py, intern!(py, "is_closed"))?.is_truthy(py)
    }
}

/// Call Python soon, from a thread that must not wait for the GIL.
pub fn soon(act: impl FnOnce(Python<'_>) -> PyResult<()> + Send + 'static) {
    if exit::is_ending() {
        return;
    }
    handle().spawn_blocking(move || {
        let _ = Python::try_attach(|py| {
            let _inside = exit::enter(py);
            if let Err(error) = act(py) {
                error.write_unraisable(py, None);
            }
        });
    });
}
