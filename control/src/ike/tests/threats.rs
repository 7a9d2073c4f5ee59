//! What attackers do: a stranger who can send (unauthenticated), one who holds the secret, and one on the
//! path who sees and repeats everything.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use dmvpn_config::model::{DhGroup, Profile};

use super::super::payload::{Chain, ChainBuilder, Exchange, Header, Id, Kind, Notify, Sa, notification};
use super::super::proposals::offer_ike;
use super::pair::{A, B, Datagram, End, Nat, Pair, TUNNEL, profile, with_dpd};
use crate::ike::{Counters, DownReason, Input, Limits, Machine, Output, Reason};
use crate::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const HUB: SocketAddrV4 = SocketAddrV4::new(A, 500);
const STRANGER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 66), 500);

/// A machine alone among strangers.
struct Hub {
    machine: Machine,
    now: Instant,
    jobs: Vec<crate::ike::DhJob>,
    notices: usize,
}

impl Hub {
    fn new() -> Self {
        let mut machine = Machine::new([3; 32], Limits::default());
        machine.set_profile(Instant::ZERO, TUNNEL, Arc::new(profile()), Some(A));
        Self { machine, now: Instant::from_micros(1_000_000), jobs: Vec::new(), notices: 0 }
    }

    /// What comes back for a datagram.
    fn send(&mut self, remote: SocketAddrV4, payload: &[u8]) -> Vec<Vec<u8>> {
        self.machine.handle(self.now, Input::Datagram { local: HUB, remote, payload: payload.to_vec() });
        self.drain()
    }

    fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Send { payload, .. } => sent.push(payload),
                Output::Dh(job) => self.jobs.push(job),
                Output::Event(_) => self.notices += 1,
            }
        }
        sent
    }

    fn run_jobs(&mut self) -> Vec<Vec<u8>> {
        for job in std::mem::take(&mut self.jobs) {
            self.machine.handle(self.now, Input::Dh(job.run()));
        }
        self.drain()
    }

    /// Time passes; what is sent meanwhile.
    fn wait(&mut self, time: Duration) -> Vec<Vec<u8>> {
        self.now = self.now + time;
        self.machine.handle_timeout(self.now);
        self.drain()
    }

    fn sas(&self) -> usize {
        self.machine.ike_sas(self.now).count()
    }

    fn counters(&self) -> Counters {
        *self.machine.counters()
    }
}

fn message(
    cookies: (u64, u64),
    exchange: Exchange,
    flags: u8,
    message_id: u32,
    chain: &ChainBuilder,
) -> Vec<u8> {
    Header { cookie_i: cookies.0, cookie_r: cookies.1, next: chain.first(), exchange, flags, message_id }
        .encode(&chain.encode())
}

fn first(cookie: u64, profile: &Profile) -> Vec<u8> {
    let mut chain = ChainBuilder::new();
    chain.push(Kind::SA, offer_ike(&profile.ike).encode());
    message((cookie, 0), Exchange::MAIN, 0, 0, &chain)
}

fn third(cookies: (u64, u64), public: &[u8], nonce: &[u8]) -> Vec<u8> {
    let mut chain = ChainBuilder::new();
    chain.push(Kind::KE, public).push(Kind::NONCE, nonce);
    message(cookies, Exchange::MAIN, 0, 0, &chain)
}

fn cookies_of(answer: &[u8]) -> (u64, u64) {
    let (header, _) = Header::decode(answer).unwrap();
    (header.cookie_i, header.cookie_r)
}

fn connected(a: &Profile, b: &Profile) -> Pair {
    let mut pair = Pair::new(a, b);
    pair.connect(1);
    pair.run(SECOND);
    pair.assert_connected();
    pair
}

/// The last message that an end has sent.
fn last_of(pair: &Pair, end: usize) -> Datagram {
    pair.log.iter().rev().find(|(_, from, _)| *from == end).unwrap().2.clone()
}

#[test]
fn t1_bad_headers_are_dropped_in_silence() {
    let mut hub = Hub::new();
    let good = first(7, &profile());
    for len in 0..64.min(good.len()) {
        assert!(hub.send(STRANGER, &good[..len]).is_empty());
    }
    for version in [0x00, 0x20, 0x30, 0xf0] {
        let mut bad = good.clone();
        bad[17] = version;
        assert!(hub.send(STRANGER, &bad).is_empty());
    }
    for length in [0, 1, 27, u32::try_from(good.len()).unwrap() + 1, u32::MAX] {
        let mut bad = good.clone();
        bad[24..28].copy_from_slice(&length.to_be_bytes());
        assert!(hub.send(STRANGER, &bad).is_empty());
    }
    assert_eq!((hub.sas(), hub.notices), (0, 0));
    assert_eq!(hub.counters().bad_header, hub.counters().received);
}

#[test]
fn t2_malformed_chains_leave_no_state() {
    let mut hub = Hub::new();
    let good = first(7, &profile());
    // Every length field of the chain and the SA, made too small, too large and larger than all.
    for at in 28..good.len() - 1 {
        for value in [0u16, 1, 3, 4, 0x7fff, 0xffff] {
            let mut bad = good.clone();
            bad[at..at + 2].copy_from_slice(&value.to_be_bytes());
            for answer in hub.send(STRANGER, &bad) {
                assert!(answer.len() <= bad.len());
            }
            hub.machine.remove_profile(hub.now, TUNNEL);
            hub.machine.set_profile(hub.now, TUNNEL, Arc::new(profile()), Some(A));
            hub.drain();
            assert_eq!(hub.sas(), 0);
        }
    }
    assert!(hub.counters().bad_payload > 50);
    // Twenty-one vendor identifiers, and fifty payloads of a type that nobody knows.
    for (kind, count) in [(Kind::VENDOR_ID, 21), (Kind(99), 50)] {
        let mut chain = ChainBuilder::new();
        chain.push(Kind::SA, offer_ike(&profile().ike).encode());
        for _ in 0..count {
            chain.push(kind, vec![1; 16]);
        }
        assert!(hub.send(STRANGER, &message((9, 0), Exchange::MAIN, 0, 0, &chain)).is_empty());
        assert_eq!(hub.sas(), 0);
    }
}

#[test]
fn t3_unknown_domains_and_payload_types_are_refused_without_state() {
    let mut hub = Hub::new();
    let good = first(7, &profile());
    for (at, value) in [(35, 2), (32, 0x80), (39, 3), (28, 15)] {
        let mut bad = good.clone();
        bad[at] = value;
        hub.send(STRANGER, &bad);
        assert_eq!(hub.sas(), 0, "byte {at}");
    }
    // Other exchanges than ours: base, authentication only, transaction, new group, any.
    for exchange in [0, 1, 3, 6, 33, 34, 37, 255] {
        let mut bad = good.clone();
        bad[18] = exchange;
        assert!(hub.send(STRANGER, &bad).is_empty());
    }
    assert_eq!(hub.sas(), 0);
}

#[test]
fn t4_probes_for_no_sa_are_not_answered() {
    let mut hub = Hub::new();
    let mut chain = ChainBuilder::new();
    let notify =
        Notify { protocol: 1, spi: vec![7; 16], kind: notification::R_U_THERE, data: vec![0, 0, 0, 1] };
    chain.push(Kind::NOTIFY, notify.encode());
    for flags in [0, 1, 3] {
        for cookies in [(7, 8), (7, 0), (0, 8), (0, 0)] {
            for exchange in [Exchange::INFORMATIONAL, Exchange::QUICK] {
                assert!(hub.send(STRANGER, &message(cookies, exchange, flags, 77, &chain)).is_empty());
            }
        }
    }
    assert_eq!((hub.sas(), hub.notices), (0, 0));
}

#[test]
fn t5_bad_public_values_start_no_computation() {
    for group in [DhGroup::Modp1024, DhGroup::Modp2048, DhGroup::Ecp256] {
        let mut profile = profile();
        profile.ike.proposals[0].dh_group = group;
        let mut hub = Hub::new();
        hub.machine.set_profile(hub.now, TUNNEL, Arc::new(profile.clone()), Some(A));
        let cookies = cookies_of(&hub.send(STRANGER, &first(7, &profile))[0]);
        let len = super::super::dh::public_len(group);
        let one = [vec![0; len - 1], vec![1]].concat();
        let mut bad = vec![vec![], vec![2], vec![2; len - 1], vec![2; len + 1]];
        if group != DhGroup::Ecp256 {
            bad.extend([vec![0; len], one, vec![0xff; len]]);
        }
        for public in bad {
            assert!(hub.send(STRANGER, &third(cookies, &public, &[1; 20])).is_empty());
            assert!(hub.jobs.is_empty(), "{group:?}");
        }
        for nonce in [0, 7, 257] {
            let public = [vec![0; len - 1], vec![9]].concat();
            assert!(hub.send(STRANGER, &third(cookies, &public, &vec![1; nonce])).is_empty());
            assert!(hub.jobs.is_empty());
        }
    }
    // A point off its curve shows only in the computation; nothing comes of it.
    let mut hub = Hub::new();
    let cookies = cookies_of(&hub.send(STRANGER, &first(7, &profile()))[0]);
    hub.send(STRANGER, &third(cookies, &[5; 64], &[1; 20]));
    assert_eq!(hub.jobs.len(), 1);
    assert!(hub.run_jobs().is_empty());
    assert_eq!(hub.sas(), 0);
}

#[test]
fn t6_a_flood_of_beginnings_is_bounded_and_does_not_keep_the_honest_out() {
    let mut hub = Hub::new();
    let limits = Limits::default();
    // From one address, and from one network.
    for n in 0..1000u64 {
        hub.send(STRANGER, &first(1000 + n, &profile()));
    }
    assert_eq!(hub.sas(), limits.half_open_per_source);
    // From forged addresses everywhere.
    for n in 0..40_000u32 {
        let source = SocketAddrV4::new(Ipv4Addr::from(0x0b00_0000 + n * 257), 500);
        hub.send(source, &first(100_000 + u64::from(n), &profile()));
    }
    assert_eq!(hub.sas(), limits.half_open);
    assert!(hub.counters().evicted > 20_000);
    // An honest end is let in, and having shown that it gets our answers, it stays.
    let honest = SocketAddrV4::new(B, 500);
    let cookies = cookies_of(&hub.send(honest, &first(5, &profile()))[0]);
    let public = {
        let mut other = connected(&profile(), &profile());
        let third = other.log.swap_remove(2).2.payload;
        let (header, body) = Header::decode(&third).unwrap();
        Chain::decode(header.next, body).unwrap().one(Kind::KE).unwrap().to_vec()
    };
    hub.send(honest, &third(cookies, &public, &[1; 20]));
    for n in 0..40_000u32 {
        let source = SocketAddrV4::new(Ipv4Addr::from(0x3000_0000 + n * 257), 500);
        hub.send(source, &first(900_000 + u64::from(n), &profile()));
    }
    assert_eq!(hub.run_jobs().len(), 1, "message 4 goes out");
    // All of it is gone after its time.
    hub.wait(Duration::from_secs(31));
    assert_eq!(hub.sas(), 0);
    assert_eq!(hub.machine.half_open.len(), 0);
    assert_eq!(hub.machine.poll_timeout(), None);
}

#[test]
fn t7_computations_for_strangers_are_bounded() {
    let mut hub = Hub::new();
    let limits = Limits::default();
    for n in 0..2000u32 {
        let source = SocketAddrV4::new(Ipv4Addr::from(0x0b00_0000 + (n / 8) * 257), 500);
        if let Some(answer) = hub.send(source, &first(1 + u64::from(n), &profile())).first() {
            hub.send(source, &third(cookies_of(answer), &[5; 64], &[1; 20]));
        }
    }
    assert_eq!(hub.jobs.len(), limits.dh_jobs);
    assert!(hub.jobs.iter().all(|job| !job.authenticated()));
    let of = |source| hub.jobs.iter().filter(|job| job.source() == source).count();
    assert!(hub.jobs.iter().all(|job| of(job.source()) <= limits.dh_jobs_per_source));
    // Refused and done jobs make room.
    let (refused, rest) = (hub.jobs.split_off(limits.dh_jobs / 2), std::mem::take(&mut hub.jobs));
    refused.into_iter().for_each(|job| hub.machine.handle(hub.now, Input::Dh(job.refuse())));
    hub.jobs = rest;
    hub.run_jobs();
    let answer = hub.send(STRANGER, &first(9999, &profile())).remove(0);
    hub.send(STRANGER, &third(cookies_of(&answer), &[5; 64], &[1; 20]));
    assert_eq!(hub.jobs.len(), 1);
}

#[test]
fn t8_nothing_is_amplified() {
    let mut hub = Hub::new();
    let mut other = profile();
    other.ike.proposals[0].dh_group = DhGroup::Modp1536;
    for question in [first(7, &profile()), first(8, &other)] {
        let answers = hub.send(STRANGER, &question);
        assert_eq!(answers.len(), 1);
        assert!(answers[0].len() <= question.len(), "{} for {}", answers[0].len(), question.len());
    }
    // Nothing is sent again of itself.
    for _ in 0..40 {
        assert!(hub.wait(SECOND).is_empty());
    }
    // What is repeated is answered a few times.
    let mut answered = 0;
    for _ in 0..100 {
        answered += hub.send(STRANGER, &first(9, &profile())).len();
    }
    assert!(answered <= 17, "{answered}");
}

#[test]
fn t9_aggressive_mode_gets_no_answer() {
    let mut hub = Hub::new();
    let mut chain = ChainBuilder::new();
    chain.push(Kind::SA, offer_ike(&profile().ike).encode());
    chain.push(Kind::KE, vec![5; 64]).push(Kind::NONCE, vec![1; 20]);
    chain.push(Kind::ID, Id::ipv4(B, 0).encode());
    assert!(hub.send(STRANGER, &message((7, 0), Exchange::AGGRESSIVE, 0, 0, &chain)).is_empty());
    assert_eq!((hub.sas(), hub.counters().aggressive_mode), (0, 1));
}

#[test]
fn t11_only_pre_shared_keys_are_a_method() {
    for method in [0u32, 2, 3, 4, 5, 65001] {
        let mut offer = offer_ike(&profile().ike);
        for attribute in &mut offer.proposals[0].transforms[0].attributes {
            if attribute.kind == 3 {
                *attribute = super::super::payload::Attribute::new(3, method);
            }
        }
        let mut hub = Hub::new();
        let mut chain = ChainBuilder::new();
        chain.push(Kind::SA, offer.encode());
        hub.send(STRANGER, &message((7, 0), Exchange::MAIN, 0, 0, &chain));
        assert_eq!((hub.sas(), hub.counters().no_proposal), (0, 1));
    }
}

#[test]
fn t12_answers_are_built_from_values() {
    let mut hub = Hub::new();
    let good = first(7, &profile());
    let answer = hub.send(STRANGER, &good).remove(0);
    let (header, body) = Header::decode(&answer).unwrap();
    let chain = Chain::decode(header.next, body).unwrap();
    // One proposal, one transform, and not a byte behind it.
    let sa = Sa::decode(chain.one(Kind::SA).unwrap()).unwrap();
    assert_eq!(sa, offer_ike(&profile().ike));
    assert_eq!(answer.len(), 28 + 4 + sa.encode().len());
}

#[test]
fn t13_fragments_are_not_put_together() {
    let mut hub = Hub::new();
    let cookies = cookies_of(&hub.send(STRANGER, &first(7, &profile()))[0]);
    for number in [0u8, 1, 2, 255] {
        for flags in [0u8, 1] {
            for cookies in [cookies, (8, 0), (8, 9)] {
                let mut chain = ChainBuilder::new();
                chain.push(Kind(132), [&[0, 1, number, flags][..], &[7; 400]].concat());
                assert!(hub.send(STRANGER, &message(cookies, Exchange::MAIN, flags, 0, &chain)).is_empty());
            }
        }
    }
    assert_eq!(hub.sas(), 1);
}

#[test]
fn t14_unprotected_notifications_stop_nothing() {
    for (kind, end) in [(notification::NO_PROPOSAL_CHOSEN, 1), (notification::PAYLOAD_MALFORMED, 0)] {
        let mut pair = Pair::new(&profile(), &profile());
        pair.connect(1);
        for _ in 0..12 {
            pair.run(Duration::from_millis(10));
            // Somebody who sees the cookies sends an error, and a delete, to either end all the time.
            let Some((_, _, seen)) = pair.log.last().cloned() else { continue };
            let cookies = cookies_of(&seen.payload);
            let mut chain = ChainBuilder::new();
            let notify = Notify { protocol: 1, spi: Vec::new(), kind, data: Vec::new() };
            chain.push(Kind::NOTIFY, notify.encode());
            chain.push(Kind::DELETE, super::super::payload::Delete::Isakmp(vec![cookies]).encode());
            let (from, to) = if end == 1 { (A, B) } else { (B, A) };
            let payload = message(cookies, Exchange::INFORMATIONAL, 0, 5, &chain);
            let (from, to) = (SocketAddrV4::new(from, 500), SocketAddrV4::new(to, 500));
            pair.inject(end, &Datagram { from, to, marker: false, payload });
        }
        pair.run(SECOND);
        pair.assert_connected();
    }
}

#[test]
fn t15_informational_messages_must_verify() {
    let mut pair = connected(&with_dpd(profile(), 10, 40), &profile());
    pair.run(Duration::from_secs(12));
    let probe = last_of(&pair, 0);
    // A fresh SA has not seen this one: every flipped bit makes it worthless, and harms nothing.
    let peer = pair.ends[0].peer();
    pair.deaf[1] = true;
    pair.input(0, Input::Disconnect { peer });
    let delete = last_of(&pair, 0);
    pair.run(SECOND);
    pair.deaf[1] = false;
    for original in [&probe, &delete] {
        for at in 28..original.payload.len() {
            let mut bad = original.clone();
            bad.payload[at] ^= 0x40;
            pair.inject(1, &bad);
        }
        let mut clear = original.clone();
        clear.payload[19] = 0;
        pair.inject(1, &clear);
    }
    assert!(pair.ends[1].down.is_empty());
    assert!(pair.ends[1].machine.counters().bad_hash > 0);
    // The real one still counts: nothing before has used up its identifier.
    pair.inject(1, &delete);
    assert_eq!(pair.ends[1].established(pair.now), 0);
}

#[test]
fn t16_replays_and_reflections_change_nothing() {
    let mut pair = connected(&with_dpd(profile(), 10, 40), &profile());
    pair.run(Duration::from_secs(25));
    let peer = pair.ends[1].peer();
    pair.input(1, Input::RekeyEsp { peer });
    pair.run(Duration::from_secs(40));
    let all: Vec<(usize, Datagram)> =
        pair.log.iter().map(|(_, from, datagram)| (*from, datagram.clone())).collect();
    let view = |pair: &Pair| {
        [0, 1].map(|end| {
            (pair.ends[end].inbound.clone(), pair.ends[end].outbound.clone(), pair.ends[end].up.clone())
        })
    };
    let before = view(&pair);
    let sent = pair.log.len();
    for (from, datagram) in &all {
        // To whom it was for, and back to its sender.
        pair.inject(1 - from, datagram);
        let reflected = Datagram { from: datagram.to, to: datagram.from, ..datagram.clone() };
        pair.inject(*from, &reflected);
    }
    assert_eq!(view(&pair), before);
    assert!(pair.log.len() - sent < all.len(), "few answers, and those are repetitions");
    pair.run(Duration::from_secs(60));
    pair.assert_connected();
    assert!(pair.ends.iter().all(|end| end.down.is_empty()));
    assert!(pair.ends[0].machine.counters().replayed > 0);
}

#[test]
fn t17_nothing_is_taken_after_the_end_of_the_sa() {
    use super::super::informational;
    use super::super::payload::Delete;
    let mut pair = connected(&profile(), &profile());
    let (now, spi) = (pair.now, *pair.ends[1].inbound.keys().next().unwrap());
    let status = pair.ends[1].machine.ike_sas(now).next().unwrap();
    let ours = if status.initiator { status.cookie_i } else { status.cookie_r };
    let before = pair.ends[0].inbound.clone();
    pair.ends[1].machine.with(now, ours, None, |context| {
        let mut rest = ChainBuilder::new();
        rest.push(Kind::DELETE, Delete::Isakmp(vec![(status.cookie_i, status.cookie_r)]).encode());
        rest.push(Kind::DELETE, Delete::Esp(vec![spi]).encode());
        rest.push(Kind::DELETE, Delete::Isakmp(vec![(1, 2)]).encode());
        rest.push(Kind::NOTIFY, vec![0; 3]);
        informational::send(context, rest);
    });
    pair.run(Duration::from_millis(50));
    assert_eq!(pair.ends[0].established(pair.now), 0, "the IKE SA is gone");
    assert_eq!(pair.ends[0].inbound, before, "the ESP SAs are not");
    // They are worth a new IKE SA.
    pair.run(Duration::from_secs(6));
    assert_eq!(pair.ends[0].established(pair.now), 1);
}

#[test]
fn t18_a_quick_mode_must_be_whole() {
    use super::super::proposals::offer_esp;
    let offer = offer_esp(&profile().esp, 0x1000, false).encode();
    let id = |address| Id::ipv4(address, 47).encode();
    let whole: [(Kind, Vec<u8>); 5] = [
        (Kind::SA, offer.clone()),
        (Kind::NONCE, vec![1; 20]),
        (Kind::KE, vec![5; 64]),
        (Kind::ID, id(B)),
        (Kind::ID, id(A)),
    ];
    let mut variants: Vec<Vec<(Kind, Vec<u8>)>> = Vec::new();
    for leave_out in 0..4 {
        variants.push(
            whole.iter().enumerate().filter(|(n, _)| *n != leave_out).map(|(_, p)| p.clone()).collect(),
        );
    }
    // Three identities, two SAs, one of them not in front, an empty nonce, the wrong ends.
    variants.push([&whole[..], &[(Kind::ID, id(A))]].concat());
    variants.push([&whole[..], &[(Kind::SA, offer.clone())]].concat());
    variants.push([&whole[1..2], &whole[..1], &whole[2..]].concat());
    variants.push([&whole[..1], &[(Kind::NONCE, vec![])], &whole[2..]].concat());
    variants.push([&whole[..3], &[(Kind::ID, id(A)), (Kind::ID, id(B))]].concat());
    // ESP without integrity, and an SPI that is reserved.
    let mut bare = offer_esp(&profile().esp, 0x1000, false);
    bare.proposals[0].transforms[0].attributes.retain(|attribute| attribute.kind != 5);
    variants.push([&[(Kind::SA, bare.encode())], &whole[1..]].concat());
    variants.push([&[(Kind::SA, offer_esp(&profile().esp, 255, false).encode())], &whole[1..]].concat());
    let mut pair = connected(&profile(), &profile());
    let before = pair.ends[0].inbound.clone();
    for payloads in &variants {
        let status = pair.ends[1].machine.ike_sas(pair.now).next().unwrap();
        let ours = if status.initiator { status.cookie_i } else { status.cookie_r };
        let now = pair.now;
        pair.ends[1].machine.with(now, ours, None, |context| {
            let mut rest = ChainBuilder::new();
            for (kind, body) in payloads {
                rest.push(*kind, body.clone());
            }
            context.send_raw(rest);
        });
        pair.run(SECOND);
        assert_eq!(pair.ends[0].inbound, before);
    }
    let counters = pair.ends[0].machine.counters();
    let refused =
        counters.bad_payload + counters.no_proposal + counters.bad_identity + counters.bad_key_exchange;
    assert_eq!(refused, u64::try_from(variants.len()).unwrap());
    pair.assert_connected();
}

#[test]
fn t19_another_peer_cannot_harm_by_identity_or_initial_contact() {
    // Two spokes with the same identity behind different addresses: the second says INITIAL-CONTACT.
    let mut pair = connected(&profile(), &profile());
    let mut second = Pair::seeded(9, &profile(), &profile());
    std::mem::swap(&mut pair.ends[0], &mut second.ends[0]);
    second.now = pair.now;
    second.nats[1] = Some(Nat::new(Ipv4Addr::new(192, 0, 2, 99)));
    second.connect(1);
    second.run(SECOND);
    second.assert_connected();
    std::mem::swap(&mut pair.ends[0], &mut second.ends[0]);
    pair.now = second.now;
    assert_eq!(pair.ends[0].identities, [B.to_string(), B.to_string()], "one identity");
    assert_eq!(pair.ends[0].up.len(), 2, "two peers");
    let (spi, sa) = pair.ends[1].outbound.last().unwrap();
    assert_eq!(pair.ends[0].inbound.get(spi).map(|sa| &sa.keys), Some(&sa.keys), "the first is not harmed");
}

#[test]
fn t20_a_peer_without_a_nat_does_not_move() {
    let mut pair = connected(&profile(), &profile());
    let peer = pair.ends[0].peer();
    pair.input(0, Input::PeerMoved { peer, to: STRANGER });
    assert_eq!(pair.ends[0].up[&peer].remote, B);
    // Nor does a fresh message of its own from elsewhere move it.
    pair.deaf[0] = true;
    let other = pair.ends[1].peer();
    pair.input(1, Input::Disconnect { peer: other });
    let mut elsewhere = last_of(&pair, 1);
    elsewhere.from = STRANGER;
    pair.inject(0, &elsewhere);
    assert_eq!(pair.ends[0].up[&peer].remote, B);
    assert!(pair.ends[0].down.is_empty());
}

#[test]
fn t20_a_replayed_message_from_elsewhere_does_not_move_a_peer_behind_a_nat() {
    let mut pair = Pair::new(&profile(), &with_dpd(profile(), 5, 30));
    pair.nats[1] = Some(Nat::new(Ipv4Addr::new(192, 0, 2, 2)));
    pair.connect(1);
    pair.run(Duration::from_secs(8));
    let peer = pair.ends[0].peer();
    let before = pair.ends[0].up[&peer];
    let old: Vec<Datagram> = pair
        .log
        .iter()
        .filter(|(_, from, d)| *from == 1 && d.payload.len() > 1)
        .map(|(_, _, d)| d.clone())
        .collect();
    for datagram in old {
        pair.inject(0, &Datagram { from: SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 7777), ..datagram });
    }
    assert_eq!(pair.ends[0].up[&peer], before);
}

#[test]
fn t20_an_spi_of_the_peers_own_that_comes_back_deletes_nothing() {
    let mut pair = connected(&profile(), &profile());
    // Who sees our ESP knows the SPI that the peer receives by, and can send it to us in the peer's name.
    let spi = pair.ends[0].outbound[0].0;
    pair.input(0, Input::UnknownSpi { spi, remote: B });
    pair.run(SECOND);
    pair.assert_connected();
}

#[test]
fn t21_peers_at_one_address_are_bounded() {
    let mut pair = Pair::new(&profile(), &profile());
    let limits = Limits { peers_per_address: 1, ..Limits::default() };
    pair.ends[0].machine = Machine::new([1; 32], limits);
    pair.ends[0].machine.set_profile(pair.now, TUNNEL, Arc::new(profile()), Some(A));
    pair.nats[1] = Some(Nat::new(Ipv4Addr::new(192, 0, 2, 2)));
    pair.connect(1);
    pair.run(SECOND);
    pair.assert_connected();
    // Somebody else behind the same NAT.
    pair.ends[1] = End::new(78, B, &profile());
    pair.nats[1].as_mut().unwrap().reboot();
    pair.connect(1);
    pair.run(SECOND);
    assert_eq!(pair.ends[0].up.len(), 1);
    assert!(pair.ends[0].failures().contains(&Reason::Limit));
}

#[test]
fn t21_a_peer_cannot_grow() {
    let mut pair = connected(&profile(), &profile());
    for n in 0..60 {
        let peer = pair.ends[1].peer();
        pair.input(1, if n % 3 == 0 { Input::RekeyIke { peer } } else { Input::RekeyEsp { peer } });
        pair.run(Duration::from_millis(700));
        for end in &pair.ends {
            assert!(end.inbound.len() <= 9 && end.machine.ike_sas(pair.now).count() <= 5);
        }
    }
    pair.run(Duration::from_secs(60));
    pair.assert_connected();
}

#[test]
fn t22_an_sa_may_die_at_every_step() {
    // The profile goes away after each event of the establishment, with computations under way.
    for step in 0..12 {
        for end in 0..2 {
            let mut pair = Pair::new(&profile(), &profile());
            pair.connect(1);
            pair.run(Duration::from_millis(20) * step);
            let now = pair.now;
            pair.ends[end].machine.remove_profile(now, TUNNEL);
            pair.run(Duration::from_secs(200));
            assert!(pair.ends[end].up.is_empty() && pair.ends[end].inbound.is_empty());
            assert_eq!(pair.ends[end].machine.ike_sas(pair.now).count(), 0);
            assert!(pair.ends[end].down.iter().all(|reason| *reason == DownReason::Reconfigured));
        }
    }
    // A computation that ends after its SA is gone.
    let mut hub = Hub::new();
    let cookies = cookies_of(&hub.send(STRANGER, &first(7, &profile()))[0]);
    hub.send(STRANGER, &third(cookies, &[5; 64], &[1; 20]));
    hub.wait(Duration::from_secs(31));
    assert_eq!(hub.sas(), 0);
    assert!(hub.run_jobs().is_empty());
}
