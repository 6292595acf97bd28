//! Any sequence of publications, ends, cuts and returns: a client of topics that end misses nothing, and receives the end.

use proptest::prelude::*;
use sse_hub::hub::Request;
use sse_hub::ids::GroupId;

use crate::ends::{END, all_past, read};
use crate::support::{Stream, World, cases, config, topics};

#[derive(Debug, Clone)]
enum Step {
    Publish(usize),
    End(usize),
    Come(Vec<usize>),
    Return(usize),
    Join(usize, usize),
    Leave(usize, usize),
    Drain,
    Take(usize),
    Move(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3usize).prop_map(Step::Publish),
        1 => (0..3usize).prop_map(Step::End),
        2 => prop::collection::vec(0..3usize, 1..3).prop_map(Step::Come),
        2 => (0..8usize).prop_map(Step::Return),
        1 => (0..8usize, 0..3usize).prop_map(|(who, topic)| Step::Join(who, topic)),
        1 => (0..8usize, 0..3usize).prop_map(|(who, topic)| Step::Leave(who, topic)),
        3 => Just(Step::Drain),
        3 => (0..8usize).prop_map(Step::Take),
        1 => (0..8usize).prop_map(Step::Move),
    ];
    prop::collection::vec(step, 1..60)
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A client that reads one topic set from its beginning, and the number of the last event that it saw.
struct Client {
    names: Vec<&'static str>,
    stream: Stream,
    at: bool,
    got: Vec<String>,
    last: u64,
    is_fixed: bool,
}

/// A hub with two readers, its clients, and what they must receive.
struct Model {
    worlds: [World; 2],
    log: Vec<(&'static str, u64)>,
    /// By topic, the number of its end; 0 while it has not ended.
    ended: [u64; 3],
    clients: Vec<Client>,
}

impl Model {
    fn new() -> Self {
        let mut config = config();
        config.capacity.events = 1000;
        let world = World::new(config);
        let other = World::of(&world.hub);
        Self { worlds: [world, other], log: Vec::new(), ended: [0; 3], clients: Vec::new() }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Publish(topic) => return self.publish(topic),
            Step::End(topic) if self.ended[topic] == 0 => {
                self.ended[topic] = self.worlds[0].end(NAMES[topic]);
            }
            Step::Come(which) => self.come(&which),
            Step::Return(who) if who < self.clients.len() => return self.come_back(who),
            Step::Join(who, topic) if who < self.clients.len() => {
                let client = &mut self.clients[who];
                client
                    .stream
                    .hub
                    .join(client.stream.identity.current().id, &topics(&[NAMES[topic]]))
                    .unwrap();
                client.is_fixed &= client.names.contains(&NAMES[topic]);
            }
            Step::Leave(who, topic) if who < self.clients.len() => {
                let client = &mut self.clients[who];
                client.stream.hub.leave(client.stream.identity.current().id, &topics(&[NAMES[topic]]));
                client.is_fixed &= !client.names.contains(&NAMES[topic]);
            }
            Step::Move(who) if who < self.clients.len() && !self.clients[who].at => self.transfer(who),
            Step::Drain => self.drain(),
            Step::Take(who) if who < self.clients.len() => take(&self.worlds, &mut self.clients[who]),
            _ => {}
        }
        Ok(())
    }

    fn publish(&mut self, topic: usize) -> Result<(), TestCaseError> {
        match self.worlds[0].try_publish(&[NAMES[topic]], "x") {
            Ok(id) => {
                prop_assert_eq!(self.ended[topic], 0);
                self.log.push((NAMES[topic], id.seq));
            }
            Err(_) => prop_assert!(self.ended[topic] > 0),
        }
        Ok(())
    }

    fn come(&mut self, which: &[usize]) {
        let mut names: Vec<_> = which.iter().map(|&at| NAMES[at]).collect();
        names.dedup();
        let stream = self.worlds[0].subscribe(&all_past(&names));
        self.clients.push(Client { names, stream, at: false, got: Vec::new(), last: 0, is_fixed: true });
    }

    /// The client leaves and comes back with its last id, unless it has everything.
    fn come_back(&mut self, who: usize) -> Result<(), TestCaseError> {
        let end = self.end_of(&self.clients[who]);
        let (world, client) = (&self.worlds[0], &mut self.clients[who]);
        let id = world.id(client.last);
        let is_over = world.has_everything(&client.names, &id);
        // The end has a place of its own, which nothing else gives.
        prop_assert_eq!(is_over, end == Some(client.last));
        if !is_over {
            client.stream.leave();
            let request = Request { last_event_id: Some(id), ..all_past(&client.names) };
            client.stream = world.subscribe(&request);
            client.at = false;
        }
        Ok(())
    }

    fn transfer(&mut self, who: usize) {
        let [from, to] = &self.worlds;
        let client = &mut self.clients[who];
        let identity = client.stream.identity.clone();
        if let Some(moved) = from.hub.transfer(&from.reader, &to.reader, &identity, GroupId::NONE) {
            client.stream = to.stream_of(moved);
            client.at = true;
        }
    }

    fn drain(&self) {
        for world in &self.worlds {
            world.drain();
        }
    }

    /// The number of the last end of a client's topics, when all have ended.
    fn end_of(&self, client: &Client) -> Option<u64> {
        let end_of = |name: &&str| self.ended[NAMES.iter().position(|it| it == name).unwrap()];
        let ends = client.names.iter().map(end_of).map(|end| (end > 0).then_some(end));
        ends.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    fn expected(&self, client: &Client) -> Vec<String> {
        let events = self.log.iter().filter(|(name, _)| client.names.contains(name));
        let events = events.map(|(_, seq)| format!("x #{seq}"));
        events.chain(self.end_of(client).map(|end| format!("{END} #{end}"))).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    /// Whatever the order of publishing, ending, coming, moving and draining: a client that stays in its topics gets
    /// each of their events once, and the end if and only if all have ended.
    #[test]
    fn a_client_gets_everything_and_the_end(steps in steps()) {
        let mut model = Model::new();
        for step in steps {
            model.step(step)?;
        }
        model.drain();
        for client in model.clients.iter_mut().filter(|client| client.is_fixed) {
            take(&model.worlds, client);
        }
        for client in model.clients.iter().filter(|client| client.is_fixed) {
            prop_assert_eq!(&client.got, &model.expected(client));
        }
    }
}

fn take(worlds: &[World; 2], client: &mut Client) {
    let got = read(&worlds[usize::from(client.at)], &client.stream);
    for seen in got {
        if let Some((_, seq)) = seen.rsplit_once('#') {
            let seq: u64 = seq.parse().unwrap();
            let may_repeat = u64::from(seen.starts_with("stream-"));
            // One that left its last topic has ids from behind the end, for which it comes back.
            assert!(seq + may_repeat > client.last || !client.is_fixed, "{seen} after #{}", client.last);
            client.last = client.last.max(seq);
        }
        if !seen.starts_with("stream-open") && !seen.starts_with("stream-cursor") {
            client.got.push(seen);
        }
    }
}
