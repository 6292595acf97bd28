//! Faults while processes have the log open: a full disk, files that are replaced, clocks that go back.

use std::fs::OpenOptions;
use std::sync::atomic::Ordering;

use sse_hub::file::journal::Journal;
use sse_hub::file::system::Machine;
use sse_hub::ids::StreamId;
use sse_hub::stream_broker::Kept;

use crate::support::*;

#[test]
fn a_disk_that_is_full_at_every_byte_of_a_batch_loses_nothing() {
    let texts = ["one", "two", "three"];
    let size: usize = texts.iter().map(|text| sse_hub::file::format::RECORD + body(text).len()).sum();
    let mut counts = Vec::new();
    for room in 0..=size {
        let scratch = Scratch::new();
        let system = Broken::default();
        let mut writer = journal_with(&scratch.root(), kept(1000), system.clone());
        let mut follower = journal(&scratch.root());
        let mut written = Written::new();
        written.insert(append_one(&mut writer, "before"), "before".into());
        system.room.store(i64::try_from(room).unwrap(), Ordering::Relaxed);
        let appended = append(&mut writer, &texts);
        counts.push(appended.ids.len());
        assert_eq!(appended.refused.is_empty(), room == size);
        for (id, text) in appended.ids.iter().zip(texts) {
            written.insert(*id, text.into());
        }
        assert_eq!(check(&mut follower, &written), 0, "{room} bytes");
        // Still full, then not any more.
        system.room.store(0, Ordering::Relaxed);
        assert_eq!(append(&mut writer, &["refused"]).ids, []);
        system.room.store(i64::MAX, Ordering::Relaxed);
        written.insert(append_one(&mut writer, "after"), "after".into());
        assert_eq!(check(&mut follower, &written), 0, "{room} bytes");
        assert_eq!(all_after(&mut follower, StreamId::default()).len(), written.len());
    }
    assert!(counts.is_sorted());
    assert_eq!((counts[0], counts[size]), (0, 3));
}

/// Write batches of three, which fill segments of three entries, on a disk with so much room; then free the disk, and
/// check what was acknowledged. Returns how much room was left, and how many entries were acknowledged before.
fn fill(room: i64) -> (i64, usize) {
    let scratch = Scratch::new();
    let system = Broken::default();
    let open = || journal_with(&scratch.root(), kept(24), system.clone());
    system.room.store(room, Ordering::Relaxed);
    let (mut writer, mut follower) = (open(), open());
    let mut written = Written::new();
    for batch in 0..5 {
        let texts = [0, 1, 2].map(|n| format!("{batch} {n}"));
        // An error is a log that cannot be opened: nothing is acknowledged.
        let appended = try_append(&mut writer, &texts.each_ref().map(|text| &**text)).unwrap_or_default();
        written.extend(appended.ids.into_iter().zip(texts));
        // A reader without the lock.
        if follower.lock_file().is_ok() {
            let found = follower.read_after(&mut None, StreamId::default(), 100, false).unwrap().entries;
            assert!(found.iter().all(|entry| written.get(&entry.id) == text(entry).as_ref()), "{room}");
        }
    }
    let (left, count) = (system.room.swap(i64::MAX, Ordering::Relaxed), written.len());
    written.insert(append_one(&mut writer, "after"), "after".into());
    assert_eq!(written.len(), count + 1, "an id was given twice");
    for journal in [&mut writer, &mut follower, &mut open()] {
        assert_eq!(check(journal, &written), 0, "{room} bytes");
        assert_eq!(all_after(journal, StreamId::default()).len(), written.len(), "{room} bytes");
    }
    (left, count)
}

#[test]
fn a_disk_that_is_full_at_every_byte_of_a_log_loses_nothing() {
    let much = 1 << 20;
    let (left, all) = fill(much);
    assert_eq!(all, 15);
    let counts: Vec<_> = (0..=much - left).map(|room| fill(room).1).collect();
    assert_eq!((counts.first(), counts.last()), (Some(&0), Some(&15)));
    assert!((0..15).all(|count| counts.contains(&count)));
}

/// Two processes with the log open, and what they wrote.
fn pair(scratch: &Scratch, kept: Kept) -> (Journal, Journal, Written) {
    let open = || journal_with(&scratch.root(), kept, Machine);
    let mut pair = (open(), open());
    let beginning = locked(&mut pair.0, |journal| journal.last().unwrap()).unwrap();
    let mut written = Written::from([(beginning, "no entry".into())]);
    for n in 0..7 {
        let text = format!("event {n}");
        let writer = if n % 2 == 0 { &mut pair.0 } else { &mut pair.1 };
        written.insert(append_one(writer, &text), text);
    }
    (pair.0, pair.1, written)
}

/// Both go on, no id comes twice, and no gap is silent.
fn goes_on(scratch: &Scratch, act: impl FnOnce(&Scratch)) -> usize {
    goes_on_with(scratch, kept(1000), act).0
}

/// Returns how many clients one of them resets, and how many a process that starts later.
fn goes_on_with(scratch: &Scratch, kept: Kept, act: impl FnOnce(&Scratch)) -> (usize, usize) {
    let (mut a, mut b, mut written) = pair(scratch, kept);
    act(scratch);
    let before = written.len();
    for n in 0..4 {
        let text = format!("later {n}");
        let writer = if n % 2 == 0 { &mut a } else { &mut b };
        written.insert(append_one(writer, &text), text);
    }
    assert_eq!(written.len(), before + 4, "an id was given twice");
    let last = *written.keys().next_back().unwrap();
    let [told, _, told_later] = [&mut a, &mut b, &mut journal(&scratch.root())].map(|journal| {
        assert_eq!(locked(journal, |journal| journal.last()).unwrap(), Some(last), "all see the same end");
        check(journal, &written)
    });
    (told, told_later)
}

#[test]
fn a_wrong_bit_in_every_byte_is_not_delivered_by_those_that_have_the_log_open() {
    let scratch = Scratch::new();
    drop(pair(&scratch, kept(24)));
    let lengths: Vec<_> = scratch.segments().iter().map(|path| path.metadata().unwrap().len()).collect();
    assert!(lengths.len() >= 3, "{lengths:?}");
    for (number, len) in lengths.into_iter().enumerate() {
        for at in (0..len).filter(|at| !VERSION.contains(at)) {
            let scratch = Scratch::new();
            let (_, told) = goes_on_with(&scratch, kept(24), |it| flip(&it.segments()[number], at));
            assert!(told > 0, "byte {at} of segment {number}");
        }
    }
}

#[test]
fn a_directory_that_is_deleted_begins_anew() {
    let scratch = Scratch::new();
    assert!(goes_on(&scratch, |it| std::fs::remove_dir_all(it.root()).unwrap()) > 0);
}

#[test]
fn a_log_that_is_moved_away_begins_anew() {
    let scratch = Scratch::new();
    let away = scratch.0.join("away");
    assert!(goes_on(&scratch, |it| std::fs::rename(it.log(), &away).unwrap()) > 0);
    assert!(!segments(&away).is_empty(), "it is as it was");
}

#[test]
fn segments_that_are_deleted_begin_anew() {
    let scratch = Scratch::new();
    let told = goes_on(&scratch, |it| {
        for path in it.segments() {
            std::fs::remove_file(path).unwrap();
        }
    });
    assert!(told > 0);
}

#[test]
fn an_older_copy_that_is_put_back_is_announced_to_clients_of_every_process() {
    let (scratch, older) = (Scratch::new(), Scratch::new());
    let (mut a, mut b) = (journal(&scratch.root()), journal(&scratch.root()));
    let mut written = Written::new();
    let kept = append_one(&mut a, "kept");
    written.insert(kept, "kept".into());
    copy_dir(&scratch.root(), &older.root());
    let mut at = None;
    assert!(b.read_after(&mut at, kept, 10, false).unwrap().entries.is_empty());
    written.insert(append_one(&mut a, "lost"), "lost".into());
    assert_eq!(b.read_after(&mut at, kept, 10, false).unwrap().entries.len(), 1);
    std::fs::remove_dir_all(scratch.root()).unwrap();
    copy_dir(&older.root(), &scratch.root());
    // A process that has read what was lost says so, also for those that have not.
    locked(&mut b, |_| ()).unwrap();
    written.insert(append_one(&mut b, "later"), "later".into());
    assert_eq!(written.len(), 3);
    for journal in [&mut a, &mut b, &mut journal(&scratch.root())] {
        let entries = all_after(journal, StreamId::default());
        assert_eq!(entries.iter().filter_map(text).collect::<Vec<_>>(), ["kept", "later"]);
        assert_eq!(check(journal, &written), 2, "clients that stood at what was kept or lost");
    }
    assert_eq!(all_after(&mut a, StreamId::default()).len(), 3, "it is said once");
}

#[test]
fn a_log_that_is_moved_away_and_put_back_later_is_announced() {
    let scratch = Scratch::new();
    let (mut a, mut b, mut written) = pair(&scratch, kept(1000));
    let away = scratch.0.join("away");
    std::fs::rename(scratch.log(), &away).unwrap();
    written.insert(append_one(&mut a, "in another one"), "in another one".into());
    std::fs::remove_dir_all(scratch.log()).unwrap();
    std::fs::rename(&away, scratch.log()).unwrap();
    // The process that saw the other one comes first; the one that did not has nothing to say.
    written.insert(append_one(&mut a, "later"), "later".into());
    written.insert(append_one(&mut b, "and on"), "and on".into());
    assert_eq!(written.len(), 11, "an id was given twice");
    for journal in [&mut a, &mut b, &mut journal(&scratch.root())] {
        assert_eq!(check(journal, &written), 9, "all that stood before it");
    }
}

#[test]
fn a_file_with_the_same_bytes_but_another_inode_goes_on() {
    let scratch = Scratch::new();
    let told = goes_on(&scratch, |it| {
        for path in it.segments() {
            let copy = path.with_extension("copy");
            std::fs::copy(&path, &copy).unwrap();
            std::fs::rename(copy, path).unwrap();
        }
    });
    assert_eq!(told, 0);
}

#[test]
fn a_lock_file_that_is_deleted_divides_nobody() {
    let scratch = Scratch::new();
    assert_eq!(goes_on(&scratch, |it| std::fs::remove_file(it.log().join("lock")).unwrap()), 0);
    assert_eq!(goes_on(&Scratch::new(), |it| std::fs::write(it.log().join("lock"), b"").unwrap()), 0);
}

#[test]
fn a_file_that_is_cut_at_every_byte_while_it_is_open_loses_nothing_silently() {
    let scratch = Scratch::new();
    drop(pair(&scratch, kept(1000)));
    let [newest] = &scratch.segments()[..] else { panic!("{:?}", scratch.segments()) };
    for len in 0..newest.metadata().unwrap().len() {
        let told = goes_on(&Scratch::new(), |it| {
            OpenOptions::new().write(true).open(&it.segments()[0]).unwrap().set_len(len).unwrap();
        });
        assert!(told > 0, "cut at {len}");
    }
}

#[test]
fn a_segment_of_another_version_that_appears_stops_a_writer_which_changes_nothing() {
    let scratch = Scratch::new();
    let (mut a, mut b, mut written) = pair(&scratch, kept(1000));
    let before: Vec<_> = scratch.segments().iter().map(|path| std::fs::read(path).unwrap()).collect();
    // As a newer version would begin it, and note it.
    let base = StreamId { ms: written.keys().next_back().unwrap().ms + 1, seq: 5 };
    let note = sse_hub::file::format::pack(base).unwrap().to_le_bytes();
    std::fs::write(scratch.log().join("lock"), note).unwrap();
    let path = scratch.log().join(format!("{base}.log"));
    let mut head = before[0][..sse_hub::file::format::HEAD].to_vec();
    head[8] = 2;
    std::fs::write(&path, &head).unwrap();
    for journal in [&mut a, &mut b] {
        let said = try_append(journal, &["refused"]).unwrap_err().to_string();
        assert!(said.contains("format 2, and this one has format 1"), "{said}");
    }
    for (path, bytes) in scratch.segments().iter().zip(&before) {
        assert_eq!(&std::fs::read(path).unwrap(), bytes);
    }
    assert_eq!(std::fs::read(&path).unwrap(), head);
    // The newer version is taken back.
    std::fs::remove_file(&path).unwrap();
    written.insert(append_one(&mut a, "after"), "after".into());
    assert_eq!(check(&mut b, &written), 0);
}

#[test]
fn ids_go_up_while_the_clock_goes_back() {
    let scratch = Scratch::new();
    let system = Broken::default();
    let mut ids = Vec::new();
    for step in [0, 5, -3000, 2, -100_000, 100_000, 0] {
        // Each time another process, too.
        let mut journal = journal_with(&scratch.root(), kept(1000), system.clone());
        let now = system.now.load(Ordering::Relaxed).checked_add_signed(step).unwrap();
        system.now.store(now, Ordering::Relaxed);
        ids.extend(append(&mut journal, &["a", "b"]).ids);
        assert!(journal.now() >= ids.last().unwrap().ms);
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
}

#[test]
fn a_lost_end_gives_no_id_twice_although_the_clock_goes_back() {
    let scratch = Scratch::new();
    let system = Broken::default();
    let open = || journal_with(&scratch.root(), kept(1000), system.clone());
    append_one(&mut open(), "kept");
    let copy = scratch.copy();
    let mut lost = Vec::new();
    let mut journal = open();
    for _ in 0..50 {
        system.now.fetch_add(1, Ordering::Relaxed);
        lost.push(append_one(&mut journal, "lost"));
    }
    drop(journal);
    std::fs::remove_dir_all(scratch.root()).unwrap();
    std::fs::rename(copy.root(), scratch.root()).unwrap();
    system.now.fetch_sub(50, Ordering::Relaxed);
    let mut journal = open();
    for _ in 0..50 {
        system.now.fetch_add(1, Ordering::Relaxed);
        let id = append_one(&mut journal, "later");
        assert!(!lost.contains(&id), "{id}");
    }
}
