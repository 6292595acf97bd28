//! Which server's copy of the data answers, and what is known of its durability.
//!
//! Redis replicates after it has acknowledged: a replica that becomes the primary may lack the newest entries, and so
//! may a server that was restarted. The ids do not show that to a process that had not read these entries. So each copy
//! that takes over appends one entry that breaks the log ([`super::scripts::TAKE_OVER`]), unless it is known to have
//! everything.

use redis::{FromRedisValue, Pipeline, RedisResult, Value};

use super::connection::Connection;

/// A primary's copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// `master_replid`: new whenever a server becomes a primary, also after a restart.
    pub id: String,
    /// `master_replid2`: the copy it replicated until it took over.
    pub replicated: String,
}

/// What a server reports about itself; `None` or false for what it does not report.
#[derive(Debug, Default)]
pub struct Facts {
    /// Its copy; `None` when the server is not a primary.
    pub copy: Option<Copy>,
    /// What it acknowledges survives its restart: it is on disk before the reply.
    pub is_durable: bool,
    /// The policy by which it may evict the stream. The policies for keys that expire spare the stream.
    pub evicts: Option<String>,
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
}

impl Copy {
    /// The copy of the server behind a connection; `None` when the server is not a primary, or does not report it.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn of(connection: &mut Connection) -> RedisResult<Option<Self>> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("replication");
        let reply = ask(connection, pipeline).await?.into_iter().next();
        Ok(reply.and_then(read::<String>).and_then(|info| Self::read(&info)))
    }

    fn read(info: &str) -> Option<Self> {
        if field(info, "role")? != "master" {
            return None;
        }
        let replicated = field(info, "master_replid2").unwrap_or_default().into();
        Some(Self { id: field(info, "master_replid")?.into(), replicated })
    }
}

impl Facts {
    /// Ask the server behind a connection.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn of(connection: &mut Connection) -> RedisResult<Self> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("replication");
        pipeline.cmd("INFO").arg("memory");
        pipeline.cmd("CONFIG").arg("GET").arg("append*");
        let mut replies = ask(connection, pipeline).await?.into_iter();
        let mut next = || replies.next().unwrap_or(Value::Nil);
        let (replication, memory, options) = (read::<String>(next()), read::<String>(next()), next());
        let options: Vec<(String, String)> = read(options).unwrap_or_default();
        let is = |name: &str, value: &str| options.iter().any(|(key, set)| key == name && set == value);
        Ok(Self {
            copy: replication.and_then(|info| Copy::read(&info)),
            is_durable: is("appendonly", "yes") && is("appendfsync", "always"),
            evicts: memory.and_then(|info| evicts(&info)),
        })
    }
}

fn evicts(info: &str) -> Option<String> {
    let policy = field(info, "maxmemory_policy").filter(|policy| policy.starts_with("allkeys"))?;
    (field(info, "maxmemory")? != "0").then(|| policy.into())
}

/// The replies to some commands; `Nil` for one that is refused.
async fn ask(connection: &mut Connection, mut pipeline: Pipeline) -> RedisResult<Vec<Value>> {
    pipeline.ignore_errors();
    let replies: Vec<RedisResult<Value>> = pipeline.query_async(&mut **connection).await?;
    Ok(replies.into_iter().map(|reply| reply.unwrap_or(Value::Nil)).collect())
}

fn read<T: FromRedisValue>(value: Value) -> Option<T> {
    T::from_redis_value(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_info() {
        let text = "# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n";
        assert_eq!(field(text, "maxmemory"), Some("0"));
        assert_eq!(field(text, "maxmemory_policy"), Some("noeviction"));
        assert_eq!(field(text, "max"), None);
        assert_eq!(evicts(text), None);
        let evicting = "maxmemory:9\r\nmaxmemory_policy:allkeys-lru\r\n";
        assert_eq!(evicts(evicting).as_deref(), Some("allkeys-lru"));
    }
}
