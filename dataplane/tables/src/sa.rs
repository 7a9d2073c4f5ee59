//! Inbound security associations, found by SPI.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dmvpn_esp::{InboundSa, Suite};

use crate::ids::{PeerId, TunnelId, WorkerId};
use crate::peer::{Mode, UdpPorts};

/// An inbound SA and what it may carry. It has a cache line to itself, in the table.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub struct Inbound {
    /// Cipher, keys, replay window, counters. Shared, since the peer may move while they go on.
    pub sa: Arc<InboundSa>,
    /// The peer that holds the other end.
    pub peer: PeerId,
    /// The tunnel its traffic belongs to.
    pub tunnel: TunnelId,
    /// ESP mode; in tunnel mode the inner header must show exactly these addresses (as the peer
    /// sends them: `source` is the peer's).
    pub mode: Mode,
    /// Outer source address at the time of installation. A packet that proves itself but comes from
    /// elsewhere is reported as [`PuntReason::PeerMoved`](crate::PuntReason::PeerMoved).
    pub remote: Ipv4Addr,
    /// UDP encapsulation, if negotiated.
    pub udp: Option<UdpPorts>,
    /// Those of the SA. They are read here, before the SA has come out of memory; and by other workers, where nobody
    /// writes.
    spi: u32,
    suite: Suite,
    owner: WorkerId,
}

impl Inbound {
    /// An entry for an SA; the other arguments are the fields of that name.
    pub fn new(
        sa: Arc<InboundSa>,
        peer: PeerId,
        tunnel: TunnelId,
        mode: Mode,
        remote: Ipv4Addr,
        udp: Option<UdpPorts>,
    ) -> Self {
        let (spi, suite, owner) = (sa.spi(), sa.suite(), WorkerId(sa.owner()));
        Self { sa, peer, tunnel, mode, remote, udp, spi, suite, owner }
    }

    /// The SPI of the SA.
    #[inline]
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// Asks for all that its packets need of the SA, ahead of use.
    #[inline]
    pub fn prefetch(&self) {
        self.sa.prefetch_all(self.suite);
    }

    /// The worker that opens its packets.
    #[inline]
    pub fn owner(&self) -> WorkerId {
        self.owner
    }
}

const _: () = assert!(size_of::<Option<Inbound>>() == 64);
