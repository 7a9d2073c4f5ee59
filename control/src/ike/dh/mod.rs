//! Diffie-Hellman: the MODP groups (RFC 2409 section 6, RFC 3526) and the ECP groups (RFC 5903).
//!
//! The machine never computes a power itself. It emits a [`DhJob`], which somebody runs (it is a pure
//! function) and hands back as a [`DhDone`].

mod ecp;
mod modp;
mod primes;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::Ipv4Addr;

use dmvpn_config::model::DhGroup;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use zeroize::Zeroizing;

use self::modp::modp;
use super::api::Reason;

/// A secret number: an exponent, a scalar, or what two ends agreed on. Always of the full length of its
/// group, wiped when dropped, without `Debug`.
pub(super) type SecretNumber = Zeroizing<Vec<u8>>;

/// A computation to be run outside the machine.
pub struct DhJob {
    ticket: Ticket,
    group: DhGroup,
    work: Work,
    source: Ipv4Addr,
    authenticated: bool,
}

/// The result of a [`DhJob`].
pub struct DhDone {
    pub(super) ticket: Ticket,
    pub(super) result: Result<Computed, Reason>,
}

/// What a job is for: the main mode or quick mode that waits for it. A job may outlive its exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(pub(super) u64);

impl fmt::Debug for DhJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DhJob")
            .field("ticket", &self.ticket)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DhDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DhDone").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

/// What a secret is drawn from; wiped when dropped.
pub(super) type Seed = Zeroizing<[u8; 32]>;

/// What a job computes.
pub(super) enum Work {
    /// Make a key pair.
    Generate(Seed),
    /// Make a key pair and agree with the far end's public value.
    Respond(Seed, Public),
    /// Agree with the far end's public value.
    Agree(SecretNumber, Public),
}

/// What came of a job.
pub(super) struct Computed {
    /// Our public value; empty after [`Work::Agree`].
    pub(super) public: Vec<u8>,
    /// Our secret, after [`Work::Generate`].
    pub(super) private: Option<SecretNumber>,
    /// The shared secret, after the other two.
    pub(super) shared: Option<SecretNumber>,
}

/// A public value of the right length and range, as it stands in a KE payload.
pub(super) struct Public(Vec<u8>);

/// A public value that no honest end would send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InvalidPublic;

impl DhJob {
    pub(super) fn new(
        ticket: Ticket,
        group: DhGroup,
        work: Work,
        source: Ipv4Addr,
        authenticated: bool,
    ) -> Self {
        Self { ticket, group, work, source, authenticated }
    }

    /// The far end whose message made this necessary: a pool should serve these in turn.
    pub fn source(&self) -> Ipv4Addr {
        self.source
    }

    /// Whether that far end has proved who it is, or we began ourselves. Such jobs go first.
    pub fn authenticated(&self) -> bool {
        self.authenticated
    }

    /// Computes. Takes between a fraction of a millisecond and tens of milliseconds.
    pub fn run(self) -> DhDone {
        let Self { ticket, group, work, .. } = self;
        DhDone { ticket, result: compute(group, work).map_err(|InvalidPublic| Reason::KeyExchange) }
    }

    /// Gives it up where there is no room for it: who waits for the result must hear of it.
    pub fn refuse(self) -> DhDone {
        DhDone { ticket: self.ticket, result: Err(Reason::Limit) }
    }
}

impl Public {
    /// Takes a KE payload's body.
    ///
    /// # Errors
    /// The length must be the group's exactly (RFC 2409 section 5: values are padded), and a MODP value
    /// `y` must be in `2..=p - 2`. Whether an ECP value is on its curve shows when it is used.
    pub(super) fn parse(group: DhGroup, body: &[u8]) -> Result<Self, InvalidPublic> {
        if body.len() != public_len(group) {
            return Err(InvalidPublic);
        }
        match modp(group) {
            Some(modp) if !modp.in_range(body) => Err(InvalidPublic),
            _ => Ok(Self(body.to_vec())),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Bytes of a public value: those of the prime, or of both coordinates (RFC 5903 section 7).
pub(super) fn public_len(group: DhGroup) -> usize {
    match group {
        DhGroup::Modp1024 => 128,
        DhGroup::Modp1536 => 192,
        DhGroup::Modp2048 => 256,
        DhGroup::Modp3072 => 384,
        DhGroup::Modp4096 => 512,
        DhGroup::Modp6144 => 768,
        DhGroup::Modp8192 => 1024,
        DhGroup::Ecp256 => 64,
        DhGroup::Ecp384 => 96,
        DhGroup::Ecp521 => 132,
    }
}

fn compute(group: DhGroup, work: Work) -> Result<Computed, InvalidPublic> {
    match work {
        Work::Generate(seed) => {
            let (private, public) = generate(group, &seed);
            Ok(Computed { public, private: Some(private), shared: None })
        }
        Work::Respond(seed, theirs) => {
            let (private, public) = generate(group, &seed);
            let shared = agree(group, &private, &theirs)?;
            Ok(Computed { public, private: None, shared: Some(shared) })
        }
        Work::Agree(private, theirs) => {
            let shared = agree(group, &private, &theirs)?;
            Ok(Computed { public: Vec::new(), private: None, shared: Some(shared) })
        }
    }
}

fn generate(group: DhGroup, seed: &Seed) -> (SecretNumber, Vec<u8>) {
    let mut rng = ChaCha20Rng::from_seed(**seed);
    match modp(group) {
        Some(modp) => modp.generate(&mut rng),
        None => ecp::generate(group, &mut rng),
    }
}

fn agree(group: DhGroup, private: &SecretNumber, theirs: &Public) -> Result<SecretNumber, InvalidPublic> {
    match modp(group) {
        Some(modp) => modp.agree(private, &theirs.0),
        None => ecp::agree(group, private, &theirs.0),
    }
}
