//! What all workloads share: connecting, asking the server, clocks before and after, and what spoils a run.

use serde_json::{Map, Value, json};

use crate::args::Args;
use crate::engine::Engine;
use crate::process::{Cpu, now, own_cpu, own_wait};

/// A run in which this process computed, or waited for a core, for more than this share of the time measured
/// the load, not the server.
const SATURATED: f64 = 0.9;

/// Clocks at the start of a measurement.
pub struct Mark {
    /// When it was taken.
    pub wall: u64,
    own: u64,
    waited: u64,
    server: Cpu,
    server_waited: u64,
}

impl Mark {
    /// The clocks now.
    pub fn new(engine: &Engine) -> Self {
        Self {
            server_waited: engine.server.wait(),
            server: engine.server.cpu(),
            own: own_cpu(),
            waited: own_wait(),
            wall: now(),
        }
    }

    /// The report's part about CPU. `until` is when the last thing measured happened.
    pub fn report(&self, engine: &Engine, until: u64, report: &mut Map<String, Value>) {
        let server = engine.server.cpu().since(self.server);
        let wall = until.saturating_sub(self.wall).max(1);
        let own = own_cpu() - self.own;
        let share = own as f64 / wall as f64;
        let waited = (own_wait() - self.waited) as f64 / wall as f64;
        report.insert("wall_s".into(), json!(wall as f64 / 1e9));
        report.insert("server_cpu_s".into(), json!(server.total_ns as f64 / 1e9));
        report.insert("server_user_s".into(), json!(server.user_ns as f64 / 1e9));
        report.insert("server_system_s".into(), json!(server.system_ns as f64 / 1e9));
        report.insert("server_cpu_share".into(), json!(server.total_ns as f64 / wall as f64));
        let server_waited = engine.server.wait().saturating_sub(self.server_waited);
        report.insert("server_wait_share".into(), json!(server_waited as f64 / wall as f64));
        report.insert("load_cpu_s".into(), json!(own as f64 / 1e9));
        report.insert("load_cpu_share".into(), json!(share));
        report.insert("load_cpu_share_peak".into(), json!(engine.samples.own_share_peak));
        report.insert("load_wait_share".into(), json!(waited));
        if share + waited > SATURATED {
            invalid(report, "the load generator was saturated");
        }
    }
}

/// Marks the run as worthless.
pub fn invalid(report: &mut Map<String, Value>, why: &str) {
    report.insert("valid".into(), json!(false));
    match report.entry("invalid_because").or_insert_with(|| json!([])) {
        Value::Array(reasons) => reasons.push(json!(why)),
        _ => unreachable!("only this function writes it"),
    }
}

/// An I/O error as text.
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn io(error: std::io::Error) -> String {
    error.to_string()
}

/// A mean; null of nothing.
pub fn per(total: f64, count: u64) -> Value {
    if count == 0 { Value::Null } else { json!(total / count as f64) }
}

/// Seconds as nanoseconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // seconds from the command line
pub fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// Runs the loop for `seconds`.
pub fn run_for(engine: &mut Engine, seconds: f64) -> Result<(), String> {
    let end = now() + nanoseconds(seconds);
    while now() < end {
        engine.turn(5).map_err(io)?;
    }
    Ok(())
}

/// Runs the loop until `done`, at most for `seconds`; false if time ran out.
pub fn run_until(
    engine: &mut Engine,
    seconds: f64,
    mut done: impl FnMut(&Engine) -> bool,
) -> Result<bool, String> {
    let end = now() + nanoseconds(seconds);
    while !done(engine) {
        if now() > end {
            return Ok(false);
        }
        engine.turn(10).map_err(io)?;
    }
    Ok(true)
}

/// Sends a control request and awaits its answer.
pub fn ask(engine: &mut Engine, seconds: f64, method: &str, path: &str) -> Result<Value, String> {
    engine.start_request(method, path).map_err(io)?;
    let end = now() + nanoseconds(seconds);
    loop {
        engine.turn(10).map_err(io)?;
        if let Some(answer) = engine.take_answer() {
            let text = answer.map_err(|error| format!("{method} {path}: {error}"))?;
            return serde_json::from_str(&text).map_err(|error| format!("{method} {path}: {error}: {text}"));
        }
        if now() > end {
            return Err(format!("{method} {path}: no answer in {seconds} s"));
        }
    }
}

/// Opens all clients, a few at a time, and awaits the server's own count of them.
pub fn connect(engine: &mut Engine, args: &Args, report: &mut Map<String, Value>) -> Result<(), String> {
    engine.new_phase(args.bytes);
    report.insert("clients".into(), json!(args.clients));
    report.insert("rss_before".into(), json!(engine.server.rss()));
    let mark = Mark::new(engine);
    let end = now() + nanoseconds(args.timeout);
    while engine.open < args.clients {
        while engine.clients.len() < args.clients && engine.pending < args.parallel {
            let stalls = engine.clients.len() < args.stalled;
            engine
                .open_client(stalls)
                .map_err(|error| format!("client {}: {error}", engine.clients.len()))?;
        }
        engine.turn(10).map_err(io)?;
        if engine.failures > 0 || now() > end {
            let (open, failed) = (engine.open, engine.failures);
            return Err(format!("{open} of {} streams opened, {failed} failed", args.clients));
        }
    }
    let connected = now();
    if !args.count.is_empty() {
        while ask(engine, args.timeout, "GET", &args.count)?["count"].as_u64() != Some(args.clients as u64) {
            if now() > end {
                return Err(format!("the server never counted {} subscribers", args.clients));
            }
            run_for(engine, 0.02)?;
        }
    }
    let cpu = engine.server.cpu().since(mark.server);
    report.insert("connect_wall_s".into(), json!((connected - mark.wall) as f64 / 1e9));
    report.insert("cpu_per_connect_us".into(), per(cpu.total_ns as f64 / 1e3, args.clients as u64));
    run_for(engine, args.settle)?;
    rss_per_client(engine, args, "", report);
    Ok(())
}

/// Notes the server's resident size `when`, and its growth per client.
pub fn rss_per_client(engine: &Engine, args: &Args, when: &str, report: &mut Map<String, Value>) {
    let rss = engine.server.rss();
    let before = report.get("rss_before").and_then(Value::as_u64).unwrap_or(0);
    let growth = rss as f64 - before as f64;
    report.insert(format!("rss_connected{when}"), json!(rss));
    report.insert(format!("rss_per_client{when}"), per(growth, args.clients as u64));
}

/// Notes everything that makes a measurement worthless.
pub fn judge(engine: &Engine, report: &mut Map<String, Value>) {
    if engine.failures > 0 {
        report.insert("failures".into(), json!(engine.failures));
        invalid(report, "streams failed");
    }
    if !engine.tally.clean() {
        invalid(report, "events were lost, doubled, out of order or not what was published");
    }
}
