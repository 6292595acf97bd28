//! Changes of presence, which threads make at the same time and a broker receives in order.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;
use sse_hub::broker::letter::{Fence, Letter};
use sse_hub::broker::{Answered, Broker, PresenceChange, Present};
use sse_hub::clock::Clock;
use sse_hub::error::Result;
use sse_hub::hub::{Hub, Request};
use sse_hub::ids::{StreamId, SubscriberId};
use sse_hub::outcome::{Failure, Outcome, ReportFailure};

use crate::world::{config, nobody, topics};

/// A broker that notes the changes of presence.
#[derive(Default)]
struct Notes(Mutex<Vec<PresenceChange>>);

impl Notes {
    /// The changes of a topic: whether a subscriber is in it.
    fn of(&self, topic: &str) -> Vec<bool> {
        let changes = self.0.lock().unwrap();
        let of_topic = changes.iter().filter(|change| change.topics.iter().any(|name| **name == *topic));
        of_topic.map(|change| change.is_in).collect()
    }
}

impl Broker for Notes {
    fn presence_changed(&self, change: PresenceChange) {
        self.0.lock().unwrap().push(change);
    }

    fn post(&self, _letter: Letter, _fence: Option<Fence>) -> Result<Arc<Outcome>> {
        Ok(Arc::default())
    }

    fn take_lease(&self, _name: Arc<str>, _token: Arc<str>) -> Answered<bool> {
        Box::pin(std::future::ready(None))
    }

    fn is_leased(&self, _name: Arc<str>) -> Answered<bool> {
        Box::pin(std::future::ready(None))
    }

    fn holds(&self, _name: &str, _token: &str) -> bool {
        false
    }

    fn release(&self, _name: &str, _token: &str) {}

    fn resolve(&self, _subscriber: SubscriberId, _asked: Option<StreamId>) {}

    fn present(&self, _topic: Option<String>) -> Present {
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

impl ReportFailure for Notes {
    fn report_unseen(&self, _failure: &Failure) {}
}

#[test]
fn a_broker_gets_changes_in_their_order_and_before_the_call_returns() {
    let run = || {
        let (hub, notes) = (Arc::new(Hub::of_stream(config(), Clock::manual())), Arc::new(Notes::default()));
        hub.set_broker(notes.clone());
        hub.open_log(StreamId::default(), Vec::new());
        let reader = hub.add_reader(nobody());
        let id = hub.subscribe(&reader, &Request::default()).unwrap().id;
        let threads = [(); 2].map(|()| {
            let (hub, notes) = (hub.clone(), notes.clone());
            thread::spawn(move || {
                assert!(hub.join(id, &topics(&["a"])).unwrap());
                assert!(!notes.of("a").is_empty(), "the broker has the change, whichever thread made it");
                assert!(hub.leave(id, &topics(&["a"])));
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        let changes = notes.of("a");
        let expected: Vec<bool> = (0..changes.len()).map(|at| at % 2 == 0).collect();
        assert_eq!(changes, expected);
        assert_eq!(changes.len() % 2, 0, "it left last");
    };
    shuttle::check_random(run, 2000);
    shuttle::check_pct(run, 1000, 3);
}
