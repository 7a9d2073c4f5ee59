//! Identification (RFC 2407 section 4.6.2) and NAT original address (RFC 3947 section 5.2).

use std::net::Ipv4Addr;

use super::DecodeError;
use super::reader::Reader;

/// Longest identity we care to remember.
const MAX_DATA: usize = 256;

/// Who somebody is, or, in quick mode, what traffic an SA is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ike) struct Id {
    /// ID type.
    pub(in crate::ike) kind: u8,
    /// IP protocol, 0 for any.
    pub(in crate::ike) protocol: u8,
    /// Port, 0 for any.
    pub(in crate::ike) port: u16,
    pub(in crate::ike) data: Vec<u8>,
}

impl Id {
    pub(in crate::ike) const IPV4_ADDR: u8 = 1;
    pub(in crate::ike) const FQDN: u8 = 2;
    pub(in crate::ike) const USER_FQDN: u8 = 3;
    pub(in crate::ike) const IPV4_ADDR_SUBNET: u8 = 4;
    pub(in crate::ike) const KEY_ID: u8 = 11;

    pub(in crate::ike) fn ipv4(address: Ipv4Addr, protocol: u8) -> Self {
        Self { kind: Self::IPV4_ADDR, protocol, port: 0, data: address.octets().to_vec() }
    }

    pub(in crate::ike) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (kind, protocol, port) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let data = reader.rest();
        if data.len() > MAX_DATA {
            return Err(DecodeError::TooMany);
        }
        Ok(Self { kind, protocol, port, data: data.to_vec() })
    }

    pub(in crate::ike) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.kind, self.protocol];
        out.extend_from_slice(&self.port.to_be_bytes());
        out.extend_from_slice(&self.data);
        out
    }

    /// The one host it names: an address, or a subnet of one address.
    pub(in crate::ike) fn host(&self) -> Option<Ipv4Addr> {
        match (self.kind, self.data.as_slice()) {
            (Self::IPV4_ADDR, &[a, b, c, d])
            | (Self::IPV4_ADDR_SUBNET, &[a, b, c, d, 255, 255, 255, 255]) => Some(Ipv4Addr::new(a, b, c, d)),
            _ => None,
        }
    }
}

/// The address that somebody has in front of its NAT; `None` if it is not an IPv4 address.
pub(in crate::ike) fn decode_nat_oa(body: &[u8]) -> Option<Ipv4Addr> {
    match *body {
        [Id::IPV4_ADDR, _, _, _, a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d)),
        _ => None,
    }
}

pub(in crate::ike) fn encode_nat_oa(address: Ipv4Addr) -> Vec<u8> {
    let mut out = vec![Id::IPV4_ADDR, 0, 0, 0];
    out.extend_from_slice(&address.octets());
    out
}
