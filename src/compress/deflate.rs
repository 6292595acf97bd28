//! Deflate (RFC 1951) as the bodies need it: pieces that end at a byte, so that others may follow.

use flate2::{Compress, Compression, FlushCompress};

/// Room that a call of the compressor finds: with less than 6 bytes zlib repeats its mark of a flush.
const ROOM: usize = 64;
/// Bytes of the header of a stored block that begins at a byte.
const STORED: usize = 5;
/// The most bytes of a stored block.
const MOST_STORED: usize = 0xffff;

/// A compressor of raw deflate.
pub fn compressor(level: u32) -> Compress {
    Compress::new(Compression::new(level), false)
}

/// Compress these parts, one after the other, to whole bytes from which a decoder makes all of them. `None` when the
/// compressor fails, which must then not be used without a reset.
pub fn deflate<'a>(
    compress: &mut Compress,
    parts: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(4 * ROOM);
    let last = parts.len().saturating_sub(1);
    for (at, mut part) in parts.enumerate() {
        let flush = if at == last { FlushCompress::Sync } else { FlushCompress::None };
        loop {
            out.reserve(ROOM + part.len() / 4);
            let before = compress.total_in();
            compress.compress_vec(part, &mut out, flush).ok()?;
            let taken = usize::try_from(compress.total_in() - before).ok()?;
            part = part.get(taken..)?;
            // A flush is complete when it leaves room.
            if part.is_empty() && out.len() < out.capacity() {
                break;
            }
        }
    }
    out.shrink_to_fit();
    Some(out)
}

/// These bytes as they are.
pub fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + STORED * (1 + bytes.len() / MOST_STORED));
    for block in bytes.chunks(MOST_STORED) {
        // Never longer than its two bytes say.
        let len = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(0);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(block);
    }
    out
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};

    use super::*;

    fn inflate(decoder: &mut Decompress, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 << 20);
        decoder.decompress_vec(bytes, &mut out, FlushDecompress::Sync).unwrap();
        out
    }

    #[test]
    fn a_piece_decodes_without_what_follows() {
        let (mut compress, mut decoder) = (compressor(6), Decompress::new(false));
        for size in [1, 2, 63, 64, 65, 1000, 70_000, 300_000] {
            let bytes: Vec<u8> = (0..size).map(|n: u64| u8::try_from(n * n % 251).unwrap()).collect();
            let (one, other) = bytes.split_at(bytes.len() / 2);
            let piece = deflate(&mut compress, [one, other].into_iter()).unwrap();
            assert_eq!(inflate(&mut decoder, &piece), bytes);
            assert_eq!(inflate(&mut decoder, &stored(&bytes)), bytes);
            compress.reset();
        }
    }
}
