//! Topics that end over a broker: the log's order decides, and every process follows. Leases, and the runs under them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sse_hub::broker::Broker;
use sse_hub::broker::letter::{Fence, Letter, Step, To};
use sse_hub::ending::{EndState, Ending};
use sse_hub::history::Past;
use sse_hub::hub::Request;
use sse_hub::ids::StreamId;
use sse_hub::outcome::{Failure, Outcome, Sent};
use sse_hub::stream_broker::lease_of_run;
use sse_hub::topic::Topic;

use crate::memory_store::MemoryStore;
use crate::stream_broker::{Client, PATIENCE, Worker, until};
use crate::support::{draft, request, topics};

pub const KEEP: Duration = Duration::from_secs(300);
const BEGIN: Step = Step::Begin { keep: KEEP };

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

    pub fn end(&self, keep: Duration) -> Sent {
        self.step(Step::End { keep, ending: Ending::ENDED }, None)
    }

    fn publish_held(&self, data: &str, token: &str) -> Sent {
        let letter = Letter::Event { to: To::Topics(topics(&["t"]).into()), draft: draft(data) };
        wait(&self.world.hub.post_fenced(letter, Some(held(token))).unwrap())
    }

    fn lease(&self, token: &str) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let asked = self.broker.take_lease(lease_of_run("t"), token.into());
        runtime.block_on(asked).expect("an answer").expect("no failure")
    }

    fn await_lease(&self, token: &str) -> std::thread::JoinHandle<Instant> {
        let asked = self.broker.await_lease(lease_of_run("t"), token.into());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            assert!(runtime.block_on(asked).expect("an answer").expect("no failure"));
            Instant::now()
        })
    }

    fn finds_run(&self) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.broker.find_run(topic())).expect("an answer").expect("no failure")
    }

    fn newcomer(&self) -> Client {
        let all = Request { past: Some(Past::All), ..request(&["t"]) };
        let stream = self.world.subscribe(&all);
        Client { stream, seen: Vec::new(), last: None, has_ended: false }
    }

    fn watcher(&self) -> Client {
        let whole = Request { past: Some(Past::All), follows_run: true, ..request(&["t"]) };
        let stream = self.world.subscribe(&whole);
        Client { stream, seen: Vec::new(), last: None, has_ended: false }
    }

    /// What a newcomer sees to the end of its stream.
    fn whole(&self) -> Vec<String> {
        let mut client = self.newcomer();
        client.until(self, |client| client.has_ended);
        client.seen.retain(|seen| seen != "stream-open");
        client.seen
    }

    /// Publish to another topic.
    pub fn publish_elsewhere(&self) -> StreamId {
        let letter = Letter::Event { to: To::Topics(topics(&["else"]).into()), draft: draft("x") };
        let id = wait(&self.world.hub.post(letter).unwrap()).unwrap().expect("it has an id");
        StreamId::parse(&id.to_string()).unwrap()
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
        assert!(worker.world.has_everything(&["t"], &id));
    }
    assert_eq!((b.publish("2"), b.end(KEEP)), (ended(), ended()));
    // One that starts later knows, and a client that missed the last event gets it there.
    let c = Worker::new(&store);
    until(|| c.state().is_some());
    assert_eq!(c.whole(), ["1", "stream-end"]);
    assert!(c.world.has_everything(&["t"], &id));
    // A client that asks for no past, and is cut behind its first event, comes back for the end.
    let behind = c.publish_elsewhere();
    until(|| c.world.hub.has_followed(behind));
    let mut new = c.resume(None);
    new.until(&c, |client| client.has_ended);
    assert_eq!((&*new.seen, new.last), (&["stream-open".into(), "stream-end".into()][..], Some(id)));
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
    let end = a.end(KEEP).unwrap().expect("it has an id").to_string();
    let behind = a.publish_elsewhere();
    let b = Worker::without_history(&store);
    until(|| b.state().is_some() && b.world.hub.has_followed(behind));
    let mut back = b.resume(Some(&at));
    back.until(&b, |client| client.has_ended);
    back.seen.retain(|seen| !seen.starts_with("stream-open") && seen != "stream-cursor");
    let mut expected: Vec<String> = (200..210).map(|n| n.to_string()).collect();
    expected.push("stream-end".into());
    assert_eq!(back.seen, expected);
    assert_eq!(back.last, Some(end), "it need not come again, although the log goes on behind the end");
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
    let new = StreamId::parse(&b.publish("new").unwrap().unwrap().to_string()).unwrap();
    for worker in [&a, &b] {
        until(|| worker.world.hub.has_followed(new) && worker.state().is_none());
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
    a.step(BEGIN, held("one")).unwrap();
    assert_eq!(b.step(BEGIN, held("two")), Err(Failure::Fenced));
    assert!(a.publish_held("1", "one").is_ok());
    assert_eq!(b.publish_held("2", "two"), Err(Failure::Fenced));
    until(|| *b.world.hub.running() == [(Arc::from("t"), Some(KEEP))]);
    assert!(b.step(Step::Stop, None).is_ok());
    until(|| a.world.hub.take_stop("t"));
    assert!(!a.world.hub.take_stop("t"), "said once");
    let done = Ending { state: EndState::Done, error: None };
    a.step(Step::End { keep: KEEP, ending: done }, held("one")).unwrap();
    a.broker.release(&lease, "one");
    until(|| b.lease("two"));
    assert_eq!(b.step(BEGIN, held("two")), ended());
    assert_eq!(b.whole(), ["1", "stream-end"]);
}

#[test]
fn a_run_that_nobody_holds_is_declared_lost_once() {
    let store = MemoryStore::default();
    let (a, b, c) = (Worker::new(&store), Worker::new(&store), Worker::new(&store));
    assert!(a.lease("one"));
    a.step(BEGIN, held("one")).unwrap();
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

#[test]
fn a_released_lease_wakes_the_process_that_waits_for_it() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    until(|| a.is_connected() && b.is_connected());
    a.await_lease("one").join().unwrap();
    let takes_over = |holder: &Worker, old: &str, other: &Worker, new: &str| {
        let waits = other.await_lease(new);
        // It has tried, and tries again only after a second, or when it is woken.
        std::thread::park_timeout(Duration::from_millis(100));
        assert!(!waits.is_finished());
        let since = Instant::now();
        holder.broker.release(&lease_of_run("t"), old);
        waits.join().unwrap() - since < Duration::from_millis(700)
    };
    // A busy machine may take longer now and then.
    let at_once = (0..5).any(|_| takes_over(&a, "one", &b, "two") || takes_over(&b, "two", &a, "one"));
    assert!(at_once);
    let (a, b) = if a.broker.holds(&lease_of_run("t"), "one") { (b, a) } else { (a, b) };
    // A broker that stops releases its leases in the same way.
    let waits = a.await_lease("three");
    b.broker.stop();
    waits.join().unwrap();
}

/// The holder before it may have begun the run, and died. A process that is behind would begin it again.
#[test]
fn who_takes_a_lease_has_read_what_its_former_holders_wrote() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    until(|| a.is_connected() && b.is_connected());
    assert!(a.lease("one"));
    store.with(|memory| memory.is_held = true);
    a.step(BEGIN, held("one")).unwrap();
    a.broker.release(&lease_of_run("t"), "one");
    store.with(crate::memory_store::Memory::expire_leases);
    let asked = b.broker.take_lease(lease_of_run("t"), "two".into());
    let takes = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(asked).expect("an answer").expect("no failure")
    });
    std::thread::park_timeout(Duration::from_millis(100));
    assert!(!takes.is_finished(), "it has yet to read that there is a run");
    store.with(|memory| memory.is_held = false);
    assert!(takes.join().unwrap());
    assert_eq!(b.world.hub.is_followed("t"), Some(true));
}

#[test]
fn a_lease_that_is_no_longer_waited_for_stays_free() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    until(|| a.is_connected() && b.is_connected());
    a.await_lease("one").join().unwrap();
    let given_up = b.broker.await_lease(lease_of_run("t"), "two".into());
    b.broker.release(&lease_of_run("t"), "two");
    a.broker.release(&lease_of_run("t"), "one");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(given_up), Some(Ok(false)));
    until(|| a.lease("three"));
}

#[test]
fn a_process_that_starts_when_all_of_a_run_is_trimmed_knows_its_end() {
    let store = MemoryStore::default();
    let a = Worker::new(&store);
    until(|| a.is_connected());
    assert!(!a.finds_run() && a.lease("one"));
    a.step(BEGIN, held("one")).unwrap();
    a.publish_held("1", "one").unwrap();
    let failed = Ending { state: EndState::Failed, error: Some("two\nlines".into()) };
    let end = a.step(Step::End { keep: KEEP, ending: failed.clone() }, held("one")).unwrap().unwrap();
    a.broker.release(&lease_of_run("t"), "one");
    a.publish_elsewhere();
    until(|| !a.broker.is_behind_itself());
    store.with(|memory| memory.trim(1));
    let b = Worker::new(&store);
    until(|| b.is_connected());
    assert_eq!((b.world.hub.is_followed("t"), b.finds_run()), (Some(false), true));
    assert_eq!(b.world.hub.ending("t"), Some(failed));
    assert!(b.world.has_everything(&["t"], &end.to_string()));
    assert!(!b.world.has_everything(&["t"], "1-0"));
    assert_eq!(b.whole(), ["stream-end"], "what it was is gone");
    assert_eq!(b.world.hub.running(), []);
    // Nobody ever spoke of this one.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let other = b.broker.find_run(Topic::new("other").unwrap());
    assert_eq!(runtime.block_on(other), Some(Ok(false)));
}

/// A worker whose run has begun.
fn with_run(store: &MemoryStore) -> Worker {
    let worker = Worker::new(store);
    until(|| worker.is_connected());
    assert!(worker.lease("one"));
    worker.step(BEGIN, held("one")).unwrap();
    worker
}

#[test]
fn a_process_that_starts_when_the_beginning_of_a_run_is_trimmed_follows_the_rest() {
    let store = MemoryStore::default();
    let a = with_run(&store);
    a.publish_held("1", "one").unwrap();
    a.publish_held("2", "one").unwrap();
    store.with(|memory| memory.trim(1));
    let b = Worker::new(&store);
    until(|| b.is_connected());
    assert_eq!((b.world.hub.is_followed("t"), b.finds_run()), (Some(false), true));
    assert_eq!(b.world.hub.running(), [(Arc::from("t"), None)]);
    // The only process that saw its beginning dies, and its lease runs out.
    drop(a);
    store.with(crate::memory_store::Memory::expire_leases);
    until(|| b.state() == Some(EndState::Lost));
    assert_eq!(b.whole(), ["2", "stream-end"]);
}

#[test]
fn a_run_is_lost_when_one_that_did_not_know_of_it_begins() {
    let store = MemoryStore::default();
    let (a, b) = (with_run(&store), Worker::new(&store));
    until(|| b.is_connected());
    let mut watcher = b.live();
    a.publish_held("1", "one").unwrap();
    // What `b` has read, the log keeps no longer; its owner dies, and a new process asks before `b` says that it is lost.
    store.with(|memory| memory.trim(1));
    let c = Worker::new(&store);
    until(|| c.is_connected());
    drop(a);
    store.with(|memory| {
        memory.expire_leases();
        memory.pass_lease(&lease_of_run("t"), "two");
    });
    assert_eq!(c.world.hub.is_followed("t"), Some(false));
    let ended = b.broker.watch_end(topic());
    c.step(BEGIN, held("two")).unwrap();
    c.publish_held("2", "two").unwrap();
    watcher.until(&b, |client| client.has_ended);
    assert_eq!(watcher.seen, ["1", "stream-end"]);
    assert_eq!(ended(), Some(EndState::Lost));
    // The next run is another one, everywhere.
    for worker in [&b, &c] {
        assert_eq!(worker.world.hub.running(), [(Arc::from("t"), Some(KEEP))]);
        let mut newcomer = worker.newcomer();
        newcomer.until(worker, |client| client.seen.contains(&"2".into()));
        assert_eq!(newcomer.seen, ["stream-open", "2"]);
    }
}

#[test]
fn a_process_that_missed_the_end_of_a_run_in_a_gap_learns_it() {
    let store = MemoryStore::default();
    let (a, b) = (with_run(&store), Worker::new(&store));
    until(|| b.is_connected());
    let mut watcher = b.live();
    until(|| !b.world.hub.running().is_empty());
    store.with(|memory| memory.is_held = true);
    a.step(Step::End { keep: KEEP, ending: Ending { state: EndState::Done, error: None } }, held("one"))
        .unwrap();
    a.broker.release(&lease_of_run("t"), "one");
    a.publish_elsewhere();
    store.with(|memory| {
        memory.trim(1);
        memory.is_held = false;
    });
    watcher.until(&b, |client| client.has_ended);
    assert_eq!(watcher.seen, ["stream-reset", "stream-end"]);
    assert_eq!(b.state(), Some(EndState::Done));
    // The ids behind the gap are later than that of the end. A client that was cut before the end has such a one.
    let end = watcher.last.unwrap();
    assert!(b.world.has_everything(&["t"], &end));
    let later = b.publish_elsewhere();
    until(|| b.world.hub.has_followed(later));
    assert!(!b.world.has_everything(&["t"], &later.to_string()));
    let mut back = b.resume(Some(&later.to_string()));
    back.until(&b, |client| client.has_ended);
    assert_eq!(back.seen, ["stream-open", "stream-end"]);
    assert_eq!(back.last, Some(end));
}

#[test]
fn a_lost_run_is_kept_as_long_as_it_asked_for() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    assert!(a.lease("one"));
    a.step(Step::Begin { keep: Duration::ZERO }, held("one")).unwrap();
    let mut watcher = b.live();
    a.broker.release(&lease_of_run("t"), "one");
    store.with(crate::memory_store::Memory::expire_leases);
    watcher.until(&b, |client| client.has_ended);
    assert_eq!(b.step(BEGIN, None).map(drop), Ok(()), "its name is free");
}

#[test]
fn a_run_that_has_yet_to_begin_is_not_taken_for_one_that_is_trimmed() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    until(|| a.is_connected() && b.is_connected());
    assert!(a.lease("one") && b.finds_run());
    let mut early = b.watcher();
    a.step(BEGIN, held("one")).unwrap();
    until(|| b.world.hub.running() == [(Arc::from("t"), Some(KEEP))]);
    a.publish_held("1", "one").unwrap();
    early.until(&b, |client| client.seen == ["stream-open", "1"]);
}

#[test]
fn a_run_whose_owner_dies_before_it_begins_is_lost_to_its_watchers_and_leaves_its_name_free() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    until(|| a.is_connected() && b.is_connected());
    assert!(a.lease("one") && b.finds_run());
    let mut early = b.watcher();
    a.broker.release(&lease_of_run("t"), "one");
    store.with(crate::memory_store::Memory::expire_leases);
    early.until(&b, |client| client.has_ended);
    assert_eq!(early.seen, ["stream-open", "stream-end"]);
    assert!(b.lease("two"));
    assert_eq!(b.step(BEGIN, held("two")).map(drop), Ok(()));
}

#[test]
fn a_run_whose_first_owner_died_before_it_began_is_whole_when_the_next_one_begins_it() {
    let store = MemoryStore::default();
    let a = Worker::new(&store);
    until(|| a.is_connected());
    (0..3).for_each(|_| _ = a.publish_elsewhere());
    store.with(|memory| memory.trim(1));
    let b = Worker::new(&store);
    until(|| b.is_connected());
    assert!(a.lease("one"));
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| (b.finds_run(), b.world.hub.running()));
        // `b` waits for the beginning, and the lease passes on.
        until(|| store.with(|memory| memory.asked_for_holder) == 2);
        store.with(|memory| memory.pass_lease(&lease_of_run("t"), "two"));
        assert!(a.lease("two"));
        // `b` has given the first owner its time.
        until(|| store.with(|memory| memory.asked_for_holder) >= 3);
        a.step(BEGIN, held("two")).unwrap();
        // One whose beginning `b` has read, not one that was trimmed.
        assert_eq!(asks.join().unwrap(), (true, vec![(Arc::from("t"), Some(KEEP))]));
    });
}

/// As that of a run that has just ended, and whose name is free.
#[test]
fn there_is_no_run_as_soon_as_a_lease_without_one_is_released() {
    let store = MemoryStore::default();
    let (a, b) = (Worker::new(&store), Worker::new(&store));
    until(|| a.is_connected() && b.is_connected());
    assert!(a.lease("one"));
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| b.finds_run());
        until(|| store.with(|memory| memory.asked_for_holder) == 1);
        let since = Instant::now();
        a.broker.release(&lease_of_run("t"), "one");
        assert!(!asks.join().unwrap());
        assert!(since.elapsed() < Duration::from_secs(4), "one that has yet to begin has five");
    });
}
