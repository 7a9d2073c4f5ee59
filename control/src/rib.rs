//! Routes: who says so, which one wins, and the adjacency that it leads to.
//!
//! Routes with the same next hop share one adjacency slot, so when a peer comes or goes one slot
//! changes, however many routes lead there. All work is per change, never per table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dmvpn_tables::{Adjacency, AdjacencyId, NeighborId, PeerId, PortId, Snapshot, TunnelId};
use ipnetwork::Ipv4Network;
use prefix_trie::PrefixMap;

/// Where a route comes from; the first in this order wins among routes to the same prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// An address of this box.
    Local,
    /// The network of an interface.
    Connected,
    /// A station on a port's link that answered ARP.
    Neighbor,
    /// An overlay station whose underlay address NHRP knows.
    Nhrp,
    /// A shorter way, learned by NHRP resolution. It wins over a static route to the same prefix,
    /// which is how a shortcut overrides the next hop that the operator wrote.
    Shortcut,
    /// `protocols static route`.
    Static,
}

/// What a route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHop {
    /// This box.
    Local,
    /// The destination itself, on a port's link.
    Link(PortId),
    /// A gateway on a port's link.
    Gateway(Gateway),
    /// The destination itself, somewhere in a tunnel's overlay.
    Overlay(TunnelId),
    /// A station in a tunnel's overlay.
    Station(TunnelId, Ipv4Addr),
}

/// A station on a port's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gateway {
    /// The port of its link.
    pub port: PortId,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its entry in the neighbor table.
    pub neighbor: NeighborId,
}

/// One route; ordered by preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Who says so.
    pub origin: Origin,
    /// What it leads to.
    pub next_hop: NextHop,
}

/// The routing table, and the adjacencies that its next hops share.
#[derive(Debug, Default)]
pub struct Rib {
    /// The candidates of each prefix, best first.
    routes: PrefixMap<Ipv4Network, Vec<Route>>,
    slots: BTreeMap<NextHop, Slot>,
    vacant: Vec<AdjacencyId>,
    /// Overlay stations that have a path of their own.
    bound: BTreeMap<(TunnelId, Ipv4Addr), PeerId>,
    /// The next hop server that stands in for stations without one.
    via: BTreeMap<TunnelId, PeerId>,
    /// Next hops that depend on `via` at the moment.
    resolving: BTreeSet<(TunnelId, NextHop)>,
}

/// An adjacency slot and how many installed routes lead to it.
#[derive(Debug)]
struct Slot {
    id: AdjacencyId,
    routes: usize,
}

impl Rib {
    /// Adds a route. Only static routes may have several next hops for one prefix; of every other
    /// origin the new route takes the place of the old one.
    pub fn insert(&mut self, tables: &mut Snapshot, prefix: Ipv4Network, route: Route) {
        self.change(tables, prefix, |candidates| {
            candidates.retain(|have| have.origin != route.origin || have.origin == Origin::Static);
            if let Err(place) = candidates.binary_search(&route) {
                candidates.insert(place, route);
            }
        });
    }

    /// Removes the routes of an origin to exactly this prefix.
    pub fn remove(&mut self, tables: &mut Snapshot, prefix: Ipv4Network, origin: Origin) {
        self.change(tables, prefix, |candidates| candidates.retain(|have| have.origin != origin));
    }

    /// An overlay station has a path (`Some`) or lost it. All routes by way of it follow at once.
    pub fn bind(&mut self, tables: &mut Snapshot, tunnel: TunnelId, station: Ipv4Addr, peer: Option<PeerId>) {
        let key = (tunnel, station);
        let before = match peer {
            Some(peer) => self.bound.insert(key, peer),
            None => self.bound.remove(&key),
        };
        if before != peer {
            self.refresh(tables, NextHop::Station(tunnel, station));
        }
    }

    /// The path of an overlay station.
    pub fn bound(&self, tunnel: TunnelId, station: Ipv4Addr) -> Option<PeerId> {
        self.bound.get(&(tunnel, station)).copied()
    }

    /// Sets the next hop server that packets for unresolved stations of a tunnel go through meanwhile.
    pub fn set_via(&mut self, tables: &mut Snapshot, tunnel: TunnelId, via: Option<PeerId>) {
        let before = match via {
            Some(peer) => self.via.insert(tunnel, peer),
            None => self.via.remove(&tunnel),
        };
        if before == via {
            return;
        }
        let affected: Vec<NextHop> = self
            .resolving
            .range((tunnel, NextHop::Local)..)
            .take_while(|(of, _)| *of == tunnel)
            .map(|(_, next_hop)| *next_hop)
            .collect();
        for next_hop in affected {
            self.refresh(tables, next_hop);
        }
    }

    /// The next hop server that stands in for unresolved stations of a tunnel.
    pub fn via(&self, tunnel: TunnelId) -> Option<PeerId> {
        self.via.get(&tunnel).copied()
    }

    /// The best route to an address among those that `usable` admits, with its prefix.
    pub fn lookup(
        &self,
        destination: Ipv4Addr,
        usable: impl Fn(&Route) -> bool,
    ) -> Option<(Ipv4Network, Route)> {
        let mut best = None;
        for (prefix, candidates) in self.routes.cover(&Ipv4Network::from(destination)) {
            if let Some(route) = candidates.iter().find(|route| usable(route)) {
                best = Some((prefix, *route));
            }
        }
        best
    }

    /// All routes, by prefix, best first; the first of a prefix is the one in use.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Network, &[Route])> {
        self.routes.iter().map(|(prefix, candidates)| (prefix, candidates.as_slice()))
    }

    /// Edits the candidates of a prefix and carries a change of the best one to the tables.
    fn change(&mut self, tables: &mut Snapshot, prefix: Ipv4Network, edit: impl FnOnce(&mut Vec<Route>)) {
        let candidates = self.routes.entry(prefix).or_default();
        let before = candidates.first().map(|route| route.next_hop);
        edit(candidates);
        let after = candidates.first().map(|route| route.next_hop);
        if candidates.is_empty() {
            self.routes.remove(&prefix);
        }
        if before == after {
            return;
        }
        match after {
            Some(next_hop) => {
                let slot = self.acquire(tables, next_hop);
                tables.fib.insert(prefix, slot);
            }
            None => tables.fib.remove(prefix),
        }
        if let Some(next_hop) = before {
            self.release(tables, next_hop);
        }
    }

    /// The slot of a next hop, for one more route.
    fn acquire(&mut self, tables: &mut Snapshot, next_hop: NextHop) -> AdjacencyId {
        if let Some(slot) = self.slots.get_mut(&next_hop) {
            slot.routes += 1;
            return slot.id;
        }
        let id = self
            .vacant
            .pop()
            .unwrap_or_else(|| AdjacencyId(u32::try_from(self.slots.len()).unwrap_or(u32::MAX)));
        self.slots.insert(next_hop, Slot { id, routes: 1 });
        self.refresh(tables, next_hop);
        id
    }

    /// One route less leads to a next hop.
    fn release(&mut self, tables: &mut Snapshot, next_hop: NextHop) {
        let Some(slot) = self.slots.get_mut(&next_hop) else { return };
        slot.routes -= 1;
        if slot.routes == 0 {
            let id = slot.id;
            self.slots.remove(&next_hop);
            self.vacant.push(id);
            if let Some(tunnel) = next_hop.tunnel() {
                self.resolving.remove(&(tunnel, next_hop));
            }
            tables.adjacencies.set(id.0 as usize, Adjacency::Unreachable);
        }
    }

    /// Writes the adjacency of a next hop into its slot, if any route leads there.
    fn refresh(&mut self, tables: &mut Snapshot, next_hop: NextHop) {
        let Some(slot) = self.slots.get(&next_hop) else { return };
        let adjacency = self.adjacency(next_hop);
        tables.adjacencies.set(slot.id.0 as usize, adjacency);
        if let Some(tunnel) = next_hop.tunnel() {
            if matches!(adjacency, Adjacency::Resolving { .. }) {
                self.resolving.insert((tunnel, next_hop));
            } else {
                self.resolving.remove(&(tunnel, next_hop));
            }
        }
    }

    /// What a next hop comes to at the moment.
    pub fn adjacency(&self, next_hop: NextHop) -> Adjacency {
        let resolving = |tunnel| Adjacency::Resolving { tunnel, via: self.via(tunnel) };
        match next_hop {
            NextHop::Local => Adjacency::Local,
            NextHop::Link(port) => Adjacency::Glean(port),
            NextHop::Gateway(gateway) => Adjacency::Neighbor(gateway.neighbor),
            NextHop::Overlay(tunnel) => resolving(tunnel),
            NextHop::Station(tunnel, station) => {
                self.bound(tunnel, station).map_or_else(|| resolving(tunnel), Adjacency::Tunnel)
            }
        }
    }
}

impl NextHop {
    /// The tunnel that it is in.
    pub const fn tunnel(self) -> Option<TunnelId> {
        match self {
            Self::Overlay(tunnel) | Self::Station(tunnel, _) => Some(tunnel),
            Self::Local | Self::Link(_) | Self::Gateway(_) => None,
        }
    }

    /// The port whose link it is on.
    pub const fn port(self) -> Option<PortId> {
        match self {
            Self::Link(port) | Self::Gateway(Gateway { port, .. }) => Some(port),
            Self::Local | Self::Overlay(_) | Self::Station(..) => None,
        }
    }
}

#[cfg(test)]
mod tests;
