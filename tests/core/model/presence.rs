//! Changes of presence, which threads make at the same time and a broker receives in order.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;
use sse_hub::broker::PresenceChange;
use sse_hub::clock::Clock;
use sse_hub::hub::{Hub, Request};
use sse_hub::ids::StreamId;

use crate::inert_broker::{InertBroker, Notes};
use crate::usual_config::config;
use crate::world::{nobody, topics};

/// The changes of presence, in the order in which the broker got them.
#[derive(Default)]
struct Changes(Mutex<Vec<PresenceChange>>);

impl Changes {
    /// The changes of a topic: whether a subscriber is in it.
    fn of(&self, topic: &str) -> Vec<bool> {
        let changes = self.0.lock().unwrap();
        let of_topic = changes.iter().filter(|change| change.topics.iter().any(|name| **name == *topic));
        of_topic.map(|change| change.is_in).collect()
    }
}

impl Notes for Changes {
    fn presence_changed(&self, change: PresenceChange) {
        self.0.lock().unwrap().push(change);
    }
}

#[test]
fn a_broker_gets_changes_in_their_order_and_before_the_call_returns() {
    let run = || {
        let (hub, broker) = (
            Arc::new(Hub::of_stream(config(), Clock::manual())),
            Arc::new(InertBroker::<Changes>::default()),
        );
        hub.set_broker(broker.clone());
        hub.open_log(StreamId::default(), Vec::new());
        let reader = hub.add_reader(nobody());
        let id = hub.subscribe(&reader, &Request::default()).unwrap().id;
        let threads = [(); 2].map(|()| {
            let (hub, broker) = (hub.clone(), broker.clone());
            thread::spawn(move || {
                assert!(hub.join(id, &topics(&["a"])).unwrap());
                assert!(!broker.0.of("a").is_empty(), "the broker has the change, whichever thread made it");
                assert!(hub.leave(id, &topics(&["a"])));
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        let changes = broker.0.of("a");
        let expected: Vec<bool> = (0..changes.len()).map(|at| at % 2 == 0).collect();
        assert_eq!(changes, expected);
        assert_eq!(changes.len() % 2, 0, "it left last");
    };
    shuttle::check_random(run, 2000);
    shuttle::check_pct(run, 1000, 3);
}
