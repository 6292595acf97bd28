//! A broker that connects nothing and answers nothing: a test plays its part, and reads its hub's calls.

use std::sync::Arc;

use sse_hub::broker::letter::{Fence, Letter};
use sse_hub::broker::{Answered, Broker, PresenceChange, Present, WatchedEnd};
use sse_hub::ending::EndState;
use sse_hub::error::Result;
use sse_hub::ids::{StreamId, SubscriberId};
use sse_hub::outcome::{Failure, Outcome, ReportFailure};
use sse_hub::topic::Topic;

/// What a test writes down of the hub's calls.
pub trait Notes: Send + Sync + 'static {
    fn resolve(&self, _subscriber: SubscriberId, _asked: Option<StreamId>) {}

    fn presence_changed(&self, _change: PresenceChange) {}
}

#[derive(Default)]
pub struct InertBroker<N>(pub N);

impl<N: Notes> Broker for InertBroker<N> {
    fn post(&self, _letter: Letter, _fence: Option<Fence>) -> Result<Arc<Outcome>> {
        Ok(Arc::default())
    }

    fn take_lease(&self, _name: Arc<str>, _token: Arc<str>) -> Answered<bool> {
        Box::pin(std::future::ready(None))
    }

    fn await_lease(&self, _name: Arc<str>, _token: Arc<str>) -> Answered<bool> {
        Box::pin(std::future::ready(None))
    }

    fn find_run(&self, _topic: Topic) -> Answered<bool> {
        Box::pin(std::future::ready(None))
    }

    fn run_changed(&self, _topic: Topic, _token: Option<Arc<str>>) -> Answered<Option<EndState>> {
        Box::pin(std::future::ready(None))
    }

    fn watch_end(&self, _topic: Topic) -> WatchedEnd {
        Box::new(|| None)
    }

    fn lost(&self, _name: Arc<str>, _token: Arc<str>) -> Answered<()> {
        Box::pin(std::future::ready(None))
    }

    fn holds(&self, _name: &str, _token: &str) -> bool {
        false
    }

    fn release(&self, _name: &str, _token: &str) {}

    fn resolve(&self, subscriber: SubscriberId, asked: Option<StreamId>) {
        self.0.resolve(subscriber, asked);
    }

    fn look_for_ends(&self) {}

    fn presence_changed(&self, change: PresenceChange) {
        self.0.presence_changed(change);
    }

    fn present(&self, _topic: Option<String>) -> Present {
        Box::pin(std::future::ready(None))
    }

    fn claim(&self, _user: Arc<str>, _subscriber: SubscriberId, _limit: usize) -> Answered<bool> {
        Box::pin(std::future::ready(None))
    }

    fn is_connected(&self) -> bool {
        true
    }

    fn is_behind_itself(&self) -> bool {
        false
    }

    fn unsent(&self) -> usize {
        0
    }

    fn failed(&self) -> u64 {
        0
    }

    fn stop(&self) {}

    fn has_ended(&self) -> bool {
        true
    }

    fn wait_sent(&self) -> usize {
        0
    }

    fn finish(&self) -> usize {
        0
    }

    fn report_given_up(&self, _letters: usize) {}
}

impl<N: Notes> ReportFailure for InertBroker<N> {
    fn report_unseen(&self, _failure: &Failure) {}
}
