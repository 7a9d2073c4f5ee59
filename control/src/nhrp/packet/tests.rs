use std::net::Ipv4Addr;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

/// The NHRP packets of a capture (Ethernet, GRE in the clear), in order, without what pads the frame.
pub(crate) fn captured(file: &str) -> Option<Vec<Vec<u8>>> {
    let Some(folder) = std::env::var_os("DMVPN_CAPTURES") else {
        println!("skipped: DMVPN_CAPTURES is not set");
        return None;
    };
    let bytes = std::fs::read(PathBuf::from(folder).join(file)).unwrap();
    let mut reader = pcap_file::pcap::PcapReader::new(&bytes[..]).unwrap();
    let mut packets = Vec::new();
    while let Some(frame) = reader.next_packet() {
        let frame = frame.unwrap();
        let sliced = etherparse::SlicedPacket::from_ethernet(&frame.data).unwrap();
        let Some(ip) = sliced.net.as_ref().and_then(etherparse::NetSlice::ip_payload_ref) else { continue };
        let gre = ip.payload;
        if ip.ip_number != etherparse::IpNumber::GRE || gre.get(2..4) != Some(&[0x20, 0x01]) {
            continue;
        }
        let nhrp = &gre[if gre[0] & 0x20 != 0 { 8 } else { 4 }..];
        let size = usize::from(u16::from_be_bytes([nhrp[10], nhrp[11]]));
        packets.push(nhrp[..size].to_vec());
    }
    Some(packets)
}

const CAPTURES: [&str; 6] = [
    "03-nhrp-plain-frr844-noauth/plhub.pcap",
    "03-nhrp-plain-frr844-noauth/plsp1.pcap",
    "03-nhrp-plain-frr844-noauth/plsp2.pcap",
    "04-nhrp-plain-frr103-auth-nat/plhub.pcap",
    "04-nhrp-plain-frr103-auth-nat/plnat1.pcap",
    "04-nhrp-plain-frr103-auth-nat/plsp1.pcap",
];

#[test]
fn captured_packets_decode_and_encode_to_the_same_bytes() {
    for file in CAPTURES {
        let Some(packets) = captured(file) else { return };
        assert!(packets.len() >= 6, "{file}: {} packets", packets.len());
        for bytes in packets {
            let packet = Packet::decode(&bytes).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(packet.encode().unwrap(), bytes, "{file}: {packet:?}");
        }
    }
}

/// A purge request as a spoke sends it for its LAN, with three entries and a password.
const PURGE: &str = "0001080000000000001000 76e99f0058010504000404000000000002cb0071120a0000030a000001\
    002000000000000000000400c0a803ff002000000000000000000400c0a80301001800000000000000000400c0a80300\
    800400008005000080030000800700 0a00000001534543524554 80000000";

#[test]
fn a_purge_request_with_three_entries() {
    let bytes = unhex(PURGE);
    let packet = Packet::decode(&bytes).unwrap();
    let Body::Message(message) = &packet.body else { panic!("{packet:?}") };
    assert_eq!(message.kind, MessageKind::PurgeRequest);
    assert_eq!(message.id, 2);
    assert_eq!(packet.source, Ipv4Addr::new(10, 0, 0, 3));
    let prefixes: Vec<_> = message.entries.iter().map(|cie| (cie.protocol, cie.prefix_length())).collect();
    assert_eq!(prefixes[2], (Some(Ipv4Addr::new(192, 168, 3, 0)), Some(24)));
    assert_eq!(packet.encode().unwrap(), bytes);
}

#[test]
fn the_password_is_not_in_the_debug_output() {
    let packet = Packet::decode(&unhex(PURGE)).unwrap();
    let text = format!("{packet:?}");
    assert!(!text.contains("SECRET") && !text.contains("83, 69, 67"), "{text}");
}

/// Threat 29: every truncation, every extension offset, every address length, an odd length.
#[test]
fn threat_29_lies_about_lengths_are_refused() {
    let good = unhex(PURGE);
    for length in 0..good.len() {
        assert!(Packet::decode(&good[..length]).is_err(), "{length} octets");
    }
    for offset in 1..=u16::MAX {
        let bytes = patched(&good, 14, &offset.to_be_bytes());
        let decoded = Packet::decode(&bytes);
        if usize::from(offset) < HEADER || usize::from(offset) > good.len() {
            assert_eq!(decoded, Err(DecodeError::ExtensionOffset));
        }
    }
    for length in 0..=255 {
        for at in [18, 19, 20, 21, 48, 49, 50] {
            let decoded = Packet::decode(&patched(&good, at, &[length]));
            if at < 22 && length & 0x3f != good[at] & 0x3f {
                assert_eq!(decoded, Err(DecodeError::Unsupported), "octet {at} = {length}");
            }
        }
    }
    for size in 0..=u16::MAX {
        let bytes = patched(&good, 10, &size.to_be_bytes());
        if usize::from(size) != good.len() {
            assert!(Packet::decode(&bytes).is_err() || usize::from(size) < good.len());
        }
    }
}

#[test]
fn a_wrong_checksum_is_refused_and_an_odd_length_is_padded_with_zero() {
    let mut packet = Packet::decode(&unhex(PURGE)).unwrap();
    let auth = packet.extension_mut(ExtensionKind::Authentication).unwrap();
    auth.value = Value::Bytes(b"\0\0\0\x01CISCO".to_vec());
    let bytes = packet.encode().unwrap();
    assert_eq!(bytes.len() % 2, 1);
    assert_eq!(Packet::decode(&bytes), Ok(packet));
    for bit in 0..bytes.len() * 8 {
        let mut broken = bytes.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(Packet::decode(&broken).is_err(), "bit {bit}");
    }
}

#[test]
fn octets_behind_the_packet_and_behind_its_end_are_ignored() {
    let bytes = unhex(PURGE);
    let packet = Packet::decode(&bytes).unwrap();
    let mut longer = bytes.clone();
    longer.extend([0xaa; 20]);
    assert_eq!(Packet::decode(&longer), Ok(packet.clone()));
    let mut padded = bytes;
    padded.extend([0; 16]);
    let size = u16::try_from(padded.len()).unwrap();
    let padded = patched(&padded, 10, &size.to_be_bytes());
    assert_eq!(Packet::decode(&padded), Ok(packet));
}

#[test]
fn a_packet_that_does_not_fit_its_size_field_is_not_encoded() {
    let mut packet = Packet::decode(&unhex(PURGE)).unwrap();
    packet.body = Body::Indication { code: 0, packet: vec![0; 65_535] };
    assert_eq!(packet.encode(), Err(TooLarge));
    packet.body = Body::Indication { code: 0, packet: Vec::new() };
    packet.extension_mut(ExtensionKind::Authentication).unwrap().value = Value::Bytes(vec![0; 65_536]);
    assert_eq!(packet.encode(), Err(TooLarge));
}

#[test]
fn more_entries_than_the_bound_are_refused() {
    let mut packet = Packet::decode(&unhex(PURGE)).unwrap();
    let Body::Message(message) = &mut packet.body else { unreachable!() };
    message.entries = vec![Cie::default(); MAX_CIES];
    assert!(Packet::decode(&packet.encode().unwrap()).is_ok());
    let Body::Message(message) = &mut packet.body else { unreachable!() };
    message.entries.push(Cie::default());
    assert_eq!(Packet::decode(&packet.encode().unwrap()), Err(DecodeError::TooManyEntries));
}

#[test]
fn prefix_lengths() {
    let meant = |prefix| Cie { prefix, ..Cie::default() }.prefix_length();
    assert_eq!(meant(0), Some(32));
    assert_eq!(meant(255), Some(32));
    assert_eq!(meant(24), Some(24));
    assert_eq!(meant(32), Some(32));
    assert_eq!(meant(33), None);
}

fn patched(bytes: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes[12..14].fill(0);
    let size = usize::from(u16::from_be_bytes([bytes[10], bytes[11]])).min(bytes.len());
    let checksum = checksum::checksum(&bytes[..size]);
    if size >= 14 {
        bytes[12..14].copy_from_slice(&checksum.to_be_bytes());
    }
    bytes
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn any_address() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

fn any_cie() -> impl Strategy<Value = Cie> {
    let addresses = (prop::option::of(any_address()), prop::option::of(any_address()));
    (any::<[u8; 3]>(), any::<[u16; 2]>(), addresses).prop_map(
        |([code, prefix, preference], [mtu, holding_time], (nbma, protocol))| Cie {
            code,
            prefix,
            mtu,
            holding_time,
            preference,
            nbma,
            protocol,
        },
    )
}

fn any_extension() -> impl Strategy<Value = Extension> {
    let cies = prop::collection::vec(any_cie(), 0..3);
    let octets = prop::collection::vec(any::<u8>(), 0..30);
    (any::<bool>(), 1u16..20, cies, octets).prop_map(|(compulsory, kind, cies, octets)| {
        let kind = ExtensionKind::from_wire(kind);
        let value = if kind.holds_entries() { Value::Entries(cies) } else { Value::Bytes(octets) };
        Extension { compulsory, kind, value }
    })
}

fn any_body() -> impl Strategy<Value = Body> {
    let message = (1u8..7, any::<u16>(), any::<u32>(), prop::collection::vec(any_cie(), 0..4)).prop_map(
        |(kind, flags, id, entries)| {
            Body::Message(Message { kind: MessageKind::from_wire(kind).unwrap(), flags, id, entries })
        },
    );
    let error = (any::<[u16; 2]>(), prop::collection::vec(any::<u8>(), 0..90))
        .prop_map(|([code, offset], packet)| Body::Error { code, offset, packet });
    let indication = (any::<u16>(), prop::collection::vec(any::<u8>(), 0..90))
        .prop_map(|(code, packet)| Body::Indication { code, packet });
    prop_oneof![message, error, indication]
}

prop_compose! {
    pub(crate) fn any_packet()(
        hop_count in any::<u8>(),
        addresses in prop::array::uniform3(any_address()),
        body in any_body(),
        extensions in prop::collection::vec(any_extension(), 0..6),
        bare in any::<bool>(),
    ) -> Packet {
        let [source_nbma, source, destination] = addresses;
        let extended = !(bare && extensions.is_empty());
        Packet { hop_count, source_nbma, source, destination, body, extensions, extended }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(packet in any_packet()) {
        prop_assert_eq!(Packet::decode(&packet.encode().unwrap()), Ok(packet));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Packet::decode(&bytes);
    }

    /// The checksum stops nearly all random changes early; this gets behind it.
    #[test]
    fn no_change_of_a_real_packet_makes_it_panic(
        packet in any_packet(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = packet.encode().unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let bytes = patched(&bytes, 0, &[]);
        if let Ok(packet) = Packet::decode(&bytes) {
            let again = Packet::decode(&packet.encode().unwrap());
            prop_assert_eq!(again, Ok(packet));
        }
    }
}
