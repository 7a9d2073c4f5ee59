//! The SA payload: proposals, transforms, attributes (RFC 2408 sections 3.3 to 3.6, RFC 2407 section
//! 4.6.1).

use super::notify::DOI_IPSEC;
use super::reader::{Reader, write_generic};
use super::{DecodeError, Kind};

/// Situation: identity only (RFC 2407 section 4.2.1).
const SIT_IDENTITY_ONLY: u32 = 1;
/// Payload types inside an SA.
const PROPOSAL: u8 = 2;
const TRANSFORM: u8 = 3;
/// Bit of an attribute's type: the value follows in place of a length.
const BASIC: u16 = 0x8000;

const MAX_PROPOSALS: usize = 32;
const MAX_TRANSFORMS: usize = 128;
const MAX_ATTRIBUTES: usize = 16;
/// Longest attribute value that can be a number.
const MAX_NUMBER: usize = 8;

/// An SA payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ike) struct Sa {
    pub(in crate::ike) proposals: Vec<Proposal>,
}

/// One proposal: a protocol with alternatives. Proposals with the same number belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ike) struct Proposal {
    pub(in crate::ike) number: u8,
    /// ISAKMP (1) or ESP (3).
    pub(in crate::ike) protocol: u8,
    pub(in crate::ike) spi: Vec<u8>,
    pub(in crate::ike) transforms: Vec<Transform>,
}

/// One alternative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ike) struct Transform {
    pub(in crate::ike) number: u8,
    pub(in crate::ike) id: u8,
    /// In the order of the wire: each life type comes right before its duration.
    pub(in crate::ike) attributes: Vec<Attribute>,
}

/// A data attribute. It keeps its form, so that a chosen transform goes back as it came (RFC 2408
/// section 4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ike) struct Attribute {
    pub(in crate::ike) kind: u16,
    pub(in crate::ike) value: Value,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ike) enum Value {
    /// Two octets in place of a length.
    Basic(u16),
    /// A length and as many octets.
    Variable(Vec<u8>),
}

impl Sa {
    pub(in crate::ike) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        if (reader.u32()?, reader.u32()?) != (DOI_IPSEC, SIT_IDENTITY_ONLY) {
            return Err(DecodeError::Domain);
        }
        let mut proposals = Vec::new();
        let mut more = true;
        while more {
            if proposals.len() == MAX_PROPOSALS {
                return Err(DecodeError::TooMany);
            }
            let (next, body) = reader.generic()?;
            proposals.push(Proposal::decode(body)?);
            more = follows(next, PROPOSAL)?;
        }
        if proposals.iter().map(|proposal| proposal.transforms.len()).sum::<usize>() > MAX_TRANSFORMS {
            return Err(DecodeError::TooMany);
        }
        Ok(Self { proposals })
    }

    pub(in crate::ike) fn encode(&self) -> Vec<u8> {
        let mut out = DOI_IPSEC.to_be_bytes().to_vec();
        out.extend_from_slice(&SIT_IDENTITY_ONLY.to_be_bytes());
        for (i, proposal) in self.proposals.iter().enumerate() {
            let next = if i + 1 == self.proposals.len() { Kind::NONE.0 } else { PROPOSAL };
            write_generic(&mut out, next, &proposal.encode());
        }
        out
    }
}

impl Proposal {
    fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let (number, protocol) = (reader.u8()?, reader.u8()?);
        let (spi_len, count) = (reader.u8()?, usize::from(reader.u8()?));
        let spi = reader.take(usize::from(spi_len))?.to_vec();
        let mut transforms = Vec::with_capacity(count.min(MAX_TRANSFORMS));
        let mut more = count > 0;
        while more {
            if transforms.len() == MAX_TRANSFORMS {
                return Err(DecodeError::TooMany);
            }
            let (next, body) = reader.generic()?;
            transforms.push(Transform::decode(body)?);
            more = follows(next, TRANSFORM)?;
        }
        if transforms.len() != count {
            return Err(DecodeError::Length);
        }
        Ok(Self { number, protocol, spi, transforms })
    }

    fn encode(&self) -> Vec<u8> {
        let count = |len: usize| u8::try_from(len).unwrap_or(u8::MAX);
        let mut out = vec![self.number, self.protocol, count(self.spi.len()), count(self.transforms.len())];
        out.extend_from_slice(&self.spi);
        for (i, transform) in self.transforms.iter().enumerate() {
            let next = if i + 1 == self.transforms.len() { Kind::NONE.0 } else { TRANSFORM };
            write_generic(&mut out, next, &transform.encode());
        }
        out
    }
}

impl Transform {
    fn decode(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let (number, id, _reserved) = (reader.u8()?, reader.u8()?, reader.u16()?);
        Ok(Self { number, id, attributes: Attribute::decode_all(&mut reader)? })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.number, self.id, 0, 0];
        self.attributes.iter().for_each(|attribute| attribute.encode(&mut out));
        out
    }
}

impl Attribute {
    /// An attribute with a number, as short as can be.
    pub(in crate::ike) fn new(kind: u16, number: u32) -> Self {
        let value = match u16::try_from(number) {
            Ok(number) => Value::Basic(number),
            Err(_) => Value::Variable(number.to_be_bytes().to_vec()),
        };
        Self { kind, value }
    }

    /// The value as a number, in either form; what does not fit becomes the largest. `None` if it is
    /// no number.
    pub(in crate::ike) fn number(&self) -> Option<u32> {
        match &self.value {
            Value::Basic(number) => Some(u32::from(*number)),
            Value::Variable(bytes) if (1..=MAX_NUMBER).contains(&bytes.len()) => {
                let number = bytes.iter().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
                Some(u32::try_from(number).unwrap_or(u32::MAX))
            }
            Value::Variable(_) => None,
        }
    }

    /// The attribute alone.
    #[cfg(test)]
    pub(in crate::ike) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    pub(super) fn decode_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, DecodeError> {
        let mut attributes = Vec::new();
        while !reader.is_empty() {
            if attributes.len() == MAX_ATTRIBUTES {
                return Err(DecodeError::TooMany);
            }
            let (kind, value) = (reader.u16()?, reader.u16()?);
            let value = match kind & BASIC {
                0 => Value::Variable(reader.take(usize::from(value))?.to_vec()),
                _ => Value::Basic(value),
            };
            attributes.push(Self { kind: kind & !BASIC, value });
        }
        Ok(attributes)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match &self.value {
            Value::Basic(number) => {
                out.extend_from_slice(&(self.kind | BASIC).to_be_bytes());
                out.extend_from_slice(&number.to_be_bytes());
            }
            Value::Variable(bytes) => {
                out.extend_from_slice(&self.kind.to_be_bytes());
                out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
                out.extend_from_slice(bytes);
            }
        }
    }
}

/// Whether another element of type `kind` follows.
fn follows(next: u8, kind: u8) -> Result<bool, DecodeError> {
    match next {
        0 => Ok(false),
        next if next == kind => Ok(true),
        _ => Err(DecodeError::Domain),
    }
}
