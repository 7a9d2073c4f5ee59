//! From the configuration to interfaces, addresses and static routes; at start and whenever it changes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use dmvpn_config::{Config, LocalAddress, StaticRoute, Tunnel};
use dmvpn_tables::{NeighborId, PortId, PortInfo, TunnelId};
use ipnetwork::Ipv4Network;

use super::{Engine, Notice, What};
use crate::rib::{Gateway, NextHop, Origin, Route};
use crate::time::Instant;
use crate::{arp, nhrp};

impl Engine {
    /// Makes everything as `config` says. What is the same as before is left alone: a change of one
    /// tunnel resets no peer of another.
    pub(super) fn configure(&mut self, now: Instant, config: Arc<Config>) {
        self.leave_tunnels(now, &config);
        let before = std::mem::replace(&mut self.config, config);
        self.configure_ports();
        self.configure_addresses(&before);
        self.configure_routes(now);
        self.configure_tunnels(now, &before);
        self.relocate_peers(now);
    }

    /// Takes leave of the peers of tunnels that will not be the same, while we still have the addresses
    /// that they know: so they need not find out by themselves.
    fn leave_tunnels(&mut self, now: Instant, next: &Config) {
        let changed: Vec<_> = tunnels(&self.config)
            .filter(|(id, now)| {
                let next_tunnel = next.tunnels.get(usize::from(id.0));
                next_tunnel.is_none_or(|then| {
                    (local_address(&self.config, now), now.underlay, &now.profile)
                        != (local_address(next, then), then.underlay, &then.profile)
                        || nature(now) != nature(then)
                })
            })
            .map(|(id, _)| id)
            .collect();
        for tunnel in changed {
            self.ike.remove_profile(now, tunnel);
        }
        self.settle(now);
    }

    fn configure_ports(&mut self) {
        let config = self.config.clone();
        let mut ports = Vec::new();
        let mut links = Vec::new();
        for (number, (ethernet, port)) in config.ethernet.iter().zip(&self.ports).enumerate() {
            let address = ethernet.address.map_or(Ipv4Addr::UNSPECIFIED, |address| address.ip());
            let underlay =
                config.tunnels.iter().any(|tunnel| tunnel.profile.is_some() && tunnel.underlay == number);
            ports.push(PortInfo { mac: port.mac, mtu: ethernet.mtu.min(port.mtu), address, underlay });
            links.push(arp::Link { mac: port.mac, address: ethernet.address });
        }
        self.arp.configure(links);
        self.tables.edit().ports = ports.into();
    }

    /// Our addresses, and the networks they are in.
    fn configure_addresses(&mut self, before: &Config) {
        let new = connected(&self.config);
        for (prefix, route) in connected(before).difference(&new) {
            self.rib.remove(self.tables.edit(), *prefix, route.origin);
        }
        for (prefix, route) in &new {
            self.rib.insert(self.tables.edit(), *prefix, *route);
        }
    }

    fn configure_routes(&mut self, now: Instant) {
        let gone: Vec<_> = self
            .rib
            .iter()
            .flat_map(|(prefix, routes)| routes.iter().map(move |route| (prefix, *route)))
            .filter(|(_, route)| route.origin == Origin::Static)
            .collect();
        for (prefix, route) in gone {
            self.rib.remove(self.tables.edit(), prefix, Origin::Static);
            if let NextHop::Gateway(gateway) = route.next_hop {
                self.arp.unpin(gateway.neighbor);
            }
        }
        for route in self.config.clone().routes.iter() {
            match self.next_hop(now, route) {
                Some(next_hop) => {
                    if let NextHop::Gateway(gateway) = next_hop {
                        self.arp.pin(gateway.neighbor);
                    }
                    let prefix = route.prefix;
                    self.rib.insert(self.tables.edit(), prefix, Route { origin: Origin::Static, next_hop });
                }
                None => self.notice(None, What::RouteWithoutInterface(*route)),
            }
        }
    }

    /// The interface that a static route's next hop is on: the one whose network contains it, or the
    /// tunnel without a network (a /32 address) whose maps do.
    fn next_hop(&mut self, now: Instant, route: &StaticRoute) -> Option<NextHop> {
        let contains = |network: &Ipv4Network| network.prefix() < 32 && network.contains(route.next_hop);
        for (tunnel, interface) in tunnels(&self.config) {
            if contains(&interface.address) {
                return Some(NextHop::Station(tunnel, route.next_hop));
            }
        }
        for (number, ethernet) in (0..).zip(&self.config.ethernet) {
            if ethernet.address.as_ref().is_some_and(contains) {
                let (port, address) = (PortId(number), route.next_hop);
                let neighbor = self.arp.resolve(now, port, address)?;
                return Some(NextHop::Gateway(Gateway { port, address, neighbor }));
            }
        }
        let (tunnel, _) = tunnels(&self.config).find(|(_, interface)| {
            let mut maps = interface.nhrp.iter().flat_map(|nhrp| &nhrp.maps);
            interface.address.prefix() == 32 && maps.any(|map| map.address.contains(route.next_hop))
        })?;
        Some(NextHop::Station(tunnel, route.next_hop))
    }

    fn configure_tunnels(&mut self, now: Instant, before: &Config) {
        let config = self.config.clone();
        self.write_tunnels();
        for (tunnel, interface) in tunnels(&config) {
            let index = usize::from(tunnel.0);
            let local = self.local_address(tunnel);
            match &interface.profile {
                Some(profile) => self.ike.set_profile(now, tunnel, Arc::new(profile.clone()), local),
                None => self.ike.remove_profile(now, tunnel),
            }
            let same = before.tunnels.get(index).is_some_and(|old| nature(old) == nature(interface));
            match self.overlays.get_mut(index) {
                Some(overlay) if same => overlay.reconfigure(interface),
                _ => self.open_overlay(now, tunnel, interface),
            }
            self.set_nbma(now, tunnel, local);
        }
        while self.overlays.len() > config.tunnels.len() {
            let Ok(number) = u16::try_from(self.overlays.len() - 1) else { break };
            self.ike.remove_profile(now, TunnelId(number));
            self.close_overlay(now, TunnelId(number));
        }
    }

    /// What workers need to know of the tunnels.
    fn write_tunnels(&mut self) {
        let multicast = |tunnel: TunnelId| {
            let known = self.tables.read().tunnels.get(usize::from(tunnel.0));
            known.map_or_else(Arc::default, |known| known.multicast.clone())
        };
        let entries: Arc<[_]> = tunnels(&self.config)
            .map(|(id, interface)| dmvpn_tables::Tunnel {
                id,
                address: interface.address.ip(),
                local: self.local_address(id).unwrap_or(Ipv4Addr::UNSPECIFIED),
                key: interface.key,
                mtu: interface.mtu,
                ttl: interface.ttl,
                tos: interface.tos,
                dont_fragment: !interface.no_pmtu_discovery,
                protected: interface.profile.is_some(),
                redirect: interface.nhrp.as_ref().is_some_and(|nhrp| nhrp.redirect),
                multicast: multicast(id),
            })
            .collect();
        self.tables.edit().tunnels = entries;
    }

    /// Our underlay address on a tunnel.
    pub(super) fn local_address(&self, tunnel: TunnelId) -> Option<Ipv4Addr> {
        local_address(&self.config, self.config.tunnels.get(usize::from(tunnel.0))?)
    }

    /// The underlay next hop towards an address: by the tunnel's own interface and no other, whatever
    /// the routes through tunnels say.
    pub(super) fn underlay(&mut self, now: Instant, tunnel: TunnelId, to: Ipv4Addr) -> Option<NeighborId> {
        let interface = self.config.tunnels.get(usize::from(tunnel.0))?;
        let port = PortId(u16::try_from(interface.underlay).ok()?);
        let (_, route) = self.rib.lookup(to, |route| route.next_hop.port() == Some(port))?;
        match route.next_hop {
            NextHop::Gateway(gateway) => Some(gateway.neighbor),
            _ => self.arp.resolve(now, port, to),
        }
    }

    /// The address of ours that a sender of packets sees nearest.
    pub(super) fn address_facing(&self, sender: Ipv4Addr) -> Option<Ipv4Addr> {
        let (_, route) = self.rib.lookup(sender, |_| true)?;
        match (route.next_hop.port(), route.next_hop.tunnel()) {
            (Some(port), _) => self.config.ethernet.get(usize::from(port.0))?.address,
            (_, Some(tunnel)) => self.config.tunnels.get(usize::from(tunnel.0)).map(|of| of.address),
            _ => None,
        }
        .map(|address| address.ip())
    }

    pub(super) fn notice(&mut self, tunnel: Option<TunnelId>, what: What) {
        self.outputs.push_back(super::Output::Notice(Notice { tunnel, what }));
    }
}

/// What an overlay is made from. If that changes its peers are left and called anew; anything else they do not notice.
fn nature(tunnel: &Tunnel) -> impl PartialEq {
    (tunnel.profile.is_some(), tunnel.address, tunnel.nhrp.as_ref().map(nhrp::foundation))
}

/// The tunnels of a configuration, with their numbers.
pub(super) fn tunnels(config: &Config) -> impl Iterator<Item = (TunnelId, &Tunnel)> {
    (0..).map(TunnelId).zip(&config.tunnels)
}

fn local_address(config: &Config, interface: &Tunnel) -> Option<Ipv4Addr> {
    match interface.local {
        LocalAddress::Address(address) => Some(address),
        LocalAddress::FollowInterface => {
            config.ethernet.get(interface.underlay)?.address.map(|address| address.ip())
        }
    }
}

/// The routes that interface addresses make. A tunnel with a host address leads to the stations of its maps: without
/// routes of their own they would follow the default route, in the clear, whenever their peers are down.
fn connected(config: &Config) -> BTreeSet<(Ipv4Network, Route)> {
    let ports = (0..)
        .zip(&config.ethernet)
        .filter_map(|(number, ethernet)| Some((ethernet.address?, NextHop::Link(PortId(number)))));
    let overlays = tunnels(config).map(|(id, tunnel)| (tunnel.address, NextHop::Overlay(id)));
    let mut routes = BTreeSet::new();
    for (id, tunnel) in tunnels(config).filter(|(_, tunnel)| tunnel.address.prefix() == 32) {
        for map in tunnel.nhrp.iter().flat_map(|nhrp| &nhrp.maps) {
            if let Ok(network) = Ipv4Network::new(map.address.network(), map.address.prefix()) {
                routes.insert((network, Route { origin: Origin::Connected, next_hop: NextHop::Overlay(id) }));
            }
        }
    }
    for (address, next_hop) in ports.chain(overlays) {
        routes.insert((address.ip().into(), Route { origin: Origin::Local, next_hop: NextHop::Local }));
        if let Ok(network) = Ipv4Network::new(address.network(), address.prefix())
            && network.prefix() < 32
        {
            routes.insert((network, Route { origin: Origin::Connected, next_hop }));
        }
    }
    routes
}
