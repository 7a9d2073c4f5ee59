//! The network of a hub and its spokes, from the first packet to the hub's death and return.

mod common;

use std::time::Duration;

use dmvpn_control::show::{Rekey, Request, Response};
use dmvpn_simulation::site::Options;
use dmvpn_simulation::{Faults, Site};

use common::{GOOD, HUB_ID, all_register, network, seconds, until_direct};

const BAD: Faults = Faults { loss: 50, duplication: 20, reordering: 20 };

#[test]
fn two_spokes_first_by_the_hub_and_then_directly_without_a_lost_packet() {
    for mode in ["tunnel", "transport"] {
        let options = Options { mode, ..Options::default() };
        let mut network = network(1, GOOD, 2, &options);
        all_register(&mut network, 2, seconds(10));
        let (a, b) = (1, 2);
        let ping = network.ping(a, b);
        network.run(Duration::from_millis(100));
        let first = network.answer(a, ping).expect("by the hub");
        assert!(first > Duration::from_millis(39), "{first:?}: twice two legs of 10 ms");
        assert_eq!((network.traffic(a, b).esp, network.traffic(b, a).esp), (0, 0));
        assert_eq!(until_direct(&mut network, a, b, seconds(10)), 0);

        let by_hub = (network.traffic(a, HUB_ID), network.traffic(HUB_ID, b));
        let (sent, lost) = network.ping_train(a, b, Duration::from_millis(100), seconds(20));
        assert_eq!((sent, lost), (200, vec![]));
        let after = (network.traffic(a, HUB_ID), network.traffic(HUB_ID, b));
        assert!(after.0.esp - by_hub.0.esp < 10 && after.1.esp - by_hub.1.esp < 10, "the hub is out of it");
        assert_eq!(network.total().clear, 0);
    }
}

#[test]
fn every_lan_reaches_the_hub_and_every_box_answers() {
    let mut network = network(2, GOOD, 3, &Options::default());
    all_register(&mut network, 3, seconds(10));
    let mut pings = Vec::new();
    for spoke in 1..=3 {
        pings.push((spoke, network.ping(spoke, HUB_ID)));
        pings.push((HUB_ID, network.ping(HUB_ID, spoke)));
        for address in ["10.0.0.1", "172.16.0.1"] {
            pings.push((spoke, network.ping_address(spoke, address.parse().unwrap())));
        }
    }
    network.run(seconds(2));
    let silent: Vec<_> = pings.iter().filter(|(from, ping)| network.answer(*from, *ping).is_none()).collect();
    assert!(silent.is_empty(), "{silent:?} {:?}", network.drops(HUB_ID));
}

#[test]
fn rekeys_lose_nothing() {
    let options = Options { esp_lifetime: 60, ike_lifetime: 150, ..Options::default() };
    let mut network = network(3, GOOD, 2, &options);
    all_register(&mut network, 2, seconds(10));
    until_direct(&mut network, 1, 2, seconds(10));
    let ike = network.total().ike;
    let (sent, lost) = network.ping_train(1, 2, Duration::from_millis(50), seconds(400));
    assert_eq!((sent, lost), (8000, vec![]), "{}", network.log(1));
    assert!(network.total().ike > ike + 60, "there were rekeys");

    // And by the operator's hand, of everything at once.
    for (from, to) in [(1, 2), (HUB_ID, 1)] {
        for what in [Rekey::Esp, Rekey::Ike, Rekey::Esp] {
            for site in 0..3 {
                let done = network.request(site, Request::Rekey { what, peer: None });
                assert_eq!(done, Some(Response::Done { peers: 2 }));
            }
            let (_, lost) = network.ping_train(from, to, Duration::from_millis(20), seconds(10));
            assert_eq!(lost, vec![], "{what:?}");
        }
    }
}

#[test]
fn shortcuts_outlive_the_hub_and_the_spokes_come_back_to_it() {
    let mut network = network(4, GOOD, 3, &Options { holding_time: 60, ..Options::default() });
    all_register(&mut network, 3, seconds(10));
    until_direct(&mut network, 1, 2, seconds(10));
    network.switch_off(HUB_ID);
    let (_, lost) = network.ping_train(1, 2, Duration::from_millis(100), seconds(35));
    assert_eq!(lost, vec![], "{}", network.log(1));
    network.run(seconds(60));
    network.switch_on(HUB_ID);
    all_register(&mut network, 3, seconds(90));
    let ping = network.ping(3, 1);
    network.run(seconds(1));
    assert!(network.answer(3, ping).is_some());
    assert_eq!(network.total().clear, 0);
}

#[test]
fn a_hub_that_lost_its_memory_is_back_before_its_spokes_notice() {
    let mut network = network(7, GOOD, 3, &Options::default());
    all_register(&mut network, 3, seconds(10));
    network.switch_off(HUB_ID);
    network.run(seconds(2));
    network.switch_on(HUB_ID);
    for spoke in 1..=3 {
        network.ping(spoke, HUB_ID);
    }
    all_register(&mut network, 3, seconds(2));
    for spoke in 1..=3 {
        let (_, lost) = network.ping_train(spoke, HUB_ID, Duration::from_millis(100), seconds(20));
        assert_eq!(lost, vec![], "{}", network.log(HUB_ID));
    }
}

#[test]
fn spokes_behind_a_nat_notice_that_the_hub_lost_its_memory() {
    let options = Options { mode: "transport", dead_peer_detection: (5, 15), ..Options::default() };
    let mut network = network(8, GOOD, 0, &options);
    let shared = "203.0.200.34".parse().unwrap();
    for number in [21, 22] {
        network.add(Site::behind_nat(number, shared, options.clone()));
    }
    all_register(&mut network, 2, seconds(20));
    network.switch_off(HUB_ID);
    network.run(seconds(2));
    network.switch_on(HUB_ID);
    for _ in 0..30 {
        network.ping(1, HUB_ID);
        network.ping(2, HUB_ID);
        network.run(seconds(1));
    }
    all_register(&mut network, 2, seconds(1));
}

#[test]
fn spokes_behind_nats_register_and_talk() {
    let options = Options { mode: "transport", ..Options::default() };
    let mut network = network(5, GOOD, 1, &options);
    let own = "203.0.200.33".parse().unwrap();
    let shared = "203.0.200.34".parse().unwrap();
    let natted = network.add(Site::behind_nat(20, own, options.clone()));
    let (left, right) = (
        network.add(Site::behind_nat(21, shared, options.clone())),
        network.add(Site::behind_nat(22, shared, options.clone())),
    );
    all_register(&mut network, 4, seconds(20));
    let peers = network.peers(HUB_ID);
    let at = |address| peers.iter().filter(|peer| peer.nbma == address && peer.port.is_some()).count();
    assert_eq!((at(own), at(shared)), (1, 2), "two spokes behind one address are two peers");
    until_direct(&mut network, natted, 1, seconds(20));
    for (from, to) in
        [(left, HUB_ID), (right, HUB_ID), (HUB_ID, left), (HUB_ID, right), (left, right), (left, 1)]
    {
        let (_, lost) = network.ping_train(from, to, Duration::from_millis(200), seconds(20));
        assert_eq!(lost, vec![], "{from} to {to}\n{}\n{}", network.log(from), network.log(HUB_ID));
    }

    // The NAT reboots: the next packet from inside shows the hub the new port.
    network.reset_nat(own);
    network.run(seconds(60));
    let (_, lost) = network.ping_train(natted, HUB_ID, Duration::from_millis(200), seconds(5));
    assert_eq!(lost, vec![], "{}\n{}", network.log(natted), network.log(HUB_ID));
}

#[test]
fn without_ipsec_too() {
    let options = Options { protected: false, ..Options::default() };
    let mut network = network(6, GOOD, 2, &options);
    all_register(&mut network, 2, seconds(10));
    let (_, lost) = network.ping_train(1, 2, Duration::from_millis(100), seconds(10));
    assert_eq!(lost, vec![]);
    let before = network.traffic(1, HUB_ID).clear;
    network.ping_train(1, 2, Duration::from_millis(100), seconds(10));
    assert!(network.traffic(1, HUB_ID).clear - before < 10, "a shortcut");
    assert_eq!((network.total().ike, network.total().esp), (0, 0));
}

/// Fifty spokes on bad cables; returns the digest of every byte sent.
fn storm(seed: u64) -> (u64, u64) {
    let options = Options { mode: "transport", holding_time: 60, ..Options::default() };
    let mut network = network(seed, BAD, 40, &options);
    for number in 41..=50 {
        let public = std::net::Ipv4Addr::new(203, 0, 200, number);
        network.add(Site::behind_nat(number, public, options.clone()));
    }
    all_register(&mut network, 50, seconds(180));
    println!("{:?}: all registered", network.time());
    for from in [1, 7, 13, 42] {
        until_direct(&mut network, from, from + 1, seconds(120));
    }
    network.switch_off(HUB_ID);
    let (sent, lost) = network.ping_train(1, 2, Duration::from_millis(100), seconds(30));
    assert!(lost.len() * 5 < sent, "{} of {sent} lost", lost.len());
    network.switch_on(HUB_ID);
    all_register(&mut network, 50, seconds(400));
    println!("{:?}: all registered again", network.time());
    assert_eq!(network.total().clear, 0);
    network.digest()
}

#[test]
fn fifty_spokes_converge_on_bad_cables_and_the_same_seed_gives_the_same_bytes() {
    let first = storm(50);
    assert!(first.1 > 3_000, "{} frames", first.1);
    assert_eq!(first, storm(50));
    assert_ne!(first, storm(51));
}
