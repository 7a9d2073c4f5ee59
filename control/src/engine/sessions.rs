//! IKE's part: what it says becomes peers, SAs and datagrams.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dmvpn_tables::esp::{IvSeed, WindowSize};
use dmvpn_tables::{PeerId, TunnelId};
use dmvpn_wire::ipv4::{self, Fields};
use dmvpn_wire::{IpProtocol, View, udp};

use super::interfaces::tunnels;
use super::{Alarm, Engine, Output, What, tables};
use crate::limit::RateLimit;
use crate::peer::Peer;
use crate::time::Instant;
use crate::{ike, nhrp};

/// A peer without any binding is given this long to get one.
const UNBOUND: Duration = Duration::from_secs(120);

/// How long after our start peers may still send by the SAs of our previous life.
const PREVIOUS_LIFE: Duration = Duration::from_secs(300);

/// Calls to senders of unknown SPIs that may be unanswered. Anybody can forge such a sender, and have us write to it
/// again and again; peers of our previous life answer at once, and make room for the next.
const CALLS: usize = 16;

/// So long a call that is not answered counts as one, and nobody is called twice.
const CALL: Duration = Duration::from_secs(60);

/// Calls to senders of unknown SPIs, and when they were made.
#[derive(Debug, Default)]
pub(super) struct Calls(BTreeMap<(TunnelId, Ipv4Addr), Instant>);

impl Calls {
    /// Whether to call somebody.
    fn admit(&mut self, now: Instant, tunnel: TunnelId, remote: Ipv4Addr) -> bool {
        self.0.retain(|_, begun| now.since(*begun) < CALL);
        let admitted = self.0.len() < CALLS && !self.0.contains_key(&(tunnel, remote));
        if admitted {
            self.0.insert((tunnel, remote), now);
        }
        admitted
    }

    /// Somebody has proved who it is.
    fn answered(&mut self, tunnel: TunnelId, remote: Ipv4Addr) {
        self.0.remove(&(tunnel, remote));
    }
}

/// How often an unknown SPI may be acted upon.
pub(super) const fn unknown_spi_limit() -> RateLimit {
    RateLimit::new(Duration::from_millis(10), 100)
}

impl Engine {
    pub(super) fn carry_out_ike(&mut self, now: Instant, output: ike::Output) {
        match output {
            ike::Output::Send { local, remote, marker, payload } => {
                self.send_datagram(now, local, remote, marker, &payload);
            }
            ike::Output::Dh(job) => self.outputs.push_back(Output::Dh(job)),
            ike::Output::Event(event) => self.carry_out_event(now, event),
        }
    }

    fn carry_out_event(&mut self, now: Instant, event: ike::Event) {
        match event {
            ike::Event::PeerUp { peer, tunnel, endpoints, identity, .. } => {
                self.calls.answered(tunnel, endpoints.remote);
                let neighbor = self.pinned_underlay(now, tunnel, endpoints.remote);
                self.peers.insert(peer, Peer::protected(tunnel, endpoints, identity.clone(), neighbor));
                let what = What::PeerUp { peer, remote: endpoints.remote, identity };
                self.notice(Some(tunnel), what);
            }
            ike::Event::PeerMoved { peer, endpoints } => {
                let Some(tunnel) = self.peers.get(peer).map(|peer| peer.tunnel) else { return };
                let neighbor = self.pinned_underlay(now, tunnel, endpoints.remote);
                self.unpin(peer);
                self.peers.relocate(self.tables.edit(), peer, endpoints, neighbor);
                self.path_changed(now, peer);
                self.tell_up(now, peer);
                self.notice(Some(tunnel), What::PeerMoved { peer, remote: endpoints.remote });
            }
            ike::Event::PeerDown { peer, tunnel, remote, reason } => {
                self.remove_peer(now, peer);
                self.notice(Some(tunnel), What::PeerDown { peer, remote, reason });
            }
            ike::Event::InstallInbound(new) => {
                self.follow(new.peer);
                let window = WindowSize::new(new.replay_window).unwrap_or_default();
                self.peers.install_inbound(self.tables.edit(), &new, window);
            }
            ike::Event::InstallOutbound(new) => {
                let iv_seed = IvSeed::new(tables::draw(&mut self.rng));
                self.peers.install_outbound(self.tables.edit(), &new, iv_seed);
                self.path_changed(now, new.peer);
            }
            ike::Event::RemoveInbound { peer, spi, .. } => {
                self.peers.remove_inbound(self.tables.edit(), peer, spi);
            }
            ike::Event::RemoveOutbound { peer, spi, .. } => {
                self.peers.remove_outbound(self.tables.edit(), peer, spi);
                self.path_changed(now, peer);
            }
            ike::Event::Failed { tunnel, remote, reason } => {
                self.tell_nhrp(now, tunnel, nhrp::Input::ConnectFailed { nbma: remote });
                self.notice(Some(tunnel), What::ConnectFailed { remote, reason });
            }
            ike::Event::Notice(notice) => self.notice(notice.tunnel, What::Ike(notice)),
        }
    }

    /// ESP came with an SPI that we do not know. A peer that we have an IKE SA with is told to forget it. If
    /// we started only lately, the sender knows us from before, and waits for answers that will never come:
    /// we call it, instead of waiting until it notices.
    pub(super) fn unknown_spi(&mut self, now: Instant, spi: u32, packet: &[u8]) {
        let Ok((header, _)) = ipv4::Header::view(packet) else { return };
        let (remote, ours) = (header.source(), header.destination());
        if !self.unknown_spi.allow(now) {
            return;
        }
        self.ike.handle(now, ike::Input::UnknownSpi { spi, remote });
        let tunnel = tunnels(&self.config)
            .map(|(id, _)| id)
            .find(|id| self.is_protected(*id) && self.local_address(*id) == Some(ours));
        let Some(tunnel) = tunnel.filter(|_| !self.closing && now.since(self.started) < PREVIOUS_LIFE) else {
            return;
        };
        if self.peers.at(tunnel, remote).next().is_none() && self.calls.admit(now, tunnel, remote) {
            self.ike.handle(now, ike::Input::Connect { tunnel, remote });
        }
    }

    /// A peer may have got a path or lost it: NHRP is told, and it binds and unbinds.
    pub(super) fn path_changed(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let tunnel = peer.tunnel;
        let up = peer.neighbor.is_some() && peer.path().is_some();
        match (peer.up_since, up) {
            (None, true) => {
                peer.up_since = Some(now);
                self.alarms.set(Alarm::Linger(id), now + UNBOUND);
                self.watch_usage(now);
                self.tell_up(now, id);
            }
            (Some(_), false) => {
                peer.up_since = None;
                self.tell_nhrp(now, tunnel, nhrp::Input::PeerDown { peer: id });
            }
            _ => {}
        }
    }

    /// Tells NHRP of a path that is up, if it is.
    pub(super) fn tell_up(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(id).filter(|peer| peer.up_since.is_some()) else { return };
        let (nbma, natted) = (peer.endpoints.remote, peer.endpoints.udp.is_some());
        let input = nhrp::Input::PeerUp { peer: id, nbma, natted };
        self.tell_nhrp(now, peer.tunnel, input);
    }

    /// Forgets a peer; workers have nothing of it from the next snapshot on.
    pub(super) fn remove_peer(&mut self, now: Instant, id: PeerId) {
        self.unpin(id);
        self.alarms.cancel(Alarm::Linger(id));
        let Some(peer) = self.peers.remove(self.tables.edit(), id) else { return };
        if peer.up_since.is_some() {
            self.tell_nhrp(now, peer.tunnel, nhrp::Input::PeerDown { peer: id });
        }
    }

    /// Underlay routes may be others: looks for every peer's next hop again.
    pub(super) fn relocate_peers(&mut self, now: Instant) {
        let peers: Vec<_> = self.peers.iter().map(|(id, peer)| (id, peer.tunnel, peer.endpoints)).collect();
        for (id, tunnel, endpoints) in peers {
            let neighbor = self.pinned_underlay(now, tunnel, endpoints.remote);
            self.unpin(id);
            self.peers.relocate(self.tables.edit(), id, endpoints, neighbor);
            self.path_changed(now, id);
        }
    }

    /// The underlay next hop for a peer, which keeps it.
    fn pinned_underlay(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        to: Ipv4Addr,
    ) -> Option<dmvpn_tables::NeighborId> {
        let neighbor = self.underlay(now, tunnel, to);
        match neighbor {
            Some(neighbor) => self.arp.pin(neighbor),
            None => self.notice(Some(tunnel), What::NoUnderlayRoute { remote: to }),
        }
        neighbor
    }

    fn unpin(&mut self, id: PeerId) {
        if let Some(neighbor) = self.peers.get(id).and_then(|peer| peer.neighbor) {
            self.arp.unpin(neighbor);
        }
    }

    /// Sends an IKE datagram by the underlay interface that our address belongs to. It does not go
    /// through the workers' routes: a default route into a tunnel must not swallow what opens it.
    fn send_datagram(
        &mut self,
        now: Instant,
        local: SocketAddrV4,
        remote: SocketAddrV4,
        marker: bool,
        payload: &[u8],
    ) {
        let tunnel =
            tunnels(&self.config).map(|(id, _)| id).find(|id| self.local_address(*id) == Some(*local.ip()));
        let Some(tunnel) = tunnel else { return };
        let Some(neighbor) = self.underlay(now, tunnel, *remote.ip()) else {
            return self.notice(Some(tunnel), What::NoUnderlayRoute { remote: *remote.ip() });
        };
        if let Some(packet) = datagram(local, remote, marker, payload) {
            self.arp.send(neighbor, packet);
        }
    }
}

/// An IPv4 packet with a UDP datagram; `marker` puts the non-ESP marker in front (RFC 3948 section 2.2).
fn datagram(local: SocketAddrV4, remote: SocketAddrV4, marker: bool, payload: &[u8]) -> Option<Vec<u8>> {
    let mut content = if marker { udp::NON_ESP_MARKER.to_vec() } else { Vec::new() };
    content.extend_from_slice(payload);
    let (source, destination) = (*local.ip(), *remote.ip());
    let udp = udp::Header::new(local.port(), remote.port(), content.len())?.with_checksum(
        source,
        destination,
        &content,
    );
    let fields = Fields {
        tos: 0,
        identification: 0,
        dont_fragment: false,
        ttl: 64,
        protocol: IpProtocol::UDP,
        source,
        destination,
    };
    let header = ipv4::Header::new(&fields, udp::Header::LEN + content.len())?;
    Some([header.octets(), udp.octets(), &content].concat())
}
