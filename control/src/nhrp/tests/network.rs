//! One hub and its spokes: what a tunnel has to do, in virtual time.

use std::time::Duration;

use dmvpn_config::{Multicast, NhrpMap};

use super::net::{HUB, Net, Station, Weather, config, hub_map, ip, net, nhrp};
use crate::nhrp::show::{EntryKind, NhsState};
use crate::nhrp::{Event, Kind, Machine, ResolutionFailure};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn spokes_register_and_stay_registered() {
    let mut network = Net::new(2, 1, Weather::default());
    network.start();
    network.run(SECOND);
    for spoke in [1, 2] {
        let station = &network.stations[spoke];
        assert!(station.saw(|event| matches!(event, Event::NhsUp { .. })));
        let servers = station.machine.next_hop_servers(network.now);
        assert_eq!(servers[0].state, NhsState::Up);
        assert_eq!(station.multicast.len(), 1);
        let overlay = station.overlay;
        assert_eq!(network.stations[HUB].bindings[&overlay].1, Kind::Dynamic);
    }
    assert_eq!(network.stations[HUB].multicast.len(), 2);
    let before = network.sent.len();
    network.run(SECOND * 1000);
    // A third of 300 seconds, a little less by jitter: request and reply of two spokes, 10 to 14 times.
    let messages = network.sent.len() - before;
    assert!((40..=56).contains(&messages), "{messages} messages in 1000 seconds");
    assert_eq!(network.stations[HUB].bindings.len(), 2);
    assert!(!network.stations[1].saw(|event| matches!(event, Event::NhsDown { .. })));
}

#[test]
fn a_redirect_makes_a_shortcut_both_ways_and_traffic_never_stops() {
    let mut network = Net::new(2, 2, Weather::default());
    network.start();
    network.run(SECOND);
    let (near, far) = (network.stations[1].host(), network.stations[2].host());
    for _ in 0..100 {
        assert!(network.ping(1, far).is_some());
        assert!(network.ping(2, near).is_some());
        network.run(SECOND / 100);
    }
    assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
    assert_eq!(network.ping(2, near).unwrap(), [2, 1]);
    let shortcuts = network.stations[1].machine.shortcuts(network.now);
    assert_eq!(shortcuts[0].prefix, net("192.168.3.0/24"));
    assert!(shortcuts[0].up);
    assert_eq!(network.stations[1].multicast.len(), 1, "multicast goes to the hub only");
}

#[test]
fn a_route_by_an_overlay_address_resolves_it_and_goes_direct() {
    let mut network = Net::new(2, 3, Weather::default());
    network.stations[1].routes.via("192.168.3.0/24", "10.0.0.3");
    network.start();
    network.run(SECOND);
    let far = network.stations[2].host();
    assert_eq!(network.ping(1, far).unwrap(), [1, HUB, 2], "by the hub meanwhile");
    network.run(SECOND);
    assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
    assert_eq!(network.stations[1].bindings[&ip("10.0.0.3")].1, Kind::Cached);
    assert!(network.stations[1].shortcuts.is_empty(), "the binding is enough");
    assert_eq!(network.stations[2].bindings[&ip("10.0.0.2")].1, Kind::Cached, "the other end learned us");
}

#[test]
fn a_shortcut_in_use_is_renewed_and_one_out_of_use_expires() {
    let mut network = Net::new(2, 4, Weather::default());
    network.start();
    network.run(SECOND);
    let far = network.stations[2].host();
    let mut hops = Vec::new();
    for second in 0..1000 {
        hops.push(network.ping(1, far).unwrap().len());
        network.run(SECOND);
        assert!(second < 2 || hops[second] == 2, "at {second} s");
    }
    assert!(!network.stations[1].saw(|event| matches!(event, Event::ShortcutDown { .. })));
    network.run(SECOND * 410);
    assert!(network.stations[1].shortcuts.is_empty());
    assert!(network.stations[1].bindings.contains_key(&ip("10.0.0.1")));
    assert_eq!(network.stations[1].bindings.len(), 1);
    assert_eq!(network.stations[2].bindings.len(), 1);
    assert_eq!(network.stations[1].machine.entries(network.now).len(), 2, "itself and the hub");
}

#[test]
fn without_the_hub_a_shortcut_lives_on_and_the_hub_that_comes_back_is_registered_with_again() {
    let mut network = Net::new(2, 5, Weather::default());
    network.start();
    network.run(SECOND);
    let far = network.stations[2].host();
    network.ping(1, far);
    network.run(SECOND);
    network.kill(HUB);
    network.run(SECOND * 5);
    network.peers_notice(HUB);
    assert!(network.stations[1].saw(|event| matches!(event, Event::NhsDown { .. })));
    for _ in 0..290 {
        assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
        network.run(SECOND);
    }
    // In use it is renewed with the station itself, hub or not.
    for _ in 0..300 {
        assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
        network.run(SECOND);
    }
    let hub = config("10.0.0.1/24", nhrp(Vec::new(), Multicast::Dynamic), 99);
    network.revive(HUB, Machine::new(hub));
    network.run(SECOND * 70);
    for spoke in [1, 2] {
        let servers = network.stations[spoke].machine.next_hop_servers(network.now);
        assert_eq!(servers[0].state, NhsState::Up);
    }
    assert_eq!(network.stations[HUB].bindings.len(), 2);
}

#[test]
fn without_the_hub_an_unused_shortcut_ends_with_its_holding_time() {
    let mut network = Net::new(2, 6, Weather::default());
    network.start();
    network.run(SECOND);
    let far = network.stations[2].host();
    network.ping(1, far);
    network.run(SECOND);
    network.kill(HUB);
    network.peers_notice(HUB);
    network.run(SECOND * 200);
    assert_eq!(network.stations[1].shortcuts.len(), 1);
    network.run(SECOND * 110);
    assert!(network.stations[1].shortcuts.is_empty());
}

#[test]
fn both_ends_at_once_end_with_a_path_that_works() {
    for double_paths in [false, true] {
        let mut network = Net::new(2, 7, Weather::default());
        network.double_paths = double_paths;
        network.start();
        network.run(SECOND);
        let (near, far) = (network.stations[1].host(), network.stations[2].host());
        network.ping(1, far);
        network.ping(2, near);
        network.run(SECOND);
        assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
        assert_eq!(network.ping(2, near).unwrap(), [2, 1]);
        if double_paths {
            // One of the two paths goes: the other serves.
            let bound = network.stations[1].bindings[&ip("10.0.0.3")].0;
            network.path_down(1, bound);
            assert_eq!(network.ping(1, far).unwrap().first(), Some(&1));
            network.run(SECOND);
            assert!(network.ping(1, far).is_some());
        }
    }
}

#[test]
fn a_spoke_behind_a_nat_gets_shortcuts_whoever_asks() {
    for asks in [1, 2] {
        let mut network = Net::new(2, 8, Weather::default());
        network.nat(2, "10.99.1.2", "203.0.113.33");
        network.start();
        network.run(SECOND);
        assert!(network.stations[2].saw(|event| *event == Event::BehindNat { public: ip("203.0.113.33") }));
        let entries = network.stations[HUB].machine.entries(network.now);
        let natted = entries.iter().find(|entry| entry.overlay == ip("10.0.0.3")).unwrap();
        assert_eq!(natted.nbma, Some(ip("203.0.113.33")));
        assert_eq!(natted.claimed, Some(ip("10.99.1.2")));
        let other = 3 - asks;
        let destination = network.stations[other].host();
        for _ in 0..20 {
            assert!(network.ping(asks, destination).is_some());
            network.run(SECOND);
        }
        assert_eq!(network.ping(asks, destination).unwrap(), [asks, other]);
    }
}

#[test]
fn two_spokes_behind_one_address_stay_on_the_way_by_the_hub() {
    let mut network = Net::new(3, 9, Weather::default());
    network.nat(2, "10.99.1.2", "203.0.113.33");
    network.nat(3, "10.99.1.3", "203.0.113.33");
    network.start();
    network.run(SECOND);
    assert_eq!(network.stations[HUB].bindings.len(), 3, "both are registered, each by its own path");
    let far = network.stations[3].host();
    for _ in 0..60 {
        assert_eq!(network.ping(2, far).unwrap(), [2, HUB, 3]);
        network.run(SECOND);
    }
    assert!(
        network.stations[2].saw(|event| matches!(
            event,
            Event::ResolutionFailed { why: ResolutionFailure::SharedAddress, .. }
        ))
    );
}

#[test]
fn a_new_underlay_address_is_registered_at_once() {
    let mut network = Net::new(1, 10, Weather::default());
    network.start();
    network.run(SECOND * 30);
    network.cut(HUB, 1);
    assert!(network.stations[HUB].bindings.is_empty());
    network.move_to(1, ip("203.0.113.77"));
    network.run(SECOND);
    let entries = network.stations[HUB].machine.entries(network.now);
    let spoke = entries.iter().find(|entry| entry.kind == EntryKind::Dynamic).unwrap();
    assert_eq!(spoke.nbma, Some(ip("203.0.113.77")));
}

#[test]
fn a_destination_that_nobody_has_is_left_alone_for_a_while() {
    let mut network = Net::new(1, 11, Weather::default());
    network.stations[1].routes.via("192.168.200.0/24", "10.0.0.200");
    network.start();
    network.run(SECOND);
    let before = network.sent.len();
    for _ in 0..300 {
        network.ping(1, ip("192.168.200.1"));
        network.run(SECOND / 10);
    }
    let requests = network.sent[before..].iter().filter(|(_, _, packet)| packet[17] == 1).count();
    assert!((3..=4).contains(&requests), "{requests} requests in 30 seconds");
    let entries = network.stations[1].machine.entries(network.now);
    assert!(entries.iter().any(|entry| entry.kind == EntryKind::Negative));
}

#[test]
fn fifty_spokes_converge_in_bad_weather() {
    for seed in 0..4 {
        let mut network = Net::new(50, seed * 1000, Weather { loss: 5, duplication: 5, reordering: true });
        network.start();
        network.run(SECOND * 20);
        assert_eq!(network.stations[HUB].bindings.len(), 50, "seed {seed}");
        assert_eq!(network.stations[HUB].multicast.len(), 50);
        let pairs: Vec<_> = (1..=50).map(|spoke| (spoke, spoke % 50 + 1)).collect();
        for _ in 0..40 {
            for (from, to) in &pairs {
                let host = network.stations[*to].host();
                assert!(network.ping(*from, host).is_some(), "seed {seed}: {from} to {to} is interrupted");
            }
            network.run(SECOND);
        }
        for (from, to) in pairs {
            let host = network.stations[to].host();
            assert_eq!(network.ping(from, host).unwrap(), [from, to], "seed {seed}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = |seed| {
        let mut network = Net::new(8, seed, Weather { loss: 10, duplication: 10, reordering: true });
        network.start();
        for round in 0..60 {
            let host = network.stations[round % 8 + 1].host();
            network.ping((round + 3) % 8 + 1, host);
            network.run(SECOND);
        }
        network.sent
    };
    assert!(run(5) == run(5));
    assert!(run(5) != run(6));
}

#[test]
fn a_station_that_shuts_down_is_forgotten_at_once() {
    let mut network = Net::new(2, 12, Weather::default());
    network.start();
    network.run(SECOND);
    let far = network.stations[2].host();
    network.ping(1, far);
    network.run(SECOND);
    assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
    network.shut_down(2);
    network.run(SECOND);
    assert!(!network.stations[HUB].bindings.contains_key(&ip("10.0.0.3")));
    assert!(network.stations[1].shortcuts.is_empty());
    assert_eq!(network.stations[1].bindings.len(), 1);
}

#[test]
fn a_second_hub_takes_over() {
    let mut network = Net::new(3, 13, Weather::default());
    let backup = NhrpMap { address: net("10.0.0.4/24"), nbma: ip("203.0.113.4"), register: true };
    network.stations[3].machine =
        Machine::new(config("10.0.0.4/24", nhrp(Vec::new(), Multicast::Dynamic), 3));
    for spoke in [1, 2] {
        let address = format!("10.0.0.{}/24", spoke + 1);
        let both = nhrp(vec![hub_map(), backup], Multicast::Nhs);
        network.stations[spoke].machine = Machine::new(config(&address, both, 40));
        let (lan, next_hop) = (network.stations[spoke].lan, network.stations[spoke].overlay);
        network.stations[3].routes.via(&lan.to_string(), &next_hop.to_string());
    }
    network.start();
    network.run(SECOND);
    assert_eq!(network.stations[1].multicast.len(), 2);
    network.kill(HUB);
    network.peers_notice(HUB);
    let far = network.stations[2].host();
    assert_eq!(network.ping(1, far).unwrap(), [1, 3, 2]);
    network.run(SECOND);
    assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
}

#[test]
fn a_configured_station_needs_no_hub() {
    let mut network = Net::new(2, 14, Weather::default());
    let map = NhrpMap { address: net("10.0.0.3/24"), nbma: ip("203.0.113.3"), register: false };
    network.stations[1].machine = Machine::new(config("10.0.0.2/24", nhrp(vec![map], Multicast::None), 1));
    network.stations[1].routes.via("192.168.3.0/24", "10.0.0.3");
    network.start();
    let far = network.stations[2].host();
    assert_eq!(network.ping(1, far), None);
    network.run(SECOND);
    assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
    assert_eq!(network.stations[1].bindings[&ip("10.0.0.3")].1, Kind::Static);
    // It may as well be the other side that makes the path.
    network.cut(1, 2);
    network.join(2, 1);
    assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
    // One that is not there is tried again after a while, not at every packet.
    network.cut(1, 2);
    network.kill(2);
    for _ in 0..100 {
        assert_eq!(network.ping(1, far), None);
        network.run(SECOND / 10);
    }
    let failures = network.stations[1]
        .events
        .iter()
        .filter(|(_, event)| matches!(event, Event::ResolutionFailed { why: ResolutionFailure::NoPath, .. }));
    assert_eq!(failures.count(), 1);
}

#[test]
fn a_tunnel_of_host_addresses() {
    let mut network = Net::new(2, 15, Weather::default());
    for (node, station) in network.stations.iter_mut().enumerate() {
        let address = format!("{}/32", station.overlay);
        let nhrp = match node {
            HUB => nhrp(Vec::new(), Multicast::Dynamic),
            _ => nhrp(vec![NhrpMap { address: net("10.0.0.1/32"), ..hub_map() }], Multicast::Nhs),
        };
        let mut fresh = Station::new(node, config(&address, nhrp, node as u64), station.nbma, station.public);
        if node == HUB {
            fresh.routes.via("192.168.2.0/24", "10.0.0.2");
            fresh.routes.via("192.168.3.0/24", "10.0.0.3");
        } else {
            fresh.routes.via("192.168.0.0/16", "10.0.0.1");
        }
        *station = fresh;
    }
    network.start();
    network.run(SECOND);
    let far = network.stations[2].host();
    network.ping(1, far);
    network.run(SECOND);
    assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
}

#[test]
fn what_is_configured_outlives_a_path_that_failed() {
    // Spoke 1 is told where spoke 2 is, and there is nobody; or that it is a second server.
    for register in [false, true] {
        let mut network = Net::new(2, 17, Weather::default());
        let nobody = NhrpMap { address: net("10.0.0.3/24"), nbma: ip("203.0.113.99"), register };
        let maps = config("10.0.0.2/24", nhrp(vec![hub_map(), nobody], Multicast::Nhs), 18);
        let mut spoke = Station::new(1, maps, ip("203.0.113.2"), ip("203.0.113.2"));
        spoke.routes.via("192.168.0.0/16", "10.0.0.1");
        network.stations[1] = spoke;
        network.start();
        network.run(SECOND);
        let far = network.stations[2].host();
        for _ in 0..60 {
            assert_eq!(network.ping(1, far).unwrap(), [1, HUB, 2]);
            network.run(SECOND);
        }
        let known = network.stations[1].machine.entries(network.now);
        assert!(known.iter().any(|entry| entry.overlay == ip("10.0.0.3")), "register: {register}");
    }
}

#[test]
fn a_path_that_carries_nothing_is_not_used() {
    let mut network = Net::new(2, 16, Weather::default());
    network.start();
    network.run(SECOND);
    network.blackhole = Some((1, 2));
    let far = network.stations[2].host();
    for _ in 0..60 {
        assert_eq!(network.ping(1, far).unwrap(), [1, HUB, 2]);
        network.run(SECOND);
    }
    assert!(network.stations[1].peer_to(2).is_some(), "the SA is up, and yet");
    assert!(
        network.stations[1]
            .saw(|event| matches!(event, Event::ResolutionFailed { why: ResolutionFailure::NoPath, .. }))
    );
    // Once it is repaired, it is found out.
    network.blackhole = None;
    for _ in 0..300 {
        assert!(network.ping(1, far).is_some());
        network.run(SECOND);
    }
    assert_eq!(network.ping(1, far).unwrap(), [1, 2]);
}

#[test]
fn ten_thousand_spokes_register_with_one_hub() {
    let mut hub = Machine::new(config("10.0.0.1/16", nhrp(Vec::new(), Multicast::Dynamic), 1));
    let routes = super::net::Table::default();
    hub.set_nbma(crate::time::Instant::ZERO, Some(super::net::HUB_NBMA));
    let mut now = crate::time::Instant::ZERO;
    let started = std::time::Instant::now();
    for number in 0..10_000_u32 {
        let overlay = std::net::Ipv4Addr::from(u32::from(ip("10.0.1.1")) + number / 200 * 256 + number % 200);
        let nbma = std::net::Ipv4Addr::from(u32::from(ip("100.64.0.0")) + number);
        let spoke = config(&format!("{overlay}/16"), nhrp(vec![hub_map()], Multicast::Nhs), number.into());
        let mut spoke = Machine::new(spoke);
        spoke.set_nbma(now, Some(nbma));
        let up = |peer, nbma| crate::nhrp::Input::PeerUp { peer, nbma, natted: false };
        spoke.handle(now, up(dmvpn_tables::PeerId(1), super::net::HUB_NBMA), &routes);
        let request = std::iter::from_fn(|| spoke.poll_output()).find_map(|output| match output {
            crate::nhrp::Output::Send { packet, .. } => Some(packet),
            _ => None,
        });
        let from = dmvpn_tables::PeerId(number + 1);
        hub.handle(now, up(from, nbma), &routes);
        hub.handle(now, crate::nhrp::Input::Packet { from, bytes: &request.unwrap() }, &routes);
        while hub.poll_output().is_some() {}
        now = now + Duration::from_micros(100);
    }
    println!("10,000 registrations in {:?}", started.elapsed());
    assert_eq!(hub.entries(now).len(), 10_001);
    hub.handle_timeout(now + SECOND * 400, &routes);
    assert_eq!(hub.entries(now).len(), 1);
}
