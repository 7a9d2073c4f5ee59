//! Main mode with a pre-shared key (RFC 2409 section 5.4).
//!
//! ```text
//!  initiator                     responder
//!  ExpectMain2    1  SA ->
//!                 2  <- SA       ExpectMain3
//!  MakingKey
//!  ExpectMain4    3  KE, Ni, NAT-D, NAT-D ->
//!                                Answering
//!                 4  <- KE, Nr, NAT-D, NAT-D
//!  Agreeing                      ExpectMain5
//!  ExpectMain6    5  {ID, HASH_I} ->
//!                 6  <- {ID, HASH_R}
//! ```
//! A state is consumed by what happens to it. Until message 5 or 6 has verified, nothing that comes in
//! proves anything: what does not fit leaves the state as it was, and the exchange ends by its age.

use dmvpn_config::model::{DhGroup, IkeProposal};

use super::api::{Identity, Reason};
use super::dh::{Computed, Public, SecretNumber, Work};
use super::env::{Env, JobOwner};
use super::exchange::{Answered, Fingerprint, Request};
use super::keys::{Cipher, KeySeed, SkeyId, digest, equal, prf};
use super::nat_t::{Nat, float, nat_d};
use super::payload::{
    Chain, ChainBuilder, DecodeError, Exchange, Header, Id, Kind, Notify, Sa, notification,
};
use super::proposals::{AgreedIke, accept_ike, choose_ike, offer_ike};
use super::sa::{Authenticated, Established, Keys, Link};
use super::vendor::Support;
use crate::time::Instant;

/// Longest SA payload that is taken from a stranger: it has to be kept.
const MAX_OFFER: usize = 4096;
/// Lengths of nonces (RFC 2409 section 5).
const NONCES: std::ops::RangeInclusive<usize> = 8..=256;

/// How far an IKE SA is.
pub(super) enum Phase {
    ExpectMain2(ExpectMain2),
    MakingKey(MakingKey),
    ExpectMain4(ExpectMain4),
    Agreeing(Agreeing),
    ExpectMain6(ExpectMain6),
    ExpectMain3(ExpectMain3),
    Answering(Answering),
    ExpectMain5(ExpectMain5),
    Established(Box<Established>),
}

/// What became of a state.
pub(super) enum Step {
    /// Nothing: the message is not for this state, or not right.
    Stay(Phase, Refusal),
    Next(Phase),
    /// The far end has proved who it is.
    Proved(Box<Authenticated>),
    /// It cannot go on.
    Fail(Reason),
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Unexpected,
    Because(Reason),
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::Because(reason)
    }
}

impl From<DecodeError> for Refusal {
    fn from(_: DecodeError) -> Self {
        Self::Because(Reason::Malformed)
    }
}

/// A main mode message that came in.
pub(super) struct Received<'a> {
    pub(super) header: Header,
    /// What follows the header.
    pub(super) body: &'a [u8],
    pub(super) fingerprint: Fingerprint,
    /// The address it came to, and the one it came from.
    pub(super) local: std::net::SocketAddrV4,
    pub(super) remote: std::net::SocketAddrV4,
}

/// The offer both ends agreed on.
pub(super) struct Offer {
    /// The initiator's SA payload as sent, which the HASHes cover.
    sa_body: Vec<u8>,
    agreed: AgreedIke,
    support: Support,
}

pub(super) struct ExpectMain2 {
    sa_body: Vec<u8>,
}

pub(super) struct MakingKey {
    offer: Offer,
}

pub(super) struct ExpectMain4 {
    offer: Offer,
    nonce_i: Vec<u8>,
    public_i: Vec<u8>,
    private: SecretNumber,
}

pub(super) struct Agreeing {
    offer: Offer,
    nonces: Nonces,
    publics: Publics,
    nat: Nat,
}

pub(super) struct ExpectMain6 {
    secured: Secured,
}

pub(super) struct ExpectMain3 {
    offer: Offer,
}

pub(super) struct Answering {
    offer: Offer,
    nonces: Nonces,
    public_i: Vec<u8>,
    nat: Nat,
    question: Fingerprint,
}

pub(super) struct ExpectMain5 {
    secured: Secured,
}

struct Nonces {
    i: Vec<u8>,
    r: Vec<u8>,
}

struct Publics {
    i: Vec<u8>,
    r: Vec<u8>,
}

/// What messages 5 and 6 are protected with.
struct Secured {
    offer: Offer,
    publics: Publics,
    nat: Nat,
    skeyid: SkeyId,
    keys: Keys,
    iv: Vec<u8>,
}

/// Begins: message 1.
pub(super) fn begin(env: &mut Env, now: Instant, link: &mut Link) -> Option<Phase> {
    let offer = offer_ike(&env.profile(link.tunnel)?.ike).encode();
    let mut chain = ChainBuilder::new();
    chain.push(Kind::SA, offer.clone());
    Support::ALL.write(&mut chain);
    request(env, now, link, plain(link, &chain));
    Some(Phase::ExpectMain2(ExpectMain2 { sa_body: offer }))
}

/// What a stranger's message 1 offers, and which tunnel's profile takes it.
pub(super) struct Accepted {
    offer: Offer,
}

impl Accepted {
    /// Reads message 1 for one tunnel.
    pub(super) fn read(
        env: &Env,
        tunnel: dmvpn_tables::TunnelId,
        chain: &Chain<'_>,
    ) -> Result<Self, Refusal> {
        let sa_body = first_sa(chain)?;
        if sa_body.len() > MAX_OFFER {
            return Err(Reason::Limit.into());
        }
        let profile = env.profile(tunnel).ok_or(Reason::NotConfigured)?;
        let agreed = choose_ike(&profile.ike, &Sa::decode(sa_body)?).ok_or(Reason::NoProposal)?;
        Ok(Self { offer: Offer { sa_body: sa_body.to_vec(), agreed, support: Support::read(chain) } })
    }

    /// Answers with message 2.
    pub(super) fn answer(self, env: &mut Env, link: &mut Link, question: Fingerprint) -> Phase {
        let mut chain = ChainBuilder::new();
        chain.push(Kind::SA, self.offer.agreed.answer.encode());
        // Only what the far end showed: the answer is never longer than the question.
        self.offer.support.write(&mut chain);
        answer(env, link, question, plain(link, &chain));
        Phase::ExpectMain3(ExpectMain3 { offer: self.offer })
    }
}

impl Phase {
    /// Takes a main mode message.
    pub(super) fn receive(self, env: &mut Env, link: &mut Link, received: &Received<'_>) -> Step {
        let encrypted = matches!(self, Self::ExpectMain5(_) | Self::ExpectMain6(_));
        if encrypted != received.header.is_encrypted() {
            return Step::Stay(self, Refusal::Unexpected);
        }
        match self {
            Self::ExpectMain2(state) => state.receive(env, link, received),
            Self::ExpectMain4(state) => state.receive(env, link, received),
            Self::ExpectMain6(state) => state.receive(link, received),
            Self::ExpectMain3(state) => state.receive(env, link, received),
            Self::ExpectMain5(state) => state.receive(env, link, received),
            other => Step::Stay(other, Refusal::Unexpected),
        }
    }

    /// Takes the result of a Diffie-Hellman computation.
    pub(super) fn computed(self, env: &mut Env, now: Instant, link: &mut Link, computed: Computed) -> Step {
        match self {
            Self::MakingKey(state) => state.computed(env, now, link, computed),
            Self::Agreeing(state) => state.computed(env, now, link, computed),
            Self::Answering(state) => state.computed(env, link, computed),
            other => Step::Stay(other, Refusal::Unexpected),
        }
    }

    /// The name of the state.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::ExpectMain2(_) => "expect main 2",
            Self::MakingKey(_) => "making key",
            Self::ExpectMain4(_) => "expect main 4",
            Self::Agreeing(_) => "agreeing",
            Self::ExpectMain6(_) => "expect main 6",
            Self::ExpectMain3(_) => "expect main 3",
            Self::Answering(_) => "answering",
            Self::ExpectMain5(_) => "expect main 5",
            Self::Established(_) => "established",
        }
    }

    /// The algorithms, once agreed.
    pub(super) fn proposal(&self) -> Option<IkeProposal> {
        let offer = match self {
            Self::ExpectMain2(_) => return None,
            Self::MakingKey(MakingKey { offer })
            | Self::ExpectMain4(ExpectMain4 { offer, .. })
            | Self::Agreeing(Agreeing { offer, .. })
            | Self::ExpectMain6(ExpectMain6 { secured: Secured { offer, .. } })
            | Self::ExpectMain3(ExpectMain3 { offer })
            | Self::Answering(Answering { offer, .. })
            | Self::ExpectMain5(ExpectMain5 { secured: Secured { offer, .. } }) => offer,
            Self::Established(established) => return Some(established.proposal),
        };
        Some(offer.agreed.proposal)
    }

    /// Whether the far end has shown that it receives what we send to its address.
    pub(super) fn is_reachable(&self) -> bool {
        !matches!(self, Self::ExpectMain3(_))
    }
}

impl ExpectMain2 {
    fn receive(self, env: &mut Env, link: &mut Link, received: &Received<'_>) -> Step {
        let offer = match self.read(env, link, received) {
            Ok(offer) => offer,
            Err(refusal) => return Step::Stay(Phase::ExpectMain2(self), refusal),
        };
        link.cookie_r = received.header.cookie_r;
        link.request = None;
        link.answered = Some(Answered::new(received.fingerprint, Vec::new()));
        env.start_job(owner(link, true), offer.group(), Work::Generate);
        Step::Next(Phase::MakingKey(MakingKey { offer }))
    }

    fn read(&self, env: &Env, link: &Link, received: &Received<'_>) -> Result<Offer, Refusal> {
        let chain = Chain::decode(received.header.next, received.body)?;
        let answer = Sa::decode(first_sa(&chain)?)?;
        let profile = env.profile(link.tunnel).ok_or(Reason::NotConfigured)?;
        let agreed = accept_ike(&profile.ike, &answer).ok_or(Reason::NoProposal)?;
        Ok(Offer { sa_body: self.sa_body.clone(), agreed, support: Support::read(&chain) })
    }
}

impl MakingKey {
    fn computed(self, env: &mut Env, now: Instant, link: &mut Link, computed: Computed) -> Step {
        let Some(private) = computed.private else {
            return Step::Stay(Phase::MakingKey(self), Refusal::Unexpected);
        };
        let offer = self.offer;
        let nonce_i = env.nonce();
        let chain = key_exchange(&offer, link, &computed.public, &nonce_i);
        request(env, now, link, plain(link, &chain));
        Step::Next(Phase::ExpectMain4(ExpectMain4 { offer, nonce_i, public_i: computed.public, private }))
    }
}

impl ExpectMain4 {
    fn receive(self, env: &mut Env, link: &mut Link, received: &Received<'_>) -> Step {
        let (theirs, nonce_r, nat) = match read_key_exchange(&self.offer, link, received) {
            Ok(read) => read,
            Err(refusal) => return Step::Stay(Phase::ExpectMain4(self), refusal),
        };
        link.request = None;
        link.answered = Some(Answered::new(received.fingerprint, Vec::new()));
        let Self { offer, nonce_i, public_i, private } = self;
        let publics = Publics { i: public_i, r: theirs.bytes().to_vec() };
        env.start_job(owner(link, true), offer.group(), |_| Work::Agree(private, theirs));
        let nonces = Nonces { i: nonce_i, r: nonce_r };
        Step::Next(Phase::Agreeing(Agreeing { offer, nonces, publics, nat }))
    }
}

impl Agreeing {
    fn computed(self, env: &mut Env, now: Instant, link: &mut Link, computed: Computed) -> Step {
        let Some(shared) = computed.shared else {
            return Step::Stay(Phase::Agreeing(self), Refusal::Unexpected);
        };
        let Self { offer, nonces, publics, nat } = self;
        let mut secured = match Secured::new(env, link, offer, &nonces, publics, nat, &shared) {
            Ok(secured) => secured,
            Err(reason) => return Step::Fail(reason),
        };
        if nat.any() {
            (link.local, link.remote) = float(link.local, link.remote);
        }
        let id = Id::ipv4(*link.local.ip(), 0);
        let mut chain = ChainBuilder::new();
        chain.push(Kind::ID, id.encode()).push(Kind::HASH, secured.hash(link, true, &id.encode()));
        if link.purpose.initial_contact {
            chain.push(Kind::NOTIFY, initial_contact(link).encode());
        }
        let Some(message) = secured.seal(link, &chain) else { return Step::Fail(Reason::Malformed) };
        request(env, now, link, message);
        Step::Next(Phase::ExpectMain6(ExpectMain6 { secured }))
    }
}

impl ExpectMain6 {
    fn receive(self, link: &mut Link, received: &Received<'_>) -> Step {
        match self.secured.verify(link, received, false) {
            Ok(verified) => {
                link.request = None;
                link.answered = Some(Answered::new(received.fingerprint, Vec::new()));
                Step::Proved(Box::new(self.secured.authenticated(verified)))
            }
            Err(refusal) => Step::Stay(Phase::ExpectMain6(self), refusal),
        }
    }
}

impl ExpectMain3 {
    fn receive(self, env: &mut Env, link: &mut Link, received: &Received<'_>) -> Step {
        let (theirs, nonce_i, nat) = match read_key_exchange(&self.offer, link, received) {
            Ok(read) => read,
            Err(refusal) => return Step::Stay(Phase::ExpectMain3(self), refusal),
        };
        if !env.may_compute(*link.remote.ip()) {
            return Step::Stay(Phase::ExpectMain3(self), Reason::Limit.into());
        }
        let public_i = theirs.bytes().to_vec();
        let nonces = Nonces { i: nonce_i, r: env.nonce() };
        env.start_job(owner(link, false), self.offer.group(), |seed| Work::Respond(seed, theirs));
        link.answered = Some(Answered::new(received.fingerprint, Vec::new()));
        let question = received.fingerprint;
        Step::Next(Phase::Answering(Answering { offer: self.offer, nonces, public_i, nat, question }))
    }
}

impl Answering {
    fn computed(self, env: &mut Env, link: &mut Link, computed: Computed) -> Step {
        let Some(shared) = computed.shared else {
            return Step::Stay(Phase::Answering(self), Refusal::Unexpected);
        };
        let Self { offer, nonces, public_i, nat, question } = self;
        let chain = key_exchange(&offer, link, &computed.public, &nonces.r);
        let publics = Publics { i: public_i, r: computed.public };
        match Secured::new(env, link, offer, &nonces, publics, nat, &shared) {
            Ok(secured) => {
                answer(env, link, question, plain(link, &chain));
                Step::Next(Phase::ExpectMain5(ExpectMain5 { secured }))
            }
            Err(reason) => Step::Fail(reason),
        }
    }
}

impl ExpectMain5 {
    fn receive(mut self, env: &mut Env, link: &mut Link, received: &Received<'_>) -> Step {
        // The far end moves to port 4500 with this message, and its NAT to whatever port.
        let moved = (received.local, received.remote) != (link.local, link.remote);
        let same_host = received.local.ip() == link.local.ip() && received.remote.ip() == link.remote.ip();
        if moved && !(self.secured.nat.any() && (same_host || self.secured.nat.remote)) {
            return Step::Stay(Phase::ExpectMain5(self), Refusal::Unexpected);
        }
        let verified = match self.secured.verify(link, received, true) {
            Ok(verified) => verified,
            Err(refusal) => return Step::Stay(Phase::ExpectMain5(self), refusal),
        };
        (link.local, link.remote) = (received.local, received.remote);
        self.secured.iv.clone_from(&verified.next_iv);
        let id = Id::ipv4(*link.local.ip(), 0);
        let mut chain = ChainBuilder::new();
        chain.push(Kind::ID, id.encode()).push(Kind::HASH, self.secured.hash(link, false, &id.encode()));
        let Some(message) = self.secured.seal(link, &chain) else { return Step::Fail(Reason::Malformed) };
        let last_block = self.secured.iv.clone();
        answer(env, link, received.fingerprint, message);
        Step::Proved(Box::new(self.secured.authenticated(Verified { next_iv: last_block, ..verified })))
    }
}

impl Offer {
    fn group(&self) -> DhGroup {
        self.agreed.proposal.dh_group
    }
}

/// What a verified message 5 or 6 says.
struct Verified {
    identity: Identity,
    initial_contact: bool,
    next_iv: Vec<u8>,
}

impl Secured {
    fn new(
        env: &Env,
        link: &Link,
        offer: Offer,
        nonces: &Nonces,
        publics: Publics,
        nat: Nat,
        shared: &[u8],
    ) -> Result<Self, Reason> {
        let proposal = &offer.agreed.proposal;
        // Who the far end is shows only in message 5, so the secret goes by its address.
        let secret = env.secret(link.tunnel, *link.remote.ip()).ok_or(Reason::NotConfigured)?;
        let prf = prf(proposal.hash);
        let seed = KeySeed {
            secret: secret.as_bytes(),
            nonce_i: &nonces.i,
            nonce_r: &nonces.r,
            shared,
            cookie_i: link.cookie_i,
            cookie_r: link.cookie_r,
        };
        let skeyid = SkeyId::derive(prf, &seed);
        let cipher = Cipher::new(proposal, &skeyid.e).map_err(|_| Reason::WeakKey)?;
        let mut iv = digest(proposal.hash, &[&publics.i, &publics.r]);
        iv.truncate(cipher.block_len());
        let keys =
            Keys { prf, hash: proposal.hash, skeyid_d: skeyid.d.clone(), skeyid_a: skeyid.a.clone(), cipher };
        Ok(Self { offer, publics, nat, skeyid, keys, iv })
    }

    /// HASH_I or HASH_R over the sender's own identity. Both cover the initiator's SA payload.
    fn hash(&self, link: &Link, of_initiator: bool, id_body: &[u8]) -> Vec<u8> {
        let (cookie_i, cookie_r) = (link.cookie_i.to_be_bytes(), link.cookie_r.to_be_bytes());
        let Publics { i, r } = &self.publics;
        let parts: [&[u8]; 6] = if of_initiator {
            [i, r, &cookie_i, &cookie_r, &self.offer.sa_body, id_body]
        } else {
            [r, i, &cookie_r, &cookie_i, &self.offer.sa_body, id_body]
        };
        (self.keys.prf)(&self.skeyid.base, &parts).to_vec()
    }

    /// Encrypts message 5 or 6, and keeps the next IV.
    fn seal(&mut self, link: &Link, chain: &ChainBuilder) -> Option<Vec<u8>> {
        let (message, next) = self.keys.seal(header(link), &self.iv, chain)?;
        self.iv = next;
        Some(message)
    }

    /// Decrypts and verifies message 5 (from the initiator) or 6.
    fn verify(
        &self,
        link: &Link,
        received: &Received<'_>,
        from_initiator: bool,
    ) -> Result<Verified, Refusal> {
        let (plain, next_iv) = self.keys.open(&self.iv, received.body).ok_or(Reason::Malformed)?;
        // With another secret on the other side this is noise.
        let chain = Chain::decode(received.header.next, &plain).map_err(|_| Reason::Secret)?;
        let (Some(id_body), Some(hash)) = (chain.one(Kind::ID), chain.one(Kind::HASH)) else {
            return Err(Reason::Secret.into());
        };
        if !equal(hash, &self.hash(link, from_initiator, id_body)) {
            return Err(Reason::Authentication.into());
        }
        let id = Id::decode(id_body)?;
        let known = matches!(id.kind, Id::IPV4_ADDR | Id::FQDN | Id::USER_FQDN | Id::KEY_ID);
        if !known || (id.kind == Id::IPV4_ADDR && id.data.len() != 4) {
            return Err(Reason::Identity.into());
        }
        let initial_contact = chain
            .all(Kind::NOTIFY)
            .filter_map(|body| Notify::decode(body).ok())
            .any(|notify| notify.kind == notification::INITIAL_CONTACT);
        Ok(Verified { identity: Identity { kind: id.kind, data: id.data }, initial_contact, next_iv })
    }

    fn authenticated(self, verified: Verified) -> Authenticated {
        Authenticated {
            identity: verified.identity,
            keys: self.keys,
            last_block: verified.next_iv,
            proposal: self.offer.agreed.proposal,
            nat: self.nat,
            support: self.offer.support,
            lifetime: self.offer.agreed.lifetime,
            initial_contact: verified.initial_contact,
        }
    }
}

/// The SA payload, which must be the first (RFC 2408 section 4.5).
fn first_sa<'a>(chain: &Chain<'a>) -> Result<&'a [u8], Refusal> {
    match chain.first() {
        Some(payload) if payload.kind == Kind::SA && chain.one(Kind::SA).is_some() => Ok(payload.body),
        _ => Err(Reason::Malformed.into()),
    }
}

/// Message 3 or 4.
fn key_exchange(offer: &Offer, link: &Link, public: &[u8], nonce: &[u8]) -> ChainBuilder {
    let mut chain = ChainBuilder::new();
    chain.push(Kind::KE, public).push(Kind::NONCE, nonce);
    if offer.support.nat_t {
        let hash = offer.agreed.proposal.hash;
        chain.push(Kind::NAT_D, nat_d(hash, link.cookies(), link.remote));
        chain.push(Kind::NAT_D, nat_d(hash, link.cookies(), link.local));
    }
    chain
}

/// Reads message 3 or 4: the public value, the nonce, and whether a NAT is on the way.
fn read_key_exchange(
    offer: &Offer,
    link: &Link,
    received: &Received<'_>,
) -> Result<(Public, Vec<u8>, Nat), Refusal> {
    let chain = Chain::decode(received.header.next, received.body)?;
    let (Some(public), Some(nonce)) = (chain.one(Kind::KE), chain.one(Kind::NONCE)) else {
        return Err(Reason::Malformed.into());
    };
    if !NONCES.contains(&nonce.len()) {
        return Err(Reason::Malformed.into());
    }
    let public = Public::parse(offer.group(), public).map_err(|_| Reason::KeyExchange)?;
    let nat = if offer.support.nat_t {
        let hash = offer.agreed.proposal.hash;
        Nat::detect(hash, link.cookies(), chain.all(Kind::NAT_D), link.local, link.remote)
    } else {
        Nat::default()
    };
    Ok((public, nonce.to_vec(), nat))
}

fn initial_contact(link: &Link) -> Notify {
    let mut spi = link.cookie_i.to_be_bytes().to_vec();
    spi.extend_from_slice(&link.cookie_r.to_be_bytes());
    Notify { protocol: 1, spi, kind: notification::INITIAL_CONTACT, data: Vec::new() }
}

fn owner(link: &Link, authenticated: bool) -> JobOwner {
    JobOwner { sa: link.name(), message_id: None, source: *link.remote.ip(), authenticated }
}

fn header(link: &Link) -> Header {
    Header {
        cookie_i: link.cookie_i,
        cookie_r: link.cookie_r,
        next: Kind::NONE,
        exchange: Exchange::MAIN,
        flags: 0,
        message_id: 0,
    }
}

/// A message without encryption.
fn plain(link: &Link, chain: &ChainBuilder) -> Vec<u8> {
    Header { next: chain.first(), ..header(link) }.encode(&chain.encode())
}

/// Sends what is to be repeated until it is answered: the initiator's messages.
fn request(env: &mut Env, now: Instant, link: &mut Link, message: Vec<u8>) {
    env.send(link.local, link.remote, message.clone());
    link.request = Some(Request::new(now, &mut env.rng, message));
}

/// Sends what is repeated only when its question comes again: the responder's messages. A stranger must
/// not be able to make us send on our own.
fn answer(env: &mut Env, link: &mut Link, question: Fingerprint, message: Vec<u8>) {
    env.send(link.local, link.remote, message.clone());
    link.answered = Some(Answered::new(question, message));
}
