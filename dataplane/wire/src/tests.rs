extern crate std;

use core::net::Ipv4Addr;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use etherparse::{Icmpv4Header, Icmpv4Slice, Ipv4HeaderSlice, PacketBuilder, UdpHeader};
use proptest::prelude::*;

use crate::gre::Packet as Gre;
use crate::icmp::{Echo, Message, Problem, Unreachable};
use crate::ipv4::{Fields, Header, Packet};
use crate::udp::Encapsulated;
use crate::*;

const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const B: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn fields(protocol: IpProtocol) -> Fields {
    Fields { tos: 0, identification: 7, dont_fragment: false, ttl: 64, protocol, source: A, destination: B }
}

fn packet(fields: &Fields, payload: &[u8]) -> Vec<u8> {
    let header = Header::new(fields, payload.len()).unwrap();
    [header.octets(), payload].concat()
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

fn any_fields() -> impl Strategy<Value = Fields> {
    (any::<u8>(), any::<u16>(), any::<bool>(), any::<u8>(), any::<u8>(), address(), address()).prop_map(
        |(tos, identification, dont_fragment, ttl, protocol, source, destination)| Fields {
            tos,
            identification,
            dont_fragment,
            ttl,
            protocol: IpProtocol(protocol),
            source,
            destination,
        },
    )
}

/// Bytes that look enough like IPv4 for the deeper checks to be reached.
fn nearly_ipv4() -> impl Strategy<Value = Vec<u8>> {
    let valid = (any_fields(), proptest::collection::vec(any::<u8>(), 0..80))
        .prop_map(|(fields, payload)| packet(&fields, &payload));
    (valid, proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), 0usize..120)
        .prop_map(|(mut bytes, damage, len)| {
            for (index, byte) in damage {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            bytes.truncate(len);
            bytes
        })
}

mod eth_and_arp {
    use super::*;

    #[test]
    fn addresses_read_what_they_write() {
        let mac: MacAddr = "52:54:00:aB:cd:0f".parse().unwrap();
        assert_eq!(mac, MacAddr([0x52, 0x54, 0, 0xab, 0xcd, 0x0f]));
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
        assert_eq!("52-54-00-ab-cd-0f".parse(), Ok(mac));
        for wrong in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0f:00",
            "52:54:00:ab:cd:+f",
            "5:54:00:ab:cd:0f",
            "52:54-00:ab:cd:0f",
        ] {
            assert_eq!(wrong.parse::<MacAddr>(), Err(eth::NotMacAddr), "{wrong}");
        }
        assert!(MacAddr::BROADCAST.is_multicast() && !mac.is_multicast());
        assert!(mac.is_unicast() && !MacAddr::UNSPECIFIED.is_unicast());
        for octet in 0..6 {
            let mut other = mac;
            other.0[octet] ^= 0x10;
            assert!(mac.is(&mac) && !mac.is(&other), "{octet}");
        }
    }

    #[test]
    fn headers_lie_over_the_packet() {
        let mut frame = [0; 20];
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let rest = eth::Header::new(MacAddr::BROADCAST, mac, EtherType::VLAN).emit(&mut frame).unwrap();
        assert_eq!(rest.len(), 6);
        assert_eq!(frame[12..14], [0x81, 0]);
        let (header, rest) = eth::Header::view(&frame).unwrap();
        assert_eq!((header.source, header.ether_type()), (mac, EtherType::VLAN));
        assert_eq!(rest.len(), 6);
        assert_eq!(eth::Header::view(&frame[..13]), Err(Malformed::Truncated));
    }

    #[test]
    fn a_request_is_answered() {
        let (asking, owner) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let request = arp::Packet::request(asking, A, B);
        let padded = [request.octets(), &[0; 18]].concat();
        let (seen, operation) = arp::Packet::parse(&padded).unwrap();
        assert_eq!((operation, seen.sender(), seen.target()), (arp::Operation::Request, A, B));

        let reply = seen.reply(owner);
        let (seen, operation) = arp::Packet::parse(reply.octets()).unwrap();
        assert_eq!(operation, arp::Operation::Reply);
        assert_eq!((seen.sender_mac, seen.sender(), seen.target_mac, seen.target()), (owner, B, asking, A));

        for (offset, value) in [(1, 6), (3, 1), (4, 8), (5, 16), (7, 3), (8, 1)] {
            let mut wrong = padded.clone();
            wrong[offset] = value;
            assert_eq!(arp::Packet::parse(&wrong).err(), Some(Malformed::Unsupported), "byte {offset}");
        }
    }
}

mod sums {
    use super::*;

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum::checksum(&bytes), !0xddf2);
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4: the update that equation 2 of RFC 1141 gets wrong.
        assert_eq!(checksum::update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn equals_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut sum = bytes.chunks(2).fold(0u64, |sum, pair| {
                sum + u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))
            });
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            prop_assert_eq!(checksum::checksum(&bytes), !u16::try_from(sum).unwrap());
        }

        #[test]
        fn parts_sum_as_the_whole(
            mut first in proptest::collection::vec(any::<u8>(), 0..60),
            second in proptest::collection::vec(any::<u8>(), 0..61),
        ) {
            first.truncate(first.len() / 2 * 2);
            let parts = checksum::Sum::default().bytes(&first).bytes(&second).checksum();
            prop_assert_eq!(parts, checksum::checksum(&[first, second].concat()));
        }

        #[test]
        fn an_update_equals_a_recomputation(
            // RFC 1624 section 3: all zeros has two representations of zero, and no header is that.
            mut words in proptest::collection::vec(1u16.., 2..40),
            index in any::<prop::sample::Index>(),
            new in 1u16..,
            next in 1u16..,
        ) {
            let sum = |words: &[u16]| {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
                checksum::checksum(&bytes)
            };
            let before = sum(&words);
            let index = index.index(words.len() - 1);
            let old = [words[index], words[index + 1]];
            let new = [new, next];
            words[index] = new[0];
            let after_one = sum(&words);
            prop_assert_eq!(checksum::update(before, old[0], new[0]), after_one);
            prop_assert_eq!(checksum::update(after_one, new[0], old[0]), before);
            words[index + 1] = new[1];
            let wide = |pair: [u16; 2]| u32::from(pair[0]) << 16 | u32::from(pair[1]);
            prop_assert_eq!(checksum::update32(before, wide(old), wide(new)), sum(&words));
        }
    }
}

mod ip {
    use super::*;

    #[test]
    fn each_check_has_its_error() {
        let good = packet(&fields(IpProtocol::UDP), &[1, 2, 3]);
        let mut padded = good.clone();
        padded.resize(60, 0);
        assert_eq!(Packet::parse(&padded).unwrap().payload, [1, 2, 3]);

        let error = |bytes: &[u8]| Packet::parse(bytes).unwrap_err();
        let with = |offset: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[offset] = value;
            bytes
        };
        assert_eq!(error(&good[..19]), Malformed::Truncated);
        assert_eq!(error(&good[..22]), Malformed::Truncated);
        assert_eq!(error(&with(0, 0x65)), Malformed::Version);
        assert_eq!(error(&with(0, 0x44)), Malformed::Length);
        assert_eq!(error(&with(0, 0x4f)), Malformed::Length);
        assert_eq!(error(&with(3, 19)), Malformed::Length);
        assert_eq!(error(&with(8, 63)), Malformed::Checksum);
    }

    #[test]
    fn options_are_kept_apart_and_summed() {
        let mut bytes = packet(&fields(IpProtocol::UDP), &[0x94, 4, 0, 0, 9]);
        bytes[0] = 0x46;
        bytes[10..12].fill(0);
        let sum = checksum::checksum(&bytes[..24]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        let parsed = Packet::parse(&bytes).unwrap();
        assert_eq!((parsed.options, parsed.payload), (&[0x94, 4, 0, 0][..], &[9][..]));
        bytes[20] ^= 1;
        assert_eq!(Packet::parse(&bytes).unwrap_err(), Malformed::Checksum);
    }

    #[test]
    fn the_last_hop_is_not_taken() {
        for ttl in [0, 1] {
            let mut header = Header::new(&Fields { ttl, ..fields(IpProtocol::UDP) }, 0).unwrap();
            assert!(!header.decrement_ttl());
            assert_eq!(header.ttl(), ttl);
        }
        assert!(Header::new(&fields(IpProtocol::UDP), 65516).is_none());
        assert!(Header::new(&fields(IpProtocol::UDP), usize::MAX).is_none());
    }

    proptest! {
        #[test]
        fn what_we_build_others_read(fields in any_fields(), payload in 0usize..=65515) {
            let header = Header::new(&fields, payload).unwrap();
            let theirs = Ipv4HeaderSlice::from_slice(header.octets()).unwrap();
            prop_assert_eq!(theirs.to_header().calc_header_checksum(), header.checksum());
            prop_assert_eq!(usize::from(theirs.total_len()), 20 + payload);
            prop_assert_eq!((theirs.dcp().value(), theirs.ecn().value()), (header.dscp(), header.ecn()));
            prop_assert_eq!((theirs.dont_fragment(), theirs.more_fragments()), (header.dont_fragment(), false));
            prop_assert_eq!(theirs.identification(), header.identification());
            prop_assert_eq!((theirs.ttl(), theirs.protocol().0), (header.ttl(), header.protocol().0));
            prop_assert_eq!((theirs.source_addr(), theirs.destination_addr()), (fields.source, fields.destination));
        }

        #[test]
        fn what_we_accept_others_accept(bytes in nearly_ipv4()) {
            let ours = Packet::parse(&bytes);
            let theirs = etherparse::Ipv4Slice::from_slice(&bytes);
            if let Ok(ours) = ours {
                // Etherparse looks into authentication headers too, which we leave alone.
                if ours.header.protocol().0 != 51 {
                    let theirs = theirs.unwrap();
                    prop_assert_eq!(theirs.payload().payload, ours.payload);
                    prop_assert_eq!(theirs.header().options(), ours.options);
                    prop_assert_eq!(theirs.header().is_fragmenting_payload(), ours.header.is_fragment());
                    prop_assert_eq!(theirs.header().fragments_offset().byte_offset(), ours.header.fragment_offset());
                }
            } else if let Ok(theirs) = theirs {
                let header = theirs.header().to_header();
                prop_assert_ne!(header.calc_header_checksum(), header.header_checksum);
            }
        }

        #[test]
        fn a_template_completed_is_a_header(fields in any_fields(), len in 0usize..65516) {
            let template = Header::template(fields.protocol, fields.source, fields.destination, fields.dont_fragment);
            let (mut header, total_length) = (template, u16::try_from(Header::LEN + len).unwrap());
            header.complete(&template, fields.tos, total_length, fields.identification, fields.ttl);
            prop_assert_eq!(Some(header), Header::new(&fields, len));
        }

        #[test]
        fn setters_keep_the_checksum_right(old in any_fields(), new in any_fields(), len in 20u16.., offset in 0u16..0x1fff) {
            let mut header = Header::new(&old, 0).unwrap();
            let checked = |header: &Header| {
                let mut fresh = *header;
                fresh.fill_checksum();
                fresh.checksum() == header.checksum()
            };
            let decremented = header.decrement_ttl();
            prop_assert_eq!(decremented, old.ttl > 1);
            prop_assert!(checked(&header));
            header.set_tos(new.tos);
            prop_assert!(checked(&header));
            header.set_ttl(new.ttl);
            prop_assert!(checked(&header));
            header.set_total_length(len);
            prop_assert!(checked(&header));
            header.set_identification(new.identification);
            prop_assert!(checked(&header));
            header.set_fragment(offset * 8, true);
            prop_assert!(checked(&header));
            prop_assert_eq!((header.fragment_offset(), header.more_fragments()), (offset * 8, true));
            header.set_source(new.source);
            prop_assert!(checked(&header));
            header.set_destination(new.destination);
            prop_assert!(checked(&header));
            prop_assert_eq!((header.source(), header.destination()), (new.source, new.destination));
            prop_assert_eq!((header.tos(), header.ttl(), header.total_length()), (new.tos, new.ttl, len));
        }
    }
}

mod udp_4500 {
    use super::*;

    #[test]
    fn lengths_are_exact() {
        let header = udp::Header::new(4500, 4500, 2).unwrap();
        let bytes = [header.octets(), &[1, 2, 3]].concat();
        assert_eq!(udp::Header::parse(&bytes).unwrap().1, [1, 2]);
        assert_eq!(udp::Header::parse(&bytes[..9]).err(), Some(Malformed::Truncated));
        let mut short = bytes;
        short[5] = 7;
        assert_eq!(udp::Header::parse(&short).err(), Some(Malformed::Length));
        assert!(udp::Header::new(1, 2, 65528).is_none());
    }

    #[test]
    fn port_4500_carries_three_things() {
        assert_eq!(Encapsulated::parse(&[0xff]), Ok(Encapsulated::Keepalive));
        assert_eq!(Encapsulated::parse(&[0, 0, 0, 0, 5]), Ok(Encapsulated::Ike(&[5])));
        let esp = [0xff, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(Encapsulated::parse(&esp), Ok(Encapsulated::Esp(&esp)));
        for wrong in [&[][..], &[0xfe], &[0xff, 0xff], &[0, 0, 0], &esp[..7]] {
            assert_eq!(Encapsulated::parse(wrong), Err(Malformed::Truncated), "{wrong:?}");
        }
        let (header, rest) = esp::Header::view(&esp).unwrap();
        assert_eq!((header.spi(), header.sequence(), rest), (0xff00_0000, 1, &[][..]));
        assert_eq!(esp::Header::new(0xff00_0000, 1).octets(), esp);
    }

    proptest! {
        #[test]
        fn checksums_agree(
            (source, destination) in (address(), address()),
            (from, to) in (any::<u16>(), any::<u16>()),
            payload in proptest::collection::vec(any::<u8>(), 0..64),
            damage in any::<prop::sample::Index>(),
        ) {
            let plain = udp::Header::new(from, to, payload.len()).unwrap();
            let header = plain.with_checksum(source, destination, &payload);
            let theirs = UdpHeader::with_ipv4_checksum(
                from, to,
                &etherparse::Ipv4Header {
                    source: source.octets(), destination: destination.octets(), ..Default::default()
                },
                &payload,
            ).unwrap();
            prop_assert_eq!(header.octets(), theirs.to_bytes());
            prop_assert!(header.verify(source, destination, &payload));
            prop_assert!(plain.verify(source, destination, &payload));
            if !payload.is_empty() {
                let mut damaged = payload.clone();
                damaged[damage.index(payload.len())] ^= 0x10;
                prop_assert!(!header.verify(source, destination, &damaged));
            }
        }
    }
}

mod gre_headers {
    use super::*;

    #[test]
    fn flags_are_exact() {
        let parse = |bytes: &'static [u8]| Gre::parse(bytes);
        let plain = Gre { protocol: EtherType::NHRP, key: None, sequence: None, payload: &[1] };
        assert_eq!(parse(&[0, 0, 0x20, 1, 1]), Ok(plain));
        // Reserved bits 6 to 12 are ignored.
        assert_eq!(parse(&[3, 0xf8, 0x20, 1, 1]), Ok(plain));
        assert_eq!(
            parse(&[0x30, 0, 8, 0, 0, 0, 0, 9, 0, 0, 0, 3]),
            Ok(Gre { protocol: EtherType::IPV4, key: Some(9), sequence: Some(3), payload: &[] })
        );
        for flags in [0x40u8, 0x08, 0x04] {
            assert_eq!(Gre::parse(&[flags, 0, 8, 0]), Err(Malformed::Unsupported), "{flags:#x}");
        }
        assert_eq!(parse(&[0, 1, 8, 0]), Err(Malformed::Version));
        assert_eq!(parse(&[0, 0, 8]), Err(Malformed::Truncated));
        assert_eq!(parse(&[0x20, 0, 8, 0, 1, 2, 3]), Err(Malformed::Truncated));
        assert_eq!(parse(&[0x30, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7]), Err(Malformed::Truncated));
    }

    #[test]
    fn no_room_leaves_the_buffer_alone() {
        let mut out = [7; 7];
        assert!(gre::emit(EtherType::IPV4, Some(1), &mut out).is_none());
        assert_eq!(out, [7; 7]);
        assert!(gre::emit(EtherType::IPV4, None, &mut out).is_some());
    }

    proptest! {
        #[test]
        fn round_trip(protocol: u16, key: Option<u32>, payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            let protocol = EtherType(protocol);
            let mut bytes = vec![0; gre::header_len(key) + payload.len()];
            gre::emit(protocol, key, &mut bytes).unwrap().copy_from_slice(&payload);
            prop_assert_eq!(Gre::parse(&bytes), Ok(Gre { protocol, key, sequence: None, payload: &payload }));
        }

        #[test]
        fn a_checksum_is_verified(key: u32, mut payload in proptest::collection::vec(any::<u8>(), 1..65), flip in any::<prop::sample::Index>()) {
            let mut bytes = vec![0xa0, 0, 8, 0, 0, 0, 0, 0];
            bytes.extend(key.to_be_bytes());
            bytes.append(&mut payload);
            let sum = checksum::checksum(&bytes);
            bytes[4..6].copy_from_slice(&sum.to_be_bytes());
            let parsed = Gre::parse(&bytes).unwrap();
            prop_assert_eq!((parsed.key, parsed.payload), (Some(key), &bytes[12..]));
            let flip = flip.index(bytes.len() - 4) + 4;
            bytes[flip] ^= 1;
            prop_assert_eq!(Gre::parse(&bytes), Err(Malformed::Checksum));
        }
    }
}

mod icmp_messages {
    use super::*;

    fn error_about(offending: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0; icmp::MAX_ERROR];
        let len = icmp::emit_error(Problem::TtlExceeded, B, offending, &mut out)?;
        Some(out[..len].to_vec())
    }

    #[test]
    fn errors_go_to_the_sender_and_quote_it() {
        let offending = packet(&Fields { tos: 0xb9, ..fields(IpProtocol::UDP) }, &[3; 700]);
        for (problem, kind, code, second) in [
            (Problem::TtlExceeded, 11, 0, 0),
            (Problem::ReassemblyTimeExceeded, 11, 1, 0),
            (Problem::Unreachable(Unreachable::HOST), 3, 1, 0),
            (Problem::FragmentationNeeded { mtu: 1400 }, 3, 4, 1400u16),
        ] {
            let mut out = [0; 600];
            let len = icmp::emit_error(problem, B, &offending, &mut out).unwrap();
            assert_eq!(len, icmp::MAX_ERROR);
            let sent = Packet::parse(&out[..len]).unwrap();
            assert_eq!((sent.header.source(), sent.header.destination(), sent.header.tos()), (B, A, 0xd8));
            assert_eq!(Icmpv4Header::from_slice(sent.payload).unwrap().0.checksum, {
                let (header, rest) = Icmpv4Header::from_slice(sent.payload).unwrap();
                header.icmp_type.calc_checksum(rest)
            });
            assert_eq!(sent.payload[..2], [kind, code]);
            assert_eq!(sent.payload[6..8], second.to_be_bytes());
            assert_eq!(
                Message::parse(sent.payload),
                Ok(Message::Error { problem, about: &offending[..548] })
            );
        }
        assert!(icmp::emit_error(Problem::TtlExceeded, B, &offending, &mut [0; 575]).is_none());
    }

    #[test]
    fn padding_of_the_link_is_not_quoted() {
        let mut offending = packet(&fields(IpProtocol::UDP), &[3; 4]);
        offending.resize(46, 0);
        assert_eq!(error_about(&offending).unwrap().len(), 20 + 8 + 24);
    }

    #[test]
    fn some_packets_are_never_answered() {
        let fields = fields(IpProtocol::UDP);
        assert!(error_about(&packet(&fields, &[0; 8])).is_some());
        for source in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.5", "240.0.0.1", "255.255.255.255"] {
            let source = source.parse().unwrap();
            assert!(error_about(&packet(&Fields { source, ..fields }, &[0; 8])).is_none(), "{source}");
        }
        for destination in [Ipv4Addr::new(224, 0, 0, 5), Ipv4Addr::BROADCAST] {
            assert!(error_about(&packet(&Fields { destination, ..fields }, &[0; 8])).is_none());
        }

        let mut fragment = packet(&fields, &[0; 8]);
        Header::view_mut(&mut fragment).unwrap().0.set_fragment(0, true);
        assert!(error_about(&fragment).is_some(), "a first fragment is answered");
        Header::view_mut(&mut fragment).unwrap().0.set_fragment(8, false);
        assert!(error_about(&fragment).is_none());

        let mut damaged = packet(&fields, &[0; 8]);
        damaged[8] ^= 1;
        assert!(error_about(&damaged).is_none());

        let icmp = Fields { protocol: IpProtocol::ICMP, ..fields };
        for (kind, answered) in
            [(0, true), (3, false), (4, false), (5, false), (8, true), (11, false), (12, false), (13, true)]
        {
            assert_eq!(error_about(&packet(&icmp, &[kind; 8])).is_some(), answered, "type {kind}");
        }
        assert!(error_about(&packet(&icmp, &[])).is_none());
    }

    #[test]
    fn echo_comes_back() {
        let mut request = Vec::new();
        PacketBuilder::ipv4(A.octets(), B.octets(), 64)
            .icmpv4_echo_request(0x1234, 9)
            .write(&mut request, b"payload")
            .unwrap();
        let Message::EchoRequest(echo) = Message::parse(Packet::parse(&request).unwrap().payload).unwrap()
        else {
            panic!("not a request");
        };
        assert_eq!(echo, Echo { identifier: 0x1234, sequence: 9, data: b"payload" });
        let mut out = [0; 15];
        assert_eq!(echo.emit_reply(&mut out), Some(15));
        assert_eq!(Message::parse(&out), Ok(Message::EchoReply(echo)));
        let theirs = Icmpv4Slice::from_slice(&out).unwrap();
        assert!(matches!(theirs.icmp_type(), etherparse::Icmpv4Type::EchoReply(_)));
        assert_eq!(echo.emit_request(&mut out), Some(15));
        assert_eq!(Message::parse(&out), Ok(Message::EchoRequest(echo)));
        out[14] ^= 1;
        assert_eq!(Message::parse(&out), Err(Malformed::Checksum));
        assert_eq!(Message::parse(&out[..7]), Err(Malformed::Truncated));
        assert_eq!(echo.emit_reply(&mut out[..14]), None);
    }
}

proptest! {
    #[test]
    fn nothing_panics_on_any_bytes(
        bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..96), nearly_ipv4()],
        room in 0usize..600,
    ) {
        let mut out = [0; 600];
        let _ = eth::Header::view(&bytes);
        let _ = arp::Packet::parse(&bytes);
        let _ = Packet::parse(&bytes);
        let _ = udp::Header::parse(&bytes).map(|(header, payload)| header.verify(A, B, payload));
        let _ = Encapsulated::parse(&bytes);
        let _ = Gre::parse(&bytes);
        let _ = Message::parse(&bytes);
        if let Some(len) = icmp::emit_error(Problem::TtlExceeded, A, &bytes, &mut out[..room]) {
            prop_assert!(Packet::parse(&out[..len]).is_ok());
        }
        // Setters on a header that was never checked.
        let mut bytes = bytes;
        if let Ok((header, _)) = Header::view_mut(&mut bytes) {
            let _ = header.decrement_ttl();
            header.set_fragment(u16::MAX, true);
            header.set_total_length(0);
        }
    }
}
