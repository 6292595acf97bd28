//! Subscribers that move from one reader to another while others publish, kick and close.

use std::collections::HashMap;

use shuttle::sync::Arc;
use sse_hub::change::Who;
use sse_hub::hub::Request;
use sse_hub::identity::{CloseReason, Identity};
use sse_hub::ids::GroupId;
use sse_hub::reader::{Effects, Reader};

use crate::world::{Client, World, assert_no_gap, check, topics};

/// A client of another loop, which the caller's thread is; at the last moment it moves to the world's reader.
struct Mover {
    world: Arc<World>,
    from: std::sync::Arc<Reader>,
    identity: std::sync::Arc<Identity>,
}

impl Mover {
    fn new(world: &Arc<World>) -> Self {
        let from = world.add_reader();
        let request = Request { topics: topics(&["a"]), ..Request::default() };
        let identity = world.hub.subscribe(&from, &request).unwrap();
        Self { world: world.clone(), from, identity }
    }

    fn transferred(&self) -> Client {
        let world = &self.world;
        let identity = world.hub.transfer(&self.from, &world.reader, &self.identity, GroupId(1)).unwrap();
        world.consumer(identity).opened()
    }
}

#[test]
fn a_move_to_another_reader_loses_nothing_and_doubles_nothing() {
    check(1000, |world| {
        let resident = world.subscribe(&["a"], None);
        let mover = Mover::new(world);
        let start = world.publish(&["a"]) - 1;
        let publisher = world.publisher(&["a"], 3);
        // What was published by now is in the subscriber's queue; the rest finds it before or behind the move.
        world.hub.drain(&mover.from, &mut Effects::default());
        let mut client = mover.transferred();
        assert_eq!(client.start(), start);
        client.until(start + 4);
        assert_no_gap(start, &client.got);
        publisher.join().unwrap();
        // The reader it left holds nothing back.
        client.close();
        resident.close();
        let stats: HashMap<_, _> = world.hub.stats().into_iter().collect();
        assert_eq!((stats["backlog_bytes"], stats["subscribers"]), (0, 0));
    });
}

#[test]
fn a_kick_finds_a_subscriber_on_the_move() {
    check(1000, |world| {
        let mover = Mover::new(world);
        let kicker = {
            let id = mover.identity.id;
            world.spawn(move |world| {
                let mine = world.publish(&["a"]);
                assert_eq!(world.hub.disconnect(Who::Id(id), CloseReason::Kicked("out".into())), 1);
                world.publish(&["a"]);
                mine
            })
        };
        let mut client = mover.transferred();
        client.drain_to_end();
        assert_eq!(client.seen, kicker.join().unwrap(), "what came before the kick, and nothing else");
        assert_eq!(client.identity.closed.get(), Some(&CloseReason::Kicked("out".into())));
        client.close();
    });
}

#[test]
fn a_close_from_another_thread_finds_a_subscriber_on_the_move() {
    check(1000, |world| {
        let mover = Mover::new(world);
        let closer = {
            let (from, identity) = (mover.from.clone(), mover.identity.clone());
            world.spawn(move |world| {
                // As a handle does it: where it was known to be, then where it is now.
                if world.hub.close(&from, &identity, CloseReason::CLOSED).is_none()
                    && world
                        .hub
                        .close(&world.reader, identity.current(), CloseReason::CLOSED)
                        .is_some_and(|(_, wake)| wake)
                {
                    world.resume(identity.current().key);
                }
            })
        };
        let mut client = mover.transferred();
        client.drain_to_end();
        closer.join().unwrap();
        client.close();
    });
}
