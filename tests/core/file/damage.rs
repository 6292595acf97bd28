//! Files that were damaged while no process had them open: at every byte of several segments.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sse_hub::file::format::HEAD;

use sse_hub::file::system::Machine;

use crate::support::*;

/// A log of three segments or more, which was closed, and what is in it.
fn written() -> (Scratch, Written) {
    let scratch = Scratch::new();
    let mut journal = journal_with(&scratch.root(), kept(24), Machine);
    let mut written = Written::new();
    // A client may stand at the log's beginning, too.
    let beginning = locked(&mut journal, |journal| journal.last().unwrap()).unwrap();
    written.insert(beginning, "no entry".into());
    for n in 0..9 {
        let text = format!("event {n}");
        written.insert(append_one(&mut journal, &text), text);
    }
    let last = journal.last().unwrap();
    locked(&mut journal, |journal| journal.note_closed(last)).unwrap().unwrap();
    assert!(scratch.segments().len() >= 3, "{:?}", scratch.segments());
    (scratch, written)
}

/// Damage a copy of the log, and check it; then go on writing, and check it again.
fn damaged(scratch: &Scratch, written: &Written, damage: impl FnOnce(&Path)) -> usize {
    let copy = scratch.copy();
    damage(&copy.log());
    let mut journal = journal(&copy.root());
    let told = check(&mut journal, written);
    let mut written = written.clone();
    let before = written.len();
    for n in 0..3 {
        let text = format!("later {n}");
        written.insert(append_one(&mut journal, &text), text);
    }
    assert_eq!(written.len(), before + 3, "an id was given twice");
    let newest = written.keys().next_back().copied().unwrap();
    assert_eq!(journal.last(), Some(newest));
    check(&mut journal, &written);
    // Another process finds the same.
    check(&mut self::journal(&copy.root()), &written);
    told
}

#[test]
fn an_undamaged_log_is_whole() {
    let (scratch, written) = written();
    assert_eq!(damaged(&scratch, &written, |_| {}), 0);
}

#[test]
fn a_cut_at_every_byte_loses_nothing_silently() {
    let (scratch, written) = written();
    for (number, path) in scratch.segments().iter().enumerate() {
        let len = path.metadata().unwrap().len();
        for at in 0..len {
            let told = damaged(&scratch, &written, |dir| {
                let file = OpenOptions::new().write(true).open(&segments(dir)[number]).unwrap();
                file.set_len(at).unwrap();
            });
            assert!(told > 0, "segment {number} was cut at {at}");
        }
    }
}

#[test]
fn a_wrong_bit_in_every_byte_is_not_delivered() {
    let (scratch, written) = written();
    for (number, path) in scratch.segments().iter().enumerate() {
        for at in 0..path.metadata().unwrap().len() {
            if VERSION.contains(&at) {
                let copy = scratch.copy();
                flip(&copy.segments()[number], at);
                assert!(journal(&copy.root()).lock_file().is_err(), "the format is unknown");
                continue;
            }
            let told = damaged(&scratch, &written, |dir| flip(&segments(dir)[number], at));
            assert!(told > 0, "byte {at} of segment {number}");
        }
    }
}

#[test]
fn blocks_of_zeros_are_not_delivered() {
    let (scratch, written) = written();
    for (number, path) in scratch.segments().iter().enumerate() {
        let len = usize::try_from(path.metadata().unwrap().len()).unwrap();
        for block in [16, 64, 512] {
            for start in (0..len).step_by(block) {
                let told = damaged(&scratch, &written, |dir| {
                    let file = OpenOptions::new().write(true).open(&segments(dir)[number]).unwrap();
                    file.write_all_at(&vec![0; block.min(len - start)], start as u64).unwrap();
                });
                assert!(told > 0 || block == 16, "{block} bytes at {start} of segment {number}");
            }
        }
    }
}

/// One of several kinds of damage, somewhere in the log.
fn damage_somewhere(dir: &Path, dice: &mut impl FnMut(usize) -> usize) {
    let paths = segments(dir);
    let Some(path) = paths.get(dice(paths.len().max(1))) else { return };
    let mut bytes = std::fs::read(path).unwrap();
    let at = dice(bytes.len().max(1));
    let block = at..(at + 1 + dice(80)).min(bytes.len());
    match dice(6) {
        0 => bytes.truncate(at),
        1 => bytes.get_mut(block).unwrap_or_default().fill(0),
        2 => drop(bytes.drain(block)),
        3 => {
            // A block that was written to another place.
            let source = std::fs::read(&paths[dice(paths.len())]).unwrap();
            let from = dice(source.len().max(1));
            for (byte, other) in bytes[block].iter_mut().zip(source.get(from..).unwrap_or_default()) {
                *byte = *other;
            }
        }
        4 => bytes = std::fs::read(&paths[dice(paths.len())]).unwrap(),
        _ => return std::fs::remove_file(path).unwrap(),
    }
    // Not the version: a log of an unknown one is refused.
    if let Some(version) = bytes.get_mut(8..12) {
        version.copy_from_slice(&1_u32.to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn much_damage_at_once_loses_nothing_silently() {
    let (scratch, written) = written();
    let mut state = 20_260_101_u64;
    let mut dice = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let rounds = 400 * std::env::var("SSE_HUB_EXPLORE").map_or(1, |times| times.parse().expect("a number"));
    for _ in 0..rounds {
        damaged(&scratch, &written, |dir| {
            for _ in 0..=dice(4) {
                damage_somewhere(dir, &mut dice);
            }
        });
    }
}

#[test]
fn missing_segments_are_announced() {
    let (scratch, written) = written();
    for number in 0..scratch.segments().len() {
        let told = damaged(&scratch, &written, |dir| std::fs::remove_file(&segments(dir)[number]).unwrap());
        assert!(told > 0, "segment {number}");
    }
    let told = damaged(&scratch, &written, |dir| {
        for path in segments(dir) {
            std::fs::remove_file(path).unwrap();
        }
    });
    assert_eq!(told, written.len());
}

#[test]
fn a_log_of_another_version_is_refused_and_left_alone() {
    let (scratch, _) = written();
    let path = scratch.segments().pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    std::fs::write(&path, &bytes).unwrap();
    let names = |dir: &Path| {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names(&scratch.log());
    let mut journal = journal(&scratch.root());
    let said = journal.lock_file().unwrap_err().to_string();
    assert!(said.contains("format 2, and this one has format 1"), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(names(&scratch.log()), before);
    assert!(bytes.len() > HEAD);
}

#[test]
fn a_torn_record_of_a_dead_writer_is_cut_silently() {
    let (scratch, written) = written();
    let newest = scratch.segments().pop().unwrap();
    let len = newest.metadata().unwrap().len();
    // What the next batch would have been, up to every byte of it.
    let copy = scratch.copy();
    append_one(&mut journal(&copy.root()), "never acknowledged");
    let grown = std::fs::read(copy.segments().pop().unwrap()).unwrap();
    let rest = &grown[usize::try_from(len).unwrap()..];
    for count in 1..rest.len() {
        let told = damaged(&scratch, &written, |dir| {
            let file = OpenOptions::new().write(true).open(segments(dir).pop().unwrap()).unwrap();
            file.write_all_at(&rest[..count], len).unwrap();
        });
        assert_eq!(told, 0, "{count} bytes");
    }
}
