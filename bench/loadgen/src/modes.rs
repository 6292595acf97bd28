//! The workloads. Each returns one JSON object.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::args::Args;
use crate::client::Stage;
use crate::engine::Engine;
use crate::measure::{
    Mark, ask, connect, invalid, io, judge, nanoseconds, per, rss_per_client, run_for, run_until,
};
use crate::probe::Probe;
use crate::process::now;

/// The events that fill the buffers of stalled clients: big ones, slow enough for all who read.
const FILL_BYTES: usize = 16 * 1024;
const FILL_RATE: f64 = 4.0;

/// How long a server without clients is looked at: what it does all by itself is no heartbeat's cost.
const ALONE_S: f64 = 5.0;

/// How long the probe's last answers are awaited after the measurement.
const PROBE_PATIENCE: Duration = Duration::from_secs(10);

type Outcome = Result<Value, String>;

/// Publishes `n` events and awaits all of them everywhere; returns the publisher's answer and whether all came.
fn publish(
    engine: &mut Engine,
    args: &Args,
    n: u64,
    rate: f64,
    bytes: usize,
) -> Result<(Value, bool), String> {
    engine.new_phase(bytes);
    let join = if args.publish.contains('?') { '&' } else { '?' };
    let path = format!("{}{join}n={n}&rate={rate}&bytes={bytes}&batch={}", args.publish, args.batch);
    let seconds = args.timeout + if rate > 0.0 { n as f64 / rate } else { 0.0 };
    let expected = n * (args.clients - args.stalled) as u64;
    let answer = ask(engine, seconds, "POST", &path)?;
    let complete = run_until(engine, args.timeout, |engine| engine.tally.events >= expected)?;
    Ok((answer, complete))
}

/// Events of one publisher to all clients.
pub fn fanout(engine: &mut Engine, args: &Args) -> Outcome {
    let mut report = Map::from_iter([("valid".to_owned(), json!(true))]);
    connect(engine, args, &mut report)?;
    if args.warmup > 0 {
        let (_, complete) = publish(engine, args, args.warmup, args.rate, args.bytes)?;
        if !complete || !engine.tally.clean() {
            return Err(format!("warm-up: {}", engine.tally.summary()));
        }
    }
    if args.fill > 0 {
        let (_, complete) = publish(engine, args, args.fill, FILL_RATE, FILL_BYTES)?;
        if !complete || !engine.tally.clean() {
            return Err(format!("filling buffers: {}", engine.tally.summary()));
        }
    }
    let every = Duration::from_millis(args.probe_every);
    let probe = args.probe.as_ref().map(|path| Probe::start(path, args.addr, every, PROBE_PATIENCE));
    let probe = probe.transpose().map_err(io)?;
    let mark = Mark::new(engine);
    let (answer, complete) = publish(engine, args, args.n, args.rate, args.bytes)?;
    let until = engine.tally.last_event.max(mark.wall);
    mark.report(engine, until, &mut report);
    if let Some(answers) = probe.map(Probe::finish) {
        report.insert("probe".into(), answers.latency.summary());
        report.insert("probe_failed".into(), json!(answers.failed));
        if answers.failed > 0 {
            invalid(&mut report, "not every request of the probe was answered");
        }
    }
    rss_per_client(engine, args, "_after", &mut report);
    report.insert("rss_peak".into(), json!(engine.samples.rss_peak));
    let expected = args.n * (args.clients - args.stalled) as u64;
    report.insert("expected".into(), json!(expected));
    if !complete || engine.tally.events != expected {
        invalid(&mut report, "not every event reached every client, once");
    }
    judge(engine, &mut report);
    let cpu_us = report["server_cpu_s"].as_f64().unwrap_or(0.0) * 1e6;
    report.insert("cpu_per_event_us".into(), per(cpu_us, engine.tally.events));
    report.insert("cpu_per_published_us".into(), per(cpu_us, args.n));
    report.insert("received".into(), engine.tally.summary());
    report.insert("publisher".into(), answer);
    if args.stalled > 0 && !args.count.is_empty() {
        let left = ask(engine, args.timeout, "GET", &args.count)?["count"].clone();
        report.insert("subscribers_after".into(), left);
    }
    Ok(Value::Object(report))
}

/// One finite stream for each client; all start together, and all ends are awaited.
fn streams(engine: &mut Engine, args: &Args) -> Result<bool, String> {
    let end = now() + nanoseconds(args.timeout);
    engine.clients.clear();
    while engine.clients.len() < args.clients || engine.open + engine.pending > 0 {
        while engine.clients.len() < args.clients && engine.pending < args.parallel {
            engine.open_client(false).map_err(io)?;
        }
        engine.turn(10).map_err(io)?;
        if now() > end {
            return Ok(false);
        }
    }
    Ok(engine.clients.iter().all(|client| client.stage == Stage::Complete && client.events == args.n))
}

/// A finite stream for each client.
pub fn tokens(engine: &mut Engine, args: &Args) -> Outcome {
    let mut report =
        Map::from_iter([("valid".to_owned(), json!(true)), ("clients".to_owned(), json!(args.clients))]);
    for _ in 0..args.warmup {
        engine.new_phase(args.bytes);
        if !streams(engine, args)? {
            return Err(format!("warm-up: {}, {} streams failed", engine.tally.summary(), engine.failures));
        }
    }
    engine.new_phase(args.bytes);
    let mark = Mark::new(engine);
    let mut complete = true;
    for _ in 0..args.repeat {
        complete &= streams(engine, args)?;
    }
    mark.report(engine, now(), &mut report);
    if !complete {
        invalid(&mut report, "not every stream came whole to its end");
    }
    judge(engine, &mut report);
    let cpu_us = report["server_cpu_s"].as_f64().unwrap_or(0.0) * 1e6;
    report.insert("cpu_per_event_us".into(), per(cpu_us, engine.tally.events));
    report.insert("expected".into(), json!(args.n * args.repeat * args.clients as u64));
    report.insert("received".into(), engine.tally.summary());
    Ok(Value::Object(report))
}

/// Open streams without events.
pub fn idle(engine: &mut Engine, args: &Args) -> Outcome {
    let mut report = Map::from_iter([("valid".to_owned(), json!(true))]);
    let (begin, before) = (now(), engine.server.cpu());
    run_for(engine, ALONE_S)?;
    let alone = engine.server.cpu().since(before).total_ns as f64 / (now() - begin) as f64;
    report.insert("alone_cpu_share".into(), json!(alone));
    connect(engine, args, &mut report)?;
    engine.new_phase(args.bytes);
    let mark = Mark::new(engine);
    run_for(engine, args.duration)?;
    mark.report(engine, now(), &mut report);
    rss_per_client(engine, args, "_after", &mut report);
    if engine.open < args.clients {
        invalid(&mut report, "streams ended");
    }
    judge(engine, &mut report);
    let seconds = |key: &str| report[key].as_f64().unwrap_or(0.0);
    let cpu_us = (seconds("server_cpu_s") - alone * seconds("wall_s")) * 1e6;
    report.insert("cpu_per_heartbeat_us".into(), per(cpu_us, engine.tally.comments));
    report.insert("received".into(), engine.tally.summary());
    Ok(Value::Object(report))
}

/// Clients that come and go.
pub fn churn(engine: &mut Engine, args: &Args) -> Outcome {
    let mut report =
        Map::from_iter([("valid".to_owned(), json!(true)), ("clients".to_owned(), json!(args.clients))]);
    report.insert("rss_before".into(), json!(engine.server.rss()));
    engine.new_phase(args.bytes);
    let mark = Mark::new(engine);
    let end = mark.wall + nanoseconds(args.duration);
    let mut visits = 0_u64;
    for _ in 0..args.clients {
        engine.open_client(false).map_err(io)?;
    }
    while now() < end {
        engine.turn(10).map_err(io)?;
        for index in 0..engine.clients.len() {
            if engine.clients[index].stage == Stage::Open {
                engine.close_client(index);
                visits += 1;
            }
            if !engine.clients[index].alive() {
                engine.reopen_client(index).map_err(io)?;
            }
        }
    }
    for index in 0..engine.clients.len() {
        engine.close_client(index);
    }
    let until = now();
    let mut left = json!(null);
    if !args.count.is_empty() {
        let last = now() + nanoseconds(args.timeout.min(20.0));
        loop {
            left = ask(engine, args.timeout, "GET", &args.count)?["count"].clone();
            if left == json!(0) || now() > last {
                break;
            }
            run_for(engine, 0.05)?;
        }
    }
    mark.report(engine, until, &mut report);
    rss_per_client(engine, args, "_after", &mut report);
    report.insert("visits".into(), json!(visits));
    report.insert("subscribers_left".into(), left.clone());
    if !left.is_null() && left != json!(0) {
        invalid(&mut report, "the server still counts clients that left");
    }
    judge(engine, &mut report);
    let cpu_us = report["server_cpu_s"].as_f64().unwrap_or(0.0) * 1e6;
    report.insert("cpu_per_visit_us".into(), per(cpu_us, visits));
    Ok(Value::Object(report))
}
