//! Which link an address is on, and which way a packet goes.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use toml::Spanned;

use crate::draft::{Draft, Span};
use crate::report::Report;
use crate::section::Given;

/// An interface with its network.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// Name of the interface.
    pub name: String,
    /// Our address on it.
    pub address: Ipv4Network,
    /// Where the address is written.
    pub span: Span,
    /// What it is.
    pub port: LinkPort,
    /// Stations that are known to be on it beside those of its network: the maps of a tunnel whose address is a /32.
    pub stations: Vec<Ipv4Addr>,
}

impl Link {
    /// Whether a station with this address is on the link.
    pub(crate) fn holds(&self, address: Ipv4Addr) -> bool {
        self.address.contains(address) || self.stations.contains(&address)
    }
}

/// An index into the interfaces of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkPort {
    Ethernet(usize),
    Tunnel(usize),
}

/// The links and the routes of the box.
#[derive(Debug)]
pub(crate) struct Topology {
    pub links: Vec<Link>,
    /// Networks and the link (index) that leads to them.
    ways: Vec<(Ipv4Network, usize)>,
    /// Whether every interface's address could be read: only then can it be said that an address is on no link.
    pub is_complete: bool,
    /// Whether every route's next hop is on a link.
    pub routes_are_good: bool,
}

impl Topology {
    /// Finds the links, refuses overlaps among them and routes that lead nowhere.
    pub(crate) fn new(draft: &Draft, report: &Report<'_>) -> Self {
        let ethernet = draft.ethernet.iter().enumerate();
        let ethernet =
            ethernet.map(|(index, entry)| (&entry.name, &entry.address, LinkPort::Ethernet(index)));
        let tunnels = draft.tunnels.iter().enumerate();
        let tunnels = tunnels.map(|(index, entry)| (&entry.name, &entry.address, LinkPort::Tunnel(index)));
        let mut topology =
            Self { links: Vec::new(), ways: Vec::new(), is_complete: true, routes_are_good: true };
        for (name, address, port) in ethernet.chain(tunnels) {
            match address {
                Given::Is(address) => topology.links.push(Link {
                    name: name.get_ref().clone(),
                    address: *address.get_ref(),
                    span: address.span(),
                    port,
                    stations: if address.get_ref().prefix() == 32 { mapped(draft, name) } else { Vec::new() },
                }),
                Given::Bad => topology.is_complete = false,
                Given::Absent => {}
            }
        }
        topology.refuse_overlaps(report);
        topology.add_routes(draft, report);
        topology
    }

    /// The link whose network holds `address`.
    pub(crate) fn link_of(&self, address: Ipv4Addr) -> Option<&Link> {
        let holding = self.links.iter().filter(|link| link.holds(address));
        holding.max_by_key(|link| link.address.prefix())
    }

    /// The link on which a packet to `address` leaves.
    pub(crate) fn way_to(&self, address: Ipv4Addr) -> Option<&Link> {
        if let Some(link) = self.link_of(address) {
            return Some(link);
        }
        let holding = self.ways.iter().filter(|(prefix, _)| prefix.contains(address));
        let (_, link) = holding.max_by_key(|(prefix, _)| prefix.prefix())?;
        self.links.get(*link)
    }

    /// The Ethernet interface of the default route.
    pub(crate) fn default_ethernet(&self) -> Option<usize> {
        let (_, link) = self.ways.iter().find(|(prefix, _)| prefix.prefix() == 0)?;
        match self.links.get(*link)?.port {
            LinkPort::Ethernet(index) => Some(index),
            LinkPort::Tunnel(_) => None,
        }
    }

    /// Whether any route leaves through this Ethernet interface.
    pub(crate) fn has_route_through(&self, ethernet: usize) -> bool {
        let mut links = self.ways.iter().filter_map(|(_, link)| self.links.get(*link));
        links.any(|link| link.port == LinkPort::Ethernet(ethernet))
    }

    /// The links, for people.
    pub(crate) fn describe(&self) -> String {
        let links = self.links.iter().map(|link| format!("{} {}", link.name, link.address));
        links.collect::<Vec<_>>().join(", ")
    }

    fn refuse_overlaps(&self, report: &Report<'_>) {
        for (index, link) in self.links.iter().enumerate() {
            let before = self.links.iter().take(index);
            for other in before.filter(|other| link.address.overlaps(other.address)) {
                // Whichever stands later in the file is the one to complain about.
                let (first, second) =
                    if other.span.start < link.span.start { (other, link) } else { (link, other) };
                let message = format!("{} overlaps with {} on {}", second.address, first.address, first.name);
                let help = format!("{} is on line {}", first.name, report.line(first.span.start));
                report.error(second.span.clone(), message, help);
            }
        }
    }

    fn add_routes(&mut self, draft: &Draft, report: &Report<'_>) {
        for route in &draft.routes {
            let (prefix, next_hop) = (*route.prefix.get_ref(), *route.next_hop.get_ref());
            let connected = self.links.iter().find(|link| {
                link.address.network() == prefix.network() && link.address.prefix() == prefix.prefix()
            });
            if let Some(link) = connected {
                let message = format!("{prefix} is the network of {} itself", link.name);
                report.error(route.prefix.span(), message, "a route leads to a network beyond the links");
            }
            let link = self.links.iter().position(|link| link.holds(next_hop));
            let Some(index) = link else {
                self.routes_are_good = false;
                if self.is_complete {
                    let help = format!("the links: {}", self.describe());
                    report.error(route.next_hop.span(), format!("{next_hop} is on no link"), help);
                }
                continue;
            };
            self.ways.push((prefix, index));
            if let Some(link) = self.links.get(index)
                && let Err(problem) = station_beside(next_hop, link)
            {
                report.error(route.next_hop.span(), problem, "a next hop is another station");
            }
        }
    }
}

/// The overlay addresses in the maps of a tunnel.
fn mapped(draft: &Draft, tunnel: &Spanned<String>) -> Vec<Ipv4Addr> {
    let maps = draft.nhrp.iter().filter(|nhrp| nhrp.tunnel.get_ref() == tunnel.get_ref());
    maps.flat_map(|nhrp| &nhrp.maps).map(|map| map.address.get_ref().ip()).collect()
}

/// Refuses addresses that no other station on the link can have.
pub(crate) fn station_beside(address: Ipv4Addr, link: &Link) -> Result<(), String> {
    let network = link.address;
    if address == network.ip() {
        Err(format!("{address} is our own address on {}", link.name))
    } else if network.prefix() < 31 && address == network.network() {
        Err(format!("{address} is the address of the network on {}, not of a station", link.name))
    } else if network.prefix() < 31 && address == network.broadcast() {
        Err(format!("{address} is the broadcast address of the network on {}", link.name))
    } else {
        Ok(())
    }
}
