//! Load for SSE servers: holds many clients in one thread, checks every event for order and gaps, times it at
//! every client, and reads what the server used. Prints one JSON object; a run that cannot be trusted says
//! `"valid": false` and why.

mod args;
mod client;
mod coding;
mod engine;
mod exchange;
mod histogram;
mod http;
mod measure;
mod modes;
mod probe;
mod process;
mod replay;
mod socket;
mod sse;
mod tally;

use std::process::ExitCode;
use std::time::Duration;

use args::{Args, Mode};
use engine::Engine;

fn run(args: &Args) -> Result<serde_json::Value, String> {
    let server = process::Server::new(args.pid, args.beside)?;
    let mut engine =
        Engine::new(server, args.addr, &args.path, args.sources).map_err(|error| error.to_string())?;
    engine.accept(&args.path, &args.accept);
    engine.gather = Duration::from_micros(args.gather);
    if args.stalled > args.clients {
        return Err("more stalled clients than clients".into());
    }
    match args.mode {
        Mode::Fanout => modes::fanout(&mut engine, args),
        Mode::Tokens => modes::tokens(&mut engine, args),
        Mode::Idle => modes::idle(&mut engine, args),
        Mode::Replay => replay::replay(&mut engine, args),
        Mode::Churn => modes::churn(&mut engine, args),
    }
}

fn main() -> ExitCode {
    match Args::parse() {
        Ok(None) => print!("{}", args::HELP),
        Err(error) => {
            eprintln!("sse-loadgen: {error}\n\n{}", args::HELP);
            return ExitCode::from(2);
        }
        Ok(Some(args)) => match run(&args) {
            Ok(report) => println!("{report:#}"),
            Err(error) => {
                eprintln!("sse-loadgen: {error}");
                return ExitCode::FAILURE;
            }
        },
    }
    ExitCode::SUCCESS
}
