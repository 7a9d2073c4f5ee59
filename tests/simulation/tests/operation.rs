//! What operators do, and what happens on a long day.

mod common;

use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_control::show::{self, Request, Response};
use dmvpn_dataplane::DropReason;
use dmvpn_simulation::Site;
use dmvpn_simulation::site::Options;
use dmvpn_wire::ipv4::{self, Fields};
use dmvpn_wire::{IpProtocol, View};

use common::{GOOD, HUB_ID, all_register, network, seconds, until_direct};

#[test]
fn an_orderly_end_is_known_at_once() {
    let mut network = network(1, GOOD, 3, &Options::default());
    all_register(&mut network, 3, seconds(10));
    assert_eq!(network.request(2, Request::Shutdown), Some(Response::Done { peers: 1 }));
    network.run(Duration::from_millis(50));
    network.switch_off(2);
    assert_eq!(network.registered(HUB_ID), 2, "{}", network.log(HUB_ID));
    assert_eq!(network.peers(HUB_ID).len(), 2);
}

#[test]
fn a_disconnected_peer_that_is_still_wanted_comes_back() {
    let mut network = network(2, GOOD, 2, &Options::default());
    all_register(&mut network, 2, seconds(10));
    let first = Some(Ipv4Addr::new(10, 0, 0, 2));
    assert_eq!(
        network.request(HUB_ID, Request::Disconnect { peer: first }),
        Some(Response::Done { peers: 1 })
    );
    network.run(Duration::from_millis(5));
    assert_eq!(network.registered(HUB_ID), 1);
    all_register(&mut network, 2, seconds(10));
}

#[test]
fn an_idle_shortcut_goes_and_its_keys_with_it() {
    let options = Options { holding_time: 30, ..Options::default() };
    let mut network = network(3, GOOD, 2, &options);
    all_register(&mut network, 2, seconds(10));
    until_direct(&mut network, 1, 2, seconds(10));
    assert_eq!(network.peers(1).len(), 2);
    assert!(network.run_until(seconds(240), |network| network.peers(1).len() == 1), "{}", network.log(1));
    assert_eq!(network.registered(HUB_ID), 2, "the hub stays");
    until_direct(&mut network, 2, 1, seconds(10));
}

#[test]
fn a_used_shortcut_stays() {
    let options = Options { holding_time: 30, ..Options::default() };
    let mut network = network(4, GOOD, 2, &options);
    all_register(&mut network, 2, seconds(10));
    until_direct(&mut network, 1, 2, seconds(10));
    let before = network.traffic(HUB_ID, 2).esp;
    let (sent, lost) = network.ping_train(1, 2, Duration::from_millis(500), seconds(300));
    assert_eq!(lost, vec![]);
    let by_hub = network.traffic(HUB_ID, 2).esp - before;
    assert!(by_hub * 5 < sent as u64, "{by_hub} of {sent}: only NHRP goes by the hub");
}

#[test]
fn a_second_hub_takes_over() {
    let options = Options { hubs: 2, dead_peer_detection: (2, 6), ..Options::default() };
    let mut network = network(5, GOOD, 2, &options);
    let (first, second, a, b) = (0, 1, 2, 3);
    let both = network
        .run_until(seconds(10), |network| network.registered(first) == 2 && network.registered(second) == 2);
    assert!(both);
    network.switch_off(first);
    network.run(seconds(30));
    let (_, lost) = network.ping_train(a, b, Duration::from_millis(200), seconds(10));
    assert_eq!(lost, vec![], "{}", network.log(a));
    until_direct(&mut network, b, a, seconds(5));
    network.switch_on(first);
    assert!(network.run_until(seconds(120), |network| network.registered(first) == 2));
}

#[test]
fn multicast_of_the_box_goes_to_all_spokes_or_to_the_hub() {
    let mut network = network(6, GOOD, 3, &Options::default());
    all_register(&mut network, 3, seconds(10));
    network.run(seconds(1));
    let hello = |from: Ipv4Addr| {
        let fields = Fields {
            tos: 0xc0,
            identification: 1,
            dont_fragment: false,
            ttl: 1,
            protocol: IpProtocol(89),
            source: from,
            destination: Ipv4Addr::new(224, 0, 0, 5),
        };
        [ipv4::Header::new(&fields, 44).unwrap().octets(), &[7; 44]].concat()
    };
    let (of_hub, of_spoke) = (hello(Ipv4Addr::new(10, 0, 0, 1)), hello(Ipv4Addr::new(10, 0, 0, 3)));
    network.host_sends(HUB_ID, of_hub.clone());
    network.host_sends(2, of_spoke.clone());
    network.run(seconds(1));
    for spoke in 1..=3 {
        assert_eq!(network.host_receives(spoke), std::slice::from_ref(&of_hub), "spoke {spoke}");
    }
    assert_eq!(network.host_receives(HUB_ID), [of_spoke]);
}

#[test]
fn a_nat_that_reboots_costs_no_more_than_the_packets_under_way() {
    let options = Options { mode: "transport", ..Options::default() };
    let mut network = network(7, GOOD, 0, &options);
    let public = Ipv4Addr::new(203, 0, 200, 33);
    let spoke = network.add(Site::behind_nat(20, public, options));
    all_register(&mut network, 1, seconds(20));
    network.ping_train(spoke, HUB_ID, Duration::from_millis(20), seconds(2));
    network.reset_nat(public);
    let (_, lost) = network.ping_train(spoke, HUB_ID, Duration::from_millis(20), seconds(10));
    assert!(lost.len() <= 5, "{lost:?}\n{}", network.log(HUB_ID));
    let port = network.peers(HUB_ID)[0].port;
    assert!(port.is_some_and(|port| port >= 30_000), "{port:?}");
}

#[test]
fn a_spoke_with_a_new_address_is_back_in_seconds() {
    let mut network = network(8, GOOD, 2, &Options::default());
    all_register(&mut network, 2, seconds(10));
    until_direct(&mut network, 2, 1, seconds(10));
    network.readdress(1, Ipv4Addr::new(203, 0, 1, 6));
    assert!(
        network.run_until(seconds(3), |network| {
            let peers = network.peers(HUB_ID);
            peers.len() == 2
                && peers
                    .iter()
                    .any(|peer| peer.nbma == Ipv4Addr::new(203, 0, 1, 6) && !peer.overlay.is_empty())
        }),
        "{}",
        network.log(HUB_ID)
    );
    for (from, to) in [(HUB_ID, 1), (2, 1), (1, 2)] {
        let (_, lost) = network.ping_train(from, to, Duration::from_millis(100), seconds(5));
        assert_eq!(lost, vec![], "{from} to {to}\n{}", network.log(from));
    }
    until_direct(&mut network, 2, 1, seconds(10));
    assert_eq!(network.total().clear, 0);
}

#[test]
fn a_reload_of_something_else_disturbs_nobody() {
    let mut network = network(9, GOOD, 2, &Options::default());
    all_register(&mut network, 2, seconds(10));
    let before = network.peers(HUB_ID);
    for second in 0..5 {
        network.reload(HUB_ID, |text| {
            text.replace(
                "[dataplane]",
                &format!(
                    "[protocols.static.route.\"192.0.2.0/24\"]\nnext-hop = \"10.0.0.{}\"\n\n[dataplane]",
                    second + 2
                ),
            )
        });
        let (_, lost) = network.ping_train(1, HUB_ID, Duration::from_millis(20), seconds(1));
        assert_eq!(lost, vec![]);
    }
    let after = network.peers(HUB_ID);
    let handles = |peers: &[show::Peer]| peers.iter().map(|peer| peer.peer.clone()).collect::<Vec<_>>();
    assert_eq!(handles(&before), handles(&after));
    assert!(after.iter().all(|peer| peer.up_for.is_some_and(|time| time >= 9)), "{after:?}");
}

#[test]
fn a_reload_of_nhrp_options_disturbs_nobody() {
    let mut network = network(9, GOOD, 2, &Options::default());
    all_register(&mut network, 2, seconds(10));
    let before = network.peers(HUB_ID);
    network.reload(HUB_ID, |text| {
        assert!(text.contains("redirect = true"));
        text.replace("redirect = true", "redirect = false")
    });
    let (_, lost) = network.ping_train(1, HUB_ID, Duration::from_millis(20), seconds(1));
    assert_eq!(lost, vec![]);
    assert_eq!(network.peers(HUB_ID).len(), before.len());
}

/// Peers keep what goes around their packets, and get it anew.
#[test]
fn a_reload_of_tunnel_parameters_takes_effect_for_the_peers_there_are() {
    let mut network = network(9, GOOD, 2, &Options::default());
    all_register(&mut network, 2, seconds(10));
    let before = network.peers(HUB_ID);
    let another_key = |text: &str| {
        assert!(text.contains("key = 1\n"));
        text.replace("key = 1\n", "key = 7\n")
    };
    network.reload(HUB_ID, another_key);
    let ping = network.ping(1, HUB_ID);
    network.run(seconds(1));
    assert_eq!(network.answer(1, ping), None);
    assert!(network.drops(HUB_ID).iter().any(|(reason, _)| *reason == DropReason::GreKey));
    for spoke in [1, 2] {
        network.reload(spoke, another_key);
    }
    for (from, to) in [(1, HUB_ID), (HUB_ID, 2), (2, 1)] {
        let (_, lost) = network.ping_train(from, to, Duration::from_millis(20), seconds(1));
        assert_eq!(lost, vec![], "{from} to {to}");
    }
    let handles = |peers: &[show::Peer]| peers.iter().map(|peer| peer.peer.clone()).collect::<Vec<_>>();
    assert_eq!(handles(&before), handles(&network.peers(HUB_ID)), "the same peers, with the same keys");
}

#[test]
fn after_a_reload_that_makes_the_overlay_anew_everybody_comes_back() {
    let mut network = network(9, GOOD, 2, &Options::default());
    all_register(&mut network, 2, seconds(10));
    network.reload(HUB_ID, |text| {
        assert!(text.contains("multicast = \"dynamic\""));
        text.replace("multicast = \"dynamic\"", "")
    });
    all_register(&mut network, 2, seconds(5));
    let (_, lost) = network.ping_train(1, HUB_ID, Duration::from_millis(20), seconds(1));
    assert_eq!(lost, vec![]);
}

#[test]
fn an_unprotected_tunnel_that_becomes_protected_sends_nothing_in_the_clear_any_more() {
    let options = Options { protected: false, ..Options::default() };
    let mut network = network(10, GOOD, 2, &options);
    all_register(&mut network, 2, seconds(10));
    network.ping_train(1, 2, Duration::from_millis(100), seconds(5));
    for site in 0..3 {
        network.protect(site);
    }
    let clear = network.total().clear;
    assert!(clear > 0);
    all_register(&mut network, 2, seconds(10));
    let (_, lost) = network.ping_train(1, 2, Duration::from_millis(100), seconds(20));
    assert_eq!(lost, vec![], "{}", network.log(1));
    assert_eq!(network.total().clear, clear);
}
