//! A hub with many spokes: the documented network, grown.
//!
//! Every spoke has a pair of SAs with the hub (transport mode), an overlay address (a /32), an underlay address and a
//! /24 behind it. The hub has one LAN. All spokes are reached by the gateway of the hub's WAN link.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use dmvpn_esp::{InboundSa, IvSeed, Kernel, KeyMaterial, OutboundSa, Suite, WindowSize};
use dmvpn_tables::{
    Adjacency, AdjacencyId, Endpoints, HandlePool, Inbound, Mode, Neighbor, NeighborId, Path, Peer, PeerId,
    PortId, PortInfo, Snapshot, Tunnel, TunnelId,
};
use dmvpn_wire::MacAddr;
use ipnetwork::Ipv4Network;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::cases::LARGEST;

/// The hub's port to the underlay.
pub(crate) const WAN: PortId = PortId(0);
/// The hub's port to its LAN.
pub(crate) const LAN: PortId = PortId(1);
/// GRE key of the tunnel.
pub(crate) const KEY: Option<u32> = Some(1);

pub(crate) const WAN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const LAN_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
pub(crate) const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// The hub on the underlay.
pub(crate) const HUB: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 41);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 42);
const OVERLAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const LAN_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// Hosts on the hub's LAN.
pub(crate) const HOSTS: u8 = 16;
/// MTU of the underlay: so large that the tunnel takes a whole packet of a LAN.
pub(crate) const WAN_MTU: u16 = 1600;
const LAN_MTU: u16 = 1500;
const _: () = assert!(LAN_MTU as usize == LARGEST);

/// More do not fit into the addresses that we give them.
const MOST_SPOKES: u32 = 1 << 20;

/// The hub's tables, and the SAs of both ends.
pub(crate) struct Network {
    pub(crate) snapshot: Snapshot,
    pub(crate) spokes: Vec<Spoke>,
    pub(crate) suite: Suite,
    kernel: Kernel,
    workers: u16,
    seed: u64,
}

/// What the hub and one spoke share.
pub(crate) struct Spoke {
    /// The hub's.
    pub(crate) to_spoke: Arc<OutboundSa>,
    /// The hub's.
    pub(crate) from_spoke: Arc<InboundSa>,
    /// The spoke's end of [`Self::from_spoke`].
    pub(crate) to_hub: OutboundSa,
}

/// Which of the two SAs of a spoke.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    ToSpoke,
    ToHub,
}

impl Network {
    /// With so many spokes, all with SAs of `suite` that run on `kernel` and belong to one of the hub's `workers` each.
    ///
    /// # Errors
    /// There are none, or too many.
    pub(crate) fn new(
        kernel: Kernel,
        suite: Suite,
        spokes: u32,
        workers: u16,
        seed: u64,
    ) -> anyhow::Result<Self> {
        ensure!((1..=MOST_SPOKES).contains(&spokes), "from 1 to {MOST_SPOKES} peers");
        let (snapshot, known) = (hub()?, Vec::with_capacity(spokes as usize));
        let mut network = Self { snapshot, spokes: known, suite, kernel, workers, seed };
        let generation = ChaCha8Rng::seed_from_u64(seed).next_u32();
        let (mut peers, mut spis) =
            (HandlePool::new(spokes, generation), HandlePool::new(spokes, !generation));
        for number in 0..spokes {
            let handles = peers.alloc().zip(spis.alloc());
            let (peer, spi) = handles.context("no handle left")?;
            network.add_spoke(number, PeerId(peer), spi)?;
        }
        Ok(network)
    }

    /// A new copy of the spoke's end of [`Spoke::to_spoke`].
    ///
    /// # Errors
    /// There is no such spoke.
    pub(crate) fn receiver(&self, spoke: u32) -> anyhow::Result<InboundSa> {
        let spi = self.spokes.get(spoke as usize).context("no such spoke")?.to_spoke.spi();
        let keys = self.keys(spoke, Way::ToSpoke)?;
        Ok(InboundSa::for_kernel(self.kernel, spi, &keys, WindowSize::default()))
    }

    fn add_spoke(&mut self, number: u32, id: PeerId, spi: u32) -> anyhow::Result<()> {
        let rng = &mut ChaCha8Rng::seed_from_u64(self.seed ^ u64::from(number));
        // Spokes choose as they like, but not the reserved ones.
        let their_spi = rng.next_u32() | 1 << 8;
        let mut iv_seed = || {
            let mut random = [0; 16];
            rng.fill_bytes(&mut random);
            IvSeed::new(random)
        };
        let (to_spoke, to_hub) = (self.keys(number, Way::ToSpoke)?, self.keys(number, Way::ToHub)?);
        // As the control plane has it: the worker that what comes from there arrives at.
        let owner = queue(number, self.workers);
        let to_spoke = OutboundSa::for_kernel(self.kernel, their_spi, &to_spoke, iv_seed());
        let from_spoke = InboundSa::for_kernel(self.kernel, spi, &to_hub, WindowSize::default());
        let spoke = Spoke {
            to_spoke: Arc::new(to_spoke.owned_by(owner)),
            from_spoke: Arc::new(from_spoke.owned_by(owner)),
            to_hub: OutboundSa::for_kernel(self.kernel, spi, &to_hub, iv_seed()),
        };

        let tables = &mut self.snapshot;
        let tunnel = tables.tunnels.first().context("no tunnel")?.clone();
        let sa = Arc::clone(&spoke.from_spoke);
        let inbound = Inbound::new(sa, id, tunnel.id, Mode::Transport, underlay(number), None);
        tables.inbound.set(PeerId(spi).index(), Some(inbound));
        let endpoints = Endpoints { local: HUB, remote: underlay(number), udp: None };
        let path = Path::Esp { sa: Arc::clone(&spoke.to_spoke), mode: Mode::Transport };
        let peer =
            Peer::new(id, &tunnel, endpoints, path, GATEWAY_ID).map_err(|_| anyhow!("not protected"))?;
        tables.peers.set(id.index(), Some(peer));
        let adjacency = AdjacencyId(FIRST_SPOKE + number);
        tables.adjacencies.set(adjacency.0 as usize, Adjacency::Tunnel(id));
        tables.fib.insert(Ipv4Network::new(overlay(number), 32)?, adjacency);
        tables.fib.insert(Ipv4Network::new(spoke_host(number, 0), 24)?, adjacency);
        self.spokes.push(spoke);
        Ok(())
    }

    fn keys(&self, spoke: u32, way: Way) -> anyhow::Result<KeyMaterial> {
        Ok(KeyMaterial::from_keymat(self.suite, &self.keymat(spoke, way))?)
    }

    /// The keys of an SA, which come from the seed: the same whenever they are asked for.
    pub(crate) fn keymat(&self, spoke: u32, way: Way) -> Vec<u8> {
        let stream = 2 * u64::from(spoke) + way as u64;
        let rng = &mut ChaCha8Rng::seed_from_u64(self.seed.rotate_left(32) ^ stream);
        let mut keymat = vec![0; self.suite.cipher_key_len() + self.suite.integrity_key_len()];
        rng.fill_bytes(&mut keymat);
        keymat
    }
}

/// The receive queue that a NIC puts what comes from a spoke into: by a hash of its address, whatever the protocol.
pub(crate) fn queue(spoke: u32, queues: u16) -> u16 {
    let hash = underlay(spoke).to_bits().wrapping_mul(0x85eb_ca6b) >> 16;
    u16::try_from(hash % u32::from(queues.max(1))).unwrap_or_default()
}

/// A spoke on the underlay.
pub(crate) fn underlay(spoke: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() + spoke)
}

/// A spoke in the overlay.
fn overlay(spoke: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(OVERLAY.to_bits() + 1 + spoke)
}

/// An address in the /24 behind a spoke.
pub(crate) fn spoke_host(spoke: u32, host: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(16, 0, 0, 0).to_bits() + (spoke << 8) + u32::from(host))
}

/// A host on the hub's LAN, from 0 to [`HOSTS`].
pub(crate) fn lan_host(host: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(LAN_ADDRESS.to_bits() + 9 + u32::from(host))
}

/// Ethernet address of a host on the hub's LAN.
pub(crate) fn lan_host_mac(host: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 2, host])
}

const LOCAL: AdjacencyId = AdjacencyId(0);
const GLEAN: AdjacencyId = AdjacencyId(1);
const DEFAULT: AdjacencyId = AdjacencyId(2);
const FIRST_HOST: u32 = 16;
const FIRST_SPOKE: u32 = FIRST_HOST + HOSTS as u32;
/// Neighbors before it are the hosts of the LAN.
const GATEWAY_ID: NeighborId = NeighborId(HOSTS as u32);

/// The tables of a hub that no spoke has registered with yet.
fn hub() -> anyhow::Result<Snapshot> {
    let port = |mac, mtu, address| PortInfo { mac, mtu, address, underlay: mac == WAN_MAC };
    let tunnel = Tunnel {
        id: TunnelId(0),
        address: OVERLAY,
        local: HUB,
        key: KEY,
        mtu: LAN_MTU,
        ttl: None,
        tos: None,
        dont_fragment: true,
        protected: true,
        redirect: true,
        multicast: Arc::default(),
    };
    let mut tables = Snapshot {
        ports: [port(WAN_MAC, WAN_MTU, HUB), port(LAN_MAC, LAN_MTU, LAN_ADDRESS)].into(),
        tunnels: [tunnel].into(),
        ..Snapshot::default()
    };
    let routes = [
        (HUB, 32, LOCAL),
        (OVERLAY, 32, LOCAL),
        (LAN_ADDRESS, 32, LOCAL),
        (LAN_ADDRESS, 24, GLEAN),
        (Ipv4Addr::UNSPECIFIED, 0, DEFAULT),
    ];
    for (address, len, adjacency) in routes {
        tables.fib.insert(Ipv4Network::new(address, len)?, adjacency);
    }
    tables.adjacencies.set(LOCAL.0 as usize, Adjacency::Local);
    tables.adjacencies.set(GLEAN.0 as usize, Adjacency::Glean(LAN));
    tables.adjacencies.set(DEFAULT.0 as usize, Adjacency::Neighbor(GATEWAY_ID));
    let gateway = Neighbor { port: WAN, address: GATEWAY, mac: Some(GATEWAY_MAC) };
    tables.neighbors.set(GATEWAY_ID.0 as usize, Some(gateway));
    for host in 0..HOSTS {
        let neighbor = Neighbor { port: LAN, address: lan_host(host), mac: Some(lan_host_mac(host)) };
        tables.neighbors.set(host.into(), Some(neighbor));
        let adjacency = AdjacencyId(FIRST_HOST + u32::from(host));
        tables.adjacencies.set(adjacency.0 as usize, Adjacency::Neighbor(NeighborId(host.into())));
        tables.fib.insert(Ipv4Network::new(lan_host(host), 32)?, adjacency);
    }
    Ok(tables)
}
