//! What workers need to know of a tunnel interface.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::ids::{PeerId, TunnelId};

/// A multipoint GRE tunnel interface.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Its number.
    pub id: TunnelId,
    /// Our address in the overlay.
    pub address: Ipv4Addr,
    /// Our underlay (NBMA) address; unspecified while the interface it follows has none.
    pub local: Ipv4Addr,
    /// GRE key (RFC 2890), required on arrival and set on departure.
    pub key: Option<u32>,
    /// Largest inner IPv4 packet, in bytes.
    pub mtu: u16,
    /// Outer TTL; `None` copies the inner one.
    pub ttl: Option<u8>,
    /// Outer TOS octet; `None` copies the inner one.
    pub tos: Option<u8>,
    /// Outer "don't fragment" bit: set unless `no-pmtu-discovery`.
    pub dont_fragment: bool,
    /// Bound to an IPsec profile: nothing may enter or leave in the clear.
    pub protected: bool,
    /// Tell the ingress peer when a packet leaves through the tunnel it came by (NHRP redirect).
    pub redirect: bool,
    /// Peers that multicast sent by this box is replicated to.
    pub multicast: Arc<[PeerId]>,
}
