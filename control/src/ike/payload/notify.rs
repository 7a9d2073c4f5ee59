//! Notification (RFC 2408 section 3.14) and delete (section 3.15).

use super::reader::Reader;
use super::{Attribute, DecodeError};

/// Domain of interpretation: IPsec.
pub(super) const DOI_IPSEC: u32 = 1;

/// Most SPIs in one delete payload.
const MAX_SPIS: usize = 64;

/// Notification types (RFC 2408 section 3.14.1, RFC 2407 section 4.6.3, RFC 3706 section 6).
pub(in crate::ike) mod notification {
    pub(in crate::ike) const NO_PROPOSAL_CHOSEN: u16 = 14;
    pub(in crate::ike) const PAYLOAD_MALFORMED: u16 = 16;
    pub(in crate::ike) const INVALID_KEY_INFORMATION: u16 = 17;
    pub(in crate::ike) const INVALID_ID_INFORMATION: u16 = 18;
    pub(in crate::ike) const INVALID_HASH_INFORMATION: u16 = 23;
    pub(in crate::ike) const AUTHENTICATION_FAILED: u16 = 24;
    /// Types below this report errors.
    pub(in crate::ike) const FIRST_STATUS: u16 = 16384;
    pub(in crate::ike) const RESPONDER_LIFETIME: u16 = 24576;
    pub(in crate::ike) const INITIAL_CONTACT: u16 = 24578;
    pub(in crate::ike) const R_U_THERE: u16 = 36136;
    pub(in crate::ike) const R_U_THERE_ACK: u16 = 36137;
}

/// A notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ike) struct Notify {
    /// What it is about: ISAKMP (1) or ESP (3).
    pub(in crate::ike) protocol: u8,
    pub(in crate::ike) spi: Vec<u8>,
    pub(in crate::ike) kind: u16,
    pub(in crate::ike) data: Vec<u8>,
}

impl Notify {
    pub(in crate::ike) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        // Some peers send domain 0 in notifications about ISAKMP itself; nothing depends on it.
        let _domain = reader.u32()?;
        let (protocol, spi_len, kind) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let spi = reader.take(usize::from(spi_len))?.to_vec();
        Ok(Self { protocol, spi, kind, data: reader.rest().to_vec() })
    }

    pub(in crate::ike) fn encode(&self) -> Vec<u8> {
        let mut out = DOI_IPSEC.to_be_bytes().to_vec();
        out.extend_from_slice(&[self.protocol, u8::try_from(self.spi.len()).unwrap_or(u8::MAX)]);
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(&self.spi);
        out.extend_from_slice(&self.data);
        out
    }

    /// The data as attributes, as RESPONDER-LIFETIME has them (RFC 2407 section 4.6.3.1).
    pub(in crate::ike) fn attributes(&self) -> Result<Vec<Attribute>, DecodeError> {
        Attribute::decode_all(&mut Reader::new(&self.data))
    }
}

/// SAs that their owner has deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ike) enum Delete {
    /// SPIs of ESP SAs, those by which the sender received.
    Esp(Vec<u32>),
    /// Both cookies of IKE SAs, the initiator's first.
    Isakmp(Vec<(u64, u64)>),
}

impl Delete {
    /// `None` for a protocol that we do not speak, or SPIs of another size than that protocol's.
    pub(in crate::ike) fn decode(body: &[u8]) -> Result<Option<Self>, DecodeError> {
        let mut reader = Reader::new(body);
        let _domain = reader.u32()?;
        let (protocol, spi_len, count) = (reader.u8()?, reader.u8()?, usize::from(reader.u16()?));
        if count > MAX_SPIS {
            return Err(DecodeError::TooMany);
        }
        match (protocol, spi_len) {
            (3, 4) => Ok(Some(Self::Esp((0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?))),
            (1, 16) => {
                let pair = |_| Ok((reader.u64()?, reader.u64()?));
                Ok(Some(Self::Isakmp((0..count).map(pair).collect::<Result<_, DecodeError>>()?)))
            }
            _ => Ok(None),
        }
    }

    pub(in crate::ike) fn encode(&self) -> Vec<u8> {
        let mut out = DOI_IPSEC.to_be_bytes().to_vec();
        match self {
            Self::Esp(spis) => {
                out.extend_from_slice(&[3, 4]);
                out.extend_from_slice(&u16::try_from(spis.len()).unwrap_or(u16::MAX).to_be_bytes());
                spis.iter().for_each(|spi| out.extend_from_slice(&spi.to_be_bytes()));
            }
            Self::Isakmp(sas) => {
                out.extend_from_slice(&[1, 16]);
                out.extend_from_slice(&u16::try_from(sas.len()).unwrap_or(u16::MAX).to_be_bytes());
                for (initiator, responder) in sas {
                    out.extend_from_slice(&initiator.to_be_bytes());
                    out.extend_from_slice(&responder.to_be_bytes());
                }
            }
        }
        out
    }
}
