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
    let trailer = u128::from(next_header) << 120 | ((pad_len as u128) & 0xff) << 112;
    (u128::from_le_bytes(end) & kept | padding | trailer).to_le_bytes()
}

/// Sixteen bytes at the end of what is encrypted.
struct Ends {
    /// All bits of the bytes that come before the padding.
    kept: u128,
    /// The padding in its place.
    padding: u128,
}

/// By the length of the padding.
static ENDS: [Ends; TRAILER_ROOM + 2] = {
    const BYTES: u128 = u128::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0]);
    let mut ends = [const { Ends { kept: 0, padding: 0 } }; TRAILER_ROOM + 2];
    let mut pad_len = 0;
    while pad_len < ends.len() {
        let kept = 8 * TRAILER_ROOM.saturating_sub(pad_len);
        let left_out = 8 * pad_len.saturating_sub(TRAILER_ROOM);
        let padding = BYTES >> left_out << kept & ((1 << (8 * TRAILER_ROOM)) - 1);
        ends[pad_len] = Ends { kept: (1 << kept) - 1, padding };
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
