//! NAT traversal (RFC 3947): who is behind a NAT, and the ports that follow from it.

use std::net::SocketAddrV4;

use dmvpn_config::model::Hash;

use super::keys::{digest, equal};

/// UDP port of ISAKMP.
pub(super) const PORT_IKE: u16 = 500;
/// UDP port of ISAKMP and ESP where a NAT is on the way.
pub(super) const PORT_NATT: u16 = 4500;
/// The whole of a keepalive datagram (RFC 3948 section 2.3).
pub(super) const KEEPALIVE: u8 = 0xff;

/// What was found out about NATs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Nat {
    /// One is in front of us.
    pub(super) local: bool,
    /// One is in front of the far end.
    pub(super) remote: bool,
}

impl Nat {
    pub(super) fn any(self) -> bool {
        self.local || self.remote
    }

    /// Compares the NAT-D payloads of a message with where it went to and came from (RFC 3947 section
    /// 3.2). The first is for its destination, the others for every source address it may have.
    pub(super) fn detect<'a>(
        hash: Hash,
        cookies: (u64, u64),
        mut payloads: impl Iterator<Item = &'a [u8]>,
        local: SocketAddrV4,
        remote: SocketAddrV4,
    ) -> Self {
        let Some(destination) = payloads.next() else { return Self::default() };
        let mut sources = payloads.peekable();
        if sources.peek().is_none() {
            return Self::default();
        }
        let source = nat_d(hash, cookies, remote);
        Self {
            local: !equal(destination, &nat_d(hash, cookies, local)),
            remote: !sources.any(|candidate| equal(candidate, &source)),
        }
    }
}

/// The body of a NAT-D payload.
pub(super) fn nat_d(hash: Hash, (cookie_i, cookie_r): (u64, u64), address: SocketAddrV4) -> Vec<u8> {
    let parts: [&[u8]; 4] = [
        &cookie_i.to_be_bytes(),
        &cookie_r.to_be_bytes(),
        &address.ip().octets(),
        &address.port().to_be_bytes(),
    ];
    digest(hash, &parts)
}

/// Our and the far end's port from message 5 on (RFC 3947 section 4): both 4500, unless they were moved
/// there already.
pub(super) fn float(local: SocketAddrV4, remote: SocketAddrV4) -> (SocketAddrV4, SocketAddrV4) {
    if local.port() == PORT_NATT {
        return (local, remote);
    }
    (SocketAddrV4::new(*local.ip(), PORT_NATT), SocketAddrV4::new(*remote.ip(), PORT_NATT))
}
