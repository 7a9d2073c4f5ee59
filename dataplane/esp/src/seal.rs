//! Sealing: from payload to ESP packet (RFC 4303 section 3.3).

use arrayvec::ArrayVec;

use crate::HEADER_LEN;
use crate::burst::{BURST, Members};
use crate::kernel::{self, CbcEncryptLane, GcmSealLane, MacLane};
use crate::sa::{Kind, OutboundSa};
use crate::suite::{Algorithms, PADDING, TRAILER_LEN};

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

    /// Everything around the cipher: header, IV before its encryption, padding and trailer.
    fn prepare(&mut self) -> Result<(), SealError> {
        let (suite, len) = (self.sa.suite(), self.packet.len());
        if self.payload_len > len || len != suite.sealed_len(self.payload_len) {
            return Err(SealError::Length);
        }
        let sequence = self.sa.sent.take(self.payload_len).ok_or(SealError::SequenceExhausted)?;
        let (header, rest) = self.packet.split_at_mut(HEADER_LEN);
        header[..4].copy_from_slice(&self.sa.spi().to_be_bytes());
        header[4..].copy_from_slice(&sequence.to_be_bytes());
        let (iv, rest) = rest.split_at_mut(suite.iv_len());
        iv.copy_from_slice(&self.sa.iv_seed.block(sequence)[..iv.len()]);
        let encrypted = rest.len() - suite.icv_len();
        let pad_len = encrypted - self.payload_len - TRAILER_LEN;
        let (padding, trailer) = rest[self.payload_len..encrypted].split_at_mut(pad_len);
        padding.copy_from_slice(&PADDING[..pad_len]);
        // Less than a block.
        trailer.copy_from_slice(&[pad_len.to_le_bytes()[0], self.next_header]);
        Ok(())
    }
}

/// Seals a batch of packets, each in place and of whatever SA: takes the next sequence number, adds
/// padding, encrypts, and writes the ICV. Packets of one SA get their numbers in the order of the
/// batch. The caller must own every SA in it: see [`OutboundSa`].
pub fn seal(jobs: &mut [SealJob<'_>]) {
    for burst in jobs.chunks_mut(BURST) {
        burst.iter().for_each(|job| job.sa.prefetch());
        burst.iter().for_each(|job| job.sa.prefetch_keys());
        let mut ready = Members::default();
        for (i, job) in burst.iter_mut().enumerate() {
            match job.prepare() {
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
    let mut lanes = ArrayVec::<GcmSealLane<'_>, BURST>::new();
    for job in members.of(burst) {
        if let Some(keys) = job.sa.keys.gcm() {
            lanes.push(GcmSealLane { keys, packet: job.packet });
            job.result = Ok(());
        }
    }
    kernel::gcm_seal(&mut lanes);
}

fn encrypt(burst: &mut [SealJob<'_>], members: Members, kind: Kind) {
    let icv_len = kind.suite.icv_len();
    let mut lanes = ArrayVec::<CbcEncryptLane<'_>, BURST>::new();
    for job in members.of(burst) {
        if let Some((keys, _)) = job.sa.keys.cbc() {
            let blocks = HEADER_LEN..job.packet.len() - icv_len;
            lanes.push(CbcEncryptLane { keys, blocks: &mut job.packet[blocks] });
        }
    }
    kernel::cbc_encrypt(&mut lanes);
}

/// RFC 4303 section 3.3.2: the ICV is over everything before it, after encryption.
fn authenticate(burst: &mut [SealJob<'_>], members: Members, kind: Kind) {
    let icv_len = kind.suite.icv_len();
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
    for (icv, lane) in icvs.into_iter().zip(&lanes) {
        icv.copy_from_slice(&lane.tag[..icv_len]);
    }
}
