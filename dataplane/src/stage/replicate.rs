//! Replication: one packet becomes one for each peer of a tunnel.

use arrayvec::ArrayVec;
use dmvpn_tables::PeerId;

use crate::counters::DropReason;
use crate::frame::{Buffer, Pool};
use crate::stage::{Context, Frames};

/// Packets that may wait to be replicated.
const WAITING: usize = 16;

/// Packets under way to all peers of their tunnel. A hub may have thousands of peers, so each poll makes only as many
/// copies as its batch has room for.
///
/// What is kept between polls is a position in the tunnel's list. If the list changes meanwhile, a peer may be left out
/// or get a packet twice, as may happen to any multicast packet.
pub(crate) struct Replicator<B> {
    waiting: ArrayVec<Replication<B>, WAITING>,
}

struct Replication<B> {
    packet: B,
    next: usize,
}

impl<B: Buffer> Replicator<B> {
    pub(crate) fn new() -> Self {
        Self { waiting: ArrayVec::new() }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the packets of the batch that are for all peers, and makes a batch of copies for the encrypt stage.
    pub(crate) fn run<P: Pool<Buffer = B>>(&mut self, cx: &mut Context<'_, P>, frames: &mut Frames<'_, B>) {
        for packet in frames.replicate.drain(..) {
            if self.waiting.try_push(Replication { packet, next: 0 }).is_err() {
                cx.count_drop(DropReason::ReplicationFull);
            }
        }
        while !frames.to_peer.is_full()
            && let Some(replication) = self.waiting.first_mut()
        {
            let tunnel = usize::from(replication.packet.meta().tunnel);
            let peers =
                cx.snapshot.tunnels.get(tunnel).map_or::<&[PeerId], _>(&[], |tunnel| &tunnel.multicast);
            let Some((peer, others)) = peers.get(replication.next..).and_then(<[PeerId]>::split_first) else {
                // The list is empty, or shorter than it was.
                self.waiting.remove(0);
                cx.count_drop(DropReason::NoPeer);
                continue;
            };
            replication.next += 1;
            let copy = if others.is_empty() {
                Some(self.waiting.remove(0).packet)
            } else {
                let meta = *replication.packet.meta();
                cx.copy(replication.packet.bytes()).map(|mut copy| {
                    *copy.meta_mut() = meta;
                    copy
                })
            };
            match copy {
                Some(mut copy) => {
                    copy.meta_mut().to_peer = peer.0;
                    frames.to_peer.push(copy);
                }
                None => {
                    cx.count_drop(DropReason::NoBuffer);
                    // Nor will there be one for the next peer; but there are more polls than this.
                    break;
                }
            }
        }
    }
}
