//! What goes around a packet for a peer, worked out beforehand.

use dmvpn_wire::{EtherType, IpProtocol, View, gre, ipv4, udp};

use crate::peer::{Endpoints, Mode, Path};
use crate::tunnel::Tunnel;

/// The headers of all packets to a peer, from the outer IPv4 header to the GRE header, and what a packet grows by: made
/// once from the tunnel, the end points and the path, so that per packet there is a copy and a few numbers to fill in.
#[derive(Debug, Clone)]
pub struct Encapsulation {
    /// What precedes the ESP header, right-aligned.
    outer: Block,
    /// What follows ESP header and IV, right-aligned.
    inner: Block,
    tos: Inherited,
    ttl: Inherited,
    mtu: u16,
    outer_len: u8,
    /// ESP header and IV.
    esp_len: u8,
    inner_len: u8,
    gre_len: u8,
    /// Pad length and next header.
    trailer_len: u8,
    /// What ESP pads to, less one.
    padding_mask: u8,
    icv_len: u8,
    next_header: IpProtocol,
}

/// IPv4 and UDP, or IPv4 and GRE, with a word to spare: copies of a round size cost the least.
type Block = [u8; 32];

/// An octet of the outer header: as inside, or fixed, bit by bit.
#[derive(Debug, Clone, Copy)]
struct Inherited {
    mask: u8,
    fixed: u8,
}

/// How long a packet gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of headers in front.
    pub front: usize,
    /// Bytes of ESP padding, trailer and ICV behind.
    pub back: usize,
    /// Bytes that ESP protects, or that follow the outer header where there is no ESP.
    pub payload: usize,
    /// Bytes of the whole.
    total: u16,
}

/// What differs from packet to packet.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// GRE protocol type.
    pub protocol: EtherType,
    /// TOS octet inside.
    pub tos: u8,
    /// TTL inside.
    pub ttl: u8,
    /// Identification of the outer header.
    pub identification: u16,
}

impl Encapsulation {
    /// Bytes in front of a packet that [`write`](Self::write) uses, whatever the encapsulation: some more than any needs.
    pub const ROOM: usize = 2 * size_of::<Block>() + LONGEST_ESP;

    pub(crate) fn new(tunnel: &Tunnel, endpoints: &Endpoints, path: &Path) -> Self {
        let (suite, mode) = match path {
            Path::Clear => (None, Mode::Transport),
            Path::Esp { sa, mode } => (Some(sa.suite()), *mode),
        };
        let udp = endpoints.udp.filter(|_| suite.is_some());
        let protocol = match (suite, udp) {
            (None, _) => IpProtocol::GRE,
            (Some(_), None) => IpProtocol::ESP,
            (Some(_), Some(_)) => IpProtocol::UDP,
        };
        let ip = |protocol, source, destination| {
            ipv4::Header::template(protocol, source, destination, tunnel.dont_fragment)
        };

        let mut outer = Headers::default();
        outer.push(ip(protocol, endpoints.local, endpoints.remote).octets());
        if let Some(header) = udp.and_then(|ports| udp::Header::new(ports.local, ports.remote, 0)) {
            outer.push(header.octets());
        }
        let mut inner = Headers::default();
        if let Mode::Tunnel { source, destination } = mode {
            inner.push(ip(IpProtocol::GRE, source, destination).octets());
        }
        let mut header = [0; 8];
        let gre_len = gre::header_len(tunnel.key);
        gre::emit(EtherType::IPV4, tunnel.key, &mut header);
        inner.push(&header[..gre_len]);

        Self {
            tos: Inherited::new(tunnel.tos.map(|tos| tos & !ECN), ECN),
            ttl: Inherited::new(tunnel.ttl, 0),
            mtu: tunnel.mtu,
            outer_len: octet(outer.len),
            esp_len: octet(suite.map_or(0, |suite| suite.payload_offset())),
            inner_len: octet(inner.len),
            gre_len: octet(gre_len),
            trailer_len: if suite.is_some() { ESP_TRAILER } else { 0 },
            padding_mask: octet(suite.map_or(0, |suite| suite.block() - 1)),
            icv_len: octet(suite.map_or(0, |suite| suite.icv_len())),
            next_header: if mode == Mode::Transport { IpProtocol::GRE } else { IpProtocol::IPV4 },
            outer: outer.aligned(),
            inner: inner.aligned(),
        }
    }

    /// Largest packet that it takes, in bytes.
    #[inline]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Where the ESP header begins.
    #[inline]
    pub fn esp_offset(&self) -> u16 {
        self.outer_len.into()
    }

    /// What follows the ESP header: GRE, or IPv4 in tunnel mode.
    #[inline]
    pub fn next_header(&self) -> IpProtocol {
        self.next_header
    }

    /// How long a packet of `len` bytes gets; `None` if that is longer than IPv4 can be.
    #[inline]
    pub fn extent(&self, len: usize) -> Option<Extent> {
        let payload = usize::from(self.inner_len) + len;
        let mask = usize::from(self.padding_mask);
        let padded = (payload + usize::from(self.trailer_len) + mask) & !mask;
        let front = usize::from(self.outer_len + self.esp_len + self.inner_len);
        let back = padded - payload + usize::from(self.icv_len);
        let total = u16::try_from(front + len + back).ok()?;
        Some(Extent { front, back, payload, total })
    }

    /// Writes the headers into the last [`Extent::front`] bytes of `room`, which ends where the packet begins. What is
    /// before them, and the ESP header and the IV among them, is unspecified.
    #[inline(always)]
    pub fn write(&self, room: &mut [u8; Self::ROOM], extent: &Extent, variable: &Variable) -> Option<()> {
        let &Variable { protocol, tos, ttl, identification } = variable;
        let (tos, ttl) = (self.tos.of(tos), self.ttl.of(ttl));
        let inner = Self::ROOM - usize::from(self.inner_len);
        let esp = inner - usize::from(self.esp_len);
        let outer = esp - usize::from(self.outer_len);
        *room.last_chunk_mut()? = self.inner;
        *room.get_mut(..esp)?.last_chunk_mut()? = self.outer;

        let (header, rest) = ipv4::Header::view_mut(room.get_mut(outer..)?).ok()?;
        header.complete(template(&self.outer, self.outer_len)?, tos, extent.total, identification, ttl);
        if self.in_udp() {
            udp::Header::view_mut(rest).ok()?.0.set_length(extent.total - IPV4_LEN);
        }
        if self.has_inner_header() {
            let (header, _) = ipv4::Header::view_mut(room.get_mut(inner..)?).ok()?;
            let total_length = u16::try_from(extent.payload).ok()?;
            header.complete(template(&self.inner, self.inner_len)?, tos, total_length, identification, ttl);
        }
        if protocol != EtherType::IPV4 {
            let gre = room.get_mut(Self::ROOM - usize::from(self.gre_len)..)?;
            gre.get_mut(2..4)?.copy_from_slice(&protocol.0.to_be_bytes());
        }
        Some(())
    }

    /// Whether there is a UDP header in front of the ESP header.
    #[inline]
    fn in_udp(&self) -> bool {
        usize::from(self.outer_len) > ipv4::Header::LEN
    }

    /// Whether there is an IPv4 header in front of the GRE header: tunnel mode.
    #[inline]
    fn has_inner_header(&self) -> bool {
        self.inner_len > self.gre_len
    }
}

/// The IPv4 header that the headers in a block begin with.
#[inline]
fn template(block: &Block, len: u8) -> Option<&ipv4::Header> {
    let start = size_of::<Block>().checked_sub(len.into())?;
    Some(ipv4::Header::view(block.get(start..)?).ok()?.0)
}

/// Congestion notification is always as inside (RFC 6040 section 4.1).
const ECN: u8 = 3;
/// Pad length and next header (RFC 4303 section 2).
const ESP_TRAILER: u8 = 2;
/// ESP header, and the longest IV.
const LONGEST_ESP: usize = 24;
const IPV4_LEN: u16 = 20;

impl Inherited {
    /// Fixed but for the bits of `always`, or not at all.
    fn new(fixed: Option<u8>, always: u8) -> Self {
        fixed.map_or(Self { mask: !0, fixed: 0 }, |fixed| Self { mask: always, fixed })
    }

    #[inline]
    fn of(self, inside: u8) -> u8 {
        inside & self.mask | self.fixed
    }
}

/// Headers one after the other.
#[derive(Default)]
struct Headers {
    bytes: Block,
    len: usize,
}

impl Headers {
    fn push(&mut self, header: &[u8]) {
        let end = self.len + header.len();
        if let Some(place) = self.bytes.get_mut(self.len..end) {
            place.copy_from_slice(header);
            self.len = end;
        }
    }

    fn aligned(mut self) -> Block {
        self.bytes.rotate_right(size_of::<Block>() - self.len);
        self.bytes
    }
}

#[allow(clippy::cast_possible_truncation, reason = "header lengths, far below 256")]
fn octet(len: usize) -> u8 {
    len as u8
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use dmvpn_esp::{IvSeed, KeyMaterial, OutboundSa, Suite};
    use proptest::prelude::*;

    use super::*;
    use crate::ids::TunnelId;
    use crate::peer::UdpPorts;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

    fn path(suite: Option<Suite>, mode: Mode) -> Path {
        let Some(suite) = suite else { return Path::Clear };
        let bytes: Vec<u8> = (1..=100).collect();
        let len = suite.cipher_key_len() + suite.integrity_key_len();
        let keys = KeyMaterial::from_keymat(suite, &bytes[..len]).unwrap();
        Path::Esp { sa: Arc::new(OutboundSa::new(0x1000, &keys, IvSeed::new([2; 16]))), mode }
    }

    /// What stands in front of a payload, written header by header.
    fn reference(tunnel: &Tunnel, endpoints: &Endpoints, path: &Path, len: usize, v: &Variable) -> Vec<u8> {
        let mut gre = vec![0; gre::header_len(tunnel.key)];
        gre::emit(v.protocol, tunnel.key, &mut gre).unwrap();
        let fields = |protocol, source, destination| ipv4::Fields {
            tos: tunnel.tos.map_or(v.tos, |tos| tos & 0xfc | v.tos & 3),
            identification: v.identification,
            dont_fragment: tunnel.dont_fragment,
            ttl: tunnel.ttl.unwrap_or(v.ttl),
            protocol,
            source,
            destination,
        };
        let outer = |protocol, len| {
            let fields = fields(protocol, endpoints.local, endpoints.remote);
            ipv4::Header::new(&fields, len).unwrap().octets().to_vec()
        };
        let Path::Esp { sa, mode } = path else {
            return [outer(IpProtocol::GRE, gre.len() + len), gre].concat();
        };
        let inner = match mode {
            Mode::Transport => vec![],
            Mode::Tunnel { source, destination } => {
                let fields = fields(IpProtocol::GRE, *source, *destination);
                ipv4::Header::new(&fields, gre.len() + len).unwrap().octets().to_vec()
            }
        };
        let sealed = sa.suite().sealed_len(inner.len() + gre.len() + len);
        let esp = vec![0; sa.suite().payload_offset()];
        match endpoints.udp {
            None => [outer(IpProtocol::ESP, sealed), esp, inner, gre].concat(),
            Some(ports) => {
                let udp = udp::Header::new(ports.local, ports.remote, sealed).unwrap();
                [outer(IpProtocol::UDP, 8 + sealed), udp.octets().to_vec(), esp, inner, gre].concat()
            }
        }
    }

    proptest! {
        #[test]
        fn equals_what_is_written_header_by_header(
            suite in proptest::option::of(proptest::sample::select(Suite::all().collect::<Vec<_>>())),
            mode in proptest::sample::select(vec![
                Mode::Transport,
                Mode::Tunnel { source: LOCAL, destination: Ipv4Addr::new(10, 1, 1, 1) },
            ]),
            udp: Option<u16>,
            (key, tos, ttl, dont_fragment) in any::<(Option<u32>, Option<u8>, Option<u8>, bool)>(),
            len in 0usize..65000,
            protocol in proptest::sample::select(vec![EtherType::IPV4, EtherType::NHRP]),
            (inner_tos, inner_ttl, identification) in any::<(u8, u8, u16)>(),
        ) {
            let tunnel = Tunnel {
                id: TunnelId(0), address: Ipv4Addr::new(10, 0, 0, 1), local: LOCAL, key, mtu: 1400, ttl, tos,
                dont_fragment, protected: false, redirect: false, multicast: Arc::default(),
            };
            let udp = udp.map(|remote| UdpPorts { local: 4500, remote });
            let endpoints = Endpoints { local: LOCAL, remote: REMOTE, udp };
            let path = path(suite, mode);
            let variable = Variable { protocol, tos: inner_tos, ttl: inner_ttl, identification };
            let expected = reference(&tunnel, &endpoints, &path, len, &variable);

            let encapsulation = Encapsulation::new(&tunnel, &endpoints, &path);
            let extent = encapsulation.extent(len).unwrap();
            let mut room = [0xa5; Encapsulation::ROOM];
            encapsulation.write(&mut room, &extent, &variable).unwrap();
            let written = &mut room[Encapsulation::ROOM - extent.front..];
            if let Some(suite) = suite {
                let esp = usize::from(encapsulation.esp_offset());
                written[esp..esp + suite.payload_offset()].fill(0);
                let sealed = suite.sealed_len(extent.payload);
                prop_assert_eq!(esp + sealed, extent.front + len + extent.back);
            }
            prop_assert_eq!(&*written, &*expected);
        }
    }

    #[test]
    fn nothing_gets_longer_than_ipv4_can_be() {
        let tunnel = Tunnel {
            id: TunnelId(0),
            address: LOCAL,
            local: LOCAL,
            key: None,
            mtu: 1400,
            ttl: None,
            tos: None,
            dont_fragment: true,
            protected: false,
            redirect: false,
            multicast: Arc::default(),
        };
        let endpoints = Endpoints { local: LOCAL, remote: REMOTE, udp: None };
        let encapsulation = Encapsulation::new(&tunnel, &endpoints, &Path::Clear);
        assert_eq!(encapsulation.extent(65535 - 24).map(|extent| extent.total), Some(65535));
        assert_eq!(encapsulation.extent(65535 - 23), None);
    }
}
