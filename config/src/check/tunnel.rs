//! Tunnels: the underlay, NHRP, protection and packet size of each.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use toml::Spanned;

use super::profile::undefined;
use crate::draft::{Draft, DraftNhrp, DraftTunnel};
use crate::model::{LocalAddress, Multicast, Nhrp, NhrpMap, Profile, Tunnel};
use crate::overhead::largest_inner_packet;
use crate::report::Report;
use crate::section::Given;
use crate::topology::{Link, LinkPort, Topology, station_beside};

/// The MTU of a tunnel where nothing is said and more would fit: what operators expect of a DMVPN.
const USUAL_MTU: u16 = 1400;

/// The smallest MTU of a tunnel: what every IPv4 host must be able to take in (RFC 791, section 3.1).
const SMALLEST_MTU: u16 = 576;

/// The tunnels, in the order of the draft. One with a mistake may be missing.
pub(super) fn check(
    draft: &Draft,
    topology: &Topology,
    mut profiles: BTreeMap<String, Profile>,
    report: &Report<'_>,
) -> Vec<Tunnel> {
    let checker = Checker { draft, topology, report };
    checker.check_references();
    let mut tunnels: Vec<Tunnel> = Vec::new();
    for entry in &draft.tunnels {
        let profile = profiles.remove(entry.name.get_ref());
        if let Some(tunnel) = checker.tunnel(entry, profile) {
            checker.refuse_twins(entry, &tunnel, &tunnels);
            tunnels.push(tunnel);
        }
    }
    tunnels
}

struct Checker<'c, 't> {
    draft: &'c Draft,
    topology: &'c Topology,
    report: &'c Report<'t>,
}

impl Checker<'_, '_> {
    /// Names in `nhrp` and `ipsec-interfaces` that are defined nowhere.
    fn check_references(&self) {
        for nhrp in &self.draft.nhrp {
            if !self.draft.tunnels.iter().any(|tunnel| tunnel.name.get_ref() == nhrp.tunnel.get_ref()) {
                undefined(
                    self.report,
                    &nhrp.tunnel,
                    "tunnel",
                    self.draft.tunnels.iter().map(|tunnel| &tunnel.name),
                );
            }
        }
        for name in &self.draft.ipsec_interfaces {
            if self.ethernet(name.get_ref()).is_none() {
                let defined = self.draft.ethernet.iter().map(|entry| &entry.name);
                undefined(self.report, name, "Ethernet interface", defined);
            }
        }
    }

    fn tunnel(&self, entry: &DraftTunnel, profile: Option<Profile>) -> Option<Tunnel> {
        let name = entry.name.get_ref();
        let nhrp = self.draft.nhrp.iter().find(|nhrp| nhrp.tunnel.get_ref() == name);
        if nhrp.is_none() {
            let help = format!("a tunnel learns its peers by NHRP: add [protocols.nhrp.tunnel.{name}]");
            self.report.error(entry.name.span(), format!("{name} has no NHRP"), help);
        }
        let is_bound = self
            .draft
            .profiles
            .iter()
            .any(|profile| profile.tunnels.iter().any(|tunnel| tunnel.get_ref() == name));
        if !is_bound {
            let message = format!("no profile protects {name}: what it carries is readable on the underlay");
            self.report.warning(entry.name.span(), message, "vpn.ipsec.profile.NAME.bind.tunnel protects it");
        }
        let underlay = self.underlay(entry, is_bound)?;
        self.check_underlay(entry, underlay, is_bound, nhrp);
        let nhrp = nhrp.map(|nhrp| self.nhrp(nhrp, entry, underlay));
        let mtu = if is_bound && profile.is_none() { 0 } else { self.mtu(entry, underlay, profile.as_ref()) };
        Some(Tunnel {
            name: name.clone(),
            address: entry.address.clone().value()?,
            local: entry.local.clone().value()?,
            underlay,
            multicast: entry.multicast,
            description: entry.description.clone(),
            mtu,
            key: entry.key,
            ttl: entry.ttl,
            tos: entry.tos,
            no_pmtu_discovery: entry.no_pmtu_discovery,
            nhrp,
            profile,
        })
    }

    /// The Ethernet interface that carries the tunnel.
    fn underlay(&self, entry: &DraftTunnel, is_protected: bool) -> Option<usize> {
        let local = entry.local.clone().located()?;
        match *local.get_ref() {
            LocalAddress::Address(address) => {
                let link = self.topology.links.iter().find(|link| link.address.ip() == address);
                match link.map(|link| link.port) {
                    Some(LinkPort::Ethernet(index)) => Some(index),
                    _ if !self.topology.is_complete => None,
                    _ => {
                        let help = format!("the interfaces: {}", self.topology.describe());
                        let message = format!("no Ethernet interface has the address {address}");
                        self.report.error(local.span(), message, help);
                        None
                    }
                }
            }
            LocalAddress::FollowInterface => {
                let found = self.followed_interface(is_protected);
                if found.is_none() && self.topology.is_complete {
                    self.report.error(
                        local.span(),
                        "it is not clear which interface to follow",
                        "name one in [vpn.ipsec.ipsec-interfaces], or add a default route through one",
                    );
                }
                found
            }
        }
    }

    /// The interface of `ipsec-interfaces`, or the one of the default route.
    fn followed_interface(&self, is_protected: bool) -> Option<usize> {
        let by_route = self.topology.default_ethernet();
        match self.draft.ipsec_interfaces.as_slice() {
            [only] if is_protected => self.ethernet(only.get_ref()),
            _ => by_route,
        }
    }

    fn check_underlay(
        &self,
        entry: &DraftTunnel,
        underlay: usize,
        is_protected: bool,
        nhrp: Option<&DraftNhrp>,
    ) {
        let Some(ethernet) = self.draft.ethernet.get(underlay) else { return };
        let name = ethernet.name.get_ref();
        let place = entry.local.clone().located().map_or_else(|| entry.name.span(), |local| local.span());
        if ethernet.address.is_absent() {
            let message = format!("{name}, which carries {}, has no address", entry.name.get_ref());
            self.report.error(
                place.clone(),
                message,
                format!("add `address` to [interfaces.ethernet.{name}]"),
            );
        }
        let is_listed = self.draft.ipsec_interfaces.iter().any(|interface| interface.get_ref() == name);
        if is_protected && !is_listed {
            let message = format!(
                "{} is protected, and {name}, which carries it, is no ipsec interface",
                entry.name.get_ref()
            );
            self.report.error(place.clone(), message, format!("add {name} to [vpn.ipsec.ipsec-interfaces]"));
        }
        let takes_unknown_peers = nhrp.is_some_and(|nhrp| nhrp.maps.is_empty());
        if takes_unknown_peers && self.topology.routes_are_good && !self.topology.has_route_through(underlay)
        {
            let message = format!("no route leads out of {name}: peers beyond its link cannot be reached");
            self.report.warning(
                place,
                message,
                "[protocols.static.route.\"0.0.0.0/0\"] next-hop is its gateway",
            );
        }
    }

    fn nhrp(&self, draft: &DraftNhrp, entry: &DraftTunnel, underlay: usize) -> Nhrp {
        let multicast = draft.multicast.as_ref();
        if let Some(multicast) = multicast {
            if *multicast.get_ref() == Multicast::Nhs && !draft.has_server {
                let help = "a map with `register = true` names a next hop server";
                self.report.error(multicast.span(), "there is no next hop server to send multicast to", help);
            }
            if !entry.multicast {
                let name = entry.name.get_ref();
                let message = format!("{name} carries no multicast, so this has no effect");
                self.report.warning(
                    multicast.span(),
                    message,
                    "multicast = \"enable\" in the tunnel's section",
                );
            }
        }
        let link = self.topology.links.iter().find(|link| link.name == *entry.name.get_ref());
        for (index, map) in draft.maps.iter().enumerate() {
            let overlay = map.address.get_ref().ip();
            if let Some(link) = link {
                self.check_overlay(overlay, &map.address, link);
            }
            if draft.maps.iter().take(index).any(|other| other.address.get_ref().ip() == overlay) {
                self.report.error(
                    map.address.span(),
                    format!("a second map for {overlay}"),
                    "keep one of them",
                );
            }
            self.check_nbma(&map.nbma, underlay);
        }
        Nhrp {
            authentication: draft.authentication.clone(),
            holding_time: draft.holding_time,
            maps: draft
                .maps
                .iter()
                .map(|map| NhrpMap {
                    address: *map.address.get_ref(),
                    nbma: *map.nbma.get_ref(),
                    register: map.register,
                })
                .collect(),
            multicast: multicast.map_or(Multicast::None, |multicast| *multicast.get_ref()),
            redirect: draft.redirect,
            shortcut: draft.shortcut,
        }
    }

    fn check_overlay(&self, overlay: Ipv4Addr, place: &Spanned<ipnetwork::Ipv4Network>, link: &Link) {
        let problem = if link.holds(overlay) {
            station_beside(overlay, link).err()
        } else {
            Some(format!("{overlay} is not in the network of {}", link.name))
        };
        if let Some(problem) = problem {
            let network = format!("{}/{}", link.address.network(), link.address.prefix());
            self.report.error(place.span(), problem, format!("a map is for another station in {network}"));
        }
    }

    /// The way to an underlay address must lead out of the underlay, not into a tunnel.
    fn check_nbma(&self, nbma: &Spanned<Ipv4Addr>, underlay: usize) {
        if !self.topology.is_complete {
            return;
        }
        let address = *nbma.get_ref();
        let name = self.draft.ethernet.get(underlay).map_or("", |entry| entry.name.get_ref());
        let (message, help) = match self.topology.way_to(address) {
            None => (
                format!("no route leads to {address}"),
                format!("add a default route with a next hop on the link of {name}"),
            ),
            Some(link) if link.port != LinkPort::Ethernet(underlay) => (
                format!("the way to {address} is through {}, but {name} carries the tunnel", link.name),
                format!("add a route with a next hop on the link of {name}"),
            ),
            Some(link) => match station_beside(address, link) {
                Err(problem) if link.address.contains(address) => {
                    (problem, String::from("the peer's own address"))
                }
                _ => return,
            },
        };
        self.report.error(nbma.span(), message, help);
    }

    fn mtu(&self, entry: &DraftTunnel, underlay: usize, profile: Option<&Profile>) -> u16 {
        let Some(ethernet) = self.draft.ethernet.get(underlay) else { return 0 };
        let (name, link_mtu) = (&ethernet.ethernet.name, ethernet.ethernet.mtu);
        if profile.is_some_and(|profile| profile.esp.proposals.is_empty()) {
            return 0;
        }
        let largest = largest_inner_packet(link_mtu, entry.key.is_some(), profile);
        match &entry.mtu {
            Given::Is(mtu) => {
                let chosen = u16::try_from(*mtu.get_ref()).unwrap_or(u16::MAX);
                if chosen > largest {
                    let message =
                        format!("packets of {chosen} bytes do not fit through {name} (MTU {link_mtu})");
                    self.report.error(
                        mtu.span(),
                        message,
                        format!("at most {largest} with what protects this tunnel"),
                    );
                }
                chosen
            }
            Given::Bad => 0,
            Given::Absent => {
                if largest < SMALLEST_MTU {
                    let message =
                        format!("the MTU of {name} ({link_mtu}) leaves {largest} bytes for a packet");
                    let help = format!("a tunnel needs at least {SMALLEST_MTU}: raise the MTU of {name}");
                    self.report.error(entry.name.span(), message, help);
                }
                // A multiple of four keeps the segments of TCP even.
                largest.min(USUAL_MTU) & !3
            }
        }
    }

    /// Tunnels that a received packet could not tell apart.
    fn refuse_twins(&self, entry: &DraftTunnel, tunnel: &Tunnel, others: &[Tunnel]) {
        for other in others.iter().filter(|other| other.underlay == tunnel.underlay) {
            if other.key == tunnel.key {
                let message =
                    format!("{} and {} have the same underlay and the same key", other.name, tunnel.name);
                let help = "give each tunnel a key of its own in parameters.ip.key";
                self.report.error(entry.name.span(), message, help);
            }
            let name = |tunnel: &Tunnel| tunnel.profile.as_ref().map(|profile| profile.name.clone());
            if name(other) != name(tunnel) {
                let message =
                    format!("{} and {} share an underlay, and not a profile", other.name, tunnel.name);
                let help = "IKE knows a peer by its underlay address alone: bind both tunnels to one profile";
                self.report.error(entry.name.span(), message, help);
            }
        }
    }

    fn ethernet(&self, name: &str) -> Option<usize> {
        self.draft.ethernet.iter().position(|entry| entry.name.get_ref() == name)
    }
}
