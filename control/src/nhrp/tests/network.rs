//! One hub and its spokes: what a tunnel has to do, in virtual time.

use std::time::Duration;

use dmvpn_config::Multicast;

use super::net::{HUB, Net, Weather, config, ip, net, nhrp};
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
