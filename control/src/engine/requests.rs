//! What operators ask for.

use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_config::{EspProposal, IkeProposal};
use dmvpn_tables::{Adjacency, Mode, PeerId, PortId, TunnelId};

use super::interfaces::tunnels;
use super::{Alarm, Engine};
use crate::rib::{NextHop, Origin};
use crate::show::{self, Request, Response, Topic};
use crate::time::Instant;
use crate::{ike, nhrp};

/// Between two steps of the end, and how many peers one takes leave of.
const FAREWELL: Duration = Duration::from_millis(10);
const FAREWELL_PEERS: usize = 200;

impl Engine {
    /// Answers an operator. What follows from it is in [`Engine::poll_output`], as after an input.
    pub fn request(&mut self, now: Instant, request: Request) -> Response {
        match request {
            Request::Show(topic) => self.show(now, topic),
            Request::Rekey { what, peer } => self.each_peer(now, peer, |peer| match what {
                show::Rekey::Ike => ike::Input::RekeyIke { peer },
                show::Rekey::Esp => ike::Input::RekeyEsp { peer },
            }),
            Request::Disconnect { peer } => self.each_peer(now, peer, |peer| ike::Input::Disconnect { peer }),
            Request::Shutdown => {
                self.closing = true;
                let overlays = self.overlays.iter_mut().filter_map(|overlay| overlay.nhrp.as_mut());
                overlays.for_each(nhrp::Machine::shut_down);
                // What NHRP says goes over SAs, so these go later.
                self.alarms.set(Alarm::Farewell, now + FAREWELL);
                self.settle(now);
                Response::Done { peers: self.peers.len() }
            }
        }
    }

    /// Takes leave of some peers after [`Request::Shutdown`], no more than the rings to the workers hold.
    pub(super) fn take_leave(&mut self, now: Instant) {
        let protected = self.peers.iter().filter(|(_, peer)| peer.identity.is_some());
        let some: Vec<PeerId> = protected.map(|(id, _)| id).take(FAREWELL_PEERS).collect();
        if !some.is_empty() {
            self.alarms.set(Alarm::Farewell, now + FAREWELL);
        }
        for peer in some {
            self.ike.handle(now, ike::Input::Disconnect { peer });
        }
    }

    /// Whether, after [`Request::Shutdown`], everything has been said.
    pub fn has_left(&self) -> bool {
        self.closing && !self.alarms.contains(Alarm::Farewell)
    }

    /// Gives IKE an input for each protected peer that is meant.
    fn each_peer(
        &mut self,
        now: Instant,
        which: Option<Ipv4Addr>,
        input: impl Fn(PeerId) -> ike::Input,
    ) -> Response {
        let meant: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                which.is_none_or(|address| {
                    peer.endpoints.remote == address || peer.stations.contains(&address)
                })
            })
            .filter(|(_, peer)| peer.identity.is_some())
            .map(|(id, _)| id)
            .collect();
        if which.is_some() && meant.is_empty() {
            return Response::NoSuchPeer;
        }
        for id in &meant {
            self.ike.handle(now, input(*id));
        }
        self.settle(now);
        Response::Done { peers: meant.len() }
    }

    fn show(&self, now: Instant, topic: Topic) -> Response {
        match topic {
            Topic::Dmvpn => Response::Dmvpn(self.show_peers(now)),
            Topic::Nhrp => Response::Nhrp(self.show_nhrp(now)),
            Topic::Ike => Response::Ike(self.show_ike(now)),
            Topic::Sas => Response::Sas(self.show_sas(now)),
            Topic::Routes => Response::Routes(self.show_routes()),
            Topic::Ports => Response::Ports(self.show_ports()),
            Topic::Neighbors => Response::Neighbors(self.show_neighbors()),
        }
    }

    fn show_peers(&self, now: Instant) -> Vec<show::Peer> {
        let binding = |tunnel: TunnelId, address: Ipv4Addr| {
            let overlay = self.overlays.get(usize::from(tunnel.0))?;
            let (_, kind) = overlay.bindings.get(&address)?;
            Some(show::Binding { address, kind: *kind })
        };
        let seconds = |since: Instant| now.since(since).as_secs();
        self.peers
            .iter()
            .map(|(id, peer)| show::Peer {
                tunnel: self.tunnel_name(peer.tunnel),
                peer: handle(id),
                nbma: peer.endpoints.remote,
                port: peer.endpoints.udp.map(|udp| udp.remote),
                overlay: peer.stations.iter().filter_map(|of| binding(peer.tunnel, *of)).collect(),
                up: peer.up_since.is_some(),
                up_for: peer.up_since.map(seconds),
                identity: peer.identity.as_ref().map(ToString::to_string),
                idle_for: peer.last_used.map(seconds),
                received: peer.inbound().map(|sa| sa.counters().packets).sum(),
                sent: peer.outbound().map(|sa| sa.counters().packets).sum(),
            })
            .collect()
    }

    fn show_nhrp(&self, now: Instant) -> Vec<show::Nhrp> {
        let overlays = tunnels(&self.config).zip(&self.overlays);
        overlays
            .filter_map(|((_, interface), overlay)| {
                let nhrp = overlay.nhrp.as_ref()?;
                Some(show::Nhrp {
                    tunnel: interface.name.clone(),
                    description: interface.description.clone(),
                    cache: nhrp.entries(now),
                    next_hop_servers: nhrp.next_hop_servers(now),
                    shortcuts: nhrp.shortcuts(now),
                    counters: nhrp.counters(),
                })
            })
            .collect()
    }

    fn show_ike(&self, now: Instant) -> show::Ike {
        let sas = self.ike.ike_sas(now).map(|sa| show::IkeSa {
            tunnel: self.tunnel_name(sa.tunnel),
            peer: sa.peer.map(handle),
            identity: sa.identity.map(|identity| identity.to_string()),
            local: sa.local,
            remote: sa.remote,
            initiator: sa.initiator,
            cookies: format!("{:016x} {:016x}", sa.cookie_i, sa.cookie_r),
            proposal: sa.proposal.as_ref().map(ike_proposal),
            state: sa.state.to_owned(),
            age: sa.age.as_secs(),
            remaining: sa.remaining.as_secs(),
            nat_local: sa.nat_local,
            nat_remote: sa.nat_remote,
        });
        show::Ike { sas: sas.collect(), counters: self.ike.counters().iter().collect() }
    }

    fn show_sas(&self, now: Instant) -> Vec<show::EspSa> {
        self.ike
            .esp_sas(now)
            .map(|sa| {
                let peer = self.peers.get(sa.peer);
                let inbound = peer.and_then(|peer| peer.inbound().find(|of| of.spi() == sa.inbound));
                let outbound = peer.and_then(|peer| peer.outbound().find(|of| of.spi() == sa.outbound));
                let received = inbound.map(|sa| sa.counters()).unwrap_or_default();
                let sent = outbound.map(|sa| sa.counters()).unwrap_or_default();
                show::EspSa {
                    tunnel: self.tunnel_name(sa.tunnel),
                    peer: handle(sa.peer),
                    nbma: sa.endpoints.remote,
                    spi_in: format!("{:08x}", sa.inbound),
                    spi_out: (sa.outbound != 0).then(|| format!("{:08x}", sa.outbound)),
                    sending: sa.sending,
                    mode: match sa.mode {
                        Mode::Tunnel { .. } => "tunnel".to_owned(),
                        Mode::Transport => "transport".to_owned(),
                    },
                    udp: sa.endpoints.udp.is_some(),
                    proposal: esp_proposal(&sa.proposal),
                    pfs: sa.pfs,
                    age: sa.age.as_secs(),
                    remaining: sa.remaining.as_secs(),
                    packets_in: received.packets,
                    bytes_in: received.bytes,
                    packets_out: sent.packets,
                    bytes_out: sent.bytes,
                    replayed: received.replayed,
                    unauthentic: received.bad_icv,
                }
            })
            .collect()
    }

    fn show_routes(&self) -> Vec<show::Route> {
        let mut routes = Vec::new();
        for (prefix, candidates) in self.rib.iter() {
            for (place, route) in candidates.iter().enumerate() {
                let (next_hop, interface) = match route.next_hop {
                    NextHop::Local => (None, None),
                    NextHop::Link(port) => (None, Some(self.port_name(port))),
                    NextHop::Gateway(gateway) => (Some(gateway.address), Some(self.port_name(gateway.port))),
                    NextHop::Overlay(tunnel) => (None, Some(self.tunnel_name(tunnel))),
                    NextHop::Station(tunnel, station) => (Some(station), Some(self.tunnel_name(tunnel))),
                };
                routes.push(show::Route {
                    prefix,
                    origin: origin(route.origin).to_owned(),
                    next_hop,
                    interface,
                    active: place == 0,
                    path: self.show_path(self.rib.adjacency(route.next_hop)),
                });
            }
        }
        routes
    }

    fn show_path(&self, adjacency: Adjacency) -> String {
        let nbma =
            |id: PeerId| self.peers.get(id).map_or_else(|| handle(id), |of| of.endpoints.remote.to_string());
        match adjacency {
            Adjacency::Local => "local".to_owned(),
            Adjacency::Glean(_) | Adjacency::Neighbor(_) => "link".to_owned(),
            Adjacency::Tunnel(peer) => format!("peer {}", nbma(peer)),
            Adjacency::Resolving { via: Some(peer), .. } => format!("server {}", nbma(peer)),
            _ => "unreachable".to_owned(),
        }
    }

    fn show_ports(&self) -> Vec<show::Port> {
        let ports = self.config.ethernet.iter().zip(self.tables.read().ports.iter());
        ports
            .map(|(ethernet, port)| show::Port {
                name: ethernet.name.clone(),
                device: ethernet.port.clone(),
                mac: port.mac.to_string(),
                address: ethernet.address,
                mtu: port.mtu,
                description: ethernet.description.clone(),
            })
            .collect()
    }

    fn show_neighbors(&self) -> Vec<show::Neighbor> {
        let neighbors = self.tables.read().neighbors.iter().filter_map(|(_, neighbor)| neighbor.as_ref());
        neighbors
            .map(|neighbor| show::Neighbor {
                interface: self.port_name(neighbor.port),
                address: neighbor.address,
                mac: neighbor.mac.map(|mac| mac.to_string()),
            })
            .collect()
    }

    fn tunnel_name(&self, tunnel: TunnelId) -> String {
        let known = self.config.tunnels.get(usize::from(tunnel.0));
        known.map_or_else(String::new, |interface| interface.name.clone())
    }

    fn port_name(&self, port: PortId) -> String {
        let known = self.config.ethernet.get(usize::from(port.0));
        known.map_or_else(String::new, |ethernet| ethernet.name.clone())
    }
}

fn handle(peer: PeerId) -> String {
    format!("{:08x}", peer.0)
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Local => "local",
        Origin::Connected => "connected",
        Origin::Neighbor => "neighbor",
        Origin::Nhrp => "nhrp",
        Origin::Shortcut => "shortcut",
        Origin::Static => "static",
    }
}

fn ike_proposal(proposal: &IkeProposal) -> String {
    format!("{}-{}-group{}", proposal.encryption, proposal.hash, proposal.dh_group as u16)
}

fn esp_proposal(proposal: &EspProposal) -> String {
    match proposal.hash {
        Some(hash) => format!("{}-{hash}", proposal.encryption),
        None => proposal.encryption.to_string(),
    }
}
