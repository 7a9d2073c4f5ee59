//! Security associations as the workers see them.

use std::fmt;

use crate::kernel::{self, Kernel, OpenKeys, SealKeys};
use crate::keys::{IvSeed, KeyMaterial};
use crate::kind::Kind;
use crate::owned::Owned;
use crate::replay::{ReplayWindow, WindowSize};
use crate::suite::Suite;

/// The sending half of a pair of SAs: keys, sequence number, counters.
///
/// Shared by reference between the control side and the workers, but **only one worker may
/// [`seal`](crate::seal) with it**. The sequence number is stepped by a plain load and store: two
/// workers would send the same number twice, which the peer drops as a replay and which under AES-GCM
/// repeats an IV and so gives away the authentication key. Which worker that is is said when the SA is
/// made, and never after: [`owned_by`](Self::owned_by).
/// Everything but the sequence number and a count is immutable.
///
/// All that a packet needs but the keys lies in the first cache line, since with many SAs each line that a packet needs is
/// waited for. Readers of counters are rare enough for its owner not to notice.
#[repr(C, align(64))]
pub struct OutboundSa {
    kind: &'static Kind,
    spi: u32,
    pub(crate) iv_seed: IvSeed,
    pub(crate) sent: Sent,
    pub(crate) keys: SealKeys,
    owner: u16,
}

/// What the owner of an outbound SA writes.
pub(crate) struct Sent {
    /// Number of the last packet.
    sequence: Owned,
    bytes: Owned,
}

/// Counts of an outbound SA.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutboundCounters {
    /// Packets sealed.
    pub packets: u64,
    /// Bytes of payload in them.
    pub bytes: u64,
}

impl OutboundSa {
    /// Expands the keys. `spi` is the peer's choice; `iv_seed` must be fresh random bytes.
    pub fn new(spi: u32, keys: &KeyMaterial, iv_seed: IvSeed) -> Self {
        Self::for_kernel(Kernel::best(), spi, keys, iv_seed)
    }

    /// The same for a certain kernel, to measure and compare them.
    pub fn for_kernel(kernel: Kernel, spi: u32, keys: &KeyMaterial, iv_seed: IvSeed) -> Self {
        Self {
            kind: Kind::of(keys.suite(), kernel),
            spi,
            iv_seed,
            sent: Sent { sequence: Owned::new(0), bytes: Owned::new(0) },
            keys: SealKeys::for_sealing(kernel, keys),
            owner: 0,
        }
    }

    /// Gives a new SA to a worker, by its number; it begins with worker 0.
    #[must_use]
    pub fn owned_by(self, owner: u16) -> Self {
        Self { owner, ..self }
    }

    /// The one worker that may seal with it. Not to be read for each packet: it lies by itself.
    pub fn owner(&self) -> u16 {
        self.owner
    }

    /// Security parameters index, as it stands in every packet.
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// Its cipher suite.
    pub fn suite(&self) -> Suite {
        self.kind.suite
    }

    #[inline]
    pub(crate) fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// Asks for its first cache line ahead of use; to be followed by [`prefetch_keys`](Self::prefetch_keys)
    /// a little later. [`seal`](crate::seal) does both for a whole batch; a caller that meets the SA
    /// earlier gains by asking then.
    #[inline]
    pub fn prefetch(&self) {
        kernel::prefetch(&self.kind, 1);
    }

    /// Asks for the cache lines of the keys that every packet of its suite needs.
    #[inline]
    pub fn prefetch_keys(&self) {
        self.prefetch_keys_for(0);
    }

    /// Asks for the cache lines of the keys that a packet of so many bytes needs.
    #[inline]
    pub(crate) fn prefetch_keys_for(&self, packet_len: usize) {
        self.keys.prefetch(self.kind.suite, packet_len);
    }

    /// Number of the last packet sealed; 0 before the first. At `u32::MAX` the SA refuses to send
    /// (RFC 4303 section 3.3.3): rekey well before.
    pub fn sequence(&self) -> u32 {
        self.sent.sequence()
    }

    /// What it has done so far.
    pub fn counters(&self) -> OutboundCounters {
        OutboundCounters { packets: self.sequence().into(), bytes: self.sent.bytes.load() }
    }
}

impl Sent {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "only 32-bit numbers are stored")]
    fn sequence(&self) -> u32 {
        self.sequence.load() as u32
    }

    /// Takes the number for one more packet of `bytes` bytes of payload; `None` when all are used
    /// (RFC 4303 section 3.3.3: without extended numbers it must not cycle).
    #[inline]
    pub(crate) fn take(&self, bytes: usize) -> Option<u32> {
        let sequence = self.sequence().checked_add(1)?;
        self.sequence.store(sequence.into());
        self.bytes.add(bytes as u64);
        Some(sequence)
    }

    #[cfg(test)]
    pub(crate) fn set_sequence(&self, sequence: u32) {
        self.sequence.store(sequence.into());
    }
}

/// Shows which SA it is; never a key.
impl fmt::Debug for OutboundSa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OutboundSa({:#010x}, {})", self.spi, self.kind.suite)
    }
}

/// The receiving half of a pair of SAs: keys, replay window, counters.
///
/// Shared by reference between the control side and the workers, but **only one worker may
/// [`open`](crate::open) with it**: the replay window is updated by plain loads and stores, and two
/// workers could both accept the same packet. Which worker that is is said when the SA is made, and never
/// after: [`owned_by`](Self::owned_by).
/// Everything but window and counters is immutable.
///
/// All that a good packet needs but the keys lies in the first cache line.
#[repr(C, align(64))]
pub struct InboundSa {
    kind: &'static Kind,
    spi: u32,
    pub(crate) window: ReplayWindow,
    pub(crate) opened: PacketsOpened,
    pub(crate) keys: OpenKeys,
    pub(crate) refused: PacketsRefused,
    owner: u16,
}

/// What the owner of an inbound SA counts for good packets.
#[derive(Default)]
pub(crate) struct PacketsOpened {
    pub(crate) packets: Owned,
    pub(crate) bytes: Owned,
}

/// What the owner of an inbound SA counts for all others.
#[derive(Default)]
pub(crate) struct PacketsRefused {
    pub(crate) replayed: Owned,
    pub(crate) bad_icv: Owned,
    pub(crate) malformed: Owned,
}

/// Counts of an inbound SA. Each packet given to [`open`](crate::open) is in exactly one of
/// `packets`, `replayed`, `bad_icv` and `malformed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InboundCounters {
    /// Packets opened, dummies included.
    pub packets: u64,
    /// Bytes of payload in them.
    pub bytes: u64,
    /// Seen before, left of the window, or numbered 0.
    pub replayed: u64,
    /// Not made by the peer, or damaged on the way.
    pub bad_icv: u64,
    /// Of an impossible length, or proved but wrongly padded.
    pub malformed: u64,
}

impl InboundSa {
    /// Expands the keys. `spi` is our choice.
    pub fn new(spi: u32, keys: &KeyMaterial, window: WindowSize) -> Self {
        Self::for_kernel(Kernel::best(), spi, keys, window)
    }

    /// The same for a certain kernel, to measure and compare them.
    pub fn for_kernel(kernel: Kernel, spi: u32, keys: &KeyMaterial, window: WindowSize) -> Self {
        Self {
            kind: Kind::of(keys.suite(), kernel),
            spi,
            window: ReplayWindow::new(window),
            opened: PacketsOpened::default(),
            keys: OpenKeys::for_opening(kernel, keys),
            refused: PacketsRefused::default(),
            owner: 0,
        }
    }

    /// Gives a new SA to a worker, by its number; it begins with worker 0.
    #[must_use]
    pub fn owned_by(self, owner: u16) -> Self {
        Self { owner, ..self }
    }

    /// The one worker that may open with it. Not to be read for each packet: it lies by itself.
    pub fn owner(&self) -> u16 {
        self.owner
    }

    /// Security parameters index, as it stands in every packet.
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// Its cipher suite.
    pub fn suite(&self) -> Suite {
        self.kind.suite
    }

    #[inline]
    pub(crate) fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// Asks for all that every packet needs of it, ahead of use. `suite` is its own: whoever refers to many SAs has that
    /// beside the reference, where reading it is not to wait for the SA.
    #[inline]
    pub fn prefetch_all(&self, suite: Suite) {
        self.prefetch();
        self.keys.prefetch(suite, 0);
    }

    /// Asks for its first cache line.
    #[inline]
    pub(crate) fn prefetch(&self) {
        kernel::prefetch(&self.kind, 1);
    }

    /// Asks for the cache lines of the keys that a packet of so many bytes needs.
    #[inline]
    pub(crate) fn prefetch_keys_for(&self, packet_len: usize) {
        self.keys.prefetch(self.kind.suite, packet_len);
    }

    /// Highest sequence number accepted; 0 before the first packet.
    pub fn sequence(&self) -> u32 {
        self.window.top()
    }

    /// What it has done so far.
    pub fn counters(&self) -> InboundCounters {
        let PacketsOpened { packets, bytes } = &self.opened;
        let PacketsRefused { replayed, bad_icv, malformed } = &self.refused;
        InboundCounters {
            packets: packets.load(),
            bytes: bytes.load(),
            replayed: replayed.load(),
            bad_icv: bad_icv.load(),
            malformed: malformed.load(),
        }
    }
}

/// Shows which SA it is; never a key.
impl fmt::Debug for InboundSa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InboundSa({:#010x}, {})", self.spi, self.kind.suite)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn what_is_not_a_key_lies_in_one_cache_line() {
        assert_eq!((offset_of!(OutboundSa, keys), align_of::<OutboundSa>()), (64, 64));
        assert_eq!((offset_of!(InboundSa, keys), align_of::<InboundSa>()), (64, 64));
    }
}
