//! The way from Redis: one connection that follows the stream, and proves at every entry that none is missing.

use std::cmp::Ordering as CmpOrdering;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};
use tokio::time::timeout;

use super::link::{Backoff, connect, describe, is_useless};
use super::scripts::BEGIN;
use super::{Shared, reply};
use crate::broker::letter::Arrived;
use crate::ids::StreamId;

/// Entries asked for at once, at most, and about how many bytes.
const PAGE: usize = 512;
const PAGE_BYTES: usize = 2 << 20;
/// How long Redis holds a question for new entries. When it answers that there are none, the stream is looked
/// at: one that was emptied while the clock was set back gives smaller ids, for which a reader waits for ever.
const HELD: Duration = Duration::from_secs(1);
/// How long it holds the first on a connection, which show that the stream can be followed; nothing would be for ever.
const BRIEFLY: Duration = Duration::from_millis(1);
/// How long nothing more is said of gaps after one was.
const QUIET: Duration = Duration::from_secs(10);

/// Follow the stream until the task is dropped.
pub async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new();
    let mut follower =
        Follower { shared: shared.clone(), joined: None, found: None, cursor: None, told: None, most: PAGE };
    let mut lost: Option<Instant> = None;
    loop {
        let reason = match connect(&shared.server, &shared.commands.moved).await {
            Err(reason) => reason,
            Ok(connection) => {
                let reason = follower.follow(connection, &mut backoff, &mut lost).await;
                shared.commands.broke().await;
                reason
            }
        };
        shared.connected.store(false, Ordering::Release);
        shared.presence.lock().outdate();
        if shared.commands.moved.is_news() && lost.is_none() {
            // Nothing was lost: another node of the cluster has the stream.
            backoff.pause().await;
            continue;
        }
        shared.why.lock().clone_from(&reason);
        shared.settles_changed.notify_waiters();
        if lost.is_none() {
            lost = Some(Instant::now());
            shared.warn(&format!(
                "no connection to {}: {reason}; clients stay connected, and get what was published meanwhile \
                 when it is back",
                shared.server.shown
            ));
        }
        backoff.pause().await;
    }
}

struct Follower {
    shared: Arc<Shared>,
    /// The end of the stream when this process first saw it: what came before is history.
    joined: Option<StreamId>,
    /// What was before the oldest entry of the stream when this process first saw it, if that is known.
    found: Option<StreamId>,
    /// Up to here everything was delivered; none before the first connection.
    cursor: Option<StreamId>,
    /// When it was last said that clients are told of a gap.
    told: Option<Instant>,
    /// Entries asked for at once, at most: fewer after a question that ended the connection, which a reply larger
    /// than the server has room for does.
    most: usize,
}

impl Follower {
    /// Follow on this connection until it fails; why.
    async fn follow(
        &mut self,
        mut connection: MultiplexedConnection,
        backoff: &mut Backoff,
        lost: &mut Option<Instant>,
    ) -> String {
        let begun = match self.catch_up(&mut connection).await {
            Ok(()) => self.probe(&mut connection).await,
            failed => failed,
        };
        if let Err(reason) = begun {
            return reason;
        }
        // Before anything is delivered: who came before there was a connection begins here.
        self.shared.connected.store(true, Ordering::Release);
        self.shared.settles_changed.notify_waiters();
        let mut held = BRIEFLY;
        loop {
            let read = self.next(&mut connection, std::mem::replace(&mut held, HELD)).await;
            if read.is_ok() {
                *backoff = Backoff::new();
                if let Some(since) = lost.take() {
                    self.shared.warn(&format!(
                        "connected to {} again, after {:.1} seconds",
                        self.shared.server.shown,
                        since.elapsed().as_secs_f64()
                    ));
                }
            }
            match read {
                Ok(true) => {}
                Ok(false) => {
                    if let Err(reason) = self.catch_up(&mut connection).await {
                        return reason;
                    }
                }
                Err(reason) => return reason,
            }
        }
    }

    /// Whether the stream may be followed at all: with a user who may only look at it, or where reads that wait are
    /// refused, this would be connected and disconnected by turns.
    async fn probe(&self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(BRIEFLY.as_millis().to_string());
        command.arg("STREAMS").arg(&self.shared.keys.events).arg("$");
        self.ask(connection, &command, BRIEFLY).await.map(drop)
    }

    /// Read what is new, for which Redis waits so long; false when nothing came.
    async fn next(&mut self, connection: &mut MultiplexedConnection, held: Duration) -> Result<bool, String> {
        self.shared.until_delivered().await;
        let cursor = self.cursor.unwrap_or_default();
        let mut command = redis::cmd("XREAD");
        let count = self.page();
        command.arg("COUNT").arg(count).arg("BLOCK").arg(held.as_millis().to_string());
        command.arg("STREAMS").arg(&self.shared.keys.events).arg(cursor.to_string());
        let value = self.ask_page(connection, &command, held, count).await?;
        let arrived = reply::read(&value).ok_or("XREAD gave no entries of a stream")?;
        self.got(&arrived, count);
        if arrived.is_empty() {
            return Ok(false);
        }
        self.deliver(arrived, cursor);
        Ok(true)
    }

    /// Deliver entries, each of which has to name the one before it.
    fn deliver(&mut self, arrived: Vec<Arrived>, mut cursor: StreamId) {
        let Some(hub) = self.shared.hub.upgrade() else { return };
        let mut whole = Vec::with_capacity(arrived.len());
        for Arrived { id, before, letter } in arrived {
            let (Some(before), Some(letter)) = (before, letter) else {
                hub.deliver(std::mem::take(&mut whole));
                self.tell(&format!("entry {id} was not written by a hub of this version"));
                hub.break_stream(id);
                cursor = id;
                continue;
            };
            // Before the first entry of a stream without a beginning of its own may be before that of another.
            if before != cursor || before.is_any_beginning() {
                hub.deliver(std::mem::take(&mut whole));
                self.tell(&format!("what followed {cursor} is not there any more, up to {before}"));
                hub.break_stream(before);
            }
            whole.push((id, letter));
            cursor = id;
        }
        hub.deliver(whole);
        self.moved(cursor);
    }

    fn moved(&mut self, cursor: StreamId) {
        self.cursor = Some(cursor);
        self.shared.progress.send_replace(Some(cursor));
    }

    /// Compare the stream with where this process stands.
    async fn catch_up(&mut self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        let last = self.last_id(connection).await?;
        let Some(cursor) = self.cursor else { return self.begin(connection, last).await };
        let base = match last.cmp(&cursor) {
            CmpOrdering::Equal => return Ok(()),
            CmpOrdering::Greater => {
                // What is next may have been deleted, or trimmed: the entry after it would tell, whenever it comes.
                if self.first(connection, &format!("({cursor}")).await?.is_some() {
                    return Ok(());
                }
                self.tell(&format!("what followed {cursor} is not there any more, up to {last}"));
                last
            }
            CmpOrdering::Less => {
                let base = self.new_from(connection, last).await?;
                self.tell(&format!("it goes on at {last}, before {cursor}: its end was lost, or all of it"));
                // What is lost of it will not come.
                let mut sent = self.shared.last_sent.lock();
                if *sent > last {
                    *sent = base;
                }
                base
            }
        };
        if let Some(hub) = self.shared.hub.upgrade() {
            hub.break_stream(base);
        }
        self.moved(base);
        Ok(())
    }

    /// Behind which id the stream, which ends before what was delivered, has what nobody got from here.
    ///
    /// A server that was not written to disk in time, or a replica that was behind, has lost the newest entries: the
    /// stream is the same up to what it was followed to once, and has perhaps gone on from there since. One that
    /// was emptied is new from its beginning on.
    async fn new_from(
        &mut self,
        connection: &mut MultiplexedConnection,
        last: StreamId,
    ) -> Result<StreamId, String> {
        let shared = self.shared.clone();
        let has_followed = |id| shared.hub.upgrade().is_some_and(|hub| hub.has_followed(id));
        if has_followed(last) {
            return Ok(last);
        }
        let (mut end, mut oldest) = (last.to_string(), None);
        loop {
            let page = self.backwards(connection, &end).await?;
            let Some(first) = page.last() else { break };
            end = format!("({}", first.id);
            oldest = first.before;
            for entry in page {
                if let Some(known) =
                    [Some(entry.id), entry.before].into_iter().flatten().find(|id| has_followed(*id))
                {
                    return Ok(known);
                }
            }
        }
        // Of one that was found with this beginning, or has none any more, more was lost than is remembered: what
        // it has was there before.
        Ok(oldest
            .filter(|id| {
                let was_found = || self.found.is_none_or(|found| found == *id);
                id.is_beginning() && (id.is_any_beginning() || !was_found())
            })
            .unwrap_or(last))
    }

    /// Entries up to `end`, the newest first.
    async fn backwards(
        &mut self,
        connection: &mut MultiplexedConnection,
        end: &str,
    ) -> Result<Vec<Arrived>, String> {
        let mut command = redis::cmd("XREVRANGE");
        let count = self.page();
        command.arg(&self.shared.keys.events).arg(end).arg("-").arg("COUNT").arg(count);
        let value = self.ask_page(connection, &command, Duration::ZERO, count).await?;
        let page = reply::range(&value).ok_or("XREVRANGE gave no entries")?;
        self.got(&page, count);
        Ok(page)
    }

    /// The first entry from `start` on.
    async fn first(
        &mut self,
        connection: &mut MultiplexedConnection,
        start: &str,
    ) -> Result<Option<Arrived>, String> {
        let mut command = redis::cmd("XRANGE");
        command.arg(&self.shared.keys.events).arg(start).arg("+").arg("COUNT").arg(1);
        let value = self.ask(connection, &command, Duration::ZERO).await?;
        Ok(reply::range(&value).ok_or("XRANGE gave no entries")?.into_iter().next())
    }

    /// Say that clients are told of a gap, and why; not for every entry, should all of them be the reason.
    fn tell(&mut self, why: &str) {
        self.shared.presence.lock().doubt();
        if self.told.is_none_or(|at| at.elapsed() >= QUIET) {
            self.told = Some(Instant::now());
            let events = &self.shared.keys.events;
            self.shared.warn(&format!("clients are told of a gap in {events}: {why}"));
        }
    }

    /// The first connection: take over what the stream keeps, and begin behind its end.
    async fn begin(&mut self, connection: &mut MultiplexedConnection, last: StreamId) -> Result<(), String> {
        // An attempt before this one may have failed when the publisher was already told to go on.
        let last = last.min(*self.joined.get_or_insert(last));
        self.shared.joined.send_replace(true);
        let value = self.ask(connection, &redis::cmd("TIME"), Duration::ZERO).await?;
        let now = reply::time(&value).ok_or("TIME gave no time")?;
        // A user who may not ask gets less of a stream that is new one day: see `new_from`.
        self.found = match self.first(connection, "-").await {
            Ok(first) => first.map_or(Some(last), |entry| entry.before),
            Err(_) => None,
        };
        let kept = self.kept(connection, last, now).await?;
        let base = kept.front().and_then(|entry| entry.before).unwrap_or(last);
        if let Some(hub) = self.shared.hub.upgrade() {
            let aged = |entry: Arrived| {
                let age = Duration::from_millis(now.saturating_sub(entry.id.ms));
                (entry, age)
            };
            hub.begin_stream(base, kept.into_iter().map(aged).collect());
        }
        self.moved(last);
        Ok(())
    }

    /// What the stream keeps up to `last`, as far as it is whole and this process has room for it.
    async fn kept(
        &mut self,
        connection: &mut MultiplexedConnection,
        last: StreamId,
        now: u64,
    ) -> Result<VecDeque<Arrived>, String> {
        let wanted = self.shared.kept;
        let mut kept: VecDeque<Arrived> = VecDeque::new();
        let (mut bytes, mut expected, mut end) = (0, last, last.to_string());
        while kept.len() < wanted.count && bytes < wanted.bytes {
            let page = self.backwards(connection, &end).await?;
            if page.is_empty() {
                break;
            }
            for entry in page {
                let (Some(before), Some(letter)) = (entry.before, &entry.letter) else { return Ok(kept) };
                if entry.id != expected || wanted.is_too_old(entry.id, now) || kept.len() >= wanted.count {
                    return Ok(kept);
                }
                bytes += letter.len();
                expected = before;
                kept.push_front(entry);
            }
            end = format!("({}", kept.front().map_or(last, |entry| entry.id));
        }
        Ok(kept)
    }

    /// The last id that the stream gave.
    async fn last_id(&self, connection: &mut MultiplexedConnection) -> Result<StreamId, String> {
        let mut command = redis::cmd("XINFO");
        command.arg("STREAM").arg(&self.shared.keys.events);
        match timeout(self.shared.server.timeout, command.query_async::<Value>(connection)).await {
            Ok(Ok(value)) => reply::last_id(&value).ok_or_else(|| "XINFO gave no last-generated-id".into()),
            Ok(Err(error)) if error.to_string().contains("no such key") => self.make(connection).await,
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(self.no_reply()),
        }
    }

    /// The same of a stream that does not exist: it gets a beginning, unless that is refused.
    async fn make(&self, connection: &mut MultiplexedConnection) -> Result<StreamId, String> {
        let mut command = redis::cmd("EVAL");
        command.arg(BEGIN).arg(1).arg(&self.shared.keys.events);
        match timeout(self.shared.server.timeout, command.query_async::<String>(connection)).await {
            Ok(Ok(id)) => {
                StreamId::parse(&id).ok_or_else(|| format!("the stream's beginning {id:?} is no id"))
            }
            Ok(Err(error)) if is_useless(&error) || error.redirect_node().is_some() => {
                Err(self.failed(&error))
            }
            Ok(Err(_)) => Ok(StreamId::default()),
            Err(_) => Err(self.no_reply()),
        }
    }

    /// Ask something to which the answer may be held back for so long.
    async fn ask(
        &self,
        connection: &mut MultiplexedConnection,
        command: &Cmd,
        held: Duration,
    ) -> Result<Value, String> {
        match timeout(held + self.shared.server.timeout, command.query_async(connection)).await {
            Ok(answer) => answer.map_err(|error| self.failed(&error)),
            Err(_) => Err(self.no_reply()),
        }
    }

    /// The same for so many entries.
    async fn ask_page(
        &mut self,
        connection: &mut MultiplexedConnection,
        command: &Cmd,
        held: Duration,
        count: usize,
    ) -> Result<Value, String> {
        let answer = self.ask(connection, command, held).await;
        if answer.is_err() {
            self.most = (count / 2).max(1);
        }
        answer
    }

    /// So many entries came of those that were asked for.
    fn got(&mut self, page: &[Arrived], count: usize) {
        self.shared.pages.read(page);
        if page.len() < count {
            // What had piled up is read.
            self.most = PAGE;
        }
    }

    fn failed(&self, error: &RedisError) -> String {
        self.shared.commands.moved.says(error);
        describe(error)
    }

    fn page(&self) -> usize {
        self.shared.pages.entries(PAGE_BYTES, self.most)
    }

    fn no_reply(&self) -> String {
        format!("no reply within {:?}", self.shared.server.timeout)
    }
}
