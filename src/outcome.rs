//! The outcome of a publication through a broker, which any number of waiters may await.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use thiserror::Error;

use crate::ids::EventId;
use crate::sync::assert_unlocked;

/// Why a publication has no id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// Nothing was published.
    #[error("{0}; nothing was published")]
    Refused(Arc<str>),
    /// Nothing was published: a topic has ended.
    #[error("topic {0:?} has ended; nothing was published")]
    Ended(Arc<str>),
    /// Nothing was published: the lease that is needed for it is another's, or has run out.
    #[error("this process does not hold the lease any more; nothing was published")]
    Fenced,
    /// It was sent, and the reply was lost: it may have been published.
    #[error("{0}; the event may have been published or not")]
    Unknown(Arc<str>),
}

/// The id (`None` for an event without one), or why there is none.
pub type Sent = Result<Option<EventId>, Failure>;

#[derive(Debug)]
struct State {
    sent: Option<Sent>,
    wakers: Vec<Waker>,
    /// A caller has seen it.
    seen: bool,
    /// How many callers may still ask or wait.
    askers: usize,
}

impl Default for State {
    fn default() -> Self {
        Self { sent: None, wakers: Vec::new(), seen: false, askers: 1 }
    }
}

/// An outcome that becomes known later. Any thread may wait for it.
#[derive(Debug, Default)]
pub struct Outcome {
    state: Mutex<State>,
    known: Condvar,
}

impl Outcome {
    /// The outcome, if it is known.
    #[must_use]
    pub fn get(&self) -> Option<Sent> {
        self.state.lock().sent.clone()
    }

    /// As [`Outcome::get`], for a caller that handles a failure.
    #[must_use]
    pub fn look(&self) -> Option<Sent> {
        let mut state = self.state.lock();
        state.seen |= state.sent.is_some();
        state.sent.clone()
    }

    /// Set the outcome, unless it is known. True when it is a failure that no caller is left to see.
    pub fn complete(&self, sent: Sent) -> bool {
        assert_unlocked();
        let mut state = self.state.lock();
        if state.sent.is_some() {
            return false;
        }
        let unseen = sent.is_err() && state.askers == 0 && !state.seen;
        state.sent = Some(sent);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.known.notify_all();
        for waker in wakers {
            waker.wake();
        }
        unseen
    }

    /// Nobody will ask, and a failure is not worth a word.
    pub fn ignore(&self) {
        self.state.lock().seen = true;
    }

    /// A caller that could ask is gone. With the last one, a failure that none has seen is returned.
    pub fn abandon(&self) -> Option<Failure> {
        let mut state = self.state.lock();
        state.askers -= 1;
        let unseen = state.askers == 0 && !state.seen;
        state.sent.clone().and_then(Result::err).filter(|_| unseen)
    }

    /// Wait for the outcome, at most until `deadline`.
    #[must_use]
    pub fn wait_until(&self, deadline: Instant) -> Option<Sent> {
        let mut state = self.state.lock();
        while state.sent.is_none() {
            if self.known.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.seen |= state.sent.is_some();
        state.sent.clone()
    }
}

/// Reports failures that no caller has seen.
pub trait ReportFailure: Send + Sync {
    /// Report a failed publication.
    fn report_unseen(&self, failure: &Failure);
}

/// Awaits an outcome. When it is dropped before, a failure that no caller sees is reported.
pub struct Waiting {
    outcome: Arc<Outcome>,
    reporter: Option<Arc<dyn ReportFailure>>,
}

impl Waiting {
    /// Await an outcome. `reporter` is `None` for an outcome that cannot fail.
    #[must_use]
    pub fn new(outcome: Arc<Outcome>, reporter: Option<Arc<dyn ReportFailure>>) -> Self {
        outcome.state.lock().askers += 1;
        Self { outcome, reporter }
    }
}

impl Future for Waiting {
    type Output = Sent;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Sent> {
        let mut state = self.outcome.state.lock();
        if let Some(sent) = state.sent.clone() {
            state.seen = true;
            return Poll::Ready(sent);
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            state.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(failure) = self.outcome.abandon()
            && let Some(reporter) = &self.reporter
        {
            reporter.report_unseen(&failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused() -> Sent {
        Err(Failure::Refused("no".into()))
    }

    #[test]
    fn the_first_outcome_stays() {
        let outcome = Outcome::default();
        assert_eq!(outcome.get(), None);
        assert!(!outcome.complete(Ok(None)));
        assert!(!outcome.complete(refused()));
        assert_eq!(outcome.look(), Some(Ok(None)));
    }

    #[test]
    fn an_unseen_failure_is_reported_once() {
        let reported_on_drop = Outcome::default();
        assert!(!reported_on_drop.complete(refused()), "a caller may still ask");
        assert_eq!(reported_on_drop.abandon(), Some(Failure::Refused("no".into())));
        let reported_when_known = Outcome::default();
        assert_eq!(reported_when_known.abandon(), None);
        assert!(reported_when_known.complete(refused()));
        let seen = Outcome::default();
        let _ = seen.complete(refused());
        assert!(seen.look().is_some());
        assert_eq!(seen.abandon(), None);
    }

    #[test]
    fn a_thread_waits() {
        let outcome = Arc::new(Outcome::default());
        assert_eq!(outcome.wait_until(Instant::now() + Duration::from_millis(1)), None);
        let other = outcome.clone();
        let waiter = std::thread::spawn(move || other.wait_until(Instant::now() + Duration::from_secs(60)));
        let _ = outcome.complete(Ok(None));
        assert_eq!(waiter.join().unwrap(), Some(Ok(None)));
    }
}
