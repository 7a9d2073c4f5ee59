//! Packets: plain ones that say which they are, and the same as peers send them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context;
use dmvpn_config::Config;
use dmvpn_esp::{Kernel, OutboundSa, SealJob, seal};
use dmvpn_wire::{EtherType, IpProtocol, MacAddr, View, eth, gre, ipv4, udp};

use crate::side_file::SideFile;
use crate::world::{SaMaker, find_tunnel, is_underlay, local_address, station_mac};

/// Which packet it is: the first bytes of a UDP payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Packets of a flow stay in order.
    pub(crate) flow: u32,
    /// Its place in the flow.
    pub(crate) number: u32,
}

/// What a marked payload begins with.
const MAGIC: [u8; 4] = *b"Mark";
/// Bytes of a mark.
const MARK_LEN: usize = 12;
/// The discard protocol (RFC 863).
const PORT: u16 = 9;
/// Hops that packets may take.
pub(crate) const TTL: u8 = 64;

impl Mark {
    /// The mark of an IPv4 packet, if it has one.
    pub(crate) fn read(packet: &[u8]) -> Option<Self> {
        let (header, _) = ipv4::Header::view(packet).ok()?;
        let payload = packet.get(header.header_len()..)?;
        let (udp, payload) = udp::Header::view(payload).ok()?;
        let bytes: &[u8; MARK_LEN] = payload.first_chunk()?;
        let [magic, flow, number] =
            [0, 4, 8].map(|at| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let is_mark =
            header.protocol() == IpProtocol::UDP && udp.destination_port() == PORT && magic == MAGIC;
        is_mark.then(|| Self { flow: u32::from_be_bytes(flow), number: u32::from_be_bytes(number) })
    }

    fn bytes(self) -> [u8; MARK_LEN] {
        let mut bytes = [0; MARK_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.flow.to_be_bytes());
        bytes[8..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }
}

/// The shortest packet with a mark.
pub(crate) const SHORTEST: usize = ipv4::Header::LEN + udp::Header::LEN + MARK_LEN;

/// A marked IPv4 packet of `len` bytes, [`SHORTEST`] at least.
///
/// # Errors
/// It would be longer than a packet can be.
pub(crate) fn packet(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    len: usize,
    mark: Mark,
) -> anyhow::Result<Vec<u8>> {
    let mut payload = vec![0x55; len.saturating_sub(ipv4::Header::LEN + udp::Header::LEN).max(MARK_LEN)];
    payload[..MARK_LEN].copy_from_slice(&mark.bytes());
    let udp = udp::Header::new(PORT, PORT, payload.len()).context("too long")?;
    let udp = udp.with_checksum(source, destination, &payload);
    let fields = ipv4::Fields {
        tos: 0,
        identification: 0,
        dont_fragment: true,
        ttl: TTL,
        protocol: IpProtocol::UDP,
        source,
        destination,
    };
    let header = ipv4::Header::new(&fields, udp::Header::LEN + payload.len()).context("too long")?;
    Ok([header.octets(), udp.octets(), &payload].concat())
}

/// An Ethernet frame with an IPv4 packet.
pub(crate) fn frame(to: MacAddr, from: MacAddr, packet: &[u8]) -> Vec<u8> {
    [eth::Header::new(to, from, EtherType::IPV4).octets(), packet].concat()
}

/// The peers of a box, as senders of ESP. Headers are written here anew, not by the stages of the data plane: so what
/// the box makes of them also says whether both agree.
pub(crate) struct Peers {
    senders: Vec<Sender>,
}

struct Sender {
    sa: Arc<OutboundSa>,
    /// The box, and the station by which it is reached.
    to: (MacAddr, Ipv4Addr),
    from: (MacAddr, Ipv4Addr),
    nat_port: Option<u16>,
    key: Option<u32>,
    tunnel_mode: bool,
}

impl Peers {
    /// All peers of the side file.
    ///
    /// # Errors
    /// Configuration and side file do not fit together.
    pub(crate) fn new(config: &Config, side: &SideFile, kernel: Kernel) -> anyhow::Result<Self> {
        let mut maker = SaMaker::new(kernel, side.seed);
        let mut senders = Vec::new();
        for entry in &side.peers {
            let (_, tunnel, _) = find_tunnel(config, &entry.tunnel)?;
            let underlay = &config.ethernet[tunnel.underlay].name;
            senders.push(Sender {
                sa: maker.outbound(&entry.inbound)?,
                to: (side.mac(underlay)?, local_address(config, tunnel)?),
                from: (station_mac(side, underlay)?, entry.remote),
                nat_port: entry.nat_port,
                key: tunnel.key,
                tunnel_mode: entry.inbound.tunnel_mode,
            });
        }
        Ok(Self { senders })
    }

    /// The Ethernet frame in which a peer sends an IPv4 packet.
    ///
    /// # Errors
    /// There is no such peer, its SA has sent all that it may, or the packet is too long.
    pub(crate) fn seal(&mut self, peer: usize, packet: &[u8]) -> anyhow::Result<Vec<u8>> {
        let sender = self.senders.get(peer).context("there is no such peer")?;
        sender.seal(packet)
    }
}

impl Sender {
    fn seal(&self, packet: &[u8]) -> anyhow::Result<Vec<u8>> {
        let ((to_mac, destination), (from_mac, source)) = (self.to, self.from);
        let outer = ipv4::Fields {
            tos: 0,
            identification: 0,
            dont_fragment: true,
            ttl: TTL,
            protocol: if self.nat_port.is_some() { IpProtocol::UDP } else { IpProtocol::ESP },
            source,
            destination,
        };
        let mut payload = vec![0; gre::header_len(self.key)];
        gre::emit(EtherType::IPV4, self.key, &mut payload).context("no room for GRE")?;
        payload.extend_from_slice(packet);
        if self.tunnel_mode {
            let inner = ipv4::Fields { protocol: IpProtocol::GRE, ..outer };
            let header = ipv4::Header::new(&inner, payload.len()).context("too long")?;
            payload.splice(..0, header.octets().iter().copied());
        }

        let suite = self.sa.suite();
        let mut esp = vec![0; suite.sealed_len(payload.len())];
        esp[suite.payload_offset()..][..payload.len()].copy_from_slice(&payload);
        let next_header = if self.tunnel_mode { IpProtocol::IPV4 } else { IpProtocol::GRE };
        let mut jobs = [SealJob::new(&self.sa, &mut esp, payload.len(), next_header.0)];
        seal(&mut jobs);
        jobs[0].result()?;

        let mut content = Vec::new();
        if let Some(port) = self.nat_port {
            let udp = udp::Header::new(port, udp::IKE_NAT, esp.len()).context("too long")?;
            content.extend_from_slice(udp.octets());
        }
        content.extend_from_slice(&esp);
        let header = ipv4::Header::new(&outer, content.len()).context("too long")?;
        Ok(frame(to_mac, from_mac, &[header.octets(), &content].concat()))
    }
}

/// The two ends of the plain side: a host of the box's own network, and the network's port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lan {
    /// The host, and its Ethernet address.
    pub(crate) host: (MacAddr, Ipv4Addr),
    /// Ethernet address of the box there.
    pub(crate) box_mac: MacAddr,
}

impl Lan {
    /// The first interface that no tunnel runs over.
    ///
    /// # Errors
    /// There is none, or no station beside it.
    pub(crate) fn new(config: &Config, side: &SideFile) -> anyhow::Result<Self> {
        let interface = (0..).zip(&config.ethernet).find(|(number, _)| !is_underlay(config, *number));
        let name = &interface.context("the configuration has no LAN")?.1.name;
        let station = side.stations.iter().find(|station| station.interface == *name);
        let station = station.with_context(|| format!("the side file has no station beside {name}"))?;
        Ok(Self { host: (station.mac.0, station.address), box_mac: side.mac(name)? })
    }
}

/// A host in the network behind a peer.
pub(crate) fn host_behind(side: &SideFile, peer: usize) -> anyhow::Result<Ipv4Addr> {
    let entry = side.peers.get(peer).context("there is no such peer")?;
    Ok(Ipv4Addr::from(entry.network.network().to_bits() + 1))
}
