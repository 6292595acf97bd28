//! The workload of clients that come back: all at once, each with the id from before what it missed.

use serde_json::{Map, Value, json};

use crate::args::Args;
use crate::client::Stage;
use crate::engine::Engine;
use crate::histogram::Histogram;
use crate::measure::{Mark, ask, invalid, io, judge, nanoseconds, per, run_for, run_until};
use crate::process::now;

/// How many come back before the measurement, if there is a warm-up.
const WARM: usize = 10;
/// How long to look whether more comes than should.
const AFTERWARDS: f64 = 0.3;

fn publish(engine: &mut Engine, args: &Args, n: u64) -> Result<u64, String> {
    let join = if args.publish.contains('?') { '&' } else { '?' };
    let path = format!("{}{join}n={n}&rate=0&bytes={}&batch=1", args.publish, args.bytes);
    let answer = ask(engine, args.timeout, "POST", &path)?;
    answer["first"].as_u64().ok_or_else(|| format!("the publisher did not say where it began: {answer}"))
}

fn await_count(engine: &mut Engine, args: &Args, wanted: u64) -> Result<(), String> {
    if args.count.is_empty() {
        return Ok(());
    }
    let end = now() + nanoseconds(args.timeout);
    while ask(engine, args.timeout, "GET", &args.count)?["count"].as_u64() != Some(wanted) {
        if now() > end {
            return Err(format!("the server never counted {wanted} subscribers"));
        }
        run_for(engine, 0.02)?;
    }
    Ok(())
}

fn close_all(engine: &mut Engine) {
    for index in 0..engine.clients.len() {
        engine.close_client(index);
    }
    engine.clients.clear();
}

/// The id of an event that one client saw before it left.
fn seen(engine: &mut Engine, args: &Args) -> Result<String, String> {
    engine.new_phase(args.bytes);
    engine.open_client(false).map_err(io)?;
    engine.clients[0].remember_id();
    if !run_until(engine, args.timeout, |engine| engine.clients[0].stage != Stage::Connecting)?
        || !run_until(engine, args.timeout, |engine| engine.clients[0].stage != Stage::Requested)?
    {
        return Err("no stream opened".into());
    }
    await_count(engine, args, 1)?;
    publish(engine, args, 1)?;
    if !run_until(engine, args.timeout, |engine| engine.tally.events > 0)? {
        return Err("the first event did not come".into());
    }
    let id = String::from_utf8_lossy(engine.clients[0].last_id()).into_owned();
    close_all(engine);
    await_count(engine, args, 0)?;
    if id.is_empty() { Err("the server gives its events no ids".into()) } else { Ok(id) }
}

/// `clients` come at once and await `n` events from `first` on; false where they do not get them in time.
fn wave(engine: &mut Engine, args: &Args, clients: usize, first: u64) -> Result<bool, String> {
    engine.new_phase(args.bytes);
    for index in 0..clients {
        engine.open_client(false).map_err(|error| format!("client {index}: {error}"))?;
        engine.clients[index].expected = Some(first);
    }
    let expected = args.n * clients as u64;
    run_until(engine, args.timeout, |engine| engine.tally.events >= expected || engine.failures > 0)
}

/// Clients that come back and are owed events.
pub fn replay(engine: &mut Engine, args: &Args) -> Result<Value, String> {
    let mut report =
        Map::from_iter([("valid".to_owned(), json!(true)), ("clients".to_owned(), json!(args.clients))]);
    let id = seen(engine, args)?;
    engine.resume_from(&args.path, &id);
    let first = publish(engine, args, args.n)?;
    if args.warmup > 0 {
        if !wave(engine, args, WARM, first)? || !engine.tally.clean() {
            return Err(format!("warm-up: {}", engine.tally.summary()));
        }
        close_all(engine);
        await_count(engine, args, 0)?;
    }
    report.insert("rss_before".into(), json!(engine.server.rss()));
    let mark = Mark::new(engine);
    wave(engine, args, args.clients, first)?;
    mark.report(engine, engine.tally.last_event.max(mark.wall), &mut report);
    run_for(engine, AFTERWARDS)?;
    let expected = args.n * args.clients as u64;
    report.insert("expected".into(), json!(expected));
    if engine.tally.events != expected || engine.clients.iter().any(|client| client.events != args.n) {
        invalid(&mut report, "not every client got all it missed, once");
    }
    judge(engine, &mut report);
    let mut complete = Histogram::default();
    for client in &engine.clients {
        complete.record(client.last_event.saturating_sub(mark.wall));
    }
    report.insert("complete".into(), complete.summary());
    report.insert("rss_peak".into(), json!(engine.samples.rss_peak));
    let cpu_us = report["server_cpu_s"].as_f64().unwrap_or(0.0) * 1e6;
    report.insert("cpu_per_event_us".into(), per(cpu_us, engine.tally.events));
    report.insert("cpu_per_client_us".into(), per(cpu_us, args.clients as u64));
    report.insert("received".into(), engine.tally.summary());
    Ok(Value::Object(report))
}
