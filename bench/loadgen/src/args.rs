//! The command line.

use std::net::SocketAddrV4;

use lexopt::{Arg, Parser, ValueExt};

/// What `--help` prints.
pub const HELP: &str = "\
sse-loadgen MODE --addr HOST:PORT --pid PID [options]

modes
  fanout   N clients; POST PUBLISH?n=&rate=&bytes= once, await every event at every client
  tokens   N clients, each with a finite stream of its own; their ends are awaited
  idle     N clients that only get heartbeats
  churn    N clients that leave as soon as their stream is open, and come again
  replay   N clients that come at once, all with the Last-Event-ID from before the last --n events

options (defaults in brackets)
  --addr HOST:PORT      the server, IPv4
  --pid PID             the server's process; its descendants are counted with it
  --beside PID          another process, which is counted with the server
  --clients N           [100]
  --path PATH           the stream [/events]
  --accept CODINGS      Accept-Encoding of the clients; gzip is decoded []
  --publish PATH        the publisher [/publish]
  --count PATH          where the server tells how many subscribers it has; empty: do not ask [/count]
  --n N                 events to publish, or that each finite stream has [50]
  --rate PER_SECOND     events per second; 0 is as fast as it goes [5]
  --batch N             events published at a time [1]
  --bytes N             size of an event's data [128]
  --warmup N            events published, or finite streams per client, before the measurement [3]
  --repeat N            finite streams per client in the measurement [1]
  --duration S          of idle and churn [10]
  --settle S            pause after connecting, before RSS is read [0.5]
  --timeout S           the longest a phase may take [120]
  --parallel N          connects under way at a time [64]
  --sources N           addresses the clients come from, from 127.0.0.2 on [4]
  --gather US           pause between two looks at the sockets: what comes meanwhile is read together, and the
                        server is not charged for waking this process each time; adds to latency [500]
  --stalled N           of the clients, how many stop reading once open (fanout) [0]
  --fill N              events of 16 KiB published before the measurement, so that buffers towards stalled
                        clients are full in it [0]
  --probe PATH          ask an unrelated endpoint during the measurement
  --probe-every MS      at this pace [20]
";

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Events of one publisher to all clients.
    Fanout,
    /// A finite stream for each client.
    Tokens,
    /// Open streams without events.
    Idle,
    /// Clients that come and go.
    Churn,
    /// Clients that come back and are owed events.
    Replay,
}

/// All options.
#[derive(Clone, Debug)]
pub struct Args {
    /// What to do.
    pub mode: Mode,
    /// The server.
    pub addr: SocketAddrV4,
    /// Its process.
    pub pid: i32,
    /// Another process of the server.
    pub beside: Option<i32>,
    /// How many clients.
    pub clients: usize,
    /// The stream's path.
    pub path: String,
    /// The codings that clients accept.
    pub accept: String,
    /// The publisher's path.
    pub publish: String,
    /// Where the server tells its subscribers' number; empty where it does not.
    pub count: String,
    /// Events to publish, or of a finite stream.
    pub n: u64,
    /// Events per second.
    pub rate: f64,
    /// Events at a time.
    pub batch: u64,
    /// Size of an event's data.
    pub bytes: usize,
    /// Events, or finite streams, before the measurement.
    pub warmup: u64,
    /// Finite streams per client in the measurement.
    pub repeat: u64,
    /// Seconds of idle and churn.
    pub duration: f64,
    /// Seconds between connecting and reading RSS.
    pub settle: f64,
    /// Seconds a phase may take.
    pub timeout: f64,
    /// Connects at a time.
    pub parallel: usize,
    /// Source addresses.
    pub sources: u8,
    /// Microseconds between two looks at the sockets.
    pub gather: u64,
    /// Clients that stop reading.
    pub stalled: usize,
    /// Big events before the measurement.
    pub fill: u64,
    /// An unrelated endpoint.
    pub probe: Option<String>,
    /// Milliseconds between two requests to it.
    pub probe_every: u64,
}

impl Args {
    /// Reads the command line; None where help was asked for.
    pub fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut parser = Parser::from_env();
        let mut args = Self {
            mode: Mode::Fanout,
            addr: "127.0.0.1:0".parse().map_err(|_| "address")?,
            pid: 0,
            beside: None,
            clients: 100,
            path: "/events".into(),
            accept: String::new(),
            publish: "/publish".into(),
            count: "/count".into(),
            n: 50,
            rate: 5.0,
            batch: 1,
            bytes: 128,
            warmup: 3,
            repeat: 1,
            duration: 10.0,
            settle: 0.5,
            timeout: 120.0,
            parallel: 64,
            sources: 4,
            gather: 500,
            stalled: 0,
            fill: 0,
            probe: None,
            probe_every: 20,
        };
        let mut mode = None;
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Value(value) if mode.is_none() => {
                    mode = Some(match value.string()?.as_str() {
                        "fanout" => Mode::Fanout,
                        "tokens" => Mode::Tokens,
                        "idle" => Mode::Idle,
                        "churn" => Mode::Churn,
                        "replay" => Mode::Replay,
                        other => return Err(format!("unknown mode {other:?}").into()),
                    });
                }
                Arg::Short('h') | Arg::Long("help") => return Ok(None),
                Arg::Long(name) => {
                    let name = name.to_owned();
                    args.set(&name, &mut parser)?;
                }
                other => return Err(other.unexpected()),
            }
        }
        args.mode = mode.ok_or("a mode is needed: fanout, tokens, idle, churn or replay")?;
        if args.addr.port() == 0 || args.pid == 0 {
            return Err("--addr and --pid are needed".into());
        }
        Ok(Some(args))
    }

    fn set(&mut self, name: &str, parser: &mut Parser) -> Result<(), lexopt::Error> {
        let value = parser.value()?;
        match name {
            "addr" => self.addr = value.parse()?,
            "pid" => self.pid = value.parse()?,
            "beside" => self.beside = Some(value.parse()?),
            "clients" => self.clients = value.parse()?,
            "path" => self.path = value.string()?,
            "accept" => self.accept = value.string()?,
            "publish" => self.publish = value.string()?,
            "count" => self.count = value.string()?,
            "n" => self.n = value.parse()?,
            "rate" => self.rate = value.parse()?,
            "batch" => self.batch = value.parse()?,
            "bytes" => self.bytes = value.parse()?,
            "warmup" => self.warmup = value.parse()?,
            "repeat" => self.repeat = value.parse()?,
            "duration" => self.duration = value.parse()?,
            "settle" => self.settle = value.parse()?,
            "timeout" => self.timeout = value.parse()?,
            "parallel" => self.parallel = value.parse()?,
            "sources" => self.sources = value.parse()?,
            "gather" => self.gather = value.parse()?,
            "stalled" => self.stalled = value.parse()?,
            "fill" => self.fill = value.parse()?,
            "probe" => self.probe = Some(value.string()?),
            "probe-every" => self.probe_every = value.parse()?,
            other => return Err(format!("unknown option --{other}").into()),
        }
        Ok(())
    }
}
