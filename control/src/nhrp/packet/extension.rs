//! Extensions (RFC 2332 section 5.3): type, length, value; the top bit of the type says that a responder
//! that does not know the type must not answer.

use std::fmt;

use super::cie::Cie;
use super::reader::Reader;
use super::{DecodeError, TooLarge};

const COMPULSORY: u16 = 0x8000;
const TYPE: u16 = 0x3fff;
const END: u16 = 0;

/// An extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Who does not know it must not answer.
    pub compulsory: bool,
    /// What it is.
    pub kind: ExtensionKind,
    /// What it holds.
    pub value: Value,
}

/// The types of extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtensionKind {
    /// 3: who answered.
    Responder,
    /// 4: who passed the request on.
    ForwardTransit,
    /// 5: who passed the reply on.
    ReverseTransit,
    /// 7: the password.
    Authentication,
    /// 8: private to vendors.
    Vendor,
    /// 9: addresses behind NATs (Cisco).
    Nat,
    /// Any other.
    Unknown(u16),
}

/// What an extension holds.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// Client information entries: kinds 3, 4, 5 and 9.
    Entries(Vec<Cie>),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl Extension {
    /// An extension of entries with the compulsory bit that it is always sent with.
    pub fn entries(kind: ExtensionKind, entries: Vec<Cie>) -> Self {
        Self { compulsory: kind != ExtensionKind::Nat, kind, value: Value::Entries(entries) }
    }

    pub(super) fn decode_all(bytes: &[u8]) -> Result<Vec<Self>, DecodeError> {
        let mut reader = Reader::new(bytes);
        let mut extensions = Vec::new();
        while !reader.is_empty() {
            let kind = reader.u16()?;
            let length = reader.u16()?;
            let value = reader.bytes(usize::from(length))?;
            if kind & TYPE == END {
                break;
            }
            let compulsory = kind & COMPULSORY != 0;
            let kind = ExtensionKind::from_wire(kind & TYPE);
            let value = if kind.holds_entries() {
                Value::Entries(Cie::decode_all(&mut Reader::new(value))?)
            } else {
                Value::Bytes(value.to_vec())
            };
            extensions.push(Self { compulsory, kind, value });
        }
        Ok(extensions)
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), TooLarge> {
        let bit = if self.compulsory { COMPULSORY } else { 0 };
        bytes.extend((self.kind.to_wire() | bit).to_be_bytes());
        let mut value = Vec::new();
        match &self.value {
            Value::Entries(entries) => entries.iter().for_each(|entry| entry.encode(&mut value)),
            Value::Bytes(octets) => value.extend(octets),
        }
        bytes.extend(u16::try_from(value.len()).map_err(|_| TooLarge)?.to_be_bytes());
        bytes.extend(value);
        Ok(())
    }

    pub(super) fn encode_end(bytes: &mut Vec<u8>) {
        bytes.extend((END | COMPULSORY).to_be_bytes());
        bytes.extend([0, 0]);
    }

    /// Its entries; none if it is not of that sort.
    pub fn cies(&self) -> &[Cie] {
        match &self.value {
            Value::Entries(entries) => entries,
            Value::Bytes(_) => &[],
        }
    }

    /// Adds an entry to an extension of entries.
    pub fn push(&mut self, cie: Cie) {
        if let Value::Entries(entries) = &mut self.value {
            entries.push(cie);
        }
    }
}

impl ExtensionKind {
    pub(super) fn from_wire(kind: u16) -> Self {
        match kind {
            3 => Self::Responder,
            4 => Self::ForwardTransit,
            5 => Self::ReverseTransit,
            7 => Self::Authentication,
            8 => Self::Vendor,
            9 => Self::Nat,
            other => Self::Unknown(other),
        }
    }

    fn to_wire(self) -> u16 {
        match self {
            Self::Responder => 3,
            Self::ForwardTransit => 4,
            Self::ReverseTransit => 5,
            Self::Authentication => 7,
            Self::Vendor => 8,
            Self::Nat => 9,
            Self::Unknown(other) => other & TYPE,
        }
    }

    pub(super) fn holds_entries(self) -> bool {
        matches!(self, Self::Responder | Self::ForwardTransit | Self::ReverseTransit | Self::Nat)
    }
}

/// Octets are not shown: they may be the password.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries(entries) => f.debug_list().entries(entries).finish(),
            Self::Bytes(octets) => write!(f, "<{} octets>", octets.len()),
        }
    }
}
