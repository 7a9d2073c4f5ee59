//! The five stages of the path. Each takes a batch, and its file begins with what can become of a packet in it.

pub(crate) mod check;
pub(crate) mod decrypt;
pub(crate) mod egress;
pub(crate) mod encrypt;
pub(crate) mod forward;
pub(crate) mod fragment;
pub(crate) mod gre;
pub(crate) mod ingress;
pub(crate) mod replicate;

use arrayvec::ArrayVec;
use dmvpn_esp::prefetch;
use dmvpn_tables::{Neighbor, NeighborId, Path, Peer, PeerId, PuntReason, Snapshot, WorkerId};

use crate::counters::{Counters, DropReason};
use crate::frame::{Buffer, Entry, FRAME_SIZE, Frame, Pool};
use crate::handoff::Handoff;
use crate::punt::Punter;
use crate::stage::check::OwnAddresses;

/// What all stages work with during one poll.
pub(crate) struct Context<'a, P: Pool> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) own: OwnAddresses<'a>,
    pub(crate) counters: &'a Counters,
    pub(crate) punter: &'a mut Punter<P::Buffer>,
    pub(crate) handoff: &'a mut Handoff<P::Buffer>,
    pub(crate) pool: &'a mut P,
    /// IPv4 identification of the next packet that this worker makes.
    pub(crate) identification: &'a mut u16,
    /// Microseconds.
    pub(crate) now: u64,
}

impl<'a, P: Pool> Context<'a, P> {
    /// The slot of a neighbor; its cache line is asked for.
    #[inline]
    pub(crate) fn neighbor(&self, id: NeighborId) -> &'a Option<Neighbor> {
        let slot = self.snapshot.neighbors.get(id.0 as usize).unwrap_or(&None);
        prefetch(slot, 1);
        slot
    }

    /// Counts a packet that goes no further. The packet itself is dropped by whoever calls this.
    pub(crate) fn count_drop(&self, reason: DropReason) {
        self.counters.count_drop(reason);
    }

    /// Gives a packet to the worker that owns its SA; it leaves with the others of the stage.
    pub(crate) fn hand_over(&mut self, owner: WorkerId, entry: Entry, packet: P::Buffer) {
        self.handoff.give(owner, entry, packet, self.counters);
    }

    /// Hands a packet to the control thread, or drops it for `otherwise` if there were many about the same `key`.
    pub(crate) fn punt_limited(
        &mut self,
        reason: PuntReason,
        key: u32,
        packet: P::Buffer,
        otherwise: DropReason,
    ) {
        if self.punter.admits(&reason, key, self.now) {
            self.punter.punt(reason, packet);
        } else {
            self.count_drop(otherwise);
        }
    }

    /// Tells the control thread of a packet that goes its own way, with a copy of its first bytes; not if there were
    /// many about the same `key`.
    pub(crate) fn report(&mut self, reason: PuntReason, key: u32, head: &[u8]) {
        if !self.punter.admits(&reason, key, self.now) {
            return;
        }
        match self.copy(head) {
            Some(copy) => self.punter.punt(reason, copy),
            None => self.count_drop(DropReason::NoBuffer),
        }
    }

    /// A buffer with these bytes.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Option<P::Buffer> {
        let mut copy = self.pool.alloc()?;
        copy.append(bytes.len())?.copy_from_slice(bytes);
        Some(copy)
    }
}

/// The batches between the stages. All begin a poll empty, and one poll takes in one frame, so none of them
/// overflows: a stage puts out no more packets than it takes, but for copies, which are kept within the room there is.
pub(crate) struct Frames<'a, B> {
    /// Received, handed over or injected.
    pub(crate) taken_in: Frame<B>,
    pub(crate) decrypt: Frame<B>,
    pub(crate) forward: Frame<B>,
    pub(crate) replicate: Frame<B>,
    /// Handed over, injected or copied, for the peer in the meta data.
    pub(crate) to_peer: Frame<B>,
    pub(crate) encrypt: Frame<ForPeer<'a, B>>,
    pub(crate) egress: Frame<ForNeighbor<'a, B>>,
}

/// A packet, and the peer that it goes to, if that is still there.
pub(crate) struct ForPeer<'a, B> {
    pub(crate) packet: B,
    pub(crate) peer: Option<&'a Peer>,
}

/// A finished packet, and the slot of the neighbor that it goes to; that of none if it has its Ethernet header already.
pub(crate) struct ForNeighbor<'a, B> {
    pub(crate) packet: B,
    pub(crate) neighbor: &'a Option<Neighbor>,
}

impl<B: Buffer> Frames<'_, B> {
    pub(crate) fn new() -> Self {
        Self {
            taken_in: Frame::new(),
            decrypt: Frame::new(),
            forward: Frame::new(),
            replicate: Frame::new(),
            to_peer: Frame::new(),
            encrypt: Frame::new(),
            egress: Frame::new(),
        }
    }

    /// How many packets there are for the encrypt stage.
    pub(crate) fn for_peers(&self) -> usize {
        self.to_peer.len() + self.encrypt.len()
    }
}

/// The peers of a batch. They lie scattered in memory: what a step reads is asked for from all of them before it is read
/// from the first, and so are the SAs of `worker`. (Those of others it leaves alone: to look at what another core writes
/// costs that core a wait, too.)
pub(crate) fn find_peers(
    snapshot: &Snapshot,
    worker: WorkerId,
    ids: impl Iterator<Item = PeerId>,
) -> ArrayVec<Option<&Peer>, FRAME_SIZE> {
    let mut slots = ArrayVec::<_, FRAME_SIZE>::new();
    for id in ids {
        let slot = snapshot.peers.get(id.index()).unwrap_or(&None);
        prefetch(slot, size_of::<Peer>());
        slots.push((id, slot));
    }
    let mut peers = ArrayVec::new();
    for &(id, slot) in &slots {
        let peer = slot.as_ref().filter(|peer| peer.id() == id);
        if let Some(peer) = peer
            && peer.owner() == Some(worker)
            && let Path::Esp { sa, .. } = peer.path()
        {
            sa.prefetch();
        }
        peers.push(peer);
    }
    peers
}
