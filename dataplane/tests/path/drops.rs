//! Every reason to drop a packet, provoked and counted.

use std::net::Ipv4Addr;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes128Gcm, KeyInit};
use dmvpn_dataplane::{DropReason, Pool};
use dmvpn_tables::esp::{OutboundSa, SealJob, seal};
use dmvpn_tables::{Adjacency, Endpoints, Inject, Mode, NeighborId, Path, Peer, PortId, PortInfo, TunnelId};
use dmvpn_wire::{EtherType, IpProtocol, MacAddr, View, eth, udp};

use crate::lab::*;

/// Most packets of one kind about one thing that go to the control thread in a moment.
const LIMIT: usize = 8;

#[test]
fn every_reason_is_reached_and_counted_once() {
    for &reason in DropReason::ALL {
        let Some(mut site) = provoke(reason) else { continue };
        site.run();
        assert_eq!(site.drops(), [(reason, 1)], "{}", reason.name());
    }
}

/// A site that has been given what it is to drop for `reason`. `None` where that cannot be done from outside.
fn provoke(reason: DropReason) -> Option<Site> {
    let mut site = Site::new(1);
    let somebody = Ipv4Addr::new(203, 0, 113, 9);
    let me = wan_address(1);
    match reason {
        DropReason::Runt => site.deliver(WAN, &[2, 0, 0]),
        DropReason::OtherStation => {
            let frame =
                ethernet(MacAddr([2, 7, 7, 7, 7, 7]), host_mac(1), &packet(somebody, me, b"").bytes());
            site.deliver(WAN, &frame);
        }
        DropReason::Vlan => site.deliver(WAN, &typed(EtherType::VLAN)),
        DropReason::EtherType => site.deliver(WAN, &typed(EtherType::IPV6)),
        DropReason::UnknownPort => {
            let wan_only: Vec<PortInfo> = site.snapshot.ports[..1].to_vec();
            site.snapshot.ports = wan_only.into();
            site.publish();
            site.host_sends(&packet(host(1), somebody, b"").bytes());
        }
        DropReason::Ipv4Header => {
            let mut bytes = packet(host(1), somebody, b"").bytes();
            bytes[10] ^= 1;
            site.host_sends(&bytes);
        }
        DropReason::MartianSource => site.wan_sends(&packet(Ipv4Addr::LOCALHOST, me, b"").bytes()),
        DropReason::MartianDestination => {
            site.wan_sends(&packet(somebody, Ipv4Addr::new(240, 0, 0, 1), b"").bytes());
        }
        DropReason::OwnSource => site.wan_sends(&packet(lan_address(1), host(1), b"").bytes()),
        DropReason::FragmentToUs => {
            let mut bytes = esp_packet(somebody, me, &[0; 100]);
            bytes[6] = 0x20;
            refill_checksum(&mut bytes);
            site.wan_sends(&bytes);
        }
        DropReason::UdpLength => {
            let mut bytes = udp_packet(somebody, me, 4500, &[0; 12]);
            bytes[24..26].copy_from_slice(&200u16.to_be_bytes());
            site.wan_sends(&bytes);
        }
        DropReason::NatKeepalive => site.wan_sends(&udp_packet(somebody, me, 4500, &udp::NAT_KEEPALIVE)),
        DropReason::ClearGreOnProtected => site.wan_sends(&gre_packet(somebody, me, &gre(KEY))),
        DropReason::GreNoTunnel => site.wan_sends(&gre_packet(somebody, me, &gre(KEY + 1))),
        DropReason::GreHeader => site.wan_sends(&gre_packet(somebody, me, &[0x20, 1, 8, 0, 0, 0, 0, 1])),
        DropReason::GreKey => site = sealed(&security(), 47, &gre(KEY + 1)),
        DropReason::GreProtocol => site = sealed(&security(), 47, &[0x20, 0, 0x86, 0xdd, 0, 0, 0, 1]),
        DropReason::UnknownSpi => site.wan_sends(&esp_packet(somebody, me, &[9; 100])),
        DropReason::EspEncapsulation => {
            let outbound = receive_from(&mut site, 2, &Security { nat: true, ..security() }, 1);
            site.wan_sends(&esp_packet(wan_address(2), me, &esp(&outbound, 47, &gre(KEY))));
        }
        DropReason::EspLength => {
            let outbound = receive_from(&mut site, 2, &security(), 1);
            let esp = esp(&outbound, 47, &gre(KEY));
            site.wan_sends(&esp_packet(wan_address(2), me, &esp[..esp.len() - 1]));
        }
        DropReason::EspReplay => {
            let mut other = Site::new(2);
            connect(&mut site, &mut other, &security(), 1);
            other.host_sends(&packet(host(2), host(1), b"").bytes());
            other.run();
            let frame = other.sent(WAN).remove(0);
            site.deliver(WAN, &frame);
            site.deliver(WAN, &frame);
        }
        DropReason::EspAuthentication => {
            let outbound = receive_from(&mut site, 2, &security(), 1);
            let mut esp = esp(&outbound, 47, &gre(KEY));
            esp[30] ^= 1;
            site.wan_sends(&esp_packet(wan_address(2), me, &esp));
        }
        DropReason::EspPadding => {
            let gcm = Security { suite: "aes128gcm".parse().unwrap(), ..security() };
            receive_from(&mut site, 2, &gcm, 1);
            site.wan_sends(&esp_packet(wan_address(2), me, &wrongly_padded(spi(1, 2, 1))));
        }
        DropReason::EspDummy => site = sealed(&security(), 59, &[0; 20]),
        DropReason::EspNextHeader => site = sealed(&security(), 6, &[0; 20]),
        DropReason::EspInnerHeader => {
            let inner = gre_packet(wan_address(2), wan_address(3), &gre(KEY));
            site = sealed(&Security { tunnel_mode: true, ..security() }, 4, &inner);
        }
        DropReason::EcnCongestion => {
            site.tunnel(|tunnel| tunnel.protected = false);
            site.publish();
            let inner = packet(host(2), host(1), b"").bytes();
            let congested = packet(wan_address(2), me, &[gre(KEY), inner].concat())
                .with(|fields| (fields.protocol, fields.tos) = (IpProtocol::GRE, 3));
            site.wan_sends(&congested.bytes());
        }
        DropReason::SourceInTunnel => {
            site.route("192.168.2.0/24", Adjacency::Resolving { tunnel: TUNNEL, via: None });
            site.publish();
            site.wan_sends(&packet(host(2), host(1), b"").bytes());
        }
        DropReason::NotForwarded => site.host_sends(&packet(host(1), Ipv4Addr::BROADCAST, b"").bytes()),
        DropReason::TtlExceeded => {
            site.route("0.0.0.0/0", Adjacency::Neighbor(HOST_NEIGHBOR));
            site.publish();
            let last_hop = packet(host(1), somebody, b"").with(|fields| fields.ttl = 1);
            one_too_many(&mut site, &last_hop);
        }
        DropReason::Unreachable => one_too_many(&mut site, &packet(host(1), somebody, b"")),
        DropReason::Unresolved => {
            site.route("10.0.0.0/24", Adjacency::Resolving { tunnel: TUNNEL, via: None });
            site.publish();
            one_too_many(&mut site, &packet(host(1), overlay_address(7), b""));
        }
        DropReason::Glean => one_too_many(&mut site, &packet(host(1), Ipv4Addr::new(192, 168, 1, 77), b"")),
        DropReason::NoPeer => {
            site.route("0.0.0.0/0", Adjacency::Tunnel(peer(9)));
            site.publish();
            site.host_sends(&packet(host(1), somebody, b"").bytes());
        }
        DropReason::NoTunnel => {
            receive_from(&mut site, 2, &security(), 1);
            let (outbound, _) = sa_pair(security().suite, 77);
            let endpoints = Endpoints { local: Ipv4Addr::UNSPECIFIED, remote: wan_address(2), udp: None };
            let path = Path::Esp { sa: std::sync::Arc::new(outbound), mode: Mode::Transport };
            let entry =
                Peer::new(peer(2), &site.snapshot.tunnels[0], endpoints, path, NeighborId(2)).unwrap();
            site.snapshot.peers.set(peer(2).index(), Some(entry));
            site.route("0.0.0.0/0", Adjacency::Tunnel(peer(2)));
            site.publish();
            site.host_sends(&packet(host(1), somebody, b"").bytes());
        }
        DropReason::ClearPathOnProtected => {
            site.tunnel(|tunnel| tunnel.protected = false);
            site.set_peer(2, Path::Clear, None);
            site.tunnel(|tunnel| tunnel.protected = true);
            site.publish();
            site.host_sends(&packet(host(1), host(2), b"").bytes());
        }
        // It would take 2^32 packets. The tests of the esp crate set the number.
        DropReason::SequenceExhausted => return None,
        DropReason::FragmentationNeeded => {
            let mut other = Site::new(2);
            connect(&mut site, &mut other, &security(), 1);
            let large = packet(host(1), host(2), &[0; 1400]).with(|fields| fields.dont_fragment = true);
            one_too_many(&mut site, &large);
        }
        DropReason::TooManyFragments => {
            let mut other = Site::new(2);
            site.tunnel(|tunnel| tunnel.mtu = 68);
            connect(&mut site, &mut other, &security(), 1);
            site.host_sends(&packet(host(1), host(2), &[0; 1400]).bytes());
        }
        DropReason::NoRoom => {
            let jumbo = packet(overlay_address(1), somebody, &[0; 9300]).bytes();
            site.workers[0].control.injector.send(Inject::Packet(jumbo)).unwrap();
        }
        DropReason::NoBuffer => {
            let all: Vec<_> = std::iter::from_fn(|| site.pool.alloc()).collect();
            site.workers[0].control.injector.send(Inject::Packet(packet(me, somebody, b"").bytes())).unwrap();
            site.run();
            drop(all);
        }
        DropReason::ReplicationFull => {
            let mut other = Site::new(2);
            connect(&mut site, &mut other, &security(), 1);
            // One more than wait their turn, and the first takes more than one poll.
            site.tunnel(|tunnel| tunnel.multicast = [peer(2); 70].into());
            site.publish();
            for _ in 0..17 {
                let hello = packet(overlay_address(1), Ipv4Addr::new(224, 0, 0, 5), b"").bytes();
                let inject = Inject::Multicast { tunnel: TunnelId(0), packet: hello };
                site.workers[0].control.injector.send(inject).unwrap();
            }
            while site.workers[0].worker.poll(site.now, || 0) {
                site.sent(WAN);
            }
        }
        DropReason::HandoffFull => {
            site = Site::with_workers(1, 2);
            let outbound = receive_from(&mut site, 2, &security(), 1);
            let esp = esp(&outbound, 47, &gre(KEY));
            let owner = usize::from(site.owner(2).0);
            // One more than the ring holds, while the owner sleeps.
            for _ in 0..257 {
                let frame = ethernet(wan_mac(1), wan_mac(2), &esp_packet(wan_address(2), me, &esp));
                site.deliver_to(1 - owner, WAN, &frame);
                site.workers[1 - owner].worker.poll(site.now, || 0);
            }
            return Some(only_worker(site, 1 - owner));
        }
        DropReason::NoNeighbor => {
            site.route("0.0.0.0/0", Adjacency::Neighbor(NeighborId(77)));
            site.publish();
            site.host_sends(&packet(host(1), somebody, b"").bytes());
        }
        DropReason::NeighborUnresolved => {
            site.route("0.0.0.0/0", Adjacency::Neighbor(NeighborId(5)));
            let unknown = dmvpn_tables::Neighbor { port: WAN, address: somebody, mac: None };
            site.snapshot.neighbors.set(5, Some(unknown));
            site.publish();
            one_too_many(&mut site, &packet(host(1), somebody, b""));
        }
        DropReason::OuterTooLarge => {
            let mut other = Site::new(2);
            site.tunnel(|tunnel| tunnel.mtu = 1500);
            connect(&mut site, &mut other, &security(), 1);
            site.host_sends(&packet(host(1), host(2), &[0; 1480]).bytes());
        }
        DropReason::NoPort => {
            let frame = typed(EtherType::ARP);
            site.workers[0].control.injector.send(Inject::Frame { port: PortId(9), frame }).unwrap();
        }
        DropReason::TxFull => {
            site.route("0.0.0.0/0", Adjacency::Neighbor(HOST_NEIGHBOR));
            site.publish();
            // What the cable holds, what waits for the next poll, and one more.
            for _ in 0..256 + 64 + 1 {
                site.wan_sends(&packet(somebody, host(1), b"").bytes());
                site.run();
            }
        }
        DropReason::PuntFull => {
            for _ in 0..513 {
                site.wan_sends(&udp_packet(somebody, me, 500, &[0; 28]));
                site.run();
            }
        }
        DropReason::InjectFull => {
            let frame = typed(EtherType::ARP);
            let inject = Inject::Frame { port: WAN, frame };
            // One more than the ring holds, while the worker sleeps.
            while site.workers[0].control.injector.send(inject.clone()).is_ok() {}
            while site.workers[0].worker.poll(site.now, || 0) {
                site.sent(WAN);
            }
        }
    }
    Some(site)
}

/// Sends one packet more than the control thread is bothered with at a time.
fn one_too_many(site: &mut Site, packet: &Packet) {
    for _ in 0..=LIMIT {
        site.host_sends(&packet.bytes());
    }
    site.run();
    assert_eq!(site.punts().len(), LIMIT);
}

/// The site with the counters of one worker, the others removed unpolled.
fn only_worker(mut site: Site, worker: usize) -> Site {
    site.workers = vec![site.workers.remove(worker)];
    site
}

/// Site 1, to which site 2 has sent `payload` by ESP.
fn sealed(security: &Security, next_header: u8, payload: &[u8]) -> Site {
    let mut site = Site::new(1);
    let outbound = receive_from(&mut site, 2, security, 1);
    site.wan_sends(&esp_packet(wan_address(2), wan_address(1), &esp(&outbound, next_header, payload)));
    site
}

pub(crate) fn esp(sa: &OutboundSa, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; sa.suite().sealed_len(payload.len())];
    bytes[sa.suite().payload_offset()..][..payload.len()].copy_from_slice(payload);
    seal(&mut [SealJob::new(sa, &mut bytes, payload.len(), next_header)]);
    bytes
}

/// An authentic packet for the AES-128-GCM SA of [`sa_pair`] whose padding is 1, 2, 4.
fn wrongly_padded(spi: u32) -> Vec<u8> {
    let keymat: Vec<u8> = (0..20).map(|n: u32| (n * 7 + spi * 13).to_le_bytes()[0]).collect();
    let header = [spi.to_be_bytes(), 1u32.to_be_bytes()].concat();
    let iv = [7; 8];
    let nonce: [u8; 12] = [&keymat[16..], &iv].concat().try_into().unwrap();
    let mut body = [&gre(KEY)[..], &[0; 7], &[1, 2, 4, 3, 47]].concat();
    let cipher = Aes128Gcm::new_from_slice(&keymat[..16]).unwrap();
    let tag = cipher.encrypt_inout_detached(&nonce.into(), &header, body.as_mut_slice().into()).unwrap();
    [&header[..], &iv, &body, &tag].concat()
}

/// A GRE header with this key, for IPv4.
pub(crate) fn gre(key: u32) -> Vec<u8> {
    [&[0x20, 0, 0x08, 0][..], &key.to_be_bytes()].concat()
}

pub(crate) fn gre_packet(source: Ipv4Addr, destination: Ipv4Addr, gre: &[u8]) -> Vec<u8> {
    packet(source, destination, gre).with(|fields| fields.protocol = IpProtocol::GRE).bytes()
}

pub(crate) fn esp_packet(source: Ipv4Addr, destination: Ipv4Addr, esp: &[u8]) -> Vec<u8> {
    packet(source, destination, esp).with(|fields| fields.protocol = IpProtocol::ESP).bytes()
}

pub(crate) fn udp_packet(source: Ipv4Addr, destination: Ipv4Addr, port: u16, data: &[u8]) -> Vec<u8> {
    let header = udp::Header::new(port, port, data.len()).unwrap();
    let payload = [header.octets(), data].concat();
    packet(source, destination, &payload).with(|fields| fields.protocol = IpProtocol::UDP).bytes()
}

/// A frame for site 1 of another type than IPv4.
fn typed(ether_type: EtherType) -> Vec<u8> {
    [eth::Header::new(wan_mac(1), host_mac(1), ether_type).octets(), &[0; 46]].concat()
}

fn refill_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = dmvpn_wire::checksum::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn a_window_later_packets_go_up_again() {
    let mut site = Site::new(1);
    let unroutable = packet(host(1), Ipv4Addr::new(203, 0, 113, 9), b"");
    one_too_many(&mut site, &unroutable);
    site.now += 100_000;
    one_too_many(&mut site, &unroutable);
    run_all(&mut [&mut site]);
    assert_eq!(site.drops(), [(DropReason::Unreachable, 2)]);
}

#[test]
fn addresses_are_checked_inside_a_tunnel_too() {
    for (source, reason) in [
        (Ipv4Addr::new(127, 0, 0, 1), DropReason::MartianSource),
        (Ipv4Addr::new(239, 0, 0, 1), DropReason::MartianSource),
        (overlay_address(1), DropReason::OwnSource),
        (wan_address(1), DropReason::OwnSource),
    ] {
        let inner = packet(source, host(1), b"").bytes();
        let mut site = sealed(&security(), 47, &[gre(KEY), inner].concat());
        site.run();
        assert_eq!((site.drops(), site.host_received()), (vec![(reason, 1)], vec![]));
    }
}

#[test]
fn a_link_broadcast_does_not_become_a_unicast() {
    let mut site = Site::new(1);
    let unicast = packet(Ipv4Addr::new(203, 0, 113, 9), host(1), b"").bytes();
    site.deliver(WAN, &ethernet(MacAddr::BROADCAST, host_mac(9), &unicast));
    site.run();
    assert_eq!((site.drops(), site.host_received()), (vec![(DropReason::NotForwarded, 1)], vec![]));
}

#[test]
fn an_empty_pool_costs_packets_but_no_buffers() {
    let (mut site, mut other) = (Site::new(1), Site::new(2));
    connect(&mut site, &mut other, &security(), 1);
    site.tunnel(|tunnel| tunnel.multicast = [peer(2); 3].into());
    site.publish();
    let mut all: Vec<_> = std::iter::from_fn(|| site.pool.alloc()).collect();
    // Two fragments more than the packet's own buffer, and the copy that reports an SPI.
    all.truncate(all.len() - 2);
    site.host_sends(&packet(host(1), host(2), &[0; 4000]).bytes());
    site.wan_sends(&esp_packet(wan_address(2), wan_address(1), &[9; 100]));
    site.run();
    // Dropping the unknown one gave a buffer back, which was one too few.
    assert_eq!(site.sent(WAN).len(), 0);
    assert_eq!(site.drops(), [(DropReason::UnknownSpi, 1), (DropReason::NoBuffer, 2)]);

    // Copies. The injected packet takes the one buffer that is left, and goes out itself as the last of three.
    all.push(site.pool.alloc().unwrap());
    let hello = packet(overlay_address(1), Ipv4Addr::new(224, 0, 0, 5), b"").bytes();
    site.workers[0].control.injector.send(Inject::Multicast { tunnel: TUNNEL, packet: hello }).unwrap();
    site.run();
    assert_eq!(site.sent(WAN).len(), 1);
    assert_eq!(site.drops(), [(DropReason::UnknownSpi, 1), (DropReason::NoBuffer, 4)]);
    drop(all);
    assert_eq!(site.pool.in_use(), 0);
}
