//! Compressed streams beside twins that are not: whatever happens to both, the one decodes to what the other gets.

use proptest::prelude::*;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::queue::OverflowPolicy;
use sse_hub::subscriber::Taken;

use crate::compress::{Client, roomy, take, tick};
use crate::support::{MS, Stream, World, cases, draft, request, topics};

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish {
        topic: usize,
        size: usize,
        key: Option<u64>,
    },
    Burst(usize),
    Broadcast,
    Send(usize),
    /// One visit, or all.
    Read {
        client: usize,
        all: bool,
    },
    ReadAll,
    Wait(u64),
    Join {
        set: usize,
        back: bool,
        kind: usize,
    },
    Move {
        client: usize,
        topic: usize,
    },
    Close(usize),
}

const TOPICS: [&str; 4] = ["a", "b", "user:1", "user:2"];
const SETS: [&[&str]; 5] = [&["a"], &["b"], &["a", "b"], &["a", "user:1"], &["a", "user:2"]];

fn step() -> impl Strategy<Value = Step> {
    let key = prop::option::of(0..3_u64);
    prop_oneof![
        20 => (0..4_usize, 0..400_usize, key).prop_map(|(topic, size, key)| Step::Publish { topic, size, key }),
        1 => (1..200_usize).prop_map(Step::Burst),
        1 => Just(Step::Broadcast),
        1 => (0..8_usize).prop_map(Step::Send),
        10 => (0..8_usize, any::<bool>()).prop_map(|(client, all)| Step::Read { client, all }),
        10 => Just(Step::ReadAll),
        2 => (1..9000_u64).prop_map(Step::Wait),
        3 => (0..5_usize, any::<bool>(), 0..5_usize)
            .prop_map(|(set, back, kind)| Step::Join { set, back, kind }),
        1 => (0..8_usize, 0..2_usize).prop_map(|(client, topic)| Step::Move { client, topic }),
        1 => (0..8_usize).prop_map(Step::Close),
    ]
}

/// A client that is compressed, and its twin that is not: both come, read and go together.
struct Pair {
    client: Client,
    twin: Stream,
    text: String,
}

impl Pair {
    fn join(world: &World, set: usize, back: Option<String>, kind: usize) -> Self {
        let user = SETS[set].last().and_then(|topic| topic.strip_prefix("user:")).map(Into::into);
        let mut request = Request { last_event_id: back, user, ..request(SETS[set]) };
        match kind {
            1 => request.interval = Some(200 * MS),
            2 => (request.overflow, request.capacity) = (Some(OverflowPolicy::DropOldest), Some(3)),
            3 => (request.overflow, request.capacity) = (Some(OverflowPolicy::DropNewest), Some(3)),
            4 => request.no_control = true,
            _ => {}
        }
        let twin = world.subscribe(&request);
        let client = Client::new(world.subscribe(&Request { compress: true, ..request }));
        world.drain();
        Self { client, twin, text: String::new() }
    }

    fn read(&mut self, all: bool) -> bool {
        loop {
            let taken = self.client.read();
            let mut out = Vec::new();
            let same = take(&self.twin, &mut out);
            for entry in &out {
                self.text.push_str(std::str::from_utf8(entry.frame.sse()).unwrap());
            }
            // The twin's stream ends one visit earlier: it has no trailer.
            let is_over = same == Taken::End;
            if is_over {
                while self.client.read() == Taken::Some {}
            }
            if !all || taken != Taken::Some && same != Taken::Some {
                return is_over;
            }
        }
    }

    fn end(mut self) -> Result<(), TestCaseError> {
        for stream in [&self.twin, &self.client.stream] {
            stream.close(CloseReason::CLOSED);
        }
        while !self.read(true) {}
        self.check()?;
        let breaks = self.client.stream.identity.closed.get().is_some_and(CloseReason::breaks_body);
        if !breaks {
            prop_assert_eq!(self.client.whole(), &*self.client.text);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(events(&self.client.text), events(&self.text));
        prop_assert_eq!(self.client.stream.closed(), self.twin.closed());
        Ok(())
    }
}

fn read_all(pairs: &mut [Pair]) {
    for pair in pairs {
        pair.read(true);
    }
}

/// The events of a stream. Each client has a `retry:`, and heartbeats, of its own.
fn events(text: &str) -> Vec<String> {
    let is_shared = |line: &&str| !line.starts_with("retry: ") && !line.starts_with(':');
    let blocks =
        text.split("\n\n").map(|block| block.lines().filter(is_shared).collect::<Vec<_>>().join("\n"));
    blocks.filter(|block| !block.is_empty() && !block.contains("event: stream-cursor")).collect()
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let world = World::new(roomy());
    let mut pairs: Vec<Pair> = Vec::new();
    let mut published = 0;
    for step in steps {
        let count = pairs.len().max(1);
        match step {
            Step::Publish { topic, size, key } => {
                published += 1;
                let text = format!("{published} {}", "ab".repeat(size / 2));
                let draft = draft(&text).keyed(key.map(crate::compress::key));
                world.hub.publish(&topics(&[TOPICS[topic]]), draft).unwrap();
                world.drain();
            }
            Step::Burst(size) => {
                for _ in 0..size {
                    published += 1;
                    world.publish(&["a"], &tick(published));
                }
                world.drain();
            }
            Step::Broadcast => {
                published += 1;
                world.hub.broadcast(draft(&format!("{published} to all"))).unwrap();
                world.drain();
            }
            Step::Send(at) => {
                if let Some(pair) = pairs.get(at % count) {
                    for stream in [&pair.client.stream, &pair.twin] {
                        world.hub.send(Some(stream.identity.id), draft("mine")).unwrap();
                    }
                    world.drain();
                }
            }
            Step::Read { client, all } => {
                if let Some(pair) = pairs.get_mut(client % count) {
                    pair.read(all);
                }
            }
            Step::ReadAll => read_all(&mut pairs),
            Step::Wait(ms) => {
                world.pass(u32::try_from(ms).unwrap() * MS);
                // Before a stall, which each of the two would notice at a time of its own.
                read_all(&mut pairs);
            }
            Step::Join { set, back, kind } if pairs.len() < 8 => {
                let id = back.then(|| world.id(published / 2));
                pairs.push(Pair::join(&world, set, id, kind));
            }
            Step::Join { .. } => {}
            Step::Move { client, topic } => {
                if let Some(pair) = pairs.get(client % count) {
                    let moved = topics(&[["b", "user:1"][topic]]);
                    for stream in [&pair.client.stream, &pair.twin] {
                        let id = stream.identity.id;
                        if published % 2 == 0 {
                            world.hub.join(id, &moved).unwrap();
                        } else {
                            world.hub.leave(id, &moved);
                        }
                    }
                    world.drain();
                }
            }
            Step::Close(at) => {
                if at < pairs.len() {
                    pairs.swap_remove(at).end()?;
                }
            }
        }
    }
    pairs.into_iter().try_for_each(Pair::end)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(12)))]

    #[test]
    fn a_body_decodes_to_what_it_would_be(steps in prop::collection::vec(step(), 1..300)) {
        run(steps)?;
    }
}
