//! Appends entries in batches: entries that may not be appended are refused, the others are written together.

use std::io;

use super::ends_and_leases::EndsAndLeases;
use super::format;
use super::inner::Inner;
use super::journal::{Appended, Journal};
use crate::broker::letter::Fence;
use crate::ids::StreamId;
use crate::stream_broker::envelope;
use crate::stream_broker::store::{Append, AppendError};

/// About how many bytes an entry's fields have beside its letter: their names and lengths, a topic.
const FIELDS: usize = 64;

/// The decision on one entry: write it, or refuse it.
type Verdict = Result<(), AppendError>;

fn refused(text: &str) -> AppendError {
    AppendError::Refused(format!("nothing was written: {text}"))
}

/// Decide on one entry, append the bytes of an accepted one to `out`, and bring `notes` to its state after the entry.
fn judge(entry: &Append<'_>, notes: &mut EndsAndLeases, now: u64, out: &mut Vec<u8>) -> Verdict {
    if let Some(topic) = entry.open.iter().find(|topic| notes.has_ended(topic.as_str(), now)) {
        return Err(AppendError::Ended(topic.as_str().into()));
    }
    let is_open = match &entry.fence {
        None => true,
        Some(Fence::Held { lease, token }) => notes.holder(lease, now) == Some(token),
        Some(Fence::Free { lease }) => notes.holder(lease, now).is_none(),
    };
    if !is_open {
        return Err(AppendError::Fenced);
    }
    format::encode_to(out, &envelope::fields(entry.letter))
        .ok_or_else(|| refused("an event does not fit into a record of at most 4 GiB"))?;
    if let (Some(ends), Some(topic)) = (&entry.ends, entry.open.first()) {
        notes.end(topic.as_str(), now, ends);
    }
    if let (true, Some(Fence::Held { lease, token })) = (entry.frees, &entry.fence) {
        notes.release(lease, token, now);
    }
    Ok(())
}

/// Decide on a batch, and write the accepted entries. The log is locked.
fn write(
    journal: &mut Journal,
    notes: &mut EndsAndLeases,
    batch: &[Append<'_>],
) -> io::Result<(Vec<Verdict>, Appended)> {
    let (now, is_synced) = (journal.now(), journal.settings.is_synced);
    let not_open = || io::Error::other("the log is not open");
    notes.read(journal.directory().ok_or_else(not_open)?)?;
    let before = notes.clone();
    let mut encoded = Vec::with_capacity(batch.iter().map(|entry| entry.letter.len() + FIELDS).sum());
    let (mut verdicts, mut ends) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for entry in batch {
        let verdict = judge(entry, notes, now, &mut encoded);
        if verdict.is_ok() {
            ends.push(encoded.len());
        }
        verdicts.push(verdict);
    }
    let starts = std::iter::once(&0).chain(&ends);
    let bodies: Vec<_> = starts.zip(&ends).map(|(&start, &end)| &encoded[start..end]).collect();
    let appended = journal.append(&bodies);
    if appended.ids.len() < bodies.len() {
        // An entry that was not written ends no topic and releases no lease.
        *notes = before;
        let mut left = appended.ids.len();
        for entry in batch {
            if left == 0 {
                break;
            }
            left -= usize::from(judge(entry, notes, now, &mut Vec::new()).is_ok());
        }
    }
    let accepted = batch.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok());
    for ((entry, _), id) in accepted.zip(&appended.ids) {
        if let (Some(_), Some(topic)) = (&entry.ends, entry.open.first()) {
            notes.ended_by(topic.as_str(), *id);
        }
    }
    // The entries are written. On a full disk, the next batch tries again to note which topics they ended.
    let _ = notes.write(journal.directory().ok_or_else(not_open)?, now, is_synced);
    Ok((verdicts, appended))
}

impl Inner {
    /// Append entries. Returns each one's id, or why it has none.
    pub async fn append(&self, batch: &[Append<'_>]) -> Vec<Result<StreamId, AppendError>> {
        let all = |text: String| batch.iter().map(|_| Err(refused(&text))).collect();
        let written = match self.exclusive().await {
            Ok(_exclusive) => write(&mut self.journal.lock(), &mut self.ends_and_leases.lock(), batch),
            Err(error) => return all(format!("{}: {error}", self.place)),
        };
        let (verdicts, mut appended) = match written {
            Ok(written) => written,
            Err(error) => return all(format!("{}: {error}", self.place)),
        };
        let synced = match appended.unsynced.take() {
            Some(segment) => self.sync(segment).await,
            None => Ok(()),
        };
        let why = format!("{}: {}", self.place, appended.refused);
        let mut ids = appended.ids.into_iter();
        let id = |verdict: Verdict| match (verdict.map(|()| ids.next())?, &synced) {
            (Some(id), Ok(())) => Ok(id),
            (Some(_), Err(why)) => Err(AppendError::Unknown(why.clone())),
            (None, _) => Err(refused(&why)),
        };
        verdicts.into_iter().map(id).collect()
    }
}
