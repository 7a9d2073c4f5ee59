//! IPv4 fragmentation (RFC 791 section 3.2).

use dmvpn_wire::{View, checksum, ipv4};

use crate::counters::DropReason;
use crate::frame::{Buffer, Frame, Pool};

/// Fragments that one packet may be cut into: enough for a jumbo frame and the least of MTUs in use.
const MOST: usize = 16;

/// Cuts `packet` (an IPv4 packet without "don't fragment", larger than `mtu`) into fragments of at most `mtu`
/// bytes, and puts them into the empty frame `fragments` in order. The packet's own buffer becomes the first one; the
/// others get its meta data too.
///
/// Returns why not, if it cannot be done; what is in `fragments` then is to be dropped.
pub(crate) fn fragment<P: Pool>(
    pool: &mut P,
    mut packet: P::Buffer,
    mtu: u16,
    fragments: &mut Frame<P::Buffer>,
) -> Option<DropReason> {
    let Ok(ip) = ipv4::Packet::parse(packet.bytes()) else { return Some(DropReason::Ipv4Header) };
    let (header, header_len, payload_len) = (*ip.header, ip.header.header_len(), ip.payload.len());
    let offset = usize::from(header.fragment_offset());
    // RFC 791 section 3.1: an offset and length beyond 65535 together are no packet.
    if offset + payload_len > usize::from(u16::MAX) {
        return Some(DropReason::Ipv4Header);
    }
    let room = usize::from(mtu).saturating_sub(header_len) & !7;
    if room == 0 || payload_len.div_ceil(room) > MOST {
        return Some(DropReason::TooManyFragments);
    }
    for (start, payload) in (0..payload_len).step_by(room).zip(ip.payload.chunks(room)).skip(1) {
        let Some(mut piece) = pool.alloc() else { return Some(DropReason::NoBuffer) };
        let Some(to) = piece.append(header_len + payload.len()) else { return Some(DropReason::NoRoom) };
        let (head, body) = to.split_at_mut(header_len);
        head.copy_from_slice(packet.bytes().get(..header_len).unwrap_or_default());
        body.copy_from_slice(payload);
        blank_first_only_options(head);
        let more = start + room < payload_len || header.more_fragments();
        amend(head, payload.len(), offset + start, more);
        *piece.meta_mut() = *packet.meta();
        fragments.push(piece);
    }
    packet.trim_back(payload_len.saturating_sub(room));
    let more = payload_len > room || header.more_fragments();
    amend(packet.bytes_mut(), room.min(payload_len), offset, more);
    fragments.insert(0, packet);
    None
}

/// Gives a header the length and position of a fragment.
fn amend(packet: &mut [u8], payload_len: usize, offset: usize, more: bool) {
    let Ok((header, _)) = ipv4::Header::view_mut(packet) else { return };
    // Both came from lengths of 16 bits.
    header.set_total_length(u16::try_from(header.header_len() + payload_len).unwrap_or(u16::MAX));
    header.set_fragment(u16::try_from(offset).unwrap_or(u16::MAX), more);
}

/// Of the options, those without the "copied" flag belong into the first fragment only (RFC 791 section 3.1). In the
/// header of another one they become no-operations, so that its length stays.
fn blank_first_only_options(header: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    const CHECKSUM: std::ops::Range<usize> = 10..12;
    let Some(mut options) = header.get_mut(ipv4::Header::LEN..).filter(|options| !options.is_empty()) else {
        return;
    };
    loop {
        let len = match *options {
            [NO_OPERATION, ..] => 1,
            [kind, len, ..] if kind != END && len >= 2 => usize::from(len),
            _ => break,
        };
        let Some((option, rest)) = options.split_at_mut_checked(len) else { break };
        if option.first().is_some_and(|kind| kind & COPIED == 0) {
            option.fill(NO_OPERATION);
        }
        options = rest;
    }
    header[CHECKSUM].fill(0);
    let sum = checksum::checksum(header);
    header[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
}
