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

/// A client that reads one topic set from its beginning, and the number of the last event that it saw.
struct Client {
    names: Vec<&'static str>,
    stream: Stream,
    at: bool,
    got: Vec<String>,
    last: u64,
    is_fixed: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    /// Whatever the order of publishing, ending, coming, moving and draining: a client that stays in its topics gets
    /// each of their events once, and the end if and only if all have ended.
    #[test]
    fn a_client_gets_everything_and_the_end(steps in steps()) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let mut config = config();
        config.capacity.events = 1000;
        let worlds = [World::new(config), ];
        let worlds = [World::of(&worlds[0].hub), World::of(&worlds[0].hub)];
        let hub = worlds[0].hub.clone();
        let mut log: Vec<(&str, u64)> = Vec::new();
        let mut ended = [0u64; 3];
        let mut clients: Vec<Client> = Vec::new();
        for step in steps {
            match step {
                Step::Publish(topic) => {
                    match worlds[0].try_publish(&[NAMES[topic]], "x") {
                        Ok(id) => { prop_assert_eq!(ended[topic], 0); log.push((NAMES[topic], id.seq)); }
                        Err(_) => prop_assert!(ended[topic] > 0),
                    }
                }
                Step::End(topic) if ended[topic] == 0 => ended[topic] = worlds[0].end(NAMES[topic]),
                Step::Come(which) => {
                    let mut names: Vec<_> = which.iter().map(|&at| NAMES[at]).collect();
                    names.dedup();
                    let stream = worlds[0].subscribe(&all_past(&names));
                    clients.push(Client { names, stream, at: false, got: Vec::new(), last: 0, is_fixed: true });
                }
                Step::Return(who) if who < clients.len() => {
                    let client = &mut clients[who];
                    let id = worlds[0].id(client.last);
                    let is_over = hub.is_over(&topics(&client.names), &id);
                    let ends = client.names.iter().map(|name| ended[NAMES.iter().position(|it| it == name).unwrap()]);
                    let all: Option<Vec<u64>> = ends.map(|end| (end > 0).then_some(end)).collect();
                    let expected = all.is_some_and(|all| all.iter().all(|&end| client.last >= end));
                    prop_assert_eq!(is_over, expected);
                    if !is_over {
                        client.stream.leave();
                        let request = Request { last_event_id: Some(id), ..all_past(&client.names) };
                        client.stream = worlds[0].subscribe(&request);
                        client.at = false;
                    }
                }
                Step::Join(who, topic) if who < clients.len() => {
                    hub.join(clients[who].stream.identity.current().id, &topics(&[NAMES[topic]])).unwrap();
                    clients[who].is_fixed &= clients[who].names.contains(&NAMES[topic]);
                }
                Step::Leave(who, topic) if who < clients.len() => {
                    hub.leave(clients[who].stream.identity.current().id, &topics(&[NAMES[topic]]));
                    clients[who].is_fixed &= !clients[who].names.contains(&NAMES[topic]);
                }
                Step::Move(who) if who < clients.len() && !clients[who].at => {
                    let client = &mut clients[who];
                    let identity = client.stream.identity.clone();
                    if let Some(moved) = hub.transfer(&worlds[0].reader, &worlds[1].reader, &identity, GroupId::NONE) {
                        client.stream = worlds[1].stream_of(moved);
                        client.at = true;
                    }
                }
                Step::Drain => { for world in &worlds { world.drain(); } }
                Step::Take(who) if who < clients.len() => take(&worlds, &mut clients[who]),
                Step::End(_) | Step::Return(_) | Step::Join(..) | Step::Leave(..) | Step::Move(_) | Step::Take(_) => {}
            }
        }
        for world in &worlds { world.drain(); }
        for client in clients.iter_mut().filter(|client| client.is_fixed) {
            take(&worlds, client);
            let mut expected: Vec<String> = log.iter()
                .filter(|(name, _)| client.names.contains(name))
                .map(|(_, seq)| format!("x #{seq}"))
                .collect();
            let ends: Vec<u64> = client.names.iter()
                .map(|name| ended[NAMES.iter().position(|it| it == name).unwrap()]).collect();
            if ends.iter().all(|&end| end > 0) {
                expected.push(format!("{END} #{}", ends.iter().max().unwrap()));
            }
            prop_assert_eq!(&client.got, &expected);
        }
    }
}

fn take(worlds: &[World; 2], client: &mut Client) {
    let got = read(&worlds[usize::from(client.at)], &client.stream);
    for seen in got {
        if let Some((_, seq)) = seen.rsplit_once('#') {
            client.last = client.last.max(seq.parse().unwrap());
        }
        if !seen.starts_with("stream-open") && !seen.starts_with("stream-cursor") {
            client.got.push(seen);
        }
    }
}
