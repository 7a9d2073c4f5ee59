//! Two honest ends come together, stay together and part.

use std::time::Duration;

use dmvpn_config::model::{DhGroup, Encryption, EspMode, EspProposal, Hash, IkeProposal, Secret};
use dmvpn_tables::Mode;

use super::pair::{A, B, Nat, Pair, TUNNEL, Weather, profile, with_dpd};
use crate::ike::{DownReason, Input, Reason};

const SECOND: Duration = Duration::from_secs(1);
const NAT_A: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 2, 1);
const NAT_B: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 2, 2);

const ENCRYPTIONS: [Encryption; 4] =
    [Encryption::Aes128, Encryption::Aes192, Encryption::Aes256, Encryption::TripleDes];
const HASHES: [Hash; 5] = [Hash::Md5, Hash::Sha1, Hash::Sha256, Hash::Sha384, Hash::Sha512];

/// A pair of ends that have found each other.
fn connected(a: &dmvpn_config::model::Profile, b: &dmvpn_config::model::Profile) -> Pair {
    let mut pair = Pair::new(a, b);
    pair.connect(1);
    pair.run(SECOND);
    pair.assert_connected();
    pair
}

#[test]
fn nine_messages_make_a_path() {
    let mut pair = Pair::new(&profile(), &profile());
    pair.connect(1);
    pair.run(SECOND);
    pair.assert_connected();
    assert_eq!(pair.log.len(), 9);
    assert_eq!(pair.ends[0].identities, [B.to_string()]);
    assert_eq!(pair.ends[1].identities, [A.to_string()]);
    let (_, sa) = &pair.ends[1].outbound[0];
    assert_eq!(sa.mode, Mode::Tunnel { source: B, destination: A });
    assert_eq!(pair.ends[0].outbound[0].1.mode, Mode::Tunnel { source: A, destination: B });
    let inbound = pair.ends[0].inbound.values().next().unwrap();
    assert_eq!(inbound.mode, Mode::Tunnel { source: B, destination: A });
    assert_eq!(inbound.endpoints.udp, None);
    assert!(pair.ends.iter().all(|end| end.failures().is_empty() && end.failed.is_empty()));
    // Asking again changes nothing.
    pair.connect(1);
    pair.connect(0);
    pair.run(SECOND);
    assert_eq!(pair.log.len(), 9);
}

#[test]
fn every_phase_1_suite() {
    for encryption in ENCRYPTIONS {
        for hash in HASHES {
            let mut profile = profile();
            profile.ike.proposals = vec![IkeProposal { encryption, hash, dh_group: DhGroup::Ecp256 }];
            let pair = connected(&profile, &profile);
            let status = pair.ends[0].machine.ike_sas(pair.now).next().unwrap();
            assert_eq!(status.proposal, Some(profile.ike.proposals[0]));
            assert_eq!(status.state, "established");
        }
    }
}

#[test]
fn every_phase_2_suite_in_both_modes() {
    let cbc = ENCRYPTIONS.iter().flat_map(|encryption| HASHES.map(|hash| (*encryption, Some(hash))));
    let gcm = [(Encryption::Aes128Gcm128, None), (Encryption::Aes256Gcm128, None)];
    for (encryption, hash) in cbc.chain(gcm) {
        for mode in [EspMode::Tunnel, EspMode::Transport] {
            let mut profile = profile();
            profile.esp.mode = mode;
            profile.esp.pfs = None;
            profile.esp.proposals = vec![EspProposal { encryption, hash }];
            let pair = connected(&profile, &profile);
            let transport = pair.ends[0].outbound[0].1.mode == Mode::Transport;
            assert_eq!(transport, mode == EspMode::Transport);
            let status = pair.ends[0].machine.esp_sas(pair.now).next().unwrap();
            assert_eq!(status.proposal, profile.esp.proposals[0]);
            assert!(status.sending && !status.pfs);
        }
    }
}

#[test]
fn every_group_in_both_phases() {
    for group in [
        DhGroup::Modp1024,
        DhGroup::Modp1536,
        DhGroup::Modp2048,
        DhGroup::Modp3072,
        DhGroup::Modp4096,
        DhGroup::Modp6144,
        DhGroup::Modp8192,
        DhGroup::Ecp256,
        DhGroup::Ecp384,
        DhGroup::Ecp521,
    ] {
        let mut profile = profile();
        profile.ike.proposals[0].dh_group = group;
        profile.esp.pfs = Some(group);
        connected(&profile, &profile);
    }
}

#[test]
fn the_responders_order_decides_among_what_is_offered() {
    let proposal = |encryption, hash| IkeProposal { encryption, hash, dh_group: DhGroup::Ecp256 };
    let esp = |encryption, hash| EspProposal { encryption, hash: Some(hash) };
    let (mut a, mut b) = (profile(), profile());
    b.ike.proposals = vec![
        proposal(Encryption::TripleDes, Hash::Md5),
        proposal(Encryption::Aes128, Hash::Sha1),
        proposal(Encryption::Aes256, Hash::Sha256),
    ];
    a.ike.proposals = vec![
        proposal(Encryption::Aes256, Hash::Sha512),
        proposal(Encryption::Aes256, Hash::Sha256),
        proposal(Encryption::Aes128, Hash::Sha1),
    ];
    b.esp.proposals = vec![esp(Encryption::TripleDes, Hash::Md5), esp(Encryption::Aes256, Hash::Sha1)];
    a.esp.proposals = vec![esp(Encryption::Aes256, Hash::Sha1), esp(Encryption::TripleDes, Hash::Md5)];
    let pair = connected(&a, &b);
    for end in &pair.ends {
        let status = end.machine.ike_sas(pair.now).next().unwrap();
        assert_eq!(status.proposal, Some(a.ike.proposals[1]));
        assert_eq!(end.machine.esp_sas(pair.now).next().unwrap().proposal, a.esp.proposals[0]);
    }
}

#[test]
fn a_responder_takes_either_mode() {
    let (mut a, mut b) = (profile(), profile());
    a.esp.mode = EspMode::Tunnel;
    b.esp.mode = EspMode::Transport;
    let pair = connected(&a, &b);
    assert_eq!(pair.ends[0].outbound[0].1.mode, Mode::Transport);
    std::mem::swap(&mut a, &mut b);
    let pair = connected(&a, &b);
    assert_eq!(pair.ends[0].outbound[0].1.mode, Mode::Tunnel { source: A, destination: B });
}

#[test]
fn a_spoke_behind_a_nat_floats_to_port_4500() {
    let mut profile = profile();
    profile.esp.mode = EspMode::Transport;
    let mut pair = Pair::new(&profile, &profile);
    pair.nats[1] = Some(Nat::new(NAT_B));
    pair.connect(1);
    pair.run(SECOND);
    pair.assert_connected();
    let nat_port = pair.nats[1].as_ref().unwrap().ports[&4500];
    let at_hub = pair.ends[0].outbound[0].1.endpoints;
    assert_eq!(
        (at_hub.remote, at_hub.udp.unwrap().remote, at_hub.udp.unwrap().local),
        (NAT_B, nat_port, 4500)
    );
    let at_spoke = pair.ends[1].outbound[0].1.endpoints;
    assert_eq!((at_spoke.remote, at_spoke.udp.unwrap().remote), (A, 4500));
    // Its identity is the address it has, not the one it is seen at.
    assert_eq!(pair.ends[0].identities, [B.to_string()]);
    let status = pair.ends[0].machine.ike_sas(pair.now).next().unwrap();
    assert!(status.nat_remote && !status.nat_local);
    // It keeps its NAT awake: the other end has no reason to.
    pair.run(Duration::from_secs(65));
    let keepalives: Vec<usize> = pair
        .log
        .iter()
        .filter(|(_, _, datagram)| datagram.payload == [0xff])
        .map(|(_, end, _)| *end)
        .collect();
    assert_eq!(keepalives, [1, 1, 1]);
    assert!(
        pair.log.iter().all(|(_, _, datagram)| datagram.marker
            == (datagram.from.port() == 4500 && datagram.payload != [0xff]))
    );
}

#[test]
fn nats_on_either_side_or_both() {
    for (a, b, from) in [(true, false, 0), (true, true, 1), (false, true, 1)] {
        for mode in [EspMode::Tunnel, EspMode::Transport] {
            let mut profile = profile();
            profile.esp.mode = mode;
            let mut pair = Pair::new(&profile, &profile);
            pair.nats[0] = a.then(|| Nat::new(NAT_A));
            pair.nats[1] = b.then(|| Nat::new(NAT_B));
            if a && from == 1 {
                // A hub behind a NAT is reached by ports forwarded to it.
                pair.nats[0].as_mut().unwrap().ports.extend([(500, 500), (4500, 4500)]);
            }
            pair.connect(from);
            pair.run(SECOND);
            pair.assert_connected();
            assert!(pair.ends.iter().all(|end| end.outbound[0].1.endpoints.udp.is_some()));
        }
    }
}

#[test]
fn a_nat_that_forgets_its_ports_is_followed() {
    let profile = with_dpd(profile(), 10, 60);
    let mut pair = Pair::new(&profile, &profile);
    pair.nats[1] = Some(Nat::new(NAT_B));
    pair.connect(1);
    pair.run(SECOND);
    let before = pair.ends[0].peer();
    pair.nats[1].as_mut().unwrap().reboot();
    // The spoke's probe comes from a new port; the hub sees that it is the spoke, and follows.
    pair.run(Duration::from_secs(30));
    let port = pair.nats[1].as_ref().unwrap().ports[&4500];
    assert_eq!(pair.ends[0].up[&before].udp.unwrap().remote, port);
    assert_eq!(pair.ends[0].machine.counters().peers_moved, 1);
    pair.run(Duration::from_secs(120));
    assert!(pair.ends.iter().all(|end| end.down.is_empty()));
    pair.assert_connected();
}

#[test]
fn esp_from_a_new_port_moves_the_peer_too() {
    let mut pair = Pair::new(&profile(), &profile());
    pair.nats[1] = Some(Nat::new(NAT_B));
    pair.connect(1);
    pair.run(SECOND);
    let peer = pair.ends[0].peer();
    let to = std::net::SocketAddrV4::new(NAT_B, 55_555);
    pair.input(0, Input::PeerMoved { peer, to });
    assert_eq!(pair.ends[0].up[&peer].udp.unwrap().remote, 55_555);
}

#[test]
fn two_spokes_behind_one_nat_are_two_peers() {
    let mut pair = Pair::new(&profile(), &profile());
    pair.nats[1] = Some(Nat::new(NAT_B));
    pair.connect(1);
    pair.run(SECOND);
    // The other spoke has another address inside, and the same one outside.
    let mut second = Pair::seeded(9, &profile(), &profile());
    second.nats[1] = Some(Nat { next: 50_000, ..Nat::new(NAT_B) });
    std::mem::swap(&mut pair.ends[0], &mut second.ends[0]);
    second.now = pair.now;
    second.connect(1);
    second.run(SECOND);
    assert_eq!(second.ends[0].up.len(), 2);
    assert_eq!(second.ends[0].outbound.len(), 2);
    second.assert_connected();
}

#[test]
fn bad_weather_only_takes_longer() {
    for seed in 0..100 {
        let mut pair = Pair::seeded(seed, &profile(), &profile());
        pair.weather = Weather { loss: 25, duplication: 20, reordering: 30 };
        pair.connect(1);
        if seed.is_multiple_of(2) {
            pair.connect(0);
        }
        pair.run(Duration::from_secs(60));
        pair.assert_connected();
        assert!(pair.ends.iter().all(|end| end.failed.is_empty()), "seed {seed}");
    }
}

#[test]
fn both_ends_may_begin_at_once() {
    for seed in 0..20 {
        let mut pair = Pair::seeded(seed, &profile(), &profile());
        pair.connect(0);
        pair.connect(1);
        pair.run(SECOND * 2);
        pair.assert_connected();
        pair.run(Duration::from_secs(120));
        pair.assert_connected();
        // One of the two IKE SAs is gone by now; of the ESP SAs, the pair that lost stays until the next ones.
        for end in &pair.ends {
            assert_eq!(end.established(pair.now), 1, "seed {seed}");
            assert!((1..=2).contains(&end.inbound.len()), "seed {seed}");
            assert!(end.down.is_empty() && end.up.len() == 1);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = |seed| {
        let mut pair = Pair::seeded(seed, &with_dpd(profile(), 10, 30), &profile());
        pair.weather = Weather { loss: 10, duplication: 10, reordering: 10 };
        pair.connect(1);
        pair.run(Duration::from_secs(4000));
        pair.log
    };
    let first = run(3);
    assert!(first.len() > 20);
    assert!(first == run(3));
    assert!(first != run(4));
}

#[test]
fn another_secret_on_the_other_side() {
    let (a, mut b) = (profile(), profile());
    b.secret = Secret::new("OTHER");
    let mut pair = Pair::new(&a, &b);
    pair.connect(1);
    pair.run(Duration::from_secs(60));
    assert!(pair.ends.iter().all(|end| end.up.is_empty()));
    assert_eq!(pair.ends[1].failed, [Reason::Secret]);
    assert!(pair.ends[0].failures().iter().all(|reason| *reason == Reason::Secret));
    assert!(pair.ends[0].machine.counters().bad_secret > 0);
    assert_eq!(pair.ends[0].machine.ike_sas(pair.now).count(), 0);
}

#[test]
fn a_peers_own_secret_goes_before_the_profiles() {
    let (mut a, mut b) = (profile(), profile());
    a.peer_secrets = vec![("203.0.113.2/32".parse().unwrap(), Secret::new("between us two"))];
    b.secret = Secret::new("between us two");
    connected(&a, &b);
}

#[test]
fn nothing_in_common() {
    let (a, mut b) = (profile(), profile());
    b.ike.proposals[0].hash = Hash::Sha512;
    let mut pair = Pair::new(&a, &b);
    pair.connect(1);
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.ends[1].failed, [Reason::NoProposal]);
    assert!(pair.ends[0].failures().contains(&Reason::NoProposal));

    let mut b = profile();
    b.esp.pfs = Some(DhGroup::Ecp384);
    let mut pair = Pair::new(&a, &b);
    pair.connect(1);
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.ends[1].failed, [Reason::Refused(14)]);
    assert!(pair.ends.iter().all(|end| end.inbound.is_empty() && end.outbound.is_empty()));
}

#[test]
fn nobody_there() {
    let mut pair = Pair::new(&profile(), &profile());
    pair.deaf[0] = true;
    pair.connect(1);
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.ends[1].failed, [Reason::Timeout]);
    assert_eq!(pair.ends[1].machine.poll_timeout(), None);
    assert_eq!(pair.log.len(), 7);
}

#[test]
fn who_waits_for_the_peers_own_quick_mode_hears_of_its_end() {
    let mut pair = Pair::new(&profile(), &profile());
    pair.connect(1);
    while pair.ends[0].inbound.is_empty() {
        pair.run(Duration::from_millis(1));
    }
    // The hub wants the path that is about to come, and the spoke is gone.
    pair.deaf = [true; 2];
    pair.connect(0);
    pair.run(Duration::from_secs(60));
    assert!(pair.ends[0].outbound.is_empty() && pair.ends[0].inbound.is_empty());
    assert_eq!(pair.ends[0].failed, [Reason::Timeout]);
}

#[test]
fn a_tunnel_without_an_address_or_profile_fails_at_once() {
    let mut pair = Pair::new(&profile(), &profile());
    pair.ends[1].machine.set_profile(pair.now, TUNNEL, std::sync::Arc::new(profile()), None);
    pair.connect(1);
    pair.ends[1].machine.remove_profile(pair.now, TUNNEL);
    pair.connect(1);
    assert_eq!(pair.ends[1].failed, [Reason::NotConfigured, Reason::NotConfigured]);
    assert!(pair.log.is_empty());
}

#[test]
fn leave_is_taken_in_order() {
    for from in 0..2 {
        let mut pair = connected(&profile(), &profile());
        let before = pair.log.len();
        let peer = pair.ends[from].peer();
        pair.input(from, Input::Disconnect { peer });
        pair.run(SECOND);
        assert_eq!(pair.log.len() - before, 2, "ESP, then IKE");
        assert_eq!(pair.ends[from].down, [DownReason::Disconnected]);
        assert_eq!(pair.ends[1 - from].down, [DownReason::Deleted]);
        for end in &pair.ends {
            assert!(end.inbound.is_empty() && end.outbound.is_empty());
            assert_eq!(end.machine.ike_sas(pair.now).count(), 0);
            assert_eq!(end.machine.poll_timeout(), None);
        }
        pair.connect(from);
        pair.run(SECOND);
        pair.assert_connected();
    }
}

#[test]
fn a_lost_delete_is_noticed() {
    let mut pair = connected(&with_dpd(profile(), 10, 30), &profile());
    let peer = pair.ends[1].peer();
    pair.weather.loss = 100;
    pair.input(1, Input::Disconnect { peer });
    pair.run(SECOND);
    pair.weather.loss = 0;
    pair.run(Duration::from_secs(40));
    assert_eq!(pair.ends[0].down, [DownReason::Unresponsive]);
    assert!(pair.ends[0].inbound.is_empty() && pair.ends[0].outbound.is_empty());
}

#[test]
fn a_dead_peer_is_detected_in_time_and_a_living_one_is_not() {
    let mut pair = connected(&with_dpd(profile(), 10, 30), &profile());
    pair.run(Duration::from_secs(300));
    assert!(pair.ends.iter().all(|end| end.down.is_empty()));
    assert!(pair.ends[0].machine.counters().dpd_probes >= 25);
    pair.deaf[1] = true;
    pair.run(Duration::from_secs(18));
    assert!(pair.ends[0].down.is_empty());
    pair.run(Duration::from_secs(15));
    assert_eq!(pair.ends[0].down, [DownReason::Unresponsive]);
    assert_eq!(pair.ends[0].machine.counters().dpd_dead, 1);
}

#[test]
fn esp_traffic_makes_probes_unnecessary() {
    let mut pair = connected(&with_dpd(profile(), 10, 30), &profile());
    let peer = pair.ends[0].peer();
    for _ in 0..30 {
        pair.run(Duration::from_secs(5));
        pair.input(0, Input::Alive { peer });
    }
    assert_eq!(pair.ends[0].machine.counters().dpd_probes, 0);
}

#[test]
fn a_doubt_is_settled_without_configuration() {
    let mut pair = connected(&profile(), &profile());
    let peer = pair.ends[0].peer();
    pair.input(0, Input::Probe { peer });
    pair.run(Duration::from_secs(60));
    assert!(pair.ends[0].down.is_empty());
    pair.deaf[1] = true;
    pair.input(0, Input::Probe { peer });
    pair.run(Duration::from_secs(15));
    assert_eq!(pair.ends[0].down, [DownReason::Unresponsive]);
}

#[test]
fn a_changed_profile_takes_its_peers_down() {
    let mut pair = connected(&profile(), &profile());
    let mut changed = profile();
    changed.esp.lifetime = 900;
    pair.ends[0].machine.set_profile(pair.now, TUNNEL, std::sync::Arc::new(profile()), Some(A));
    pair.run(SECOND);
    assert!(pair.ends[0].down.is_empty(), "the same again is no change");
    pair.ends[0].machine.set_profile(pair.now, TUNNEL, std::sync::Arc::new(changed), Some(A));
    pair.run(SECOND);
    assert_eq!(pair.ends[0].down, [DownReason::Reconfigured]);
    assert_eq!(pair.ends[1].down, [DownReason::Deleted]);
}

#[test]
fn a_responder_may_grant_less_life() {
    use super::super::informational;
    use super::super::payload::{Attribute, ChainBuilder, Kind, Notify, notification};
    let mut pair = connected(&profile(), &profile());
    let remaining = |pair: &Pair| pair.ends[1].machine.ike_sas(pair.now).next().unwrap().remaining.as_secs();
    let grant = |pair: &mut Pair, seconds: u32| {
        let status = pair.ends[0].machine.ike_sas(pair.now).next().unwrap();
        let data =
            [Attribute::new(11, 1), Attribute::new(12, seconds)].iter().flat_map(Attribute::bytes).collect();
        let now = pair.now;
        pair.ends[0].machine.with(now, status.cookie_r, None, |context| {
            let notify =
                Notify { protocol: 1, spi: vec![0; 16], kind: notification::RESPONDER_LIFETIME, data };
            let mut rest = ChainBuilder::new();
            rest.push(Kind::NOTIFY, notify.encode());
            informational::send(context, rest);
        });
        pair.run(SECOND);
    };
    assert!(remaining(&pair) > 3500);
    grant(&mut pair, 600);
    assert!((590..600).contains(&remaining(&pair)));
    // More than there is does not count.
    grant(&mut pair, 86_400);
    assert!(remaining(&pair) < 600);
    // It is replaced in time.
    pair.run(Duration::from_secs(700));
    pair.assert_connected();
    assert!(pair.ends[1].machine.counters().ike_up >= 2);
    assert!(pair.ends.iter().all(|end| end.down.is_empty()));
}

#[test]
fn tunnels_that_share_an_address_are_told_apart_by_their_proposals() {
    use dmvpn_tables::TunnelId;
    let mut second = profile();
    second.ike.proposals[0].hash = Hash::Sha512;
    let mut pair = Pair::new(&profile(), &second);
    let now = pair.now;
    pair.ends[0].machine.set_profile(now, TunnelId(7), std::sync::Arc::new(second.clone()), Some(A));
    pair.connect(1);
    pair.run(SECOND);
    pair.assert_connected();
    assert_eq!(pair.ends[0].machine.ike_sas(pair.now).next().unwrap().tunnel, TunnelId(7));
}
