//! Any bytes into every port: no panic, and every buffer is accounted for.

use dmvpn_dataplane::Buffer;
use dmvpn_tables::Adjacency;
use dmvpn_wire::{EtherType, MacAddr, View, eth};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::drops::{esp_packet, gre, gre_packet, udp_packet};
use crate::lab::*;

/// A hub with two workers and every kind of adjacency.
fn site() -> (Site, Site) {
    let (mut site, mut other) = (Site::with_workers(1, 2), Site::new(2));
    site.tunnel(|tunnel| tunnel.redirect = true);
    connect(&mut site, &mut other, &Security { tunnel_mode: true, ..security() }, 1);
    site.snapshot.fib.insert(net("192.168.3.0/24"), tunnel_adjacency(3));
    site.snapshot
        .adjacencies
        .set(tunnel_adjacency(3).0 as usize, Adjacency::Resolving { tunnel: TUNNEL, via: Some(peer(2)) });
    site.tunnel(|tunnel| tunnel.multicast = [peer(2), peer(9)].into());
    site.publish();
    (site, other)
}

/// Valid frames to start from.
fn templates(other: &mut Site) -> Vec<Vec<u8>> {
    let inner = packet(host(2), host(1), b"inner").bytes();
    let packets = [
        packet(host(2), host(3), &[1; 60]).bytes(),
        packet(host(1), host(2), &[1; 1400]).bytes(),
        packet(host(1), [239, 1, 1, 1].into(), b"").bytes(),
        esp_packet(wan_address(2), wan_address(1), &[7; 80]),
        gre_packet(wan_address(2), wan_address(1), &[gre(KEY), inner].concat()),
        udp_packet(wan_address(2), wan_address(1), 4500, &[0; 40]),
        udp_packet(wan_address(2), wan_address(1), 500, &[1; 40]),
    ];
    other.host_sends(&packet(host(2), host(1), b"sealed").bytes());
    other.run();
    let sealed = other.sent(WAN);
    let arp = [eth::Header::new(MacAddr::BROADCAST, host_mac(1), EtherType::ARP).octets(), &[0; 28]].concat();
    packets
        .iter()
        .map(|packet| ethernet(wan_mac(1), host_mac(1), packet))
        .chain(sealed)
        .chain([arp])
        .collect()
}

#[derive(Debug, Clone)]
enum Damage {
    Nothing,
    Flip(Index, u8),
    Cut(Index),
    Extend(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        Just(Damage::Nothing),
        (any::<Index>(), any::<u8>()).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        any::<Index>().prop_map(Damage::Cut),
        proptest::collection::vec(any::<u8>(), 1..40).prop_map(Damage::Extend),
    ]
}

fn apply(frame: &mut Vec<u8>, damage: &Damage) {
    match damage {
        Damage::Nothing => {}
        Damage::Flip(at, bits) if !frame.is_empty() => {
            let at = at.index(frame.len());
            frame[at] ^= bits;
        }
        Damage::Flip(..) => {}
        Damage::Cut(at) => frame.truncate(at.index(frame.len() + 1)),
        Damage::Extend(bytes) => frame.extend_from_slice(bytes),
    }
    // Behind a wrong checksum nothing is looked at, so most headers get a right one.
    if frame.len() >= 34 && frame[14] == 0x45 && !matches!(damage, Damage::Flip(at, _) if at.index(4) == 0) {
        frame[24..26].fill(0);
        let sum = dmvpn_wire::checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Runs the site and checks that all its buffers come out somewhere.
fn settle(site: &mut Site) {
    site.run();
    site.sent(WAN);
    site.sent(LAN);
    site.punts();
    assert_eq!(site.pool.in_use(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn damaged_packets(
        frames in proptest::collection::vec(
            (any::<Index>(), proptest::collection::vec(damage(), 0..4), any::<bool>(), 0usize..2),
            1..64,
        ),
    ) {
        let (mut site, mut other) = site();
        let templates = templates(&mut other);
        for (template, damages, wan, worker) in frames {
            let mut frame = templates[template.index(templates.len())].clone();
            damages.iter().for_each(|damage| apply(&mut frame, damage));
            site.deliver_to(worker, if wan { WAN } else { LAN }, &frame);
        }
        settle(&mut site);
    }

    #[test]
    fn noise(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..40)) {
        let (mut site, _) = site();
        for frame in frames {
            for port in [WAN, LAN] {
                site.deliver(port, &frame);
                // With an Ethernet header in front it gets further, and with the start of an IPv4 header further still.
                let mac = if port == WAN { wan_mac(1) } else { lan_mac(1) };
                site.deliver(port, &ethernet(mac, host_mac(1), &frame));
                let mut packet = packet(host(2), wan_address(1), &frame).bytes();
                if let Some(protocol) = frame.first() {
                    packet[9] = [47, 50, 17][usize::from(protocol % 3)];
                }
                let mut framed = ethernet(mac, host_mac(1), &packet);
                apply(&mut framed, &Damage::Nothing);
                site.deliver(port, &framed);
            }
        }
        settle(&mut site);
    }

    #[test]
    fn what_a_peer_may_put_into_its_sa(payload in proptest::collection::vec(any::<u8>(), 0..200), valid_gre: bool, nhrp: bool) {
        let (mut site, mut other) = site();
        let protocol = if nhrp { EtherType::NHRP.0 } else { EtherType::IPV4.0 };
        let inject = if valid_gre {
            dmvpn_tables::Inject::Gre { peer: peer(1), protocol, payload }
        } else {
            // GRE that the receiver takes for something else.
            other.tunnel(|tunnel| tunnel.key = None);
            other.publish();
            let protocol = u16::from(payload.first().copied().unwrap_or_default()) << 8 | 1;
            dmvpn_tables::Inject::Gre { peer: peer(1), protocol, payload }
        };
        other.workers[0].control.injector.send(inject).unwrap();
        other.run();
        for frame in other.sent(WAN) {
            site.deliver(WAN, &frame);
        }
        settle(&mut site);
    }
}

#[test]
fn a_cable_that_loses_doubles_and_reorders() {
    use dmvpn_dataplane::link::{FaultInjector, Faults, HeapPool, Loopback};
    use dmvpn_dataplane::{Frame, Handoff, Link, Worker};

    // A worker behind a bad WAN cable: whatever arrives twice is delivered once.
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    let mut pool = HeapPool::new(2048);
    let (near, mut far) = Loopback::pair(1024);
    let (lan, mut host_end) = Loopback::pair(1024);
    let faults = Faults { loss: 50, duplication: 50, reordering: 50 };
    let wan = FaultInjector::new(near, pool.clone(), faults, 42);
    let lan = FaultInjector::new(lan, pool.clone(), Faults::default(), 0);
    let (_publisher, mut readers) = dmvpn_tables::Publisher::new(b.snapshot.clone(), 1);
    let handoff = Handoff::between(1, 1).remove(0);
    let (mut worker, _control) = Worker::new(vec![wan, lan], pool.clone(), readers.remove(0), handoff);

    let mut arrived = Vec::new();
    for n in 0..1000u16 {
        a.host_sends(&packet(host(1), host(2), &n.to_be_bytes()).bytes());
        a.run();
        let mut frame: Frame<_> = a.sent(WAN).iter().map(|bytes| pool.buffer(bytes).unwrap()).collect();
        far.tx(&mut frame);
        worker.poll(0, || 0);
        host_end.rx(&mut frame);
        arrived.extend(frame.iter().map(|packet| packet.bytes()[34..36].to_vec()));
    }
    let total = arrived.len();
    assert!((900..1000).contains(&total), "{total}");
    assert!(!arrived.is_sorted());
    arrived.sort();
    arrived.dedup();
    assert_eq!(arrived.len(), total, "none twice");
}
