//! Entries, appended in batches.

use std::sync::atomic::Ordering;
use std::time::Instant;

use redis::{Pipeline, RedisError, RedisResult};
use tokio::time::timeout;

use super::connection::Connection;
use super::inner::Inner;
use super::link::{describe, is_useless};
use super::scripts::PUBLISH;
use crate::broker::letter::Fence;
use crate::ids::StreamId;
use crate::stream_broker::envelope;
use crate::stream_broker::store::{Append, AppendError, Ends};

/// The reply of a batch's script: each entry's id, or why it was refused.
type Replies = Vec<RedisResult<String>>;

/// The same as the reply of a pipeline of one command.
type Replied = RedisResult<[RedisResult<Replies>; 1]>;

/// No answer yet.
fn unsent() -> RedisError {
    (redis::ErrorKind::Client, "nothing was sent").into()
}

/// Whether a command inside the script failed: Redis then names the place in the script. Entries before it may have
/// been written.
fn is_midway(error: &RedisError) -> bool {
    error.to_string().contains("user_script")
}

impl Inner {
    /// Wait until enough replicas have what this connection has written.
    async fn wait_for_replicas(&self, connection: &mut Connection, since: Instant) -> Result<(), String> {
        if self.min_replicas == 0 {
            return Ok(());
        }
        // Soon enough for the reply to arrive in time.
        let patience = (self.server.timeout * 3 / 4).saturating_sub(since.elapsed()).as_millis().max(1);
        let mut command = redis::cmd("WAIT");
        command.arg(self.min_replicas).arg(patience.to_string());
        match command.query_async::<u32>(&mut **connection).await {
            Ok(count) if count >= self.min_replicas => Ok(()),
            Ok(count) => Err(format!(
                "{count} of {} replicas have what {} has taken",
                self.min_replicas, self.server.shown
            )),
            Err(error) => {
                Err(format!("{} did not wait for its replicas: {}", self.server.shown, describe(&error)))
            }
        }
    }

    /// One call of the script for the whole batch: asking the stream for its last id is most of what an entry costs
    /// Redis.
    pub async fn append(&self, batch: &[Append<'_>]) -> Vec<Result<StreamId, AppendError>> {
        let all = |error: AppendError| vec![Err(error); batch.len()];
        let (commands, since) = (self.appending(), Instant::now());
        let Some(mut connection) = commands.known().await else { return all(AppendError::Elsewhere) };
        let asking = async {
            let mut replied: Replied = Err(unsent());
            if commands.uses_hashes() {
                replied = self.publish(batch, true).query_async(&mut *connection).await;
            }
            let needs_text = match &replied {
                Ok([Err(error)]) => commands.needs_text(error),
                _ => !commands.uses_hashes(),
            };
            if needs_text {
                replied = self.publish(batch, false).query_async(&mut *connection).await;
            }
            let waited = match &replied {
                Ok([Ok(_)]) => self.wait_for_replicas(&mut connection, since).await,
                _ => Ok(()),
            };
            (replied, waited)
        };
        let Ok((answer, waited)) = timeout(self.server.timeout, asking).await else {
            commands.forget().await;
            let timeout = self.server.timeout;
            let text = format!("{} did not reply within {timeout:?}", self.server.shown);
            return all(AppendError::Unknown(text));
        };
        if let Err(text) = waited {
            return all(AppendError::Unknown(text));
        }
        match answer {
            Ok([Ok(replies)]) => self.judge(replies, batch.len()).await,
            Ok([Err(error)]) if is_midway(&error) => {
                let text = format!("the script failed at {}: {}", self.server.shown, describe(&error));
                all(AppendError::Unknown(text))
            }
            Ok([Err(error)]) => {
                // All keys of a hub are at one node of a cluster: it took all of the batch, or nothing.
                let is_elsewhere = self.moved.says(&error);
                commands.is_redirected.store(is_elsewhere, Ordering::Relaxed);
                if is_elsewhere || is_useless(&error) {
                    self.appending().forget().await;
                }
                let refused = AppendError::Refused(self.refusal(&describe(&error)));
                all(if is_elsewhere { AppendError::Elsewhere } else { refused })
            }
            Err(error) => {
                self.appending().forget().await;
                let text = format!("the reply of {} was lost: {}", self.server.shown, describe(&error));
                all(AppendError::Unknown(text))
            }
        }
    }

    /// A pipeline, because only its reply holds the refused commands beside those that succeeded.
    fn publish(&self, batch: &[Append<'_>], by_hash: bool) -> Pipeline {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        let command = if by_hash {
            pipeline.cmd("EVALSHA").arg(PUBLISH.hash())
        } else {
            pipeline.cmd("EVAL").arg(PUBLISH.text())
        };
        let age = self.kept.age.map_or_else(String::new, |age| age.as_millis().to_string());
        command.arg(3).arg(&self.keys.events).arg(&self.keys.ended).arg(&self.keys.endings);
        command.arg(self.kept.count).arg(age).arg(self.kept.min_age.as_millis().to_string());
        for Append { letter, open, fence, ends, frees } in batch {
            let fields = envelope::fields(letter);
            command.arg(open.len());
            for topic in *open {
                command.arg(topic.as_str());
            }
            match ends {
                None => command.arg("").arg(""),
                Some(Ends { keep, note }) => command.arg(keep.as_millis().to_string()).arg(&**note),
            };
            match fence {
                None => command.arg("").arg(""),
                Some(Fence::Held { lease, token }) => command.arg(self.keys.lease_of(lease)).arg(&**token),
                Some(Fence::Free { lease }) => command.arg(self.keys.lease_of(lease)).arg(""),
            };
            command.arg(u8::from(*frees)).arg(2 * fields.len());
            for (field, value) in &fields {
                command.arg(*field).arg(&**value);
            }
        }
        pipeline
    }

    fn refusal(&self, reason: &str) -> String {
        format!("{} refused the event: {reason}", self.server.shown)
    }

    async fn judge(&self, replies: Replies, count: usize) -> Vec<Result<StreamId, AppendError>> {
        let mut connection_is_useless = false;
        let mut replies = replies.into_iter();
        let judged = (0..count).map(|_| match replies.next() {
            Some(Ok(id)) => StreamId::parse(&id)
                .ok_or_else(|| AppendError::Unknown(format!("{} gave {id:?} as an id", self.server.shown))),
            Some(Err(error)) if error.code() == Some("ENDED") => {
                Err(AppendError::Ended(error.detail().unwrap_or_default().into()))
            }
            Some(Err(error)) if error.code() == Some("FENCED") => Err(AppendError::Fenced),
            Some(Err(error)) => {
                connection_is_useless |= is_useless(&error);
                Err(AppendError::Refused(self.refusal(&describe(&error))))
            }
            None => Err(AppendError::Unknown("a reply is missing".into())),
        });
        let judged = judged.collect();
        if connection_is_useless {
            self.appending().forget().await;
        }
        judged
    }
}
