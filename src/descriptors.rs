//! Which descriptors reactors and brokers own, so that a forked child can close its copies without taking a lock or
//! touching the memory of a thread that does not exist there.
//!
//! Between the opening of a descriptor and its record, and between its record's end and its close, a fork would give the
//! child a copy of which nothing is known. So a fork waits for threads that are in between, and they wait for it.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Descriptors beyond this number are not tracked: a forked child keeps them until it ends.
const TRACKED: usize = 1 << 20;

/// Relaxed: a forked child has all that its parent's thread had written, and bits of different descriptors do not
/// depend on each other.
static OWNED: [AtomicU64; TRACKED / 64] = [const { AtomicU64::new(0) }; TRACKED / 64];

fn place(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok().filter(|&fd| fd < TRACKED)?;
    Some((&OWNED[fd / 64], 1 << (fd % 64)))
}

/// How many threads are in between, below, and how many fork, above.
static GATE: AtomicU32 = AtomicU32::new(0);
const FORK: u32 = 1 << 24;
/// A fork waits no longer than this, should a file system hang.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longer than an open takes, shorter than most forks.
const PAUSE: Duration = Duration::from_micros(50);

/// While it is kept, no fork begins. Whoever keeps it must not ask for another one.
#[derive(Debug)]
pub struct NoFork(());

impl Drop for NoFork {
    fn drop(&mut self) {
        GATE.fetch_sub(1, Ordering::Release);
    }
}

/// Wait for forks that are under way, and let none begin.
#[must_use]
pub fn no_fork() -> NoFork {
    loop {
        let seen = GATE.load(Ordering::Relaxed);
        let entered = || GATE.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed);
        if seen >= FORK {
            thread::sleep(PAUSE);
        } else if entered().is_ok() {
            return NoFork(());
        }
    }
}

/// Before a fork: wait until no thread is in between, and let none begin.
pub fn before_fork() {
    GATE.fetch_add(FORK, Ordering::Acquire);
    let began = Instant::now();
    while !GATE.load(Ordering::Acquire).is_multiple_of(FORK) && began.elapsed() < PATIENCE {
        thread::sleep(PAUSE);
    }
}

/// After a fork, in the parent.
pub fn after_fork() {
    GATE.fetch_sub(FORK, Ordering::Release);
}

/// After a fork, in the child, which has one thread.
pub fn in_child() {
    GATE.store(0, Ordering::Relaxed);
}

/// Open a descriptor, and record it as owned.
///
/// # Errors
/// What `open` returns.
pub fn open_owned<T: AsRawFd, E>(open: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let _no_fork = no_fork();
    let opened = open()?;
    own(opened.as_raw_fd());
    Ok(opened)
}

/// Record `fd` as owned: a forked child closes it.
pub fn own(fd: RawFd) {
    if let Some((word, bit)) = place(fd) {
        word.fetch_or(bit, Ordering::Relaxed);
    }
}

/// Forget `fd`, before it is closed or given away; whether it was owned. A forked child owns none: it closed its
/// copy, whose number may belong to another file by now.
#[allow(clippy::must_use_candidate, reason = "the owner in this process knows")]
pub fn disown(fd: RawFd) -> bool {
    place(fd).is_none_or(|(word, bit)| word.fetch_and(!bit, Ordering::Relaxed) & bit != 0)
}

/// Give every owned descriptor to `close` once, and own none afterwards. For a forked child: uses only atomic
/// operations.
pub fn disown_all(mut close: impl FnMut(RawFd)) {
    for (index, word) in OWNED.iter().enumerate() {
        let mut bits = word.swap(0, Ordering::Relaxed);
        while bits != 0 {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            if let Ok(fd) = RawFd::try_from(index * 64 + bit) {
                close(fd);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_fork_waits_for_an_open_and_the_next_open_for_the_fork() {
        let (forks, may_end) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let opening = no_fork();
        let fork = thread::spawn(move || {
            before_fork();
            forks.send(()).unwrap();
            ended.recv().unwrap();
            after_fork();
        });
        while GATE.load(Ordering::Relaxed) < FORK {
            thread::yield_now();
        }
        assert!(may_end.try_recv().is_err(), "it forks although a file is being opened");
        drop(opening);
        may_end.recv().unwrap();
        let (open, opened) = mpsc::channel();
        thread::spawn(move || open.send(no_fork()).unwrap());
        assert!(opened.recv_timeout(PAUSE * 400).is_err(), "a file is opened while it forks");
        end.send(()).unwrap();
        fork.join().unwrap();
        drop(opened.recv().unwrap());
    }

    #[test]
    fn a_fork_does_not_wait_for_ever() {
        let _opening = no_fork();
        before_fork();
        after_fork();
    }
}
