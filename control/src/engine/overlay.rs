//! NHRP's part: what it says becomes bindings, routes, packets and requests for paths.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_config::Tunnel;
use dmvpn_tables::{Endpoints, Inject, PeerId, TunnelId};
use dmvpn_wire::EtherType;
use ipnetwork::Ipv4Network;
use rand_chacha::ChaCha20Rng;

use super::interfaces::tunnels;
use super::{Alarm, Engine, Output, Start, What, tables};
use crate::peer::Peer;
use crate::rib::{NextHop, Origin, Rib, Route};
use crate::time::Instant;
use crate::{ike, nhrp};

/// Changes of a multicast list are written together after this time.
const MULTICAST_DELAY: Duration = Duration::from_millis(20);
/// How long a peer stays that nothing is bound to and that no packets pass.
const LINGER: Duration = Duration::from_secs(60);

/// NHRP on one tunnel, and what it has said so far.
pub(super) struct Overlay {
    pub(super) nhrp: Option<nhrp::Machine>,
    nbma: Option<Ipv4Addr>,
    /// Overlay addresses that are directly reachable.
    pub(super) bindings: BTreeMap<Ipv4Addr, (PeerId, nhrp::Kind)>,
    shortcuts: BTreeSet<Ipv4Network>,
    /// Next hop servers that accepted our registration.
    servers: BTreeSet<Ipv4Addr>,
    multicast: BTreeSet<PeerId>,
}

impl Overlay {
    fn new(interface: &Tunnel, start: Start, rng: &mut ChaCha20Rng) -> Self {
        let nhrp = interface.nhrp.clone().map(|nhrp| {
            nhrp::Machine::new(nhrp::Config {
                address: interface.address,
                nhrp,
                limits: nhrp::Limits::default(),
                first_request_id: start.unix_seconds,
                seed: u64::from_ne_bytes(tables::draw(rng)),
            })
        });
        Self {
            nhrp,
            nbma: None,
            bindings: BTreeMap::new(),
            shortcuts: BTreeSet::new(),
            servers: BTreeSet::new(),
            multicast: BTreeSet::new(),
        }
    }

    /// Takes over options that leave the overlay what it is.
    pub(super) fn reconfigure(&mut self, interface: &Tunnel) {
        if let (Some(machine), Some(nhrp)) = (&mut self.nhrp, &interface.nhrp) {
            machine.reconfigure(nhrp);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.nhrp.as_ref()?.poll_timeout()
    }
}

impl Engine {
    /// Begins a tunnel's overlay anew; paths that are up stay up.
    pub(super) fn open_overlay(&mut self, now: Instant, tunnel: TunnelId, interface: &Tunnel) {
        let index = usize::from(tunnel.0);
        if index < self.overlays.len() {
            self.withdraw(tunnel);
        }
        let overlay = Overlay::new(interface, self.start, &mut self.rng);
        match self.overlays.get_mut(index) {
            Some(slot) => *slot = overlay,
            None => self.overlays.push(overlay),
        }
        let protected = interface.profile.is_some();
        let peers: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.tunnel == tunnel)
            .map(|(id, peer)| (id, peer.identity.is_some() == protected, peer.up_since.is_some()))
            .collect();
        for (id, fits, up) in peers {
            if !fits {
                self.remove_peer(now, id);
            } else if up {
                self.tell_up(now, id);
            }
        }
    }

    /// The last tunnel is no more.
    pub(super) fn close_overlay(&mut self, now: Instant, tunnel: TunnelId) {
        let peers: Vec<_> =
            self.peers.iter().filter(|(_, peer)| peer.tunnel == tunnel).map(|(id, _)| id).collect();
        for id in peers {
            self.remove_peer(now, id);
        }
        self.withdraw(tunnel);
        self.overlays.truncate(usize::from(tunnel.0));
    }

    /// Our underlay address on a tunnel is this from now on.
    pub(super) fn set_nbma(&mut self, now: Instant, tunnel: TunnelId, nbma: Option<Ipv4Addr>) {
        let Some(overlay) = self.overlays.get_mut(usize::from(tunnel.0)) else { return };
        if overlay.nbma != nbma {
            overlay.nbma = nbma;
            if let Some(nhrp) = &mut overlay.nhrp {
                nhrp.set_nbma(now, nbma);
            }
        }
    }

    /// Gives NHRP an input.
    pub(super) fn tell_nhrp(&mut self, now: Instant, tunnel: TunnelId, input: nhrp::Input<'_>) {
        let Some(overlay) = self.overlays.get_mut(usize::from(tunnel.0)) else { return };
        if let Some(nhrp) = &mut overlay.nhrp {
            nhrp.handle(now, input, &WithoutShortcuts { rib: &self.rib, tunnel });
        }
    }

    pub(super) fn overlay_timeouts(&mut self, now: Instant) {
        for (number, overlay) in (0..).zip(&mut self.overlays) {
            let Some(nhrp) = &mut overlay.nhrp else { continue };
            if nhrp.poll_timeout().is_some_and(|at| at <= now) {
                nhrp.handle_timeout(now, &WithoutShortcuts { rib: &self.rib, tunnel: TunnelId(number) });
            }
        }
    }

    /// The next thing that NHRP on any tunnel wants done.
    pub(super) fn poll_overlays(&mut self) -> Option<(TunnelId, nhrp::Output)> {
        (0..).zip(&mut self.overlays).find_map(|(number, overlay)| {
            let output = overlay.nhrp.as_mut()?.poll_output()?;
            Some((TunnelId(number), output))
        })
    }

    pub(super) fn carry_out_nhrp(&mut self, now: Instant, tunnel: TunnelId, output: nhrp::Output) {
        match output {
            nhrp::Output::Send { to, packet } => {
                let inject = Inject::Gre { peer: to, protocol: EtherType::NHRP.0, payload: packet };
                self.outputs.push_back(Output::Inject(inject));
            }
            nhrp::Output::Connect { nbma, .. } => self.connect(now, tunnel, nbma),
            nhrp::Output::Bind { overlay, peer, kind } => self.bind(tunnel, overlay, peer, kind),
            nhrp::Output::Unbind { overlay } => self.unbind(tunnel, overlay),
            nhrp::Output::AddRoute { prefix, next_hop, .. } => {
                let route = Route { origin: Origin::Shortcut, next_hop: NextHop::Station(tunnel, next_hop) };
                self.rib.insert(self.tables.edit(), prefix, route);
                if let Some(overlay) = self.overlays.get_mut(usize::from(tunnel.0)) {
                    overlay.shortcuts.insert(prefix);
                }
                self.release_held(tunnel);
            }
            nhrp::Output::RemoveRoute { prefix } => {
                self.rib.remove(self.tables.edit(), prefix, Origin::Shortcut);
                if let Some(overlay) = self.overlays.get_mut(usize::from(tunnel.0)) {
                    overlay.shortcuts.remove(&prefix);
                }
            }
            nhrp::Output::Multicast { peer, member } => self.set_multicast(now, tunnel, peer, member),
            nhrp::Output::Release { peer } => self.alarms.set(Alarm::Linger(peer), now + LINGER),
            nhrp::Output::Probe { peer } => self.ike.handle(now, ike::Input::Probe { peer }),
            nhrp::Output::Event(event) => {
                self.note_server(tunnel, &event);
                self.notice(Some(tunnel), What::Nhrp(event));
            }
        }
    }

    /// Makes a path to an underlay address: by IKE, or at once on a tunnel without IPsec.
    fn connect(&mut self, now: Instant, tunnel: TunnelId, nbma: Ipv4Addr) {
        let up =
            |engine: &Self, id: &PeerId| engine.peers.get(*id).is_some_and(|peer| peer.up_since.is_some());
        let existing = self.peers.at(tunnel, nbma).find(|id| up(self, id));
        if let Some(id) = existing {
            self.tell_up(now, id);
        } else if self.closing {
            self.tell_nhrp(now, tunnel, nhrp::Input::ConnectFailed { nbma });
        } else if self.is_protected(tunnel) {
            self.ike.handle(now, ike::Input::Connect { tunnel, remote: nbma });
        } else if self.clear_peer(now, tunnel, nbma).is_none() {
            self.tell_nhrp(now, tunnel, nhrp::Input::ConnectFailed { nbma });
        }
    }

    /// The peer at an underlay address of a tunnel without IPsec; there the address is all there is.
    pub(super) fn clear_peer(&mut self, now: Instant, tunnel: TunnelId, nbma: Ipv4Addr) -> Option<PeerId> {
        if self.is_protected(tunnel) {
            return None;
        }
        if let Some(id) = self.peers.at(tunnel, nbma).next() {
            return Some(id);
        }
        let local = self.local_address(tunnel)?;
        let neighbor = self.underlay(now, tunnel, nbma)?;
        let id = self.peers.clear_handle()?;
        let endpoints = Endpoints { local, remote: nbma, udp: None };
        self.arp.pin(neighbor);
        self.peers.insert(id, Peer::clear(tunnel, endpoints, None));
        self.peers.relocate(self.tables.edit(), id, endpoints, Some(neighbor));
        self.path_changed(now, id);
        Some(id)
    }

    fn bind(&mut self, tunnel: TunnelId, station: Ipv4Addr, peer: PeerId, kind: nhrp::Kind) {
        self.unbind_peer(tunnel, station);
        let Some(overlay) = self.overlays.get_mut(usize::from(tunnel.0)) else { return };
        overlay.bindings.insert(station, (peer, kind));
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.stations.insert(station);
        }
        let route = Route { origin: Origin::Nhrp, next_hop: NextHop::Station(tunnel, station) };
        self.rib.bind(self.tables.edit(), tunnel, station, Some(peer));
        self.rib.insert(self.tables.edit(), station.into(), route);
        self.choose_server(tunnel);
    }

    fn unbind(&mut self, tunnel: TunnelId, station: Ipv4Addr) {
        self.unbind_peer(tunnel, station);
        self.rib.remove(self.tables.edit(), station.into(), Origin::Nhrp);
        self.rib.bind(self.tables.edit(), tunnel, station, None);
        self.choose_server(tunnel);
    }

    fn unbind_peer(&mut self, tunnel: TunnelId, station: Ipv4Addr) {
        let Some(overlay) = self.overlays.get_mut(usize::from(tunnel.0)) else { return };
        let Some((peer, _)) = overlay.bindings.remove(&station) else { return };
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.stations.remove(&station);
        }
    }

    /// Takes back all that NHRP on a tunnel has said.
    fn withdraw(&mut self, tunnel: TunnelId) {
        let Some(overlay) = self.overlays.get_mut(usize::from(tunnel.0)) else { return };
        let stations: Vec<_> = overlay.bindings.keys().copied().collect();
        for prefix in std::mem::take(&mut overlay.shortcuts) {
            self.rib.remove(self.tables.edit(), prefix, Origin::Shortcut);
        }
        for station in stations {
            self.unbind(tunnel, station);
        }
        if let Some(overlay) = self.overlays.get_mut(usize::from(tunnel.0)) {
            overlay.multicast.clear();
        }
        self.write_multicast(tunnel);
    }

    /// Which servers accept us decides who stands in for unresolved stations.
    fn note_server(&mut self, tunnel: TunnelId, event: &nhrp::Event) {
        let Some(overlay) = self.overlays.get_mut(usize::from(tunnel.0)) else { return };
        let changed = match event {
            nhrp::Event::NhsUp { nhs, .. } => overlay.servers.insert(*nhs),
            nhrp::Event::NhsDown { nhs, .. } => overlay.servers.remove(nhs),
            _ => false,
        };
        if changed {
            self.choose_server(tunnel);
        }
    }

    /// Unresolved stations are reached by the first next hop server, in the order of the configuration,
    /// that there is a path to; one that accepted our registration is preferred.
    fn choose_server(&mut self, tunnel: TunnelId) {
        let index = usize::from(tunnel.0);
        let Some(interface) = self.config.tunnels.get(index) else { return };
        let Some(overlay) = self.overlays.get(index) else { return };
        let servers = interface.nhrp.iter().flat_map(|nhrp| &nhrp.maps).filter(|map| map.register);
        let via = servers
            .map(|map| map.address.ip())
            .filter_map(|server| Some((server, overlay.bindings.get(&server)?)))
            .filter(|(_, (_, kind))| *kind == nhrp::Kind::Nhs)
            .min_by_key(|(server, _)| !overlay.servers.contains(server))
            .map(|(_, (peer, _))| *peer);
        self.rib.set_via(self.tables.edit(), tunnel, via);
        self.release_held(tunnel);
    }

    fn set_multicast(&mut self, now: Instant, tunnel: TunnelId, peer: PeerId, member: bool) {
        let Some(overlay) = self.overlays.get_mut(usize::from(tunnel.0)) else { return };
        let changed = if member { overlay.multicast.insert(peer) } else { overlay.multicast.remove(&peer) };
        if changed {
            self.alarms.set_once(Alarm::Multicast(tunnel), now + MULTICAST_DELAY);
        }
    }

    pub(super) fn write_multicast(&mut self, tunnel: TunnelId) {
        let index = usize::from(tunnel.0);
        let Some(overlay) = self.overlays.get(index) else { return };
        let tables = self.tables.edit();
        let mut entries = tables.tunnels.to_vec();
        if let Some(entry) = entries.get_mut(index) {
            entry.multicast = overlay.multicast.iter().copied().collect();
        }
        tables.tunnels = entries.into();
    }

    /// A peer that nothing is bound to has had its time: if it is of no other use, it goes.
    pub(super) fn linger(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(id).filter(|peer| peer.stations.is_empty()) else { return };
        if peer.last_used.is_some_and(|at| now.since(at) < LINGER) {
            self.alarms.set(Alarm::Linger(id), now + LINGER);
        } else if peer.identity.is_some() {
            self.ike.handle(now, ike::Input::Disconnect { peer: id });
        } else {
            self.remove_peer(now, id);
        }
    }

    /// Whether a tunnel is bound to an IPsec profile.
    pub(super) fn is_protected(&self, tunnel: TunnelId) -> bool {
        self.config.tunnels.get(usize::from(tunnel.0)).is_some_and(|interface| interface.profile.is_some())
    }

    /// The tunnel that an overlay address of ours belongs to.
    pub(super) fn tunnel_of(&self, ours: Ipv4Addr) -> Option<TunnelId> {
        tunnels(&self.config).find(|(_, interface)| interface.address.ip() == ours).map(|(id, _)| id)
    }
}

/// The routing table as NHRP on one tunnel sees it: without shortcuts, which must not make their own
/// resolution impossible, and without single stations of a LAN, which are no networks to tell others of.
struct WithoutShortcuts<'a> {
    rib: &'a Rib,
    tunnel: TunnelId,
}

impl nhrp::Routes for WithoutShortcuts<'_> {
    fn lookup(&self, destination: Ipv4Addr) -> nhrp::Route {
        let ordinary = |route: &Route| !matches!(route.origin, Origin::Shortcut | Origin::Neighbor);
        let Some((prefix, route)) = self.rib.lookup(destination, ordinary) else { return nhrp::Route::None };
        match route.next_hop {
            NextHop::Local => nhrp::Route::Local,
            NextHop::Station(tunnel, next_hop) if tunnel == self.tunnel => {
                nhrp::Route::Overlay { next_hop, prefix }
            }
            NextHop::Overlay(tunnel) if tunnel == self.tunnel => {
                nhrp::Route::Overlay { next_hop: destination, prefix }
            }
            _ => nhrp::Route::OffTunnel { prefix },
        }
    }
}
