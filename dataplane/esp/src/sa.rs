//! Security associations as the workers see them.

use std::fmt;

use crate::kernel::{self, Kernel, OpenKeys, SealKeys};
use crate::keys::{IvSeed, KeyMaterial};
use crate::owned::Owned;
use crate::replay::{ReplayWindow, WindowSize};
use crate::suite::Suite;

/// What the packets of one kernel run have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) suite: Suite,
    pub(crate) kernel: Kernel,
}

/// The sending half of a pair of SAs: keys, sequence number, counters.
///
/// Shared by reference between the control side and the workers, but **only one worker may
/// [`seal`](crate::seal) with it**. The sequence number is stepped by a plain load and store: two
/// workers would send the same number twice, which the peer drops as a replay and which under AES-GCM
/// repeats an IV and so gives away the authentication key. To move an SA to another worker, let the
/// old one stop first. Everything but the sequence number, which lies in a cache line of its own, is
/// immutable.
pub struct OutboundSa {
    pub(crate) keys: SealKeys,
    pub(crate) iv_seed: IvSeed,
    spi: u32,
    kind: Kind,
    pub(crate) sent: Sent,
}

/// What the owner of an outbound SA writes.
#[repr(align(64))]
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
            keys: SealKeys::for_sealing(kernel, keys),
            iv_seed,
            spi,
            kind: Kind { suite: keys.suite(), kernel },
            sent: Sent { sequence: Owned::new(0), bytes: Owned::new(0) },
        }
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
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Asks for its cache lines but those of the keys ahead of use; to be followed by
    /// [`prefetch_keys`](Self::prefetch_keys) a little later. [`seal`](crate::seal) does both for a whole
    /// batch; a caller that meets the SA earlier gains by asking then.
    #[inline]
    pub fn prefetch(&self) {
        kernel::prefetch(&self.kind, 1);
        kernel::prefetch(&self.iv_seed, 1);
        kernel::prefetch(&self.sent, 1);
    }

    /// Asks for the cache lines of the keys that its suite has.
    #[inline]
    pub fn prefetch_keys(&self) {
        self.keys.prefetch(self.kind.suite);
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
/// workers could both accept the same packet. To move an SA to another worker, let the old one stop
/// first. Everything but window and counters, which lie in cache lines of their own, is immutable.
pub struct InboundSa {
    pub(crate) keys: OpenKeys,
    spi: u32,
    kind: Kind,
    pub(crate) window: ReplayWindow,
    pub(crate) received: Received,
}

/// What the owner of an inbound SA counts.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Received {
    pub(crate) packets: Owned,
    pub(crate) bytes: Owned,
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
            keys: OpenKeys::for_opening(kernel, keys),
            spi,
            kind: Kind { suite: keys.suite(), kernel },
            window: ReplayWindow::new(window),
            received: Received::default(),
        }
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
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Asks for its cache lines but those of the keys ahead of use; to be followed by
    /// [`prefetch_keys`](Self::prefetch_keys) a little later. [`open`](crate::open) does both for a whole
    /// batch; a caller that meets the SA earlier gains by asking then.
    #[inline]
    pub fn prefetch(&self) {
        kernel::prefetch(&self.kind, 1);
        kernel::prefetch(&self.window, 1);
        kernel::prefetch(&self.received, 1);
    }

    /// Asks for the cache lines of the keys that its suite has.
    #[inline]
    pub fn prefetch_keys(&self) {
        self.keys.prefetch(self.kind.suite);
    }

    /// Highest sequence number accepted; 0 before the first packet.
    pub fn sequence(&self) -> u32 {
        self.window.top()
    }

    /// What it has done so far.
    pub fn counters(&self) -> InboundCounters {
        let Received { packets, bytes, replayed, bad_icv, malformed } = &self.received;
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
