//! Packets from LAN to LAN.

use dmvpn_dataplane::DropReason;
use dmvpn_tables::esp::Suite;
use dmvpn_tables::{Adjacency, Path, PuntReason};
use dmvpn_wire::{IpProtocol, View, eth, ipv4, udp};

use crate::drops::{esp, esp_packet, gre, gre_packet, udp_packet};
use crate::lab::*;

/// Every way of ESP: transport and tunnel mode, with and without a NAT on the way.
fn encapsulations(suite: Suite) -> impl Iterator<Item = Security> {
    [(false, false), (false, true), (true, false), (true, true)]
        .into_iter()
        .map(move |(tunnel_mode, nat)| Security { suite, tunnel_mode, nat })
}

#[test]
fn lan_to_lan_both_ways_with_every_suite_and_encapsulation() {
    for security in Suite::all().flat_map(encapsulations) {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        connect(&mut a, &mut b, &security, 1);
        for len in [0, 1, 7, 8, 63, 64, 500, 1340] {
            let there = packet(host(1), host(2), &vec![0xa5; len]);
            let back = packet(host(2), host(1), &vec![0x5a; len]);
            a.host_sends(&there.bytes());
            b.host_sends(&back.bytes());
            let carried = run_all(&mut [&mut a, &mut b]);
            assert_eq!(b.host_received(), [there.after_hops(2)], "{security:?} {len}");
            assert_eq!(a.host_received(), [back.after_hops(2)], "{security:?} {len}");
            assert_eq!(carried.len(), 2);
            for frame in &carried {
                let protocol = if security.nat { IpProtocol::UDP } else { IpProtocol::ESP };
                assert_eq!(outer(frame).protocol(), protocol);
            }
        }
        for site in [&a, &b] {
            assert_eq!(site.drops(), []);
            assert_eq!(site.pool.in_use(), 0);
        }
    }
}

#[test]
fn esp_overhead_is_as_computed() {
    let suite: Suite = "aes256-sha1".parse().unwrap();
    for security in encapsulations(suite) {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        connect(&mut a, &mut b, &security, 1);
        let inner = packet(host(1), host(2), &[1; 100]).bytes();
        a.host_sends(&inner);
        let carried = run_all(&mut [&mut a, &mut b]);
        // GRE with key, then an IPv4 header in tunnel mode.
        let payload = inner.len() + 8 + if security.tunnel_mode { 20 } else { 0 };
        let udp = if security.nat { 8 } else { 0 };
        assert_eq!(carried[0].len(), 14 + 20 + udp + suite.sealed_len(payload));
        let header = outer(&carried[0]);
        assert_eq!((header.source(), header.destination()), (wan_address(1), wan_address(2)));
        assert!(header.dont_fragment());
        if security.nat {
            let (udp, _) = udp::Header::parse(&carried[0][34..]).unwrap();
            assert_eq!((udp.source_port(), udp.destination_port()), (4500, 4500));
        }
    }
}

#[test]
fn many_packets_of_many_suites_in_one_batch() {
    let mut hub = Site::new(1);
    let mut spokes: Vec<_> = (2..50).map(Site::new).collect();
    for (spoke, (n, suite)) in
        spokes.iter_mut().zip((0..).zip(Suite::all().chain(Suite::all()).chain(Suite::all())))
    {
        let security = Security { suite, tunnel_mode: n % 2 == 0, nat: n % 3 == 0 };
        connect(&mut hub, spoke, &security, 1);
    }
    let packets: Vec<_> = (2..50).map(|n| packet(host(1), host(n), &vec![n; usize::from(n) * 20])).collect();
    for packet in &packets {
        hub.host_sends(&packet.bytes());
    }
    let mut sites: Vec<_> = std::iter::once(&mut hub).chain(&mut spokes).collect();
    run_all(&mut sites);
    for (spoke, packet) in spokes.iter_mut().zip(&packets) {
        assert_eq!(spoke.host_received(), [packet.after_hops(2)]);
    }
    // And answers from all of them at once.
    let mut at_hub = Vec::new();
    for spoke in &mut spokes {
        let answer = packet(host(spoke.number), host(1), &vec![spoke.number; usize::from(spoke.number) * 20]);
        spoke.host_sends(&answer.bytes());
        at_hub.push(answer.after_hops(2));
    }
    let mut sites: Vec<_> = std::iter::once(&mut hub).chain(&mut spokes).collect();
    run_all(&mut sites);
    assert_eq!(hub.host_received(), at_hub);
    assert_eq!(hub.drops(), []);
}

#[test]
fn spoke_to_spoke_through_the_hub_and_a_redirect() {
    for security in encapsulations("aes128-sha256".parse().unwrap()) {
        let (mut hub, mut a, mut b) = (Site::new(1), Site::new(2), Site::new(3));
        hub.tunnel(|tunnel| tunnel.redirect = true);
        connect(&mut hub, &mut a, &security, 1);
        connect(&mut hub, &mut b, &security, 1);
        a.snapshot.fib.insert(net("192.168.3.0/24"), tunnel_adjacency(1));
        a.publish();
        let sent = packet(
            host(2),
            host(3),
            b"to the other spoke, and long enough to be cut in the report of the redirect......",
        );
        a.host_sends(&sent.bytes());
        let carried = run_all(&mut [&mut hub, &mut a, &mut b]);
        assert_eq!(carried.len(), 2, "in and out of the hub");
        assert_eq!(b.host_received(), [sent.after_hops(3)]);

        let punts = hub.punts();
        assert_eq!(punts.len(), 1);
        let reason = PuntReason::Redirect { tunnel: TUNNEL, peer: Some(peer(2)), source: wan_address(2) };
        assert_eq!(punts[0].reason, reason);
        assert_eq!(punts[0].packet, sent.after_hops(1)[..84], "as it came to the hub, the first bytes");
        assert_eq!((a.punts(), b.punts()), (vec![], vec![]));
        assert_eq!(hub.drops(), []);
    }
}

#[test]
fn no_redirect_unless_the_tunnel_says_so_and_none_for_packets_of_the_hub_itself() {
    let (mut hub, mut a, mut b) = (Site::new(1), Site::new(2), Site::new(3));
    connect(&mut hub, &mut a, &security(), 1);
    connect(&mut hub, &mut b, &security(), 1);
    a.snapshot.fib.insert(net("192.168.3.0/24"), tunnel_adjacency(1));
    a.publish();
    a.host_sends(&packet(host(2), host(3), b"").bytes());
    run_all(&mut [&mut hub, &mut a, &mut b]);
    assert_eq!(b.host_received().len(), 1);

    hub.tunnel(|tunnel| tunnel.redirect = true);
    hub.publish();
    hub.host_sends(&packet(host(1), host(3), b"").bytes());
    run_all(&mut [&mut hub, &mut a, &mut b]);
    assert_eq!(b.host_received().len(), 1);
    assert_eq!(hub.punts(), []);

    // And none for a packet that goes back to where it came from.
    a.snapshot.fib.insert(net("192.168.9.0/24"), tunnel_adjacency(1));
    a.publish();
    hub.snapshot.fib.insert(net("192.168.9.0/24"), tunnel_adjacency(2));
    hub.publish();
    a.host_sends(&packet(host(2), host(9), b"").with(|fields| fields.ttl = 4).bytes());
    run_all(&mut [&mut hub, &mut a, &mut b]);
    let redirects = hub.punts().into_iter().filter(|punt| matches!(punt.reason, PuntReason::Redirect { .. }));
    assert_eq!(redirects.count(), 0);
}

#[test]
fn each_sender_is_told_of_the_shorter_way() {
    let (mut hub, mut a, mut b, mut c) = (Site::new(1), Site::new(2), Site::new(3), Site::new(4));
    hub.tunnel(|tunnel| tunnel.redirect = true);
    for spoke in [&mut a, &mut b, &mut c] {
        connect(&mut hub, spoke, &security(), 1);
        spoke.snapshot.fib.insert(net("192.168.0.0/16"), tunnel_adjacency(1));
        spoke.publish();
    }
    for _ in 0..3 {
        a.host_sends(&packet(host(2), host(4), b"").bytes());
        b.host_sends(&packet(host(3), host(4), b"").bytes());
    }
    run_all(&mut [&mut hub, &mut a, &mut b, &mut c]);
    assert_eq!(c.host_received().len(), 6);
    let told: Vec<_> = hub
        .punts()
        .into_iter()
        .filter_map(|punt| match punt.reason {
            PuntReason::Redirect { peer, .. } => peer,
            _ => None,
        })
        .collect();
    assert_eq!(told, [peer(2), peer(3)], "once each");
}

#[test]
fn a_tunnel_without_ipsec_speaks_gre() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    for (site, other) in [(&mut a, 2), (&mut b, 1)] {
        site.tunnel(|tunnel| tunnel.protected = false);
        site.set_peer(other, Path::Clear, None);
        site.publish();
    }
    let sent = packet(host(1), host(2), b"in the clear");
    a.host_sends(&sent.bytes());
    let carried = run_all(&mut [&mut a, &mut b]);
    assert_eq!(b.host_received(), [sent.after_hops(2)]);
    assert_eq!(outer(&carried[0]).protocol(), IpProtocol::GRE);
    assert!(any_contains(&carried, b"in the clear"));
    // Flags with the key bit, protocol, key (RFC 2890).
    assert_eq!(carried[0][34..42], [0x20, 0, 0x08, 0, 0, 0, 0, 1]);
}

#[test]
fn lan_to_lan_of_one_box_without_a_tunnel() {
    let mut site = Site::new(1);
    site.route("172.16.0.0/12", Adjacency::Neighbor(HOST_NEIGHBOR));
    site.publish();
    let sent = packet([203, 0, 113, 5].into(), [172, 16, 0, 1].into(), b"plain");
    site.wan_sends(&sent.bytes());
    site.run();
    assert_eq!(site.host_received(), [sent.after_hops(1)]);
}

#[test]
fn link_padding_does_not_travel() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    let sent = packet(host(1), host(2), b"x");
    a.host_sends(&sent.bytes());
    a.host_sends(&[sent.bytes(), vec![0xee; 25]].concat());
    let carried = run_all(&mut [&mut a, &mut b]);
    assert_eq!(carried[0].len(), carried[1].len());
    assert_eq!(b.host_received(), vec![sent.after_hops(2); 2]);
}

#[test]
fn what_follows_a_packet_inside_its_envelope_is_cut_off() {
    let mut site = Site::new(1);
    // After an IPv4 packet in GRE.
    site.tunnel(|tunnel| tunnel.protected = false);
    site.publish();
    let sent = packet(host(2), host(1), b"x");
    let padded = [gre(KEY), sent.bytes(), vec![0xee; 9]].concat();
    site.wan_sends(&gre_packet(wan_address(2), wan_address(1), &padded));
    site.run();
    assert_eq!(site.host_received(), [sent.after_hops(1)]);

    // After UDP's own length.
    let outbound = receive_from(&mut site, 2, &Security { nat: true, ..security() }, 1);
    let mut datagram = udp_packet(
        wan_address(2),
        wan_address(1),
        4500,
        &[esp(&outbound, 47, &[gre(KEY), sent.bytes()].concat()), vec![0xee; 3]].concat(),
    );
    let udp_len = u16::try_from(datagram.len() - 20 - 3).unwrap();
    datagram[24..26].copy_from_slice(&udp_len.to_be_bytes());
    site.wan_sends(&datagram);
    site.run();
    assert_eq!(site.host_received(), [sent.after_hops(1)]);

    // After the inner packet of tunnel mode (RFC 4303 section 2.7); NHRP has no length that would hide it.
    let outbound = receive_from(&mut site, 2, &Security { tunnel_mode: true, ..security() }, 2);
    let nhrp = [&[0x20, 0, 0x20, 1, 0, 0, 0, 1], &b"nhrp"[..]].concat();
    let inner = [gre_packet(wan_address(2), wan_address(1), &nhrp), vec![0; 50]].concat();
    site.wan_sends(&esp_packet(wan_address(2), wan_address(1), &esp(&outbound, 4, &inner)));
    site.run();
    assert_eq!(site.punts().remove(0).packet, b"nhrp");
    assert_eq!(site.drops(), []);
}

#[test]
fn no_two_packets_of_a_tunnel_bear_one_identification() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    a.tunnel(|tunnel| tunnel.dont_fragment = false);
    connect(&mut a, &mut b, &security(), 1);
    for _ in 0..50 {
        a.host_sends(&packet(host(1), host(2), b"x").bytes());
    }
    let carried = run_all(&mut [&mut a, &mut b]);
    let distinct: std::collections::BTreeSet<_> =
        carried.iter().map(|frame| outer(frame).identification()).collect();
    assert_eq!(distinct.len(), 50);
}

#[test]
fn a_busy_port_leaves_the_other_its_turn() {
    let mut site = Site::new(1);
    site.route("172.16.0.0/12", Adjacency::Neighbor(HOST_NEIGHBOR));
    site.publish();
    let flood = packet([203, 0, 113, 5].into(), host(1), b"flood").bytes();
    site.host_sends(&packet(host(1), [172, 16, 0, 1].into(), b"few").bytes());
    for _ in 0..2 {
        while site.workers[0].control.counters.port(WAN).unwrap().rx_packets.value() == 0 {
            for _ in 0..200 {
                site.wan_sends(&flood);
            }
            site.workers[0].worker.poll(0, || 0);
        }
        site.workers[0].worker.poll(0, || 0);
    }
    let received = site.host_received();
    assert!(any_contains(&received, b"few"), "though a batch of the other port alone fills every poll");
}

#[test]
fn outer_tos_and_ttl_are_inherited_or_fixed_and_ecn_survives() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &Security { tunnel_mode: true, ..security() }, 1);
    // Expedited forwarding, ECT(0).
    let sent = packet(host(1), host(2), b"x").with(|fields| fields.tos = 46 << 2 | 2);
    a.host_sends(&sent.bytes());
    let carried = run_all(&mut [&mut a, &mut b]);
    assert_eq!((outer(&carried[0]).tos(), outer(&carried[0]).ttl()), (46 << 2 | 2, 63));
    assert_eq!(b.host_received(), [sent.after_hops(2)]);

    a.tunnel(|tunnel| (tunnel.ttl, tunnel.tos) = (Some(200), Some(0x20)));
    a.tunnel(|tunnel| tunnel.dont_fragment = false);
    a.publish();
    a.host_sends(&sent.bytes());
    let carried = run_all(&mut [&mut a, &mut b]);
    let header = outer(&carried[0]);
    assert_eq!((header.tos(), header.ttl(), header.dont_fragment()), (0x20 | 2, 200, false));
    assert_eq!(b.host_received(), [sent.after_hops(2)], "the inner TOS stays");
}

#[test]
fn congestion_on_the_way_is_shown_inside() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    for (inner, drops) in [(2, vec![]), (0, vec![(DropReason::EcnCongestion, 1)])] {
        let sent = packet(host(1), host(2), b"x").with(|fields| fields.tos = inner);
        a.host_sends(&sent.bytes());
        a.run();
        let mut frame = a.sent(WAN).remove(0);
        let (header, _) = ipv4::Header::view_mut(&mut frame[eth::Header::LEN..]).unwrap();
        header.set_tos(header.tos() | 3);
        b.deliver(WAN, &frame);
        b.run();
        let expected = sent.with(|fields| fields.tos = 3).after_hops(2);
        assert_eq!(b.host_received(), if drops.is_empty() { vec![expected] } else { vec![] });
        assert_eq!(b.drops(), drops);
    }
}

#[test]
fn fragments_of_what_is_too_large_for_the_tunnel() {
    for nat in [false, true] {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        connect(&mut a, &mut b, &Security { nat, ..security() }, 1);
        let payload: Vec<u8> = (0..4000).map(|n: u32| n.to_le_bytes()[0]).collect();
        let sent = packet(host(1), host(2), &payload);
        // More in one batch than leave the encrypt stage at once.
        for _ in 0..40 {
            a.host_sends(&sent.bytes());
        }
        run_all(&mut [&mut a, &mut b]);
        let received = b.host_received();
        assert_eq!(received.len(), 120);
        for fragments in received.chunks(3) {
            let mut whole = Vec::new();
            for (n, fragment) in (0..).zip(fragments) {
                let fragment = ipv4::Packet::parse(fragment).unwrap();
                assert!(fragment.header.total_length() <= TUNNEL_MTU);
                assert_eq!(usize::from(fragment.header.fragment_offset()), whole.len());
                assert_eq!(fragment.header.more_fragments(), n < 2);
                assert_eq!((fragment.header.ttl(), fragment.header.identification()), (62, 7));
                whole.extend_from_slice(fragment.payload);
            }
            assert_eq!(whole, payload);
        }
        assert_eq!((a.drops(), b.drops()), (vec![], vec![]));
        assert_eq!((a.pool.in_use(), b.pool.in_use()), (0, 0));
    }
}

#[test]
fn a_fragment_is_cut_again_and_options_stay_where_they_belong() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    // Router alert (RFC 2113), which goes into every fragment; a timestamp option, which does not (RFC 791).
    let options = [0x94, 4, 0, 0, 68, 8, 5, 0, 0, 0, 0, 0];
    let payload: Vec<u8> = (0..2400).map(|n: u32| n.to_le_bytes()[0]).collect();
    let mut bytes = packet(host(1), host(2), &[&options, &payload[..]].concat()).bytes();
    bytes[0] = 0x48;
    // "More fragments", offset 800.
    bytes[6..8].copy_from_slice(&(0x2000u16 | 100).to_be_bytes());
    bytes[10..12].fill(0);
    let sum = dmvpn_wire::checksum::checksum(&bytes[..32]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    a.host_sends(&bytes);
    run_all(&mut [&mut a, &mut b]);

    let received = b.host_received();
    let parsed: Vec<_> = received.iter().map(|bytes| ipv4::Packet::parse(bytes).unwrap()).collect();
    assert_eq!(parsed.len(), 2);
    assert_eq!(parsed[0].options, options);
    assert_eq!(parsed[1].options, [0x94, 4, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
    assert!(parsed.iter().all(|fragment| fragment.header.more_fragments()));
    assert_eq!(usize::from(parsed[1].header.fragment_offset()), 800 + parsed[0].payload.len());
    assert_eq!([parsed[0].payload, parsed[1].payload].concat(), payload);
}

#[test]
fn fragments_that_would_end_beyond_any_packet_are_not_cut_further() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    let mut bytes = packet(host(1), host(2), &[0; 1400]).bytes();
    // Offset 65528.
    bytes[6..8].copy_from_slice(&0x1fffu16.to_be_bytes());
    bytes[10..12].fill(0);
    let sum = dmvpn_wire::checksum::checksum(&bytes[..20]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    a.host_sends(&bytes);
    run_all(&mut [&mut a, &mut b]);
    assert_eq!(a.drops(), [(DropReason::Ipv4Header, 1)]);
}
