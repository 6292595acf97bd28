//! What a hub's processes write to each other: a letter as the fields of a stream's entry, and back.
//!
//! | field | |
//! |---|---|
//! | `v` | version of this format, 1 |
//! | `p` | id of the entry before this one, written by the broker itself |
//! | `k` | `t` to topics, `a` to all, `o` to one subscriber, `i` and `u`: end the stream of an id, a user |
//! | `t` | topics, one a line; or the subscriber's id, or the user |
//! | `c` | lines of the event's comment, if it has one |
//! | `d` | the event's other lines; or why the streams end |

use std::sync::Arc;

use crate::frame::Draft;
use crate::ids::StreamId;
use crate::topic::Topic;

const VERSION: &[u8] = b"1";

/// Who gets a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// The subscribers of these topics.
    Topics(Vec<Topic>),
    /// Every subscriber.
    All,
    /// One, by its public id.
    One(Box<str>),
}

/// Whose streams end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// One subscriber's, by its public id.
    Id(Box<str>),
    /// All of a user's.
    User(Arc<str>),
}

/// What travels.
#[derive(Debug)]
pub enum Letter {
    /// An event.
    Event {
        /// Who gets it.
        to: To,
        /// The event without its id.
        draft: Draft,
    },
    /// Streams end.
    Kick {
        /// Whose.
        whose: Whose,
        /// The reason given to `on_disconnect`.
        reason: Arc<str>,
    },
}

/// An entry of the stream.
#[derive(Debug)]
pub struct Arrived {
    /// Its id.
    pub id: StreamId,
    /// The id of the entry before it, which proves that nothing is missing between the two; none when the
    /// entry is not one of ours.
    pub before: Option<StreamId>,
    /// What it carries; none when it cannot be read.
    pub letter: Option<Letter>,
}

/// A letter's fields.
pub type Fields = Vec<(&'static str, Vec<u8>)>;

impl Letter {
    /// Bytes that the letter holds, about.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Event { draft, .. } => draft.len(),
            Self::Kick { reason, .. } => reason.len(),
        }
    }

    /// Whether it has no bytes: only a kick without a reason has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the stream's id becomes the event's.
    #[must_use]
    pub fn carries_id(&self) -> bool {
        matches!(self, Self::Event { to: To::Topics(_) | To::All, .. })
    }

    /// The fields of its entry.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let (kind, to, comment, data): (&[u8], Vec<u8>, &[u8], &[u8]) = match self {
            Self::Event { to, draft } => {
                let (comment, rest) = draft.parts();
                match to {
                    To::Topics(topics) => {
                        let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
                        (b"t", names.join("\n").into_bytes(), comment, rest)
                    }
                    To::All => (b"a", Vec::new(), comment, rest),
                    To::One(name) => (b"o", name.as_bytes().to_vec(), comment, rest),
                }
            }
            Self::Kick { whose, reason } => match whose {
                Whose::Id(id) => (b"i", id.as_bytes().to_vec(), b"", reason.as_bytes()),
                Whose::User(user) => (b"u", user.as_bytes().to_vec(), b"", reason.as_bytes()),
            },
        };
        let mut fields = vec![("v", VERSION.to_vec()), ("k", kind.to_vec())];
        if !to.is_empty() {
            fields.push(("t", to));
        }
        if !comment.is_empty() {
            fields.push(("c", comment.to_vec()));
        }
        fields.push(("d", data.to_vec()));
        fields
    }

    fn read(get: &dyn Fn(&str) -> Option<Vec<u8>>) -> Option<Self> {
        if get("v")? != VERSION {
            return None;
        }
        let to = String::from_utf8(get("t").unwrap_or_default()).ok()?;
        let data = get("d")?;
        let reason = |data| Some(String::from_utf8(data).ok()?.into());
        let to = match get("k")?.as_slice() {
            b"t" => To::Topics(to.split('\n').map(Topic::new).collect::<Result<_, _>>().ok()?),
            b"a" => To::All,
            b"o" => To::One(to.into()),
            b"i" => return Some(Self::Kick { whose: Whose::Id(to.into()), reason: reason(data)? }),
            b"u" => return Some(Self::Kick { whose: Whose::User(to.into()), reason: reason(data)? }),
            _ => return None,
        };
        let draft = Draft::from_parts(&get("c").unwrap_or_default(), &data)?;
        Some(Self::Event { to, draft })
    }
}

impl Arrived {
    /// Reads an entry; `get` gives its fields.
    #[must_use]
    pub fn read(id: StreamId, get: &dyn Fn(&str) -> Option<Vec<u8>>) -> Self {
        let before = get("p").and_then(|text| StreamId::parse(str::from_utf8(&text).ok()?));
        Self { id, before, letter: Letter::read(get) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameBuilder;

    fn draft() -> Draft {
        let mut builder = FrameBuilder::new(Some("note"), Some("tick"));
        builder.text("one\ntwo");
        builder.finish(Some(5))
    }

    fn travel(letter: &Letter) -> Arrived {
        let mut fields = letter.fields();
        fields.push(("p", b"4-2".to_vec()));
        arrive(&fields)
    }

    fn arrive(fields: &Fields) -> Arrived {
        let get = |name: &str| fields.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        Arrived::read(StreamId { ms: 5, seq: 0 }, &get)
    }

    #[test]
    fn events_travel() {
        let topics = ["a", "chat:é"].map(|name| Topic::new(name).unwrap()).to_vec();
        for to in [To::Topics(topics), To::All, To::One("c-1".into())] {
            let arrived = travel(&Letter::Event { to: to.clone(), draft: draft() });
            assert_eq!(arrived.before, Some(StreamId { ms: 4, seq: 2 }));
            let Some(Letter::Event { to: read, draft: event }) = arrived.letter else {
                panic!("{arrived:?}")
            };
            assert_eq!(read, to);
            assert_eq!(event.seal(None).sse(), draft().seal(None).sse());
        }
    }

    #[test]
    fn kicks_travel() {
        for whose in [Whose::Id("c-1".into()), Whose::User("ann".into())] {
            let arrived = travel(&Letter::Kick { whose: whose.clone(), reason: "banned".into() });
            let Some(Letter::Kick { whose: read, reason }) = arrived.letter else { panic!("{arrived:?}") };
            assert_eq!((read, &*reason), (whose, "banned"));
        }
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        let letter = Letter::Event { to: To::All, draft: draft() };
        for (name, value) in [
            ("v", &b"2"[..]),
            ("v", b""),
            ("k", b"z"),
            ("d", b"data: no blank line\n"),
            ("d", b"data: x\n\ndata: injected\n\n"),
            ("c", b"event: x\n"),
        ] {
            let mut fields = letter.fields();
            for field in &mut fields {
                if field.0 == name {
                    field.1 = value.to_vec();
                }
            }
            assert!(arrive(&fields).letter.is_none(), "{name} {value:?}");
        }
        let mut fields = letter.fields();
        fields.push(("p", b"x".to_vec()));
        assert_eq!(arrive(&fields).before, None);
        assert!(arrive(&Vec::new()).letter.is_none());
    }
}
