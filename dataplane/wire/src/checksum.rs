//! The Internet checksum (RFC 1071), and its incremental update (RFC 1624).

use core::net::Ipv4Addr;

use crate::IpProtocol;

/// Checksum of `bytes`, a field to be filled being zero in them; an odd last byte counts as if a zero
/// followed.
#[inline(always)]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::default().bytes(bytes).checksum()
}

/// Whether `bytes`, checksum included, add up.
#[inline(always)]
pub fn verify(bytes: &[u8]) -> bool {
    fold(add_up(bytes)) == 0xffff
}

/// The checksum after one 16-bit word of what it covers changed from `old` to `new`
/// (RFC 1624 equation 3).
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    fill(checksum, u32::from(!old) + u32::from(new))
}

/// As [`update`], for a 32-bit word on an even offset (an IPv4 address).
#[inline]
pub fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// The checksum after 16-bit words of what it covers changed from zero; `sum` is that of the words, in ordinary
/// arithmetic, and below 2^24.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "after the last fold the value fits")]
pub fn fill(checksum: u16, sum: u32) -> u16 {
    let sum = u32::from(!checksum) + sum;
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

/// A one's complement sum under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum(u64);

impl Sum {
    /// The pseudo header of UDP over IPv4 (RFC 768), `length` being the UDP length.
    #[inline]
    pub fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpProtocol, length: u16) -> Self {
        Self(
            u64::from(source.to_bits())
                + u64::from(destination.to_bits())
                + u64::from(protocol.0)
                + u64::from(length),
        )
    }

    /// Adds bytes. Only the last ones added may be odd in number.
    #[inline(always)]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        Self(self.0 + u64::from(u16::from_be(fold(add_up(bytes)))))
    }

    /// The checksum: the complement of the sum.
    #[inline]
    pub fn checksum(self) -> u16 {
        !fold(self.0)
    }
}

/// The sum of `bytes` in the machine's own byte order. One's complement addition does not care for the order as long as it
/// is the same throughout (RFC 1071 section 2B), nor for how many 16-bit words are added at a time, as long as carries are
/// added back in.
#[inline(always)]
fn add_up(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    for (slot, byte) in last.iter_mut().zip(rest) {
        *slot = *byte;
    }
    words.iter().fold(u64::from_ne_bytes(last), |sum, word| {
        let (sum, carry) = sum.overflowing_add(u64::from_ne_bytes(*word));
        sum + u64::from(carry)
    })
}

/// Adds the halves, and the halves of that, with their carries: they arrive in the upper half of a sum of the two orders.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the upper half of twice as many bits")]
fn fold(sum: u64) -> u16 {
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}
