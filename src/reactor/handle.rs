//! A reactor as others see it: started, given sockets, told to stop.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::descriptors::Owned;
use super::worker::{self, Signal, Worker};
use super::{Listener, Socket};
use crate::hub::Hub;
use crate::identity::Identity;
use crate::reader::Reader;
use crate::sync::Mutex;
use crate::waker::Wake;

pub(super) enum Command {
    Adopt {
        socket: Owned,
        identity: Arc<Identity>,
    },
    /// Look at a subscriber that was closed from outside.
    Resume {
        key: usize,
    },
    /// Close the connections of a server as they are.
    Abort {
        server: u64,
    },
    Stop,
}

/// What handle and thread share.
pub(super) struct Shared {
    /// None when the thread has ended.
    pub commands: Mutex<Option<Vec<Command>>>,
    /// Connections whose stream has not ended, by server.
    open: Mutex<rustc_hash::FxHashMap<u64, usize>>,
    pub signal: Signal,
}

impl Shared {
    fn tell(&self, command: Command) {
        // A socket that comes too late is closed here, after the lock.
        let too_late = match &mut *self.commands.lock() {
            Some(commands) => {
                commands.push(command);
                None
            }
            None => Some(command),
        };
        if too_late.is_none() {
            self.signal.set();
        }
    }

    fn opened(&self, server: u64) {
        *self.open.lock().entry(server).or_default() += 1;
    }

    pub fn ended(&self, server: u64) {
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&server) {
            *count -= 1;
            if *count == 0 {
                open.remove(&server);
            }
        }
    }
}

struct SharedWaker(Arc<Shared>);

impl Wake for SharedWaker {
    fn wake(&self) {
        self.0.signal.set();
    }
}

/// A running reactor. Dropping it stops it.
pub struct Reactor {
    /// What delivers to its clients: subscribe with it.
    pub reader: Arc<Reader>,
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Reactor {
    /// Start the thread.
    ///
    /// # Errors
    /// The system has no thread or no descriptor left.
    pub fn start(hub: Arc<Hub>, listener: Box<dyn Listener>) -> io::Result<Self> {
        let (signal, heard) = worker::signal()?;
        let shared =
            Arc::new(Shared { commands: Mutex::new(Some(Vec::new())), open: Mutex::default(), signal });
        let reader = hub.add_reader(Box::new(SharedWaker(shared.clone())));
        // From here on dropping it takes the reader away again.
        let thread = Mutex::new(None);
        let this = Self { hub: hub.clone(), reader: reader.clone(), shared: shared.clone(), thread };
        let worker = Worker::new(hub, reader, shared, heard, listener)?;
        let builder = std::thread::Builder::new().name("sse-hub-reactor".into());
        *this.thread.lock() = Some(builder.spawn(move || worker.run())?);
        Ok(this)
    }

    /// Take over a client's socket. Its response head and a first chunk are sent already; `identity` was
    /// subscribed with this reactor's reader.
    pub fn adopt(&self, socket: Socket, identity: Arc<Identity>) {
        self.shared.opened(identity.server);
        self.shared.tell(Command::Adopt { socket: Owned::from(socket), identity });
    }

    /// Let a subscriber that was closed from outside take what is left.
    pub fn resume(&self, key: usize) {
        self.shared.tell(Command::Resume { key });
    }

    /// How many streams of a server have not ended.
    #[must_use]
    pub fn open(&self, server: u64) -> usize {
        self.shared.open.lock().get(&server).copied().unwrap_or(0)
    }

    /// How many streams have not ended.
    #[must_use]
    pub fn open_in_all(&self) -> usize {
        self.shared.open.lock().values().sum()
    }

    /// Close what is left of a server's connections, as they are.
    pub fn abort(&self, server: u64) {
        self.shared.tell(Command::Abort { server });
    }

    /// Close its connections as they are, and end its thread. What it is given afterwards is closed.
    pub fn stop(&self) {
        self.shared.tell(Command::Stop);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        self.hub.remove_reader(&self.reader);
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.stop();
    }
}
