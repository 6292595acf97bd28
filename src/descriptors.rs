//! Which descriptors reactors and brokers own, so that a forked child can close its copies without taking a lock or
//! touching the memory of a thread that does not exist there.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// Descriptors beyond this number are not tracked: a forked child keeps them until it ends.
const TRACKED: usize = 1 << 20;

/// Relaxed: a forked child has all that its parent's thread had written, and bits of different descriptors do not
/// depend on each other.
static OWNED: [AtomicU64; TRACKED / 64] = [const { AtomicU64::new(0) }; TRACKED / 64];

fn place(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok().filter(|&fd| fd < TRACKED)?;
    Some((&OWNED[fd / 64], 1 << (fd % 64)))
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
