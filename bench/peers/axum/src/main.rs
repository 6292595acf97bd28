//! axum as its documentation shows it: a broadcast channel, a receiver for each client.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use axum::routing::{get, post};
use axum::{Json, Router};
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::{self, Sender};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};

/// Large enough for every burst that is measured: nothing may be lost.
const BUFFERED: usize = 1024;

#[derive(Clone)]
struct App {
    events: Sender<Arc<str>>,
    sequence: Arc<AtomicU64>,
}

#[derive(Deserialize)]
struct Run {
    n: u64,
    rate: f64,
    bytes: usize,
    #[serde(default = "one")]
    batch: u64,
}

fn one() -> u64 {
    1
}

/// The data of event number `seq`, stamped with `CLOCK_MONOTONIC`: `size` characters.
fn text(seq: u64, size: usize) -> Arc<str> {
    let now = clock_gettime(ClockId::Monotonic);
    let head = format!("{seq} {} ", now.tv_sec * 1_000_000_000 + now.tv_nsec);
    format!("{head:x<size$}").into()
}

async fn events(State(app): State<App>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let stream = BroadcastStream::new(app.events.subscribe())
        // A client that lagged goes on with what is left; the load generator sees the gap.
        .filter_map(Result::ok)
        .map(|data| Ok(Event::default().data(data)));
    Sse::new(stream).keep_alive(KeepAlive::default())
}

#[allow(clippy::cast_precision_loss)] // numbers of events
async fn publish(State(app): State<App>, Query(run): Query<Run>) -> Json<Value> {
    let (begin, first) = (Instant::now(), app.sequence.load(Ordering::Relaxed));
    let mut sent = 0;
    while sent < run.n {
        for _ in 0..run.batch.min(run.n - sent) {
            let seq = app.sequence.fetch_add(1, Ordering::Relaxed);
            // An error says that nobody listens.
            let _ = app.events.send(text(seq, run.bytes));
        }
        sent += run.batch;
        if run.rate > 0.0 {
            sleep_until(begin + Duration::from_secs_f64(sent as f64 / run.rate)).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
    Json(json!({"first": first, "n": run.n}))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("usage: peer-axum PORT")?.parse()?;
    let app = App { events: broadcast::channel(BUFFERED).0, sequence: Arc::default() };
    let router = Router::new()
        .route("/events", get(events))
        .route("/publish", post(publish))
        .route(
            "/count",
            get(async |State(app): State<App>| Json(json!({"count": app.events.receiver_count()}))),
        )
        .route("/ping", get(async || Json(json!({"pong": true}))))
        .with_state(app);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, router).await?;
    Ok(())
}
