//! The machine: who is who, and what comes in goes where.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

use dmvpn_config::model::Profile;
use dmvpn_tables::TunnelId;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::api::{Input, Limits, Output};
use super::status::{Counters, EspSaStatus, IkeSaStatus};
use crate::time::Instant;

/// IKEv1 for every protected tunnel of this box.
pub struct Machine {
    limits: Limits,
    rng: ChaCha20Rng,
    tunnels: BTreeMap<TunnelId, Bound>,
    outputs: VecDeque<Output>,
    counters: Counters,
}

/// A tunnel with an IPsec profile.
struct Bound {
    profile: Arc<Profile>,
    local: Option<Ipv4Addr>,
}

impl Machine {
    /// A machine without tunnels. Everything it draws at random comes from `seed`: the same seed and
    /// inputs give the same outputs.
    pub fn new(seed: [u8; 32], limits: Limits) -> Self {
        Self {
            limits,
            rng: ChaCha20Rng::from_seed(seed),
            tunnels: BTreeMap::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Binds a profile to a tunnel, or changes it. `local` is our underlay address there; `None` while we
    /// have none. If either is another than before, the tunnel's peers go down first.
    ///
    /// Where tunnels share an address, a main mode that a far end begins belongs to the lowest of them
    /// whose profile takes one of its proposals: nothing in main mode names a tunnel.
    pub fn set_profile(&mut self, now: Instant, tunnel: TunnelId, profile: Arc<Profile>, local: Option<Ipv4Addr>) {
        let _ = now;
        self.tunnels.insert(tunnel, Bound { profile, local });
    }

    /// Takes the profile away. The tunnel's peers go down.
    pub fn remove_profile(&mut self, now: Instant, tunnel: TunnelId) {
        let _ = now;
        self.tunnels.remove(&tunnel);
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        let _ = (now, input);
    }

    /// Does what is due. To be called when [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next thing to do. To be called until it gives `None` after every call of the others.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What was done, and what was refused and why.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Every IKE SA, for an operator to read.
    pub fn ike_sas(&self, now: Instant) -> impl Iterator<Item = IkeSaStatus> {
        let _ = now;
        std::iter::empty()
    }

    /// Every pair of ESP SAs, for an operator to read.
    pub fn esp_sas(&self, now: Instant) -> impl Iterator<Item = EspSaStatus> {
        let _ = now;
        std::iter::empty()
    }
}
