//! The internet between the sites: a gateway for each, NATs in front of some, and bad cables.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dmvpn_wire::arp::{self, Operation};
use dmvpn_wire::udp::{self, Encapsulated};
use dmvpn_wire::{EtherType, IpProtocol, MacAddr, View, eth, ipv4};

use crate::site::Site;

/// How bad the cables are, in packets per thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Lost.
    pub loss: u16,
    /// Delivered twice.
    pub duplication: u16,
    /// Delivered late, after others.
    pub reordering: u16,
}

/// What was seen on the way from one site to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// IKE messages.
    pub ike: u64,
    /// ESP packets, in UDP or not.
    pub esp: u64,
    /// GRE without ESP.
    pub clear: u64,
    /// Anything else.
    pub other: u64,
}

/// The internet.
#[derive(Debug, Default)]
pub(crate) struct Internet {
    sites: Vec<Site>,
    nats: BTreeMap<Ipv4Addr, Nat>,
    /// Packets by source and destination site, before losses.
    pub(crate) traffic: BTreeMap<(usize, usize), Traffic>,
}

/// A NAT with one public address: a port of its own for each inside address and port, open to everybody.
/// The first user of a port keeps its number.
#[derive(Debug, Default)]
struct Nat {
    inside: BTreeMap<(Ipv4Addr, u16), u16>,
    outside: BTreeMap<u16, (Ipv4Addr, u16)>,
}

/// Where a frame goes next.
pub(crate) enum Verdict {
    /// Back to who sent it: an answer of the gateway.
    Answer(Vec<u8>),
    /// To the WAN port of a site.
    Deliver(usize, Vec<u8>),
    /// Nowhere.
    Nothing,
}

const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 255, 255]);

impl Internet {
    pub(crate) fn add(&mut self, site: Site) {
        if let Some(public) = site.public {
            self.nats.entry(public).or_default();
        }
        self.sites.push(site);
    }

    /// Forgets all mappings of a NAT, as after a reboot: the next packet from inside gets another port.
    pub(crate) fn reset_nat(&mut self, public: Ipv4Addr) {
        if let Some(nat) = self.nats.get_mut(&public) {
            nat.inside.clear();
            let before = std::mem::take(&mut nat.outside);
            // What was in use is not given out again.
            nat.outside = before.into_keys().map(|port| (port, (Ipv4Addr::UNSPECIFIED, 0))).collect();
        }
    }

    pub(crate) fn readdress(&mut self, site: usize, wan: Ipv4Addr) {
        self.sites[site].wan = wan;
    }

    /// Takes a frame from the WAN port of a site.
    pub(crate) fn receive(&mut self, from: usize, frame: &[u8]) -> Verdict {
        self.forward(from, frame).unwrap_or(Verdict::Nothing)
    }

    fn forward(&mut self, from: usize, frame: &[u8]) -> Option<Verdict> {
        let (header, payload) = eth::Header::view(frame).ok()?;
        if header.ether_type() == EtherType::ARP {
            let (packet, operation) = arp::Packet::parse(payload).ok()?;
            let asks = operation == Operation::Request && packet.target() == self.sites[from].gateway();
            return asks.then(|| {
                let header = eth::Header::new(packet.sender_mac, GATEWAY_MAC, EtherType::ARP);
                Verdict::Answer([header.octets(), packet.reply(GATEWAY_MAC).octets()].concat())
            });
        }
        let mut packet = payload.to_vec();
        if let Some(public) = self.sites[from].public {
            self.nats.get_mut(&public)?.outbound(public, &mut packet)?;
        }
        let destination = ipv4::Packet::parse(&packet).ok()?.header.destination();
        if let Some(nat) = self.nats.get(&destination) {
            nat.inbound(&mut packet)?;
        }
        let inside = ipv4::Packet::parse(&packet).ok()?.header.destination();
        let to = self.sites.iter().position(|site| site.wan == inside && site.seen_as() == destination)?;
        self.count(from, to, &packet);
        let header = eth::Header::new(self.sites[to].mac(0), GATEWAY_MAC, EtherType::IPV4);
        Some(Verdict::Deliver(to, [header.octets(), &packet].concat()))
    }

    fn count(&mut self, from: usize, to: usize, packet: &[u8]) {
        let traffic = self.traffic.entry((from, to)).or_default();
        let Ok(packet) = ipv4::Packet::parse(packet) else { return };
        let kind = match packet.header.protocol() {
            IpProtocol::ESP => &mut traffic.esp,
            IpProtocol::GRE => &mut traffic.clear,
            IpProtocol::UDP => match udp::Header::parse(packet.payload) {
                Ok((header, _))
                    if header.destination_port() == udp::IKE || header.source_port() == udp::IKE =>
                {
                    &mut traffic.ike
                }
                Ok((_, content)) => match Encapsulated::parse(content) {
                    Ok(Encapsulated::Esp(_)) => &mut traffic.esp,
                    _ => &mut traffic.ike,
                },
                Err(_) => &mut traffic.other,
            },
            _ => &mut traffic.other,
        };
        *kind += 1;
    }
}

impl Nat {
    fn outbound(&mut self, public: Ipv4Addr, packet: &mut [u8]) -> Option<()> {
        let (source, port) = {
            let parsed = ipv4::Packet::parse(packet).ok()?;
            if parsed.header.protocol() != IpProtocol::UDP {
                return None;
            }
            (parsed.header.source(), udp::Header::parse(parsed.payload).ok()?.0.source_port())
        };
        let outside = match self.inside.get(&(source, port)) {
            Some(outside) => *outside,
            None => {
                let outside =
                    std::iter::once(port).chain(30_000..).find(|free| !self.outside.contains_key(free))?;
                self.inside.insert((source, port), outside);
                self.outside.insert(outside, (source, port));
                outside
            }
        };
        rewrite(packet, |header, ports| {
            header.set_source(public);
            ports.0 = outside;
        })
    }

    fn inbound(&self, packet: &mut [u8]) -> Option<()> {
        let port = {
            let parsed = ipv4::Packet::parse(packet).ok()?;
            if parsed.header.protocol() != IpProtocol::UDP {
                return None;
            }
            udp::Header::parse(parsed.payload).ok()?.0.destination_port()
        };
        let (address, inside) = *self.outside.get(&port)?;
        rewrite(packet, |header, ports| {
            header.set_destination(address);
            ports.1 = inside;
        })
    }
}

/// Changes addresses and ports of a UDP packet, and its checksums with them.
fn rewrite(packet: &mut [u8], change: impl FnOnce(&mut ipv4::Header, &mut (u16, u16))) -> Option<()> {
    let (header, rest) = ipv4::Header::view_mut(packet).ok()?;
    let (udp, content) = udp::Header::parse(rest).ok()?;
    let (checked, len) = (udp.octets()[6..8] != [0, 0], content.len());
    let mut ports = (udp.source_port(), udp.destination_port());
    change(header, &mut ports);
    let mut udp = udp::Header::new(ports.0, ports.1, len)?;
    if checked {
        udp = udp.with_checksum(header.source(), header.destination(), content);
    }
    udp.emit(rest)?;
    Some(())
}
