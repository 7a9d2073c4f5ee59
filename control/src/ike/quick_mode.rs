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

use std::net::SocketAddrV4;
use std::time::Duration;

use dmvpn_config::model::{DhGroup, EspMode};
use dmvpn_tables::Mode;
use dmvpn_tables::esp::KeyMaterial;

use super::api::{ChildId, ExchangeKind, Reason};
use super::dh::{Computed, Public, SecretNumber, Work};
use super::env::{Env, JobOwner};
use super::exchange::{Answered, Due, Fingerprint, Request};
use super::informational;
use super::keys::{equal, keymat};
use super::main_mode::Refusal;
use super::payload::{
    Chain, ChainBuilder, Exchange, Header, Kind, Sa, decode_nat_oa, encode_nat_oa, notification,
};
use super::peer::{Child, Peer};
use super::proposals::{AgreedEsp, accept_esp, answer_esp, choose_esp, offer_esp};
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

    /// Begins a quick mode. Nothing happens if one is open that we began.
    pub(super) fn begin(&mut self) -> Result<(), Reason> {
        if self.is_negotiating() {
            return Ok(());
        }
        if self.open() >= MAX_OPEN {
            return Err(Reason::Limit);
        }
        let pfs = self.env.profile(self.peer.tunnel).ok_or(Reason::NotConfigured)?.esp.pfs;
        let spi = self.env.spis.alloc().ok_or(Reason::Limit)?;
        let opening = Opening {
            spi,
            udp: self.sa.nat.any(),
            replaces: self.peer.sending().map(|child| child.id),
            began: self.now,
        };
        let message_id = self.sa.seen.draw(&mut self.env.rng);
        match pfs {
            Some(group) => {
                self.env.start_job(self.owner(message_id), group, Work::Generate);
                self.sa.quick.insert(message_id, Quick::MakingKey(MakingKey { opening }));
            }
            None => self.send_first(message_id, opening, None),
        }
        Ok(())
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

    fn send_first(&mut self, message_id: u32, opening: Opening, key: Option<(Vec<u8>, SecretNumber)>) {
        let Some(profile) = self.env.profile(self.peer.tunnel).cloned() else { return };
        let (public, private) = key.unzip();
        let nonce_i = self.env.nonce();
        let ids = Ids::gre(*self.link.local.ip(), *self.link.remote.ip());
        let mut rest = ChainBuilder::new();
        rest.push(Kind::SA, offer_esp(&profile.esp, opening.spi, opening.udp).encode());
        rest.push(Kind::NONCE, nonce_i.clone());
        if let Some(public) = public {
            rest.push(Kind::KE, public);
        }
        ids.write(&mut rest);
        if opening.udp && profile.esp.mode == EspMode::Transport {
            // RFC 3947 section 5.2.
            rest.push(Kind::NAT_OA, encode_nat_oa(*self.link.local.ip()));
            rest.push(Kind::NAT_OA, encode_nat_oa(*self.link.remote.ip()));
        }
        let iv = self.sa.keys.phase2_iv(&self.sa.last_block, message_id);
        let Some((message, iv)) = self.seal(message_id, &iv, &[&message_id.to_be_bytes()], rest) else {
            return;
        };
        self.env.send(self.link.local, self.link.remote, message.clone());
        let request = Request::new(self.now, &mut self.env.rng, message);
        let state = ExpectQuick2 { opening, ids, nonce_i, private, iv, request };
        self.sa.quick.insert(message_id, Quick::ExpectQuick2(state));
    }

    /// Message 1: the peer wants a pair of SAs.
    fn first(&mut self, header: Header, body: &[u8], question: Fingerprint) -> Result<(), Refusal> {
        if self.sa.seen.contains(header.message_id) {
            self.env.counters.replayed += 1;
            return Err(Refusal::Unexpected);
        }
        let iv = self.sa.keys.phase2_iv(&self.sa.last_block, header.message_id);
        let (plain, iv) = self.sa.keys.open(&iv, body).ok_or(Reason::Malformed)?;
        // If this is not a chain it was not encrypted with our keys.
        let chain = Chain::decode(header.next, &plain).map_err(|_| Reason::Authentication)?;
        let id = header.message_id.to_be_bytes();
        if !equal(hash_of(&chain)?, &self.hash(&[&id, chain.after_first()])) {
            return Err(Reason::Authentication.into());
        }
        if self.open() >= MAX_OPEN {
            // Not noted as seen: the peer repeats it, and there may be room by then.
            return Err(Reason::Limit.into());
        }
        self.sa.seen.insert(header.message_id);
        self.prove();
        match self.read_offer(&chain, iv, question) {
            Ok(offered) => self.take_offer(header.message_id, offered),
            Err((refusal, spi)) => {
                if let Refusal::Because(reason) = refusal {
                    let kind = match reason {
                        Reason::NoProposal => notification::NO_PROPOSAL_CHOSEN,
                        Reason::Selectors => notification::INVALID_ID_INFORMATION,
                        Reason::KeyExchange => notification::INVALID_KEY_INFORMATION,
                        _ => notification::PAYLOAD_MALFORMED,
                    };
                    informational::send_error(self, spi, kind);
                }
                Err(refusal)
            }
        }
    }

    fn read_offer(
        &mut self,
        chain: &Chain<'_>,
        iv: Vec<u8>,
        question: Fingerprint,
    ) -> Result<(Offered, Option<Public>), (Refusal, Vec<u8>)> {
        let sa_body =
            chain.rest().next().filter(|payload| payload.kind == Kind::SA && chain.one(Kind::SA).is_some());
        let sa_body = sa_body.ok_or_else(|| (Reason::Malformed.into(), Vec::new()))?.body;
        let offer = Sa::decode(sa_body).map_err(|error| (error.into(), Vec::new()))?;
        let spi = offer.proposals.first().map(|proposal| proposal.spi.clone()).unwrap_or_default();
        let refuse = |reason: Reason| (Refusal::from(reason), spi.clone());
        let profile = self.env.profile(self.peer.tunnel).ok_or_else(|| refuse(Reason::NotConfigured))?;
        let agreed = choose_esp(&profile.esp, &offer).ok_or_else(|| refuse(Reason::NoProposal))?;
        let nonce = chain.one(Kind::NONCE).filter(|nonce| NONCES.contains(&nonce.len()));
        let nonce_i = nonce.ok_or_else(|| refuse(Reason::Malformed))?.to_vec();
        let public = read_public(chain, agreed.pfs).map_err(refuse)?;
        let ids = Ids::read(chain).map_err(refuse)?;
        let (local, remote) = (*self.link.local.ip(), *self.link.remote.ip());
        let hosts = Hosts::offered(ids.as_ref(), self.sa.nat, local, remote);
        let hosts = hosts.ok_or_else(|| refuse(Reason::Selectors))?;
        let nat_oa = chain.all(Kind::NAT_OA).filter_map(decode_nat_oa).next().is_some();
        let nonce_r = self.env.nonce();
        Ok((Offered { agreed, nonce_i, nonce_r, ids, hosts, nat_oa, iv, question }, public))
    }

    fn take_offer(
        &mut self,
        message_id: u32,
        (offered, public): (Offered, Option<Public>),
    ) -> Result<(), Refusal> {
        let spi = self.env.spis.alloc().ok_or(Reason::Limit)?;
        let replaces = self.peer.sending().map(|child| child.id);
        let group = offered.agreed.pfs;
        let state = Answering { offered, spi, replaces, began: self.now };
        match group.zip(public) {
            Some((group, public)) => {
                self.env.start_job(self.owner(message_id), group, |seed| Work::Respond(seed, public));
                self.sa.quick.insert(message_id, Quick::Answering(state));
            }
            None => self.answer(message_id, state, &[], &[]),
        }
        Ok(())
    }

    /// Installs our inbound SA, then sends message 2.
    fn answer(&mut self, message_id: u32, state: Answering, public: &[u8], shared: &[u8]) {
        let Answering { offered, spi, replaces, began: _ } = state;
        let Offered { agreed, nonce_i, nonce_r, ids, hosts, nat_oa, iv, question } = offered;
        let nonces = [nonce_i.as_slice(), &nonce_r].concat();
        let mut rest = ChainBuilder::new();
        rest.push(Kind::SA, answer_esp(&agreed, spi).encode()).push(Kind::NONCE, nonce_r.clone());
        if !public.is_empty() {
            rest.push(Kind::KE, public);
        }
        if let Some(ids) = &ids {
            ids.write(&mut rest);
        }
        if nat_oa {
            rest.push(Kind::NAT_OA, encode_nat_oa(*self.link.remote.ip()));
            rest.push(Kind::NAT_OA, encode_nat_oa(*self.link.local.ip()));
        }
        let prefix: [&[u8]; 2] = [&message_id.to_be_bytes(), &nonce_i];
        let Some((message, iv)) = self.seal(message_id, &iv, &prefix, rest) else {
            self.env.spis.free(spi);
            return;
        };
        let pair = Pair {
            agreed: &agreed,
            initiator: false,
            spi,
            nonce_i: &nonce_i,
            nonce_r: &nonce_r,
            hosts,
            replaces,
        };
        let child = match self.make_child(&pair, shared) {
            Ok(child) => child,
            Err(reason) => {
                self.env.spis.free(spi);
                self.problem(reason);
                return;
            }
        };
        self.env.send(self.link.local, self.link.remote, message.clone());
        let request = Request::new(self.now, &mut self.env.rng, message.clone());
        let answered = Answered::new(question, message);
        let state = ExpectQuick3 { child, nonces, iv, request, answered };
        self.sa.quick.insert(message_id, Quick::ExpectQuick3(state));
    }

    /// Message 2: the peer grants what we asked for.
    fn second(
        &mut self,
        header: Header,
        state: ExpectQuick2,
        body: &[u8],
        question: Fingerprint,
    ) -> Result<(), Refusal> {
        let id = header.message_id;
        let Some((plain, iv)) = self.sa.keys.open(&state.iv, body) else {
            return self.keep(id, Quick::ExpectQuick2(state), Reason::Malformed);
        };
        let verified = Chain::decode(header.next, &plain).ok().filter(|chain| {
            let expected = self.hash(&[&id.to_be_bytes(), &state.nonce_i, chain.after_first()]);
            hash_of(chain).is_ok_and(|hash| equal(hash, &expected))
        });
        let Some(chain) = verified else {
            return self.keep(id, Quick::ExpectQuick2(state), Reason::Authentication);
        };
        self.prove();
        let ExpectQuick2 { opening, ids, nonce_i, private, .. } = state;
        let (accepted, public) = match self.read_grant(&chain, &opening, &ids, nonce_i, iv, question) {
            Ok(read) => read,
            Err(reason) => {
                self.env.spis.free(opening.spi);
                self.fail(reason);
                return Ok(());
            }
        };
        match (accepted.agreed.pfs, private.zip(public)) {
            (Some(group), Some((private, public))) => {
                self.env.start_job(self.owner(id), group, |_| Work::Agree(private, public));
                self.sa.quick.insert(id, Quick::Agreeing(Agreeing { opening, accepted }));
            }
            _ => self.complete(id, &opening, accepted, &[]),
        }
        Ok(())
    }

    fn read_grant(
        &self,
        chain: &Chain<'_>,
        opening: &Opening,
        ids: &Ids,
        nonce_i: Vec<u8>,
        iv: Vec<u8>,
        question: Fingerprint,
    ) -> Result<(Accepted, Option<Public>), Reason> {
        let profile = self.env.profile(self.peer.tunnel).ok_or(Reason::NotConfigured)?;
        let sa_body = chain.one(Kind::SA).ok_or(Reason::Malformed)?;
        let grant = Sa::decode(sa_body).map_err(|_| Reason::Malformed)?;
        let agreed = accept_esp(&profile.esp, opening.udp, &grant).ok_or(Reason::NoProposal)?;
        let nonce = chain.one(Kind::NONCE).filter(|nonce| NONCES.contains(&nonce.len()));
        let nonce_r = nonce.ok_or(Reason::Malformed)?.to_vec();
        let public = read_public(chain, agreed.pfs)?;
        let hosts = Hosts::granted(ids, Ids::read(chain)?.as_ref(), self.sa.nat).ok_or(Reason::Selectors)?;
        Ok((Accepted { agreed, nonce_i, nonce_r, hosts, iv, question }, public))
    }

    /// Sends any payloads as message 1.
    #[cfg(test)]
    pub(super) fn send_raw(&mut self, rest: ChainBuilder) {
        let message_id = self.sa.seen.draw(&mut self.env.rng);
        let iv = self.sa.keys.phase2_iv(&self.sa.last_block, message_id);
        if let Some((message, _)) = self.seal(message_id, &iv, &[&message_id.to_be_bytes()], rest) {
            self.env.send(self.link.local, self.link.remote, message);
        }
    }

    /// Installs our inbound SA, then sends message 3.
    fn complete(&mut self, id: u32, opening: &Opening, accepted: Accepted, shared: &[u8]) {
        let Accepted { agreed, nonce_i, nonce_r, hosts, iv, question } = accepted;
        // HASH(3) = prf(SKEYID_a, 0 | M-ID | Ni_b | Nr_b)
        let prefix: [&[u8]; 4] = [&[0], &id.to_be_bytes(), &nonce_i, &nonce_r];
        let sealed = self.seal(id, &iv, &prefix, ChainBuilder::new());
        let pair = Pair {
            agreed: &agreed,
            initiator: true,
            spi: opening.spi,
            nonce_i: &nonce_i,
            nonce_r: &nonce_r,
            hosts,
            replaces: opening.replaces,
        };
        let child = self.make_child(&pair, shared);
        let (Some((message, _)), Ok(child)) = (sealed, child) else {
            self.env.spis.free(opening.spi);
            self.fail(Reason::WeakKey);
            return;
        };
        self.env.send(self.link.local, self.link.remote, message.clone());
        let answered = Answered::new(question, message);
        let finished = Finished { child, answered, until: self.now + FINISHED_LIFE };
        self.sa.quick.insert(id, Quick::Finished(finished));
        self.peer.switch_soon(self.env, self.now, child);
    }

    /// Message 3: the peer has both SAs.
    fn third(
        &mut self,
        header: Header,
        mut state: ExpectQuick3,
        body: &[u8],
        question: Fingerprint,
    ) -> Result<(), Refusal> {
        let id = header.message_id;
        if state.answered.is_to(question) {
            // Message 1 again.
            self.env.counters.duplicates += 1;
            if let Some(answer) = state.answered.again() {
                let answer = answer.to_vec();
                self.env.counters.repeated += 1;
                self.env.send(self.link.local, self.link.remote, answer);
            }
            self.sa.quick.insert(id, Quick::ExpectQuick3(state));
            return Ok(());
        }
        let verified = self.sa.keys.open(&state.iv, body).is_some_and(|(plain, _)| {
            let expected = self.hash(&[&[0], &id.to_be_bytes(), &state.nonces]);
            Chain::decode(header.next, &plain)
                .is_ok_and(|chain| hash_of(&chain).is_ok_and(|hash| equal(hash, &expected)))
        });
        if !verified {
            return self.keep(id, Quick::ExpectQuick3(state), Reason::Authentication);
        }
        self.prove();
        self.peer.switch(self.env, self.now, state.child);
        Ok(())
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
