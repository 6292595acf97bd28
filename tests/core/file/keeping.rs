//! What a log keeps, and how it is read.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sse_hub::file::system::Machine;
use sse_hub::ids::StreamId;
use sse_hub::stream_broker::Kept;

use crate::support::*;

#[test]
fn a_log_keeps_about_as_much_as_it_should() {
    let scratch = Scratch::new();
    let mut journal = journal_with(&scratch.root(), kept(80), Machine);
    for n in 0..1000 {
        append_one(&mut journal, &n.to_string());
        let kept = all_after(&mut journal, StreamId::default());
        let count = kept.len();
        assert!(count >= 80.min(n + 1) && count <= 100, "{count} after {n}");
        assert_eq!(text(kept.last().unwrap()), Some(n.to_string()));
    }
    assert!((8..=11).contains(&scratch.segments().len()), "{:?}", scratch.segments());
}

#[test]
fn nothing_goes_for_its_number_before_it_is_old_enough_and_all_that_is_too_old() {
    let scratch = Scratch::new();
    let system = Broken::default();
    let kept = Kept { min_age: Duration::from_secs(10), age: Some(Duration::from_secs(60)), ..kept(8) };
    let mut journal = journal_with(&scratch.root(), kept, system.clone());
    let mut count = |seconds: u64, texts: usize| {
        system.now.fetch_add(seconds * 1000, Ordering::Relaxed);
        for _ in 0..texts {
            append_one(&mut journal, "x");
        }
        all_after(&mut journal, StreamId::default()).len()
    };
    assert_eq!(count(0, 50), 50);
    assert_eq!(count(5, 50), 100);
    let left = count(9, 1);
    assert!((51..100).contains(&left), "{left}: the first ones are 14 seconds old");
    let left = count(20, 20);
    assert!((20..60).contains(&left), "{left}");
    assert_eq!(count(100, 1), 1);
    assert_eq!(scratch.segments().len(), 1, "the newest segment is never deleted");
}

#[test]
fn a_log_is_read_in_both_directions_from_everywhere() {
    let scratch = Scratch::new();
    let mut journal = journal(&scratch.root());
    let large = "x".repeat(5000);
    let ids: Vec<_> = (0..200)
        .map(|n| append_one(&mut journal, &format!("{n}{}", if n % 3 == 0 { &*large } else { "" })))
        .collect();
    for mut reader in [journal, self::journal(&scratch.root())] {
        for at in (0..200).step_by(7) {
            for count in [1, 3, 1000] {
                let page = reader.read_after(&mut None, ids[at], count, false).unwrap();
                let found: Vec<_> = page.entries.iter().map(|entry| entry.id).collect();
                assert_eq!(found, ids[at + 1..(at + 1 + count).min(200)]);
                for is_included in [false, true] {
                    let page = reader.read_backwards(ids[at], is_included, count).unwrap();
                    let mut found: Vec<_> = page.iter().map(|entry| entry.id).collect();
                    found.reverse();
                    let end = at + usize::from(is_included);
                    assert_eq!(found, ids[end.saturating_sub(count)..end]);
                }
            }
        }
    }
}

#[test]
fn large_events_and_large_segments_are_read() {
    let scratch = Scratch::new();
    let mut journal = journal_with(&scratch.root(), kept(100_000), Machine);
    let sizes = [1, 70_000, 3, 1_000_000, 65_500, 65_536, 10, 3_000_000, 5];
    let texts: Vec<_> = sizes.iter().map(|size| "y".repeat(*size)).collect();
    let ids: Vec<_> = texts.iter().map(|text| append_one(&mut journal, text)).collect();
    assert_eq!(scratch.segments().len(), 1);
    for mut reader in [journal, self::journal(&scratch.root())] {
        let all = all_after(&mut reader, StreamId::default());
        assert_eq!(all.iter().filter_map(text).collect::<Vec<_>>(), texts);
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(all_after(&mut reader, *id).len(), ids.len() - at - 1);
            assert_eq!(reader.read_backwards(*id, true, 100).unwrap().len(), at + 1);
        }
    }
}

#[test]
fn a_stopped_machine_is_announced_unless_everything_was_on_disk() {
    for (is_closed, is_synced, is_told) in
        [(false, false, true), (true, false, false), (false, true, false), (true, true, false)]
    {
        let scratch = Scratch::new();
        let mut written = Written::new();
        let mut first = journal(&scratch.root());
        first.settings.is_synced = is_synced;
        for n in 0..3 {
            written.insert(append_one(&mut first, &n.to_string()), n.to_string());
        }
        if is_closed {
            let last = first.last().unwrap();
            locked(&mut first, |journal| journal.note_closed(last)).unwrap().unwrap();
        }
        drop(first);
        let open = || {
            let mut journal = journal(&scratch.root());
            journal.settings.is_synced = is_synced;
            journal
        };
        assert_eq!(check(&mut open(), &written), 0, "the machine has not stopped");
        let note = scratch.log().join("boot");
        let said = std::fs::read_to_string(&note).unwrap();
        let boot = said.lines().next().unwrap();
        std::fs::write(&note, said.replace(boot, "boot another-run")).unwrap();
        let mut after = open();
        assert_eq!(check(&mut after, &written) > 0, is_told, "closed: {is_closed}, synced: {is_synced}");
        assert_eq!(after.warnings.len(), usize::from(is_told));
        let told = check(&mut open(), &written);
        assert_eq!(told > 0, is_told, "it is said once, for all");
        assert_eq!(all_after(&mut after, StreamId::default()).len(), 3 + usize::from(is_told));
    }
}
