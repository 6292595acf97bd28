//! Connections to Redis: made again when they break, at a bounded pace.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::Mutex;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::options::Server;

/// The first pause between two attempts.
const LEAST_PAUSE: Duration = Duration::from_millis(50);
/// The longest: with the time to connect, recovery stays within two seconds.
const MOST_PAUSE: Duration = Duration::from_millis(400);

/// Pauses that grow.
pub struct Backoff(Duration);

impl Backoff {
    pub fn new() -> Self {
        Self(LEAST_PAUSE)
    }

    /// Wait before the next attempt.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(MOST_PAUSE);
    }
}

/// Where a cluster has the hub's keys, once one of its nodes has said so.
#[derive(Default)]
pub struct Moved {
    to: parking_lot::Mutex<Option<(String, u16)>>,
    /// It was said since the last connection was made.
    fresh: AtomicBool,
}

impl Moved {
    /// Whether the error says that the keys are elsewhere, which is remembered.
    pub fn says(&self, error: &RedisError) -> bool {
        let Some((node, _)) = error.redirect_node() else { return false };
        let Some((host, port)) = node.rsplit_once(':') else { return false };
        let Ok(port) = port.parse() else { return false };
        *self.to.lock() = Some((host.trim_matches(['[', ']']).to_owned(), port));
        self.fresh.store(true, Ordering::Relaxed);
        true
    }

    /// Whether it was said since this was asked last: then a connection that ended was not lost.
    pub fn is_news(&self) -> bool {
        self.fresh.swap(false, Ordering::Relaxed)
    }
}

/// A new connection whose commands may take as long as they like.
pub async fn connect(server: &Server, moved: &Moved) -> Result<MultiplexedConnection, String> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let moved_to = moved.to.lock().clone();
    let connecting = async {
        let client = server.client(moved_to).await?;
        client.get_multiplexed_async_connection_with_config(&config).await
    };
    // Around all of it: a stopped server takes the connection and never answers.
    let made = match timeout(server.connect_timeout, connecting).await {
        Ok(made) => made.map_err(|error| describe(&error)),
        Err(_) => Err(format!("no connection within {:?}", server.connect_timeout)),
    };
    if made.is_err() {
        // Another node knows where the keys are by now.
        moved.to.lock().take();
    }
    made
}

/// What an error says, in one line.
pub fn describe(error: &RedisError) -> String {
    error.to_string().replace(['\r', '\n'], " ")
}

#[derive(Default)]
struct Current {
    connection: Option<MultiplexedConnection>,
    /// When connecting failed last, and why.
    failed: Option<(Instant, String)>,
}

/// Why a command has no result.
#[derive(Debug)]
pub struct Trouble {
    /// In words.
    pub text: String,
    /// The server took the command and refused it: it would do so again.
    pub is_refusal: bool,
}

impl From<String> for Trouble {
    fn from(text: String) -> Self {
        Self { text, is_refusal: false }
    }
}

/// The connection for everything but following the stream. Shared: its commands are pipelined.
#[derive(Default)]
pub struct Commands {
    current: Mutex<Current>,
    /// Of all connections.
    pub moved: Moved,
}

impl Commands {
    /// The connection, made anew if it broke.
    pub async fn get(&self, server: &Server) -> Result<MultiplexedConnection, String> {
        let since = Instant::now();
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.connection {
            return Ok(connection.clone());
        }
        // Many may wait here while one tries: they share what it found, or the last would wait for an attempt of
        // each of them, as long as the server does not answer.
        if let Some((_, reason)) = current.failed.as_ref().filter(|(at, _)| *at >= since) {
            return Err(reason.clone());
        }
        match connect(server, &self.moved).await {
            Ok(connection) => Ok(current.connection.insert(connection).clone()),
            Err(reason) => {
                current.failed = Some((Instant::now(), reason.clone()));
                Err(reason)
            }
        }
    }

    /// It broke.
    pub async fn broke(&self) {
        self.current.lock().await.connection.take();
    }

    /// Run a command, at most for the server's timeout; a connection that fails is not used again.
    pub async fn run<T: redis::FromRedisValue>(
        &self,
        server: &Server,
        command: &redis::Cmd,
    ) -> Result<T, Trouble> {
        let mut connection = self.get(server).await?;
        self.judge(server, timeout(server.timeout, command.query_async(&mut connection)).await).await
    }

    /// As [`Commands::run`], several commands at once: the reply of the last, or what is wrong with the first that
    /// failed.
    pub async fn run_all(&self, server: &Server, mut pipeline: Pipeline) -> Result<Value, Trouble> {
        // The error of a whole pipeline does not tell where a cluster has moved the keys to.
        pipeline.ignore_errors();
        let mut connection = self.get(server).await?;
        let asking = async {
            let replies: Vec<RedisResult<Value>> = pipeline.query_async(&mut connection).await?;
            replies.into_iter().try_fold(Value::Nil, |_, reply| reply)
        };
        let replied = timeout(server.timeout, asking).await;
        self.judge(server, replied).await
    }

    /// What became of a command; a connection that is of no more use is forgotten.
    async fn judge<T>(
        &self,
        server: &Server,
        replied: Result<RedisResult<T>, Elapsed>,
    ) -> Result<T, Trouble> {
        let trouble = match replied {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => {
                let is_refusal = !self.moved.says(&error) && !is_useless(&error);
                Trouble { text: describe(&error), is_refusal }
            }
            Err(_) => format!("no reply within {:?}", server.timeout).into(),
        };
        if !trouble.is_refusal {
            self.broke().await;
        }
        Err(trouble)
    }
}

/// Whether the connection an error came from is of no more use: it broke, or leads to a server that cannot do
/// what is asked of it, such as a primary that became a replica.
pub fn is_useless(error: &RedisError) -> bool {
    use redis::{ErrorKind, ServerErrorKind as Server};
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed => true,
        ErrorKind::Server(kind) => {
            matches!(kind, Server::ReadOnly | Server::MasterDown | Server::BusyLoading | Server::ClusterDown)
        }
        _ => error.is_unrecoverable_error(),
    }
}
