//! The one owner of every protocol machine and of the workers' tables.
//!
//! Inputs come in and outputs go out, both plain values; in between there is no I/O, no clock and no
//! thread, so the same inputs at the same times give the same outputs.
//!
//! ```text
//!   punts ──► punts.rs ──┬─► arp     ─┐
//!   TUN  ──►             ├─► ike     ─┼─► outputs ──► peers, rib ──► working tables ──► publish
//!   requests, config ──► └─► nhrp    ─┘      │                                            │ then
//!                              ▲             └── what one machine says to another         ▼
//!                              └─────────────────────────────────────────────────  injects, DH jobs, ...
//! ```

mod held;
mod interfaces;
mod notice;
mod overlay;
mod punts;
mod requests;
mod sessions;
mod tables;
mod usage;

use std::collections::VecDeque;
use std::sync::Arc;

use dmvpn_config::Config;
use dmvpn_tables::{Inject, PeerId, Publisher, Punt, TunnelId};
use dmvpn_wire::MacAddr;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use self::held::Held;
use self::overlay::Overlay;
use self::tables::Tables;
use crate::arp::Arp;
use crate::icmp;
use crate::ike::{self, DhDone, DhJob};
use crate::limit::RateLimit;
use crate::peer::Peers;
use crate::rib::Rib;
use crate::time::{Instant, Timers};

pub use self::notice::{Fault, Notice, Severity, What};

/// The control plane of one appliance.
pub struct Engine {
    config: Arc<Config>,
    ports: Vec<Port>,
    tables: Tables,
    rib: Rib,
    arp: Arp,
    peers: Peers,
    ike: ike::Machine,
    arrival: Option<punts::Arrival>,
    /// NHRP and what belongs to it, by tunnel.
    overlays: Vec<Overlay>,
    held: Held,
    errors: icmp::Errors,
    unknown_spi: RateLimit,
    calls: sessions::Calls,
    alarms: Timers<Alarm>,
    /// The peer whose counters were looked at last.
    observed: Option<PeerId>,
    start: Start,
    started: Instant,
    rng: ChaCha20Rng,
    closing: bool,
    outputs: VecDeque<Output>,
}

/// What happened outside.
pub enum Input {
    /// A worker hands over a packet.
    Punt(Punt),
    /// A [`DhJob`] has run.
    Dh(DhDone),
    /// An IPv4 packet of the host, read from the TUN device.
    Tun(Vec<u8>),
    /// The configuration is another.
    Config(Arc<Config>),
}

/// What is to be done outside. All that the workers must know for it has been published before.
pub enum Output {
    /// Hand a packet to a worker.
    Inject(Inject),
    /// Run a computation and give the result back as [`Input::Dh`].
    Dh(DhJob),
    /// Write an IPv4 packet to the TUN device.
    Tun(Vec<u8>),
    /// Log it, at a limited rate.
    Notice(Notice),
}

/// A port of the appliance, as its device says.
#[derive(Debug, Clone, Copy)]
pub struct Port {
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Largest IPv4 packet it takes, in bytes.
    pub mtu: u16,
    /// Which worker receives a packet depends on its IP addresses alone.
    pub by_addresses: bool,
}

/// What makes one run of the engine differ from another.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Everything random comes from here.
    pub seed: [u8; 32],
    /// Seconds since the Unix epoch: ids that must grow across restarts begin there.
    pub unix_seconds: u32,
}

/// The engine's own deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    /// Look at the counters of some peers.
    Usage,
    /// Give up packets that wait.
    Held,
    /// Rewrite a tunnel's list of multicast receivers.
    Multicast(TunnelId),
    /// Take leave of peers, at the end.
    Farewell,
    /// See whether a peer that nothing is bound to is still of use.
    Linger(PeerId),
}

impl Engine {
    /// An engine that starts on its configuration: it announces addresses, opens tunnels, registers.
    /// `ports` are those of [`Config::ethernet`], in the same order.
    pub fn new(
        config: Arc<Config>,
        ports: Vec<Port>,
        publisher: Publisher,
        start: Start,
        now: Instant,
    ) -> Self {
        let mut rng = ChaCha20Rng::from_seed(start.seed);
        let workers = u16::try_from(config.dataplane.workers.len()).unwrap_or(u16::MAX);
        let mut engine = Self {
            config: config.clone(),
            ports,
            tables: Tables::new(publisher),
            rib: Rib::default(),
            arp: Arp::default(),
            peers: Peers::new(u32::from_ne_bytes(tables::draw(&mut rng)), workers),
            ike: ike::Machine::new(tables::draw(&mut rng), ike::Limits::default()),
            arrival: None,
            overlays: Vec::new(),
            held: Held::default(),
            errors: icmp::Errors::default(),
            unknown_spi: sessions::unknown_spi_limit(),
            calls: sessions::Calls::default(),
            alarms: Timers::new(),
            observed: None,
            start,
            started: now,
            rng,
            closing: false,
            outputs: VecDeque::new(),
        };
        engine.configure(now, config);
        engine.settle(now);
        engine
    }

    /// Takes what happened. What follows from it is in [`Engine::poll_output`].
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Punt(punt) => self.punt(now, punt),
            Input::Dh(done) => self.ike.handle(now, ike::Input::Dh(done)),
            Input::Tun(packet) => self.packet_of_host(packet),
            Input::Config(config) => self.configure(now, config),
        }
        self.settle(now);
    }

    /// Does what is due. To be called when [`Engine::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.arp.handle_timeout(now);
        self.ike.handle_timeout(now);
        self.overlay_timeouts(now);
        while let Some(alarm) = self.alarms.pop_due(now) {
            match alarm {
                Alarm::Usage => self.observe_some(now),
                Alarm::Held => self.give_up_held(now),
                Alarm::Multicast(tunnel) => self.write_multicast(tunnel),
                Alarm::Farewell => self.take_leave(now),
                Alarm::Linger(peer) => self.linger(now, peer),
            }
        }
        self.settle(now);
    }

    /// When [`Engine::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let overlays = self.overlays.iter().filter_map(Overlay::poll_timeout);
        let machines = [self.arp.poll_timeout(), self.ike.poll_timeout(), self.alarms.next()];
        machines.into_iter().flatten().chain(overlays).min()
    }

    /// The next thing to do; to be called until there is none, after every call of the others.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Carries what the machines say to each other and to the tables until none has anything left to
    /// say, and publishes. Outputs leave only after that: a packet never meets tables older than itself.
    fn settle(&mut self, now: Instant) {
        loop {
            if let Some(output) = self.ike.poll_output() {
                self.carry_out_ike(now, output);
            } else if let Some((tunnel, output)) = self.poll_overlays() {
                self.carry_out_nhrp(now, tunnel, output);
            } else if let Some(output) = self.arp.poll_output() {
                self.carry_out_arp(now, output);
            } else {
                break;
            }
        }
        self.tables.publish();
    }
}

#[cfg(test)]
mod tests;
