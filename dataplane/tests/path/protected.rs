//! Fail closed: nothing enters or leaves a protected tunnel in the clear, whatever the tables lack.

use std::net::Ipv4Addr;

use dmvpn_tables::{Adjacency, Inject, Path};
use dmvpn_wire::{EtherType, IpProtocol};
use proptest::prelude::*;

use crate::drops::{gre, gre_packet};
use crate::lab::*;

const SECRET: &[u8] = b"for the other LAN only";

/// What a peer of the site is like: there, or lacking something.
#[derive(Debug, Clone, Copy)]
enum State {
    Connected,
    /// A route to a peer that is gone.
    Gone,
    /// Made when the tunnel was not protected.
    ClearFromBefore,
    Unresolved,
    /// Unresolved, and the server to use meanwhile is a peer in any state itself.
    Through(u8),
    Unreachable,
    /// Connected, but the underlay next hop is not known.
    WithoutNeighbor,
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Connected),
        Just(State::Gone),
        Just(State::ClearFromBefore),
        Just(State::Unresolved),
        (2u8..8).prop_map(State::Through),
        Just(State::Unreachable),
        Just(State::WithoutNeighbor),
    ]
}

fn site_with(states: &[State], security: Security) -> Site {
    let mut site = Site::new(1);
    site.tunnel(|tunnel| {
        tunnel.protected = false;
        tunnel.redirect = true;
        tunnel.multicast = (2..8).map(peer).collect();
    });
    for (number, state) in (2..).zip(states) {
        site.set_peer(number, Path::Clear, None);
        let slot = peer(number).index();
        let adjacency = tunnel_adjacency(number).0 as usize;
        match *state {
            State::ClearFromBefore => {}
            State::Connected => {
                let (outbound, _) = sa_pair(security.suite, number.into());
                send_with(&mut site, number, &security, outbound);
            }
            State::WithoutNeighbor => {
                let (outbound, _) = sa_pair(security.suite, number.into());
                send_with(&mut site, number, &security, outbound);
                site.snapshot.neighbors.set(number.into(), None);
            }
            State::Gone => site.snapshot.peers.set(slot, None),
            State::Unresolved => {
                site.snapshot.adjacencies.set(adjacency, Adjacency::Resolving { tunnel: TUNNEL, via: None });
            }
            State::Through(server) => {
                let via = Some(peer(server));
                site.snapshot.adjacencies.set(adjacency, Adjacency::Resolving { tunnel: TUNNEL, via });
            }
            State::Unreachable => site.snapshot.adjacencies.set(adjacency, Adjacency::Unreachable),
        }
    }
    site.tunnel(|tunnel| tunnel.protected = true);
    site.publish();
    site
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_leaves_in_the_clear(
        states in proptest::collection::vec(state(), 6),
        tunnel_mode: bool,
        nat: bool,
        packets in proptest::collection::vec((2u8..8, 0usize..3000, any::<bool>(), 0u8..4), 1..40),
    ) {
        let mut site = site_with(&states, Security { tunnel_mode, nat, ..security() });
        for (number, padding, dont_fragment, kind) in packets {
            let payload = [SECRET, &vec![0; padding]].concat();
            let to = |destination: Ipv4Addr, source| {
                packet(source, destination, &payload).with(|fields| fields.dont_fragment = dont_fragment).bytes()
            };
            let injector = &mut site.workers[0].control.injector;
            match kind {
                0 => site.host_sends(&to(host(number), host(1))),
                1 => injector.send(Inject::Packet(to(overlay_address(number), overlay_address(1)))).unwrap(),
                2 => {
                    let packet = to(Ipv4Addr::new(224, 0, 0, 9), overlay_address(1));
                    injector.send(Inject::Multicast { tunnel: TUNNEL, packet }).unwrap();
                }
                _ => {
                    let inject = Inject::Gre { peer: peer(number), protocol: EtherType::NHRP.0, payload: SECRET.to_vec() };
                    injector.send(inject).unwrap();
                }
            }
            site.run();
            for frame in site.sent(WAN) {
                let protocol = outer(&frame).protocol();
                prop_assert_eq!(protocol, if nat { IpProtocol::UDP } else { IpProtocol::ESP });
                prop_assert!(!any_contains(&[frame], SECRET));
            }
        }
        site.punts();
        prop_assert_eq!(site.pool.in_use(), 0);
    }

    #[test]
    fn nothing_enters_in_the_clear(
        key in prop_oneof![Just(KEY), any::<u32>()],
        protocol: u16,
        flags in prop_oneof![Just(0x20u8), any::<u8>()],
        source in 1u8..8,
        ttl: u8,
    ) {
        let mut site = site_with(&[State::Connected; 6], security());
        for protocol in [protocol, EtherType::IPV4.0, EtherType::NHRP.0] {
            let mut header = gre(key);
            header[0] = flags;
            header[2..4].copy_from_slice(&protocol.to_be_bytes());
            let inner = packet(host(source), host(1), SECRET).with(|fields| fields.ttl = ttl).bytes();
            site.wan_sends(&gre_packet(Ipv4Addr::new(198, 51, 100, 100 + source), wan_address(1), &[header, inner].concat()));
        }
        site.run();
        prop_assert_eq!((site.host_received(), site.sent(WAN), site.punts()), (vec![], vec![], vec![]));
        prop_assert_eq!(site.drops().iter().map(|(_, count)| count).sum::<u64>(), 3);
    }
}
