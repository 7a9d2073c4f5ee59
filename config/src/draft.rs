//! A configuration as it was read: each section good in itself, references between sections not yet followed.

use std::net::Ipv4Addr;
use std::ops::Range;

use ipnetwork::Ipv4Network;
use toml::Spanned;

use crate::keyword::Pfs;
use crate::model::{
    Dataplane, DeadPeerDetection, EspMode, EspProposal, Ethernet, Host, IkeGroup, LocalAddress,
};
use crate::model::{Multicast, Secret};
use crate::section::Given;

#[derive(Debug)]
pub(crate) struct Draft {
    pub host_name: String,
    pub ethernet: Vec<DraftEthernet>,
    pub tunnels: Vec<DraftTunnel>,
    pub nhrp: Vec<DraftNhrp>,
    pub routes: Vec<DraftRoute>,
    pub ike_groups: Vec<(Spanned<String>, IkeGroup)>,
    pub esp_groups: Vec<(Spanned<String>, DraftEspGroup)>,
    pub ipsec_interfaces: Vec<Spanned<String>>,
    pub profiles: Vec<DraftProfile>,
    pub dataplane: Dataplane,
    /// Where the section is named.
    pub dataplane_span: Span,
    pub host: Host,
}

#[derive(Debug)]
pub(crate) struct DraftEthernet {
    pub name: Spanned<String>,
    pub address: Given<Ipv4Network>,
    pub port: Given<String>,
    /// With the address and the port filled in as far as they are good.
    pub ethernet: Ethernet,
}

#[derive(Debug)]
pub(crate) struct DraftTunnel {
    pub name: Spanned<String>,
    pub address: Given<Ipv4Network>,
    pub local: Given<LocalAddress>,
    pub multicast: bool,
    pub description: Option<String>,
    pub mtu: Given<u32>,
    pub key: Option<u32>,
    pub ttl: Option<u8>,
    pub tos: Option<u8>,
    pub no_pmtu_discovery: bool,
}

#[derive(Debug)]
pub(crate) struct DraftNhrp {
    /// Name of the tunnel.
    pub tunnel: Spanned<String>,
    pub authentication: Option<Secret>,
    pub holding_time: u16,
    pub maps: Vec<DraftMap>,
    /// Whether a map, even one that is wrong otherwise, names a next hop server.
    pub has_server: bool,
    pub multicast: Option<Spanned<Multicast>>,
    pub redirect: bool,
    pub shortcut: bool,
}

#[derive(Debug)]
pub(crate) struct DraftMap {
    pub address: Spanned<Ipv4Network>,
    pub nbma: Spanned<Ipv4Addr>,
    pub register: bool,
}

#[derive(Debug)]
pub(crate) struct DraftRoute {
    pub prefix: Spanned<Ipv4Network>,
    pub next_hop: Spanned<Ipv4Addr>,
}

#[derive(Debug)]
pub(crate) struct DraftEspGroup {
    pub lifetime: u32,
    pub mode: EspMode,
    pub pfs: Pfs,
    pub proposals: Vec<EspProposal>,
    pub replay_window: u32,
}

#[derive(Debug)]
pub(crate) struct DraftProfile {
    pub name: Spanned<String>,
    pub secret: Option<Secret>,
    pub peer_secrets: Vec<(Ipv4Network, Secret)>,
    pub tunnels: Vec<Spanned<String>>,
    pub ike_group: Option<Spanned<String>>,
    pub esp_group: Option<Spanned<String>>,
}

/// What `dead-peer-detection` is where nothing is said.
pub(crate) const DEAD_PEER_DETECTION: DeadPeerDetection = DeadPeerDetection { interval: 30, timeout: 120 };

/// The place of a value.
pub(crate) type Span = Range<usize>;
