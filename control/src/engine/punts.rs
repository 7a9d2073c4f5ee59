//! Packets: which machine they are for, and what this box answers itself.

use std::net::{Ipv4Addr, SocketAddrV4};

use dmvpn_tables::{Inject, NeighborId, PeerId, PortId, Punt, PuntReason, TunnelId, WorkerId};
use dmvpn_wire::icmp::{Problem, Unreachable};
use dmvpn_wire::udp::Encapsulated;
use dmvpn_wire::{IpProtocol, View, ipv4, udp};

use super::{Alarm, Engine, Output, What};
use crate::rib::{Gateway, NextHop, Origin, Route};
use crate::time::Instant;
use crate::{arp, icmp, ike, nhrp};

/// How the last IKE datagram came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    source: Ipv4Addr,
    port: PortId,
    worker: WorkerId,
}

impl Engine {
    pub(super) fn punt(&mut self, now: Instant, punt: Punt) {
        let Punt { reason, packet } = punt;
        match reason {
            PuntReason::Arp { port } => self.arp.handle(now, port, &packet),
            // No interface is configured by DHCP, so nobody waits for this.
            PuntReason::Dhcp { .. } => {}
            PuntReason::Ike { port, worker } => self.datagram(now, port, worker, &packet),
            PuntReason::Nhrp { tunnel, peer, source } => {
                let from = peer.or_else(|| self.clear_peer(now, tunnel, source));
                if let Some(from) = from {
                    self.tell_nhrp(now, tunnel, nhrp::Input::Packet { from, bytes: &packet });
                }
            }
            PuntReason::Local { .. } => self.local(now, packet),
            PuntReason::Unresolved { tunnel, held } => self.unresolved(now, tunnel, held, packet),
            PuntReason::Glean { port } => self.glean(now, port, packet),
            PuntReason::NeighborUnresolved { neighbor } => self.arp.send(neighbor, packet),
            PuntReason::Redirect { tunnel, peer, source } => {
                let from = peer.or_else(|| self.peers.at(tunnel, source).next());
                if let Some(from) = from {
                    self.tell_nhrp(now, tunnel, nhrp::Input::Redirect { from, packet: &packet });
                }
            }
            PuntReason::TtlExceeded => self.answer_error(now, Problem::TtlExceeded, &packet),
            PuntReason::FragmentationNeeded { mtu } => {
                self.answer_error(now, Problem::FragmentationNeeded { mtu }, &packet);
            }
            PuntReason::Unreachable => {
                self.answer_error(now, Problem::Unreachable(Unreachable::NETWORK), &packet);
            }
            PuntReason::PeerMoved { peer, to } => {
                self.ike.handle(now, ike::Input::PeerMoved { peer, to });
            }
            PuntReason::UnknownSpi { spi } => self.unknown_spi(now, spi, &packet),
        }
    }

    pub(super) fn carry_out_arp(&mut self, now: Instant, output: arp::Output) {
        match output {
            arp::Output::Frame { port, frame } => {
                self.outputs.push_back(Output::Inject(Inject::Frame { port, frame }));
            }
            arp::Output::Changed(id, neighbor) => {
                self.tables.edit().neighbors.set(id.0 as usize, Some(neighbor));
                self.host_route(id, neighbor, neighbor.mac.is_some());
            }
            arp::Output::Removed(id, neighbor) => {
                self.host_route(id, neighbor, false);
                self.tables.edit().neighbors.set(id.0 as usize, None);
            }
            arp::Output::Unreachable(packet) => {
                self.answer_error(now, Problem::Unreachable(Unreachable::HOST), &packet);
            }
            arp::Output::Conflict { port, address, mac } => {
                self.notice(None, What::AddressConflict { port, address, mac });
            }
        }
    }

    /// A packet of the host, from the TUN device: only from addresses of ours, and multicast only into
    /// the tunnel whose address it has.
    pub(super) fn packet_of_host(&mut self, packet: Vec<u8>) {
        let Ok(ipv4::Packet { header, .. }) = ipv4::Packet::parse(&packet) else { return };
        let (from, to) = (header.source(), header.destination());
        let ours = self.rib.lookup(from, |route| route.origin == Origin::Local).is_some();
        if !ours || to.is_broadcast() {
            return;
        }
        if !to.is_multicast() {
            return self.outputs.push_back(Output::Inject(Inject::Packet(packet)));
        }
        let Some(tunnel) = self.tunnel_of(from) else { return };
        if self.config.tunnels.get(usize::from(tunnel.0)).is_some_and(|interface| interface.multicast) {
            self.outputs.push_back(Output::Inject(Inject::Multicast { tunnel, packet }));
        }
    }

    /// Packets that wait and have a way by now go on.
    pub(super) fn release_held(&mut self, tunnel: TunnelId) {
        let has_way = |destination| {
            self.rib.lookup(destination, |_| true).is_some_and(|(_, route)| match route.next_hop {
                NextHop::Station(tunnel, station) => {
                    self.rib.bound(tunnel, station).or_else(|| self.rib.via(tunnel)).is_some()
                }
                NextHop::Overlay(tunnel) => self.rib.via(tunnel).is_some(),
                _ => true,
            })
        };
        let released = self.held.release(tunnel, has_way);
        self.outputs.extend(released.into_iter().map(|packet| Output::Inject(Inject::Packet(packet))));
    }

    pub(super) fn give_up_held(&mut self, now: Instant) {
        for packet in self.held.expire(now) {
            self.answer_error(now, Problem::Unreachable(Unreachable::HOST), &packet);
        }
        if let Some(deadline) = self.held.deadline() {
            self.alarms.set(Alarm::Held, deadline);
        }
    }

    /// An IKE datagram, from its IPv4 header on, which a worker has received.
    fn datagram(&mut self, now: Instant, port: PortId, worker: WorkerId, packet: &[u8]) {
        let Ok(ipv4::Packet { header, payload, .. }) = ipv4::Packet::parse(packet) else { return };
        let (source, destination) = (header.source(), header.destination());
        let Ok((udp, content)) = udp::Header::parse(payload) else { return };
        if header.is_fragment() || !udp.verify(source, destination, content) {
            return;
        }
        let message = match udp.destination_port() {
            udp::IKE => content,
            udp::IKE_NAT => match Encapsulated::parse(content) {
                Ok(Encapsulated::Ike(message)) => message,
                _ => return,
            },
            _ => return,
        };
        self.arrival = Some(Arrival { source, port, worker });
        self.ike.handle(
            now,
            ike::Input::Datagram {
                local: SocketAddrV4::new(destination, udp.destination_port()),
                remote: SocketAddrV4::new(source, udp.source_port()),
                payload: message.to_vec(),
            },
        );
    }

    /// A peer gets new SAs. They are for the worker that its IKE messages arrive at, if its ESP arrives there, too: where the
    /// underlay port spreads packets by addresses alone. (So nobody who forges the peer's address comes to another worker.)
    pub(super) fn follow(&mut self, id: PeerId) {
        let Some(Arrival { source, port, worker }) = self.arrival else { return };
        let Some(peer) = self.peers.get(id).filter(|peer| peer.endpoints.remote == source) else { return };
        let number = usize::from(port.0);
        let tunnel = self.config.tunnels.get(usize::from(peer.tunnel.0));
        if tunnel.is_some_and(|tunnel| tunnel.underlay == number)
            && self.ports.get(number).is_some_and(|port| port.by_addresses)
        {
            self.peers.arrive_at(id, worker);
        }
    }

    /// A packet for this box itself.
    fn local(&mut self, now: Instant, packet: Vec<u8>) {
        if let Some(reply) = icmp::echo_reply(&packet) {
            self.outputs.push_back(Output::Inject(Inject::Packet(reply)));
        } else if self.config.host.tun.is_some() {
            self.outputs.push_back(Output::Tun(packet));
        } else if let Ok(parsed) = ipv4::Packet::parse(&packet) {
            // Without a host behind it, nobody listens (RFC 1122 section 3.2.2.1).
            let code = match parsed.header.protocol() {
                IpProtocol::UDP | IpProtocol::TCP => Unreachable::PORT,
                _ => Unreachable::PROTOCOL,
            };
            self.answer_error(now, Problem::Unreachable(code), &packet);
        }
    }

    /// A packet met an overlay next hop without a path of its own.
    fn unresolved(&mut self, now: Instant, tunnel: TunnelId, held: bool, packet: Vec<u8>) {
        let Some(destination) = destination(&packet) else { return };
        if held {
            let servers =
                self.config.tunnels.get(usize::from(tunnel.0)).and_then(|tunnel| tunnel.nhrp.as_ref());
            let may_be_resolved = servers.is_some_and(|nhrp| nhrp.maps.iter().any(|map| map.register));
            let kept =
                if may_be_resolved { self.held.keep(now, tunnel, destination, packet) } else { Err(packet) };
            match kept {
                Ok(()) => {
                    if let Some(deadline) = self.held.deadline() {
                        self.alarms.set(Alarm::Held, deadline);
                    }
                }
                Err(packet) => self.answer_error(now, Problem::Unreachable(Unreachable::HOST), &packet),
            }
        }
        self.tell_nhrp(now, tunnel, nhrp::Input::Resolve { destination });
        self.release_held(tunnel);
    }

    /// A packet for a station on a port's link that is not known yet.
    fn glean(&mut self, now: Instant, port: PortId, packet: Vec<u8>) {
        let Some(destination) = destination(&packet) else { return };
        if let Some(neighbor) = self.arp.resolve(now, port, destination) {
            self.arp.send(neighbor, packet);
        }
    }

    /// A station on a link has a route of its own while its Ethernet address is known.
    fn host_route(&mut self, id: NeighborId, neighbor: dmvpn_tables::Neighbor, up: bool) {
        let (prefix, tables) = (neighbor.address.into(), self.tables.edit());
        if up {
            let gateway = Gateway { port: neighbor.port, address: neighbor.address, neighbor: id };
            let route = Route { origin: Origin::Neighbor, next_hop: NextHop::Gateway(gateway) };
            self.rib.insert(tables, prefix, route);
        } else {
            self.rib.remove(tables, prefix, Origin::Neighbor);
        }
    }

    /// Tells the sender of a packet what happened to it.
    fn answer_error(&mut self, now: Instant, problem: Problem, packet: &[u8]) {
        let Some(sender) = source(packet) else { return };
        let Some(ours) = self.address_facing(sender) else { return };
        if let Some(error) = self.errors.about(now, problem, ours, packet) {
            self.outputs.push_back(Output::Inject(Inject::Packet(error)));
        }
    }
}

fn source(packet: &[u8]) -> Option<Ipv4Addr> {
    ipv4::Header::view(packet).ok().map(|(header, _)| header.source())
}

fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    ipv4::Header::view(packet).ok().map(|(header, _)| header.destination())
}
