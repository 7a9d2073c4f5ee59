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

use dmvpn_tables::{PuntReason, Snapshot};

use crate::counters::{Counters, DropReason};
use crate::frame::{Buffer, Entry, Frame, Pool};
use crate::handoff::Handoff;
use crate::punt::Punter;

/// What all stages work with during one poll.
pub(crate) struct Context<'a, P: Pool> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) counters: &'a Counters,
    pub(crate) punter: &'a mut Punter<P::Buffer>,
    pub(crate) handoff: &'a mut Handoff<P::Buffer>,
    pub(crate) pool: &'a mut P,
    /// IPv4 identification of the next packet that this worker makes.
    pub(crate) identification: &'a mut u16,
    /// Microseconds.
    pub(crate) now: u64,
}

impl<P: Pool> Context<'_, P> {
    /// Counts a packet that goes no further. The packet itself is dropped by whoever calls this.
    pub(crate) fn count_drop(&self, reason: DropReason) {
        self.counters.count_drop(reason);
    }

    /// Gives a packet to the worker that owns its SA; it leaves with the others of the stage.
    pub(crate) fn hand_over(&mut self, owner: usize, entry: Entry, packet: P::Buffer) {
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
pub(crate) struct Frames<B> {
    /// Received, handed over or injected.
    pub(crate) taken_in: Frame<B>,
    pub(crate) decrypt: Frame<B>,
    pub(crate) forward: Frame<B>,
    pub(crate) replicate: Frame<B>,
    pub(crate) encrypt: Frame<B>,
    pub(crate) egress: Frame<B>,
}

impl<B: Buffer> Frames<B> {
    pub(crate) fn new() -> Self {
        Self {
            taken_in: Frame::new(),
            decrypt: Frame::new(),
            forward: Frame::new(),
            replicate: Frame::new(),
            encrypt: Frame::new(),
            egress: Frame::new(),
        }
    }
}
