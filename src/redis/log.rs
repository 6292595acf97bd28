//! Reading the stream.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::timeout;

use super::connection::Connection;
use super::copies::Copy;
use super::inner::Inner;
use super::reply;
use super::scripts::BEGIN;
use crate::broker::letter::Arrived;
use crate::ids::StreamId;
use crate::stream_broker::store::{Answer, Log, StoreError};

/// The stream, over a connection of its own or over the shared one.
pub struct RedisLog {
    pub store: Arc<Inner>,
    pub own: Option<Connection>,
    /// The copy that is followed, if the server reports one.
    pub copy: Option<Copy>,
}

impl RedisLog {
    /// Run a command whose reply the server may hold back for up to `held`.
    async fn ask(&mut self, command: &Cmd, held: Duration) -> Answer<Value> {
        let Inner { server, commands, moved, .. } = &*self.store;
        let Some(connection) = &mut self.own else { return commands.run(server, moved, command).await };
        match timeout(held + server.timeout, command.query_async(&mut **connection)).await {
            Ok(answer) => answer.map_err(|error| moved.judge(&error)),
            Err(_) => Err(StoreError::connection(format!("no reply within {:?}", server.timeout))),
        }
    }

    async fn ask_entries(&mut self, command: &Cmd) -> Answer<Vec<Arrived>> {
        let value = self.ask(command, Duration::ZERO).await?;
        reply::range(&value).ok_or_else(|| StoreError::refused("the reply has no entries of a stream"))
    }
}

impl Log for RedisLog {
    async fn last(&mut self) -> Answer<Option<StreamId>> {
        let mut command = redis::cmd("XINFO");
        command.arg("STREAM").arg(&self.store.keys.events);
        match self.ask(&command, Duration::ZERO).await {
            Ok(value) => reply::last_id(&value)
                .map(Some)
                .ok_or_else(|| StoreError::refused("XINFO gave no last-generated-id")),
            Err(error) if error.text.contains("no such key") => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn begin(&mut self) -> Answer<StreamId> {
        if let Some(last) = self.last().await? {
            return Ok(last);
        }
        let mut command = redis::cmd("EVAL");
        command.arg(BEGIN.text()).arg(1).arg(&self.store.keys.events);
        match self.ask(&command, Duration::ZERO).await {
            Ok(Value::BulkString(id)) => str::from_utf8(&id)
                .ok()
                .and_then(StreamId::parse)
                .ok_or_else(|| StoreError::refused("the stream's beginning is no id")),
            Ok(_) => Err(StoreError::refused("the stream's beginning is no id")),
            Err(error) if error.is_refusal() => Ok(StreamId::default()),
            Err(error) => Err(error),
        }
    }

    async fn after(&mut self, id: StreamId, count: usize) -> Answer<Vec<Arrived>> {
        let mut command = redis::cmd("XRANGE");
        command.arg(&self.store.keys.events).arg(format!("({id}")).arg("+").arg("COUNT").arg(count);
        self.ask_entries(&command).await
    }

    async fn wait_after(&mut self, id: StreamId, count: usize, wait: Duration) -> Answer<Vec<Arrived>> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(count).arg("BLOCK").arg(wait.as_millis().to_string());
        command.arg("STREAMS").arg(&self.store.keys.events).arg(id.to_string());
        let value = self.ask(&command, wait).await?;
        reply::read(&value).ok_or_else(|| StoreError::refused("XREAD gave no entries of a stream"))
    }

    async fn backwards(&mut self, end: StreamId, is_included: bool, count: usize) -> Answer<Vec<Arrived>> {
        let mut command = redis::cmd("XREVRANGE");
        let end = if is_included { end.to_string() } else { format!("({end}") };
        command.arg(&self.store.keys.events).arg(end).arg("-").arg("COUNT").arg(count);
        self.ask_entries(&command).await
    }

    async fn now(&mut self) -> Answer<u64> {
        let value = self.ask(&redis::cmd("TIME"), Duration::ZERO).await?;
        reply::time(&value).ok_or_else(|| StoreError::refused("TIME gave no time"))
    }

    async fn is_doubtful(&mut self) -> Answer<bool> {
        let Some(connection) = self.own.as_mut().filter(|_| self.copy.is_some()) else { return Ok(false) };
        let copy = self.store.in_time(Copy::of(connection)).await?;
        let is_same = copy.map(|copy| copy.id) == self.copy.as_ref().map(|copy| copy.id.clone());
        Ok(!is_same && !self.store.copies.lock().is_unsteady)
    }
}
