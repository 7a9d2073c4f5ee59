//! The far ends of tunnels. A spoke is one object: its underlay address and port, its ESP SAs, and the
//! overlay addresses bound to it; workers see all of it change in one snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dmvpn_tables::esp::{InboundSa, IvSeed, OutboundSa, WindowSize};
use dmvpn_tables::{
    Endpoints, HandlePool, Inbound, Mode, NeighborId, Path, PeerId, Snapshot, TunnelId, WorkerId, slab,
};

use crate::ike::{Identity, NewSa};
use crate::time::Instant;

/// Sequence numbers left when an SA is to be replaced: minutes at a million packets a second.
const SEQUENCE_RESERVE: u32 = 1 << 28;

/// Slots of the peer table: below `CLEAR` for protected peers, from there on for the others.
const CLEAR: u32 = 1 << 19;
/// Peers without IPsec: any source address of an NHRP packet can become one.
const CLEAR_PEERS: u32 = 1 << 16;

/// All peers of all tunnels, and their entries in the workers' tables.
#[derive(Debug)]
pub struct Peers {
    peers: BTreeMap<PeerId, Peer>,
    /// By tunnel and underlay address. Behind a NAT, several peers share one address.
    by_address: BTreeSet<(TunnelId, Ipv4Addr, PeerId)>,
    /// Handles of peers without IPsec. IKE gives out the others, below [`CLEAR`].
    clear: HandlePool,
    /// How many workers there are to own SAs.
    workers: u16,
}

/// One far end.
#[derive(Debug)]
pub struct Peer {
    /// The tunnel it belongs to.
    pub tunnel: TunnelId,
    /// Underlay addresses, and ports where a NAT is on the way.
    pub endpoints: Endpoints,
    /// Who it proved to be; `None` on a tunnel without IPsec.
    pub identity: Option<Identity>,
    /// Underlay next hop; `None` while there is no route to it.
    pub neighbor: Option<NeighborId>,
    /// Since when there is a path to it.
    pub up_since: Option<Instant>,
    /// When packets were last seen to pass.
    pub last_used: Option<Instant>,
    /// Overlay addresses that NHRP bound to it.
    pub stations: BTreeSet<Ipv4Addr>,
    /// The worker that receives what it sends, if that is always the same one; its next SAs will be that worker's.
    arrives_at: Option<WorkerId>,
    security: Security,
    /// Packets by SAs that are gone.
    retired: Traffic,
    /// Packets when last looked at.
    seen: Traffic,
    /// Since when we send to it and nothing comes back.
    silent_since: Option<Instant>,
}

/// How packets to and from a peer are protected.
#[derive(Debug)]
enum Security {
    /// Not at all: a tunnel without an IPsec profile.
    Clear,
    /// By ESP.
    Esp {
        /// The SAs to receive with; all are used.
        inbound: Vec<Receiving>,
        /// The SAs to send with; the last one is used. While there is none, there is no path.
        outbound: Vec<Sending>,
    },
}

#[derive(Debug)]
struct Receiving {
    sa: Arc<InboundSa>,
    mode: Mode,
    used: bool,
}

#[derive(Debug)]
struct Sending {
    sa: Arc<OutboundSa>,
    mode: Mode,
    near_end: bool,
}

/// Packets of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Received, and authentic.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// What a look at a peer's counters shows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Packets since the last look.
    pub traffic: Traffic,
    /// Inbound SAs that took their first packet.
    pub first_used: Vec<u32>,
    /// Outbound SAs whose sequence numbers come to their end.
    pub near_end: Vec<u32>,
}

impl Peers {
    /// No peers. `seed` tells the handles of one run of the program from those of another; their SAs are for `workers`.
    pub fn new(seed: u32, workers: u16) -> Self {
        Self {
            peers: BTreeMap::new(),
            by_address: BTreeSet::new(),
            clear: HandlePool::new(CLEAR_PEERS, seed),
            workers: workers.max(1),
        }
    }

    /// A handle for a peer without IPsec; `None` if there are too many.
    pub fn clear_handle(&mut self) -> Option<PeerId> {
        self.clear.alloc().map(|handle| PeerId(handle | CLEAR))
    }

    /// Takes in a peer that has no path yet.
    pub fn insert(&mut self, id: PeerId, peer: Peer) {
        self.by_address.insert((peer.tunnel, peer.endpoints.remote, id));
        self.peers.insert(id, peer);
    }

    /// Removes a peer and everything that workers know of it.
    pub fn remove(&mut self, tables: &mut Snapshot, id: PeerId) -> Option<Peer> {
        let peer = self.peers.remove(&id)?;
        self.by_address.remove(&(peer.tunnel, peer.endpoints.remote, id));
        tables.peers.set(id.index(), None);
        match &peer.security {
            Security::Clear => {
                self.clear.free(id.0 & !CLEAR);
            }
            Security::Esp { inbound, .. } => {
                for receiving in inbound {
                    tables.inbound.set(slot(receiving.sa.spi()), None);
                }
            }
        }
        Some(peer)
    }

    /// The peer of a handle.
    pub fn get(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(&id)
    }

    /// The peer of a handle, to change what workers do not see.
    pub fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(&id)
    }

    /// All peers, in the order of their handles.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.peers.iter().map(|(id, peer)| (*id, peer))
    }

    /// The handle after `id`, or the first one.
    pub fn after(&self, id: Option<PeerId>) -> Option<PeerId> {
        match id {
            Some(id) => self.peers.range((std::ops::Bound::Excluded(id), std::ops::Bound::Unbounded)).next(),
            None => self.peers.iter().next(),
        }
        .map(|(id, _)| *id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The peers of a tunnel at an underlay address.
    pub fn at(&self, tunnel: TunnelId, address: Ipv4Addr) -> impl Iterator<Item = PeerId> {
        self.by_address
            .range((tunnel, address, PeerId(0))..=(tunnel, address, PeerId(u32::MAX)))
            .map(|(_, _, id)| *id)
    }

    /// What a peer sends arrives at this worker. It becomes the owner of the SAs that the peer gets from now on, so that
    /// it need not hand their packets over; SAs that there are stay where they are.
    pub fn arrive_at(&mut self, id: PeerId, worker: WorkerId) {
        if let Some(peer) = self.peers.get_mut(&id).filter(|_| worker.0 < self.workers) {
            peer.arrives_at = Some(worker);
        }
    }

    /// The peer is at other addresses, or has another underlay next hop. SAs go on as they are.
    pub fn relocate(
        &mut self,
        tables: &mut Snapshot,
        id: PeerId,
        endpoints: Endpoints,
        neighbor: Option<NeighborId>,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        self.by_address.remove(&(peer.tunnel, peer.endpoints.remote, id));
        self.by_address.insert((peer.tunnel, endpoints.remote, id));
        (peer.endpoints, peer.neighbor) = (endpoints, neighbor);
        peer.write(tables, id);
        if let Security::Esp { inbound, .. } = &peer.security {
            for receiving in inbound {
                peer.write_inbound(tables, id, receiving);
            }
        }
    }

    /// Accepts ESP with a new SA, besides those there are.
    pub fn install_inbound(&mut self, tables: &mut Snapshot, new: &NewSa, window: WindowSize) {
        let Some(peer) = self.peers.get_mut(&new.peer) else { return };
        let owner = peer.owner(new.peer, self.workers);
        let sa = Arc::new(InboundSa::new(new.spi, &new.keys, window).owned_by(owner.0));
        let receiving = Receiving { sa, mode: new.mode, used: false };
        peer.write_inbound(tables, new.peer, &receiving);
        if let Security::Esp { inbound, .. } = &mut peer.security {
            inbound.push(receiving);
        }
    }

    /// Sends with a new SA from now on.
    pub fn install_outbound(&mut self, tables: &mut Snapshot, new: &NewSa, iv_seed: IvSeed) {
        let Some(peer) = self.peers.get_mut(&new.peer) else { return };
        let owner = peer.owner(new.peer, self.workers);
        let sa = Arc::new(OutboundSa::new(new.spi, &new.keys, iv_seed).owned_by(owner.0));
        if let Security::Esp { outbound, .. } = &mut peer.security {
            outbound.push(Sending { sa, mode: new.mode, near_end: false });
        }
        peer.write(tables, new.peer);
    }

    /// Accepts no more ESP with an SPI.
    pub fn remove_inbound(&mut self, tables: &mut Snapshot, id: PeerId, spi: u32) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Security::Esp { inbound, .. } = &mut peer.security else { return };
        let Some(place) = inbound.iter().position(|receiving| receiving.sa.spi() == spi) else { return };
        peer.retired.received += inbound.remove(place).sa.counters().packets;
        tables.inbound.set(slot(spi), None);
    }

    /// Sends nothing more with an SA. Without any, the peer is closed, not clear.
    pub fn remove_outbound(&mut self, tables: &mut Snapshot, id: PeerId, spi: u32) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Security::Esp { outbound, .. } = &mut peer.security else { return };
        let Some(place) = outbound.iter().position(|sending| sending.sa.spi() == spi) else { return };
        peer.retired.sent += outbound.remove(place).sa.counters().packets;
        peer.write(tables, id);
    }
}

impl Peer {
    /// A peer of a protected tunnel; its path comes with its SAs.
    pub fn protected(
        tunnel: TunnelId,
        endpoints: Endpoints,
        identity: Identity,
        neighbor: Option<NeighborId>,
    ) -> Self {
        let security = Security::Esp { inbound: Vec::new(), outbound: Vec::new() };
        Self::new(tunnel, endpoints, Some(identity), neighbor, security)
    }

    /// A peer of a tunnel without IPsec.
    pub fn clear(tunnel: TunnelId, endpoints: Endpoints, neighbor: Option<NeighborId>) -> Self {
        Self::new(tunnel, endpoints, None, neighbor, Security::Clear)
    }

    fn new(
        tunnel: TunnelId,
        endpoints: Endpoints,
        identity: Option<Identity>,
        neighbor: Option<NeighborId>,
        security: Security,
    ) -> Self {
        Self {
            tunnel,
            endpoints,
            identity,
            neighbor,
            up_since: None,
            last_used: None,
            stations: BTreeSet::new(),
            arrives_at: None,
            security,
            retired: Traffic::default(),
            seen: Traffic::default(),
            silent_since: None,
        }
    }

    /// Which worker a new SA is for. Where nobody knows at which its packets will arrive, all workers get as many peers.
    fn owner(&self, id: PeerId, workers: u16) -> WorkerId {
        // Neighboring slots to different workers (Fibonacci hashing). By the slot alone: all else of the handle counts up.
        let hash = (id.index() as u64).wrapping_mul(0x9e37_79b9) & 0xffff_ffff;
        let spread = u16::try_from((hash * u64::from(workers)) >> 32).unwrap_or_default();
        self.arrives_at.unwrap_or(WorkerId(spread))
    }

    /// How packets reach it; `None`: not at all.
    pub fn path(&self) -> Option<Path> {
        match &self.security {
            Security::Clear => Some(Path::Clear),
            Security::Esp { outbound, .. } => {
                outbound.last().map(|last| Path::Esp { sa: last.sa.clone(), mode: last.mode })
            }
        }
    }

    /// The SAs that it receives with.
    pub fn inbound(&self) -> impl Iterator<Item = &InboundSa> {
        let inbound = match &self.security {
            Security::Clear => &[][..],
            Security::Esp { inbound, .. } => inbound,
        };
        inbound.iter().map(|receiving| &*receiving.sa)
    }

    /// The SAs that it sends with; the last one is used.
    pub fn outbound(&self) -> impl Iterator<Item = &OutboundSa> {
        let outbound = match &self.security {
            Security::Clear => &[][..],
            Security::Esp { outbound, .. } => outbound,
        };
        outbound.iter().map(|sending| &*sending.sa)
    }

    /// Looks at the counters: what happened since the last look.
    pub fn observe(&mut self) -> Observed {
        let mut total = self.retired;
        let mut observed = Observed::default();
        if let Security::Esp { inbound, outbound } = &mut self.security {
            for receiving in inbound {
                let packets = receiving.sa.counters().packets;
                total.received += packets;
                if packets > 0 && !receiving.used {
                    receiving.used = true;
                    observed.first_used.push(receiving.sa.spi());
                }
            }
            for sending in outbound {
                total.sent += sending.sa.counters().packets;
                if !sending.near_end && sending.sa.sequence() > u32::MAX - SEQUENCE_RESERVE {
                    sending.near_end = true;
                    observed.near_end.push(sending.sa.spi());
                }
            }
        }
        observed.traffic = Traffic {
            received: total.received.saturating_sub(self.seen.received),
            sent: total.sent.saturating_sub(self.seen.sent),
        };
        self.seen = total;
        observed
    }

    /// Whether it left what we sent unanswered for `silence`, by what was seen since the last call; only
    /// then, and not whenever it is idle, is it worth a probe (RFC 3706 section 5.5).
    pub fn is_doubtful(&mut self, now: Instant, traffic: Traffic, silence: Duration) -> bool {
        if traffic.received > 0 {
            self.silent_since = None;
        } else if traffic.sent > 0 {
            self.silent_since.get_or_insert(now);
        }
        let doubtful = self.silent_since.is_some_and(|since| now.since(since) >= silence);
        if doubtful {
            self.silent_since = None;
        }
        doubtful
    }

    /// Writes the peer as workers see it: not at all without a path or an underlay next hop, or if the
    /// tunnel is protected and the path is not.
    fn write(&self, tables: &mut Snapshot, id: PeerId) {
        let peer = || {
            let tunnel = tables.tunnels.get(usize::from(self.tunnel.0))?;
            dmvpn_tables::Peer::new(id, tunnel, self.endpoints, self.path()?, self.neighbor?).ok()
        };
        tables.peers.set(id.index(), peer());
    }

    fn write_inbound(&self, tables: &mut Snapshot, id: PeerId, receiving: &Receiving) {
        let Endpoints { remote, udp, .. } = self.endpoints;
        let entry = Inbound::new(receiving.sa.clone(), id, self.tunnel, receiving.mode, remote, udp);
        tables.inbound.set(slot(receiving.sa.spi()), Some(entry));
    }
}

fn slot(spi: u32) -> usize {
    (spi & slab::INDEX_MASK) as usize
}

#[cfg(test)]
mod tests;
