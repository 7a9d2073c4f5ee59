//! Opening: from ESP packet to payload (RFC 4303 section 3.4).

use arrayvec::ArrayVec;

use crate::burst::{AHEAD, BURST, Members};
use crate::kernel::{self, CbcDecryptLane, MacLane};
use crate::kind::Kind;
use crate::sa::InboundSa;
use crate::suite::Algorithms;
use crate::trailer::{PADDING, TRAILER_ROOM, with_trailer};
use crate::{DUMMY, HEADER_LEN};

/// One packet to open.
pub struct OpenJob<'a> {
    sa: &'a InboundSa,
    packet: &'a mut [u8],
    sequence: u32,
    result: Result<Opened, OpenError>,
}

/// Where the payload lies in an opened packet, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Where it begins, from the ESP header.
    pub offset: usize,
    /// Its length, without padding.
    pub len: usize,
    /// Its protocol number. [`DUMMY`] is to be dropped silently.
    pub next_header: u8,
}

impl Opened {
    /// Whether this was a dummy packet (RFC 4303 section 2.6), to be dropped silently.
    pub fn is_dummy(&self) -> bool {
        self.next_header == DUMMY
    }
}

/// Why a packet was not opened. Nobody but the counters may tell one from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// [`open`] has not been called yet.
    #[error("not opened yet")]
    Pending,
    /// Too short for header, IV, trailer and ICV, or not a whole number of blocks.
    #[error("impossible length")]
    Length,
    /// Seen before, left of the replay window, or numbered 0 (RFC 4303 section 3.4.3).
    #[error("replayed")]
    Replayed,
    /// The ICV is not that of the packet (RFC 4303 section 3.4.4).
    #[error("wrong ICV")]
    BadIcv,
    /// Proved, but padded other than 1, 2, 3, ... or by more than there is (RFC 4303 section 2.4).
    #[error("wrong padding")]
    BadPadding,
}

impl<'a> OpenJob<'a> {
    /// `packet` goes from the ESP header to the end of the ICV; `sa` is the SA of its SPI.
    pub fn new(sa: &'a InboundSa, packet: &'a mut [u8]) -> Self {
        Self { sa, packet, sequence: 0, result: Err(OpenError::Pending) }
    }

    /// What became of it.
    ///
    /// # Errors
    /// [`OpenError`] if the packet is not to be processed.
    pub fn result(&self) -> Result<Opened, OpenError> {
        self.result
    }

    /// Asks for what is read but the keys.
    #[inline]
    fn prefetch(&self) {
        self.sa.prefetch();
        kernel::prefetch_packet(self.packet);
    }

    /// Asks for what is read of the keys.
    #[inline]
    fn prefetch_keys(&self) {
        self.sa.prefetch_keys_for(self.packet.len());
    }

    /// What can be refused before any cryptography.
    #[inline]
    fn precheck(&mut self, kind: &Kind) -> Result<(), OpenError> {
        if !kind.may_be_long(self.packet.len()) {
            return Err(OpenError::Length);
        }
        let sequence = self.packet[..HEADER_LEN].last_chunk().ok_or(OpenError::Length)?;
        self.sequence = u32::from_be_bytes(*sequence);
        if !self.sa.window.may_accept(self.sequence) {
            return Err(OpenError::Replayed);
        }
        Ok(())
    }

    /// Marks a packet whose ICV was checked; only a good one moves the window. Packets of one burst
    /// come here in order, so the second of two copies is refused.
    fn authenticated(&mut self, authentic: bool) -> bool {
        self.result = if !authentic {
            Err(OpenError::BadIcv)
        } else if !self.sa.window.accept(self.sequence) {
            Err(OpenError::Replayed)
        } else {
            Err(OpenError::Pending)
        };
        self.result == Err(OpenError::Pending)
    }

    /// Checks and removes padding and trailer (RFC 4303 section 2.4) of the decrypted packet.
    #[inline]
    fn finish(&mut self, kind: &Kind) -> Result<Opened, OpenError> {
        let offset = kind.payload_offset;
        let plain = &self.packet[offset..self.packet.len() - kind.icv_len];
        let &[ref rest @ .., pad_len, next_header] = plain else { return Err(OpenError::Length) };
        let len = rest.len().checked_sub(pad_len.into()).ok_or(OpenError::BadPadding)?;
        // The peer itself made this: how long the comparison takes tells nobody else anything.
        let right = match plain.last_chunk() {
            Some(end) if usize::from(pad_len) <= TRAILER_ROOM => {
                *end == with_trailer(*end, pad_len.into(), next_header)
            }
            _ => rest[len..] == PADDING[..rest.len() - len],
        };
        if !right {
            return Err(OpenError::BadPadding);
        }
        Ok(Opened { offset, len, next_header })
    }

    /// Counts the packet, once.
    fn count(&self) {
        let refused = &self.sa.refused;
        match self.result {
            Ok(opened) => {
                self.sa.opened.packets.add(1);
                self.sa.opened.bytes.add(opened.len as u64);
            }
            Err(OpenError::Replayed) => refused.replayed.add(1),
            Err(OpenError::BadIcv) => refused.bad_icv.add(1),
            Err(OpenError::Length | OpenError::BadPadding | OpenError::Pending) => refused.malformed.add(1),
        }
    }
}

/// Opens a batch of packets, each in place and of whatever SA: refuses replays, checks the ICV in
/// constant time before anything is decrypted, moves the replay window, decrypts, and checks the
/// padding. The caller must own every SA in it: see [`InboundSa`].
pub fn open(jobs: &mut [OpenJob<'_>]) {
    for burst in jobs.chunks_mut(BURST) {
        burst.iter().take(AHEAD).for_each(OpenJob::prefetch);
        let mut ready = Members::default();
        for i in 0..burst.len() {
            if let Some(later) = burst.get(i + AHEAD) {
                later.prefetch();
            }
            let job = &mut burst[i];
            // The first of packets that go one after the other; those ask for the keys of others in turn.
            let kind = job.sa.kind();
            if i < AHEAD || !kind.suite.cipher().is_aead() {
                job.prefetch_keys();
            }
            match job.precheck(kind) {
                Ok(()) => ready.insert(i),
                Err(error) => job.result = Err(error),
            }
        }
        while let Some((kind, members)) = ready.take_kind(|i| burst[i].sa.kind()) {
            match kind.suite.algorithms() {
                Algorithms::EncryptThenMac(..) => verify_then_decrypt(burst, members, kind),
                Algorithms::Aead(_) => open_aead(burst, members, kind),
                #[cfg(feature = "null-cipher")]
                Algorithms::Null => open_null(burst, members, kind),
            }
        }
        for job in burst {
            job.count();
        }
    }
}

fn open_aead(burst: &mut [OpenJob<'_>], members: Members, kind: &Kind) {
    let mut accepted = Members::default();
    for i in members.indices() {
        if let Some(later) = burst.get(i + AHEAD) {
            later.prefetch_keys();
        }
        let job = &mut burst[i];
        if let Some(keys) = job.sa.keys.gcm() {
            let authentic = keys.open(job.packet);
            if job.authenticated(authentic) {
                accepted.insert(i);
            }
        }
    }
    // Later, when what was stored can be read without waiting.
    for job in accepted.of(burst) {
        job.result = job.finish(kind);
    }
}

#[cfg(feature = "null-cipher")]
fn open_null(burst: &mut [OpenJob<'_>], members: Members, kind: &Kind) {
    for job in members.of(burst) {
        if job.authenticated(true) {
            job.result = job.finish(kind);
        }
    }
}

fn verify_then_decrypt(burst: &mut [OpenJob<'_>], members: Members, kind: &Kind) {
    let authentic = authentic(burst, members, kind);
    let mut accepted = Members::default();
    for i in members.indices() {
        if burst[i].authenticated(authentic.contains(i)) {
            accepted.insert(i);
        }
    }
    decrypt(burst, accepted, kind);
    for job in accepted.of(burst) {
        job.result = job.finish(kind);
    }
}

/// Those with the right ICV; in constant time for each.
fn authentic(burst: &[OpenJob<'_>], members: Members, kind: &Kind) -> Members {
    let icv_len = kind.icv_len;
    let mut lanes = ArrayVec::<MacLane<'_>, BURST>::new();
    let mut icvs = ArrayVec::<(usize, &[u8]), BURST>::new();
    for i in members.indices() {
        let (data, icv) = burst[i].packet.split_at(burst[i].packet.len() - icv_len);
        if let Some((_, keys)) = burst[i].sa.keys.cbc() {
            lanes.push(MacLane::new(keys, data));
            icvs.push((i, icv));
        }
    }
    kernel::mac(kind.kernel, &mut lanes);
    let mut authentic = Members::default();
    for (&(i, icv), lane) in icvs.iter().zip(&lanes) {
        if lane.tag.is(icv) {
            authentic.insert(i);
        }
    }
    authentic
}

fn decrypt(burst: &mut [OpenJob<'_>], members: Members, kind: &Kind) {
    let icv_len = kind.icv_len;
    kernel::cbc_decrypt(members.of(burst).filter_map(|job| {
        let (keys, _) = job.sa.keys.cbc()?;
        let blocks = HEADER_LEN..job.packet.len() - icv_len;
        Some(CbcDecryptLane { keys, blocks: &mut job.packet[blocks] })
    }));
}
