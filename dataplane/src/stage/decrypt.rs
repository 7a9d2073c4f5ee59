//! Decrypt: from ESP to what the peer sent.

use std::net::SocketAddrV4;

use arrayvec::ArrayVec;
use dmvpn_esp::{self as esp, OpenError, OpenJob, Opened, prefetch};
use dmvpn_tables::{Inbound, Mode, PuntReason, Snapshot, WorkerId};
use dmvpn_wire::{IpProtocol, View, esp::Header as EspHeader, ipv4, udp};

use crate::counters::DropReason;
use crate::frame::{Buffer, Entry, FRAME_SIZE, Frame, Meta, Pool};
use crate::stage::gre::{self, Next};
use crate::stage::{Context, Frames};

/// What becomes of an ESP packet before it is opened. After that it is [`Next`] as for GRE in the clear:
/// `Forward`, `Nhrp` or `Drop`.
enum Found<'a> {
    /// Opened here.
    Sa(&'a Inbound),
    /// Handed over to the worker that owns the SA.
    Elsewhere(WorkerId),
    /// Nothing.
    Drop(DropReason),
}

/// Opens all packets of the batch that this worker owns the SAs of, and hands over the others.
pub(crate) fn run<P: Pool>(cx: &mut Context<'_, P>, frames: &mut Frames<'_, P::Buffer>) {
    let entries = find_entries(cx.snapshot, cx.handoff.worker(), &frames.decrypt);
    let mut batch = Frame::new();
    let mut sas = ArrayVec::<&Inbound, FRAME_SIZE>::new();
    for (packet, entry) in frames.decrypt.drain(..).zip(&entries) {
        match find(cx, *entry, &packet) {
            Found::Sa(inbound) => {
                batch.push(packet);
                sas.push(inbound);
            }
            Found::Elsewhere(owner) => cx.hand_over(owner, Entry::Decrypt, packet),
            Found::Drop(reason) => cx.count_drop(reason),
        }
    }
    // The others can begin with theirs.
    cx.handoff.send(cx.counters);

    let opened = open(&mut batch, &sas);
    for ((mut packet, inbound), opened) in batch.drain(..).zip(&sas).zip(&opened) {
        let next = match opened {
            Ok(opened) => finish(cx, inbound, opened, &mut packet),
            Err(error) => Next::Drop(drop_reason(*error)),
        };
        match next {
            Next::Forward => frames.forward.push(packet),
            Next::Nhrp => gre::punt_nhrp(cx, packet),
            Next::Drop(reason) => cx.count_drop(reason),
        }
    }
}

/// What is in the slots of a batch's SPIs. SAs lie scattered in memory: what a step reads is asked for from all of them
/// before it is read from the first; of the SAs, those of `worker`, since looking at what another core writes costs that
/// core a wait, too.
fn find_entries<'a, B: Buffer>(
    snapshot: &'a Snapshot,
    worker: WorkerId,
    packets: &[B],
) -> ArrayVec<Option<&'a Inbound>, FRAME_SIZE> {
    let mut slots = ArrayVec::<_, FRAME_SIZE>::new();
    for packet in packets {
        let slot = snapshot.inbound_slot(packet.meta().spi);
        if let Some(slot) = slot {
            prefetch(slot, 1);
        }
        slots.push(slot);
    }
    let mut entries = ArrayVec::<Option<&Inbound>, FRAME_SIZE>::new();
    for slot in &slots {
        let entry = slot.and_then(Option::as_ref);
        if let Some(entry) = entry.filter(|entry| entry.owner() == worker) {
            entry.prefetch();
        }
        entries.push(entry);
    }
    entries
}

#[inline(always)]
fn find<'a, P: Pool>(cx: &mut Context<'a, P>, entry: Option<&'a Inbound>, packet: &P::Buffer) -> Found<'a> {
    let meta = packet.meta();
    // What was in the slot before has another SPI.
    let Some(inbound) = entry.filter(|entry| entry.spi() == meta.spi) else {
        report_unknown(cx, packet);
        return Found::Drop(DropReason::UnknownSpi);
    };
    // The SA was negotiated for one encapsulation. A NAT in between would have broken the other one.
    if inbound.udp.is_some() != meta.has(Meta::IN_UDP) {
        return Found::Drop(DropReason::EspEncapsulation);
    }
    match inbound.owner() {
        owner if owner == cx.handoff.worker() => Found::Sa(inbound),
        owner => Found::Elsewhere(owner),
    }
}

/// Tells the control thread of an SPI that is none of ours.
#[cold]
fn report_unknown<P: Pool>(cx: &mut Context<'_, P>, packet: &P::Buffer) {
    let (bytes, spi) = (packet.bytes(), packet.meta().spi);
    let Ok((header, _)) = ipv4::Header::view(bytes) else { return };
    let head = &bytes[..bytes.len().min(header.header_len() + EspHeader::LEN)];
    cx.report(PuntReason::UnknownSpi { spi }, header.source().to_bits(), head);
}

/// Runs a batch through ESP, in place; what became of each packet.
fn open<B: Buffer>(
    batch: &mut Frame<B>,
    sas: &[&Inbound],
) -> ArrayVec<Result<Opened, OpenError>, FRAME_SIZE> {
    let mut jobs = ArrayVec::<OpenJob<'_>, FRAME_SIZE>::new();
    for (packet, inbound) in batch.iter_mut().zip(sas) {
        let offset = usize::from(packet.meta().esp_offset);
        jobs.push(OpenJob::new(&inbound.sa, packet.bytes_mut().get_mut(offset..).unwrap_or_default()));
    }
    esp::open(&mut jobs);
    jobs.iter().map(OpenJob::result).collect()
}

fn drop_reason(error: OpenError) -> DropReason {
    match error {
        OpenError::Pending | OpenError::Length => DropReason::EspLength,
        OpenError::Replayed => DropReason::EspReplay,
        OpenError::BadIcv => DropReason::EspAuthentication,
        OpenError::BadPadding => DropReason::EspPadding,
    }
}

/// What to do with a packet that has proved itself.
#[inline(always)]
fn finish<P: Pool>(
    cx: &mut Context<'_, P>,
    inbound: &Inbound,
    opened: &Opened,
    packet: &mut P::Buffer,
) -> Next {
    if opened.is_dummy() {
        return Next::Drop(DropReason::EspDummy);
    }
    if inbound.remote.to_bits() != packet.meta().outer_source || inbound.udp.is_some() {
        report_move(cx, inbound, packet);
    }
    let start = usize::from(packet.meta().esp_offset) + opened.offset;
    let mut content = start..start + opened.len;
    match inbound.mode {
        Mode::Transport if opened.next_header == IpProtocol::GRE.0 => {}
        Mode::Tunnel { source, destination } if opened.next_header == IpProtocol::IPV4.0 => {
            let Some(Ok(ip)) = packet.bytes().get(content.clone()).map(ipv4::Packet::parse) else {
                return Next::Drop(DropReason::EspInnerHeader);
            };
            let header = ip.header;
            // What the SA was negotiated for is the only thing that may be in it (RFC 4301 section 5.2, step 4).
            let negotiated = header.source() == source
                && header.destination() == destination
                && header.protocol() == IpProtocol::GRE
                && !header.is_fragment();
            if !negotiated {
                return Next::Drop(DropReason::EspInnerHeader);
            }
            // More may follow, to hide the length (RFC 4303 section 2.7).
            content = start + header.header_len()..start + usize::from(header.total_length());
            let Some(ecn) = gre::ecn_inside(header.ecn(), packet.meta().outer_ecn) else {
                return Next::Drop(DropReason::EcnCongestion);
            };
            packet.meta_mut().outer_ecn = ecn;
        }
        _ => return Next::Drop(DropReason::EspNextHeader),
    }
    match cx.snapshot.tunnels.get(usize::from(inbound.tunnel.0)) {
        Some(tunnel) => gre::pop(cx.own, tunnel, Some(inbound.peer), packet, content),
        None => Next::Drop(DropReason::NoTunnel),
    }
}

/// Tells the control thread if the peer's address or port is another than the SA knows. Only the newest packet counts:
/// one that somebody held back and sends from elsewhere must not move the peer back.
#[inline(never)]
fn report_move<P: Pool>(cx: &mut Context<'_, P>, inbound: &Inbound, packet: &P::Buffer) {
    let offset = usize::from(packet.meta().esp_offset);
    let Ok((esp, _)) = EspHeader::view(packet.bytes().get(offset..).unwrap_or_default()) else { return };
    let source = packet.meta().outer_source.into();
    let port = inbound.udp.map(|expected| {
        let udp = offset.checked_sub(udp::Header::LEN).and_then(|start| packet.bytes().get(start..));
        let seen = udp.and_then(|bytes| udp::Header::view(bytes).ok()).map(|(udp, _)| udp.source_port());
        (seen.unwrap_or(expected.remote), expected.remote)
    });
    let moved = inbound.remote != source || port.is_some_and(|(seen, expected)| seen != expected);
    if moved && esp.sequence() == inbound.sa.sequence() {
        let to = SocketAddrV4::new(source, port.map_or(0, |(seen, _)| seen));
        cx.report(PuntReason::PeerMoved { peer: inbound.peer, to }, inbound.peer.0, &[]);
    }
}
