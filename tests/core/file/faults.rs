//! Faults while processes have the log open: a full disk, files that are replaced, clocks that go back.

use std::fs::OpenOptions;
use std::sync::atomic::Ordering;

use crate::support::*;

#[test]
fn a_disk_that_is_full_at_every_byte_of_a_batch_loses_nothing() {
    let texts = ["one", "two", "three"];
    let size: usize = texts.iter().map(|text| sse_hub::file::format::RECORD + body(text).len()).sum();
    let mut counts = Vec::new();
    for room in 0..=size {
        let scratch = Scratch::new();
        let system = Broken::default();
        let mut writer = journal_with(&scratch.root(), kept(1000), Box::new(system.clone()));
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
        assert_eq!(all_after(&mut follower, sse_hub::ids::StreamId::default()).len(), written.len());
    }
    assert!(counts.is_sorted());
    assert_eq!((counts[0], counts[size]), (0, 3));
}

/// Two processes with the log open, and what they wrote.
fn pair(scratch: &Scratch) -> (sse_hub::file::journal::Journal, sse_hub::file::journal::Journal, Written) {
    let mut pair = (journal(&scratch.root()), journal(&scratch.root()));
    let mut written = Written::new();
    for n in 0..10 {
        let text = format!("event {n}");
        let writer = if n % 2 == 0 { &mut pair.0 } else { &mut pair.1 };
        written.insert(append_one(writer, &text), text);
    }
    (pair.0, pair.1, written)
}

/// Both go on, no id comes twice, and no gap is silent.
fn goes_on(scratch: &Scratch, act: impl FnOnce(&Scratch)) -> usize {
    let (mut a, mut b, mut written) = pair(scratch);
    act(scratch);
    let before = written.len();
    for n in 0..6 {
        let text = format!("later {n}");
        let writer = if n % 2 == 0 { &mut a } else { &mut b };
        written.insert(append_one(writer, &text), text);
    }
    assert_eq!(written.len(), before + 6, "an id was given twice");
    let last = *written.keys().next_back().unwrap();
    for journal in [&mut a, &mut b, &mut journal(&scratch.root())] {
        assert_eq!(locked(journal, |journal| journal.last()).unwrap(), Some(last), "all see the same end");
        check(journal, &written);
    }
    check(&mut a, &written)
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
fn an_older_copy_that_is_put_back_is_announced() {
    let scratch = Scratch::new();
    // Of a log with other entries behind its middle.
    let older = Scratch::new();
    let mut first = journal(&scratch.root());
    let mut written = Written::new();
    written.insert(append_one(&mut first, "kept"), "kept".into());
    copy_dir(&scratch.root(), &older.root());
    written.insert(append_one(&mut first, "lost"), "lost".into());
    std::fs::remove_dir_all(scratch.root()).unwrap();
    copy_dir(&older.root(), &scratch.root());
    written.insert(append_one(&mut first, "later"), "later".into());
    assert_eq!(written.len(), 3);
    // Nobody can tell a client that had read no further than the copy: the follower, which had, resets it.
    let later = *written.keys().next_back().unwrap();
    let entries = all_after(&mut first, sse_hub::ids::StreamId::default());
    assert_eq!(entries.iter().filter_map(text).collect::<Vec<_>>(), ["kept", "later"]);
    let lost = *written.keys().nth(1).unwrap();
    let after_lost = all_after(&mut first, lost);
    assert_eq!(after_lost[0].id, later);
    assert_ne!(after_lost[0].before, Some(lost), "the client that had it is reset");
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
fn a_file_that_is_cut_while_it_is_open_gives_no_id_twice() {
    for keep in [0, 39, 40, 100, 200] {
        let scratch = Scratch::new();
        let (mut a, mut b, mut written) = pair(&scratch);
        let newest = scratch.segments().pop().unwrap();
        OpenOptions::new().write(true).open(newest).unwrap().set_len(keep).unwrap();
        for n in 0..6 {
            let text = format!("later {n}");
            let writer = if n % 2 == 0 { &mut a } else { &mut b };
            let before = written.len();
            written.insert(append_one(writer, &text), text);
            assert_eq!(written.len(), before + 1, "an id was given twice");
        }
        for entry in all_after(&mut a, sse_hub::ids::StreamId::default()) {
            assert_eq!(text(&entry).as_ref(), written.get(&entry.id));
        }
    }
}

#[test]
fn ids_go_up_while_the_clock_goes_back() {
    let scratch = Scratch::new();
    let system = Broken::default();
    let mut ids = Vec::new();
    for step in [0, 5, -3000, 2, -100_000, 100_000, 0] {
        // Each time another process, too.
        let mut journal = journal_with(&scratch.root(), kept(1000), Box::new(system.clone()));
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
    let open = || journal_with(&scratch.root(), kept(1000), Box::new(system.clone()));
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
