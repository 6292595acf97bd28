//! The shared connection to Redis, and where a cluster has the hub's keys.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::sync::Mutex;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::connection::Connection;
use super::options::Server;
use super::scripts::Script;
use crate::stream_broker::store::{Answer, StoreError, Trouble};

/// The node of a cluster that has the hub's keys, once another node has redirected here (`MOVED`).
#[derive(Default)]
pub struct Moved(parking_lot::Mutex<Option<(String, u16)>>);

impl Moved {
    /// Whether the error says that the keys are at another node, which is remembered.
    pub fn says(&self, error: &RedisError) -> bool {
        let Some((node, _)) = error.redirect_node() else { return false };
        let Some((host, port)) = node.rsplit_once(':') else { return false };
        let Ok(port) = port.parse() else { return false };
        *self.0.lock() = Some((host.trim_matches(['[', ']']).to_owned(), port));
        true
    }

    /// What an error of Redis means for its connection.
    pub fn judge(&self, error: &RedisError) -> StoreError {
        let trouble = match error {
            error if self.says(error) => Trouble::Elsewhere,
            error if is_useless(error) => Trouble::Connection,
            _ => Trouble::Refused,
        };
        StoreError { text: describe(error), trouble }
    }
}

/// A new connection without a time limit for commands.
pub async fn connect(server: &Server, moved: &Moved) -> Answer<Connection> {
    let moved_to = moved.0.lock().clone();
    // A stopped server accepts the connection and never answers.
    let made = match timeout(server.connect_timeout, server.connect(moved_to)).await {
        Ok(made) => made.map_err(|error| StoreError::connection(describe(&error))),
        Err(_) => Err(StoreError::connection(format!("no connection within {:?}", server.connect_timeout))),
    };
    if made.is_err() {
        // Another node knows where the keys are by now.
        moved.0.lock().take();
    }
    made
}

/// The text of an error, in one line.
pub fn describe(error: &RedisError) -> String {
    error.to_string().replace(['\r', '\n'], " ")
}

#[derive(Default)]
struct Current {
    connection: Option<Connection>,
    /// When the last attempt to connect failed, and why.
    failed: Option<(Instant, StoreError)>,
}

/// A connection that is shared: its commands are pipelined.
#[derive(Default)]
pub struct Commands {
    current: Mutex<Current>,
    /// This user may not run `EVALSHA`. Relaxed, as the flags below: tasks of one thread share them.
    no_evalsha: AtomicBool,
    /// The connection is new, and the server behind it is not identified yet.
    is_new: AtomicBool,
    /// The former node has redirected this process, and its data has moved with it.
    pub is_redirected: AtomicBool,
}

impl Commands {
    /// The connection, reopened if it broke.
    pub async fn get(&self, server: &Server, moved: &Moved) -> Answer<Connection> {
        let since = Instant::now();
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.connection {
            return Ok(connection.clone());
        }
        // Many tasks may wait here while one connects. They share its result; otherwise, while the server does not
        // answer, the last of them would wait for an attempt by each.
        if let Some((_, error)) = current.failed.as_ref().filter(|(at, _)| *at >= since) {
            return Err(error.clone());
        }
        match connect(server, moved).await {
            Ok(connection) => {
                self.is_new.store(true, Ordering::Relaxed);
                Ok(current.connection.insert(connection).clone())
            }
            Err(error) => {
                current.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// The connection, if there is one whose server is identified.
    pub async fn known(&self) -> Option<Connection> {
        let current = self.current.lock().await;
        current.connection.clone().filter(|_| !self.is_new.load(Ordering::Relaxed))
    }

    /// Whether the connection is new; it counts as identified from now on.
    pub fn take_new(&self) -> bool {
        self.is_new.swap(false, Ordering::Relaxed)
    }

    /// Drop the connection.
    pub async fn forget(&self) {
        self.current.lock().await.connection.take();
    }

    /// Run a command, at most for the server's timeout; a connection that fails is not used again.
    pub async fn run(&self, server: &Server, moved: &Moved, command: &Cmd) -> Answer<Value> {
        let mut connection = self.get(server, moved).await?;
        let replied = timeout(server.timeout, command.query_async(&mut *connection)).await;
        self.judge(server, moved, replied).await
    }

    /// The same for several commands at once: the reply of the last, or the error of the first that failed.
    pub async fn run_all(&self, server: &Server, moved: &Moved, mut pipeline: Pipeline) -> Answer<Value> {
        // The error of a whole pipeline does not say where a cluster has moved the keys to.
        pipeline.ignore_errors();
        let mut connection = self.get(server, moved).await?;
        let asking = async {
            let replies: Vec<RedisResult<Value>> = pipeline.query_async(&mut *connection).await?;
            replies.into_iter().try_fold(Value::Nil, |_, reply| reply)
        };
        let replied = timeout(server.timeout, asking).await;
        self.judge(server, moved, replied).await
    }

    /// Run a script, by its hash when Redis knows it. `arguments` follow the script: the keys' number, keys, values.
    pub async fn eval(
        &self,
        server: &Server,
        moved: &Moved,
        script: &Script,
        arguments: &(dyn Fn(&mut Cmd) + Sync),
    ) -> Answer<Value> {
        let mut connection = self.get(server, moved).await?;
        let asking = async {
            if !self.no_evalsha.load(Ordering::Relaxed) {
                let mut command = redis::cmd("EVALSHA");
                arguments(command.arg(script.hash()));
                match command.query_async(&mut *connection).await {
                    Err(error) if self.needs_text(&error) => {}
                    replied => return replied,
                }
            }
            let mut command = redis::cmd("EVAL");
            arguments(command.arg(script.text()));
            command.query_async(&mut *connection).await
        };
        let replied = timeout(server.timeout, asking).await;
        self.judge(server, moved, replied).await
    }

    /// Whether a script did not run because Redis has only its hash.
    pub fn needs_text(&self, error: &RedisError) -> bool {
        let is_refused = error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm);
        if is_refused {
            self.no_evalsha.store(true, Ordering::Relaxed);
        }
        is_refused || error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
    }

    /// Whether scripts are sent by their hashes.
    pub fn uses_hashes(&self) -> bool {
        !self.no_evalsha.load(Ordering::Relaxed)
    }

    /// The result of a command; a broken connection is dropped.
    async fn judge(
        &self,
        server: &Server,
        moved: &Moved,
        replied: Result<RedisResult<Value>, Elapsed>,
    ) -> Answer<Value> {
        let error = match replied {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => moved.judge(&error),
            Err(_) => StoreError::connection(format!("no reply within {:?}", server.timeout)),
        };
        if !error.is_refusal() {
            self.forget().await;
        }
        Err(error)
    }
}

/// Whether an error means that its connection is useless: it broke, or leads to a server that cannot do
/// what is asked of it, such as a primary that became a replica.
pub fn is_useless(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed => true,
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
        ),
        _ => error.is_unrecoverable_error(),
    }
}
