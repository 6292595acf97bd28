//! The coding of a body: gzip where the server chose it.

use flate2::{Decompress, FlushDecompress, Status};

/// What a gzip body begins with, and no event stream.
const MAGIC: u8 = 0x1f;
/// Room for what is decoded at a time.
const ROOM: usize = 64 * 1024;

/// How a body is read; its first byte says which it is.
#[derive(Debug, Default)]
pub enum Coding {
    /// Nothing came yet.
    #[default]
    Unknown,
    /// As it is.
    Plain,
    /// Compressed.
    Gzip(Box<Decompress>),
}

impl Coding {
    /// Decodes a part of the body; false where it is no gzip.
    pub fn feed(&mut self, part: &[u8], mut take: impl FnMut(&[u8])) -> bool {
        if let (Self::Unknown, Some(&first)) = (&self, part.first()) {
            *self = if first == MAGIC { Self::Gzip(Box::new(Decompress::new_gzip(15))) } else { Self::Plain };
        }
        let Self::Gzip(decoder) = self else {
            take(part);
            return true;
        };
        let (mut rest, mut out) = (part, Vec::with_capacity(ROOM));
        loop {
            let before = decoder.total_in();
            let Ok(status) = decoder.decompress_vec(rest, &mut out, FlushDecompress::Sync) else {
                return false;
            };
            rest = &rest[usize::try_from(decoder.total_in() - before).unwrap_or(rest.len())..];
            take(&out);
            // A full buffer may have left something behind.
            let is_done = out.len() < out.capacity() && rest.is_empty();
            out.clear();
            if is_done || status == Status::StreamEnd {
                return true;
            }
        }
    }
}
