//! What the control thread gets to see, and what it injects.

use std::net::{Ipv4Addr, SocketAddrV4};

use dmvpn_dataplane::DropReason;
use dmvpn_tables::{Adjacency, Inject, Neighbor, Path, Punt, PuntReason, UdpPorts, WorkerId};
use dmvpn_wire::{EtherType, IpProtocol, MacAddr, View, eth, ipv4, udp};

use crate::drops::{esp_packet, gre_packet, udp_packet};
use crate::lab::*;

const SOMEBODY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// Runs a site, which is to hand up exactly one packet.
fn punted(site: &mut Site, reason: PuntReason, packet: &[u8]) {
    site.run();
    assert_eq!(site.punts(), [Punt { reason, packet: packet.to_vec() }]);
}

#[test]
fn arp_with_its_ethernet_header() {
    let mut site = Site::new(1);
    for destination in [MacAddr::BROADCAST, lan_mac(1)] {
        let frame = [eth::Header::new(destination, host_mac(1), EtherType::ARP).octets(), &[7; 46]].concat();
        site.deliver(LAN, &frame);
        punted(&mut site, PuntReason::Arp { port: LAN }, &frame);
    }
}

#[test]
fn dhcp_replies_to_us_but_not_those_that_pass_through() {
    let mut site = Site::new(1);
    site.route("0.0.0.0/0", Adjacency::Neighbor(HOST_NEIGHBOR));
    let reply = |destination: Ipv4Addr| {
        let header = udp::Header::new(udp::DHCP_SERVER, udp::DHCP_CLIENT, 4).unwrap();
        let payload = [header.octets(), &[1; 4]].concat();
        packet(SOMEBODY, destination, &payload).with(|fields| fields.protocol = IpProtocol::UDP)
    };
    let to_all = reply(Ipv4Addr::BROADCAST).bytes();
    site.deliver(WAN, &ethernet(MacAddr::BROADCAST, host_mac(9), &to_all));
    punted(&mut site, PuntReason::Dhcp { port: WAN }, &to_all);

    site.wan_sends(&reply(wan_address(1)).bytes());
    punted(&mut site, PuntReason::Dhcp { port: WAN }, &reply(wan_address(1)).bytes());

    site.publish();
    site.wan_sends(&reply(SOMEBODY).bytes());
    site.run();
    assert_eq!(site.host_received(), [reply(SOMEBODY).after_hops(1)]);

    // Without an address we cannot know which one the reply offers us.
    let mut ports = site.snapshot.ports.to_vec();
    ports[0].address = Ipv4Addr::UNSPECIFIED;
    site.snapshot.ports = ports.into();
    site.publish();
    site.wan_sends(&reply(SOMEBODY).bytes());
    punted(&mut site, PuntReason::Dhcp { port: WAN }, &reply(SOMEBODY).bytes());
}

#[test]
fn ike_on_both_ports() {
    let plain = udp_packet(SOMEBODY, wan_address(1), 500, b"ike");
    let floated = udp_packet(SOMEBODY, wan_address(1), 4500, b"\0\0\0\0ike");
    let mut site = Site::with_workers(1, 2);
    for (worker, id) in [(0, WorkerId(0)), (1, WorkerId(1))] {
        for packet in [&plain, &floated] {
            site.deliver_to(worker, WAN, &ethernet(wan_mac(1), wan_mac(2), packet));
            punted(&mut site, PuntReason::Ike { port: WAN, worker: id }, packet);
        }
    }
}

#[test]
fn nhrp_out_of_an_sa_tells_the_peer() {
    for tunnel_mode in [false, true] {
        let security = Security { tunnel_mode, ..security() };
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        connect(&mut a, &mut b, &security, 1);
        let inject =
            Inject::Gre { peer: peer(2), protocol: EtherType::NHRP.0, payload: b"nhrp message".to_vec() };
        a.workers[0].control.injector.send(inject).unwrap();
        let carried = run_all(&mut [&mut a, &mut b]);
        assert!(!any_contains(&carried, b"nhrp"));
        assert_eq!(outer(&carried[0]).tos(), 0xc0, "network control");
        let reason = PuntReason::Nhrp { tunnel: TUNNEL, peer: Some(peer(1)), source: wan_address(1) };
        punted(&mut b, reason, b"nhrp message");
    }
}

#[test]
fn nhrp_in_the_clear_tells_only_the_address_and_needs_an_unprotected_tunnel() {
    let mut site = Site::new(1);
    let message =
        gre_packet(SOMEBODY, wan_address(1), &[&[0x20, 0, 0x20, 1, 0, 0, 0, 1], &b"nhrp"[..]].concat());
    site.wan_sends(&message);
    site.run();
    assert_eq!((site.punts(), site.drops()), (vec![], vec![(DropReason::ClearGreOnProtected, 1)]));

    site.tunnel(|tunnel| tunnel.protected = false);
    site.publish();
    site.wan_sends(&message);
    punted(&mut site, PuntReason::Nhrp { tunnel: TUNNEL, peer: None, source: SOMEBODY }, b"nhrp");
}

#[test]
fn packets_for_the_box_itself_untouched() {
    let mut site = Site::new(1);
    // The last hop is enough to get here.
    let ping = packet(host(1), overlay_address(1), b"ping").with(|fields| fields.ttl = 1).bytes();
    site.host_sends(&ping);
    punted(&mut site, PuntReason::Local { tunnel: None }, &ping);

    let mut other = Site::new(2);
    connect(&mut site, &mut other, &security(), 1);
    other.host_sends(&packet(host(2), overlay_address(1), b"ping").bytes());
    run_all(&mut [&mut site, &mut other]);
    let arrived = packet(host(2), overlay_address(1), b"ping").after_hops(1);
    punted(&mut site, PuntReason::Local { tunnel: Some(TUNNEL) }, &arrived);
}

#[test]
fn an_unresolved_next_hop_is_reported_while_packets_go_through_the_hub() {
    let (mut a, mut hub) = (Site::new(2), Site::new(1));
    connect(&mut a, &mut hub, &security(), 1);
    a.route("192.168.3.0/24", Adjacency::Resolving { tunnel: TUNNEL, via: Some(peer(1)) });
    a.publish();
    hub.route("192.168.3.0/24", Adjacency::Neighbor(HOST_NEIGHBOR));
    hub.publish();
    let sent = packet(host(2), host(3), &[3; 200]);
    for _ in 0..5 {
        a.host_sends(&sent.bytes());
    }
    run_all(&mut [&mut a, &mut hub]);
    assert_eq!(hub.host_received(), vec![sent.after_hops(2); 5], "not one is lost");
    let reason = PuntReason::Unresolved { tunnel: TUNNEL, held: false };
    assert_eq!(a.punts(), [Punt { reason, packet: sent.bytes()[..84].to_vec() }], "once is enough");
    assert_eq!(a.drops(), []);
}

#[test]
fn what_nobody_can_forward_yet_waits_with_the_control_thread_and_comes_back() {
    let mut site = Site::new(1);
    site.route("10.0.0.0/24", Adjacency::Resolving { tunnel: TUNNEL, via: None });
    site.publish();
    let sent = packet(host(1), overlay_address(2), b"waits");
    site.host_sends(&sent.bytes());
    site.run();
    let punts = site.punts();
    let reason = PuntReason::Unresolved { tunnel: TUNNEL, held: true };
    assert_eq!(punts, [Punt { reason, packet: sent.after_hops(1) }]);

    let mut other = Site::new(2);
    connect(&mut site, &mut other, &security(), 1);
    site.workers[0].control.injector.send(Inject::Packet(punts[0].packet.clone())).unwrap();
    run_all(&mut [&mut site, &mut other]);
    punted(&mut other, PuntReason::Local { tunnel: Some(TUNNEL) }, &sent.after_hops(1));
}

#[test]
fn a_station_of_a_connected_network() {
    let mut site = Site::new(1);
    let sent = packet(SOMEBODY, Ipv4Addr::new(192, 168, 1, 20), b"");
    site.wan_sends(&sent.bytes());
    punted(&mut site, PuntReason::Glean { port: LAN }, &sent.after_hops(1));
}

#[test]
fn a_next_hop_without_a_mac_gets_the_sealed_packet_later() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    let known = Neighbor { port: WAN, address: wan_address(2), mac: Some(wan_mac(2)) };
    a.snapshot.neighbors.set(2, Some(Neighbor { mac: None, ..known }));
    a.publish();
    let sent = packet(host(1), host(2), b"patience");
    a.host_sends(&sent.bytes());
    a.run();
    assert_eq!(a.sent(WAN), Vec::<Vec<u8>>::new());
    let [punt] = &a.punts()[..] else { panic!() };
    assert_eq!(punt.reason, PuntReason::NeighborUnresolved { neighbor: dmvpn_tables::NeighborId(2) });
    assert_eq!(ipv4::Packet::parse(&punt.packet).unwrap().header.protocol(), IpProtocol::ESP);

    a.snapshot.neighbors.set(2, Some(known));
    a.route("198.51.100.2/32", Adjacency::Neighbor(dmvpn_tables::NeighborId(2)));
    a.publish();
    a.workers[0].control.injector.send(Inject::Packet(punt.packet.clone())).unwrap();
    run_all(&mut [&mut a, &mut b]);
    assert_eq!(b.host_received(), [sent.after_hops(2)]);
}

#[test]
fn what_icmp_has_to_answer() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    let expired = packet(host(1), host(2), b"").with(|fields| fields.ttl = 1).bytes();
    a.host_sends(&expired);
    punted(&mut a, PuntReason::TtlExceeded, &expired);

    let unroutable = packet(host(1), SOMEBODY, b"").bytes();
    a.host_sends(&unroutable);
    punted(&mut a, PuntReason::Unreachable, &unroutable);

    let large = packet(host(1), host(2), &[0; 1341]).with(|fields| fields.dont_fragment = true);
    a.host_sends(&large.bytes());
    punted(&mut a, PuntReason::FragmentationNeeded { mtu: TUNNEL_MTU }, &large.after_hops(1));

    let mut ports = a.snapshot.ports.to_vec();
    ports[1].mtu = 1000;
    a.snapshot.ports = ports.into();
    a.publish();
    let large = packet(SOMEBODY, host(1), &[0; 981]).with(|fields| fields.dont_fragment = true);
    a.wan_sends(&large.bytes());
    punted(&mut a, PuntReason::FragmentationNeeded { mtu: 1000 }, &large.after_hops(1));
    a.wan_sends(&large.with(|fields| fields.dont_fragment = false).bytes());
    a.run();
    assert_eq!(a.host_received().len(), 2, "cut for the port");
}

#[test]
fn a_packet_back_to_the_server_that_sent_it_does_not_loop() {
    let (mut spoke, mut hub) = (Site::new(2), Site::new(1));
    connect(&mut spoke, &mut hub, &security(), 1);
    spoke.route("192.168.3.0/24", Adjacency::Resolving { tunnel: TUNNEL, via: Some(peer(1)) });
    spoke.publish();
    hub.snapshot.fib.insert(net("192.168.3.0/24"), tunnel_adjacency(2));
    hub.publish();
    let sent = packet(host(1), host(3), b"");
    hub.host_sends(&sent.bytes());
    let carried = run_all(&mut [&mut spoke, &mut hub]);
    assert_eq!(carried.len(), 1);
    punted(&mut spoke, PuntReason::Unreachable, &sent.after_hops(1));
}

#[test]
fn a_peer_that_moved_is_reported_once_it_has_proved_itself() {
    for nat in [false, true] {
        let (mut a, mut b) = (Site::new(1), Site::new(2));
        connect(&mut a, &mut b, &Security { nat, ..security() }, 1);
        let mut frames = Vec::new();
        for _ in 0..3 {
            a.host_sends(&packet(host(1), host(2), b"roaming").bytes());
            a.run();
            frames.append(&mut a.sent(WAN));
        }
        let from = |frame: &[u8], source: Ipv4Addr, port: u16| {
            let mut frame = frame.to_vec();
            let (header, rest) = ipv4::Header::view_mut(&mut frame[eth::Header::LEN..]).unwrap();
            header.set_source(source);
            if nat {
                rest[..2].copy_from_slice(&port.to_be_bytes());
            }
            frame
        };
        b.deliver(WAN, &from(&frames[1], SOMEBODY, 4500));
        let to = SocketAddrV4::new(SOMEBODY, if nat { 4500 } else { 0 });
        punted(&mut b, PuntReason::PeerMoved { peer: peer(1), to }, &[]);
        assert_eq!(b.host_received().len(), 1, "and the packet goes its way");

        // Held back by somebody: older than what has arrived, so it moves nobody, though it is new.
        b.now += 1_000_000;
        b.deliver(WAN, &from(&frames[0], Ipv4Addr::new(203, 0, 113, 66), 4500));
        b.run();
        assert_eq!((b.host_received().len(), b.punts()), (1, vec![]));

        // Forged.
        let mut forged = from(&frames[2], Ipv4Addr::new(203, 0, 113, 66), 4500);
        *forged.last_mut().unwrap() ^= 1;
        b.deliver(WAN, &forged);
        b.run();
        assert_eq!((b.host_received().len(), b.punts()), (0, vec![]));

        if nat {
            b.deliver(WAN, &from(&frames[2], wan_address(1), 40_000));
            let to = SocketAddrV4::new(wan_address(1), 40_000);
            punted(&mut b, PuntReason::PeerMoved { peer: peer(1), to }, &[]);
        }
    }
}

#[test]
fn packets_go_to_the_port_that_a_nat_shows() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &Security { nat: true, ..security() }, 1);
    let Path::Esp { sa, mode } = a.snapshot.peer(peer(2)).unwrap().path().clone() else { panic!() };
    a.set_peer(2, Path::Esp { sa, mode }, Some(UdpPorts { local: 4500, remote: 40_000 }));
    a.publish();
    a.host_sends(&packet(host(1), host(2), b"").bytes());
    let carried = run_all(&mut [&mut a, &mut b]);
    let (udp, _) = udp::Header::parse(&carried[0][34..]).unwrap();
    assert_eq!((udp.source_port(), udp.destination_port()), (4500, 40_000));
}

#[test]
fn an_unknown_spi_is_reported_with_the_start_of_the_packet() {
    let mut site = Site::new(1);
    let sent = esp_packet(SOMEBODY, wan_address(1), &[0xab; 100]);
    for _ in 0..3 {
        site.wan_sends(&sent);
    }
    punted(&mut site, PuntReason::UnknownSpi { spi: 0xabab_abab }, &sent[..28]);
    assert_eq!(site.drops(), [(DropReason::UnknownSpi, 3)]);
}

#[test]
fn injected_frames_and_packets() {
    let mut site = Site::new(1);
    let frame =
        [eth::Header::new(MacAddr::BROADCAST, wan_mac(1), EtherType::ARP).octets(), &[1; 28]].concat();
    site.workers[0].control.injector.send(Inject::Frame { port: WAN, frame: frame.clone() }).unwrap();
    let own = packet(lan_address(1), host(1), b"own").with(|fields| fields.ttl = 1);
    site.workers[0].control.injector.send(Inject::Packet(own.bytes())).unwrap();
    let broken = own.bytes()[..21].to_vec();
    site.workers[0].control.injector.send(Inject::Packet(broken)).unwrap();
    site.run();
    assert_eq!(site.sent(WAN), [frame]);
    assert_eq!(site.host_received(), [own.bytes()], "without a hop taken off");
    assert_eq!(site.drops(), [(DropReason::Ipv4Header, 1)]);
    assert_eq!(site.workers[0].control.counters.injected.value(), 3);
}

#[test]
fn counters_of_ports() {
    let mut site = Site::new(1);
    let sent = packet(SOMEBODY, host(1), &[0; 100]);
    for _ in 0..3 {
        site.wan_sends(&sent.bytes());
    }
    site.run();
    let counters = &site.workers[0].control.counters;
    let (wan, lan) = (counters.port(WAN).unwrap(), counters.port(LAN).unwrap());
    assert_eq!((wan.rx_packets.value(), wan.rx_bytes.value()), (3, 3 * 134));
    assert_eq!((lan.tx_packets.value(), lan.tx_bytes.value()), (3, 3 * 134));
    assert_eq!((wan.tx_packets.value(), lan.rx_packets.value()), (0, 0));
    assert!(counters.polls.value() >= 2);
}
