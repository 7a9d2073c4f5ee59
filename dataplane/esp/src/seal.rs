//! Sealing: from payload to ESP packet (RFC 4303 section 3.3).

use arrayvec::ArrayVec;

use crate::HEADER_LEN;
use crate::burst::{AHEAD, BURST, Members};
use crate::kernel::{self, CbcEncryptLane, MacLane};
use crate::kind::Kind;
use crate::sa::OutboundSa;
use crate::suite::Algorithms;
use crate::trailer::{TRAILER_LEN, TRAILER_ROOM, with_trailer};

/// One packet to seal.
pub struct SealJob<'a> {
    sa: &'a OutboundSa,
    packet: &'a mut [u8],
    payload_len: usize,
    next_header: u8,
    result: Result<(), SealError>,
}

/// Why a packet was not sealed. It must not be sent then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// [`seal`] has not been called yet.
    #[error("not sealed yet")]
    Pending,
    /// The SA has sent 2^32 - 1 packets (RFC 4303 section 3.3.3).
    #[error("sequence numbers exhausted")]
    SequenceExhausted,
    /// The slice is not as long as the sealed packet.
    #[error("buffer is not of the sealed length")]
    Length,
}

impl<'a> SealJob<'a> {
    /// `packet` goes from the ESP header to the end of the ICV and is exactly
    /// [`Suite::sealed_len(payload_len)`](crate::Suite::sealed_len) long, with the payload already at
    /// [`Suite::payload_offset`](crate::Suite::payload_offset). `next_header` is the protocol of the payload: 47 for GRE, 4 for
    /// IPv4.
    pub fn new(sa: &'a OutboundSa, packet: &'a mut [u8], payload_len: usize, next_header: u8) -> Self {
        Self { sa, packet, payload_len, next_header, result: Err(SealError::Pending) }
    }

    /// What became of it.
    ///
    /// # Errors
    /// [`SealError`] if the packet is not sealed.
    pub fn result(&self) -> Result<(), SealError> {
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

    /// Everything around the cipher: header, IV before its encryption, padding and trailer.
    #[inline]
    fn prepare(&mut self, kind: &Kind) -> Result<(), SealError> {
        let len = self.packet.len();
        if self.payload_len > len || len != kind.sealed_len(self.payload_len) {
            return Err(SealError::Length);
        }
        let sequence = self.sa.sent.take(self.payload_len).ok_or(SealError::SequenceExhausted)?;
        if let Some(header) = self.packet.first_chunk_mut() {
            *header = (u64::from(self.sa.spi()) << 32 | u64::from(sequence)).to_be_bytes();
        }
        write_iv(&mut self.packet[HEADER_LEN..kind.payload_offset], self.sa.iv_seed.block(sequence));
        let encrypted = len - kind.icv_len;
        let payload_end = kind.payload_offset + self.payload_len;
        let pad_len = encrypted - TRAILER_LEN - payload_end;
        // Less than a block: at most one byte more than there is room for with the trailer.
        if pad_len > TRAILER_ROOM {
            self.packet[payload_end] = 1;
        }
        if let Some(end) = self.packet[..encrypted].last_chunk_mut() {
            *end = with_trailer(*end, pad_len, self.next_header);
        }
        Ok(())
    }
}

/// The first bytes of `block`, as many as the IV has. Sizes that are known beforehand save a call.
#[inline]
fn write_iv(iv: &mut [u8], block: [u8; 16]) {
    if let Some(iv) = iv.first_chunk_mut() {
        *iv = block;
    } else if let (Some(iv), Some(half)) = (iv.first_chunk_mut::<8>(), block.first_chunk()) {
        *iv = *half;
    }
}

/// Seals a batch of packets, each in place and of whatever SA: takes the next sequence number, adds
/// padding, encrypts, and writes the ICV. Packets of one SA get their numbers in the order of the
/// batch. The caller must own every SA in it: see [`OutboundSa`].
pub fn seal(jobs: &mut [SealJob<'_>]) {
    for burst in jobs.chunks_mut(BURST) {
        burst.iter().take(AHEAD).for_each(SealJob::prefetch);
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
            match job.prepare(kind) {
                Ok(()) => ready.insert(i),
                Err(error) => job.result = Err(error),
            }
        }
        while let Some((kind, members)) = ready.take_kind(|i| burst[i].sa.kind()) {
            match kind.suite.algorithms() {
                Algorithms::EncryptThenMac(..) => {
                    encrypt(burst, members, kind);
                    authenticate(burst, members, kind);
                }
                Algorithms::Aead(_) => seal_aead(burst, members),
                #[cfg(feature = "null-cipher")]
                Algorithms::Null => members.of(burst).for_each(|job| job.result = Ok(())),
            }
        }
    }
}

fn seal_aead(burst: &mut [SealJob<'_>], members: Members) {
    for i in members.indices() {
        if let Some(later) = burst.get(i + AHEAD) {
            later.prefetch_keys();
        }
        let job = &mut burst[i];
        if let Some(keys) = job.sa.keys.gcm() {
            keys.seal(job.packet);
            job.result = Ok(());
        }
    }
}

fn encrypt(burst: &mut [SealJob<'_>], members: Members, kind: &Kind) {
    let icv_len = kind.icv_len;
    kernel::cbc_encrypt(members.of(burst).filter_map(|job| {
        let (keys, _) = job.sa.keys.cbc()?;
        let blocks = HEADER_LEN..job.packet.len() - icv_len;
        Some(CbcEncryptLane { keys, blocks: &mut job.packet[blocks] })
    }));
}

/// RFC 4303 section 3.3.2: the ICV is over everything before it, after encryption.
fn authenticate(burst: &mut [SealJob<'_>], members: Members, kind: &Kind) {
    let icv_len = kind.icv_len;
    let mut lanes = ArrayVec::<MacLane<'_>, BURST>::new();
    let mut icvs = ArrayVec::<&mut [u8], BURST>::new();
    for job in members.of(burst) {
        let (data, icv) = job.packet.split_at_mut(job.packet.len() - icv_len);
        if let Some((_, keys)) = job.sa.keys.cbc() {
            lanes.push(MacLane::new(keys, data));
            icvs.push(icv);
            job.result = Ok(());
        }
    }
    kernel::mac(kind.kernel, &mut lanes);
    for (icv, lane) in icvs.iter_mut().zip(&lanes) {
        lane.tag.write(icv);
    }
}
