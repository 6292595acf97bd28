//! The checksum and the length of some bytes, for the end of a gzip body.

use crc32fast::Hasher;

/// The CRC-32 of some bytes, and their number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub crc: u32,
    pub len: u64,
}

impl Sum {
    fn hasher(self) -> Hasher {
        Hasher::new_with_initial_len(self.crc, self.len)
    }

    /// Append these bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        *self = Self { crc: hasher.finalize(), len: self.len + bytes.len() as u64 };
    }

    /// The sum of these bytes, followed by others.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        let mut hasher = self.hasher();
        hasher.combine(&next.hasher());
        Self { crc: hasher.finalize(), len: self.len + next.len }
    }

    /// The sum of what follows `start` in these bytes, which begin with it. A CRC is linear: that of the whole is that
    /// of the start moved to the left by the rest, and that of the rest.
    #[must_use]
    pub fn behind(self, start: Self) -> Self {
        let len = self.len - start.len;
        let moved = start.then(Self { crc: 0, len });
        Self { crc: self.crc ^ moved.crc, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Sum {
        let mut sum = Sum::default();
        sum.add(bytes);
        sum
    }

    #[test]
    fn sums_are_added_and_taken_apart() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        assert_eq!(of(&bytes).crc, crc32fast::hash(&bytes));
        for at in [0, 1, 7, 500, 999, 1000] {
            let (start, rest) = bytes.split_at(at);
            assert_eq!(of(start).then(of(rest)), of(&bytes));
            assert_eq!(of(&bytes).behind(of(start)), of(rest));
            let mut sum = of(start);
            sum.add(rest);
            assert_eq!(sum, of(&bytes));
        }
    }
}
