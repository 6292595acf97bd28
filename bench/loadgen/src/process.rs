//! What the kernel says about the server's processes, and about this one.

use std::fs;
use std::path::Path;

/// CPU time used so far.
#[allow(clippy::struct_field_names)] // the unit belongs into the name
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// User and system time of all processes, in nanoseconds, exact.
    pub total_ns: u64,
    /// User time, in nanoseconds, in steps of the kernel's tick (10 ms).
    pub user_ns: u64,
    /// System time, likewise.
    pub system_ns: u64,
}

impl Cpu {
    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            system_ns: self.system_ns.saturating_sub(earlier.system_ns),
        }
    }
}

/// The server under test: a process, perhaps another one beside it, and their descendants.
#[derive(Debug)]
pub struct Server {
    pids: Vec<i32>,
}

impl Server {
    /// Refuses a process that is not there.
    pub fn new(pid: i32, beside: Option<i32>) -> Result<Self, String> {
        let pids = [Some(pid), beside].into_iter().flatten().collect::<Vec<_>>();
        for pid in &pids {
            fs::metadata(format!("/proc/{pid}")).map_err(|error| format!("no process {pid}: {error}"))?;
        }
        Ok(Self { pids })
    }

    fn family(&self) -> Vec<i32> {
        let mut pids = self.pids.clone();
        let mut next = 0;
        while next < pids.len() {
            let tasks = fs::read_dir(format!("/proc/{}/task", pids[next]));
            for task in tasks.into_iter().flatten().flatten() {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                pids.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            }
            next += 1;
        }
        pids
    }

    /// CPU time of all its processes that are alive.
    pub fn cpu(&self) -> Cpu {
        let mut sum = Cpu::default();
        for pid in self.family() {
            let (user_ns, system_ns) = ticks(pid).unwrap_or_default();
            sum.user_ns += user_ns;
            sum.system_ns += system_ns;
            sum.total_ns += process_clock(pid).unwrap_or(user_ns + system_ns);
        }
        sum
    }

    /// How long its threads that are alive waited for a core, summed, in nanoseconds: for each other, or for
    /// processes that are no part of the run.
    pub fn wait(&self) -> u64 {
        let of_process = |pid: i32| {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"));
            tasks
                .into_iter()
                .flatten()
                .flatten()
                .map(|task| waited(task.path().join("schedstat")))
                .sum::<u64>()
        };
        self.family().into_iter().map(of_process).sum()
    }

    /// Resident bytes, summed page by page: exact, but it briefly holds the server's memory map.
    pub fn rss(&self) -> u64 {
        let exact = |pid: i32| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Rss:"))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
        };
        self.family().into_iter().filter_map(|pid| exact(pid).or_else(|| statm(pid))).sum()
    }

    /// Resident bytes from the kernel's running count: cheap, for sampling during a run.
    pub fn rss_quick(&self) -> u64 {
        self.family().into_iter().filter_map(statm).sum()
    }
}

fn statm(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? * 4096)
}

/// utime and stime from /proc/PID/stat, in nanoseconds.
fn ticks(pid: i32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; fields are counted from its end.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok().map(|ticks| ticks * 10_000_000);
    Some((next()?, next()?))
}

/// The CPU clock of another process, in nanoseconds: includes threads that have ended.
fn process_clock(pid: i32) -> Option<u64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a live local; an unknown pid is an error code.
    if unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } != 0 {
        return None;
    }
    read_clock(clock)
}

fn read_clock(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live local; an invalid clock is an error code.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return None;
    }
    Some(u64::try_from(time.tv_sec).ok()? * 1_000_000_000 + u64::try_from(time.tv_nsec).ok()?)
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock that publishers stamp events with.
pub fn now() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC).unwrap_or(0)
}

/// How long the thread of the streams, this process's first, was ready to run but waited for a core, in
/// nanoseconds; 0 where the kernel does not count it. The probe's thread is not in it: on one core what it waits
/// for is mostly this thread's computing, which is counted already.
pub fn own_wait() -> u64 {
    waited("/proc/self/schedstat")
}

fn waited(schedstat: impl AsRef<Path>) -> u64 {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    text.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// CPU time of this process in nanoseconds.
pub fn own_cpu() -> u64 {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or(0)
}
