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
enum Next {
    /// ESP to an underlay address of ours; its offset is in the meta data.
    Decrypt,
    /// Any other IPv4 packet, also out of GRE in the clear.
    Forward,
    /// UDP or GRE to an underlay address of ours. It turns out to be one of the others.
    ToUnderlay,
    /// To the control thread.
    Arp,
    /// To the control thread.
    Dhcp,
    /// To the control thread.
    Ike,
    /// To the control thread; out of GRE in the clear.
    Nhrp,
    /// Nothing.
    Drop(DropReason),
}

/// Sorts what ports received; what entered elsewhere goes there.
pub(crate) fn run<P: Pool>(cx: &mut Context<'_, P>, frames: &mut Frames<'_, P::Buffer>) {
    let Frames { taken_in, decrypt, forward, replicate, to_peer, egress, .. } = frames;
    for mut packet in taken_in.drain(..) {
        let entry = packet.meta().entry();
        if entry != Entry::Ingress {
            match entry {
                Entry::Ingress | Entry::Forward => forward.push(packet),
                Entry::Decrypt => decrypt.push(packet),
                Entry::Replicate => replicate.push(packet),
                Entry::Encrypt => to_peer.push(packet),
                Entry::Egress => egress.push(ForNeighbor { packet, neighbor: &None }),
            }
            continue;
        }
        let mut next = classify(cx, &mut packet);
        if matches!(next, Next::ToUnderlay) {
            next = to_underlay(cx, &mut packet);
        }
        match next {
            Next::Decrypt => decrypt.push(packet),
            Next::Forward => forward.push(packet),
            Next::Drop(reason) => cx.count_drop(reason),
            other => punt(cx, &other, packet),
        }
    }
}

/// Hands a packet to the control thread.
#[cold]
fn punt<P: Pool>(cx: &Context<'_, P>, next: &Next, packet: P::Buffer) {
    let port = PortId(packet.meta().port);
    match next {
        Next::Arp => cx.punter.punt(PuntReason::Arp { port }, packet),
        Next::Dhcp => cx.punter.punt(PuntReason::Dhcp { port }, packet),
        Next::Nhrp => gre::punt_nhrp(cx, packet),
        _ => cx.punter.punt(PuntReason::Ike { worker: cx.handoff.worker() }, packet),
    }
}

#[inline(always)]
fn classify<P: Pool>(cx: &Context<'_, P>, packet: &mut P::Buffer) -> Next {
    let Some(info) = cx.snapshot.ports.get(usize::from(packet.meta().port)) else {
        return Next::Drop(DropReason::UnknownPort);
    };
    let Ok((ethernet, content)) = eth::Header::view(packet.bytes()) else {
        return Next::Drop(DropReason::Runt);
    };
    let to_us = ethernet.destination.is(&info.mac);
    if !to_us && !ethernet.destination.is_multicast() {
        return Next::Drop(DropReason::OtherStation);
    }
    match ethernet.ether_type() {
        EtherType::IPV4 => {}
        EtherType::ARP => return Next::Arp,
        EtherType::VLAN | EtherType::SERVICE_VLAN => return Next::Drop(DropReason::Vlan),
        _ => return Next::Drop(DropReason::EtherType),
    }
    let Ok(ip) = ipv4::Packet::parse(content) else {
        return Next::Drop(DropReason::Ipv4Header);
    };
    if let Some(reason) = check::addresses(cx.own, ip.header) {
        return Next::Drop(reason);
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
        return Next::Dhcp;
    }
    if matches!(protocol, IpProtocol::UDP | IpProtocol::ESP | IpProtocol::GRE)
        && cx.own.end_tunnels(destination)
    {
        if header.is_fragment() {
            return Next::Drop(DropReason::FragmentToUs);
        }
        let meta = packet.meta_mut();
        (meta.outer_source, meta.outer_ecn) = (header.source().to_bits(), header.ecn());
        return if protocol == IpProtocol::ESP { esp(header.header_len(), packet) } else { Next::ToUnderlay };
    }
    // RFC 1812 section 5.3.4: a router does not turn link broadcasts into unicasts.
    if !to_us && !destination.is_multicast() {
        return Next::Drop(DropReason::NotForwarded);
    }
    Next::Forward
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

/// UDP or GRE to an address that tunnels end at.
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
        udp::IKE => Next::Ike,
        udp::IKE_NAT => match Encapsulated::parse(data) {
            Ok(Encapsulated::Ike(_)) => Next::Ike,
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
        gre::Next::Nhrp => Next::Nhrp,
        gre::Next::Drop(reason) => Next::Drop(reason),
    }
}
