//! Quick mode (RFC 2409 section 5.5): a pair of ESP SAs for GRE between the two ends.
//!
//! ```text
//!  initiator                     responder
//!  MakingKey (with PFS)
//!  ExpectQuick2   1  {HASH(1), SA, Ni [, KE], IDci, IDcr [, NAT-OA, NAT-OA]} ->
//!                                Answering (with PFS)
//!                                inbound SA installed
//!                 2  <- {HASH(2), SA, Nr [, KE], IDci, IDcr [, NAT-OA, NAT-OA]}
//!  Agreeing (with PFS)           ExpectQuick3
//!  inbound SA installed
//!  Finished       3  {HASH(3)} ->
//!                                outbound SA installed
//! ```

mod initiator;
mod responder;

use std::net::SocketAddrV4;
use std::time::Duration;

use dmvpn_config::model::{DhGroup, EspMode};
use dmvpn_tables::Mode;
use dmvpn_tables::esp::KeyMaterial;

use super::api::{ChildId, ExchangeKind, Reason};
use super::dh::{Computed, Public, SecretNumber};
use super::env::{Env, JobOwner};
use super::exchange::{Answered, Due, Fingerprint, Request};
use super::keys::keymat;
use super::main_mode::Refusal;
use super::payload::{Chain, ChainBuilder, Exchange, Header, Kind};
use super::peer::{Child, Peer};
use super::proposals::AgreedEsp;
use super::sa::{Established, Link, rekey_after};
use super::selectors::{Hosts, Ids};
use crate::time::Instant;

/// Lengths of nonces (RFC 2409 section 5).
const NONCES: std::ops::RangeInclusive<usize> = 8..=256;
/// Quick modes that are open at the same time in one IKE SA. There are peers that lose track of more than
/// three exchanges.
const MAX_OPEN: usize = 3;
/// How long the answer to a repeated message 2 is kept.
const FINISHED_LIFE: Duration = Duration::from_secs(60);
/// How long a computation may take.
const COMPUTATION_LIFE: Duration = Duration::from_secs(60);

/// How far a quick mode is.
pub(super) enum Quick {
    MakingKey(MakingKey),
    ExpectQuick2(ExpectQuick2),
    Agreeing(Agreeing),
    Finished(Finished),
    Answering(Answering),
    ExpectQuick3(ExpectQuick3),
}

/// What we began with.
pub(super) struct Opening {
    spi: u32,
    udp: bool,
    replaces: Option<ChildId>,
    began: Instant,
}

pub(super) struct MakingKey {
    opening: Opening,
}

pub(super) struct ExpectQuick2 {
    opening: Opening,
    ids: Ids,
    nonce_i: Vec<u8>,
    private: Option<SecretNumber>,
    iv: Vec<u8>,
    request: Request,
}

pub(super) struct Agreeing {
    opening: Opening,
    accepted: Accepted,
}

pub(super) struct Finished {
    child: ChildId,
    answered: Answered,
    until: Instant,
}

pub(super) struct Answering {
    offered: Offered,
    spi: u32,
    replaces: Option<ChildId>,
    began: Instant,
}

pub(super) struct ExpectQuick3 {
    child: ChildId,
    nonces: Vec<u8>,
    iv: Vec<u8>,
    request: Request,
    answered: Answered,
}

/// What a verified message 1 asks for.
pub(super) struct Offered {
    agreed: AgreedEsp,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    /// As the initiator sent them; absent if it sent none.
    ids: Option<Ids>,
    hosts: Hosts,
    nat_oa: bool,
    iv: Vec<u8>,
    question: Fingerprint,
}

/// What a verified message 2 grants.
pub(super) struct Accepted {
    agreed: AgreedEsp,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    hosts: Hosts,
    iv: Vec<u8>,
    question: Fingerprint,
}

/// The IKE SA that a quick mode runs in, and what it works on.
pub(super) struct Context<'a> {
    pub(super) env: &'a mut Env,
    pub(super) now: Instant,
    pub(super) link: &'a mut Link,
    pub(super) sa: &'a mut Established,
    pub(super) peer: &'a mut Peer,
    /// Where the message at hand came to and from, if not where the peer is known to be.
    pub(super) elsewhere: Option<(SocketAddrV4, SocketAddrV4)>,
}

/// What an expired quick mode tells of the IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unanswered {
    /// When it began.
    pub(super) since: Instant,
}

impl Context<'_> {
    /// The message at hand is fresh and from the peer: it lives, and if it comes from another place, its
    /// NAT has moved it there (RFC 3947 section 4).
    pub(super) fn prove(&mut self) {
        self.peer.hear(self.now);
        if let Some((local, remote)) = self.elsewhere.take()
            && self.peer.move_to(self.env, self.now, local, remote)
        {
            (self.link.local, self.link.remote) = (local, remote);
        }
    }

    /// The peer grants the IKE SA less life than we wanted.
    pub(super) fn shorten(&mut self, lifetime: Duration) {
        let expires = self.sa.since + lifetime;
        if expires < self.sa.expires && expires > self.now {
            self.sa.expires = expires;
            let rekey_at = self.sa.since + rekey_after(&mut self.env.rng, lifetime, self.link.initiator);
            self.sa.rekey_at = self.sa.rekey_at.min(rekey_at);
        }
    }

    /// Whether a quick mode is open that we began.
    pub(super) fn is_negotiating(&self) -> bool {
        self.sa.quick.values().any(Quick::is_ours)
    }

    /// Takes a quick mode message. It has this IKE SA's cookies.
    pub(super) fn receive(
        &mut self,
        header: Header,
        body: &[u8],
        question: Fingerprint,
    ) -> Result<(), Refusal> {
        let id = header.message_id;
        match self.sa.quick.remove(&id) {
            Some(Quick::ExpectQuick2(state)) => self.second(header, state, body, question),
            Some(Quick::ExpectQuick3(state)) => self.third(header, state, body, question),
            Some(Quick::Finished(mut state)) => {
                if state.answered.is_to(question)
                    && let Some(answer) = state.answered.again()
                {
                    // Our last message was lost: the peer's inbound SA may wait for it.
                    let answer = answer.to_vec();
                    self.env.counters.repeated += 1;
                    self.env.send(self.link.local, self.link.remote, answer);
                    self.peer.postpone_switch(self.now, state.child);
                }
                self.env.counters.duplicates += 1;
                self.sa.quick.insert(id, Quick::Finished(state));
                Ok(())
            }
            Some(busy) => {
                self.env.counters.duplicates += 1;
                self.sa.quick.insert(id, busy);
                Ok(())
            }
            None => self.first(header, body, question),
        }
    }

    /// Takes the result of a Diffie-Hellman computation.
    pub(super) fn computed(&mut self, message_id: u32, result: Result<Computed, Reason>) {
        let Some(state) = self.sa.quick.remove(&message_id) else { return };
        let computed = match result {
            Ok(computed) => computed,
            Err(reason) => return self.abandon(state, reason),
        };
        match state {
            Quick::MakingKey(state) => {
                if let Some(private) = computed.private {
                    self.send_first(message_id, state.opening, Some((computed.public, private)));
                }
            }
            Quick::Agreeing(state) => {
                let shared = computed.shared.unwrap_or_default();
                self.complete(message_id, &state.opening, state.accepted, &shared);
            }
            Quick::Answering(state) => {
                let shared = computed.shared.unwrap_or_default();
                self.answer(message_id, state, &computed.public, &shared);
            }
            other => {
                self.sa.quick.insert(message_id, other);
            }
        }
    }

    /// Repeats and gives up what is due.
    pub(super) fn tick(&mut self) -> Option<Unanswered> {
        let mut unanswered = None;
        let due: Vec<u32> = self
            .sa
            .quick
            .iter()
            .filter(|(_, state)| state.deadline() <= self.now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(mut state) = self.sa.quick.remove(&id) else { continue };
            if let Quick::ExpectQuick3(waiting) = &state
                && self.peer.children.get(&waiting.child).is_none_or(|child| child.confirmed)
            {
                // A packet on the new SA said what message 3 would have said.
                continue;
            }
            let repeat = match &mut state {
                Quick::ExpectQuick2(ExpectQuick2 { request, .. })
                | Quick::ExpectQuick3(ExpectQuick3 { request, .. }) => {
                    matches!(request.due(self.now, &mut self.env.rng), Due::Repeat)
                        .then(|| request.message.clone())
                }
                _ => None,
            };
            if let Some(message) = repeat {
                self.env.counters.repeated += 1;
                self.env.send(self.link.local, self.link.remote, message);
                self.sa.quick.insert(id, state);
                continue;
            }
            if let Quick::ExpectQuick2(ExpectQuick2 { opening, .. }) = &state {
                unanswered = Some(Unanswered { since: opening.began });
            }
            if let Quick::ExpectQuick3(ExpectQuick3 { child, .. }) = &state {
                self.peer.remove_child(self.env, self.now, *child);
            }
            match state {
                Quick::MakingKey(_) | Quick::Agreeing(_) | Quick::Answering(_) => {
                    self.abandon(state, Reason::Limit);
                }
                _ => self.drop_state(state),
            }
        }
        unanswered
    }

    /// Ends a quick mode whose computation came to nothing.
    fn abandon(&mut self, state: Quick, reason: Reason) {
        let ours = state.is_ours();
        self.drop_state(state);
        if ours {
            self.fail(reason);
        } else {
            self.problem(reason);
        }
    }

    /// The peer refused what we offered (an authenticated notification).
    pub(super) fn refused(&mut self, spi: &[u8], kind: u16) {
        let concerns = |state: &Quick| match state {
            Quick::ExpectQuick2(state) => {
                spi.len() != 4 || spi == state.opening.spi.to_be_bytes() || spi == [0; 4]
            }
            _ => false,
        };
        let Some(id) = self.sa.quick.iter().find(|(_, state)| concerns(state)).map(|(id, _)| *id) else {
            return;
        };
        if let Some(state) = self.sa.quick.remove(&id) {
            self.drop_state(state);
        }
        self.fail(Reason::Refused(kind));
    }

    /// Gives back what a quick mode holds that will not be completed.
    pub(super) fn drop_state(&mut self, state: Quick) {
        let spi = match state {
            Quick::MakingKey(MakingKey { opening })
            | Quick::ExpectQuick2(ExpectQuick2 { opening, .. })
            | Quick::Agreeing(Agreeing { opening, .. }) => opening.spi,
            Quick::Answering(state) => state.spi,
            Quick::Finished(_) | Quick::ExpectQuick3(_) => return,
        };
        self.env.spis.free(spi);
    }

    /// A quick mode of ours failed: whoever waits for it is told, and the pair in use is replaced later.
    fn fail(&mut self, reason: Reason) {
        self.problem(reason);
        self.peer.child_failed(self.env, self.now, reason);
    }

    fn problem(&mut self, reason: Reason) {
        self.env.problem(self.peer.remote, Some(self.peer.tunnel), ExchangeKind::QuickMode, reason);
    }

    fn open(&self) -> usize {
        self.sa.quick.values().filter(|state| !matches!(state, Quick::Finished(_))).count()
    }

    fn owner(&self, message_id: u32) -> JobOwner {
        JobOwner {
            sa: self.link.name(),
            message_id: Some(message_id),
            source: *self.link.remote.ip(),
            authenticated: true,
        }
    }

    fn header(&self, message_id: u32) -> Header {
        Header {
            cookie_i: self.link.cookie_i,
            cookie_r: self.link.cookie_r,
            next: Kind::NONE,
            exchange: Exchange::QUICK,
            flags: 0,
            message_id,
        }
    }

    /// `HASH(n) = prf(SKEYID_a, parts)`.
    fn hash(&self, parts: &[&[u8]]) -> Vec<u8> {
        (self.sa.keys.prf)(&self.sa.keys.skeyid_a, parts).to_vec()
    }

    /// Encrypts a message: HASH over `prefix` and the other payloads, then those.
    fn seal(
        &self,
        message_id: u32,
        iv: &[u8],
        prefix: &[&[u8]],
        rest: ChainBuilder,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let encoded = rest.encode();
        let parts: Vec<&[u8]> = prefix.iter().copied().chain([encoded.as_slice()]).collect();
        let chain = rest.behind(Kind::HASH, self.hash(&parts));
        self.sa.keys.seal(self.header(message_id), iv, &chain)
    }

    /// Puts a state back: what came in is not for it.
    fn keep(&mut self, id: u32, state: Quick, reason: Reason) -> Result<(), Refusal> {
        self.sa.quick.insert(id, state);
        Err(reason.into())
    }

    /// Derives the keys of both directions and hands the pair to the peer.
    fn make_child(&mut self, pair: &Pair<'_>, shared: &[u8]) -> Result<ChildId, Reason> {
        let Pair { agreed, initiator, spi, nonce_i, nonce_r, hosts, replaces } = *pair;
        let nonces = [nonce_i, nonce_r].concat();
        let keys = |spi: u32| {
            let len = agreed.suite.cipher_key_len() + agreed.suite.integrity_key_len();
            let keymat = keymat(self.sa.keys.prf, &self.sa.keys.skeyid_d, shared, spi, &nonces, len);
            KeyMaterial::from_keymat(agreed.suite, &keymat).map_err(|_| Reason::WeakKey)
        };
        let (inbound, outbound) = (keys(spi)?, keys(agreed.spi)?);
        let (source, destination) =
            if initiator { (hosts.initiator, hosts.responder) } else { (hosts.responder, hosts.initiator) };
        let id = self.env.child_id();
        let child = Child {
            id,
            initiator,
            spi_in: spi,
            spi_out: agreed.spi,
            proposal: agreed.proposal,
            pfs: agreed.pfs.is_some(),
            mode: match agreed.mode {
                EspMode::Transport => Mode::Transport,
                EspMode::Tunnel => Mode::Tunnel { source, destination },
            },
            udp: agreed.udp,
            replaces,
            weight: nonce_i.min(nonce_r).to_vec(),
            confirmed: false,
            lost: false,
            outbound: Some(outbound),
            since: self.now,
            rekey_at: self.now + rekey_after(&mut self.env.rng, agreed.lifetime, initiator),
            expires: self.now + agreed.lifetime,
            switch_at: None,
            retire_at: None,
            told: false,
        };
        self.peer.add_child(self.env, self.now, child, inbound);
        Ok(id)
    }
}

/// What a pair of SAs is made of.
struct Pair<'a> {
    agreed: &'a AgreedEsp,
    initiator: bool,
    spi: u32,
    nonce_i: &'a [u8],
    nonce_r: &'a [u8],
    hosts: Hosts,
    replaces: Option<ChildId>,
}

impl Quick {
    /// When it has to be looked at.
    pub(super) fn deadline(&self) -> Instant {
        match self {
            Self::MakingKey(MakingKey { opening }) | Self::Agreeing(Agreeing { opening, .. }) => {
                opening.began + COMPUTATION_LIFE
            }
            Self::Answering(state) => state.began + COMPUTATION_LIFE,
            Self::ExpectQuick2(ExpectQuick2 { request, .. })
            | Self::ExpectQuick3(ExpectQuick3 { request, .. }) => request.at,
            Self::Finished(state) => state.until,
        }
    }

    /// Whether it is open, and we began it.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::MakingKey(_) | Self::ExpectQuick2(_) | Self::Agreeing(_))
    }

    /// Whether it is open, and the peer began it.
    pub(super) fn is_theirs(&self) -> bool {
        matches!(self, Self::Answering(_) | Self::ExpectQuick3(_))
    }
}

/// The HASH payload, which must be the first (RFC 2409 section 5.5).
fn hash_of<'a>(chain: &Chain<'a>) -> Result<&'a [u8], Refusal> {
    match chain.first() {
        Some(payload) if payload.kind == Kind::HASH => Ok(payload.body),
        _ => Err(Reason::Authentication.into()),
    }
}

/// The public value for PFS; there must be one exactly if a group was agreed.
fn read_public(chain: &Chain<'_>, group: Option<DhGroup>) -> Result<Option<Public>, Reason> {
    match (group, chain.one(Kind::KE)) {
        (Some(group), Some(body)) => Public::parse(group, body).map(Some).map_err(|_| Reason::KeyExchange),
        (Some(_), None) => Err(Reason::Malformed),
        (None, _) => Ok(None),
    }
}
