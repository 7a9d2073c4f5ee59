//! The tables of a box with many peers: what its control plane would have published, from its configuration and a side
//! file.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use dmvpn_config::{Config, Profile};
use dmvpn_control::engine::{Engine, Input, Port, Start};
use dmvpn_control::time::Instant;
use dmvpn_esp::{InboundSa, IvSeed, Kernel, OutboundSa, WindowSize};
use dmvpn_tables::slab::{INDEX_BITS, INDEX_MASK};
use dmvpn_tables::{
    Adjacency, AdjacencyId, Endpoints, Inbound, Mode, Neighbor, NeighborId, Path, Peer, PeerId, PortId,
    PortInfo, Publisher, Punt, PuntReason, Snapshot, Tunnel, TunnelId, UdpPorts,
};
use dmvpn_wire::{EtherType, MacAddr, View, arp, eth, udp};
use ipnetwork::Ipv4Network;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::side_file::{PeerEntry, SaEntry, SideFile, Station};

/// Tables.
#[derive(Debug)]
pub(crate) struct World {
    /// What workers forward by.
    pub(crate) snapshot: Snapshot,
}

/// Of peer handles: any but 0.
const GENERATION: u32 = 1 << INDEX_BITS;

impl World {
    /// The box of the configuration: its own tables as its engine publishes them at its start, once it has heard of
    /// the stations; and every peer, with a pair of SAs and two routes.
    ///
    /// # Errors
    /// Configuration and side file do not fit together.
    pub(crate) fn of_box(
        config: &Arc<Config>,
        ports: &[Port],
        side: &SideFile,
        kernel: Kernel,
    ) -> anyhow::Result<Self> {
        let mut snapshot = own_tables(config, ports, side)?;
        let mut maker = SaMaker::new(kernel, side.seed);
        for (index, entry) in side.peers.iter().enumerate() {
            let added = add_peer(&mut snapshot, config, index, entry, &mut maker);
            added.with_context(|| format!("peer {index} of the side file"))?;
        }
        Ok(Self { snapshot })
    }

    /// The other side of that: one box that has the places of all peers, and opens what they are sent. Its ports are
    /// the stations beside the box, in the order of the box's ports; behind the one that no tunnel runs over are the
    /// peers' networks.
    ///
    /// # Errors
    /// Configuration and side file do not fit together, or there are too many peers.
    pub(crate) fn of_peers(config: &Config, side: &SideFile, kernel: Kernel) -> anyhow::Result<Self> {
        let mut snapshot = Snapshot { ports: mirrored_ports(config, side)?, ..Snapshot::default() };
        for (number, (interface, adjacency)) in (0..).zip(config.ethernet.iter().zip(0..)) {
            let address = interface.address.context("an interface without an address")?.ip();
            let mac = Some(side.mac(&interface.name)?);
            let neighbor = Neighbor { port: PortId(number), address, mac };
            snapshot.neighbors.set(number.into(), Some(neighbor));
            snapshot.adjacencies.set(adjacency, Adjacency::Neighbor(NeighborId(number.into())));
        }
        let lan = snapshot.ports.iter().position(|port| !port.underlay).context("there is no LAN")?;
        let lan = AdjacencyId(u32::try_from(lan)?);

        let mut maker = SaMaker::new(kernel, side.seed);
        let mut tunnels: Vec<Tunnel> = Vec::new();
        let mut by_address = BTreeMap::new();
        for (index, entry) in side.peers.iter().enumerate() {
            let (_, interface, profile) = find_tunnel(config, &entry.tunnel)?;
            let at = *by_address.entry((&entry.tunnel, entry.remote)).or_insert(tunnels.len());
            let tunnel =
                TunnelId(u16::try_from(at).context("more underlay addresses than tunnels can have")?);
            if at == tunnels.len() {
                tunnels.push(mirrored_tunnel(tunnel, interface, entry));
            }
            let local = local_address(config, interface)?;
            let sa = maker.inbound(&entry.outbound, profile)?;
            let mode = mode(&entry.outbound, local, entry.remote);
            let udp = entry.nat_port.map(|_| UdpPorts { local: udp::IKE_NAT, remote: udp::IKE_NAT });
            let inbound = Inbound::new(sa, peer_id(index)?, tunnel, mode, local, udp);
            install_inbound(&mut snapshot, inbound)?;
            for prefix in routes(entry) {
                snapshot.fib.insert(prefix, lan);
            }
        }
        snapshot.tunnels = tunnels.into();
        Ok(Self { snapshot })
    }

    /// Makes every inbound SA anew, so that packets which it has accepted are new to it again.
    ///
    /// # Errors
    /// There is no such SA.
    pub(crate) fn renew_inbound(
        &mut self,
        config: &Config,
        side: &SideFile,
        kernel: Kernel,
    ) -> anyhow::Result<()> {
        let mut maker = SaMaker::new(kernel, side.seed);
        for entry in &side.peers {
            let (_, _, profile) = find_tunnel(config, &entry.tunnel)?;
            for sa in [&entry.inbound, &entry.outbound] {
                let Some(old) = self.snapshot.inbound_sa(sa.spi) else { continue };
                let Inbound { peer, tunnel, mode, remote, udp, .. } = *old;
                let renewed = Inbound::new(maker.inbound(sa, profile)?, peer, tunnel, mode, remote, udp);
                self.snapshot.inbound.set(slot(sa.spi), Some(renewed));
            }
        }
        Ok(())
    }
}

/// Makes SAs of entries.
pub(crate) struct SaMaker {
    kernel: Kernel,
    random: ChaCha20Rng,
}

impl SaMaker {
    /// For these kernels. IVs come from the seed, which is right for tests alone.
    pub(crate) fn new(kernel: Kernel, seed: u64) -> Self {
        Self { kernel, random: ChaCha20Rng::seed_from_u64(seed) }
    }

    /// To send with.
    ///
    /// # Errors
    /// The keys are none.
    pub(crate) fn outbound(&mut self, entry: &SaEntry) -> anyhow::Result<Arc<OutboundSa>> {
        let mut seed = [0; 16];
        self.random.fill_bytes(&mut seed);
        let keys = entry.material()?;
        Ok(Arc::new(OutboundSa::for_kernel(self.kernel, entry.spi, &keys, IvSeed::new(seed))))
    }

    /// To receive with, with the replay window of the profile.
    ///
    /// # Errors
    /// The keys are none.
    pub(crate) fn inbound(&mut self, entry: &SaEntry, profile: &Profile) -> anyhow::Result<Arc<InboundSa>> {
        let window = WindowSize::new(profile.esp.replay_window)?;
        Ok(Arc::new(InboundSa::for_kernel(self.kernel, entry.spi, &entry.material()?, window)))
    }
}

/// The tunnel of that name, its number, and what protects it.
///
/// # Errors
/// There is none, or nothing protects it.
pub(crate) fn find_tunnel<'a>(
    config: &'a Config,
    name: &str,
) -> anyhow::Result<(TunnelId, &'a dmvpn_config::Tunnel, &'a Profile)> {
    let number = config.tunnels.iter().position(|tunnel| tunnel.name == name);
    let number = number.with_context(|| format!("the configuration has no {name}"))?;
    let tunnel = &config.tunnels[number];
    let profile = tunnel.profile.as_ref().with_context(|| format!("{name} has no IPsec profile"))?;
    Ok((TunnelId(u16::try_from(number)?), tunnel, profile))
}

/// The underlay address of the box on a tunnel.
///
/// # Errors
/// It has none.
pub(crate) fn local_address(config: &Config, tunnel: &dmvpn_config::Tunnel) -> anyhow::Result<Ipv4Addr> {
    match tunnel.local {
        dmvpn_config::LocalAddress::Address(address) => Ok(address),
        dmvpn_config::LocalAddress::FollowInterface => {
            let address = config.ethernet[tunnel.underlay].address;
            Ok(address.with_context(|| format!("{} has no underlay address", tunnel.name))?.ip())
        }
    }
}

/// Whether tunnels run over an interface.
pub(crate) fn is_underlay(config: &Config, interface: usize) -> bool {
    config.tunnels.iter().any(|tunnel| tunnel.underlay == interface)
}

/// What the box's engine publishes by itself.
fn own_tables(config: &Arc<Config>, ports: &[Port], side: &SideFile) -> anyhow::Result<Snapshot> {
    let (publisher, mut readers) = Publisher::new(Snapshot::default(), 1);
    let now = Instant::ZERO;
    let start = Start { seed: [0; 32], unix_seconds: 0 };
    let mut engine = Engine::new(Arc::clone(config), ports.to_vec(), publisher, start, now);
    for station in &side.stations {
        let (port, own) = link(config, station)?;
        let question = arp::Packet::request(station.mac.0, station.address, own);
        let header = eth::Header::new(MacAddr::BROADCAST, station.mac.0, EtherType::ARP);
        let packet = [header.octets(), question.octets()].concat();
        engine.handle(now, Input::Punt(Punt { reason: PuntReason::Arp { port }, packet }));
    }
    let reader = readers.first_mut().context("no reader")?;
    let snapshot = reader.refresh().clone();
    for station in &side.stations {
        let found = adjacency(&snapshot, station.address);
        ensure!(
            matches!(found, Adjacency::Neighbor(_)),
            "the box does not reach {} by {}",
            station.address,
            station.interface
        );
    }
    Ok(snapshot)
}

/// The port that a station is beside, and the box's address there.
fn link(config: &Config, station: &Station) -> anyhow::Result<(PortId, Ipv4Addr)> {
    let port = config.ethernet.iter().position(|interface| interface.name == station.interface);
    let port = port.with_context(|| format!("the configuration has no {}", station.interface))?;
    let address =
        config.ethernet[port].address.with_context(|| format!("{} has no address", station.interface))?;
    Ok((PortId(u16::try_from(port)?), address.ip()))
}

fn add_peer(
    snapshot: &mut Snapshot,
    config: &Config,
    index: usize,
    entry: &PeerEntry,
    maker: &mut SaMaker,
) -> anyhow::Result<()> {
    let id = peer_id(index)?;
    let (number, _, profile) = find_tunnel(config, &entry.tunnel)?;
    let tunnel = snapshot.tunnels.get(usize::from(number.0)).context("the engine has no such tunnel")?;
    let local = tunnel.local;
    let udp = entry.nat_port.map(|remote| UdpPorts { local: udp::IKE_NAT, remote });
    let path =
        Path::Esp { sa: maker.outbound(&entry.outbound)?, mode: mode(&entry.outbound, local, entry.remote) };
    let Adjacency::Neighbor(neighbor) = adjacency(snapshot, entry.remote) else {
        bail!("there is no station on the way to {}", entry.remote)
    };
    let peer = Peer::new(id, tunnel, Endpoints { local, remote: entry.remote, udp }, path, neighbor);
    let Ok(peer) = peer else { bail!("a clear path in a protected tunnel") };
    snapshot.peers.set(id.index(), Some(peer));

    let sa = maker.inbound(&entry.inbound, profile)?;
    let mode = mode(&entry.inbound, entry.remote, local);
    install_inbound(snapshot, Inbound::new(sa, id, number, mode, entry.remote, udp))?;

    let to_peer = AdjacencyId(u32::try_from(snapshot.adjacencies.len())?);
    snapshot.adjacencies.set(to_peer.0 as usize, Adjacency::Tunnel(id));
    for prefix in routes(entry) {
        snapshot.fib.insert(prefix, to_peer);
    }
    Ok(())
}

fn install_inbound(snapshot: &mut Snapshot, inbound: Inbound) -> anyhow::Result<()> {
    let slot = slot(inbound.sa.spi());
    let taken = snapshot.inbound.get(slot).is_some_and(Option::is_some);
    ensure!(
        !taken,
        "two inbound SAs with SPIs like {:#x}: their lower {INDEX_BITS} bits must differ",
        inbound.sa.spi()
    );
    snapshot.inbound.set(slot, Some(inbound));
    Ok(())
}

/// The ports of whom the box talks to.
fn mirrored_ports(config: &Config, side: &SideFile) -> anyhow::Result<Arc<[PortInfo]>> {
    let port = |(number, interface): (usize, &dmvpn_config::Ethernet)| {
        let mac = station_mac(side, &interface.name)?;
        let underlay = is_underlay(config, number);
        Ok(PortInfo { mac, mtu: interface.mtu, address: Ipv4Addr::UNSPECIFIED, underlay })
    };
    config.ethernet.iter().enumerate().map(port).collect()
}

/// The Ethernet address of the station beside an interface.
///
/// # Errors
/// There is none.
pub(crate) fn station_mac(side: &SideFile, interface: &str) -> anyhow::Result<MacAddr> {
    let station = side.stations.iter().find(|station| station.interface == interface);
    Ok(station.with_context(|| format!("the side file has no station beside {interface}"))?.mac.0)
}

/// A tunnel of the box as the peer at its other end has it.
fn mirrored_tunnel(id: TunnelId, interface: &dmvpn_config::Tunnel, entry: &PeerEntry) -> Tunnel {
    Tunnel {
        id,
        address: entry.overlay,
        local: entry.remote,
        key: interface.key,
        mtu: interface.mtu,
        ttl: interface.ttl,
        tos: interface.tos,
        dont_fragment: !interface.no_pmtu_discovery,
        protected: true,
        redirect: false,
        multicast: Arc::default(),
    }
}

/// ESP mode of an SA, by which `source` sends to `destination`.
fn mode(entry: &SaEntry, source: Ipv4Addr, destination: Ipv4Addr) -> Mode {
    if entry.tunnel_mode { Mode::Tunnel { source, destination } } else { Mode::Transport }
}

fn routes(entry: &PeerEntry) -> [Ipv4Network; 2] {
    [entry.overlay.into(), entry.network]
}

fn adjacency(snapshot: &Snapshot, to: Ipv4Addr) -> Adjacency {
    let found = snapshot.fib.lookup(to).and_then(|id| snapshot.adjacencies.get(id.0 as usize));
    found.copied().unwrap_or_default()
}

fn peer_id(index: usize) -> anyhow::Result<PeerId> {
    let index = u32::try_from(index).ok().filter(|index| *index <= INDEX_MASK);
    Ok(PeerId(GENERATION | index.context("too many peers")?))
}

fn slot(spi: u32) -> usize {
    (spi & INDEX_MASK) as usize
}
