//! Topics that end over a broker: the log's order decides, and every process follows. Leases, and the runs under them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sse_hub::broker::Broker;
use sse_hub::broker::letter::{Fence, Letter, Step, To};
use sse_hub::ending::{EndState, Ending};
use sse_hub::history::Past;
use sse_hub::hub::Request;
use sse_hub::outcome::{Failure, Outcome, Sent};
use sse_hub::stream_broker::lease_of_run;
use sse_hub::topic::Topic;

use crate::memory_store::MemoryStore;
use crate::stream_broker::{Client, PATIENCE, Worker, until};
use crate::support::{draft, request, topics};

const KEEP: Duration = Duration::from_secs(300);

fn ended() -> Sent {
    Err(Failure::Ended("t".into()))
}

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

fn wait(outcome: &Arc<Outcome>) -> Sent {
    outcome.wait_until(Instant::now() + PATIENCE).expect("an outcome")
}

fn held(token: &str) -> Fence {
    Fence::Held { lease: lease_of_run("t"), token: token.into() }
}

impl Worker {
    fn step(&self, step: Step, fence: impl Into<Option<Fence>>) -> Sent {
        let letter = Letter::Life { topic: topic(), step };
        wait(&self.world.hub.post_fenced(letter, fence.into()).unwrap())
    }

    fn end(&self, keep: Duration) -> Sent {
        self.step(Step::End { keep, ending: Ending::ENDED }, None)
    }

    fn publish_held(&self, data: &str, token: &str) -> Sent {
        let letter = Letter::Event { to: To::Topics(topics(&["t"])), draft: draft(data) };
        wait(&self.world.hub.post_fenced(letter, Some(held(token))).unwrap())
    }

    fn lease(&self, token: &str) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let asked = self.broker.take_lease(lease_of_run("t"), token.into());
        runtime.block_on(asked).expect("an answer").expect("no failure")
    }

    fn newcomer(&self) -> Client {
        let all = Request { past: Some(Past::All), ..request(&["t"]) };
        let stream = self.world.subscribe(&all);
        Client { stream, seen: Vec::new(), last: None, has_ended: false }
    }

    /// What a newcomer sees to the end of its stream.
    fn whole(&self) -> Vec<String> {
        let mut client = self.newcomer();
        client.until(self, |client| client.has_ended);
        client.seen.retain(|seen| seen != "stream-open");
        client.seen
    }

    fn state(&self) -> Option<EndState> {
        self.world.hub.ending("t").map(|ending| ending.state)
    }
}

#[test]
fn an_end_is_everybodys() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    let (mut one, mut two) = (a.live(), b.live());
    a.publish("1").unwrap();
    let id = a.end(KEEP).unwrap().expect("it has an id").to_string();
    for (client, worker) in [(&mut one, &a), (&mut two, &b)] {
        client.until(worker, |client| client.has_ended);
        assert_eq!(client.seen, ["1", "stream-end"]);
        assert_eq!(client.last.as_deref(), Some(&*id));
        assert!(worker.world.hub.is_over(&[topic()], &id));
    }
    assert_eq!((b.publish("2"), b.end(KEEP)), (ended(), ended()));
    // One that starts later knows, and a client that missed the last event gets it there.
    let c = Worker::new(&store);
    until(|| c.state().is_some());
    assert_eq!(c.whole(), ["1", "stream-end"]);
    assert!(c.world.hub.is_over(&[topic()], &id));
    let d = Worker::without_history(&store);
    until(|| d.state().is_some());
    assert_eq!(d.whole().last().map(String::as_str), Some("stream-end"));
}

#[test]
fn a_client_fetches_what_it_missed_before_the_end() {
    let store = MemoryStore::default();
    let a = Worker::new(&store);
    for n in 0..200 {
        a.publish(&n.to_string()).unwrap();
    }
    // What was published comes back from the log a moment later.
    until(|| !a.broker.is_behind_itself());
    let mut reader = a.resume(None);
    reader.until(&a, |client| client.last.is_some());
    let at = reader.last.clone().unwrap();
    for n in 200..210 {
        a.publish(&n.to_string()).unwrap();
    }
    a.end(KEEP).unwrap();
    let b = Worker::without_history(&store);
    until(|| b.state().is_some());
    let mut back = b.resume(Some(&at));
    back.until(&b, |client| client.has_ended);
    back.seen.retain(|seen| !seen.starts_with("stream-open") && seen != "stream-cursor");
    let mut expected: Vec<String> = (200..210).map(|n| n.to_string()).collect();
    expected.push("stream-end".into());
    assert_eq!(back.seen, expected);
}

#[test]
fn an_end_and_a_publish_that_race_are_decided_by_the_log() {
    for _ in 0..20 {
        let store = MemoryStore::default();
        let (a, b) = (Worker::new(&store), Worker::new(&store));
        until(|| a.is_connected() && b.is_connected());
        let posted: Vec<_> = (0..20).map(|n| a.post(&n.to_string())).collect();
        let end = Step::End { keep: KEEP, ending: Ending::ENDED };
        let end = b.world.hub.post(Letter::Life { topic: topic(), step: end }).unwrap();
        let more: Vec<_> = (20..40).map(|n| a.post(&n.to_string())).collect();
        assert!(wait(&end).is_ok());
        let published: Vec<String> = (0..40)
            .zip(posted.iter().chain(&more))
            .filter(|(_, outcome)| wait(outcome).is_ok())
            .map(|(n, _)| n.to_string())
            .collect();
        assert!(posted.iter().chain(&more).all(|outcome| wait(outcome).is_ok() || wait(outcome) == ended()));
        for worker in [&a, &b] {
            until(|| worker.state().is_some());
            let mut seen = worker.whole();
            assert_eq!(seen.pop().as_deref(), Some("stream-end"));
            assert_eq!(seen, published, "what was acknowledged, and nothing else");
        }
    }
}

#[test]
fn a_name_is_free_again_for_all() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    a.publish("old").unwrap();
    a.end(Duration::ZERO).unwrap();
    b.publish("new").unwrap();
    for worker in [&a, &b] {
        until(|| worker.state().is_none());
        let mut client = worker.newcomer();
        client.until(worker, |client| client.seen.iter().any(|seen| seen == "new"));
        assert!(!client.has_ended && !client.seen.contains(&"old".to_owned()));
    }
}

#[test]
fn one_holds_a_lease_and_only_it_writes() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    until(|| a.is_connected() && b.is_connected());
    assert!(a.lease("one") && !b.lease("two") && a.lease("one"));
    let lease = lease_of_run("t");
    assert!(
        a.broker.holds(&lease, "one") && !a.broker.holds(&lease, "two") && !b.broker.holds(&lease, "two")
    );
    a.step(Step::Begin, held("one")).unwrap();
    assert_eq!(b.step(Step::Begin, held("two")), Err(Failure::Fenced));
    assert!(a.publish_held("1", "one").is_ok());
    assert_eq!(b.publish_held("2", "two"), Err(Failure::Fenced));
    until(|| *b.world.hub.running() == [Arc::from("t")]);
    assert!(b.step(Step::Stop, None).is_ok());
    until(|| a.world.hub.take_stop("t"));
    assert!(!a.world.hub.take_stop("t"), "said once");
    let done = Ending { state: EndState::Done, error: None };
    a.step(Step::End { keep: KEEP, ending: done }, held("one")).unwrap();
    a.broker.release(&lease, "one");
    until(|| b.lease("two"));
    assert_eq!(b.step(Step::Begin, held("two")), ended());
    assert_eq!(b.whole(), ["1", "stream-end"]);
}

#[test]
fn a_run_that_nobody_holds_is_declared_lost_once() {
    let store = MemoryStore::default();
    let (a, b, c) = (Worker::new(&store), Worker::new(&store), Worker::new(&store));
    assert!(a.lease("one"));
    a.step(Step::Begin, held("one")).unwrap();
    a.publish_held("1", "one").unwrap();
    let mut watcher = b.live();
    // Its process is paused: it renews nothing.
    a.broker.release(&lease_of_run("t"), "one");
    store.with(crate::memory_store::Memory::expire_leases);
    let since = Instant::now();
    watcher.until(&b, |client| client.has_ended);
    assert!(since.elapsed() < Duration::from_secs(10), "watchers wait for less");
    // It may have come before this process had read the event.
    watcher.seen.retain(|seen| seen != "1");
    assert_eq!(watcher.seen, ["stream-end"]);
    for worker in [&a, &b, &c] {
        until(|| worker.state() == Some(EndState::Lost));
    }
    assert_eq!(a.publish_held("2", "one"), ended(), "it writes no more");
    assert_eq!(c.whole(), ["1", "stream-end"]);
}

#[test]
fn a_broker_that_stops_gives_its_leases_up() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    until(|| a.is_connected() && b.is_connected());
    assert!(a.lease("one"));
    assert_eq!(a.broker.finish(), 0);
    assert!(b.lease("two"));
}
