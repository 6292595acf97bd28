//! The trace that an event belongs to: a `traceparent` of W3C Trace Context, version 00.

/// Bytes of a `traceparent`: `00-`, 32 digits for the trace, 16 for the span, 2 for the flags.
pub const TRACEPARENT_LEN: usize = 55;

/// A checked `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent([u8; TRACEPARENT_LEN]);

impl TraceParent {
    /// Reads a `traceparent`; `None` when the text is not one of version 00, or its trace or span is all zeros.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let bytes: [u8; TRACEPARENT_LEN] = text.try_into().ok()?;
        let is_id = |digits: &[u8]| {
            digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
                && digits.iter().any(|&digit| digit != b'0')
        };
        let is_sound = bytes.starts_with(b"00-")
            && (bytes[35], bytes[52]) == (b'-', b'-')
            && is_id(&bytes[3..35])
            && is_id(&bytes[36..52])
            && bytes[53..].iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        is_sound.then_some(Self(bytes))
    }

    /// The text, which is ASCII.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; TRACEPARENT_LEN] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_a_sound_traceparent_is_read() {
        assert_eq!(TraceParent::parse(SOUND).unwrap().as_bytes(), SOUND);
        for at in 0..SOUND.len() {
            for wrong in *b"\ngA-\0" {
                let mut text = SOUND.to_vec();
                if std::mem::replace(&mut text[at], wrong) != wrong {
                    assert_eq!(TraceParent::parse(&text), None, "{at} {wrong}");
                }
            }
        }
        for text in [
            &b""[..],
            &SOUND[..54],
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-011",
            b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            assert_eq!(TraceParent::parse(text), None);
        }
    }
}
