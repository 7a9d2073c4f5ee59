//! The end of what is encrypted: padding, its length, and the next header (RFC 4303 section 2.4).

/// Pad length and next header (RFC 4303 section 2).
pub(crate) const TRAILER_LEN: usize = 2;

/// The longest padding; any other is the beginning of it (RFC 4303 section 2.4).
pub(crate) static PADDING: [u8; 255] = {
    let mut padding = [0; 255];
    let mut value: u8 = 0;
    while value < 255 {
        padding[value as usize] = value + 1;
        value += 1;
    }
    padding
};

/// Bytes of padding that fit beside the trailer into the last sixteen bytes of what is encrypted.
pub(crate) const TRAILER_ROOM: usize = 16 - TRAILER_LEN;

/// The last sixteen bytes before the ICV: the end of what comes before, padding and trailer. Of padding one
/// byte longer than [`TRAILER_ROOM`] they are all but the first byte.
#[inline]
pub(crate) fn with_trailer(end: [u8; 16], pad_len: usize, next_header: u8) -> [u8; 16] {
    let Ends { kept, padding } = &ENDS[pad_len & 0xf];
    // In halves: a number of 16 bytes would go from one kind of register to the other and back.
    let (halves, _) = end.as_chunks();
    let half = |i: usize| u64::from_le_bytes(halves[i]) & kept[i] | padding[i];
    let ends = [half(0), half(1) | u64::from(next_header) << 56].map(u64::to_le_bytes);
    let mut bytes = end;
    bytes.as_chunks_mut().0.copy_from_slice(&ends);
    bytes
}

/// Sixteen bytes at the end of what is encrypted, as two numbers.
struct Ends {
    /// All bits of the bytes that come before the padding.
    kept: [u64; 2],
    /// The padding in its place, and its length.
    padding: [u64; 2],
}

/// By the length of the padding.
static ENDS: [Ends; TRAILER_ROOM + 2] = {
    const BYTES: u128 = u128::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0]);
    const fn halves(bytes: u128) -> [u64; 2] {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes.to_le_bytes();
        [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes([i, j, k, l, m, n, o, p])]
    }
    let mut ends = [const { Ends { kept: [0; 2], padding: [0; 2] } }; TRAILER_ROOM + 2];
    let mut pad_len = 0;
    while pad_len < ends.len() {
        let kept = 8 * TRAILER_ROOM.saturating_sub(pad_len);
        let left_out = 8 * pad_len.saturating_sub(TRAILER_ROOM);
        let padding = BYTES >> left_out << kept & ((1 << (8 * TRAILER_ROOM)) - 1);
        let length = (pad_len as u128) << (8 * TRAILER_ROOM);
        ends[pad_len] = Ends { kept: halves((1 << kept) - 1), padding: halves(padding | length) };
        pad_len += 1;
    }
    ends
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailer_of_every_padding_of_a_block() {
        let end = [0xee; 16];
        for pad_len in 0..=TRAILER_ROOM + 1 {
            let trailer = [u8::try_from(pad_len).unwrap(), 47];
            let expected = [&end[..], &PADDING[..pad_len], &trailer].concat();
            assert_eq!(with_trailer(end, pad_len, 47), expected[expected.len() - 16..], "{pad_len}");
        }
    }
}
