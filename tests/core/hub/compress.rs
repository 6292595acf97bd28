//! Compressed streams: whatever happens to a client, its body decodes to what it would get uncompressed.

use std::io::Read;

use flate2::read::GzDecoder;
use flate2::{Decompress, FlushDecompress};
use sse_hub::config::Config;
use sse_hub::ending::Ending;
use sse_hub::entry::Entry;
use sse_hub::hub::Request;
use sse_hub::identity::CloseReason;
use sse_hub::key::Key;
use sse_hub::queue::{Capacity, OverflowPolicy};
use sse_hub::subscriber::Taken;
use sse_hub::topic::Topic;

use crate::support::{MS, SECOND, Stream, World, config, draft, request, topics};

/// The header that a response sends.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// A client and its decoder.
pub struct Client {
    pub stream: Stream,
    raw: Vec<u8>,
    pub text: String,
    decoder: Decompress,
}

impl Client {
    pub fn new(stream: Stream) -> Self {
        Self { stream, raw: Vec::new(), text: String::new(), decoder: Decompress::new(false) }
    }

    /// One visit. Every piece decodes when it comes, without what follows.
    pub fn read(&mut self) -> Taken {
        let mut out = Vec::new();
        let taken = take(&self.stream, &mut out);
        for entry in &out {
            let bytes = entry.frame.sse();
            self.raw.extend_from_slice(bytes);
            let mut decoded = Vec::with_capacity(1 << 20);
            // Behind the last block, the trailer.
            let _ = self.decoder.decompress_vec(bytes, &mut decoded, FlushDecompress::Sync).unwrap();
            self.text.push_str(std::str::from_utf8(&decoded).unwrap());
        }
        taken
    }

    pub fn read_all(&mut self) -> Taken {
        loop {
            match self.read() {
                Taken::Some => {}
                taken => return taken,
            }
        }
    }

    /// How many bytes come next.
    fn bytes(&mut self) -> usize {
        let before = self.raw.len();
        self.read_all();
        self.raw.len() - before
    }

    fn data(&self) -> Vec<&str> {
        let data = self.text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| !data.is_empty()).collect()
    }

    /// The whole body, as a decoder reads it that checks the trailer.
    pub fn whole(&self) -> String {
        let bytes = [&HEADER[..], &self.raw].concat();
        let (mut text, mut decoder) = (String::new(), GzDecoder::new(&bytes[..]));
        decoder.read_to_string(&mut text).unwrap();
        assert!(decoder.into_inner().is_empty(), "nothing follows the trailer");
        text
    }
}

/// One visit of a driver.
pub fn take(stream: &Stream, out: &mut Vec<std::sync::Arc<Entry>>) -> Taken {
    match stream.hub.take(&stream.reader, &stream.identity, out) {
        Taken::Finished => {
            stream.hub.close_finished(&stream.reader, &stream.identity);
            stream.hub.take(&stream.reader, &stream.identity, out)
        }
        Taken::Gap => {
            stream.close(CloseReason::Gap);
            Taken::End
        }
        taken => taken,
    }
}

fn zipped(names: &[&str]) -> Request {
    Request { compress: true, ..request(names) }
}

fn of_user(user: &str, names: &[&str]) -> Request {
    Request { user: Some(user.into()), ..zipped(names) }
}

pub fn roomy() -> Config {
    Config { capacity: Capacity { events: 10_000, bytes: 1 << 24 }, ..config() }
}

fn join(world: &World, request: &Request) -> Client {
    let mut client = Client::new(world.subscribe(request));
    world.drain();
    client.read_all();
    client
}

pub fn tick(n: u64) -> String {
    let (price, cents, at) = (2400 + n % 7, n * 37 % 100, n % 60);
    format!("{{\"symbol\":\"GOLD\",\"price\":{price}.{cents:02},\"at\":\"2026-01-01T00:00:{at:02}\"}}")
}

/// Publish, and have all of them read.
fn publish(world: &World, topic: &str, data: &str, clients: &mut [Client]) {
    world.publish(&[topic], data);
    world.drain();
    for client in clients {
        client.read_all();
    }
}

#[test]
fn clients_of_the_same_topics_share_what_is_compressed_once() {
    let world = World::new(roomy());
    let mut clients: Vec<Client> = (0..3).map(|_| join(&world, &zipped(&["a"]))).collect();
    let before: Vec<usize> = clients.iter().map(|client| client.raw.len()).collect();
    let mut plain = 0;
    for n in 0..300 {
        let text = tick(n);
        plain += text.len() + 30;
        publish(&world, "a", &text, &mut clients);
    }
    let sizes: Vec<usize> =
        clients.iter().zip(before).map(|(client, before)| client.raw.len() - before).collect();
    assert!(sizes.iter().all(|&size| size * 3 < plain), "{sizes:?} of {plain}");
    let end = clients[0].raw[clients[0].raw.len() / 2..].to_vec();
    assert!(clients.iter().all(|client| client.raw.ends_with(&end)), "the same bytes");
    assert!(world.stat("compressed_bytes") * 2 < world.stat("uncompressed_bytes"));
    for client in &mut clients {
        client.stream.close(CloseReason::CLOSED);
        assert_eq!(client.read_all(), Taken::End);
        assert_eq!(client.data(), (0..300).map(tick).collect::<Vec<_>>());
        assert_eq!(client.whole(), client.text);
    }
}

#[test]
fn a_newcomer_is_inside_after_the_next_start() {
    let world = World::new(roomy());
    let mut clients: Vec<Client> = (0..2).map(|_| join(&world, &zipped(&["a"]))).collect();
    for n in 0..100 {
        publish(&world, "a", &tick(n), &mut clients);
    }
    let inside = |clients: &[Client]| clients[2].raw.ends_with(&clients[0].raw[clients[0].raw.len() - 20..]);
    clients.push(join(&world, &zipped(&["a"])));
    publish(&world, "a", &tick(100), &mut clients);
    assert!(!inside(&clients));
    for n in 101..200 {
        publish(&world, "a", &tick(n), &mut clients);
    }
    assert!(inside(&clients));
    // Time makes it due as well.
    clients[2] = join(&world, &zipped(&["a"]));
    publish(&world, "a", &tick(200), &mut clients);
    publish(&world, "a", &tick(201), &mut clients);
    assert!(inside(&clients));
    clients[2] = join(&world, &zipped(&["a"]));
    publish(&world, "a", &tick(202), &mut clients);
    publish(&world, "a", &tick(203), &mut clients);
    assert!(!inside(&clients));
    world.advance(5 * SECOND);
    publish(&world, "a", &tick(204), &mut clients);
    assert!(inside(&clients));
    // While all are inside, the window goes on: a start would cost each of them bytes.
    let sizes: Vec<usize> = (205..400)
        .map(|n| {
            world.publish(&["a"], &tick(n));
            world.drain();
            clients[1].read_all();
            clients[2].read_all();
            clients[0].bytes()
        })
        .collect();
    assert!(sizes.iter().all(|&size| size < 50), "{sizes:?}");
}

#[test]
fn a_window_that_all_clients_left_starts_over_for_others() {
    let world = World::new(roomy());
    let mut clients: Vec<Client> = (0..2).map(|_| join(&world, &zipped(&["a"]))).collect();
    for n in 0..10 {
        publish(&world, "a", &tick(n), &mut clients);
    }
    for client in clients.drain(..) {
        client.stream.leave();
    }
    clients.extend((0..2).map(|_| join(&world, &zipped(&["a"]))));
    for n in 10..20 {
        publish(&world, "a", &tick(n), &mut clients);
    }
    world.publish(&["a"], &tick(20));
    world.drain();
    assert!(clients[0].bytes() < 50);
}

#[test]
fn what_one_client_receives_is_in_no_window() {
    let world = World::new(roomy());
    let mut clients: Vec<Client> = (0..2).map(|_| join(&world, &zipped(&["a"]))).collect();
    let secret = "0123456789abcdef".repeat(8);
    for n in 0..20 {
        publish(&world, "a", &n.to_string(), &mut clients);
    }
    publish(&world, "a", &secret, &mut clients);
    let mut send = |text: &str| {
        world.hub.send(Some(clients[0].stream.identity.id), draft(text)).unwrap();
        world.drain();
        clients[0].bytes()
    };
    send("the window's last piece is closed");
    let sizes = [send(&secret), send(&secret), send(&"0123456789abcdeg".repeat(8))];
    assert!(sizes.iter().all(|&size| size == sizes[0]), "{sizes:?}: as if it were the first");
    assert!(clients[0].text.contains(&format!("data: {secret}\n\n")));
}

#[test]
fn initial_events_are_in_no_window() {
    let world = World::new(roomy());
    let secret = "0123456789abcdef".repeat(8);
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let mut client = Client::new(world.subscribe(&Request { initial: true, ..zipped(&["a"]) }));
        world.drain();
        client.read_all();
        client.stream.initial(&[&secret]);
        sizes.push(client.bytes());
        client.stream.leave();
    }
    assert!(sizes.iter().all(|size| size.abs_diff(sizes[0]) <= 2), "{sizes:?}");
}

#[test]
fn a_topic_of_one_user_has_no_window() {
    let world = World::new(roomy());
    // Two tabs of one user, and another user.
    let mut one =
        [join(&world, &of_user("1", &["all", "user:1"])), join(&world, &of_user("1", &["all", "user:1"]))];
    let mut other = [join(&world, &of_user("2", &["all", "user:2"]))];
    let text = "0123456789abcdef".repeat(8);
    let mut sizes = Vec::new();
    for _ in 0..3 {
        world.publish(&["user:1"], &text);
        world.drain();
        sizes.push(one[0].bytes());
        assert_eq!(one[1].bytes(), sizes[0]);
        assert_eq!(other[0].bytes(), 0);
    }
    let is_first = |size: usize| size.abs_diff(sizes[0]) <= 2;
    assert!(sizes.iter().all(|&size| is_first(size)), "{sizes:?}: nothing of the one before");
    // What all receive has a window, for all three.
    for n in 0..100 {
        publish(&world, "all", &tick(n), &mut one);
        other[0].read_all();
    }
    world.publish(&["all"], &tick(100));
    world.drain();
    let shared = other[0].bytes();
    assert!(shared < tick(100).len() / 2);
    assert_eq!([one[0].bytes(), one[1].bytes()], [shared; 2]);
    // Neither is in one block with the other.
    world.publish(&["all"], &text);
    world.publish(&["user:1"], &text);
    world.drain();
    let behind_the_window = one[0].bytes() - other[0].bytes();
    assert!(is_first(behind_the_window - 5) || is_first(behind_the_window - 6));
}

#[test]
fn the_end_of_topics_comes_before_the_end_of_the_body() {
    let world = World::new(roomy());
    let mut client = join(&world, &zipped(&["a"]));
    world.publish(&["a"], "last");
    world.hub.finish(&Topic::new("a").unwrap(), SECOND, &Ending::ENDED).unwrap();
    world.drain();
    assert_eq!(client.read_all(), Taken::End);
    assert_eq!(client.whole(), client.text);
    assert!(client.text.contains("data: last\n") && client.text.contains("event: stream-end\n"));
}

#[test]
fn a_gap_that_breaks_the_body_has_no_trailer() {
    let world = World::new(Config { capacity: Capacity { events: 1, bytes: 1 << 20 }, ..config() });
    let lossy = Request { no_control: true, overflow: Some(OverflowPolicy::DropOldest), ..zipped(&["a"]) };
    let mut client = join(&world, &lossy);
    world.publish(&["a"], "1");
    world.drain();
    client.read();
    world.stick("a");
    world.publish(&["a"], "2");
    world.drain();
    assert_eq!(client.read_all(), Taken::End);
    assert_eq!(client.stream.closed(), Some("gap"));
    let bytes = [&HEADER[..], &client.raw].concat();
    let cut = GzDecoder::new(&bytes[..]).read_to_string(&mut String::new());
    assert_eq!(cut.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_response_that_sent_no_header_has_it_written() {
    let world = World::new(roomy());
    for closes in [false, true] {
        let mut client = Client::new(world.subscribe(&request(&["a"])));
        assert!(world.reader.compress(&client.stream.identity, true));
        if closes {
            client.stream.close(CloseReason::Closed { text: None, drains: false });
        }
        world.drain();
        let mut out = Vec::new();
        assert_eq!(take(&client.stream, &mut out), Taken::Some);
        let first = out.remove(0);
        assert_eq!(first.frame.sse(), HEADER);
        assert_eq!(first.frame.chunk(), [b"a\r\n", &HEADER[..], b"\r\n"].concat());
        client.raw = out.iter().flat_map(|entry| entry.frame.sse().to_vec()).collect();
        client.stream.close(CloseReason::CLOSED);
        let mut rest = Vec::new();
        take(&client.stream, &mut rest);
        client.raw.extend(rest.iter().flat_map(|entry| entry.frame.sse().to_vec()));
        assert_eq!(client.whole().is_empty(), closes);
        assert!(!world.reader.compress(&client.stream.identity, true), "too late");
    }
}

#[test]
fn groups_of_a_rate_have_windows_of_their_own_once_their_values_differ() {
    let world = World::new(roomy());
    let rated = Request { interval: Some(200 * MS), ..zipped(&["a"]) };
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..4 {
        clients.extend((0..2).map(|_| join(&world, &rated)));
        world.hub.publish(&topics(&["a"]), draft("0").keyed(Some(key(0)))).unwrap();
        world.drain();
        for client in &mut clients {
            client.read_all();
        }
        world.advance(50 * MS);
    }
    let (mut plain, mut before) = (0, 0);
    for n in 0..2000 {
        if n == 1000 {
            before = world.stat("compressed_bytes");
            plain = world.stat("uncompressed_bytes");
        }
        world.hub.publish(&topics(&["a"]), draft(&tick(n)).keyed(Some(key(n % 3)))).unwrap();
        let (_, effects) = world.turn();
        for client in &mut clients {
            if effects.resume.contains(&client.stream.identity.key) {
                client.read_all();
            }
        }
        world.advance(10 * MS);
    }
    let (zipped, plain) = (world.stat("compressed_bytes") - before, world.stat("uncompressed_bytes") - plain);
    assert!(zipped * 2 < plain, "{zipped} of {plain}");
    for client in &clients {
        let data = client.data();
        assert!(data.len() < 700 && data.iter().all(|data| data.len() < 100));
    }
}

pub fn key(n: u64) -> Key {
    Key::new(&format!("key{n}")).unwrap()
}
