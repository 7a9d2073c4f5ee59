//! Encrypt: into the tunnel. GRE, ESP and the outer headers go around a packet.

use arrayvec::ArrayVec;
use dmvpn_esp::{self as esp, OutboundSa, SealError, SealJob};
use dmvpn_tables::{Encapsulation, Neighbor, Path, Peer, PeerId, PuntReason, Snapshot, Variable, WorkerId};
use dmvpn_wire::{EtherType, View, eth, ipv4};

use crate::counters::DropReason;
use crate::frame::{Buffer, Entry, FRAME_SIZE, Frame, HEADROOM, Meta, Pool};
use crate::link::Link;
use crate::ports::Ports;
use crate::stage::fragment::fragment;
use crate::stage::{Context, ForNeighbor, ForPeer, Frames, egress, find_peers};

/// What becomes of a packet for a peer.
enum Next<'a> {
    /// Its headers go around it, and it is sealed if the path says so.
    Encapsulate(&'a Peer),
    /// The same, but it has to be cut first.
    Fragment(&'a Peer),
    /// Handed over to the worker that owns the SA.
    Elsewhere(WorkerId),
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

const _: () = assert!(Encapsulation::ROOM + eth::Header::LEN <= HEADROOM);

/// Packets with all headers around them, and what they are to be sealed with.
struct Batch<'a, B> {
    packets: Frame<B>,
    seals: ArrayVec<Seal<'a>, FRAME_SIZE>,
}

/// Parameters of a [`SealJob`], and where the packet goes afterwards.
struct Seal<'a> {
    sa: &'a OutboundSa,
    payload_len: usize,
    next_header: u8,
    neighbor: &'a Option<Neighbor>,
}

/// Encapsulates and seals all packets of the batch that this worker owns the SAs of, and hands over the others. Because
/// of fragments there may be more than came in: whenever there is a full batch, it is sent.
pub(crate) fn run<'a, P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &mut Context<'a, P>,
    frames: &mut Frames<'a, P::Buffer>,
    ports: &mut Ports<L>,
) {
    if !frames.to_peer.is_empty() {
        find(cx.snapshot, cx.handoff.worker(), frames);
    }
    let mut batch = Batch { packets: Frame::new(), seals: ArrayVec::new() };
    for ForPeer { packet, peer } in frames.encrypt.drain(..) {
        match classify(cx, peer, &packet) {
            Next::Encapsulate(peer) => {
                encapsulate(cx, peer, packet, &mut batch, &mut frames.egress, ports);
            }
            Next::Fragment(peer) => cut(cx, peer, packet, &mut batch, &mut frames.egress, ports),
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

/// Finds the peers of packets that do not come from the forward stage.
fn find<'a, B: Buffer>(snapshot: &'a Snapshot, worker: WorkerId, frames: &mut Frames<'a, B>) {
    let ids = frames.to_peer.iter().map(|packet| PeerId(packet.meta().to_peer));
    let peers = find_peers(snapshot, worker, ids);
    for (packet, peer) in frames.to_peer.drain(..).zip(peers) {
        packet.prefetch_headroom();
        frames.encrypt.push(ForPeer { packet, peer });
    }
}

#[inline(always)]
fn classify<'a, P: Pool>(cx: &Context<'a, P>, peer: Option<&'a Peer>, packet: &P::Buffer) -> Next<'a> {
    let Some(peer) = peer else { return Next::Drop(DropReason::NoPeer) };
    let Some(tunnel) = cx.snapshot.tunnels.get(usize::from(peer.tunnel().0)) else {
        return Next::Drop(DropReason::NoTunnel);
    };
    if peer.endpoints().local.is_unspecified() {
        return Next::Drop(DropReason::NoTunnel);
    }
    match peer.path() {
        Path::Esp { .. } => {
            if let Some(owner) = peer.owner().filter(|owner| *owner != cx.handoff.worker()) {
                return Next::Elsewhere(owner);
            }
        }
        // A peer of a protected tunnel is never made with a clear path. This is for one made before the tunnel became
        // protected.
        Path::Clear if tunnel.protected => return Next::Drop(DropReason::ClearPathOnProtected),
        Path::Clear => {}
    }
    let mtu = peer.encapsulation().mtu();
    if packet.len() <= usize::from(mtu) || packet.meta().gre_protocol != EtherType::IPV4.0 {
        return Next::Encapsulate(peer);
    }
    match ipv4::Header::view(packet.bytes()) {
        Ok((header, _)) if header.dont_fragment() => Next::Punt(PuntReason::FragmentationNeeded { mtu }),
        Ok(_) => Next::Fragment(peer),
        Err(_) => Next::Drop(DropReason::Ipv4Header),
    }
}

/// Puts all headers around `packet`. What is to be sealed joins the batch; a clear packet of a tunnel without IPsec goes to
/// `out`. Whichever is full is sent first.
#[inline(always)]
fn encapsulate<'a, P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &mut Context<'a, P>,
    peer: &'a Peer,
    mut packet: P::Buffer,
    batch: &mut Batch<'a, P::Buffer>,
    out: &mut Frame<ForNeighbor<'a, P::Buffer>>,
    ports: &mut Ports<L>,
) {
    let Some(payload_len) = push_headers(cx, peer, &mut packet) else {
        return cx.count_drop(DropReason::NoRoom);
    };
    let neighbor = cx.neighbor(peer.neighbor());
    match peer.path() {
        Path::Esp { sa, .. } => {
            if batch.packets.is_full() {
                batch.seal(cx, out, ports);
            }
            // They arrive while headers go around the next packets.
            sa.prefetch_keys();
            batch.packets.push(packet);
            let next_header = peer.encapsulation().next_header().0;
            batch.seals.push(Seal { sa, payload_len, next_header, neighbor });
        }
        Path::Clear => send(cx, ForNeighbor { packet, neighbor }, out, ports),
    }
}

/// Encapsulates the pieces of `packet`.
#[cold]
fn cut<'a, P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &mut Context<'a, P>,
    peer: &'a Peer,
    packet: P::Buffer,
    batch: &mut Batch<'a, P::Buffer>,
    out: &mut Frame<ForNeighbor<'a, P::Buffer>>,
    ports: &mut Ports<L>,
) {
    let mut fragments = Frame::new();
    if let Some(reason) = fragment(cx.pool, packet, peer.encapsulation().mtu(), &mut fragments) {
        return cx.count_drop(reason);
    }
    for piece in fragments {
        encapsulate(cx, peer, piece, batch, out, ports);
    }
}

/// Writes all headers in front of the packet, makes room for the ESP trailer behind, and says how long what ESP protects
/// is. `None` if there is no room.
#[inline(always)]
fn push_headers<P: Pool>(cx: &mut Context<'_, P>, peer: &Peer, packet: &mut P::Buffer) -> Option<usize> {
    let around = peer.encapsulation();
    let extent = around.extent(packet.len())?;
    let variable = variable(EtherType(packet.meta().gre_protocol), packet.bytes(), *cx.identification);
    *cx.identification = cx.identification.wrapping_add(1);
    let room = packet.grow::<{ Encapsulation::ROOM }>(extent.front, extent.back)?;
    around.write(room, &extent, &variable)?;

    let meta = packet.meta_mut();
    meta.neighbor = peer.neighbor().0;
    meta.flags |= Meta::ENCAPSULATED;
    meta.esp_offset = around.esp_offset();
    Some(extent.payload)
}

/// What the outer header takes from inside.
#[inline]
fn variable(protocol: EtherType, packet: &[u8], identification: u16) -> Variable {
    let (tos, ttl) = match ipv4::Header::view(packet) {
        Ok((inner, _)) if protocol == EtherType::IPV4 && inner.destination().is_multicast() => {
            (inner.tos(), CONTROL_TTL)
        }
        Ok((inner, _)) if protocol == EtherType::IPV4 => (inner.tos(), inner.ttl()),
        _ => (CONTROL_TOS, CONTROL_TTL),
    };
    Variable { protocol, tos, ttl, identification }
}

/// Moves a finished packet to `out`, which is sent first if it is full.
#[inline]
fn send<'a, P: Pool, L: Link<Buffer = P::Buffer>>(
    cx: &mut Context<'a, P>,
    packet: ForNeighbor<'a, P::Buffer>,
    out: &mut Frame<ForNeighbor<'a, P::Buffer>>,
    ports: &mut Ports<L>,
) {
    if out.is_full() {
        egress::run(cx, out, ports);
    }
    out.push(packet);
}

impl<'a, B: Buffer> Batch<'a, B> {
    /// Seals what is in it, moves that to `out`, and leaves it empty.
    fn seal<P: Pool<Buffer = B>, L: Link<Buffer = B>>(
        &mut self,
        cx: &mut Context<'a, P>,
        out: &mut Frame<ForNeighbor<'a, B>>,
        ports: &mut Ports<L>,
    ) {
        let results = self.run_esp();
        for ((packet, seal), result) in self.packets.drain(..).zip(self.seals.drain(..)).zip(&results) {
            match *result {
                Ok(()) => send(cx, ForNeighbor { packet, neighbor: seal.neighbor }, out, ports),
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
