//! The machine: its state, and how an input finds the part that handles it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_config::{Multicast, Nhrp, NhrpMap};
use dmvpn_tables::PeerId;
use ipnetwork::Ipv4Network;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::auth;
use super::cache::{Entry, Shortcut};
use super::client::Server;
use super::packet::{Body, ErrorCode, Message, MessageKind, Packet, flags};
use super::paths::Paths;
use super::proof::Proof;
use super::resolution::{Failure, Question, Resolution};
use super::show::Counters;
use super::{Config, Event, Input, Kind, Misbehavior, Output, Routes};
use crate::time::{Instant, Timers};

/// NHRP on one tunnel.
#[derive(Debug)]
pub struct Machine {
    pub(super) config: Config,
    /// Our own underlay address.
    pub(super) nbma: Option<Ipv4Addr>,
    pub(super) paths: Paths,
    pub(super) entries: BTreeMap<Ipv4Addr, Entry>,
    /// Entries that want a path at an address.
    pub(super) waiting: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
    /// Addresses that a path was asked for to.
    pub(super) connecting: BTreeSet<Ipv4Addr>,
    pub(super) shortcuts: BTreeMap<Ipv4Network, Shortcut>,
    pub(super) multicast: BTreeSet<PeerId>,
    pub(super) servers: Vec<Server>,
    pub(super) next_registration_id: u32,
    /// Resolutions under way, by what is asked for.
    pub(super) resolutions: BTreeMap<Ipv4Addr, Resolution>,
    /// Paths being tried, by the overlay address they are to lead to.
    pub(super) proofs: BTreeMap<Ipv4Addr, Proof>,
    /// Request ids that a reply may have.
    pub(super) outstanding: BTreeMap<u32, Question>,
    pub(super) failures: BTreeMap<Ipv4Addr, Failure>,
    /// When a traffic indication for a destination last went to a peer.
    pub(super) redirects: BTreeMap<(PeerId, Ipv4Addr), Instant>,
    pub(super) timers: Timers<Timer>,
    pub(super) rng: ChaCha8Rng,
    pub(super) counters: Counters,
    pub(super) outputs: VecDeque<Output>,
}

/// What there are deadlines for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The next step with a next hop server, by its position.
    Server(usize),
    /// An entry gets stale, or runs out.
    Entry(Ipv4Addr),
    /// The same for a shortcut.
    Shortcut(Ipv4Network),
    /// No answer, or no path.
    Resolution(Ipv4Addr),
    /// No answer from a path being tried.
    Proof(Ipv4Addr),
    /// A failure is forgotten.
    Failure(Ipv4Addr),
}

/// What a machine is made from, and what takes a new one to change: stations, receivers of multicast, and
/// whether there are shortcuts.
pub fn foundation(nhrp: &Nhrp) -> (&[NhrpMap], Multicast, bool) {
    (&nhrp.maps, nhrp.multicast, nhrp.shortcut)
}

impl Machine {
    /// Takes over options of the same [`foundation`]. They count from the next packet on; what is known stays.
    pub fn reconfigure(&mut self, nhrp: &Nhrp) {
        self.config.nhrp = nhrp.clone();
    }

    /// A machine that knows its configuration and nothing else: no underlay address, no paths.
    pub fn new(config: Config) -> Self {
        let mut entries = BTreeMap::new();
        let mut servers = Vec::new();
        let mut waiting = BTreeSet::new();
        for map in &config.nhrp.maps {
            let kind = if map.register { Kind::Nhs } else { Kind::Static };
            entries.insert(map.address.ip(), Entry::configured(kind, map.nbma));
            // Whoever makes the path: it is taken when it is there.
            waiting.insert((map.nbma, map.address.ip()));
            if map.register {
                servers.push(Server::new(map.address.ip(), map.nbma));
            }
        }
        Self {
            nbma: None,
            paths: Paths::default(),
            entries,
            waiting,
            connecting: BTreeSet::new(),
            shortcuts: BTreeMap::new(),
            multicast: BTreeSet::new(),
            servers,
            next_registration_id: config.first_request_id,
            resolutions: BTreeMap::new(),
            proofs: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            failures: BTreeMap::new(),
            redirects: BTreeMap::new(),
            timers: Timers::new(),
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            counters: Counters::default(),
            outputs: VecDeque::new(),
            config,
        }
    }

    /// Our underlay address is `nbma` from now on; `None`: we have none. Registers anew at once.
    pub fn set_nbma(&mut self, now: Instant, nbma: Option<Ipv4Addr>) {
        if self.nbma != nbma {
            self.nbma = nbma;
            // What was asked for, was asked for from the old address.
            self.connecting.clear();
            self.restart_servers(now);
        }
    }

    /// Takes an input. What follows from it is in [`Machine::poll_output`].
    pub fn handle(&mut self, now: Instant, input: Input<'_>, routes: &dyn Routes) {
        match input {
            Input::Packet { from, bytes } => self.receive(now, from, bytes, routes),
            Input::PeerUp { peer, nbma, natted } => self.peer_up(now, peer, nbma, natted),
            Input::PeerDown { peer } => self.peer_down(now, peer),
            Input::ConnectFailed { nbma } => self.connect_failed(now, nbma),
            Input::Redirect { from, packet } => self.indicate(now, from, packet, routes),
            Input::Resolve { destination } => self.resolve_next_hop(now, destination, routes),
            Input::Used { peer, packets } => self.used(now, peer, packets, routes),
        }
    }

    /// Does what is due. Earlier than [`Machine::poll_timeout`] that is nothing.
    pub fn handle_timeout(&mut self, now: Instant, routes: &dyn Routes) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Server(index) => self.server_due(now, index),
                Timer::Entry(overlay) => self.entry_due(now, overlay, routes),
                Timer::Shortcut(prefix) => self.shortcut_due(now, prefix, routes),
                Timer::Resolution(target) => self.resolution_due(now, target, routes),
                Timer::Proof(overlay) => self.proof_due(now, overlay),
                Timer::Failure(target) => {
                    self.failures.remove(&target);
                }
            }
        }
    }

    /// The next output; to be called until there is none, after every call that takes `&mut self`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Machine::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn receive(&mut self, now: Instant, from: PeerId, bytes: &[u8], routes: &dyn Routes) {
        let Some(path) = self.paths.get_mut(from) else {
            self.counters.refused += 1;
            return;
        };
        path.messages += 1;
        let nbma = path.nbma;
        let Ok(packet) = Packet::decode(bytes) else {
            self.counters.malformed += 1;
            self.event(Event::Misbehaved { peer: from, how: Misbehavior::Malformed });
            return;
        };
        if let Some(counter) = self.counters.received.get_mut(usize::from(packet.body.wire_type())) {
            *counter += 1;
        }
        if !auth::is_authentic(self.config.nhrp.authentication.as_ref(), &packet) {
            self.counters.unauthenticated += 1;
            if let Body::Error { code, .. } = packet.body {
                self.event(Event::ErrorIndicated { peer: from, code, authentic: false });
            } else {
                self.event(Event::AuthenticationFailed { peer: from, nbma });
                self.complain(now, from, &packet, bytes, ErrorCode::Authentication, 0);
            }
            return;
        }
        let Some(own) = self.nbma else { return };
        let received = Received { from, own, bytes, packet: &packet };
        match &packet.body {
            Body::Message(message) => self.message(now, received, message, routes),
            Body::Error { code, packet: offending, .. } => {
                self.error_indicated(now, received, *code, offending, routes);
            }
            Body::Indication { packet: quoted, .. } => self.indicated(now, received, quoted, routes),
        }
    }

    fn message(&mut self, now: Instant, received: Received<'_>, message: &Message, routes: &dyn Routes) {
        let packet = received.packet;
        let ours = self.config.address.ip();
        match message.kind {
            MessageKind::RegistrationRequest => self.registration_request(now, received, message),
            MessageKind::RegistrationReply if packet.source == ours => {
                self.registration_reply(now, received, message);
            }
            MessageKind::ResolutionRequest => self.resolution_request(now, received, message, routes),
            MessageKind::ResolutionReply if packet.source == ours => {
                self.resolution_reply(now, received, message, routes);
            }
            MessageKind::PurgeRequest if packet.destination == ours => {
                self.purge_request(now, received, message);
            }
            MessageKind::PurgeReply if packet.source == ours => {}
            // A registration is for the station that sees the client's address: it is not passed on.
            MessageKind::RegistrationReply => self.counters.refused += 1,
            MessageKind::ResolutionReply | MessageKind::PurgeRequest | MessageKind::PurgeReply => {
                self.pass_on(now, received, routes);
            }
        }
    }

    /// Sends a packet with our password in it, if we have one.
    pub(super) fn send(&mut self, to: PeerId, mut packet: Packet) {
        auth::stamp(self.config.nhrp.authentication.as_ref(), &mut packet);
        self.send_bare(to, &packet);
    }

    pub(super) fn send_bare(&mut self, to: PeerId, packet: &Packet) {
        let Some(path) = self.paths.get_mut(to) else { return };
        let Ok(bytes) = packet.encode() else {
            self.counters.limited += 1;
            return;
        };
        path.messages += 1;
        if let Some(counter) = self.counters.sent.get_mut(usize::from(packet.body.wire_type())) {
            *counter += 1;
        }
        self.outputs.push_back(Output::Send { to, packet: bytes });
    }

    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(super) fn misbehaved(&mut self, peer: PeerId, how: Misbehavior) {
        self.counters.refused += 1;
        self.event(Event::Misbehaved { peer, how });
    }

    /// `time`, up to a quarter shorter: so that what began together does not stay together.
    pub(super) fn jittered(&mut self, time: Duration) -> Duration {
        let quarter = u64::try_from(time.as_micros() / 4).unwrap_or(u64::MAX);
        match quarter {
            0 => time,
            _ => time.saturating_sub(Duration::from_micros(self.rng.next_u64() % quarter)),
        }
    }

    /// Whether there may be a NAT in front of us: a server said so, or IKE found one on the way to a server.
    pub(super) fn may_be_natted(&self) -> bool {
        let natted = |server: &Server| {
            let path = self.peer_of(server.overlay).and_then(|peer| self.paths.get(peer));
            server.public.is_some() || path.is_some_and(|path| path.natted)
        };
        self.servers.iter().any(natted)
    }

    /// Our address as others reach it: that of the NAT in front of us, if a next hop server saw one.
    pub(super) fn public_nbma(&self) -> Option<Ipv4Addr> {
        self.servers.iter().find_map(|server| server.public)
    }
}

/// A packet that authenticated, where it came from, and what came.
#[derive(Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) from: PeerId,
    /// Our own underlay address at this moment.
    pub(super) own: Ipv4Addr,
    pub(super) bytes: &'a [u8],
    pub(super) packet: &'a Packet,
}

/// Flags that a resolution reply has in common with its request.
pub(super) const ECHOED: u16 = flags::ROUTER | flags::UNIQUE | flags::SOURCE_STABLE | flags::NAT;
