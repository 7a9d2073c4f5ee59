//! A cursor that cannot read past its bytes.

use std::net::Ipv4Addr;

use super::DecodeError;

/// Bytes not yet read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        let ([octet], tail) = self.0.split_first_chunk::<1>().ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(*octet)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        let (octets, tail) = self.0.split_first_chunk::<2>().ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(u16::from_be_bytes(*octets))
    }

    pub(super) fn ipv4(&mut self) -> Result<Ipv4Addr, DecodeError> {
        let (octets, tail) = self.0.split_first_chunk::<4>().ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(Ipv4Addr::from(*octets))
    }
}
