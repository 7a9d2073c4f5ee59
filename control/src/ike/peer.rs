//! A peer and its pairs of ESP SAs: which one to send with, when to replace one, when one goes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dmvpn_config::model::EspProposal;
use dmvpn_tables::esp::KeyMaterial;
use dmvpn_tables::{Endpoints, Mode, PeerId, TunnelId, UdpPorts};

use super::api::{ChildId, Event, Identity, NewSa, Reason};
use super::env::Env;
use super::nat_t::{Nat, PORT_NATT};
use crate::time::Instant;

/// How long we go on sending with the old SA after we replaced it, unless the peer uses the new one
/// before: its end may not be installed yet, or our last message may be lost.
const SWITCH_AFTER: Duration = Duration::from_secs(5);
/// How long a replaced pair stays for packets under way, when it is ours to delete.
const DELETE_AFTER: Duration = Duration::from_secs(10);
/// Time from a DELETE to its repetition, up to which the pair still receives.
const DELETE_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Time from a quick mode that failed to the next.
const REKEY_RETRY: Duration = Duration::from_secs(5);
/// Time before the end of the old SA at which we switch at the latest.
const SWITCH_MARGIN: Duration = Duration::from_secs(1);
/// A NAT may move a peer that often, and not more.
const MOVE_INTERVAL: Duration = Duration::from_secs(1);
/// Most a NAT's entry may be idle (RFC 3948 section 4).
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// An authenticated far end.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) tunnel: TunnelId,
    pub(super) identity: Identity,
    pub(super) local: SocketAddrV4,
    pub(super) remote: SocketAddrV4,
    pub(super) nat: Nat,
    /// Its IKE SAs by our cookie; the last one that is not retiring is the one to use.
    pub(super) sas: Vec<u64>,
    pub(super) children: BTreeMap<ChildId, Child>,
    /// Outbound SAs in the order of their installation.
    outbound: Vec<ChildId>,
    /// When it last proved that it lives.
    pub(super) heard: Instant,
    pub(super) probe: Option<Probe>,
    pub(super) keepalive_at: Option<Instant>,
    /// Somebody waits for a path.
    pub(super) wanted: bool,
    /// When to begin a main mode because there is no IKE SA left.
    pub(super) reconnect_at: Option<Instant>,
    moved_at: Option<Instant>,
    /// When we last told it of an SPI that we do not know.
    pub(super) spi_told_at: Option<Instant>,
}

/// Names a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PeerKey {
    tunnel: TunnelId,
    address: Ipv4Addr,
    /// Behind a NAT, its port there: several peers may share an address.
    port: Option<u16>,
    identity: Identity,
}

impl PeerKey {
    pub(super) fn new(tunnel: TunnelId, remote: SocketAddrV4, nat: Nat, identity: Identity) -> Self {
        Self { tunnel, address: *remote.ip(), port: nat.remote.then_some(remote.port()), identity }
    }

    /// Not greater than any key of a peer at this address.
    pub(super) fn first_at(tunnel: TunnelId, address: Ipv4Addr) -> Self {
        Self { tunnel, address, port: None, identity: Identity { kind: 0, data: Vec::new() } }
    }

    pub(super) fn is_at(&self, tunnel: TunnelId, address: Ipv4Addr) -> bool {
        self.tunnel == tunnel && self.address == address
    }
}

/// Dead peer detection under way (RFC 3706).
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    /// Repeated until it is answered.
    pub(super) sequence: u32,
    pub(super) next: Instant,
    /// When the peer is given up.
    pub(super) dead_at: Instant,
}

/// A pair of ESP SAs.
pub(super) struct Child {
    pub(super) id: ChildId,
    /// We began its quick mode.
    pub(super) initiator: bool,
    pub(super) spi_in: u32,
    pub(super) spi_out: u32,
    pub(super) proposal: EspProposal,
    pub(super) pfs: bool,
    /// As in packets that we send.
    pub(super) mode: Mode,
    pub(super) udp: bool,
    /// Which pair was in use when its quick mode began.
    pub(super) replaces: Option<ChildId>,
    /// The smaller of its nonces. Of two pairs that replace the same one, the one with the larger wins.
    pub(super) weight: Vec<u8>,
    /// Its quick mode is complete.
    pub(super) confirmed: bool,
    /// Another one won against it, begun at the same time.
    pub(super) lost: bool,
    /// Until the outbound SA is installed.
    pub(super) outbound: Option<KeyMaterial>,
    pub(super) since: Instant,
    pub(super) rekey_at: Instant,
    pub(super) expires: Instant,
    pub(super) switch_at: Option<Instant>,
    /// When the peer is told that it ends.
    pub(super) retire_at: Option<Instant>,
    /// The peer has been told once.
    pub(super) told: bool,
}

impl Child {
    /// Whether both were begun to the same end at the same time, one by each side.
    fn is_rival_of(&self, other: &Self) -> bool {
        self.id != other.id && self.replaces == other.replaces && self.initiator != other.initiator
    }
}

impl Peer {
    pub(super) fn new(
        id: PeerId,
        tunnel: TunnelId,
        identity: Identity,
        (local, remote): (SocketAddrV4, SocketAddrV4),
        nat: Nat,
        now: Instant,
    ) -> Self {
        Self {
            id,
            tunnel,
            identity,
            local,
            remote,
            nat,
            sas: Vec::new(),
            children: BTreeMap::new(),
            outbound: Vec::new(),
            heard: now,
            probe: None,
            keepalive_at: nat.local.then_some(now + KEEPALIVE_INTERVAL),
            wanted: false,
            reconnect_at: None,
            moved_at: None,
            spi_told_at: None,
        }
    }

    pub(super) fn key(&self) -> PeerKey {
        PeerKey::new(self.tunnel, self.remote, self.nat, self.identity.clone())
    }

    /// Outer addresses; with ports if ESP goes in UDP.
    pub(super) fn endpoints(&self, udp: bool) -> Endpoints {
        // Without a floated IKE SA there is no port to go by but the well-known one.
        let remote = if self.local.port() == PORT_NATT { self.remote.port() } else { PORT_NATT };
        Endpoints {
            local: *self.local.ip(),
            remote: *self.remote.ip(),
            udp: udp.then_some(UdpPorts { local: PORT_NATT, remote }),
        }
    }

    /// The pair to send with.
    pub(super) fn sending(&self) -> Option<&Child> {
        self.outbound.last().and_then(|id| self.children.get(id))
    }

    /// The first packet came by an inbound SA: the peer has both SAs of that pair.
    pub(super) fn inbound_used(&mut self, env: &mut Env, now: Instant, spi: u32) {
        self.hear(now);
        if let Some(child) = self.child_by_inbound(spi)
            && (!child.confirmed || child.switch_at.is_some())
        {
            self.switch(env, now, child.id);
        }
    }

    /// Whether there is a path, or will be without a new quick mode.
    pub(super) fn has_path(&self) -> bool {
        !self.children.is_empty()
    }

    /// The peer proved that it lives.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = now;
        self.probe = None;
    }

    /// Takes a new pair: its inbound SA is installed, its outbound SA waits for [`Peer::switch`]. Gives
    /// a pair that had to make room.
    pub(super) fn add_child(&mut self, env: &mut Env, now: Instant, child: Child, inbound: KeyMaterial) {
        let replay_window = env.profile(self.tunnel).map_or(64, |profile| profile.esp.replay_window);
        let mode = match child.mode {
            Mode::Transport => Mode::Transport,
            Mode::Tunnel { source, destination } => Mode::Tunnel { source: destination, destination: source },
        };
        env.counters.children_up += 1;
        env.event(Event::InstallInbound(Box::new(NewSa {
            peer: self.id,
            tunnel: self.tunnel,
            child: child.id,
            spi: child.spi_in,
            keys: inbound,
            mode,
            endpoints: self.endpoints(child.udp),
            replay_window,
            lifetime: child.expires - now,
        })));
        self.children.insert(child.id, child);
        while self.children.len() > env.limits.children_per_peer {
            let sending = self.sending().map(|child| child.id);
            let Some(oldest) = self.children.keys().find(|id| Some(**id) != sending).copied() else { break };
            self.remove_child(env, now, oldest);
        }
    }

    /// Our quick mode is complete: the new pair is used once the peer does so, or after a while. The
    /// first pair is used at once.
    pub(super) fn switch_soon(&mut self, env: &mut Env, now: Instant, id: ChildId) {
        if let Some(child) = self.children.get_mut(&id) {
            child.confirmed = true;
        }
        let Some(current) = self.sending() else { return self.switch(env, now, id) };
        let latest = Instant::from_micros(
            current.expires.as_micros().saturating_sub(u64::try_from(SWITCH_MARGIN.as_micros()).unwrap_or(0)),
        );
        let at = (now + SWITCH_AFTER).min(latest.max(now));
        if let Some(child) = self.children.get_mut(&id) {
            child.switch_at = Some(at);
        }
    }

    /// The peer has both SAs of a new pair: use it, unless it lost against one made at the same time.
    pub(super) fn switch(&mut self, env: &mut Env, now: Instant, id: ChildId) {
        let Some(child) = self.children.get_mut(&id) else { return };
        (child.switch_at, child.confirmed) = (None, true);
        let Some(child) = self.children.get(&id) else { return };
        let rival = self.sending().filter(|other| other.is_rival_of(child));
        let wins = rival.is_none_or(|rival| child.weight > rival.weight);
        let loser = if wins { rival.map(|rival| rival.id) } else { Some(id) };
        // Who began a pair deletes what it replaces, and its own that have lost. One that has lost just now stays until
        // then: not every peer judges as we do, and it may send by this one and have forgotten the other.
        let replaced = self.children.values().filter(|other| {
            wins && (child.initiator || (other.lost && other.initiator))
                && other.id < id
                && other.confirmed
                && !other.is_rival_of(child)
        });
        let ending: Vec<ChildId> = replaced.map(|other| other.id).collect();
        for other in ending {
            if let Some(other) = self.children.get_mut(&other) {
                other.retire_at.get_or_insert(now + DELETE_AFTER);
            }
        }
        if let Some(loser) = loser.and_then(|loser| self.children.get_mut(&loser)) {
            loser.lost = true;
        }
        if wins {
            self.install_outbound(env, now, id);
        }
    }

    /// What takes the place of the pair in use is under way.
    pub(super) fn rekey_begun(&mut self) {
        let sending = self.sending().map(|child| child.id);
        if let Some(child) = sending.and_then(|id| self.children.get_mut(&id)) {
            child.rekey_at = child.expires;
        }
    }

    /// Replaces the pair in use a little later.
    pub(super) fn rekey_later(&mut self, now: Instant) {
        let sending = self.sending().map(|child| child.id);
        if let Some(child) = sending.and_then(|id| self.children.get_mut(&id)) {
            child.rekey_at = now + REKEY_RETRY;
        }
    }

    /// A main mode has found out anew who is behind a NAT.
    pub(super) fn set_nat(&mut self, nat: Nat, now: Instant) {
        self.nat = nat;
        self.keepalive_at = nat.local.then(|| self.keepalive_at.unwrap_or(now + KEEPALIVE_INTERVAL));
    }

    /// The peer still lacks our last message: give it more time.
    pub(super) fn postpone_switch(&mut self, now: Instant, id: ChildId) {
        if let Some(child) = self.children.get_mut(&id) {
            child.switch_at = child.switch_at.map(|at| at.max(now + SWITCH_MARGIN));
        }
    }

    /// A quick mode of ours came to nothing: whoever waits is told; the pair in use, if any, gets another
    /// one later.
    pub(super) fn child_failed(&mut self, env: &mut Env, now: Instant, reason: Reason) {
        if self.wanted {
            self.wanted = false;
            env.event(Event::Failed { tunnel: self.tunnel, remote: *self.remote.ip(), reason });
        }
        self.rekey_later(now);
    }

    /// Ends a pair.
    pub(super) fn remove_child(&mut self, env: &mut Env, now: Instant, id: ChildId) {
        let Some(child) = self.children.remove(&id) else { return };
        if let Some(position) = self.outbound.iter().position(|installed| *installed == id) {
            if self.outbound.len() == 1 {
                self.install_spare(env, now);
            }
            self.outbound.remove(position);
            env.event(Event::RemoveOutbound { peer: self.id, child: id, spi: child.spi_out });
        }
        env.spis.free(child.spi_in);
        env.counters.children_down += 1;
        env.event(Event::RemoveInbound { peer: self.id, child: id, spi: child.spi_in });
    }

    /// Ends every pair.
    pub(super) fn remove_children(&mut self, env: &mut Env, now: Instant) {
        // The spares first, so that none of them is taken into use.
        let spares = self.children.values().filter(|child| child.outbound.is_some()).map(|child| child.id);
        let order: Vec<_> = spares.chain(self.outbound.iter().copied()).collect();
        order.into_iter().for_each(|id| self.remove_child(env, now, id));
    }

    /// The pair an SPI of ours belongs to.
    pub(super) fn child_by_inbound(&self, spi: u32) -> Option<&Child> {
        self.children.values().find(|child| child.spi_in == spi)
    }

    /// The pair an SPI in a DELETE of the peer belongs to: rightly that of its inbound SA.
    pub(super) fn child_by_either(&self, spi: u32) -> Option<&Child> {
        self.children.values().find(|child| child.spi_out == spi).or_else(|| self.child_by_inbound(spi))
    }

    /// Takes a new address and port that the peer was authentically heard from. False if it cannot have
    /// moved there, or moves too often.
    pub(super) fn move_to(
        &mut self,
        env: &mut Env,
        now: Instant,
        local: SocketAddrV4,
        to: SocketAddrV4,
    ) -> bool {
        let too_often = self.moved_at.is_some_and(|at| now.since(at) < MOVE_INTERVAL);
        if !self.nat.remote || too_often || (self.remote == to && self.local == local) {
            return false;
        }
        (self.local, self.remote, self.moved_at) = (local, to, Some(now));
        env.counters.peers_moved += 1;
        let udp = self.children.values().any(|child| child.udp);
        env.event(Event::PeerMoved { peer: self.id, endpoints: self.endpoints(udp) });
        true
    }

    /// When the pair in use is to be replaced.
    pub(super) fn rekey_at(&self) -> Option<Instant> {
        self.sending().filter(|child| child.retire_at.is_none()).map(|child| child.rekey_at)
    }

    /// The earliest deadline of the pairs, but for their replacement.
    pub(super) fn children_deadline(&self) -> Option<Instant> {
        let of = |child: &Child| {
            [Some(child.expires), child.switch_at, child.retire_at].into_iter().flatten().min()
        };
        self.children.values().filter_map(of).min()
    }

    /// Does what is due with the pairs. Gives our SPIs of pairs that the peer is to be told of.
    pub(super) fn tick_children(&mut self, env: &mut Env, now: Instant) -> Vec<u32> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let switching: Vec<_> =
            self.children.values().filter(|child| due(child.switch_at)).map(|child| child.id).collect();
        switching.into_iter().for_each(|id| self.switch(env, now, id));
        let mut telling = Vec::new();
        let mut ending = Vec::new();
        for child in self.children.values_mut() {
            let retiring = due(child.retire_at);
            if retiring {
                telling.push(child.spi_in);
            }
            if child.expires <= now || (retiring && child.told) {
                ending.push(child.id);
            } else if retiring {
                // A DELETE has no answer. Should it be lost, packets still arrive until the next one.
                (child.told, child.retire_at) = (true, Some(now + DELETE_AGAIN_AFTER));
            }
        }
        ending.into_iter().for_each(|id| self.remove_child(env, now, id));
        telling
    }

    /// Where no other outbound SA is left, takes one that was held back, if there is one.
    fn install_spare(&mut self, env: &mut Env, now: Instant) {
        let is_spare = |child: &&Child| child.confirmed && child.outbound.is_some();
        if let Some(spare) = self.children.values().rev().find(is_spare).map(|child| child.id) {
            self.install_outbound(env, now, spare);
        }
    }

    fn install_outbound(&mut self, env: &mut Env, now: Instant, id: ChildId) {
        let endpoints = self.children.get(&id).map(|child| self.endpoints(child.udp));
        let (Some(endpoints), Some(child)) = (endpoints, self.children.get_mut(&id)) else { return };
        let Some(keys) = child.outbound.take() else { return };
        child.switch_at = None;
        let sa = NewSa {
            peer: self.id,
            tunnel: self.tunnel,
            child: id,
            spi: child.spi_out,
            keys,
            mode: child.mode,
            endpoints,
            replay_window: 0,
            lifetime: child.expires - now,
        };
        self.outbound.push(id);
        self.wanted = false;
        env.event(Event::InstallOutbound(Box::new(sa)));
    }
}
