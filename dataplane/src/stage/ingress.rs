//! Ingress: what came in, checked and sorted.

use std::net::Ipv4Addr;

use dmvpn_tables::{PortId, PuntReason};
use dmvpn_wire::esp::Header as EspHeader;
use dmvpn_wire::udp::{self, Encapsulated};
use dmvpn_wire::{EtherType, IpProtocol, View, eth, ipv4};

use crate::counters::DropReason;
use crate::frame::{Buffer, Entry, Meta, Pool};
use crate::stage::{Context, ForNeighbor, Frames, check, gre};

/// What becomes of a received packet. From here on it begins with its IPv4 header and ends where that says.
#[derive(Clone, Copy)]
enum Next {
    /// ESP to an underlay address of ours; its offset is in the meta data.
    Decrypt,
    /// Any other IPv4 packet, also out of GRE in the clear.
    Forward,
    /// To the control thread.
    Punt(Protocol),
    /// Nothing.
    Drop(DropReason),
}

/// What the control thread speaks.
#[derive(Clone, Copy)]
enum Protocol {
    Arp,
    Dhcp,
    Ike,
    /// Out of GRE in the clear.
    Nhrp,
}

/// Sorts what ports received; what entered elsewhere goes there.
pub(crate) fn run<P: Pool>(cx: &mut Context<'_, P>, frames: &mut Frames<'_, P::Buffer>) {
    let Frames { taken_in, decrypt, forward, replicate, to_peer, egress, .. } = frames;
    for mut packet in taken_in.drain(..) {
        let next = match packet.meta().entry() {
            Entry::Ingress => classify(cx, &mut packet).unwrap_or_else(|| to_underlay(cx, &mut packet)),
            Entry::Decrypt => Next::Decrypt,
            Entry::Forward => Next::Forward,
            Entry::Replicate => {
                replicate.push(packet);
                continue;
            }
            Entry::Encrypt => {
                to_peer.push(packet);
                continue;
            }
            Entry::Egress => {
                egress.push(ForNeighbor { packet, neighbor: &None });
                continue;
            }
        };
        match next {
            Next::Decrypt => decrypt.push(packet),
            Next::Forward => forward.push(packet),
            Next::Punt(protocol) => punt(cx, protocol, packet),
            Next::Drop(reason) => cx.count_drop(reason),
        }
    }
}

/// Hands a packet to the control thread.
#[cold]
fn punt<P: Pool>(cx: &Context<'_, P>, protocol: Protocol, packet: P::Buffer) {
    let port = PortId(packet.meta().port);
    match protocol {
        Protocol::Arp => cx.punter.punt(PuntReason::Arp { port }, packet),
        Protocol::Dhcp => cx.punter.punt(PuntReason::Dhcp { port }, packet),
        Protocol::Ike => cx.punter.punt(PuntReason::Ike { port, worker: cx.handoff.worker() }, packet),
        Protocol::Nhrp => gre::punt_nhrp(cx, packet),
    }
}

/// `None` for UDP and GRE to an underlay address of ours, on which [`to_underlay`] decides.
#[inline(always)]
fn classify<P: Pool>(cx: &Context<'_, P>, packet: &mut P::Buffer) -> Option<Next> {
    let Some(info) = cx.snapshot.ports.get(usize::from(packet.meta().port)) else {
        return Some(Next::Drop(DropReason::UnknownPort));
    };
    let Ok((ethernet, content)) = eth::Header::view(packet.bytes()) else {
        return Some(Next::Drop(DropReason::Runt));
    };
    let to_us = ethernet.destination.is(&info.mac);
    if !to_us && !ethernet.destination.is_multicast() {
        return Some(Next::Drop(DropReason::OtherStation));
    }
    match ethernet.ether_type() {
        EtherType::IPV4 => {}
        EtherType::ARP => return Some(Next::Punt(Protocol::Arp)),
        EtherType::VLAN | EtherType::SERVICE_VLAN => return Some(Next::Drop(DropReason::Vlan)),
        _ => return Some(Next::Drop(DropReason::EtherType)),
    }
    let Ok(ip) = ipv4::Packet::parse(content) else {
        return Some(Next::Drop(DropReason::Ipv4Header));
    };
    if let Some(reason) = check::addresses(cx.own, ip.header) {
        return Some(Next::Drop(reason));
    }
    let header = *ip.header;
    let destination = header.destination();
    // Short packets are padded to the least Ethernet frame.
    packet.crop(eth::Header::LEN..eth::Header::LEN + usize::from(header.total_length()));
    let meta = packet.meta_mut();
    meta.destination = destination.to_bits();
    meta.flags = if info.underlay { Meta::FROM_UNDERLAY } else { 0 };

    let protocol = header.protocol();
    if protocol == IpProtocol::UDP
        && (destination.is_broadcast() || info.address.is_unspecified() || info.address == destination)
        && is_dhcp_reply(packet.bytes())
    {
        return Some(Next::Punt(Protocol::Dhcp));
    }
    if matches!(protocol, IpProtocol::UDP | IpProtocol::ESP | IpProtocol::GRE)
        && cx.own.end_tunnels(destination)
    {
        if header.is_fragment() {
            return Some(Next::Drop(DropReason::FragmentToUs));
        }
        let meta = packet.meta_mut();
        (meta.outer_source, meta.outer_ecn) = (header.source().to_bits(), header.ecn());
        return (protocol == IpProtocol::ESP).then(|| esp(header.header_len(), packet));
    }
    // RFC 1812 section 5.3.4: a router does not turn link broadcasts into unicasts.
    if !to_us && !destination.is_multicast() {
        return Some(Next::Drop(DropReason::NotForwarded));
    }
    Some(Next::Forward)
}

#[inline(always)]
fn esp<B: Buffer>(offset: usize, packet: &mut B) -> Next {
    let header = packet.bytes().get(offset..).and_then(|bytes| EspHeader::view(bytes).ok());
    let (Some((header, _)), Ok(offset)) = (header, u16::try_from(offset)) else {
        return Next::Drop(DropReason::EspLength);
    };
    let spi = header.spi();
    let meta = packet.meta_mut();
    (meta.spi, meta.esp_offset) = (spi, offset);
    Next::Decrypt
}

/// Whether a UDP packet is for the DHCP client port (RFC 2131 section 4.1).
#[inline(never)]
fn is_dhcp_reply(packet: &[u8]) -> bool {
    let Ok((header, _)) = ipv4::Header::view(packet) else { return false };
    !header.is_fragment()
        && packet.get(header.header_len()..).and_then(|payload| udp::Header::view(payload).ok()).is_some_and(
            |(udp, _)| udp.destination_port() == udp::DHCP_CLIENT && udp.source_port() == udp::DHCP_SERVER,
        )
}

/// What becomes of UDP or GRE to an address that tunnels end at.
#[inline(never)]
fn to_underlay<P: Pool>(cx: &Context<'_, P>, packet: &mut P::Buffer) -> Next {
    let Ok((header, _)) = ipv4::Header::view(packet.bytes()) else {
        return Next::Drop(DropReason::Ipv4Header);
    };
    let (header_len, destination) = (header.header_len(), header.destination());
    match header.protocol() {
        IpProtocol::UDP => udp(header_len, packet),
        _ => clear_gre(cx, header_len, destination, packet),
    }
}

fn udp<B: Buffer>(header_len: usize, packet: &mut B) -> Next {
    let payload = packet.bytes().get(header_len..).unwrap_or_default();
    let Ok((header, data)) = udp::Header::parse(payload) else {
        return Next::Drop(DropReason::UdpLength);
    };
    match header.destination_port() {
        udp::IKE => Next::Punt(Protocol::Ike),
        udp::IKE_NAT => match Encapsulated::parse(data) {
            Ok(Encapsulated::Ike(_)) => Next::Punt(Protocol::Ike),
            Ok(Encapsulated::Keepalive) => Next::Drop(DropReason::NatKeepalive),
            Ok(Encapsulated::Esp(_)) => {
                let surplus = payload.len() - usize::from(header.length());
                packet.trim_back(surplus);
                packet.meta_mut().flags |= Meta::IN_UDP;
                esp(header_len + udp::Header::LEN, packet)
            }
            Err(_) => Next::Drop(DropReason::UdpLength),
        },
        _ => Next::Forward,
    }
}

/// GRE that came without ESP: for a tunnel without IPsec only.
fn clear_gre<P: Pool>(
    cx: &Context<'_, P>,
    header_len: usize,
    destination: Ipv4Addr,
    packet: &mut P::Buffer,
) -> Next {
    let payload = packet.bytes().get(header_len..).unwrap_or_default();
    let Ok(key) = dmvpn_wire::gre::Packet::parse(payload).map(|gre| gre.key) else {
        return Next::Drop(DropReason::GreHeader);
    };
    let mut tunnel = None;
    for candidate in cx.snapshot.tunnels.iter() {
        if candidate.local == destination && candidate.key == key {
            if candidate.protected {
                return Next::Drop(DropReason::ClearGreOnProtected);
            }
            tunnel = Some(candidate);
        }
    }
    let Some(tunnel) = tunnel else { return Next::Drop(DropReason::GreNoTunnel) };
    let content = header_len..packet.len();
    match gre::pop(cx.own, tunnel, None, packet, content) {
        gre::Next::Forward => Next::Forward,
        gre::Next::Nhrp => Next::Punt(Protocol::Nhrp),
        gre::Next::Drop(reason) => Next::Drop(reason),
    }
}
