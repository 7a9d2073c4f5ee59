//! ISAKMP on the wire (RFC 2408): header, payload chain, and the payloads we take part in.
//!
//! A chain is first cut into [`Payload`]s, whose bodies stay as received, because HASHes are computed over
//! them; then each is decoded by its own type. What is sent is encoded from values only.

mod header;
mod id;
mod notify;
mod reader;
mod sa;
#[cfg(test)]
mod tests;

pub(super) use header::{Exchange, Header};
pub(super) use id::{Id, decode_nat_oa, encode_nat_oa};
pub(super) use notify::{Delete, Notify, notification};
pub(super) use sa::{Attribute, Proposal, Sa, Transform};

use self::reader::{Reader, write_generic};

/// Most payloads in one message.
const MAX_PAYLOADS: usize = 48;
/// Most vendor identifiers in one message.
const MAX_VENDOR_IDS: usize = 20;
/// Most NAT-D payloads in one message.
const MAX_NAT_D: usize = 10;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// Something ends before its own end.
    Truncated,
    /// A length that cannot be.
    Length,
    /// More of something than anybody needs.
    TooMany,
    /// A domain of interpretation, situation or protocol that is not IPsec's.
    Domain,
}

/// Payload type (RFC 2408 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind(pub(super) u8);

impl Kind {
    pub(super) const NONE: Self = Self(0);
    pub(super) const SA: Self = Self(1);
    pub(super) const KE: Self = Self(4);
    pub(super) const ID: Self = Self(5);
    pub(super) const HASH: Self = Self(8);
    pub(super) const NONCE: Self = Self(10);
    pub(super) const NOTIFY: Self = Self(11);
    pub(super) const DELETE: Self = Self(12);
    pub(super) const VENDOR_ID: Self = Self(13);
    /// RFC 3947 section 3.2.
    pub(super) const NAT_D: Self = Self(20);
    /// RFC 3947 section 5.2.
    pub(super) const NAT_OA: Self = Self(21);
}

/// A payload as it was cut out of its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Payload<'a> {
    pub(super) kind: Kind,
    /// Without the generic header.
    pub(super) body: &'a [u8],
}

/// The payloads of a message.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    payloads: Vec<Payload<'a>>,
    /// The bytes after the first payload, up to the end of the last one, without padding.
    after_first: &'a [u8],
}

impl<'a> Chain<'a> {
    /// Cuts up what follows the header. What comes after the last payload is padding.
    pub(super) fn decode(first: Kind, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let mut payloads = Vec::new();
        let mut kind = first;
        let mut first_end = 0;
        while kind != Kind::NONE {
            let (next, body) = reader.generic()?;
            payloads.push(Payload { kind, body: body.rest() });
            if payloads.len() == 1 {
                first_end = bytes.len() - reader.rest().len();
            }
            if payloads.len() > MAX_PAYLOADS {
                return Err(DecodeError::TooMany);
            }
            kind = Kind(next);
        }
        let end = bytes.len() - reader.rest().len();
        let chain = Self { payloads, after_first: bytes.get(first_end..end).unwrap_or_default() };
        if chain.all(Kind::VENDOR_ID).count() > MAX_VENDOR_IDS || chain.all(Kind::NAT_D).count() > MAX_NAT_D {
            return Err(DecodeError::TooMany);
        }
        Ok(chain)
    }

    /// The first payload.
    pub(super) fn first(&self) -> Option<Payload<'a>> {
        self.payloads.first().copied()
    }

    /// The payloads after the first.
    pub(super) fn rest(&self) -> impl Iterator<Item = Payload<'a>> {
        self.payloads.iter().skip(1).copied()
    }

    /// The bodies of every payload of a type.
    pub(super) fn all(&self, kind: Kind) -> impl Iterator<Item = &'a [u8]> {
        self.payloads.iter().filter(move |payload| payload.kind == kind).map(|payload| payload.body)
    }

    /// The body of the payload of a type, if there is exactly one.
    pub(super) fn one(&self, kind: Kind) -> Option<&'a [u8]> {
        let mut all = self.all(kind);
        all.next().filter(|_| all.next().is_none())
    }

    /// What HASH covers in phase 2: everything behind it, without padding (RFC 2409 section 5.5).
    pub(super) fn after_first(&self) -> &'a [u8] {
        self.after_first
    }
}

/// Payloads to be sent.
#[derive(Default)]
pub(super) struct ChainBuilder {
    payloads: Vec<(Kind, Vec<u8>)>,
}

impl ChainBuilder {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Appends a payload.
    pub(super) fn push(&mut self, kind: Kind, body: impl Into<Vec<u8>>) -> &mut Self {
        self.payloads.push((kind, body.into()));
        self
    }

    /// The same with another payload in front.
    pub(super) fn behind(mut self, kind: Kind, body: Vec<u8>) -> Self {
        self.payloads.insert(0, (kind, body));
        self
    }

    /// The type of the first payload.
    pub(super) fn first(&self) -> Kind {
        self.payloads.first().map_or(Kind::NONE, |(kind, _)| *kind)
    }

    /// The chain, which follows the header.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let next = self.payloads.iter().skip(1).map(|(kind, _)| kind.0).chain([Kind::NONE.0]);
        for ((_, body), next) in self.payloads.iter().zip(next) {
            write_generic(&mut out, next, body);
        }
        out
    }
}
