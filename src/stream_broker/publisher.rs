//! Appending to the log: letters are sent in batches, and each gets its outcome.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::backoff::Backoff;
use super::envelope;
use super::outbox::Posted;
use super::shared::Shared;
use super::store::{Append, AppendError, Ends, Store};
use crate::broker::letter::{Letter, Step};
use crate::ids::StreamId;
use crate::outcome::{Failure, Sent};

/// How long to wait for the follower before waiting letters are checked again.
const JOINING: Duration = Duration::from_millis(250);
/// The pause before a batch is appended at the place where the log has gone.
const ELSEWHERE: Duration = Duration::from_millis(10);

/// Append posted letters, until the broker stops and every letter has its outcome.
pub async fn run<S: Store>(shared: Arc<Shared<S>>) {
    while shared.until_posted().await {
        if !shared.until_ready().await {
            continue;
        }
        if shared.connected.load(Ordering::Acquire) {
            // A client receives what its process publishes after it came, so its start is resolved before that is in
            // the log.
            shared.newcomers.settled(JOINING).await;
        }
        let batch = shared.outbox.take();
        let entries = batch.iter().map(entry).collect();
        let appended = shared.store.append(entries).await;
        shared.appended(batch, appended).await;
    }
}

fn entry(posted: &Posted) -> Append<'_> {
    let letter = &posted.letter;
    Append {
        letter,
        open: letter.needs_open(),
        fence: posted.fence.clone(),
        ends: match letter {
            Letter::Life { step: Step::End { keep, ending }, .. } => {
                Some(Ends { keep: *keep, note: envelope::note(ending).into() })
            }
            _ => None,
        },
        frees: matches!(letter, Letter::Release { .. }),
    }
}

impl<S: Store> Shared<S> {
    /// Wait for a letter. False when the broker stops and no letter waits.
    async fn until_posted(&self) -> bool {
        if !self.outbox.is_empty() {
            // Files answer at once: publishers that never pause would keep every other task from running.
            tokio::task::yield_now().await;
            return true;
        }
        let mut stopping = self.stopping.subscribe();
        while self.outbox.is_empty() {
            if *stopping.borrow_and_update() && self.outbox.close() {
                return false;
            }
            tokio::select! {
                () = self.outbox.posted.notified() => {}
                _ = stopping.changed() => {}
            }
        }
        true
    }

    /// Wait until the store can be reached. False when all letters have waited for too long.
    async fn until_ready(&self) -> bool {
        let mut backoff = Backoff::new();
        loop {
            let reason = match self.store.connect().await {
                Ok(()) if self.has_joined().await => return true,
                Ok(()) => format!("its stream cannot be followed: {}", self.why_not_joined()),
                Err(error) => error.text,
            };
            self.refuse_late(&format!("{} cannot be reached: {reason}", self.store.place()));
            if self.outbox.is_empty() {
                return false;
            }
            backoff.pause().await;
        }
    }

    /// Whether this process will deliver what it appends now. Before its follower knows its position in the log, such
    /// entries would count as the past, and an event for one of its own clients would not arrive.
    async fn has_joined(&self) -> bool {
        if *self.joined.borrow() {
            return true;
        }
        let mut joined = self.joined.subscribe();
        timeout(JOINING, joined.wait_for(|joined| *joined)).await.is_ok()
    }

    /// Why this process does not know its position in the log: the last attempt's error, or how long the first one has
    /// lasted.
    fn why_not_joined(&self) -> String {
        let why = self.why.lock();
        if why.is_empty() {
            return format!("no answer for {:.1} seconds", self.started.elapsed().as_secs_f64());
        }
        why.clone()
    }

    fn refuse_late(&self, reason: &str) {
        let late = self.outbox.expired(self.store.timeout());
        let reason: Arc<str> = reason.into();
        self.give(late, |_| Err(Failure::Refused(reason.clone())));
    }

    async fn appended(&self, batch: Vec<Posted>, appended: Vec<Result<StreamId, AppendError>>) {
        if !appended.is_empty() && appended.iter().all(|one| matches!(one, Err(AppendError::Elsewhere))) {
            self.outbox.put_back(batch);
            // A cluster that is being changed may redirect this process for a while.
            self.refuse_late(&format!("{} has no connection to the hub's keys", self.store.place()));
            tokio::time::sleep(ELSEWHERE).await;
            return;
        }
        if let Some(newest) = appended.iter().filter_map(|one| one.as_ref().ok()).max() {
            self.acknowledged.add(*newest);
        }
        let mut appended = appended.into_iter();
        self.give(batch, |posted| match appended.next() {
            Some(Ok(id)) => Ok(id.event_id().filter(|_| posted.letter.carries_id())),
            Some(Err(AppendError::Ended(topic))) => Err(Failure::Ended(topic)),
            Some(Err(AppendError::Fenced)) => Err(Failure::Fenced),
            Some(Err(AppendError::Refused(text))) => Err(Failure::Refused(text.into())),
            Some(Err(AppendError::Unknown(text))) => Err(Failure::Unknown(text.into())),
            Some(Err(AppendError::Elsewhere)) | None => Err(Failure::Unknown("a reply is missing".into())),
        });
    }

    /// Give each letter its outcome.
    fn give(&self, batch: Vec<Posted>, mut outcome: impl FnMut(&Posted) -> Sent) {
        let sent: Vec<_> = batch.iter().map(&mut outcome).collect();
        let failed = sent.iter().filter(|sent| sent.is_err()).count();
        self.failed.fetch_add(failed as u64, Ordering::Relaxed);
        self.outbox.give(batch.len(), || {
            let (mut unseen, mut why) = (0, None);
            for (posted, sent) in batch.into_iter().zip(sent) {
                if let Err(failure) = &sent {
                    why = Some(failure.clone());
                    self.fall_back(&posted.letter);
                }
                unseen += usize::from(posted.outcome.complete(sent));
            }
            if let Some(why) = why.filter(|_| unseen > 0) {
                self.warn(&format!("{unseen} publications failed: {why}"));
            }
        });
    }
}
