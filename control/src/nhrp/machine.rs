//! The machine: its state, and how an input finds the part that handles it.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;

use dmvpn_tables::PeerId;

use super::show::{CacheEntry, Counters, NextHopServer, Shortcut};
use super::{Config, Input, Output, Routes};
use crate::time::Instant;

/// NHRP on one tunnel.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    nbma: Option<Ipv4Addr>,
    paths: BTreeMap<PeerId, Ipv4Addr>,
    counters: Counters,
    outputs: VecDeque<Output>,
}

impl Machine {
    /// A machine that knows its configuration and nothing else: no underlay address, no paths.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            nbma: None,
            paths: BTreeMap::new(),
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Our underlay address is `nbma` from now on; `None`: we have none. Registers anew at once.
    pub fn set_nbma(&mut self, now: Instant, nbma: Option<Ipv4Addr>) {
        let _ = now;
        self.nbma = nbma;
    }

    /// Takes an input. What follows from it is in [`Machine::poll_output`].
    pub fn handle(&mut self, now: Instant, input: Input<'_>, routes: &dyn Routes) {
        let _ = (now, routes);
        match input {
            Input::PeerUp { peer, nbma, .. } => {
                self.paths.insert(peer, nbma);
            }
            Input::PeerDown { peer } => {
                self.paths.remove(&peer);
            }
            _ => {}
        }
    }

    /// Does what is due. Earlier than [`Machine::poll_timeout`] that is nothing.
    pub fn handle_timeout(&mut self, now: Instant, routes: &dyn Routes) {
        let _ = (now, routes);
    }

    /// The next output; to be called until there is none, after every call that takes `&mut self`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Machine::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The cache, in the order of overlay addresses.
    pub fn entries(&self, now: Instant) -> Vec<CacheEntry> {
        let _ = now;
        Vec::new()
    }

    /// The next hop servers, in the order of the configuration.
    pub fn next_hop_servers(&self, now: Instant) -> Vec<NextHopServer> {
        let _ = now;
        Vec::new()
    }

    /// The shortcuts, in the order of prefixes.
    pub fn shortcuts(&self, now: Instant) -> Vec<Shortcut> {
        let _ = now;
        Vec::new()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}
