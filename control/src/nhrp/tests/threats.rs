//! Those who mean ill: they hold the key of the tunnel (any spoke does), and lie. Numbers are those of the list of threats
//! that these defend against: 29 parsing (with the codec), 30 authentication, 31 poisoning, 32 loops and floods.

use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_config::{Multicast, Secret};
use dmvpn_tables::PeerId;
use proptest::prelude::*;

use super::net::{HUB, Net, Weather, config, hub_map, inner, ip, net, nhrp};
use crate::nhrp::packet::tests::any_packet;
use crate::nhrp::packet::{Body, Cie, Extension, ExtensionKind, Message, MessageKind, Packet, Value, flags};
use crate::nhrp::{Event, Input, Kind, Machine, Misbehavior, Output};
use crate::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn password(text: &str) -> Extension {
    let value = Value::Bytes([b"\0\0\0\x01", text.as_bytes()].concat());
    Extension { compulsory: true, kind: ExtensionKind::Authentication, value }
}

fn packet(body: Body, nbma: &str, source: &str, destination: &str) -> Packet {
    Packet {
        hop_count: 255,
        source_nbma: ip(nbma),
        source: ip(source),
        destination: ip(destination),
        body,
        extensions: vec![
            Extension::entries(ExtensionKind::ForwardTransit, Vec::new()),
            password("SECRET"),
            Extension::entries(ExtensionKind::Nat, Vec::new()),
        ],
        extended: true,
    }
}

fn message(kind: MessageKind, id: u32, cie: Cie) -> Body {
    let flags = match kind {
        MessageKind::RegistrationRequest => flags::REGISTRATION_UNIQUE | flags::NAT,
        MessageKind::ResolutionRequest => flags::ROUTER | flags::NAT,
        _ => 0,
    };
    Body::Message(Message { kind, flags, id, entries: vec![cie] })
}

fn holding(holding_time: u16) -> Cie {
    Cie { prefix: 255, holding_time, ..Cie::default() }
}

fn all_types() -> Vec<Body> {
    let kinds = [
        MessageKind::ResolutionRequest,
        MessageKind::ResolutionReply,
        MessageKind::RegistrationRequest,
        MessageKind::RegistrationReply,
        MessageKind::PurgeRequest,
        MessageKind::PurgeReply,
    ];
    let mut all: Vec<_> = kinds.into_iter().map(|kind| message(kind, 1, holding(300))).collect();
    all.push(Body::Error { code: 6, offset: 0, packet: vec![0; 40] });
    all.push(Body::Indication { code: 0, packet: inner(ip("192.168.1.10"), ip("192.168.3.10")) });
    all
}

/// A network at work: hub, two honest spokes, and the third, who is not.
fn network() -> Net {
    let mut network = Net::new(3, 30, Weather::default());
    network.start();
    network.run(SECOND);
    network
}

const EVIL: usize = 3;

/// What `node` sends back when `EVIL` sends it something.
fn answers(network: &mut Net, node: usize, packet: &Packet) -> Vec<Packet> {
    let from = network.stations[node].peer_to(EVIL).unwrap();
    answers_to(network, node, from, packet)
}

fn answers_to(network: &mut Net, node: usize, from: PeerId, packet: &Packet) -> Vec<Packet> {
    let before = network.sent.len();
    network.inject(node, from, &packet.encode().unwrap());
    let sent = network.sent[before..].iter().filter(|(_, sender, _)| *sender == node);
    sent.map(|(_, _, bytes)| Packet::decode(bytes).unwrap()).collect()
}

fn code_of(answer: &Packet) -> u16 {
    match &answer.body {
        Body::Message(message) => message.entries[0].code.into(),
        Body::Error { code, .. } | Body::Indication { code, .. } => *code,
    }
}

#[test]
fn threat_30_every_type_must_authenticate_exactly_once() {
    let mut network = network();
    for body in all_types() {
        let good = packet(body.clone(), "203.0.113.4", "10.0.0.4", "10.0.0.1");
        let with = |extensions: Vec<Extension>| Packet { extensions, ..good.clone() };
        let mut other_type = password("SECRET");
        other_type.value = Value::Bytes(b"\0\0\0\x02SECRET".to_vec());
        let bad = [
            with(Vec::new()),
            with(vec![password("")]),
            with(vec![password("SECRE")]),
            with(vec![password("SECRETS")]),
            with(vec![password("SECREt")]),
            with(vec![password("SECRET"), password("SECRET")]),
            with(vec![password("wrong"), password("SECRET")]),
            with(vec![other_type]),
        ];
        for bad in bad {
            network.run(SECOND);
            let before = network.stations[HUB].machine.counters();
            let bindings = network.stations[HUB].bindings.clone();
            let answers = answers(&mut network, HUB, &bad);
            let after = network.stations[HUB].machine.counters();
            assert_eq!(after.unauthenticated, before.unauthenticated + 1);
            assert_eq!(network.stations[HUB].bindings, bindings);
            // An error is not answered; anything else with error 11, which does not tell the password.
            assert_eq!(answers.len(), usize::from(!matches!(body, Body::Error { .. })));
            for answer in answers {
                assert_eq!((answer.body.wire_type(), code_of(&answer)), (7, 11));
                assert!(answer.extensions.is_empty());
                let bytes = answer.encode().unwrap();
                assert!(!bytes.windows(6).any(|window| window == b"SECRET"));
            }
        }
        let before = network.stations[HUB].machine.counters();
        answers(&mut network, HUB, &good);
        assert_eq!(network.stations[HUB].machine.counters().unauthenticated, before.unauthenticated);
    }
}

#[test]
fn threat_30_a_flood_of_bad_passwords_is_answered_at_a_low_rate() {
    let mut network = network();
    let body = message(MessageKind::RegistrationRequest, 1, holding(300));
    let bad = Packet { extensions: Vec::new(), ..packet(body, "203.0.113.4", "10.0.0.4", "10.0.0.1") };
    let mut errors = 0;
    for _ in 0..10_000 {
        errors += answers(&mut network, HUB, &bad).len();
        network.run(Duration::from_micros(100));
    }
    assert!((1..=60).contains(&errors), "{errors} errors in a second");
    assert!(network.stations[HUB].machine.counters().limited > 9_000);
}

#[test]
fn threat_30_without_a_key_a_password_does_not_matter_and_is_not_passed_on() {
    let mut plain = nhrp(Vec::new(), Multicast::Dynamic);
    plain.authentication = None;
    let mut hub = Machine::new(config("10.0.0.1/24", plain, 1));
    hub.set_nbma(Instant::ZERO, Some(ip("198.51.100.41")));
    let routes = super::net::Table::default();
    let up = Input::PeerUp { peer: PeerId(1), nbma: ip("203.0.113.4"), natted: false };
    hub.handle(Instant::ZERO, up, &routes);
    let request = packet(
        message(MessageKind::RegistrationRequest, 1, holding(300)),
        "203.0.113.4",
        "10.0.0.4",
        "10.0.0.1",
    );
    let bytes = request.encode().unwrap();
    hub.handle(Instant::ZERO, Input::Packet { from: PeerId(1), bytes: &bytes }, &routes);
    let reply = std::iter::from_fn(|| hub.poll_output()).find_map(|output| match output {
        Output::Send { packet, .. } => Some(Packet::decode(&packet).unwrap()),
        _ => None,
    });
    let reply = reply.unwrap();
    assert_eq!(code_of(&reply), 0);
    assert_eq!(reply.extension(ExtensionKind::Authentication), None);
}

#[test]
fn threat_31_a_registered_address_is_not_given_to_another() {
    let mut network = network();
    let before = network.stations[HUB].bindings.clone();
    for nbma in ["203.0.113.4", "203.0.113.2"] {
        let body = message(MessageKind::RegistrationRequest, 9, holding(300));
        let answers = answers(&mut network, HUB, &packet(body, nbma, "10.0.0.2", "10.0.0.1"));
        assert_eq!(code_of(&answers[0]), 14);
    }
    assert_eq!(network.stations[HUB].bindings, before);
    let holder = before[&ip("10.0.0.2")].0;
    let claimant = network.stations[HUB].peer_to(EVIL).unwrap();
    let conflict = Event::Conflict { overlay: ip("10.0.0.2"), holder, claimant };
    assert!(network.stations[HUB].saw(|event| *event == conflict));
}

#[test]
fn threat_31_the_same_station_with_a_new_path_does_get_its_address() {
    let mut network = network();
    let old = network.stations[HUB].peer_to(1).unwrap();
    network.join(HUB, 1);
    let new = network.stations[HUB].bindings.keys().len();
    let fresh = network.stations[HUB].peers_to(1).into_iter().find(|peer| *peer != old).unwrap();
    let body = message(MessageKind::RegistrationRequest, 9, holding(300));
    let answers = answers_to(&mut network, HUB, fresh, &packet(body, "203.0.113.2", "10.0.0.2", "10.0.0.1"));
    assert_eq!(code_of(&answers[0]), 0);
    assert_eq!(network.stations[HUB].bindings[&ip("10.0.0.2")], (fresh, Kind::Dynamic));
    assert_eq!(network.stations[HUB].bindings.len(), new);
}

#[test]
fn threat_31_a_holder_that_is_gone_is_found_out_and_replaced() {
    let mut network = network();
    network.kill(1);
    let body = message(MessageKind::RegistrationRequest, 9, holding(300));
    let request = packet(body, "203.0.113.4", "10.0.0.2", "10.0.0.1");
    assert_eq!(code_of(&answers(&mut network, HUB, &request)[0]), 14);
    // The doubt had the old path probed.
    assert_eq!(code_of(&answers(&mut network, HUB, &request)[0]), 0);
}

#[test]
fn threat_31_only_one_host_of_the_tunnels_network_can_be_registered() {
    let mut network = network();
    let before = network.stations[HUB].bindings.clone();
    let wide = Cie { prefix: 24, ..holding(300) };
    let foreign = Cie { protocol: Some(ip("10.0.0.2")), ..holding(300) };
    let attempts = [
        ("10.0.0.4", wide),
        ("10.0.0.4", Cie { prefix: 1, ..wide }),
        ("10.0.0.4", Cie { prefix: 33, ..wide }),
        ("10.0.0.4", foreign),
        ("10.0.0.1", holding(300)),
        ("10.0.0.0", holding(300)),
        ("10.0.0.255", holding(300)),
        ("10.0.1.4", holding(300)),
        ("192.168.3.1", holding(300)),
        ("224.0.0.1", holding(300)),
        ("0.0.0.0", holding(300)),
    ];
    for (source, cie) in attempts {
        let body = message(MessageKind::RegistrationRequest, 9, cie);
        let answers = answers(&mut network, HUB, &packet(body, "203.0.113.4", source, "10.0.0.1"));
        assert_eq!(code_of(&answers[0]), 4, "{source} {cie:?}");
    }
    assert_eq!(network.stations[HUB].bindings, before);
}

#[test]
fn threat_31_what_counts_is_where_packets_come_from_not_what_they_claim() {
    let mut network = network();
    let body = message(MessageKind::RegistrationRequest, 9, holding(300));
    let claim = packet(body, "203.0.113.2", "10.0.0.44", "10.0.0.1");
    assert_eq!(code_of(&answers(&mut network, HUB, &claim)[0]), 0);
    let evil = network.stations[HUB].peer_to(EVIL).unwrap();
    assert_eq!(network.stations[HUB].bindings[&ip("10.0.0.44")].0, evil);
    let entries = network.stations[HUB].machine.entries(network.now);
    let entry = entries.iter().find(|entry| entry.overlay == ip("10.0.0.44")).unwrap();
    assert_eq!(entry.nbma, Some(ip("203.0.113.4")));
}

#[test]
fn threat_31_others_cannot_be_purged() {
    let mut network = network();
    let before = network.stations[HUB].bindings.clone();
    for prefix in [0, 1, 24, 32] {
        let cie = Cie { prefix, protocol: Some(ip("10.0.0.2")), ..Cie::default() };
        let body = message(MessageKind::PurgeRequest, 9, cie);
        for source in ["10.0.0.4", "10.0.0.2"] {
            let request = packet(body.clone(), "203.0.113.4", source, "10.0.0.1");
            let answers = answers(&mut network, HUB, &request);
            assert_eq!(answers[0].body.wire_type(), 6, "answered even if nothing matched");
        }
        let mut left = network.stations[HUB].bindings.clone();
        // A class that has its own address in it does take that one.
        left.remove(&ip("10.0.0.4"));
        let mut others = before.clone();
        others.remove(&ip("10.0.0.4"));
        assert_eq!(left, others);
    }
    let own = Cie { prefix: 32, protocol: Some(ip("10.0.0.2")), ..Cie::default() };
    let mut body =
        Message { kind: MessageKind::PurgeRequest, flags: flags::NO_REPLY, id: 3, entries: vec![own] };
    let from = network.stations[HUB].peer_to(1).unwrap();
    let request = packet(Body::Message(body.clone()), "203.0.113.2", "10.0.0.2", "10.0.0.1");
    assert_eq!(answers_to(&mut network, HUB, from, &request), []);
    assert!(!network.stations[HUB].bindings.contains_key(&ip("10.0.0.2")));
    body.flags = 0;
    let request = packet(Body::Message(body), "203.0.113.2", "10.0.0.2", "10.0.0.1");
    let answers = answers_to(&mut network, HUB, from, &request);
    assert!(matches!(&answers[0].body, Body::Message(Message { id: 3, kind: MessageKind::PurgeReply, .. })));
}

/// A reply to spoke 1 that says that `next_hop` at `nbma` has `destination/prefix`.
fn forged(id: u32, destination: &str, prefix: u8, next_hop: &str, nbma: &str) -> Packet {
    let cie = Cie {
        prefix,
        holding_time: 300,
        nbma: Some(ip(nbma)),
        protocol: Some(ip(next_hop)),
        ..Cie::default()
    };
    packet(message(MessageKind::ResolutionReply, id, cie), "203.0.113.2", "10.0.0.2", destination)
}

/// The id of the last resolution request of a station.
fn last_id(network: &Net, node: usize) -> u32 {
    let mut sent = network.sent.iter().rev();
    let (_, _, bytes) = sent.find(|(_, sender, bytes)| *sender == node && bytes[17] == 1).unwrap();
    u32::from_be_bytes(bytes[24..28].try_into().unwrap())
}

#[test]
fn threat_31_an_answer_needs_a_question() {
    let mut network = network();
    network.join(1, EVIL);
    let before = network.stations[1].bindings.clone();
    for id in 0..1000 {
        let reply = forged(id, "192.168.3.10", 24, "10.0.0.4", "203.0.113.4");
        answers(&mut network, 1, &reply);
    }
    let hub = network.stations[1].peer_to(HUB).unwrap();
    answers_to(&mut network, 1, hub, &forged(5, "192.168.3.10", 24, "10.0.0.4", "203.0.113.4"));
    assert_eq!(network.stations[1].bindings, before);
    assert_eq!(network.stations[1].machine.counters().refused, 1001);
    // With the right id, of a question about something else, or for somebody else.
    let far = network.stations[2].host();
    network.ping(1, far);
    let from_hub = network.stations[1].peer_to(HUB).unwrap();
    let indication = Body::Indication { code: 0, packet: inner(network.stations[1].host(), far) };
    let indication = packet(indication, "198.51.100.41", "10.0.0.1", "192.168.2.10");
    answers_to(&mut network, 1, from_hub, &indication);
    let id = last_id(&network, 1);
    answers(&mut network, 1, &forged(id, "192.168.9.10", 24, "10.0.0.4", "203.0.113.4"));
    answers(&mut network, 1, &forged(id, "192.168.3.10", 24, "10.0.0.3", "203.0.113.77"));
    assert!(network.stations[1].shortcuts.is_empty());
    network.run(SECOND);
    assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
}

#[test]
fn threat_31_an_answer_never_takes_more_than_what_was_asked_for() {
    for (prefix, becomes) in [(0, 32), (1, 16), (7, 16), (8, 16), (16, 16), (24, 24), (255, 32)] {
        let mut network = network();
        network.kill(2);
        let far = ip("192.168.3.10");
        let hub = network.stations[1].peer_to(HUB).unwrap();
        let indication = Body::Indication { code: 0, packet: inner(network.stations[1].host(), far) };
        let indication = packet(indication, "198.51.100.41", "10.0.0.1", "192.168.2.10");
        answers_to(&mut network, 1, hub, &indication);
        let id = last_id(&network, 1);
        answers_to(&mut network, 1, hub, &forged(id, "192.168.3.10", prefix, "10.0.0.4", "203.0.113.4"));
        let shortcuts = network.stations[1].machine.shortcuts(network.now);
        let lengths: Vec<_> = shortcuts.iter().map(|shortcut| shortcut.prefix.prefix()).collect();
        assert_eq!(lengths, [becomes], "/{prefix}, where our own route is a /16");
    }
}

#[test]
fn threat_31_answers_that_make_no_sense_are_not_used() {
    let attempts = [
        ("10.0.0.2", "203.0.113.4"),
        ("172.16.0.1", "203.0.113.4"),
        ("224.0.0.5", "203.0.113.4"),
        ("10.0.0.4", "0.0.0.0"),
        ("10.0.0.4", "127.0.0.1"),
        ("10.0.0.4", "224.0.0.5"),
        ("10.0.0.4", "203.0.113.2"),
    ];
    for (next_hop, nbma) in attempts {
        let mut network = network();
        network.kill(2);
        let hub = network.stations[1].peer_to(HUB).unwrap();
        let quoted = inner(network.stations[1].host(), ip("192.168.3.10"));
        let indication = Body::Indication { code: 0, packet: quoted };
        answers_to(&mut network, 1, hub, &packet(indication, "198.51.100.41", "10.0.0.1", "192.168.2.10"));
        let id = last_id(&network, 1);
        answers_to(&mut network, 1, hub, &forged(id, "192.168.3.10", 24, next_hop, nbma));
        let station = &network.stations[1];
        assert_eq!(station.machine.shortcuts(network.now), [], "{next_hop} at {nbma}");
        assert!(station.saw(|event| matches!(event, Event::ResolutionFailed { .. })));
    }
}

#[test]
fn threat_31_the_wrong_station_at_the_right_address_is_not_believed() {
    let mut network = network();
    network.kill(2);
    let hub = network.stations[1].peer_to(HUB).unwrap();
    let quoted = inner(network.stations[1].host(), ip("192.168.3.10"));
    let indication = Body::Indication { code: 0, packet: quoted };
    answers_to(&mut network, 1, hub, &packet(indication, "198.51.100.41", "10.0.0.1", "192.168.2.10"));
    let id = last_id(&network, 1);
    // 10.0.0.3 is said to be where 10.0.0.4 is: it has a path, but it does not lead to 10.0.0.3.
    answers_to(&mut network, 1, hub, &forged(id, "192.168.3.10", 24, "10.0.0.3", "203.0.113.4"));
    network.run(SECOND * 20);
    assert!(network.stations[1].peer_to(EVIL).is_some());
    assert!(!network.stations[1].bindings.contains_key(&ip("10.0.0.3")));
    assert!(network.stations[1].shortcuts.is_empty());
}

#[test]
fn threat_31_a_hub_does_not_pass_on_what_is_said_in_the_name_of_another() {
    let mut network = network();
    let request = message(MessageKind::ResolutionRequest, 9, holding(300));
    let spoofed = packet(request.clone(), "203.0.113.4", "10.0.0.2", "192.168.3.10");
    assert_eq!(answers(&mut network, HUB, &spoofed), []);
    let stranger = packet(request, "203.0.113.4", "10.0.0.99", "192.168.3.10");
    assert_eq!(answers(&mut network, HUB, &stranger), []);
    let reply = forged(9, "192.168.3.10", 24, "10.0.0.3", "203.0.113.4");
    assert_eq!(answers(&mut network, HUB, &reply), []);
    let evil = network.stations[HUB].peer_to(EVIL).unwrap();
    let misbehaved = Event::Misbehaved { peer: evil, how: Misbehavior::ForeignAddress };
    assert!(network.stations[HUB].saw(|event| *event == misbehaved));
}

#[test]
fn threat_31_only_who_carries_our_traffic_may_redirect_it() {
    let mut network = network();
    network.join(1, EVIL);
    let quoted = inner(network.stations[1].host(), network.stations[2].host());
    let forged =
        packet(Body::Indication { code: 0, packet: quoted }, "203.0.113.4", "10.0.0.4", "192.168.2.10");
    assert_eq!(answers(&mut network, 1, &forged), []);
    let evil = network.stations[1].peer_to(EVIL).unwrap();
    let misbehaved = Event::Misbehaved { peer: evil, how: Misbehavior::ForeignRedirect };
    assert!(network.stations[1].saw(|event| *event == misbehaved));
    // Nor does the hub make us resolve for a source that is not behind us.
    let hub = network.stations[1].peer_to(HUB).unwrap();
    let quoted = inner(ip("192.168.4.10"), network.stations[2].host());
    let foreign =
        packet(Body::Indication { code: 0, packet: quoted }, "198.51.100.41", "10.0.0.1", "10.0.0.2");
    assert_eq!(answers_to(&mut network, 1, hub, &foreign), []);
}

#[test]
fn threat_32_loops_end() {
    let mut network = network();
    let request = message(MessageKind::ResolutionRequest, 9, holding(300));
    for hop_count in [0, 1] {
        let tired =
            Packet { hop_count, ..packet(request.clone(), "203.0.113.4", "10.0.0.4", "192.168.3.10") };
        let answers = answers(&mut network, HUB, &tired);
        assert_eq!((answers.len(), answers[0].body.wire_type(), code_of(&answers[0])), (1, 7, 15));
    }
    let mut seen = packet(request.clone(), "203.0.113.4", "10.0.0.4", "192.168.3.10");
    let transit = seen.extension_mut(ExtensionKind::ForwardTransit).unwrap();
    transit.push(Cie { nbma: Some(ip("198.51.100.41")), protocol: Some(ip("10.0.0.1")), ..Cie::default() });
    let answers_seen = answers(&mut network, HUB, &seen);
    assert_eq!((answers_seen.len(), code_of(&answers_seen[0])), (1, 3));
    // A destination that leads back to who asks is not passed on to it.
    let back = packet(request.clone(), "203.0.113.4", "10.0.0.4", "192.168.4.10");
    let answers_back = answers(&mut network, HUB, &back);
    assert_eq!((answers_back[0].body.wire_type(), code_of(&answers_back[0])), (2, 12));
    // Our own request that comes back is dropped.
    let own = packet(request, "198.51.100.41", "10.0.0.1", "192.168.3.10");
    assert_eq!(answers(&mut network, HUB, &own), []);
}

#[test]
fn threat_32_the_ends_of_holding_times() {
    let mut network = network();
    let register = |holding_time| {
        let body = message(MessageKind::RegistrationRequest, 9, holding(holding_time));
        packet(body, "203.0.113.4", "10.0.0.50", "10.0.0.1")
    };
    assert_eq!(code_of(&answers(&mut network, HUB, &register(0))[0]), 0);
    assert!(!network.stations[HUB].bindings.contains_key(&ip("10.0.0.50")), "holds for no time");
    answers(&mut network, HUB, &register(65_535));
    network.run(SECOND * 65_530);
    assert!(network.stations[HUB].bindings.contains_key(&ip("10.0.0.50")));
    network.run(SECOND * 10);
    assert!(!network.stations[HUB].bindings.contains_key(&ip("10.0.0.50")));
    answers(&mut network, HUB, &register(1));
    answers(&mut network, HUB, &register(0));
    assert!(!network.stations[HUB].bindings.contains_key(&ip("10.0.0.50")), "taken back");
}

#[test]
fn threat_32_one_peer_cannot_fill_the_cache() {
    let mut network = network();
    let mut refused = 0;
    for last in 10..200 {
        let source = format!("10.0.0.{last}");
        let body = message(MessageKind::RegistrationRequest, 9, holding(300));
        let answers = answers(&mut network, HUB, &packet(body, "203.0.113.4", &source, "10.0.0.1"));
        refused += u32::from(code_of(&answers[0]) == 5);
    }
    assert_eq!(refused, 190 - 15);
    assert!(network.stations[HUB].saw(|event| *event == Event::LimitReached));
    assert_eq!(network.stations[HUB].bindings.len(), 3 + 15);
}

#[test]
fn threat_32_a_million_destinations_keep_memory_and_messages_bounded() {
    let mut network = network();
    network.stations[1].routes.via("10.0.0.0/8", "10.0.0.1");
    network.stations[1].routes.via("172.16.0.0/12", "10.0.0.1");
    let hub = network.stations[1].peer_to(HUB).unwrap();
    let host = network.stations[1].host();
    for number in 0..50_000_u32 {
        let destination = Ipv4Addr::from(u32::from(ip("172.16.0.0")) + number);
        let indication = Body::Indication { code: 0, packet: inner(host, destination) };
        let indication = packet(indication, "198.51.100.41", "10.0.0.1", "192.168.2.10");
        network.inject(1, hub, &indication.encode().unwrap());
    }
    let machine = &network.stations[1].machine;
    assert!(machine.entries(network.now).len() <= 1_024 + 8);
    assert!(machine.counters().limited > 48_000);
    network.run(SECOND * 60);
    assert!(network.stations[1].machine.entries(network.now).len() <= 2 * 1_024 + 8);
    // And it recovers.
    network.run(SECOND * 600);
    assert_eq!(network.stations[1].machine.entries(network.now).len(), 2);
    let far = network.stations[2].host();
    network.ping(1, far);
    network.run(SECOND);
    assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
}

#[test]
fn threat_32_redirects_are_limited_by_pair_and_by_peer() {
    let mut network = network();
    let from = network.stations[HUB].peer_to(1).unwrap();
    let redirect = |network: &mut Net, destination: Ipv4Addr| {
        let packet = inner(ip("192.168.2.10"), destination);
        let station = &mut network.stations[HUB];
        let input = Input::Redirect { from, packet: &packet };
        station.machine.handle(network.now, input, &station.routes);
        network.run(Duration::ZERO);
    };
    let before = network.stations[HUB].machine.counters().sent[8];
    for _ in 0..1000 {
        redirect(&mut network, ip("192.168.3.10"));
    }
    assert_eq!(network.stations[HUB].machine.counters().sent[8], before + 1);
    for last in 11..=250 {
        redirect(&mut network, Ipv4Addr::new(192, 168, 3, last));
    }
    assert!(network.stations[HUB].machine.counters().sent[8] <= before + 20);
    // Neither multicast, nor what goes back to where it came from, nor a LAN here.
    network.run(SECOND * 10);
    let before = network.stations[HUB].machine.counters().sent[8];
    for destination in ["224.0.0.5", "255.255.255.255", "192.168.2.11", "192.168.1.10", "8.8.8.8"] {
        redirect(&mut network, ip(destination));
    }
    assert_eq!(network.stations[HUB].machine.counters().sent[8], before);
}

#[test]
fn redirect_and_shortcut_each_take_effect() {
    let mut plain = nhrp(Vec::new(), Multicast::Dynamic);
    plain.redirect = false;
    let mut network = Net::new(2, 31, Weather::default());
    network.stations[HUB].machine = Machine::new(config("10.0.0.1/24", plain, 1));
    network.start();
    network.run(SECOND);
    let far = network.stations[2].host();
    for _ in 0..10 {
        assert_eq!(network.ping(1, far).unwrap(), [1, HUB, 2], "no redirects");
        network.run(SECOND);
    }
    let mut plain = nhrp(vec![hub_map()], Multicast::Nhs);
    plain.shortcut = false;
    let mut network = Net::new(2, 32, Weather::default());
    network.stations[1].machine = Machine::new(config("10.0.0.2/24", plain, 1));
    network.start();
    network.run(SECOND);
    for _ in 0..10 {
        assert_eq!(network.ping(1, far).unwrap(), [1, HUB, 2], "no shortcuts");
        network.run(SECOND);
    }
    assert!(network.stations[HUB].machine.counters().sent[8] > 0);
}

#[test]
fn a_responder_refuses_an_unknown_compulsory_extension_and_a_transit_passes_it_on() {
    let mut network = network();
    let unknown =
        Extension { compulsory: true, kind: ExtensionKind::Unknown(99), value: Value::Bytes(vec![1]) };
    let request = message(MessageKind::ResolutionRequest, 9, holding(300));
    let ask = |destination| {
        let mut request = packet(request.clone(), "203.0.113.4", "10.0.0.4", destination);
        request.extensions.push(unknown.clone());
        request
    };
    let refused = answers(&mut network, HUB, &ask("192.168.1.10"));
    assert_eq!((refused[0].body.wire_type(), code_of(&refused[0])), (7, 1));
    let passed = answers(&mut network, HUB, &ask("192.168.3.10"));
    assert_eq!(passed[0].body.wire_type(), 1);
    assert!(passed[0].extensions.contains(&unknown));
}

#[test]
fn a_route_to_nowhere_is_an_error_and_an_unknown_station_a_denial() {
    let mut network = network();
    let request = message(MessageKind::ResolutionRequest, 9, holding(300));
    let nowhere = packet(request.clone(), "203.0.113.4", "10.0.0.4", "8.8.8.8");
    let answer = answers(&mut network, HUB, &nowhere);
    assert_eq!((answer[0].body.wire_type(), code_of(&answer[0])), (7, 6));
    let unknown = packet(request, "203.0.113.4", "10.0.0.4", "10.0.0.77");
    let answer = answers(&mut network, HUB, &unknown);
    assert_eq!((answer[0].body.wire_type(), code_of(&answer[0])), (2, 12));
}

#[test]
fn who_has_only_a_default_route_answers_for_one_host() {
    let mut network = network();
    let default = net("0.0.0.0/0");
    network.stations[HUB].routes.set(default, crate::nhrp::Route::OffTunnel { prefix: default });
    let request = message(MessageKind::ResolutionRequest, 9, holding(300));
    let answer = answers(&mut network, HUB, &packet(request, "203.0.113.4", "10.0.0.4", "8.8.8.8"));
    let Body::Message(reply) = &answer[0].body else { panic!("{answer:?}") };
    assert_eq!(reply.entries[0].prefix, 32);
}

#[test]
fn a_packet_in_the_name_of_a_path_that_is_down_is_nothing() {
    let mut network = network();
    let body = message(MessageKind::RegistrationRequest, 9, holding(300));
    let request = packet(body, "203.0.113.4", "10.0.0.4", "10.0.0.1");
    assert_eq!(answers_to(&mut network, HUB, PeerId(4711), &request), []);
    assert_eq!(network.stations[HUB].machine.counters().refused, 1);
}

#[test]
fn the_key_is_not_in_the_debug_output_of_a_machine() {
    let network = network();
    let text = format!("{:?}", network.stations[1].machine);
    assert!(!text.contains("SECRET") && !text.contains("83, 69, 67, 82"));
    assert_eq!(format!("{:?}", Secret::new("SECRET")), "<secret>");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Threat 29: whatever authentic peers send, in whatever order, a machine does not panic, keeps its promises to the
    /// engine (the network asserts them) and comes to rest.
    #[test]
    fn threat_29_nothing_that_peers_send_breaks_a_machine(
        packets in prop::collection::vec((any_packet(), 0usize..3, 0usize..2, any::<bool>()), 1..40)
    ) {
        let mut network = network();
        network.join(1, EVIL);
        for (mut packet, sender, receiver, plausible) in packets {
            packet.extensions.retain(|extension| extension.kind != ExtensionKind::Authentication);
            packet.extensions.push(password("SECRET"));
            packet.extended = true;
            if plausible {
                packet.source = Ipv4Addr::new(10, 0, 0, packet.hop_count % 6);
                packet.destination = Ipv4Addr::new(192, 168, packet.source.octets()[3], 10);
            }
            let node = [HUB, 1][receiver];
            let others: Vec<_> = (0..=EVIL).filter_map(|other| network.stations[node].peer_to(other)).collect();
            let from = others[sender % others.len()];
            network.inject(node, from, &packet.encode().unwrap());
            network.run(SECOND / 3);
        }
        network.run(SECOND * 200);
        prop_assert!(network.stations[HUB].bindings.len() >= 2);
    }
}
