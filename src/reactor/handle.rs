//! The handle of a reactor, which starts it, gives it sockets and stops it.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::connection::{Connection, Written};
use super::desk::{Desk, DeskWaker};
use super::owned::Owned;
use super::rounds::ROUNDS;
use super::shared::{Command, Shared, Turn};
use super::signal::signal;
use super::sockets::Sockets;
use super::worker::Worker;
use super::{Listener, Socket};
use crate::hub::Hub;
use crate::identity::Identity;
use crate::ids::GroupId;
use crate::reader::Reader;
use crate::subscriber::Taken;
use crate::sync::Mutex;

/// A running reactor. Dropping it stops it.
pub struct Reactor {
    /// Delivers to the reactor's clients: subscribe with it.
    pub reader: Arc<Reader>,
    hub: Arc<Hub>,
    desk: Arc<Desk>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Reactor {
    /// Start the thread.
    ///
    /// # Errors
    /// The system has no thread or no descriptor left.
    pub fn start(hub: Arc<Hub>, listener: Box<dyn Listener>) -> io::Result<Self> {
        let (signal, heard) = signal()?;
        let sockets = Sockets::new(&heard)?;
        let desk = Desk::new(Shared::new(signal, sockets.registered()?));
        let reader = hub.add_reader(Box::new(DeskWaker(desk.clone())));
        // From here on, dropping `this` removes the reader again.
        let thread = Mutex::new(None);
        let this = Self { hub: hub.clone(), reader: reader.clone(), desk: desk.clone(), thread };
        desk.put(Worker::new(hub, reader, desk.shared.clone(), listener));
        let builder = std::thread::Builder::new().name("sse-hub-reactor".into());
        *this.thread.lock() = Some(builder.spawn(move || desk.run(sockets, &heard))?);
        Ok(this)
    }

    /// Adopt a client's socket, whose descriptor is recorded as owned. Its response head and a first chunk were sent
    /// before; `identity` was subscribed with this reactor's reader.
    pub fn adopt(&self, socket: Socket, identity: Arc<Identity>) {
        self.desk.shared.adopt(self.connection(socket, identity), None);
    }

    /// The turn in which a newcomer is subscribed: see [`Reactor::welcome`].
    #[must_use]
    pub fn turn(&self) -> Turn {
        self.desk.shared.turn()
    }

    /// Adopt the socket of a newcomer, which was subscribed silently after `turn` was asked for. Its first entries are
    /// written here, so that a thread that sleeps need not wake for a client that may leave again at once.
    pub fn welcome(&self, socket: Socket, identity: &Arc<Identity>, turn: Turn) {
        let mut connection = self.connection(socket, identity.clone());
        let is_served = self.serve_first(&mut connection);
        let now = self.hub.clock.now();
        let round = now + self.hub.config.stall_timeout / ROUNDS;
        let served = self.reader.deadline(identity, now).filter(|_| is_served);
        self.desk.shared.adopt(connection, served.map(|deadline| (turn, deadline.min(round))));
    }

    fn connection(&self, socket: Socket, identity: Arc<Identity>) -> Connection {
        self.desk.shared.stream_opened(identity.group);
        let mut connection = Connection::new(Owned::from(socket), identity);
        if self.reader.leave_stalls_to_driver(&connection.identity) {
            connection.keep_fresh();
        }
        connection
    }

    /// Whether everything that waited for a newcomer was written.
    fn serve_first(&self, connection: &mut Connection) -> bool {
        let mut out = Vec::new();
        let taken = self.hub.take_last(&self.reader, connection.subscriber(), &mut out);
        match taken {
            // The broker is asked where it begins.
            Taken::Nothing => true,
            Taken::Last => {
                let written = connection.write_first(out);
                if written == Written::Blocked {
                    self.reader.write_blocked(&connection.identity, self.hub.clock.now());
                }
                written == Written::All
            }
            Taken::Some => {
                connection.write_first(out);
                false
            }
            // Found again by the thread.
            Taken::Gap | Taken::Finished | Taken::End => false,
        }
    }

    /// Serve a subscriber that was closed from outside: it may still have queued events.
    pub fn resume(&self, key: usize) {
        self.desk.shared.send(Command::Resume { key });
    }

    /// How many streams of a group have not ended.
    #[must_use]
    pub fn open(&self, group: GroupId) -> usize {
        self.desk.shared.open(group)
    }

    /// How many streams have not ended.
    #[must_use]
    pub fn open_in_all(&self) -> usize {
        self.desk.shared.open_in_all()
    }

    /// Close a group's connections at once.
    pub fn abort(&self, group: GroupId) {
        self.desk.shared.send(Command::Abort { group });
    }

    /// Close all connections at once, and end the thread. Sockets that are given to it later are closed.
    pub fn stop(&self) {
        self.desk.shared.send(Command::Stop);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        self.desk.clear();
        self.hub.remove_reader(&self.reader);
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.stop();
    }
}
