//! How a topic ended, and how its streams report that, each in the format that its client reads.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::entry::{Cursor, Entry, Target};
use crate::frame::{FrameBuilder, escape_separators};
use crate::ids::{EventId, StreamId};

/// The state in which a topic ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndState {
    /// The application ended it; it belonged to no run.
    Ended,
    /// Its run finished.
    Done,
    /// Its run raised an exception.
    Failed,
    /// Its run was stopped.
    Stopped,
    /// The process of its run died.
    Lost,
}

impl EndState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Ended, Self::Done, Self::Failed, Self::Stopped, Self::Lost];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
        }
    }

    /// The state of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// The text for clients when the application chose none.
    fn text(self) -> &'static str {
        match self {
            Self::Ended | Self::Done => "the stream has ended",
            Self::Failed => "the run failed",
            Self::Stopped => "the run was stopped",
            Self::Lost => "the run was lost: its process ended",
        }
    }
}

/// A protocol whose form the end of a stream takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// AI SDK's UI message stream, version 1.
    AiSdk,
    /// `OpenAI`'s streamed completions.
    OpenAi,
    /// AG-UI.
    AgUi,
}

impl Format {
    /// The format of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "ai-sdk" => Some(Self::AiSdk),
            "openai" => Some(Self::OpenAi),
            "ag-ui" => Some(Self::AgUi),
            _ => None,
        }
    }
}

/// How a topic ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Its final state.
    pub state: EndState,
    /// The application's text for clients; only for a run that failed.
    pub error: Option<Box<str>>,
}

/// The end of a topic, as an entry of the hub's order.
#[derive(Debug)]
pub struct TopicEnd {
    /// Its number.
    pub seq: u64,
    /// Its id; `None` when it is not known.
    pub id: Option<EventId>,
    /// How the topic ended.
    pub ending: Ending,
}

impl TopicEnd {
    /// Its place in the hub's order.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        self.id.map(|id| Cursor { seq: self.seq, id })
    }

    /// Orders the ends of one hub. Ends that were adopted may have the same number.
    #[must_use]
    pub fn order(&self) -> impl Ord + use<> {
        (self.seq, self.id.and_then(StreamId::from_event_id))
    }
}

/// One event of an end: its name, and its data.
type Said = (Option<&'static str>, Data);

enum Data {
    Json(Value),
    /// `[DONE]`.
    Done,
}

impl Ending {
    /// The end of a topic that belonged to no run.
    pub const ENDED: Self = Self { state: EndState::Ended, error: None };

    /// Whether a stream has last events, or the end of the body says everything.
    #[must_use]
    pub fn has_tail(&self, format: Option<Format>, has_control: bool) -> bool {
        !self.said(format, has_control).is_empty()
    }

    /// The last events of a stream; empty when the end of the body says everything. The last event carries the id of
    /// the end.
    #[must_use]
    pub fn tail(
        &self,
        format: Option<Format>,
        has_control: bool,
        cursor: Option<Cursor>,
        at: Duration,
    ) -> Vec<Arc<Entry>> {
        let said = self.said(format, has_control);
        let last = said.len().saturating_sub(1);
        let entry = |(at_place, said): (usize, Said)| {
            let cursor = cursor.filter(|_| at_place == last);
            let entry = Entry::new(cursor.map(|cursor| cursor.seq), Target::All, at, frame(&said, cursor));
            Arc::new(entry.named(cursor.map(|cursor| cursor.id)))
        };
        said.into_iter().enumerate().map(entry).collect()
    }

    fn said(&self, format: Option<Format>, has_control: bool) -> Vec<Said> {
        match format {
            Some(format) => self.in_format(format),
            None if has_control => vec![(Some("stream-end"), Data::Json(self.as_json()))],
            None => Vec::new(),
        }
    }

    fn as_json(&self) -> Value {
        match &self.error {
            Some(error) => json!({ "state": self.state.as_str(), "error": error }),
            None => json!({ "state": self.state.as_str() }),
        }
    }

    fn text(&self) -> &str {
        self.error.as_deref().unwrap_or_else(|| self.state.text())
    }

    fn in_format(&self, format: Format) -> Vec<Said> {
        let is_good = matches!(self.state, EndState::Ended | EndState::Done);
        let json = |value: Value| (None, Data::Json(value));
        let code = self.state.as_str();
        match format {
            Format::AiSdk | Format::OpenAi if is_good => vec![(None, Data::Done)],
            Format::AiSdk if self.state == EndState::Stopped => {
                vec![json(json!({ "type": "abort" })), (None, Data::Done)]
            }
            Format::AiSdk => vec![json(json!({ "type": "error", "errorText": self.text() }))],
            Format::OpenAi => {
                let error =
                    json!({ "message": self.text(), "type": "run_error", "param": null, "code": code });
                vec![json(json!({ "error": error }))]
            }
            Format::AgUi if is_good => Vec::new(),
            Format::AgUi => vec![json(json!({ "type": "RUN_ERROR", "message": self.text(), "code": code }))],
        }
    }
}

fn frame((name, data): &Said, cursor: Option<Cursor>) -> crate::frame::Frame {
    let mut builder = FrameBuilder::new(None, *name);
    match data {
        Data::Json(value) => {
            let mut text = value.to_string().into_bytes();
            escape_separators(&mut text, 0);
            builder.json().extend_from_slice(&text);
        }
        Data::Done => builder.text("[DONE]"),
    }
    builder.finish(None).seal(cursor.map(|cursor| cursor.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(state: EndState, format: Option<Format>, has_control: bool) -> String {
        let error = (state == EndState::Failed).then(|| "no \u{2028} model".into());
        let tail = Ending { state, error }.tail(format, has_control, None, Duration::ZERO);
        tail.iter().map(|entry| String::from_utf8(entry.frame.sse().to_vec()).unwrap()).collect()
    }

    #[test]
    fn each_format_says_how_it_ended() {
        use EndState::{Done, Ended, Failed, Lost, Stopped};
        let done = "data: [DONE]\n\n";
        for (state, format, expected) in [
            (Ended, None, "event: stream-end\ndata: {\"state\":\"ended\"}\n\n"),
            (
                Failed,
                None,
                "event: stream-end\ndata: {\"state\":\"failed\",\"error\":\"no \\u2028 model\"}\n\n",
            ),
            (Done, Some(Format::AiSdk), done),
            (
                Failed,
                Some(Format::AiSdk),
                "data: {\"type\":\"error\",\"errorText\":\"no \\u2028 model\"}\n\n",
            ),
            (Stopped, Some(Format::AiSdk), "data: {\"type\":\"abort\"}\n\ndata: [DONE]\n\n"),
            (Done, Some(Format::OpenAi), done),
            (Done, Some(Format::AgUi), ""),
        ] {
            // serde_json sorts keys or keeps their order, by its features: compare what they mean.
            let (got, expected) = (said(state, format, format.is_none()), expected.to_owned());
            let meaning = |text: &str| -> Vec<Value> {
                let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
                data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data))).collect()
            };
            assert_eq!(meaning(&got), meaning(&expected), "{got}");
            assert_eq!(got.contains("event: stream-end"), format.is_none());
        }
        for state in [Failed, Stopped, Lost] {
            for (format, word) in [(Format::OpenAi, "\"error\":"), (Format::AgUi, "RUN_ERROR")] {
                let text = said(state, Some(format), false);
                assert!(text.contains(word) && text.contains(state.as_str()), "{text}");
                assert!(!text.contains("[DONE]"));
            }
        }
        assert!(!said(Lost, Some(Format::AiSdk), false).contains("[DONE]"));
        assert_eq!(said(Done, None, false), "");
    }

    #[test]
    fn the_last_event_carries_the_id() {
        let id = crate::ids::EventId { epoch: crate::ids::Epoch::random(), seq: 7 };
        let ending = Ending { state: EndState::Stopped, error: None };
        let tail = ending.tail(Some(Format::AiSdk), false, Some(Cursor { seq: 7, id }), Duration::ZERO);
        assert_eq!(tail.iter().map(|entry| entry.id).collect::<Vec<_>>(), [None, Some(id)]);
    }
}
