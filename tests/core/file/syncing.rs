//! Entries that are on disk before they are acknowledged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sse_hub::file::store::FileStore;
use sse_hub::ids::StreamId;
use sse_hub::stream_broker::store::{Append, AppendError, Store};

use crate::support::*;

/// A store whose disk fails when the test says so.
fn store(scratch: &Scratch, system: &Broken, is_synced: bool) -> FileStore {
    let mut settings = settings(&scratch.root(), kept(24), system.clone());
    settings.is_synced = is_synced;
    FileStore::new(settings, Duration::from_secs(5))
}

async fn append(store: &FileStore, text: &str) -> Result<StreamId, AppendError> {
    let letter = letter(text);
    let entry = Append { letter: &letter, open: &[], fence: None, ends: None, frees: false };
    store.append(vec![entry]).await.pop().unwrap()
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn every_entry_is_on_disk_before_it_is_acknowledged() {
    for is_synced in [true, false] {
        let (scratch, system) = (Scratch::new(), Broken::default());
        let store = store(&scratch, &system, is_synced);
        run(async {
            for n in 0..10 {
                append(&store, &n.to_string()).await.unwrap();
                let newest = scratch.segments().pop().unwrap().metadata().unwrap().len();
                let synced = system.synced.lock().unwrap().last().copied();
                assert_eq!(synced, is_synced.then_some(newest), "with the entry in it");
            }
        });
        assert!(scratch.segments().len() > 2);
    }
}

#[test]
fn an_entry_that_the_disk_does_not_take_has_an_unknown_outcome() {
    let (scratch, system) = (Scratch::new(), Broken::default());
    let store = store(&scratch, &system, true);
    let mut written = Written::new();
    run(async {
        written.insert(append(&store, "before").await.unwrap(), "before".into());
        system.is_failing.store(true, Ordering::Relaxed);
        let Err(AppendError::Unknown(said)) = append(&store, "unknown").await else { panic!() };
        assert!(said.contains("did not have it on disk: "), "{said}");
        system.is_failing.store(false, Ordering::Relaxed);
        written.insert(append(&store, "after").await.unwrap(), "after".into());
    });
    let mut reader = journal(&scratch.root());
    let texts: Vec<_> = all_after(&mut reader, StreamId::default()).iter().filter_map(text).collect();
    assert_eq!(texts, ["before", "unknown", "after"], "it may be there, once");
    assert_eq!(written.len(), 2);
}
