//! Round trips, and bytes that nobody should send.

use proptest::prelude::*;

use super::sa::Value;
use super::*;

fn attribute() -> impl Strategy<Value = Attribute> {
    let basic = any::<u16>().prop_map(Value::Basic);
    let variable = prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::Variable);
    (0u16..0x8000, prop_oneof![basic, variable]).prop_map(|(kind, value)| Attribute { kind, value })
}

fn transform() -> impl Strategy<Value = Transform> {
    (any::<u8>(), any::<u8>(), prop::collection::vec(attribute(), 0..10))
        .prop_map(|(number, id, attributes)| Transform { number, id, attributes })
}

fn proposal() -> impl Strategy<Value = Proposal> {
    let spi = prop::collection::vec(any::<u8>(), 0..17);
    (any::<u8>(), any::<u8>(), spi, prop::collection::vec(transform(), 0..6))
        .prop_map(|(number, protocol, spi, transforms)| Proposal { number, protocol, spi, transforms })
}

/// Everything that a stranger's bytes go through.
fn decode_all(bytes: &[u8]) {
    if let Ok((header, body)) = Header::decode(bytes) {
        let _ = Chain::decode(header.next, body);
    }
    for kind in [Kind::SA, Kind::HASH, Kind(15), Kind(132)] {
        if let Ok(chain) = Chain::decode(kind, bytes) {
            assert!(chain.after_first().len() <= bytes.len());
        }
    }
    if let Ok(sa) = Sa::decode(bytes) {
        for proposal in &sa.proposals {
            for transform in &proposal.transforms {
                assert!(transform.attributes.iter().filter_map(Attribute::number).count() <= 16);
            }
        }
    }
    let _ = Id::decode(bytes).map(|id| id.host());
    let _ = decode_nat_oa(bytes);
    let _ = Notify::decode(bytes).and_then(|notify| notify.attributes());
    let _ = Delete::decode(bytes);
}

proptest! {
    #[test]
    fn any_bytes_decode_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
    }

    #[test]
    fn nearly_right_bytes_decode_without_panic(
        proposals in prop::collection::vec(proposal(), 1..4),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut chain = ChainBuilder::new();
        chain.push(Kind::SA, Sa { proposals }.encode()).push(Kind::NONCE, vec![7; 20]);
        let header = Header {
            cookie_i: 1, cookie_r: 2, next: chain.first(), exchange: Exchange::MAIN, flags: 0, message_id: 0,
        };
        let mut bytes = header.encode(&chain.encode());
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        decode_all(&bytes);
        for skip in [28, 32] {
            decode_all(bytes.get(skip..).unwrap_or_default());
        }
    }

    #[test]
    fn an_sa_payload_comes_back_as_it_was(proposals in prop::collection::vec(proposal(), 1..5)) {
        let sa = Sa { proposals };
        prop_assert_eq!(Sa::decode(&sa.encode()), Ok(sa));
    }

    #[test]
    fn identities_notifications_and_deletes_come_back(
        data in prop::collection::vec(any::<u8>(), 0..100),
        spi in prop::collection::vec(any::<u8>(), 0..17),
        kind in any::<u16>(),
        spis in prop::collection::vec(any::<u32>(), 0..10),
        cookies in prop::collection::vec(any::<(u64, u64)>(), 0..4),
    ) {
        let id = Id { kind: spi.len().to_be_bytes()[7], protocol: 47, port: kind, data: data.clone() };
        prop_assert_eq!(Id::decode(&id.encode()), Ok(id));
        let notify = Notify { protocol: 3, spi, kind, data };
        prop_assert_eq!(Notify::decode(&notify.encode()), Ok(notify));
        for delete in [Delete::Esp(spis), Delete::Isakmp(cookies)] {
            prop_assert_eq!(Delete::decode(&delete.encode()), Ok(Some(delete)));
        }
    }

    #[test]
    fn a_chain_comes_back_whatever_padding_follows(
        bodies in prop::collection::vec((4u8..13, prop::collection::vec(any::<u8>(), 0..40)), 1..10),
        padding in 0usize..32,
    ) {
        let mut builder = ChainBuilder::new();
        for (kind, body) in &bodies {
            builder.push(Kind(*kind), body.clone());
        }
        let mut bytes = builder.encode();
        let end = bytes.len();
        bytes.resize(end + padding, 0);
        let chain = Chain::decode(builder.first(), &bytes).unwrap();
        let first = chain.first().unwrap();
        let all: Vec<_> =
            std::iter::once(first).chain(chain.rest()).map(|payload| (payload.kind.0, payload.body.to_vec())).collect();
        prop_assert_eq!(all, bodies);
        prop_assert_eq!(chain.after_first(), &bytes[first.body.len() + 4..end]);
    }
}

#[test]
fn the_header_is_checked() {
    let header = Header {
        cookie_i: 0x0102_0304_0506_0708,
        cookie_r: 9,
        next: Kind::HASH,
        exchange: Exchange::QUICK,
        flags: 1,
        message_id: 77,
    };
    let message = header.encode(&[1, 2, 3]);
    assert_eq!(Header::decode(&message), Ok((header, &[1, 2, 3][..])));
    // More than it says is ignored, less is not.
    let longer = [message.clone(), vec![0; 5]].concat();
    assert_eq!(Header::decode(&longer), Ok((header, &[1, 2, 3][..])));
    for len in 0..message.len() {
        assert!(Header::decode(&message[..len]).is_err(), "{len}");
    }
    for version in [0x00, 0x20, 0x11, 0xf0] {
        let mut other = message.clone();
        other[17] = version;
        assert_eq!(Header::decode(&other), Err(DecodeError::Domain));
    }
    for length in [0u32, 27, 32, u32::MAX] {
        let mut other = message.clone();
        other[24..28].copy_from_slice(&length.to_be_bytes());
        assert!(Header::decode(&other).is_err());
    }
}

#[test]
fn chains_are_bounded_and_end() {
    // A payload shorter than its own header; one that runs over the end; one that never ends.
    assert_eq!(Chain::decode(Kind::SA, &[0, 0, 0, 3]).unwrap_err(), DecodeError::Length);
    assert_eq!(Chain::decode(Kind::SA, &[0, 0, 0, 0]).unwrap_err(), DecodeError::Length);
    assert_eq!(Chain::decode(Kind::SA, &[0, 0, 0, 5]).unwrap_err(), DecodeError::Truncated);
    assert_eq!(Chain::decode(Kind::SA, &[1, 0, 0, 4]).unwrap_err(), DecodeError::Truncated);
    let many = |kind: u8, count: usize| {
        let mut bytes = [kind, 0, 0, 4].repeat(count);
        bytes[4 * (count - 1)] = 0;
        Chain::decode(Kind(kind), &bytes).map(drop)
    };
    assert_eq!(many(99, MAX_PAYLOADS), Ok(()));
    assert_eq!(many(99, MAX_PAYLOADS + 1), Err(DecodeError::TooMany));
    assert_eq!(many(Kind::VENDOR_ID.0, MAX_VENDOR_IDS + 1), Err(DecodeError::TooMany));
    assert_eq!(many(Kind::NAT_D.0, MAX_NAT_D + 1), Err(DecodeError::TooMany));
}

#[test]
fn numbers_come_in_either_form() {
    let number = |bytes: &[u8]| Attribute { kind: 12, value: Value::Variable(bytes.to_vec()) }.number();
    assert_eq!(Attribute::new(12, 3600).value, Value::Basic(3600));
    assert_eq!(Attribute::new(12, 86_400).value, Value::Variable(vec![0, 1, 0x51, 0x80]));
    assert_eq!(number(&[0x0e, 0x10]), Some(3600));
    assert_eq!(number(&[0, 0, 0, 0, 0, 0, 0, 9]), Some(9));
    assert_eq!(number(&[1, 0, 0, 0, 0]), Some(u32::MAX));
    assert_eq!(number(&[]), None);
    assert_eq!(number(&[0; 9]), None);
}

#[test]
fn hosts_are_addresses_or_subnets_of_one() {
    let id = |kind, data: &[u8]| Id { kind, protocol: 47, port: 0, data: data.to_vec() };
    assert_eq!(id(1, &[10, 0, 0, 1]).host(), Some([10, 0, 0, 1].into()));
    assert_eq!(id(4, &[10, 0, 0, 1, 255, 255, 255, 255]).host(), Some([10, 0, 0, 1].into()));
    assert_eq!(id(4, &[10, 0, 0, 0, 255, 255, 255, 0]).host(), None);
    assert_eq!(id(4, &[0; 8]).host(), None);
    assert_eq!(id(1, &[10, 0, 0]).host(), None);
    assert_eq!(id(2, b"spok").host(), None);
}
