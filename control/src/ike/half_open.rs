//! Main modes that others began and that are not authenticated: how many there may be.
//!
//! IKEv1 cannot answer without keeping state: HASH covers the first message, which never comes again. So
//! there is a cap, and when it is reached a stranger that has not shown that it receives our answers
//! makes room, chosen at random: a flood from forged addresses then cannot keep honest ends out for good.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::api::Limits;

#[derive(Default)]
pub(super) struct HalfOpen {
    sources: BTreeMap<u64, Ipv4Addr>,
    by_source: BTreeMap<Ipv4Addr, usize>,
    by_network: BTreeMap<[u8; 3], usize>,
    /// Those that only sent message 1, by cookie.
    unreached: BTreeSet<u64>,
}

/// Whether one more may begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Granted,
    /// If this one goes.
    InPlaceOf(u64),
    Refused,
}

impl HalfOpen {
    /// `at` is a random number. Sources that we have peers at are not bound by the caps on addresses.
    pub(super) fn admit(&self, limits: &Limits, source: Ipv4Addr, known: bool, at: u64) -> Admission {
        let of = |count: Option<&usize>| count.copied().unwrap_or_default();
        let crowded = of(self.by_source.get(&source)) >= limits.half_open_per_source
            || of(self.by_network.get(&network(source))) >= limits.half_open_per_network;
        if crowded && !known {
            return Admission::Refused;
        }
        if self.sources.len() < limits.half_open {
            return Admission::Granted;
        }
        let victim = self.unreached.range(at..).chain(self.unreached.range(..at)).next();
        victim.map_or(Admission::Refused, |victim| Admission::InPlaceOf(*victim))
    }

    pub(super) fn enter(&mut self, cookie: u64, source: Ipv4Addr) {
        self.sources.insert(cookie, source);
        self.unreached.insert(cookie);
        *self.by_source.entry(source).or_default() += 1;
        *self.by_network.entry(network(source)).or_default() += 1;
    }

    /// The far end has our answer.
    pub(super) fn reached(&mut self, cookie: u64) {
        self.unreached.remove(&cookie);
    }

    /// It is authenticated, or gone.
    pub(super) fn leave(&mut self, cookie: u64) {
        let Some(source) = self.sources.remove(&cookie) else { return };
        self.unreached.remove(&cookie);
        decrease(&mut self.by_source, source);
        decrease(&mut self.by_network, network(source));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sources.len()
    }
}

fn network(source: Ipv4Addr) -> [u8; 3] {
    let [a, b, c, _] = source.octets();
    [a, b, c]
}

fn decrease<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
