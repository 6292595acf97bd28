//! Deflate (RFC 1951) as the bodies need it: blocks that end at a byte, so that others may follow, and pieces of one
//! stream, which end within a byte, because the end at a byte takes five bytes.

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

/// Compress these parts, one after the other, to a block that ends at a byte. `None` when the compressor fails, which
/// must then not be used without a reset.
pub fn block<'a>(compress: &mut Compress, parts: impl ExactSizeIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    deflate(compress, parts, FlushCompress::Sync)
}

/// Compress this to the next bytes of a stream, from which a decoder makes all of it, and the number of bits, all of them
/// 0, that begin the piece after it: with [`closing`], anything else may follow instead. `None` likewise.
pub fn piece(compress: &mut Compress, bytes: &[u8]) -> Option<(Vec<u8>, u8)> {
    let out = deflate(compress, std::iter::once(bytes), FlushCompress::Partial)?;
    // The flush ends with an empty block of 10 bits, of which the second is 1, and the 8 behind it are 0. Those of them
    // that did not fill a byte have yet to come.
    let zeros = out.iter().rev().take_while(|&&byte| byte == 0).count();
    let last = out.iter().rev().nth(zeros)?;
    let written = 8 * u32::try_from(zeros).ok()? + last.leading_zeros();
    let due = 8_u32.checked_sub(written).and_then(|due| u8::try_from(due).ok())?;
    Some((out, due))
}

/// What ends a stream at a byte whose next piece would begin with so many bits, all of them 0: an empty stored block.
pub fn closing(due: u8) -> &'static [u8] {
    match due {
        0 => &[],
        1..=5 => &[0, 0, 0, 0xff, 0xff],
        _ => &[0, 0, 0, 0, 0xff, 0xff],
    }
}

fn deflate<'a>(
    compress: &mut Compress,
    parts: impl ExactSizeIterator<Item = &'a [u8]>,
    end: FlushCompress,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(4 * ROOM);
    let last = parts.len().saturating_sub(1);
    for (at, mut part) in parts.enumerate() {
        let flush = if at == last { end } else { FlushCompress::None };
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
    fn a_block_decodes_without_what_follows() {
        let (mut compress, mut decoder) = (compressor(6), Decompress::new(false));
        for size in [1, 2, 63, 64, 65, 1000, 70_000, 300_000] {
            let bytes: Vec<u8> = (0..size).map(|n: u64| u8::try_from(n * n % 251).unwrap()).collect();
            let (one, other) = bytes.split_at(bytes.len() / 2);
            let piece = block(&mut compress, [one, other].into_iter()).unwrap();
            assert_eq!(inflate(&mut decoder, &piece), bytes);
            assert_eq!(inflate(&mut decoder, &stored(&bytes)), bytes);
            compress.reset();
        }
    }

    /// Every piece decodes at once, and whether the stream goes on or is closed after it, what follows decodes.
    #[test]
    fn anything_may_follow_a_piece_that_is_closed() {
        let mut compress = compressor(7);
        let mut sent = Vec::new();
        let mut seen = [false; 8];
        for n in 0..160_u32 {
            let event = match n % 5 {
                4 => vec![b'-'; usize::try_from(n * n).unwrap()],
                3 => (0..n).map(|byte| u8::try_from(byte * byte % 251).unwrap()).collect(),
                _ => format!("id: {n}\ndata: {{\"price\":{}}}\n\n", n * 7919 % 1000).into_bytes(),
            };
            let (bytes, due) = piece(&mut compress, &event).unwrap();
            seen[usize::from(due)] = true;
            sent.push((bytes, event, due));
            if n % 20 == 19 {
                let mut goes_on = Decompress::new(false);
                for (at, (bytes, event, due)) in sent.iter().enumerate() {
                    assert_eq!(inflate(&mut goes_on, bytes), *event);
                    let mut ends = Decompress::new(false);
                    sent[..=at]
                        .iter()
                        .for_each(|(bytes, event, _)| assert_eq!(inflate(&mut ends, bytes), *event));
                    assert!(inflate(&mut ends, closing(*due)).is_empty());
                    assert_eq!(inflate(&mut ends, &stored(b"else")), b"else");
                }
                sent.clear();
                compress.reset();
            }
        }
        assert_eq!(seen, [true; 8]);
    }
}
