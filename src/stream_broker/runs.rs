//! Runs that this process does not drive. It declares those lost whose lease nobody holds; the log's order decides that
//! this happens once. It asks the store about those that it does not follow: the log may have trimmed them.

use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::lives::Change;
use super::shared::Shared;
use super::store::{Answer, Store, StoreError};
use crate::broker::letter::{Fence, Letter, Step};
use crate::ending::{EndState, Ending};
use crate::outcome::{Failure, Waiting};
use crate::stats::count;
use crate::topic::Topic;

/// How long a lost run is kept of which this process has not read the beginning.
const KEEP_LOST: Duration = Duration::from_secs(300);
/// How long another process may take to begin a run of which it has the lease, and this one to read that.
const BEGINNING: Duration = Duration::from_secs(5);
/// How long it takes to release the lease of a run that has ended, and whose name is free: nothing else tells it from
/// one that has yet to begin.
const ENDING: Duration = Duration::from_millis(200);

/// The lease of a run.
#[must_use]
pub fn lease_of(topic: &str) -> Arc<str> {
    format!("run:{topic}").into()
}

impl<S: Store> Shared<S> {
    /// Find out whether there is a run that this process does not follow. If there is, the hub follows it from now on.
    pub async fn find_run(&self, topic: &Topic) -> Result<bool, Failure> {
        self.ask_for_run(topic).await.map_err(|error| {
            let place = self.store.place();
            Failure::Refused(format!("{place} did not say whether there is a run {topic:?}: {error}").into())
        })
    }

    async fn ask_for_run(&self, topic: &Topic) -> Answer<bool> {
        let lease = lease_of(topic.as_str());
        // Before the end: a run that ends in between is found by that.
        if let Some(holder) = self.store.holder(&lease).await?
            && self.find_running(topic, &lease, holder).await?
        {
            return Ok(true);
        }
        let asked = Instant::now();
        let Some((_, ended)) = self.store.ended(slice::from_ref(topic)).await?.pop() else {
            return Ok(self.follows(topic));
        };
        if !self.has_followed(ended.id) {
            let mut progress = self.progress.subscribe();
            let reached = progress.wait_for(|at| at.is_some_and(|at| at >= ended.id));
            if tokio::time::timeout(BEGINNING, reached).await.is_err() {
                let text = format!("this process has not read up to its end within {BEGINNING:?}");
                return Err(StoreError::refused(text));
            }
        }
        self.adopt_end(topic, &ended, asked);
        Ok(self.follows(topic))
    }

    /// A process has the lease of a run. False when it had it only for a moment.
    async fn find_running(&self, topic: &Topic, lease: &str, mut holder: String) -> Answer<bool> {
        let mut patience = ENDING;
        loop {
            if self.until_followed(topic, patience).await {
                return Ok(true);
            }
            match self.store.holder(lease).await? {
                None => return Ok(false),
                Some(same) if same == holder && patience == BEGINNING => break,
                // When the former holder died before it began the run, this one has its own time to begin it.
                Some(next) => holder = next,
            }
            patience = BEGINNING;
        }
        if let Some(hub) = self.hub.upgrade() {
            // The log no longer has its beginning.
            hub.adopt_run(topic);
            self.lives.changed(topic, None);
        }
        Ok(true)
    }

    /// Whether the hub follows a run within a time.
    async fn until_followed(&self, topic: &Topic, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let is_followed = loop {
            let mut changed = self.lives.watch(topic);
            if self.follows(topic) {
                break true;
            }
            if tokio::time::timeout_at(until.into(), changed.changed()).await.is_err() {
                break false;
            }
        };
        self.lives.tidy(topic);
        is_followed
    }

    /// Wait for the next change of a run, or until this process loses the run's lease, which it holds with `token`, or
    /// the broker stops. Returns how the run has ended, if that is what has happened: its name may be free by now.
    pub async fn until_changed(
        &self,
        topic: &Topic,
        token: Option<&str>,
        mut changed: watch::Receiver<Change>,
    ) -> Change {
        let lost = async {
            match token {
                Some(token) => self.until_lost(&lease_of(topic.as_str()), token).await,
                None => std::future::pending().await,
            }
        };
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            _ = changed.changed() => *changed.borrow(),
            () = lost => None,
            _ = stopping.wait_for(|stopping| *stopping) => None,
        }
    }

    fn follows(&self, topic: &Topic) -> bool {
        self.hub.upgrade().is_some_and(|hub| hub.is_followed(topic.as_str()) == Some(true))
    }

    /// Declare those runs lost that nobody held at the last check either. Returns those that nobody holds.
    pub async fn look_after_runs(self: &Arc<Self>, before: &[Arc<str>]) -> Vec<Arc<str>> {
        let Some(hub) = self.hub.upgrade() else { return Vec::new() };
        let mut orphans = Vec::new();
        for (name, keep) in hub.running() {
            let lease = lease_of(&name);
            if !matches!(self.store.holder(&lease).await, Ok(None)) {
                continue;
            }
            if before.contains(&name)
                && let Ok(topic) = Topic::new(&name)
            {
                let asked = Instant::now();
                if let Ok(mut ended) = self.store.ended(slice::from_ref(&topic)).await {
                    match ended.pop() {
                        // Its end was in a gap of the log.
                        Some((_, ended)) => self.adopt_end(&topic, &ended, asked),
                        None => self.declare_lost(topic, keep.unwrap_or(KEEP_LOST), lease),
                    }
                }
            }
            orphans.push(name);
        }
        orphans
    }

    /// Another process may be first, or the run's owner may come back: the log decides.
    fn declare_lost(self: &Arc<Self>, topic: Topic, keep: Duration, lease: Arc<str>) {
        let name = topic.clone();
        let ending = Ending { state: EndState::Lost, error: None };
        let letter = Letter::Life { topic, step: Step::End { keep, ending } };
        let Ok(outcome) = self.outbox.post(letter, Some(Fence::Free { lease }), self.backlog_bytes) else {
            return;
        };
        outcome.ignore();
        let shared = self.clone();
        tokio::spawn(async move {
            if Waiting::new(outcome, None).await.is_ok() {
                if let Some(hub) = shared.hub.upgrade() {
                    count(&hub.counters.runs_lost, 1);
                }
                shared.warn(&format!(
                    "run {:?} is lost: its process ended, and did not end the run",
                    name.as_str()
                ));
            }
        });
    }
}
