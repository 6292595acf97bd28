//! A letter as the fields of a log's entry, and back.
//!
//! | field | |
//! |---|---|
//! | `v` | version of this format, 1 |
//! | `p` | id of the entry before this one, written by the store itself |
//! | `k` | `t` to topics, `a` to all, `o` to one subscriber; `i` and `u`: end the stream of an id, of a user; `b`, `s`, `e`: a topic's run begins, must stop; the topic ends; `r`: a lease is released; `g`: a gap |
//! | `t` | topics, one per line; or the subscriber's id, the user, or the lease |
//! | `y` | the event's key, if it has one |
//! | `c` | lines of the event's comment, if it has one |
//! | `w` | the event's `traceparent`, if it has one; a version that does not know the field delivers the event without |
//! | `d` | the event's other lines; or why the streams end; or a run's `keep` in milliseconds; or a topic's `keep`, its last state and the words for clients, each on a line |
//!
//! An entry that cannot be read breaks the log: the clients of every process that reads past it are reset. A gap is
//! such an entry on purpose.

use std::borrow::Cow;
use std::time::Duration;

use crate::broker::letter::{Arrived, Letter, Step, To, Topics, Unread, Whose};
use crate::ending::{EndState, Ending};
use crate::frame::Draft;
use crate::ids::StreamId;
use crate::key::Key;
use crate::topic::Topic;
use crate::trace::TraceParent;

const VERSION: &[u8] = b"1";

/// The kinds of entries that this version knows.
const KINDS: &[u8] = b"taoiubserg";

/// The value of a field, which mostly is a part of the letter.
pub type Value<'letter> = Cow<'letter, [u8]>;

/// The fields of an entry.
pub type Fields<'letter> = Vec<(&'static str, Value<'letter>)>;

/// The most fields of an entry.
const MOST_FIELDS: usize = 7;

/// The fields of a letter's entry.
#[must_use]
pub fn fields(letter: &Letter) -> Fields<'_> {
    let (kind, to, comment, data): (&[u8], Value<'_>, &[u8], Value<'_>) = match letter {
        Letter::Event { to, draft } => {
            let (comment, rest) = draft.parts();
            match to {
                To::Topics(topics) => (b"t", names(topics), comment, rest.into()),
                To::All => (b"a", Value::default(), comment, rest.into()),
                To::One(name) => (b"o", name.as_bytes().into(), comment, rest.into()),
            }
        }
        Letter::Kick { whose, reason } => match whose {
            Whose::Id(id) => (b"i", id.as_bytes().into(), b"", reason.as_bytes().into()),
            Whose::User(user) => (b"u", user.as_bytes().into(), b"", reason.as_bytes().into()),
        },
        Letter::Life { topic, step: of } => {
            let (kind, said) = step(of);
            (kind, topic.as_str().as_bytes().into(), b"", said.into_bytes().into())
        }
        Letter::Release { lease } => (b"r", lease.as_bytes().into(), b"", Value::default()),
    };
    let mut fields = Vec::with_capacity(MOST_FIELDS);
    fields.extend([("v", VERSION.into()), ("k", kind.into())]);
    if !to.is_empty() {
        fields.push(("t", to));
    }
    if !comment.is_empty() {
        fields.push(("c", comment.into()));
    }
    if let Letter::Event { draft, .. } = letter {
        if let Some(key) = draft.key() {
            fields.push(("y", key.as_str().as_bytes().into()));
        }
        if let Some(trace) = draft.trace() {
            fields.push(("w", trace.as_bytes().to_vec().into()));
        }
    }
    fields.push(("d", data));
    fields
}

fn names(topics: &[Topic]) -> Value<'_> {
    if let [topic] = topics {
        return topic.as_str().as_bytes().into();
    }
    let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
    names.join("\n").into_bytes().into()
}

/// The fields of an entry that says that acknowledged entries may be missing before it.
#[must_use]
pub fn gap() -> Fields<'static> {
    vec![("v", VERSION.into()), ("k", b"g"[..].into())]
}

fn step(step: &Step) -> (&'static [u8], String) {
    match step {
        Step::Begin { keep } => (b"b", keep.as_millis().to_string()),
        Step::Stop => (b"s", String::new()),
        Step::End { keep, ending } => (b"e", format!("{}\n{}", keep.as_millis(), note(ending))),
    }
}

/// How a topic ended, as text: its state, and on the lines behind it the words for clients.
#[must_use]
pub fn note(ending: &Ending) -> String {
    let state = ending.state.as_str();
    ending.error.as_ref().map_or_else(|| state.to_owned(), |error| format!("{state}\n{error}"))
}

/// Reads a [`note`].
#[must_use]
pub fn read_note(text: &str) -> Option<Ending> {
    let (state, error) = text.split_once('\n').map_or((text, None), |(state, error)| (state, Some(error)));
    Some(Ending { state: EndState::parse(state)?, error: error.map(Into::into) })
}

fn read_step(kind: &[u8], data: &[u8]) -> Option<Step> {
    let text = str::from_utf8(data).ok()?;
    let keep = |text: &str| text.parse().ok().map(Duration::from_millis);
    match kind {
        b"b" => Some(Step::Begin { keep: keep(text)? }),
        b"s" if text.is_empty() => Some(Step::Stop),
        b"e" => {
            let (kept, ending) = text.split_once('\n')?;
            Some(Step::End { keep: keep(kept)?, ending: read_note(ending)? })
        }
        _ => None,
    }
}

/// The value of an entry's field.
pub type Get<'get, 'value> = &'get dyn Fn(&str) -> Option<&'value [u8]>;

/// The fields of an entry that this version knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found<'value> {
    version: Option<&'value [u8]>,
    before: Option<&'value [u8]>,
    kind: Option<&'value [u8]>,
    to: Option<&'value [u8]>,
    key: Option<&'value [u8]>,
    comment: Option<&'value [u8]>,
    trace: Option<&'value [u8]>,
    data: Option<&'value [u8]>,
}

impl<'value> Found<'value> {
    fn slot(&mut self, name: &[u8]) -> Option<&mut Option<&'value [u8]>> {
        Some(match name {
            b"v" => &mut self.version,
            b"p" => &mut self.before,
            b"k" => &mut self.kind,
            b"t" => &mut self.to,
            b"y" => &mut self.key,
            b"c" => &mut self.comment,
            b"w" => &mut self.trace,
            b"d" => &mut self.data,
            _ => return None,
        })
    }

    /// Note the value of a field. Of two with one name, the first counts.
    pub fn add(&mut self, name: &[u8], value: &'value [u8]) {
        if let Some(slot) = self.slot(name) {
            slot.get_or_insert(value);
        }
    }

    fn by(get: Get<'_, 'value>) -> Self {
        Self {
            version: get("v"),
            before: get("p"),
            kind: get("k"),
            to: get("t"),
            key: get("y"),
            comment: get("c"),
            trace: get("w"),
            data: get("d"),
        }
    }
}

/// The last topic that was read: the next entry's is mostly the same, and then shares its name.
#[derive(Debug, Default)]
pub struct LastTopic(Option<Topic>);

impl LastTopic {
    fn read(&mut self, names: &str) -> Option<Topics> {
        if let Some(topic) = self.0.as_ref().filter(|topic| topic.as_str() == names) {
            return Some(Topics::from_buf([topic.clone()]));
        }
        let topics: Topics = names.split('\n').map(Topic::new).collect::<Result<_, _>>().ok()?;
        self.0 = topics.first().filter(|_| topics.len() == 1).cloned();
        Some(topics)
    }
}

fn letter(found: &Found<'_>, topics: &mut LastTopic) -> Option<Letter> {
    if found.version? != VERSION {
        return None;
    }
    let to = str::from_utf8(found.to.unwrap_or_default()).ok()?;
    let data = found.data?;
    let reason = |data| Some(str::from_utf8(data).ok()?.into());
    let to = match found.kind? {
        b"t" => To::Topics(topics.read(to)?),
        b"a" => To::All,
        b"o" => To::One(to.into()),
        b"i" => return Some(Letter::Kick { whose: Whose::Id(to.into()), reason: reason(data)? }),
        b"u" => return Some(Letter::Kick { whose: Whose::User(to.into()), reason: reason(data)? }),
        b"r" => return Some(Letter::Release { lease: to.into() }),
        kind => {
            return Some(Letter::Life { topic: Topic::new(to).ok()?, step: read_step(kind, data)? });
        }
    };
    let key = match found.key {
        Some(text) => Some(Key::new(str::from_utf8(text).ok()?).ok()?),
        None => None,
    };
    let trace = match found.trace {
        Some(text) => Some(TraceParent::parse(text)?),
        None => None,
    };
    let draft = Draft::from_parts(trace.as_ref(), found.comment.unwrap_or_default(), data)?.keyed(key);
    Some(Letter::Event { to, draft })
}

/// Reads an entry; `get` returns its fields.
#[must_use]
pub fn read(id: StreamId, get: Get<'_, '_>) -> Arrived {
    let found = Found::by(get);
    let before = found.before.and_then(|text| StreamId::parse(str::from_utf8(text).ok()?));
    read_behind(id, before, &found, &mut LastTopic::default())
}

/// Reads an entry of a log that does not keep the id before it in a field.
#[must_use]
pub fn read_behind(
    id: StreamId,
    before: Option<StreamId>,
    found: &Found<'_>,
    topics: &mut LastTopic,
) -> Arrived {
    Arrived { id, before, letter: letter(found, topics).ok_or_else(|| unread(found)) }
}

/// Why an entry has no letter.
fn unread(found: &Found<'_>) -> Unread {
    let (Some(version), Some(kind)) = (found.version, found.kind) else { return Unread::Damaged };
    match kind {
        _ if version != VERSION => Unread::Version,
        b"g" => Unread::Gap,
        [kind] if KINDS.contains(kind) => Unread::Damaged,
        _ => Unread::Version,
    }
}

#[cfg(test)]
mod tests {
    use super::{fields as write, *};
    use crate::frame::FrameBuilder;

    const TRACE: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn draft() -> Draft {
        let trace = TraceParent::parse(TRACE);
        let mut builder = FrameBuilder::traced(trace.as_ref(), Some("note"), Some("tick"));
        builder.text("one\ntwo");
        builder.finish(Some(5))
    }

    fn travel(letter: &Letter) -> Arrived {
        let mut fields = write(letter);
        fields.push(("p", b"4-2"[..].into()));
        arrive(&fields)
    }

    fn arrive(fields: &Fields<'_>) -> Arrived {
        let get = |name: &str| fields.iter().find(|(key, _)| *key == name).map(|(_, value)| &**value);
        read(StreamId { ms: 5, seq: 0 }, &get)
    }

    fn why(fields: &Fields<'_>) -> Option<Unread> {
        arrive(fields).letter.err()
    }

    #[test]
    fn events_travel() {
        let topics = ["a", "chat:é"].map(|name| Topic::new(name).unwrap()).to_vec();
        let key = |text| Some(Key::new(text).unwrap());
        for (to, key) in
            [(To::Topics(topics.into()), key("é\n")), (To::All, None), (To::One("c-1".into()), key("k"))]
        {
            let arrived = travel(&Letter::Event { to: to.clone(), draft: draft().keyed(key.clone()) });
            assert_eq!(arrived.before, Some(StreamId { ms: 4, seq: 2 }));
            let Ok(Letter::Event { to: read, draft: event }) = arrived.letter else { panic!("{arrived:?}") };
            assert_eq!(read, to);
            assert_eq!(event.key(), key.as_ref());
            assert_eq!(event.seal(None).sse(), draft().seal(None).sse());
        }
    }

    #[test]
    fn a_version_that_knows_no_traces_reads_the_event() {
        let letter = Letter::Event { to: To::All, draft: draft() };
        let mut fields = write(&letter);
        fields.retain(|(name, _)| *name != "w");
        let Ok(Letter::Event { draft: event, .. }) = arrive(&fields).letter else { panic!() };
        assert_eq!(event.trace(), None);
        let expected = b": note\nevent: tick\ndata: one\ndata: two\nretry: 5\n\n";
        assert_eq!(event.seal(None).sse(), expected);
    }

    #[test]
    fn kicks_travel() {
        for whose in [Whose::Id("c-1".into()), Whose::User("ann".into())] {
            let arrived = travel(&Letter::Kick { whose: whose.clone(), reason: "banned".into() });
            let Ok(Letter::Kick { whose: read, reason }) = arrived.letter else { panic!("{arrived:?}") };
            assert_eq!((read, &*reason), (whose, "banned"));
        }
    }

    #[test]
    fn the_life_of_a_topic_travels() {
        let keep = Duration::from_millis(1500);
        let ended = |error: Option<&str>| Step::End {
            keep,
            ending: Ending { state: EndState::Failed, error: error.map(Into::into) },
        };
        for step in
            [Step::Begin { keep }, Step::Stop, ended(None), ended(Some("two\nlines")), ended(Some(""))]
        {
            let letter = Letter::Life { topic: Topic::new("t").unwrap(), step: step.clone() };
            let arrived = travel(&letter);
            let Ok(Letter::Life { topic, step: read }) = arrived.letter else { panic!("{arrived:?}") };
            assert_eq!((topic.as_str(), read), ("t", step));
        }
    }

    #[test]
    fn a_released_lease_travels() {
        let arrived = travel(&Letter::Release { lease: "once:é".into() });
        assert!(
            matches!(&arrived.letter, Ok(Letter::Release { lease }) if **lease == *"once:é"),
            "{arrived:?}"
        );
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        let letter = &Letter::Event { to: To::All, draft: draft().keyed(Key::new("k").ok()) };
        for (name, value) in [
            ("d", &b"data: no blank line\n"[..]),
            ("d", b"data: x\n\ndata: injected\n\n"),
            ("c", b"event: x\n"),
            ("y", b""),
            ("y", b"\xff"),
            ("w", b""),
            ("w", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\ndata: injected"),
        ] {
            let mut fields = write(letter);
            for field in &mut fields {
                if field.0 == name {
                    field.1 = value.into();
                }
            }
            assert_eq!(why(&fields), Some(Unread::Damaged), "{name} {value:?}");
        }
        let mut fields = write(letter);
        fields.push(("p", b"x"[..].into()));
        assert_eq!(arrive(&fields).before, None);
        assert_eq!(why(&Vec::new()), Some(Unread::Damaged));
    }

    #[test]
    fn what_another_version_wrote_and_gaps_are_told_from_damage() {
        assert_eq!(why(&gap()), Some(Unread::Gap));
        for (version, kind) in [("2", "a"), ("2", "g"), ("", "a"), ("1", "z"), ("1", "ab")] {
            let fields = vec![("v", version.as_bytes().into()), ("k", kind.as_bytes().into())];
            assert_eq!(why(&fields), Some(Unread::Version), "{version} {kind}");
        }
    }
}
