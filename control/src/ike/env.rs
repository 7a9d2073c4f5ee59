//! What the exchanges work with: randomness, profiles, and where outputs go.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use dmvpn_config::model::{DhGroup, Profile, Secret};
use dmvpn_tables::{HandlePool, TunnelId};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::api::{ChildId, Event, ExchangeKind, Limits, Notice, NoticeKind, Output, Reason};
use super::dh::{DhJob, Seed, Ticket, Work};
use super::nat_t::PORT_NATT;
use super::status::Counters;

/// Bytes of our nonces.
const NONCE_LEN: usize = 32;
/// Inbound SPIs at a time.
const SPIS: u32 = 1 << 20;

pub(super) struct Env {
    pub(super) limits: Limits,
    pub(super) rng: ChaCha20Rng,
    pub(super) tunnels: BTreeMap<TunnelId, Bound>,
    pub(super) jobs: Jobs,
    /// Inbound SPIs.
    pub(super) spis: HandlePool,
    last_child: u64,
    pub(super) outputs: VecDeque<Output>,
    pub(super) counters: Counters,
}

/// A tunnel with an IPsec profile.
pub(super) struct Bound {
    pub(super) profile: Arc<Profile>,
    pub(super) local: Option<Ipv4Addr>,
}

impl Env {
    pub(super) fn new(seed: [u8; 32], limits: Limits) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let spis = HandlePool::new(SPIS, rng.next_u32());
        Self {
            limits,
            rng,
            tunnels: BTreeMap::new(),
            jobs: Jobs::default(),
            spis,
            last_child: 0,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Sends an ISAKMP message; from port 4500 it goes with the marker.
    pub(super) fn send(&mut self, local: SocketAddrV4, remote: SocketAddrV4, payload: Vec<u8>) {
        self.counters.sent += 1;
        self.outputs.push_back(Output::Send { local, remote, marker: local.port() == PORT_NATT, payload });
    }

    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(super) fn notice(&mut self, remote: SocketAddrV4, tunnel: Option<TunnelId>, kind: NoticeKind) {
        self.event(Event::Notice(Notice { remote, tunnel, kind }));
    }

    /// Counts and reports an exchange that went wrong.
    pub(super) fn problem(
        &mut self,
        remote: SocketAddrV4,
        tunnel: Option<TunnelId>,
        exchange: ExchangeKind,
        reason: Reason,
    ) {
        let counter = match reason {
            Reason::NoProposal => &mut self.counters.no_proposal,
            Reason::Secret => &mut self.counters.bad_secret,
            Reason::Authentication => &mut self.counters.bad_hash,
            Reason::Identity | Reason::Selectors => &mut self.counters.bad_identity,
            Reason::Malformed => &mut self.counters.bad_payload,
            Reason::KeyExchange | Reason::WeakKey => &mut self.counters.bad_key_exchange,
            Reason::NotConfigured | Reason::Limit | Reason::Cancelled => &mut self.counters.limited,
            Reason::Timeout | Reason::Refused(_) => &mut self.counters.failed,
        };
        *counter += 1;
        self.notice(remote, tunnel, NoticeKind::Failed { exchange, reason });
    }

    pub(super) fn nonce(&mut self) -> Vec<u8> {
        let mut nonce = vec![0; NONCE_LEN];
        self.rng.fill_bytes(&mut nonce);
        nonce
    }

    /// A cookie; never zero, which stands for "not known yet".
    pub(super) fn cookie(&mut self) -> u64 {
        self.rng.next_u64().max(1)
    }

    pub(super) fn child_id(&mut self) -> ChildId {
        self.last_child += 1;
        ChildId(self.last_child)
    }

    pub(super) fn profile(&self, tunnel: TunnelId) -> Option<&Arc<Profile>> {
        self.tunnels.get(&tunnel).map(|bound| &bound.profile)
    }

    /// The pre-shared secret for a far end: its own, else the profile's for everybody.
    pub(super) fn secret(&self, tunnel: TunnelId, remote: Ipv4Addr) -> Option<&Secret> {
        let profile = self.profile(tunnel)?;
        let own = profile.peer_secrets.iter().find(|(network, _)| network.contains(remote));
        Some(own.map_or(&profile.secret, |(_, secret)| secret))
    }

    /// Has a key pair made, and the far end's public value used if there is one already.
    pub(super) fn start_job(
        &mut self,
        owner: JobOwner,
        group: DhGroup,
        work: impl FnOnce(Seed) -> Work,
    ) -> Ticket {
        let mut seed = Seed::new([0; 32]);
        self.rng.fill_bytes(seed.as_mut_slice());
        let ticket = self.jobs.issue(owner);
        let job = DhJob::new(ticket, group, work(seed), owner.source, owner.authenticated);
        self.outputs.push_back(Output::Dh(job));
        ticket
    }

    /// Whether one more main mode of this source may have a computation made.
    pub(super) fn may_compute(&self, source: Ipv4Addr) -> bool {
        self.jobs.strangers < self.limits.dh_jobs
            && self.jobs.by_source.get(&source).is_none_or(|jobs| *jobs < self.limits.dh_jobs_per_source)
    }
}

/// Diffie-Hellman computations under way.
#[derive(Default)]
pub(super) struct Jobs {
    issued: u64,
    owners: BTreeMap<Ticket, JobOwner>,
    strangers: usize,
    by_source: BTreeMap<Ipv4Addr, usize>,
}

/// Who waits for a computation.
#[derive(Clone, Copy)]
pub(super) struct JobOwner {
    /// The IKE SA, by our cookie.
    pub(super) sa: u64,
    /// The quick mode; `None` for main mode.
    pub(super) message_id: Option<u32>,
    pub(super) source: Ipv4Addr,
    pub(super) authenticated: bool,
}

impl Jobs {
    fn issue(&mut self, owner: JobOwner) -> Ticket {
        self.issued += 1;
        let ticket = Ticket(self.issued);
        if !owner.authenticated {
            self.strangers += 1;
            *self.by_source.entry(owner.source).or_default() += 1;
        }
        self.owners.insert(ticket, owner);
        ticket
    }

    /// Who waits for the result; they may be gone by now.
    pub(super) fn redeem(&mut self, ticket: Ticket) -> Option<JobOwner> {
        let owner = self.owners.remove(&ticket)?;
        if !owner.authenticated {
            self.strangers = self.strangers.saturating_sub(1);
            if let Some(jobs) = self.by_source.get_mut(&owner.source) {
                *jobs = jobs.saturating_sub(1);
                if *jobs == 0 {
                    self.by_source.remove(&owner.source);
                }
            }
        }
        Some(owner)
    }
}
