//! Boxes, cables and packets for the tests.
//!
//! Site `n` has WAN address 198.51.100.n, overlay address 10.0.0.n and LAN 192.168.n.0/24 with one host, .10. All WAN ports
//! are on one switch, which keeps what it carries.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dmvpn_dataplane::link::{HeapBuffer, HeapPool, Loopback};
use dmvpn_dataplane::{Buffer, ControlEnd, DropReason, Frame, Handoff, Link, Worker};
use dmvpn_tables::esp::{InboundSa, IvSeed, KeyMaterial, OutboundSa, Suite, WindowSize};
use dmvpn_tables::{
    Adjacency, AdjacencyId, Endpoints, Inbound, Mode, Neighbor, NeighborId, Path, Peer, PeerId, PortId,
    PortInfo, Publisher, Punt, Snapshot, Tunnel, TunnelId, UdpPorts, WorkerId,
};
use dmvpn_wire::{EtherType, IpProtocol, MacAddr, View, eth, ipv4};

pub(crate) const WAN: PortId = PortId(0);
pub(crate) const LAN: PortId = PortId(1);
pub(crate) const TUNNEL: TunnelId = TunnelId(0);
pub(crate) const KEY: u32 = 1;
/// Largest inner packet of the tunnel.
pub(crate) const TUNNEL_MTU: u16 = 1360;
/// Slot bits of handles are the lower 20 (see `dmvpn_tables::slab`); the generation above is any.
const GENERATION: u32 = 5 << 20;

type TestWorker = Worker<Loopback<HeapBuffer>, HeapPool>;

/// One appliance.
pub(crate) struct Site {
    pub(crate) number: u8,
    pub(crate) snapshot: Snapshot,
    pub(crate) publisher: Publisher,
    pub(crate) workers: Vec<OneWorker>,
    pub(crate) pool: HeapPool,
    pub(crate) now: u64,
}

/// A worker, the control thread's end of it, and the far ends of its cables.
pub(crate) struct OneWorker {
    pub(crate) worker: TestWorker,
    pub(crate) control: ControlEnd<HeapBuffer>,
    far: [Loopback<HeapBuffer>; 2],
}

pub(crate) fn wan_address(site: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, site)
}

pub(crate) fn overlay_address(site: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, site)
}

pub(crate) fn lan_address(site: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, site, 1)
}

/// The host on a site's LAN.
pub(crate) fn host(site: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, site, 10)
}

pub(crate) fn wan_mac(site: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, site])
}

pub(crate) fn lan_mac(site: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, site])
}

pub(crate) fn host_mac(site: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 2, site])
}

/// Handle of a site as a peer.
pub(crate) fn peer(site: u8) -> PeerId {
    PeerId(GENERATION | u32::from(site))
}

/// Slot of an adjacency of a site's tables.
pub(crate) fn tunnel_adjacency(site: u8) -> AdjacencyId {
    AdjacencyId(100 + u32::from(site))
}

pub(crate) const LOCAL: AdjacencyId = AdjacencyId(0);
pub(crate) const HOST: AdjacencyId = AdjacencyId(1);
pub(crate) const GLEAN: AdjacencyId = AdjacencyId(2);
/// Free for a test to set.
pub(crate) const SPARE: AdjacencyId = AdjacencyId(3);

/// Neighbor of the LAN host; that of site `n` on the WAN is `n`.
pub(crate) const HOST_NEIGHBOR: NeighborId = NeighborId(0);

pub(crate) fn net(prefix: &str) -> ipnetwork::Ipv4Network {
    prefix.parse().unwrap()
}

impl Site {
    /// A site with a protected tunnel and no peers, with one worker.
    pub(crate) fn new(number: u8) -> Self {
        Self::with_workers(number, 1)
    }

    pub(crate) fn with_workers(number: u8, workers: usize) -> Self {
        let mut snapshot = Snapshot {
            ports: [(wan_mac(number), wan_address(number)), (lan_mac(number), lan_address(number))]
                .map(|(mac, address)| PortInfo { mac, mtu: 1500, address, underlay: mac == wan_mac(number) })
                .into(),
            tunnels: [tunnel(number)].into(),
            ..Snapshot::default()
        };
        for (address, adjacency) in [
            (wan_address(number), LOCAL),
            (overlay_address(number), LOCAL),
            (lan_address(number), LOCAL),
            (host(number), HOST),
        ] {
            snapshot.fib.insert(ipnetwork::Ipv4Network::new(address, 32).unwrap(), adjacency);
        }
        snapshot.fib.insert(net(&format!("192.168.{number}.0/24")), GLEAN);
        snapshot.adjacencies.set(LOCAL.0 as usize, Adjacency::Local);
        snapshot.adjacencies.set(HOST.0 as usize, Adjacency::Neighbor(HOST_NEIGHBOR));
        snapshot.adjacencies.set(GLEAN.0 as usize, Adjacency::Glean(LAN));
        let host = Neighbor { port: LAN, address: host(number), mac: Some(host_mac(number)) };
        snapshot.neighbors.set(HOST_NEIGHBOR.0 as usize, Some(host));

        let pool = HeapPool::new(1024);
        let (publisher, readers) = Publisher::new(snapshot.clone(), workers);
        let workers = readers
            .into_iter()
            .zip(Handoff::between(workers, 256))
            .map(|(reader, handoff)| {
                let (wan, far_wan) = Loopback::pair(256);
                let (lan, far_lan) = Loopback::pair(256);
                let (worker, control) = Worker::new(vec![wan, lan], pool.clone(), reader, handoff);
                OneWorker { worker, control, far: [far_wan, far_lan] }
            })
            .collect();
        Self { number, snapshot, publisher, workers, pool, now: 1_000_000 }
    }

    /// The worker that owns the SAs with a site.
    pub(crate) fn owner(&self, remote: u8) -> WorkerId {
        WorkerId(u16::from(remote) % u16::try_from(self.workers.len()).unwrap())
    }

    /// Makes the tables as they are now those of the workers.
    pub(crate) fn publish(&mut self) {
        self.publisher.publish(self.snapshot.clone());
    }

    /// Changes the tunnel's options, and makes its peers anew as far as it takes them.
    pub(crate) fn tunnel(&mut self, change: impl FnOnce(&mut Tunnel)) {
        let mut tunnel = self.snapshot.tunnels[0].clone();
        change(&mut tunnel);
        let peers: Vec<_> = self.snapshot.peers.iter().filter_map(|(_, peer)| peer.clone()).collect();
        for old in peers {
            if let Ok(peer) =
                Peer::new(old.id(), &tunnel, *old.endpoints(), old.path().clone(), old.neighbor())
            {
                self.snapshot.peers.set(old.id().index(), Some(peer));
            }
        }
        self.snapshot.tunnels = [tunnel].into();
    }

    /// Makes `prefix` lead to the spare adjacency.
    pub(crate) fn route(&mut self, prefix: &str, adjacency: Adjacency) {
        self.snapshot.adjacencies.set(SPARE.0 as usize, adjacency);
        self.snapshot.fib.insert(net(prefix), SPARE);
    }

    /// Sends `remote` packets by `path`, to its WAN address; its overlay address and LAN lead there.
    pub(crate) fn set_peer(&mut self, remote: u8, path: Path, udp: Option<UdpPorts>) {
        let neighbor = Neighbor { port: WAN, address: wan_address(remote), mac: Some(wan_mac(remote)) };
        self.snapshot.neighbors.set(remote.into(), Some(neighbor));
        let endpoints = Endpoints { local: wan_address(self.number), remote: wan_address(remote), udp };
        let tunnel = &self.snapshot.tunnels[0];
        let entry = Peer::new(peer(remote), tunnel, endpoints, path, NeighborId(remote.into())).unwrap();
        self.snapshot.peers.set(peer(remote).index(), Some(entry));
        let adjacency = tunnel_adjacency(remote);
        self.snapshot.adjacencies.set(adjacency.0 as usize, Adjacency::Tunnel(peer(remote)));
        self.snapshot.fib.insert(net(&format!("10.0.0.{remote}/32")), adjacency);
        self.snapshot.fib.insert(net(&format!("192.168.{remote}.0/24")), adjacency);
    }

    /// Puts a frame onto the cable of a port of a worker.
    pub(crate) fn deliver_to(&mut self, worker: usize, port: PortId, frame: &[u8]) {
        let mut batch = Frame::new();
        batch.push(self.pool.buffer(frame).unwrap());
        self.workers[worker].far[usize::from(port.0)].tx(&mut batch);
        assert!(batch.is_empty(), "cable is full");
    }

    pub(crate) fn deliver(&mut self, port: PortId, frame: &[u8]) {
        self.deliver_to(0, port, frame);
    }

    /// An IPv4 packet from the host on the LAN.
    pub(crate) fn host_sends(&mut self, packet: &[u8]) {
        self.deliver(LAN, &ethernet(lan_mac(self.number), host_mac(self.number), packet));
    }

    /// An IPv4 packet from somebody on the WAN.
    pub(crate) fn wan_sends(&mut self, packet: &[u8]) {
        self.deliver(WAN, &ethernet(wan_mac(self.number), MacAddr([2, 9, 9, 9, 9, 9]), packet));
    }

    /// Polls all workers until none has work.
    pub(crate) fn run(&mut self) {
        loop {
            let worked = self
                .workers
                .iter_mut()
                .filter_map(|one| one.worker.poll(self.now, || 0).then_some(()))
                .count();
            if worked == 0 {
                return;
            }
        }
    }

    /// Frames that came out of a port.
    pub(crate) fn sent(&mut self, port: PortId) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        for one in &mut self.workers {
            let mut batch = Frame::new();
            loop {
                one.far[usize::from(port.0)].rx(&mut batch);
                if batch.is_empty() {
                    break;
                }
                sent.extend(batch.drain(..).map(|packet| packet.bytes().to_vec()));
            }
        }
        sent
    }

    /// IPv4 packets that came out to the host on the LAN.
    pub(crate) fn host_received(&mut self) -> Vec<Vec<u8>> {
        let header = eth::Header::new(host_mac(self.number), lan_mac(self.number), EtherType::IPV4);
        let strip = |frame: Vec<u8>| frame.strip_prefix(header.octets()).expect("for the host").to_vec();
        self.sent(LAN).into_iter().map(strip).collect()
    }

    /// Everything handed to the control thread.
    pub(crate) fn punts(&mut self) -> Vec<Punt> {
        self.workers.iter_mut().flat_map(|one| std::iter::from_fn(|| one.control.punts.poll())).collect()
    }

    /// All drops of all workers.
    pub(crate) fn drops(&self) -> Vec<(DropReason, u64)> {
        let mut drops: Vec<(DropReason, u64)> = Vec::new();
        for reason in DropReason::ALL {
            let count = self.workers.iter().map(|one| one.control.counters.dropped(*reason)).sum();
            if count > 0 {
                drops.push((*reason, count));
            }
        }
        drops
    }
}

fn tunnel(site: u8) -> Tunnel {
    Tunnel {
        id: TUNNEL,
        address: overlay_address(site),
        local: wan_address(site),
        key: Some(KEY),
        mtu: TUNNEL_MTU,
        ttl: None,
        tos: None,
        dont_fragment: true,
        protected: true,
        redirect: false,
        multicast: [].into(),
    }
}

/// How two sites talk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Security {
    pub(crate) suite: Suite,
    pub(crate) tunnel_mode: bool,
    pub(crate) nat: bool,
}

/// What most tests use.
pub(crate) fn security() -> Security {
    Security { suite: "aes256-sha1".parse().unwrap(), tunnel_mode: false, nat: false }
}

/// Both ends of an SA.
pub(crate) fn sa_pair(suite: Suite, spi: u32) -> (OutboundSa, InboundSa) {
    let bytes: Vec<u8> = (0..128).map(|n: u32| (n * 7 + spi * 13).to_le_bytes()[0]).collect();
    let keys = KeyMaterial::from_keymat(suite, &bytes[..suite.cipher_key_len() + suite.integrity_key_len()])
        .unwrap();
    let outbound = OutboundSa::new(spi, &keys, IvSeed::new([spi.to_le_bytes()[0] ^ 0x5a; 16]));
    (outbound, InboundSa::new(spi, &keys, WindowSize::default()))
}

/// SPI that `at` gave to `from`; `n` tells successive SAs apart.
pub(crate) fn spi(at: u8, from: u8, n: u8) -> u32 {
    7 << 20 | u32::from(n) << 12 | u32::from(at) << 6 | u32::from(from)
}

fn mode(security: &Security, sender: u8, receiver: u8) -> Mode {
    if security.tunnel_mode {
        Mode::Tunnel { source: wan_address(sender), destination: wan_address(receiver) }
    } else {
        Mode::Transport
    }
}

pub(crate) const NAT_PORTS: UdpPorts = UdpPorts { local: 4500, remote: 4500 };

/// Installs SAs number `n` both ways, and publishes at both ends.
pub(crate) fn connect(a: &mut Site, b: &mut Site, security: &Security, n: u8) {
    let a_to_b = receive_from(b, a.number, security, n);
    let b_to_a = receive_from(a, b.number, security, n);
    send_with(a, b.number, security, a_to_b);
    send_with(b, a.number, security, b_to_a);
}

/// Lets `site` accept SA number `n` from `sender`; the other end of it.
pub(crate) fn receive_from(site: &mut Site, sender: u8, security: &Security, n: u8) -> OutboundSa {
    let (outbound, inbound) = sa_pair(security.suite, spi(site.number, sender, n));
    let inbound = Arc::new(inbound.owned_by(site.owner(sender).0));
    let (mode, udp) = (mode(security, sender, site.number), security.nat.then_some(NAT_PORTS));
    let entry = Inbound::new(inbound, peer(sender), TUNNEL, mode, wan_address(sender), udp);
    let slot = (entry.sa.spi() & 0xf_ffff) as usize;
    site.snapshot.inbound.set(slot, Some(entry));
    site.publish();
    outbound
}

/// Lets `site` send to `receiver` with `sa`.
pub(crate) fn send_with(site: &mut Site, receiver: u8, security: &Security, sa: OutboundSa) {
    let sa = Arc::new(sa.owned_by(site.owner(receiver).0));
    let path = Path::Esp { sa, mode: mode(security, site.number, receiver) };
    site.set_peer(receiver, path, security.nat.then_some(NAT_PORTS));
    site.publish();
}

/// Runs all sites and the switch between their WAN ports until nothing moves; what the switch carried.
pub(crate) fn run_all(sites: &mut [&mut Site]) -> Vec<Vec<u8>> {
    let mut carried = Vec::new();
    loop {
        let mut frames = Vec::new();
        for site in sites.iter_mut() {
            site.run();
            frames.extend(site.sent(WAN));
        }
        if frames.is_empty() {
            return carried;
        }
        for frame in &frames {
            let (header, _) = eth::Header::view(frame).unwrap();
            let receiver = sites.iter_mut().find(|site| wan_mac(site.number) == header.destination);
            receiver.expect("a station of the switch").deliver(WAN, frame);
        }
        carried.append(&mut frames);
    }
}

pub(crate) fn ethernet(destination: MacAddr, source: MacAddr, packet: &[u8]) -> Vec<u8> {
    [eth::Header::new(destination, source, EtherType::IPV4).octets(), packet].concat()
}

/// An IPv4 packet to be built.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) fields: ipv4::Fields,
    pub(crate) payload: Vec<u8>,
}

/// A packet of protocol 253 (RFC 3692) that names its content.
pub(crate) fn packet(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Packet {
    let fields = ipv4::Fields {
        tos: 0,
        identification: 7,
        dont_fragment: false,
        ttl: 64,
        protocol: IpProtocol(253),
        source,
        destination,
    };
    Packet { fields, payload: payload.to_vec() }
}

impl Packet {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header = ipv4::Header::new(&self.fields, self.payload.len()).unwrap();
        [header.octets(), &self.payload].concat()
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut ipv4::Fields)) -> Self {
        change(&mut self.fields);
        self
    }

    /// As it looks after so many routers.
    pub(crate) fn after_hops(&self, hops: u8) -> Vec<u8> {
        self.clone().with(|fields| fields.ttl -= hops).bytes()
    }
}

/// Whether `needle` is somewhere in any of the frames.
pub(crate) fn any_contains(frames: &[Vec<u8>], needle: &[u8]) -> bool {
    frames.iter().any(|frame| frame.windows(needle.len()).any(|window| window == needle))
}

/// The IPv4 header of an Ethernet frame, which must be whole.
pub(crate) fn outer(frame: &[u8]) -> ipv4::Header {
    *ipv4::Packet::parse(&frame[eth::Header::LEN..]).unwrap().header
}
