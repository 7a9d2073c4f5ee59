//! What an operator asks for and is shown: plain data, with stable names and without secrets.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use crate::nhrp::Kind;
use crate::nhrp::show::{CacheEntry, Counters, NextHopServer, Shortcut};

/// What an operator asks of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Tell.
    Show(Topic),
    /// Replace keys now.
    Rekey {
        /// Which.
        what: Rekey,
        /// Of the peer with this underlay or overlay address; `None`: of all.
        peer: Option<Ipv4Addr>,
    },
    /// Take leave of peers and begin anew with those that are still wanted.
    Disconnect {
        /// The peer with this underlay or overlay address; `None`: all.
        peer: Option<Ipv4Addr>,
    },
    /// Take leave of all peers and begin nothing new.
    Shutdown,
}

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// Peers.
    Dmvpn,
    /// NHRP: cache, next hop servers, shortcuts.
    Nhrp,
    /// IKE SAs.
    Ike,
    /// ESP SAs.
    Sas,
    /// Routes.
    Routes,
    /// Ports.
    Ports,
    /// Neighbors on the ports' links.
    Neighbors,
}

/// Keys that can be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rekey {
    /// Those of IKE SAs.
    Ike,
    /// Those of ESP SAs.
    Esp,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// [`Topic::Dmvpn`].
    Dmvpn(Vec<Peer>),
    /// [`Topic::Nhrp`].
    Nhrp(Vec<Nhrp>),
    /// [`Topic::Ike`].
    Ike(Ike),
    /// [`Topic::Sas`].
    Sas(Vec<EspSa>),
    /// [`Topic::Routes`].
    Routes(Vec<Route>),
    /// [`Topic::Ports`].
    Ports(Vec<Port>),
    /// [`Topic::Neighbors`].
    Neighbors(Vec<Neighbor>),
    /// Done, to this many peers.
    Done {
        /// How many peers it concerned.
        peers: usize,
    },
    /// No peer has that address.
    NoSuchPeer,
}

/// A far end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Name of the tunnel.
    pub tunnel: String,
    /// Handle.
    pub peer: String,
    /// Underlay address.
    pub nbma: Ipv4Addr,
    /// UDP port, where ESP is encapsulated.
    pub port: Option<u16>,
    /// Overlay addresses bound to it, with how they became known.
    pub overlay: Vec<Binding>,
    /// There is a path to it.
    pub up: bool,
    /// Seconds since the path came up.
    pub up_for: Option<u64>,
    /// Who it proved to be.
    pub identity: Option<String>,
    /// Seconds since packets were last seen to pass.
    pub idle_for: Option<u64>,
    /// Packets received by the SAs it has now.
    pub received: u64,
    /// Packets sent by the SAs it has now.
    pub sent: u64,
}

/// An overlay address of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Binding {
    /// The address.
    pub address: Ipv4Addr,
    /// How it became known.
    pub kind: Kind,
}

/// NHRP on a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nhrp {
    /// Name of the tunnel.
    pub tunnel: String,
    /// What the operator says of it.
    pub description: Option<String>,
    /// What is known of overlay addresses.
    pub cache: Vec<CacheEntry>,
    /// The servers that we register with.
    pub next_hop_servers: Vec<NextHopServer>,
    /// Shorter ways.
    pub shortcuts: Vec<Shortcut>,
    /// What was counted.
    pub counters: Counters,
}

/// IKE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ike {
    /// IKE SAs, and main modes on their way to become one.
    pub sas: Vec<IkeSa>,
    /// What was counted.
    pub counters: std::collections::BTreeMap<&'static str, u64>,
}

/// An IKE SA, or a main mode under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IkeSa {
    /// Name of the tunnel.
    pub tunnel: String,
    /// Handle of the peer, once authenticated.
    pub peer: Option<String>,
    /// Who the peer proved to be.
    pub identity: Option<String>,
    /// Our address and port.
    pub local: SocketAddrV4,
    /// The peer's.
    pub remote: SocketAddrV4,
    /// Whether we began.
    pub initiator: bool,
    /// Cookies of initiator and responder, in hex.
    pub cookies: String,
    /// Algorithms, once agreed.
    pub proposal: Option<String>,
    /// What it waits for, or `established`.
    pub state: String,
    /// Seconds since it was established, or begun.
    pub age: u64,
    /// Seconds to its end.
    pub remaining: u64,
    /// A NAT is in front of us.
    pub nat_local: bool,
    /// A NAT is in front of the peer.
    pub nat_remote: bool,
}

/// A pair of ESP SAs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EspSa {
    /// Name of the tunnel.
    pub tunnel: String,
    /// Handle of the peer.
    pub peer: String,
    /// Underlay address of the peer.
    pub nbma: Ipv4Addr,
    /// Our SPI, in hex.
    pub spi_in: String,
    /// The peer's SPI, in hex; absent before it has told.
    pub spi_out: Option<String>,
    /// It is the pair to send with.
    pub sending: bool,
    /// `tunnel` or `transport`.
    pub mode: String,
    /// UDP encapsulation.
    pub udp: bool,
    /// Algorithms.
    pub proposal: String,
    /// Keys of a Diffie-Hellman exchange of their own.
    pub pfs: bool,
    /// Seconds since it was made.
    pub age: u64,
    /// Seconds to its end.
    pub remaining: u64,
    /// Packets opened.
    pub packets_in: u64,
    /// Bytes of payload in them.
    pub bytes_in: u64,
    /// Packets sealed.
    pub packets_out: u64,
    /// Bytes of payload in them.
    pub bytes_out: u64,
    /// Packets seen before, or too old.
    pub replayed: u64,
    /// Packets that failed authentication.
    pub unauthentic: u64,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Destinations.
    pub prefix: Ipv4Network,
    /// `local`, `connected`, `neighbor`, `nhrp`, `shortcut` or `static`.
    pub origin: String,
    /// Next hop; absent where the destination itself is.
    pub next_hop: Option<Ipv4Addr>,
    /// Name of the interface.
    pub interface: Option<String>,
    /// Of several to the same prefix, the one in use.
    pub active: bool,
    /// Where its packets go at the moment: `local`, `link`, `peer <address>`, `server <address>` while
    /// the next hop has no path of its own, or `unreachable`.
    pub path: String,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Name of the interface.
    pub name: String,
    /// Device.
    pub device: String,
    /// Ethernet address.
    pub mac: String,
    /// Address and prefix length.
    pub address: Option<Ipv4Network>,
    /// Largest IPv4 packet, in bytes.
    pub mtu: u16,
    /// Free text.
    pub description: Option<String>,
}

/// A station on a port's link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Neighbor {
    /// Name of the interface.
    pub interface: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its Ethernet address; absent while it does not answer.
    pub mac: Option<String>,
}
