//! What traffic a pair of ESP SAs is for (IDci and IDcr, RFC 2409 section 5.5): GRE between the two ends,
//! and nothing else. Behind a NAT an end calls itself by an address that the other one does not see.

use std::net::Ipv4Addr;

use super::api::Reason;
use super::nat_t::Nat;
use super::payload::{Chain, ChainBuilder, Id, Kind};

/// GRE (RFC 2784).
const PROTOCOL_GRE: u8 = 47;

/// Both identities of a quick mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ids {
    initiator: Id,
    responder: Id,
}

/// The hosts they name: the ends of the tunnel in inner headers of tunnel mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hosts {
    pub(super) initiator: Ipv4Addr,
    pub(super) responder: Ipv4Addr,
}

impl Ids {
    /// GRE between two hosts.
    pub(super) fn gre(initiator: Ipv4Addr, responder: Ipv4Addr) -> Self {
        Self { initiator: Id::ipv4(initiator, PROTOCOL_GRE), responder: Id::ipv4(responder, PROTOCOL_GRE) }
    }

    /// Reads both, or none, which means the two ends of the IKE SA.
    pub(super) fn read(chain: &Chain<'_>) -> Result<Option<Self>, Reason> {
        let mut bodies = chain.all(Kind::ID);
        match (bodies.next(), bodies.next(), bodies.next()) {
            (None, None, None) => Ok(None),
            (Some(initiator), Some(responder), None) => {
                let decode = |body| Id::decode(body).map_err(|_| Reason::Malformed);
                Ok(Some(Self { initiator: decode(initiator)?, responder: decode(responder)? }))
            }
            _ => Err(Reason::Selectors),
        }
    }

    pub(super) fn write(&self, chain: &mut ChainBuilder) {
        chain.push(Kind::ID, self.initiator.encode()).push(Kind::ID, self.responder.encode());
    }
}

impl Hosts {
    /// What the peer's message 1 asks for; `None` if that is not for us to grant.
    pub(super) fn offered(ids: Option<&Ids>, nat: Nat, local: Ipv4Addr, remote: Ipv4Addr) -> Option<Self> {
        let Some(ids) = ids else { return Some(Self { initiator: remote, responder: local }) };
        let hosts = Self::of(ids)?;
        let peer_fits = hosts.initiator == remote || nat.remote;
        let we_fit = hosts.responder == local || nat.local;
        (peer_fits && we_fit).then_some(hosts)
    }

    /// What message 2 grants of what we asked for: the same. Some peers call an end behind a NAT by its
    /// outer address there.
    pub(super) fn granted(asked: &Ids, answered: Option<&Ids>, nat: Nat) -> Option<Self> {
        let (asked, granted) = (Self::of(asked)?, Self::of(answered.unwrap_or(asked))?);
        let initiator_fits = granted.initiator == asked.initiator || nat.local;
        let responder_fits = granted.responder == asked.responder || nat.remote;
        (initiator_fits && responder_fits).then_some(granted)
    }

    fn of(ids: &Ids) -> Option<Self> {
        Some(Self { initiator: gre_host(&ids.initiator)?, responder: gre_host(&ids.responder)? })
    }
}

/// The host that an identity names, if what it allows is GRE.
fn gre_host(id: &Id) -> Option<Ipv4Addr> {
    let allows_gre = matches!(id.protocol, 0 | PROTOCOL_GRE) && id.port == 0;
    id.host().filter(|_| allows_gre)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 41);
    const B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
    const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn id(kind: u8, protocol: u8, port: u16, data: &[u8]) -> Id {
        Id { kind, protocol, port, data: data.to_vec() }
    }

    #[test]
    fn only_gre_between_the_two_is_granted() {
        let fits = |initiator: Id, responder: Id| {
            Hosts::offered(Some(&Ids { initiator, responder }), Nat::default(), A, B).is_some()
        };
        let (a, b) = (A.octets(), B.octets());
        let host = |octets: &[u8]| id(Id::IPV4_ADDR, 47, 0, octets);
        let subnet = [&a[..], &[255; 4]].concat();
        assert!(fits(host(&b), host(&a)));
        assert!(fits(id(1, 0, 0, &b), id(Id::IPV4_ADDR_SUBNET, 47, 0, &subnet)));
        for (initiator, responder) in [
            (host(&a), host(&b)),
            (host(&b), host(&PRIVATE.octets())),
            (host(&PRIVATE.octets()), host(&a)),
            (id(4, 47, 0, &[0; 8]), id(4, 47, 0, &[0; 8])),
            (id(1, 6, 0, &b), id(1, 6, 0, &a)),
            (id(1, 47, 80, &b), host(&a)),
            (host(&b), id(2, 47, 0, b"hub.example")),
            (id(1, 47, 0, &[1]), host(&a)),
            (id(1, 47, 0, &[]), id(1, 47, 0, &[])),
        ] {
            assert!(!fits(initiator.clone(), responder.clone()), "{initiator:?} {responder:?}");
        }
        let ends = Hosts { initiator: B, responder: A };
        assert_eq!(Hosts::offered(None, Nat::default(), A, B), Some(ends));
    }

    #[test]
    fn a_nat_hides_the_address_of_the_end_behind_it_alone() {
        let ids = Ids::gre(PRIVATE, A);
        let nat = |local, remote| Nat { local, remote };
        assert!(Hosts::offered(Some(&ids), nat(false, true), A, B).is_some());
        assert!(Hosts::offered(Some(&ids), nat(true, false), A, B).is_none());
        assert!(Hosts::offered(Some(&Ids::gre(B, PRIVATE)), nat(true, false), A, B).is_some());
        // A responder may call us by the address it sees, if we are behind a NAT.
        let rewritten = Ids::gre(B, A);
        assert_eq!(Hosts::granted(&ids, Some(&rewritten), nat(true, false)).unwrap().initiator, B);
        assert!(Hosts::granted(&ids, Some(&rewritten), nat(false, false)).is_none());
        assert!(Hosts::granted(&ids, None, nat(false, false)).is_some());
        assert!(Hosts::granted(&ids, Some(&Ids::gre(PRIVATE, B)), nat(true, false)).is_none());
    }
}
