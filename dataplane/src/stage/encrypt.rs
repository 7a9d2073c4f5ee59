//! Encrypt: into the tunnel. GRE, ESP and the outer headers go around a packet.

use arrayvec::ArrayVec;
use dmvpn_esp::{self as esp, OutboundSa, SealError, SealJob};
use dmvpn_tables::{Mode, Path, Peer, PeerId, PuntReason, Tunnel};
use dmvpn_wire::{EtherType, IpProtocol, View, gre, ipv4, udp};

use crate::counters::DropReason;
use crate::frame::{Buffer, Entry, FRAME_SIZE, Frame, Meta, Pool};
use crate::link::Link;
use crate::ports::Ports;
use crate::stage::fragment::fragment;
use crate::stage::{Context, Frames, egress};

/// What becomes of a packet for a peer.
enum Next<'a> {
    /// Its headers go around it, and it is sealed if the path says so.
    Encapsulate(&'a Peer, &'a Tunnel),
    /// The same, but it has to be cut first.
    Fragment(&'a Peer, &'a Tunnel),
    /// Handed over to the worker that owns the SA.
    Elsewhere(usize),
    /// Too large, and not to be cut.
    Punt(PuntReason),
    /// Nothing.
    Drop(DropReason),
}

/// TOS of what a tunnel carries for itself (NHRP), where the tunnel does not fix it: internetwork control, CS6.
const CONTROL_TOS: u8 = 0xc0;
/// TTL of the same, and of multicast: that is often sent with a TTL of 1, which is to say to the other end of the tunnel,
/// not to the first router on the way there.
const CONTROL_TTL: u8 = 64;

/// Packets with all headers around them, and what they are to be sealed with.
struct Batch<'a, B> {
    packets: Frame<B>,
    seals: ArrayVec<Seal<'a>, FRAME_SIZE>,
}

/// Parameters of a [`SealJob`].
struct Seal<'a> {
    sa: &'a OutboundSa,
    payload_len: usize,
    next_header: u8,
}

/// Encapsulates and seals all packets of the batch that this worker owns the SAs of, and hands over the others. Because
/// of fragments there may be more than came in: whenever there is a full batch, it is sent.
pub(crate) fn run<P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &mut Context<'_, P>,
    frames: &mut Frames<P::Buffer>,
    ports: &mut Ports<L>,
) {
    let mut batch = Batch { packets: Frame::new(), seals: ArrayVec::new() };
    for packet in frames.encrypt.drain(..) {
        match classify(cx, &packet) {
            Next::Encapsulate(peer, tunnel) => {
                encapsulate(cx, peer, tunnel, packet, &mut batch, &mut frames.egress, ports);
            }
            Next::Fragment(peer, tunnel) => {
                let mut fragments = Frame::new();
                if let Some(reason) = fragment(cx.pool, packet, tunnel.mtu, &mut fragments) {
                    cx.count_drop(reason);
                    continue;
                }
                for piece in fragments {
                    encapsulate(cx, peer, tunnel, piece, &mut batch, &mut frames.egress, ports);
                }
            }
            Next::Elsewhere(owner) => cx.hand_over(owner, Entry::Encrypt, packet),
            Next::Punt(reason) => {
                let key =
                    ipv4::Header::view(packet.bytes()).map_or(0, |(header, _)| header.source().to_bits());
                cx.punt_limited(reason, key, packet, DropReason::FragmentationNeeded);
            }
            Next::Drop(reason) => cx.count_drop(reason),
        }
    }
    // The others can begin with theirs.
    cx.handoff.send(cx.counters);
    batch.seal(cx, &mut frames.egress, ports);
}

fn classify<'a, P: Pool>(cx: &Context<'a, P>, packet: &P::Buffer) -> Next<'a> {
    let meta = packet.meta();
    let Some(peer) = cx.snapshot.peer(PeerId(meta.to_peer)) else { return Next::Drop(DropReason::NoPeer) };
    let Some(tunnel) = cx.snapshot.tunnels.get(usize::from(peer.tunnel().0)) else {
        return Next::Drop(DropReason::NoTunnel);
    };
    if peer.endpoints().local.is_unspecified() {
        return Next::Drop(DropReason::NoTunnel);
    }
    match peer.path() {
        Path::Esp { .. } => {
            let owner = cx.handoff.owner(peer.id());
            if owner != cx.handoff.worker() {
                return Next::Elsewhere(owner);
            }
        }
        // A peer of a protected tunnel is never made with a clear path. This is for one made before the tunnel became
        // protected.
        Path::Clear if tunnel.protected => return Next::Drop(DropReason::ClearPathOnProtected),
        Path::Clear => {}
    }
    if packet.len() <= usize::from(tunnel.mtu) || meta.gre_protocol != EtherType::IPV4.0 {
        return Next::Encapsulate(peer, tunnel);
    }
    match ipv4::Header::view(packet.bytes()) {
        Ok((header, _)) if header.dont_fragment() => {
            Next::Punt(PuntReason::FragmentationNeeded { mtu: tunnel.mtu })
        }
        Ok(_) => Next::Fragment(peer, tunnel),
        Err(_) => Next::Drop(DropReason::Ipv4Header),
    }
}

/// Puts all headers around `packet`. What is to be sealed joins the batch; a clear packet of a tunnel without IPsec goes to
/// `out`. Whichever is full is sent first.
fn encapsulate<'a, P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &mut Context<'a, P>,
    peer: &'a Peer,
    tunnel: &Tunnel,
    mut packet: P::Buffer,
    batch: &mut Batch<'a, P::Buffer>,
    out: &mut Frame<P::Buffer>,
    ports: &mut Ports<L>,
) {
    match push_headers(cx, peer, tunnel, &mut packet) {
        Some(Pushed::Esp(seal)) => {
            if batch.packets.is_full() {
                batch.seal(cx, out, ports);
            }
            batch.packets.push(packet);
            batch.seals.push(seal);
        }
        Some(Pushed::Clear) => send(cx, packet, out, ports),
        None => cx.count_drop(DropReason::NoRoom),
    }
}

/// A packet with all headers in front.
enum Pushed<'a> {
    /// To be sealed.
    Esp(Seal<'a>),
    /// Finished.
    Clear,
}

/// Writes, from the outside in: IPv4, UDP (behind a NAT), room for the ESP header, IPv4 (tunnel mode), GRE; and makes
/// room for the ESP trailer. The packet's start moves once for all of them. `None` if there is no room.
fn push_headers<'a, P: Pool>(
    cx: &mut Context<'a, P>,
    peer: &'a Peer,
    tunnel: &Tunnel,
    packet: &mut P::Buffer,
) -> Option<Pushed<'a>> {
    let endpoints = peer.endpoints();
    let payload_type = EtherType(packet.meta().gre_protocol);
    let (tos, ttl) = outer_tos_and_ttl(tunnel, payload_type, packet.bytes());
    let (sa, mode, udp_ports, protocol) = match peer.path() {
        Path::Clear => (None, Mode::Transport, None, IpProtocol::GRE),
        Path::Esp { sa, mode } if endpoints.udp.is_some() => {
            (Some(sa), *mode, endpoints.udp, IpProtocol::UDP)
        }
        Path::Esp { sa, mode } => (Some(sa), *mode, None, IpProtocol::ESP),
    };

    let udp_len = if udp_ports.is_some() { udp::Header::LEN } else { 0 };
    let gre_len = gre::header_len(tunnel.key) + packet.len();
    let payload_len = gre_len + if mode == Mode::Transport { 0 } else { ipv4::Header::LEN };
    let (payload_offset, sealed_len) = match sa {
        Some(sa) => (sa.suite().payload_offset(), sa.suite().sealed_len(payload_len)),
        None => (0, payload_len),
    };
    let front = ipv4::Header::LEN + udp_len + payload_offset + payload_len - packet.len();
    packet.append(sealed_len - payload_offset - payload_len)?;
    let out = packet.prepend(front)?;

    let outer = ipv4::Fields {
        tos,
        identification: *cx.identification,
        dont_fragment: tunnel.dont_fragment,
        ttl,
        protocol,
        source: endpoints.local,
        destination: endpoints.remote,
    };
    *cx.identification = cx.identification.wrapping_add(1);
    let mut out = ipv4::Header::new(&outer, udp_len + sealed_len)?.emit(out)?;
    if let Some(ports) = udp_ports {
        out = udp::Header::new(ports.local, ports.remote, sealed_len)?.emit(out)?;
    }
    out = out.get_mut(payload_offset..)?;
    if let Mode::Tunnel { source, destination } = mode {
        let inner = ipv4::Fields { protocol: IpProtocol::GRE, source, destination, ..outer };
        out = ipv4::Header::new(&inner, gre_len)?.emit(out)?;
    }
    gre::emit(payload_type, tunnel.key, out)?;

    let meta = packet.meta_mut();
    meta.neighbor = peer.neighbor().0;
    meta.flags |= Meta::ENCAPSULATED;
    meta.esp_offset = u16::try_from(ipv4::Header::LEN + udp_len).ok()?;
    let Some(sa) = sa else { return Some(Pushed::Clear) };
    let next_header = if mode == Mode::Transport { IpProtocol::GRE } else { IpProtocol::IPV4 };
    Some(Pushed::Esp(Seal { sa, payload_len, next_header: next_header.0 }))
}

/// As configured, or as inside. Congestion notification is always as inside (RFC 6040 section 4.1).
fn outer_tos_and_ttl(tunnel: &Tunnel, protocol: EtherType, packet: &[u8]) -> (u8, u8) {
    let (tos, ttl) = match ipv4::Header::view(packet) {
        Ok((inner, _)) if protocol == EtherType::IPV4 && inner.destination().is_multicast() => {
            (inner.tos(), CONTROL_TTL)
        }
        Ok((inner, _)) if protocol == EtherType::IPV4 => (inner.tos(), inner.ttl()),
        _ => (CONTROL_TOS, CONTROL_TTL),
    };
    (tunnel.tos.map_or(tos, |fixed| fixed & !3 | tos & 3), tunnel.ttl.unwrap_or(ttl))
}

/// Moves a finished packet to `out`, which is sent first if it is full.
fn send<P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &mut Context<'_, P>,
    packet: P::Buffer,
    out: &mut Frame<P::Buffer>,
    ports: &mut Ports<L>,
) {
    if out.is_full() {
        egress::run(cx, out, ports);
    }
    out.push(packet);
}

impl<B: Buffer> Batch<'_, B> {
    /// Seals what is in it, moves that to `out`, and leaves it empty.
    fn seal<P: Pool<Buffer = B>, L: Link<Buffer = B>>(
        &mut self,
        cx: &mut Context<'_, P>,
        out: &mut Frame<B>,
        ports: &mut Ports<L>,
    ) {
        let results = self.run_esp();
        self.seals.clear();
        for (packet, result) in self.packets.drain(..).zip(results) {
            match result {
                Ok(()) => send(cx, packet, out, ports),
                Err(SealError::SequenceExhausted) => cx.count_drop(DropReason::SequenceExhausted),
                Err(SealError::Pending | SealError::Length) => cx.count_drop(DropReason::NoRoom),
            }
        }
    }

    /// Runs the batch through ESP, in place; what became of each packet.
    fn run_esp(&mut self) -> ArrayVec<Result<(), SealError>, FRAME_SIZE> {
        let mut jobs: ArrayVec<SealJob<'_>, FRAME_SIZE> = self
            .packets
            .iter_mut()
            .zip(&self.seals)
            .map(|(packet, seal)| {
                let offset = usize::from(packet.meta().esp_offset);
                let esp = packet.bytes_mut().get_mut(offset..).unwrap_or_default();
                SealJob::new(seal.sa, esp, seal.payload_len, seal.next_header)
            })
            .collect();
        esp::seal(&mut jobs);
        jobs.iter().map(SealJob::result).collect()
    }
}
