//! An IKE SA, from its first message to its end.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use dmvpn_config::model::IkeProposal;
use dmvpn_tables::{PeerId, TunnelId};
use rand_core::Rng;

use super::api::Identity;
use super::exchange::{Answered, MessageIds, Request};
use super::keys::{Cipher, Key, Prf};
use super::main_mode::Phase;
use super::nat_t::Nat;
use super::payload::{ChainBuilder, Header};
use super::quick_mode::Quick;
use super::vendor::Support;
use crate::time::Instant;

/// How long a main mode may take that somebody else began.
const HALF_OPEN_LIFE: Duration = Duration::from_secs(30);
/// How long one of ours may take: each of its messages is repeated for as long as that.
const INITIATED_LIFE: Duration = Duration::from_secs(120);
/// How long an IKE SA that has a successor stays, for what is under way.
pub(super) const RETIREMENT: Duration = Duration::from_secs(15);

/// An IKE SA: who is concerned, and how far it is.
pub(super) struct IkeSa {
    pub(super) link: Link,
    pub(super) phase: Phase,
}

/// What an IKE SA has from its first message on.
pub(super) struct Link {
    pub(super) cookie_i: u64,
    /// Zero until the responder has answered.
    pub(super) cookie_r: u64,
    /// We sent the first message.
    pub(super) initiator: bool,
    pub(super) tunnel: TunnelId,
    pub(super) local: SocketAddrV4,
    pub(super) remote: SocketAddrV4,
    /// Where message 1 came from or went to.
    pub(super) origin: SocketAddrV4,
    pub(super) started: Instant,
    /// What we send until it is answered.
    pub(super) request: Option<Request>,
    /// What was answered last.
    pub(super) answered: Option<Answered>,
    /// What an unprotected notification said. Anybody could have sent it: it is only used to explain why
    /// no answer came.
    pub(super) hint: Option<u16>,
    /// Why we began.
    pub(super) purpose: Purpose,
}

/// Why we began a main mode.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Purpose {
    /// To have a pair of ESP SAs.
    pub(super) child: bool,
    /// For a peer that we have already.
    pub(super) peer: Option<PeerId>,
    /// We know nothing of the far end: it should forget what it had with us (INITIAL-CONTACT).
    pub(super) initial_contact: bool,
}

impl Link {
    /// Our cookie, which names the SA on this side.
    pub(super) fn name(&self) -> u64 {
        if self.initiator { self.cookie_i } else { self.cookie_r }
    }

    /// How long its main mode may take.
    pub(super) fn life(&self) -> Duration {
        if self.initiator { INITIATED_LIFE } else { HALF_OPEN_LIFE }
    }

    pub(super) fn cookies(&self) -> (u64, u64) {
        (self.cookie_i, self.cookie_r)
    }
}

/// The keys of an IKE SA in use.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) prf: Prf,
    pub(super) hash: dmvpn_config::model::Hash,
    pub(super) skeyid_d: Key,
    pub(super) skeyid_a: Key,
    pub(super) cipher: Cipher,
}

impl Keys {
    /// Encrypts a chain behind a header. Gives the message and the next IV.
    pub(super) fn seal(
        &self,
        mut header: Header,
        iv: &[u8],
        chain: &ChainBuilder,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        header.next = chain.first();
        header.flags = Header::ENCRYPTED;
        let mut body = chain.encode();
        // IKEv1 has no pad length: padding is what comes after the last payload.
        body.resize(body.len().next_multiple_of(self.cipher.block_len()), 0);
        let next = self.cipher.encrypt(iv, &mut body)?;
        Some((header.encode(&body), next))
    }

    /// Decrypts what follows a header. Gives the plaintext with its padding, and the next IV.
    pub(super) fn open(&self, iv: &[u8], body: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut plain = body.to_vec();
        let next = self.cipher.decrypt(iv, &mut plain).filter(|_| !body.is_empty())?;
        Some((plain, next))
    }

    /// The first IV of an exchange of phase 2 (RFC 2409 appendix B).
    pub(super) fn phase2_iv(&self, last_block: &[u8], message_id: u32) -> Vec<u8> {
        let mut iv = super::keys::digest(self.hash, &[last_block, &message_id.to_be_bytes()]);
        iv.truncate(self.cipher.block_len());
        iv
    }
}

/// What main mode has established.
pub(super) struct Established {
    pub(super) peer: PeerId,
    pub(super) keys: Keys,
    /// The last block of main mode, which every IV of phase 2 comes from.
    pub(super) last_block: Vec<u8>,
    pub(super) proposal: IkeProposal,
    pub(super) nat: Nat,
    pub(super) support: Support,
    pub(super) since: Instant,
    /// When we begin a new main mode.
    pub(super) rekey_at: Instant,
    /// A main mode is under way, or has been tried, that takes its place.
    pub(super) replacing: bool,
    /// When it ends whatever happens.
    pub(super) expires: Instant,
    /// Set once it has a successor: when we delete it.
    pub(super) retire_at: Option<Instant>,
    pub(super) seen: MessageIds,
    /// Quick modes by message identifier.
    pub(super) quick: BTreeMap<u32, Quick>,
}

/// What a main mode proved, before it has a peer.
pub(super) struct Authenticated {
    pub(super) identity: Identity,
    pub(super) keys: Keys,
    pub(super) last_block: Vec<u8>,
    pub(super) proposal: IkeProposal,
    pub(super) nat: Nat,
    pub(super) support: Support,
    pub(super) lifetime: Duration,
    /// The far end knows nothing of us from before.
    pub(super) initial_contact: bool,
}

/// When to replace an SA: the end that began it does so first, so that the two rarely do it at the same
/// moment.
pub(super) fn rekey_after(rng: &mut impl Rng, lifetime: Duration, initiator: bool) -> Duration {
    let percent = if initiator { 80 } else { 88 };
    let millis = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX) / 1000;
    // Five percent of jitter.
    Duration::from_millis(millis.saturating_mul(percent * 10 + u64::from(rng.next_u32() % 50)))
}
