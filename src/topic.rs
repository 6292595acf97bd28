//! Topic names, patterns over them, and the table of the topics that are in use.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::error::{Error, Result};

/// Longest topic name, in bytes of UTF-8.
pub const MAX_TOPIC_BYTES: usize = 255;

/// A topic's number. Never reused while a hub lives, so what is still in the log of an evicted topic can
/// not reach the subscribers of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub u64);

impl TopicId {
    /// The topic that `broadcast` publishes to. Every subscriber is in it, whatever it asked for, but for watchers of
    /// runs: their replay, resume and completeness depend on the run alone.
    pub const BROADCAST: Self = Self(0);
}

/// A few topics; nearly always one.
pub type TopicIds = SmallVec<[TopicId; 2]>;

/// The same topics in order, for binary searches: a client may be in thousands, and nested walks over its topics would
/// hold a lock for seconds.
#[must_use]
pub fn sorted(topics: &[TopicId]) -> TopicIds {
    let mut topics = TopicIds::from_slice(topics);
    topics.sort_unstable();
    topics
}

/// A validated topic name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Check `name`.
    ///
    /// # Errors
    /// [`Error::InvalidTopic`] when it is empty, longer than [`MAX_TOPIC_BYTES`], has a control character
    /// or a `*`, which is kept for patterns.
    pub fn new(name: &str) -> Result<Self> {
        check(name)?;
        if name.contains('*') {
            return Err(Error::InvalidTopic(format!(
                "topic {name:?} has a '*': patterns set retention (hub.topic), they are not published or subscribed to"
            )));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::InvalidTopic("a topic's name must not be empty".into()));
    }
    if name.len() > MAX_TOPIC_BYTES {
        return Err(Error::InvalidTopic(format!(
            "a topic's name must not be longer than {MAX_TOPIC_BYTES} bytes, this one has {}",
            name.len()
        )));
    }
    if let Some(bad) = name.chars().find(|c| c.is_control()) {
        return Err(Error::InvalidTopic(format!("topic {name:?} has the control character {bad:?}")));
    }
    Ok(())
}

/// A family of topics: a name in which each `*` stands for any run of characters, also none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern(Box<str>);

impl TopicPattern {
    /// Check `pattern`; a name without `*` is the pattern of that one topic.
    ///
    /// # Errors
    /// [`Error::InvalidTopic`] by the same rules as [`Topic::new`], but for the `*`.
    pub fn new(pattern: &str) -> Result<Self> {
        check(pattern)?;
        Ok(Self(pattern.into()))
    }

    /// The pattern as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `name` belongs to the family.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
            return false;
        };
        if !self.0.contains('*') {
            return rest.is_empty();
        }
        // Every middle part takes its first place; the last one must be the end.
        let mut parts = parts.peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }
}

/// What the table knows of one topic.
#[derive(Debug)]
pub struct TopicInfo {
    /// Its name.
    pub name: Arc<str>,
    /// How many subscribers are in it.
    pub subscribers: usize,
}

/// Names to numbers and back, with the number of subscribers of each.
#[derive(Debug, Default)]
pub struct TopicTable {
    // Names come from users: the standard, keyed hasher.
    by_name: HashMap<Arc<str>, TopicId>,
    /// In order, so that a walk over all of them can pause.
    by_id: BTreeMap<TopicId, TopicInfo>,
    last: u64,
}

impl TopicTable {
    /// The number of `topic`, new if it has none yet. The second value tells whether it is new.
    pub fn intern(&mut self, topic: &Topic) -> (TopicId, bool) {
        if let Some(&id) = self.by_name.get(&*topic.0) {
            return (id, false);
        }
        self.last += 1;
        let id = TopicId(self.last);
        self.by_name.insert(topic.0.clone(), id);
        self.by_id.insert(id, TopicInfo { name: topic.0.clone(), subscribers: 0 });
        (id, true)
    }

    /// The number of the topic called `name`, if it is in use.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    /// What is known of `id`.
    #[must_use]
    pub fn get(&self, id: TopicId) -> Option<&TopicInfo> {
        self.by_id.get(&id)
    }

    /// Count one subscriber more in `id`.
    pub fn enter(&mut self, id: TopicId) {
        if let Some(info) = self.by_id.get_mut(&id) {
            info.subscribers += 1;
        }
    }

    /// Count one subscriber less in `id`; true when it was the last.
    pub fn exit(&mut self, id: TopicId) -> bool {
        self.by_id.get_mut(&id).is_some_and(|info| {
            info.subscribers -= 1;
            info.subscribers == 0
        })
    }

    /// Forget a topic.
    pub fn remove(&mut self, id: TopicId) {
        if let Some(info) = self.by_id.remove(&id) {
            self.by_name.remove(&info.name);
        }
    }

    /// The newest topic's number, also of one that was removed.
    #[must_use]
    pub fn newest(&self) -> TopicId {
        TopicId(self.last)
    }

    /// The topics with higher numbers than `id`, in order.
    pub fn behind(&self, id: TopicId) -> impl Iterator<Item = (TopicId, &TopicInfo)> {
        self.by_id.range((Bound::Excluded(id), Bound::Unbounded)).map(|(&id, info)| (id, info))
    }

    /// All topics.
    pub fn iter(&self) -> impl Iterator<Item = (TopicId, &TopicInfo)> {
        self.by_id.iter().map(|(&id, info)| (id, info))
    }

    /// How many topics there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_with_the_rule_it_breaks() {
        for (name, rule) in
            [("", "empty"), ("a\nb", "control character"), ("chat:*", "patterns"), (&"x".repeat(256), "255")]
        {
            let error = Topic::new(name).unwrap_err().to_string();
            assert!(error.contains(rule), "{error}");
        }
        assert_eq!(Topic::new("préis/€").unwrap().as_str(), "préis/€");
    }

    #[test]
    fn a_pattern_matches_its_family() {
        let yes = [("chat:*", "chat:"), ("chat:*", "chat:a:b"), ("*", "x"), ("a*b*c", "a1b2b3c"), ("x", "x")];
        let no = [("chat:*", "chat"), ("a*b*c", "acb"), ("x", "xy"), ("a*a", "a"), ("*b", "bc")];
        for (pattern, name) in yes {
            assert!(TopicPattern::new(pattern).unwrap().matches(name), "{pattern} {name}");
        }
        for (pattern, name) in no {
            assert!(!TopicPattern::new(pattern).unwrap().matches(name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_number_is_never_reused() {
        let mut table = TopicTable::default();
        let topic = Topic::new("t").unwrap();
        let (first, new) = table.intern(&topic);
        assert!(new && first != TopicId::BROADCAST);
        assert_eq!(table.intern(&topic), (first, false));
        table.remove(first);
        assert_ne!(table.intern(&topic).0, first);
    }
}
