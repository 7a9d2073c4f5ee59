//! Reading with checked lengths.

use super::DecodeError;

/// Bytes not read yet. What is cut out of a reader cannot be read past its own end.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    /// The generic header that payloads, proposals and transforms share (RFC 2408 section 3.2): the type
    /// of the next one, a reserved octet, and a length that covers these four octets. Gives the type of
    /// the next, and the body.
    pub(super) fn generic(&mut self) -> Result<(u8, Self), DecodeError> {
        let next = self.u8()?;
        let _reserved = self.u8()?;
        let len = usize::from(self.u16()?);
        let body = self.take(len.checked_sub(4).ok_or(DecodeError::Length)?)?;
        Ok((next, Self(body)))
    }
}

/// Appends a generic header and its body.
pub(super) fn write_generic(out: &mut Vec<u8>, next: u8, body: &[u8]) {
    let len = u16::try_from(body.len() + 4).unwrap_or(u16::MAX);
    out.extend_from_slice(&[next, 0]);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(body);
}
