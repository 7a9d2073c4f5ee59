//! What a tunnel adds to a packet.

use crate::model::{Encryption, EspMode, EspProposal, Hash, Profile};

const IPV4_HEADER: u32 = 20;
const UDP_HEADER: u32 = 8;
const GRE_HEADER: u32 = 4;
const GRE_KEY: u32 = 4;
/// SPI and sequence number (RFC 4303, section 2).
const ESP_HEADER: u32 = 8;
/// Pad length and next header (RFC 4303, section 2).
const ESP_TRAILER: u32 = 2;

/// The largest inner IPv4 packet that surely leaves in one piece through an underlay with packets of `underlay_mtu`
/// bytes: whichever proposal is chosen, and also behind a NAT, where ESP travels in UDP (RFC 3948).
pub(crate) fn largest_inner_packet(underlay_mtu: u16, has_key: bool, profile: Option<&Profile>) -> u16 {
    let underlay_mtu = u32::from(underlay_mtu);
    let gre = GRE_HEADER + if has_key { GRE_KEY } else { 0 };
    let largest = match profile {
        None => underlay_mtu.saturating_sub(IPV4_HEADER + gre),
        Some(profile) => {
            let esp = &profile.esp;
            let inside = gre + if esp.mode == EspMode::Tunnel { IPV4_HEADER } else { 0 };
            let room = underlay_mtu.saturating_sub(IPV4_HEADER + UDP_HEADER);
            let payloads = esp.proposals.iter().map(|proposal| largest_payload(room, *proposal));
            payloads.min().unwrap_or(0).saturating_sub(inside)
        }
    };
    u16::try_from(largest).unwrap_or(u16::MAX)
}

/// The most bytes that ESP can carry in `room` bytes.
fn largest_payload(room: u32, proposal: EspProposal) -> u32 {
    // Initialisation vector, block that the padding fills up, integrity check value (for an AEAD).
    let (iv, block, tag) = match proposal.encryption {
        Encryption::Aes128 | Encryption::Aes192 | Encryption::Aes256 => (16, 16, 0),
        Encryption::TripleDes => (8, 8, 0),
        Encryption::Aes128Gcm128 | Encryption::Aes256Gcm128 => (8, 4, 16),
    };
    let icv = match proposal.hash {
        None => 0,
        Some(Hash::Md5 | Hash::Sha1) => 12,
        Some(Hash::Sha256) => 16,
        Some(Hash::Sha384) => 24,
        Some(Hash::Sha512) => 32,
    };
    let blocks = room.saturating_sub(ESP_HEADER + iv + tag + icv) / block;
    (blocks * block).saturating_sub(ESP_TRAILER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(encryption: Encryption, hash: Option<Hash>) -> u32 {
        largest_payload(1500 - IPV4_HEADER - UDP_HEADER, EspProposal { encryption, hash })
    }

    #[test]
    fn payloads_of_a_full_ethernet_packet() {
        // 1472 = 8 (ESP) + 16 (IV) + 89 * 16 + 12 (ICV) + 12 left over
        assert_eq!(payload(Encryption::Aes256, Some(Hash::Sha1)), 89 * 16 - 2);
        // 1472 = 8 + 8 + 180 * 8 + 12 + 4
        assert_eq!(payload(Encryption::TripleDes, Some(Hash::Md5)), 180 * 8 - 2);
        // 1472 = 8 + 8 + 360 * 4 + 16
        assert_eq!(payload(Encryption::Aes128Gcm128, None), 360 * 4 - 2);
        assert_eq!(payload(Encryption::Aes128, Some(Hash::Sha512)), 88 * 16 - 2);
    }

    #[test]
    fn clear_tunnels_add_ip_and_gre() {
        assert_eq!(largest_inner_packet(1500, false, None), 1476);
        assert_eq!(largest_inner_packet(1500, true, None), 1472);
    }
}
