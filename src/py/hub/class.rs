//! `Hub`, the native base of `sse_hub.Hub`.
//!
//! Longer than other files, because PyO3 takes all methods of a class in one block.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyCFunction, PyDict};

use super::generations::{Generations, Settings};
use super::joining::Door;
use super::publication::PyPublication;
use super::reactors::HandedClient;
use super::subscription::PySubscription;
use crate::broker::letter::{Fence, Letter, Step, To, Whose};
use crate::broker::{Answered, Broker};
use crate::change::Who;
use crate::config::{self, Config};
use crate::ending::{EndState, Ending};
use crate::error::Error;
use crate::frame::Draft;
use crate::identity::CloseReason;
use crate::ids::GroupId;
use crate::py::brokers::link::{GivenBroker, Link};
use crate::py::process::awaiting;
use crate::py::values::arguments::{Argument, Number, if_given};
use crate::py::values::convert::{Fields, Given, topics};
use crate::py::values::exceptions::{OrRaise, from_core, from_failure};
use crate::py::values::options::{
    self, Whole, at_least, at_least_if_given, between, positive_seconds, positive_seconds_if_given,
    reconnect, retention,
};
use crate::py::values::request::PyRequest;
use crate::queue::{Capacity, OverflowPolicy};
use crate::stream_broker::{Kept, lease_of_run};
use crate::topic::{Topic, TopicId, TopicPattern};

/// The native part of a hub; ``sse_hub.Hub`` adds the options' defaults and the Python side.
#[pyclass(frozen, subclass, weakref, name = "Hub", module = "sse_hub._core")]
pub struct PyHub {
    generations: Arc<Generations>,
}

impl PyHub {
    fn door<'a, 'py>(slf: &'a Bound<'py, Self>) -> Door<'a, 'py> {
        Door { hub: slf.as_any(), generations: &slf.get().generations }
    }

    pub(super) fn generations(&self) -> &Arc<Generations> {
        &self.generations
    }

    fn draft<'py>(&self, py: Python<'py>, fields: Fields<'py>) -> PyResult<Draft> {
        fields.draft(py, self.generations.traceparent(py)?)
    }

    fn post(&self, py: Python<'_>, to: To, draft: Draft) -> PyResult<PyPublication> {
        self.generations.post(py, to, draft)
    }

    fn finish(
        &self,
        py: Python<'_>,
        topic: &str,
        keep: Duration,
        ending: Ending,
        token: Option<&str>,
    ) -> PyResult<PyPublication> {
        let topic = Topic::new(topic).or_raise(py)?;
        if self.generations.has_broker() {
            let fence = held(&topic, token);
            let letter = Letter::Life { topic, step: Step::End { keep, ending } };
            return self.generations.post_letter(py, letter, fence);
        }
        self.generations.finish(py, &topic, None, keep, &ending)
    }

    /// The subscribers with an id or a user; `None` when no subscriber here has the id.
    fn who(&self, id: Option<&str>, user: Option<&str>) -> PyResult<Option<Who>> {
        match (id, user) {
            (Some(id), None) => Ok(self.generations.hub().get(id).map(|found| Who::Id(found.id))),
            (None, Some(user)) => Ok(Some(Who::User(user.into()))),
            _ => Err(PyTypeError::new_err("disconnect needs id= or user=, one of them")),
        }
    }
}

/// A broker's answer as an awaitable; `alone` without a broker, or `HubClosed` if there has to be one.
fn answer_of<T>(py: Python<'_>, answer: Option<Answered<T>>, alone: Option<T>) -> PyResult<Bound<'_, PyAny>>
where
    T: for<'any> IntoPyObject<'any> + Send + 'static,
{
    awaiting::into_python(py, async move {
        let answer = match (answer, alone) {
            (Some(answer), _) => answer.await,
            (None, Some(alone)) => return Ok(alone),
            (None, None) => None,
        };
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(failure)) => Err(Python::attach(|py| from_failure(py, &failure))),
            None => Err(Python::attach(|py| from_core(py, &Error::HubClosed))),
        }
    })
}

/// The ids of the subscribers under a name in presence, in all processes: an awaitable.
fn present<'py>(hub: &Bound<'py, PyHub>, name: Option<String>) -> PyResult<Bound<'py, PyAny>> {
    let generations = &hub.get().generations;
    generations.connected(hub.py())?;
    let broker = generations.broker();
    let answer = broker.map(|broker| broker.present(name));
    awaiting::into_python(hub.py(), async move {
        let Some(answer) = answer else { return Ok(Vec::new()) };
        match answer.await {
            Some(Ok(ids)) => Ok(ids),
            Some(Err(failure)) => Err(Python::attach(|py| from_failure(py, &failure))),
            None => Err(Python::attach(|py| from_core(py, &Error::HubClosed))),
        }
    })
}

/// What tells a run from others of its name.
#[derive(FromPyObject)]
enum Mark {
    Token(String),
    Alone(u64),
}

/// The fence of a run's letters.
fn held(topic: &Topic, token: Option<&str>) -> Option<Fence> {
    token.map(|token| Fence::Held { lease: lease_of_run(topic.as_str()), token: token.into() })
}

/// Most threads of one hub, more than any machine can use.
const MAX_THREADS: i64 = 1024;

#[pymethods]
impl PyHub {
    #[new]
    #[pyo3(signature = (*, history, history_bytes, history_age, history_total_bytes, heartbeat, reconnect,
                        capacity, capacity_bytes, overflow, stall_timeout, backlog_bytes, max_event_bytes,
                        max_subscribers, threads, max_per_user=None, max_topics=None, rate=None,
                        broker=None, name=Argument::of("default"), manual_clock=false, traceparent=None),
           text_signature = "(*, history, history_bytes, history_age, history_total_bytes, heartbeat, reconnect, capacity, capacity_bytes, overflow, stall_timeout, backlog_bytes, max_event_bytes, max_subscribers, threads, max_per_user=None, max_topics=None, rate=None, broker=None, name='default', manual_clock=False, traceparent=None)")]
    #[allow(clippy::too_many_arguments, reason = "the options of a hub, all by keyword")]
    fn new(
        py: Python<'_>,
        history: Argument<Whole>,
        history_bytes: Argument<Whole>,
        history_age: Option<Argument<Number>>,
        history_total_bytes: Argument<Whole>,
        heartbeat: Option<Argument<Number>>,
        reconnect: &Bound<'_, PyAny>,
        capacity: Argument<Whole>,
        capacity_bytes: Argument<Whole>,
        overflow: Argument<&str>,
        stall_timeout: Argument<Number>,
        backlog_bytes: Argument<Whole>,
        max_event_bytes: Argument<Whole>,
        max_subscribers: Option<Argument<Whole>>,
        threads: Argument<Whole>,
        max_per_user: Option<Argument<Whole>>,
        max_topics: Option<Argument<Whole>>,
        rate: Option<Argument<Number>>,
        broker: Option<GivenBroker<'_>>,
        name: Argument<&str>,
        manual_clock: bool,
        traceparent: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let name = name.named("name", "a str")?;
        let capacity = Capacity {
            events: at_least("capacity", capacity, 1)?,
            bytes: at_least("capacity_bytes", capacity_bytes, 1)?,
        };
        let config = Config {
            retention: retention(py, history, history_bytes, history_age)?,
            history_total_bytes: at_least("history_total_bytes", history_total_bytes, 0)?,
            heartbeat: positive_seconds_if_given(py, "heartbeat", heartbeat)?,
            reconnect_ms: self::reconnect(reconnect)?,
            capacity,
            overflow: OverflowPolicy::parse(overflow.named("overflow", "a str")?).or_raise(py)?,
            interval: options::interval(py, rate)?,
            stall_timeout: positive_seconds(py, "stall_timeout", stall_timeout)?,
            backlog_bytes: at_least("backlog_bytes", backlog_bytes, 1)?,
            max_event_bytes: at_least("max_event_bytes", max_event_bytes, 1)?,
            max_subscribers: at_least_if_given("max_subscribers", max_subscribers, 0)?,
            max_per_user: at_least_if_given("max_per_user", max_per_user, 1)?,
            max_topics: at_least_if_given("max_topics", max_topics, 1)?,
        };
        let kept = Kept {
            count: config.retention.count,
            age: config.retention.age,
            min_age: broker.as_ref().map_or(Duration::ZERO, GivenBroker::min_age),
            bytes: config.history_total_bytes,
        };
        let link = broker.map(|broker| Link::new(py, &broker, name, kept)).transpose()?;
        let threads = between("threads", threads, 1, MAX_THREADS)?;
        let name = name.into();
        let settings = Settings { name, config, has_manual_clock: manual_clock, threads, link, traceparent };
        Ok(Self { generations: Arc::new(Generations::new(settings)) })
    }

    /// Publish an event to the subscribers of ``topics``.
    #[pyo3(signature = (topics, data=Given::Omitted, *, raw_data=None, event=None, retry=None, comment=None, key=None),
           text_signature = "($self, topics, data=..., *, raw_data=None, event=None, retry=None, comment=None, key=None)")]
    #[allow(clippy::too_many_arguments, reason = "the fields of an event, by keyword")]
    fn publish<'py>(
        &self,
        py: Python<'py>,
        topics: &Bound<'py, PyAny>,
        data: Given<'py>,
        raw_data: Option<Bound<'py, PyAny>>,
        event: Option<Bound<'py, PyAny>>,
        retry: Option<Bound<'py, PyAny>>,
        comment: Option<Bound<'py, PyAny>>,
        key: Option<Bound<'py, PyAny>>,
    ) -> PyResult<PyPublication> {
        let topics = self::topics(topics)?;
        let draft = self.draft(py, Fields { data, raw_data, event, retry, comment, key })?;
        self.post(py, To::Topics(topics), draft)
    }

    /// Publish an event to every subscriber, whatever its topics; it is replayed like a topic's events.
    #[pyo3(signature = (data=Given::Omitted, *, raw_data=None, event=None, retry=None, comment=None, key=None),
           text_signature = "($self, data=..., *, raw_data=None, event=None, retry=None, comment=None, key=None)")]
    #[allow(clippy::too_many_arguments, reason = "the fields of an event, by keyword")]
    fn broadcast<'py>(
        &self,
        py: Python<'py>,
        data: Given<'py>,
        raw_data: Option<Bound<'py, PyAny>>,
        event: Option<Bound<'py, PyAny>>,
        retry: Option<Bound<'py, PyAny>>,
        comment: Option<Bound<'py, PyAny>>,
        key: Option<Bound<'py, PyAny>>,
    ) -> PyResult<PyPublication> {
        let draft = self.draft(py, Fields { data, raw_data, event, retry, comment, key })?;
        self.post(py, To::All, draft)
    }

    /// Send an event to one subscriber: in order with everything else, without an id, not replayed.
    #[pyo3(signature = (subscriber_id, data=Given::Omitted, *, raw_data=None, event=None, retry=None, comment=None, key=None),
           text_signature = "($self, subscriber_id, data=..., *, raw_data=None, event=None, retry=None, comment=None, key=None)")]
    #[allow(clippy::too_many_arguments, reason = "the fields of an event, by keyword")]
    fn send<'py>(
        &self,
        py: Python<'py>,
        subscriber_id: Argument<&str>,
        data: Given<'py>,
        raw_data: Option<Bound<'py, PyAny>>,
        event: Option<Bound<'py, PyAny>>,
        retry: Option<Bound<'py, PyAny>>,
        comment: Option<Bound<'py, PyAny>>,
        key: Option<Bound<'py, PyAny>>,
    ) -> PyResult<PyPublication> {
        let subscriber_id = subscriber_id.named("subscriber_id", "a str")?;
        let draft = self.draft(py, Fields { data, raw_data, event, retry, comment, key })?;
        self.post(py, To::One(subscriber_id.into()), draft)
    }

    /// End the stream of one subscriber, or all streams of a user, after what was published so far.
    #[pyo3(signature = (*, id=None, user=None, reason=Argument::of("kicked")),
           text_signature = "($self, *, id=None, user=None, reason='kicked')")]
    fn disconnect(
        &self,
        py: Python<'_>,
        id: Option<Argument<&str>>,
        user: Option<Argument<&str>>,
        reason: Argument<&str>,
    ) -> PyResult<usize> {
        let (id, user) = (if_given(id, "id", "a str")?, if_given(user, "user", "a str")?);
        let reason = reason.named("reason", "a str")?;
        let who = self.who(id, user)?;
        if !self.generations.has_broker() {
            let reason = CloseReason::Kicked(reason.into());
            return Ok(who.map_or(0, |who| self.generations.hub().disconnect(who, reason)));
        }
        let hub = self.generations.connected(py)?;
        let here = who.map_or(0, |who| hub.count_matching(&who));
        let whose = match (id, user) {
            (Some(id), _) => Whose::Id(id.into()),
            (_, user) => Whose::User(user.unwrap_or_default().into()),
        };
        if let Some(broker) = hub.broker() {
            let outcome = hub.post(Letter::Kick { whose, reason: reason.into() }).or_raise(py)?;
            drop(PyPublication::later(outcome, broker.clone(), self.generations.loops()));
        }
        Ok(here)
    }

    /// End a topic, after what was published so far.
    #[pyo3(signature = (topic, *, keep=Argument::of(Number(300.0))), text_signature = "($self, topic, *, keep=300.0)")]
    fn end(slf: &Bound<'_, Self>, topic: Argument<&str>, keep: Argument<Number>) -> PyResult<PyPublication> {
        let (py, topic) = (slf.py(), topic.named("topic", "a str")?);
        let keep = options::seconds(py, "keep", keep)?;
        let ended = slf.get().finish(py, topic, keep, Ending::ENDED, None)?;
        // With a broker, a run learns of it by the log.
        if !slf.get().generations.has_broker() {
            slf.call_method1(intern!(py, "_topic_ended"), (topic,))?;
        }
        Ok(ended)
    }

    // End a run's topic with a state, and the text for clients about a failure. `mark` is the token of the run's lease,
    // or without a broker what `_begin_alone` has returned.
    fn _end_run(
        &self,
        py: Python<'_>,
        topic: &str,
        keep: f64,
        state: &str,
        error: Option<&str>,
        mark: Mark,
    ) -> PyResult<PyPublication> {
        let Some(state) = EndState::parse(state) else {
            return Err(PyValueError::new_err(format!("no run ends as {state:?}")));
        };
        let ending = Ending { state, error: error.map(Into::into) };
        let keep = config::seconds("keep", keep).or_raise(py)?;
        match mark {
            Mark::Token(token) => self.finish(py, topic, keep, ending, Some(&token)),
            Mark::Alone(run) => {
                let topic = Topic::new(topic).or_raise(py)?;
                self.generations.finish(py, &topic, Some(TopicId(run)), keep, &ending)
            }
        }
    }

    // Begin a run's topic, under a lease: everything is kept until its end is forgotten, `keep` after it.
    fn _begin_run(&self, py: Python<'_>, topic: &str, keep: f64, token: &str) -> PyResult<PyPublication> {
        let topic = Topic::new(topic).or_raise(py)?;
        let fence = held(&topic, Some(token));
        let step = Step::Begin { keep: config::seconds("keep", keep).or_raise(py)? };
        self.generations.post_letter(py, Letter::Life { topic, step }, fence)
    }

    // The same without a broker. Returns a number that no other run has.
    fn _begin_alone(&self, py: Python<'_>, topic: &str) -> PyResult<u64> {
        let topic = Topic::new(topic).or_raise(py)?;
        Ok(self.generations.hub().begin_whole(&topic).or_raise(py)?.0)
    }

    // Whether the run that `_begin_alone` has begun has not ended.
    fn _runs_alone(&self, py: Python<'_>, topic: &str, run: u64) -> PyResult<bool> {
        let topic = Topic::new(topic).or_raise(py)?;
        Ok(self.generations.hub().is_running(&topic, TopicId(run)))
    }

    // Ask the process that drives a run, whichever it is, to stop it.
    fn _ask_to_stop(&self, py: Python<'_>, topic: &str) -> PyResult<PyPublication> {
        let topic = Topic::new(topic).or_raise(py)?;
        self.generations.post_letter(py, Letter::Life { topic, step: Step::Stop }, None)
    }

    // Whether some process has asked to stop a run; reported once.
    fn _take_stop(&self, topic: &str) -> bool {
        self.generations.hub().take_stop(topic)
    }

    // Take a lease with the caller's token. Returns an awaitable of whether it is held now.
    fn _take_lease<'py>(slf: &Bound<'py, Self>, name: &str, token: &str) -> PyResult<Bound<'py, PyAny>> {
        let generations = &slf.get().generations;
        generations.connected(slf.py())?;
        let answer = generations.broker().map(|broker| broker.take_lease(name.into(), token.into()));
        answer_of(slf.py(), answer, Some(true))
    }

    // Take a lease with the caller's token once it is free. Returns an awaitable of True.
    fn _await_lease<'py>(slf: &Bound<'py, Self>, name: &str, token: &str) -> PyResult<Bound<'py, PyAny>> {
        let generations = &slf.get().generations;
        generations.connected(slf.py())?;
        let answer = generations.broker().map(|broker| broker.await_lease(name.into(), token.into()));
        answer_of(slf.py(), answer, Some(true))
    }

    // An awaitable of None, which ends when a lease is no longer held.
    fn _lost<'py>(slf: &Bound<'py, Self>, name: &str, token: &str) -> PyResult<Bound<'py, PyAny>> {
        let answer = slf.get().generations.broker().map(|broker| broker.lost(name.into(), token.into()));
        answer_of(slf.py(), answer, None)
    }

    // An awaitable of the next change of a run after this call: the state in which it has ended, or None. Also None when
    // the run's lease with this token is no longer held. Raises `HubClosed` without a connection to the broker.
    #[pyo3(signature = (topic, token=None))]
    fn _run_changed<'py>(
        slf: &Bound<'py, Self>,
        topic: &str,
        token: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let topic = Topic::new(topic).or_raise(slf.py())?;
        let broker = slf.get().generations.broker();
        let changed = broker.map(|broker| broker.run_changed(topic, token.map(Into::into)));
        let answer = changed.map(|changed| -> Answered<Option<&'static str>> {
            Box::pin(async move { changed.await.map(|change| change.map(|end| end.map(EndState::as_str))) })
        });
        answer_of(slf.py(), answer, None)
    }

    // A function that returns the state in which a run has ended since this call, also when its name is free again.
    fn _watch_end<'py>(&self, py: Python<'py>, topic: &str) -> PyResult<Bound<'py, PyCFunction>> {
        let topic = Topic::new(topic).or_raise(py)?;
        let watched = self.generations.broker().map(|broker| broker.watch_end(topic));
        PyCFunction::new_closure(py, None, None, move |_, _| {
            watched.as_ref().and_then(|watched| watched()).map(EndState::as_str)
        })
    }

    // Whether a lease is still held.
    fn _holds(&self, name: &str, token: &str) -> bool {
        self.generations.broker().is_some_and(|broker| broker.holds(name, token))
    }

    // Release a lease, or no longer wait for it.
    fn _release(&self, name: &str, token: &str) {
        if let Some(broker) = self.generations.broker() {
            broker.release(name, token);
        }
    }

    // Publish a value of a run, if it has at most `room` bytes. Also returns its size.
    fn _publish_part<'py>(
        &self,
        py: Python<'py>,
        topic: &str,
        value: Bound<'py, PyAny>,
        room: usize,
        token: &str,
    ) -> PyResult<Option<(PyPublication, usize)>> {
        let topic = Topic::new(topic).or_raise(py)?;
        let draft = self.draft(py, Fields::only(value))?;
        let size = draft.len();
        if size > room {
            return Ok(None);
        }
        let fence = held(&topic, Some(token));
        let letter = Letter::Event { to: To::Topics([topic].into()), draft };
        Ok(Some((self.generations.post_letter(py, letter, fence)?, size)))
    }

    // As `publish`, while a lease is held: the broker refuses it otherwise.
    #[pyo3(signature = (lease, token, topics, data=Given::Omitted, *, raw_data=None, event=None, retry=None, comment=None, key=None),
           text_signature = "($self, lease, token, topics, data=..., *, raw_data=None, event=None, retry=None, comment=None, key=None)")]
    #[allow(clippy::too_many_arguments, reason = "the fields of an event, by keyword")]
    fn _publish_held<'py>(
        &self,
        py: Python<'py>,
        lease: &str,
        token: &str,
        topics: &Bound<'py, PyAny>,
        data: Given<'py>,
        raw_data: Option<Bound<'py, PyAny>>,
        event: Option<Bound<'py, PyAny>>,
        retry: Option<Bound<'py, PyAny>>,
        comment: Option<Bound<'py, PyAny>>,
        key: Option<Bound<'py, PyAny>>,
    ) -> PyResult<PyPublication> {
        let topics = self::topics(topics)?;
        let draft = self.draft(py, Fields { data, raw_data, event, retry, comment, key })?;
        let fence = Some(Fence::Held { lease: lease.into(), token: token.into() });
        self.generations.post_letter(py, Letter::Event { to: To::Topics(topics), draft }, fence)
    }

    // Whether there is a run of this name, or it has ended and is kept. None while the hub does not know its position
    // in the broker's stream.
    fn _is_followed(&self, py: Python<'_>, topic: &str) -> PyResult<Option<bool>> {
        Ok(self.generations.connected(py)?.is_followed(topic))
    }

    // An awaitable of whether there is a run that this process does not follow. If there is, it follows it then.
    fn _find_run<'py>(slf: &Bound<'py, Self>, topic: &str) -> PyResult<Bound<'py, PyAny>> {
        let topic = Topic::new(topic).or_raise(slf.py())?;
        let generations = &slf.get().generations;
        generations.connected(slf.py())?;
        let answer = generations.broker().map(|broker| broker.find_run(topic));
        answer_of(slf.py(), answer, Some(false))
    }

    // The state in which a topic ended, until its name is free.
    fn _ending(&self, topic: &str) -> Option<&'static str> {
        self.generations.hub().ending(topic).map(|ending| ending.state.as_str())
    }

    // Whether a client whose last id is this one has received everything that its topics will ever publish.
    fn _is_over(&self, request: &PyRequest, last_event_id: Option<&str>) -> bool {
        last_event_id.is_some_and(|id| {
            let request = request.of(Some(id.into()), GroupId::NONE);
            self.generations.hub().has_everything(&request)
        })
    }

    // Whether the authorization of a request has expired.
    fn _is_expired(&self, request: &PyRequest) -> bool {
        let Some(expires) = request.expires() else { return false };
        self.generations.hub().expired(expires).is_some()
    }

    /// The number of subscribers of ``topic``, or of the hub.
    #[pyo3(signature = (topic=None))]
    fn count(&self, topic: Option<Argument<&str>>) -> PyResult<usize> {
        let topic = if_given(topic, "topic", "a str")?;
        Ok(self.generations.hub().count(topic))
    }

    /// The subscribers of ``topic``, or of the hub, in no particular order.
    #[pyo3(signature = (topic=None))]
    fn subscribers<'py>(
        slf: &Bound<'py, Self>,
        topic: Option<Argument<&str>>,
    ) -> PyResult<Vec<Bound<'py, PySubscription>>> {
        let topic = if_given(topic, "topic", "a str")?;
        let hub = slf.get().generations.hub();
        let generations = &slf.get().generations;
        let find = |identity| PySubscription::find(slf.as_any(), generations, &hub, identity);
        hub.subscribers(topic).into_iter().map(find).filter_map(Result::transpose).collect()
    }

    /// The subscriber with this id, or None.
    fn get<'py>(slf: &Bound<'py, Self>, id: Argument<&str>) -> PyResult<Option<Bound<'py, PySubscription>>> {
        let id = id.named("id", "a str")?;
        let generations = &slf.get().generations;
        let hub = generations.hub();
        match hub.get(id) {
            Some(identity) => PySubscription::find(slf.as_any(), generations, &hub, identity),
            None => Ok(None),
        }
    }

    /// Current counters and sizes, by name; docs/operations.md explains each.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let hub = self.generations.hub();
        let stats = PyDict::new(py);
        stats.set_item("epoch", hub.epoch.as_str())?;
        for (name, value) in hub.stats() {
            stats.set_item(name, value)?;
        }
        let handed_off = self.generations.reactors_of(&hub).map_or(0, |reactors| reactors.open(None));
        stats.set_item("handed_off", handed_off)?;
        let broker = hub.broker();
        let said =
            |broker: &Arc<dyn Broker>| if broker.is_connected() { "connected" } else { "disconnected" };
        let idle = || self.generations.has_broker().then_some("disconnected");
        stats.set_item("broker", broker.map(said).or_else(idle))?;
        stats.set_item("unsent", broker.map_or(0, |broker| broker.unsent()))?;
        stats.set_item("publish_failed", broker.map_or(0, |broker| broker.failed()))?;
        stats.set_item("ends", hub.measures.ends().into_py_dict(py)?)?;
        Ok(stats)
    }

    // The histograms, by name: bounds, cumulated counts, sum.
    fn _histograms<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.generations.hub().measures.histograms().into_py_dict(py)
    }

    // Set what a topic, or a family of topics, keeps.
    fn _set_retention(
        &self,
        py: Python<'_>,
        pattern: Argument<&str>,
        history: Argument<Whole>,
        history_bytes: Argument<Whole>,
        history_age: Option<Argument<Number>>,
    ) -> PyResult<()> {
        let pattern = TopicPattern::new(pattern.named("pattern", "a str")?).or_raise(py)?;
        let retention = retention(py, history, history_bytes, history_age)?;
        self.generations.set_retention(pattern, retention);
        Ok(())
    }

    // Register a subscriber on the loop that runs here.
    fn _subscribe<'py>(
        slf: &Bound<'py, Self>,
        request: &PyRequest,
        last_event_id: Option<String>,
        info: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PySubscription>> {
        Self::door(slf).subscribe(&request.of(last_event_id, GroupId::NONE), info)
    }

    // Start everything that `_hand_over` needs, on the running loop.
    //
    // Raises OSError when there is no thread or descriptor for it, HubClosed while the hub closes.
    fn _prepare_hand_over(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::door(slf).prepare_hand_over()
    }

    // Pass a client's socket to a reactor. `fd` belongs to the hub from here on, unless this raises.
    //
    // `on_end(reason)` is called on the loop that runs here when the stream has ended.
    #[pyo3(signature = (fd, request, last_event_id, info, *, group, on_end))]
    fn _hand_over<'py>(
        slf: &Bound<'py, Self>,
        fd: i32,
        request: &PyRequest,
        last_event_id: Option<String>,
        info: Option<Py<PyAny>>,
        group: u64,
        on_end: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PySubscription>> {
        Self::door(slf).hand_over(
            fd,
            &request.of(last_event_id, GroupId(group)),
            HandedClient { info, on_end },
        )
    }

    // End the streams of a group, after what was published so far.
    fn _stop_group(&self, group: u64) {
        if let Some(hub) = self.generations.open_hub() {
            hub.disconnect(Who::Group(GroupId(group)), CloseReason::Shutdown);
        }
    }

    // How many handed-off streams of a group have not ended.
    fn _open_in_group(&self, group: u64) -> usize {
        self.generations.reactors().map_or(0, |reactors| reactors.open(Some(GroupId(group))))
    }

    // Close the remaining handed-off connections of a group, as they are.
    fn _abort_group(&self, group: u64) {
        if let Some(reactors) = self.generations.reactors() {
            reactors.abort(GroupId(group));
        }
    }

    // From now on `self._disconnected(subscription, reason)` is called, on the subscriber's loop,
    // when a stream has ended. By name, because a reference to the object's own method would be a cycle that
    // no garbage collector sees.
    fn _report_disconnects(&self) {
        self.generations.report_disconnects();
    }

    // Refuse publications and subscribers; streams go on. Returns how many letters have no answer from the
    // broker yet, and whether some have yet to come back from there; None when there is nothing to close.
    fn _refuse(&self) -> Option<(usize, bool)> {
        self.generations.refuse()
    }

    // How many streams a user has in this process.
    fn _count_of_user(&self, user: &str) -> usize {
        self.generations.hub().count_of_user(user)
    }

    // Claim a place among the streams of the request's user in all processes, of which there may be so many: an
    // awaitable of whether it is granted. `_drop_claim` follows, whether it is or not.
    fn _claim<'py>(slf: &Bound<'py, Self>, request: &PyRequest, limit: usize) -> PyResult<Bound<'py, PyAny>> {
        let generations = &slf.get().generations;
        let hub = generations.connected(slf.py())?;
        let answer = request.claim().zip(generations.broker()).map(|((subscriber, user), broker)| {
            hub.begin_claim(subscriber, user);
            broker.claim(user.clone(), subscriber, limit)
        });
        answer_of(slf.py(), answer, None)
    }

    // Give the place that a request has claimed to others, unless a stream has it.
    fn _drop_claim(&self, request: &PyRequest) {
        if let Some((subscriber, _)) = request.claim() {
            self.generations.hub().drop_claim(subscriber);
        }
    }

    // The ids of the subscribers of a topic, or of the hub, in all processes: an awaitable.
    #[pyo3(signature = (topic=None))]
    fn _present<'py>(slf: &Bound<'py, Self>, topic: Option<Argument<&str>>) -> PyResult<Bound<'py, PyAny>> {
        present(slf, if_given(topic, "topic", "a str")?.map(Into::into))
    }

    // Refuse publications and newcomers, and end all streams after what was published. Returns the argument
    // of `_unfinished` and `_finish_close`: the hub that is meant, which may be followed by another before
    // they are called. None when there is nothing to close.
    fn _begin_close(&self, py: Python<'_>) -> Option<String> {
        self.generations.begin_close(py)
    }

    // How many consumers have not seen the end of their stream.
    fn _unfinished(&self, epoch: &str) -> usize {
        self.generations.unfinished(epoch)
    }

    // Finish the close: the next use makes a new generation.
    fn _finish_close(&self, py: Python<'_>, epoch: &str) -> PyResult<()> {
        self.generations.finish_close(py, epoch)
    }

    // Whether a broker of this hub that was told to stop still runs.
    fn _is_broker_ending(&self) -> bool {
        self.generations.is_broker_ending()
    }

    // Seconds until something is due, on the hub's clock; None when nothing is.
    fn _next_due(&self) -> Option<f64> {
        self.generations.hub().next_due().map(|due| due.as_secs_f64())
    }

    // Advance a manual clock by `by` seconds, and run everything that is due.
    fn _advance(&self, py: Python<'_>, by: f64) -> PyResult<()> {
        let hub = self.generations.hub();
        let by =
            if by == 0.0 { Duration::ZERO } else { config::positive_seconds("seconds", by).or_raise(py)? };
        if !hub.clock.advance(by) {
            return Err(PyRuntimeError::new_err("this hub runs on the machine's clock"));
        }
        hub.wake_all();
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.generations.traverse(&visit)
    }
}
