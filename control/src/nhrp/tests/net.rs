//! A network of machines in virtual time: underlay with loss, duplication and reordering, NATs, and just enough
//! forwarding to see which way a packet takes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_config::{Multicast, Nhrp, NhrpMap, Secret};
use dmvpn_tables::PeerId;
use ipnetwork::Ipv4Network;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::nhrp::{Config, Event, Input, Kind, Limits, Machine, Output, Route, Routes};
use crate::time::Instant;

pub(super) type Node = usize;

/// Time to make a path, as IKE would take it.
const HANDSHAKE: Duration = Duration::from_millis(80);
/// Time to find out that there is nobody.
const NOBODY: Duration = Duration::from_secs(5);
/// How often traffic counters are read.
const COUNTERS: Duration = Duration::from_secs(10);

pub(super) const HUB: Node = 0;
pub(super) const HUB_NBMA: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 41);

/// Probabilities in percent.
#[derive(Clone, Copy, Default)]
pub(super) struct Weather {
    pub(super) loss: u32,
    pub(super) duplication: u32,
    pub(super) reordering: bool,
}

#[derive(Default)]
pub(super) struct Table(BTreeMap<Ipv4Network, Route>);

pub(super) struct Station {
    pub(super) machine: Machine,
    pub(super) overlay: Ipv4Addr,
    pub(super) lan: Ipv4Network,
    /// Its own address, and the one that others see.
    pub(super) nbma: Ipv4Addr,
    pub(super) public: Ipv4Addr,
    pub(super) alive: bool,
    pub(super) routes: Table,
    pub(super) bindings: BTreeMap<Ipv4Addr, (PeerId, Kind)>,
    pub(super) shortcuts: BTreeMap<Ipv4Network, (Ipv4Addr, PeerId)>,
    pub(super) multicast: BTreeSet<PeerId>,
    pub(super) events: Vec<(Instant, Event)>,
    paths: BTreeMap<PeerId, (Node, PeerId, u64)>,
    connecting: BTreeSet<Ipv4Addr>,
    released: BTreeSet<PeerId>,
    next_peer: u32,
}

enum Action {
    Deliver { to: Node, from: PeerId, packet: Vec<u8> },
    Connected { a: Node, b: Node },
    Failed { node: Node, nbma: Ipv4Addr },
    Counters,
}

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) stations: Vec<Station>,
    pub(super) weather: Weather,
    /// Every packet sent: when, by whom, what.
    pub(super) sent: Vec<(Instant, Node, Vec<u8>)>,
    /// Both ends that connect at once get a path each.
    pub(super) double_paths: bool,
    /// Between these two nothing gets through directly, whatever IKE says.
    pub(super) blackhole: Option<(Node, Node)>,
    actions: BTreeMap<(Instant, u64), Action>,
    sequence: u64,
    rng: ChaCha8Rng,
}

pub(super) fn nhrp(maps: Vec<NhrpMap>, multicast: Multicast) -> Nhrp {
    Nhrp {
        authentication: Some(Secret::new("SECRET")),
        holding_time: 300,
        maps,
        multicast,
        redirect: multicast == Multicast::Dynamic,
        shortcut: multicast == Multicast::Nhs,
    }
}

pub(super) fn hub_map() -> NhrpMap {
    NhrpMap { address: net("10.0.0.1/24"), nbma: HUB_NBMA, register: true }
}

pub(super) fn config(address: &str, nhrp: Nhrp, seed: u64) -> Config {
    Config { address: net(address), nhrp, limits: Limits::default(), first_request_id: 1, seed }
}

pub(super) fn net(text: &str) -> Ipv4Network {
    text.parse().unwrap()
}

pub(super) fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

impl Table {
    pub(super) fn set(&mut self, prefix: Ipv4Network, route: Route) {
        self.0.insert(prefix, route);
    }

    pub(super) fn via(&mut self, prefix: &str, next_hop: &str) {
        self.set(net(prefix), Route::Overlay { next_hop: ip(next_hop), prefix: net(prefix) });
    }
}

impl Routes for Table {
    fn lookup(&self, destination: Ipv4Addr) -> Route {
        let longest = self.0.iter().filter(|(prefix, _)| prefix.contains(destination));
        match longest.max_by_key(|(prefix, _)| prefix.prefix()) {
            // The tunnel's own network: everybody is his own next hop.
            Some((prefix, Route::Overlay { next_hop, .. })) if next_hop.is_unspecified() => {
                Route::Overlay { next_hop: destination, prefix: *prefix }
            }
            Some((_, route)) => *route,
            None => Route::None,
        }
    }
}

impl Station {
    /// The station `number` of the seed's network: 10.0.0.(number + 1), LAN 192.168.(number + 1).0/24.
    pub(super) fn new(number: usize, config: Config, nbma: Ipv4Addr, public: Ipv4Addr) -> Self {
        let [_, _, high, low] = config.address.ip().octets();
        let index = u8::try_from((number + 1) % 256).unwrap();
        let lan = Ipv4Network::new(Ipv4Addr::new(192, 168 + high, index, 0), 24).unwrap();
        assert_eq!(low, index);
        let overlay = config.address.ip();
        let mut routes = Table::default();
        let network = Ipv4Network::new(config.address.network(), config.address.prefix()).unwrap();
        routes.set(network, Route::Overlay { next_hop: Ipv4Addr::UNSPECIFIED, prefix: network });
        routes.set(Ipv4Network::from(overlay), Route::Local);
        routes.set(lan, Route::OffTunnel { prefix: lan });
        Self {
            machine: Machine::new(config),
            overlay,
            lan,
            nbma,
            public,
            alive: true,
            routes,
            bindings: BTreeMap::new(),
            shortcuts: BTreeMap::new(),
            multicast: BTreeSet::new(),
            events: Vec::new(),
            paths: BTreeMap::new(),
            connecting: BTreeSet::new(),
            released: BTreeSet::new(),
            next_peer: 1,
        }
    }

    pub(super) fn host(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.lan.ip()) + 10)
    }

    pub(super) fn peer_to(&self, node: Node) -> Option<PeerId> {
        self.paths.iter().find(|(_, (remote, ..))| *remote == node).map(|(peer, _)| *peer)
    }

    pub(super) fn peers_to(&self, node: Node) -> Vec<PeerId> {
        self.paths.iter().filter(|(_, (remote, ..))| *remote == node).map(|(peer, _)| *peer).collect()
    }

    pub(super) fn saw(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(|(_, event)| wanted(event))
    }
}

impl Net {
    /// A hub and `spokes` spokes with the seed's values. Spokes know by static routes whose LAN is whose only at
    /// the hub; they send all to it.
    pub(super) fn new(spokes: usize, seed: u64, weather: Weather) -> Self {
        let hub = config("10.0.0.1/24", nhrp(Vec::new(), Multicast::Dynamic), seed);
        let mut stations = vec![Station::new(HUB, hub, HUB_NBMA, HUB_NBMA)];
        for number in 1..=spokes {
            let last = u8::try_from(number + 1).unwrap();
            let address = format!("10.0.0.{last}/24");
            let spoke = config(&address, nhrp(vec![hub_map()], Multicast::Nhs), seed + number as u64);
            let nbma = Ipv4Addr::new(203, 0, 113, last);
            let mut station = Station::new(number, spoke, nbma, nbma);
            station.routes.via("192.168.0.0/16", "10.0.0.1");
            let lan = station.lan;
            let next_hop = station.overlay;
            stations[HUB].routes.set(lan, Route::Overlay { next_hop, prefix: lan });
            stations.push(station);
        }
        Self {
            now: Instant::ZERO,
            stations,
            weather,
            sent: Vec::new(),
            double_paths: false,
            blackhole: None,
            actions: BTreeMap::new(),
            sequence: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Puts a NAT in front of a spoke, before the start.
    pub(super) fn nat(&mut self, node: Node, private: &str, public: &str) {
        self.stations[node].nbma = ip(private);
        self.stations[node].public = ip(public);
    }

    pub(super) fn start(&mut self) {
        for node in 0..self.stations.len() {
            let station = &mut self.stations[node];
            let nbma = station.nbma;
            station.machine.set_nbma(self.now, Some(nbma));
            self.drain(node);
        }
        self.at(COUNTERS, Action::Counters);
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let action = self.actions.first_key_value().map(|((at, _), _)| *at);
            let alive = self.stations.iter().enumerate().filter(|(_, station)| station.alive);
            let timer = alive.filter_map(|(node, s)| Some((s.machine.poll_timeout()?, node))).min();
            match (action, timer) {
                (Some(at), _) if at <= end && timer.is_none_or(|(due, _)| at <= due) => {
                    let (_, action) = self.actions.pop_first().unwrap();
                    self.now = at;
                    self.act(action);
                }
                (_, Some((due, node))) if due <= end => {
                    self.now = self.now.max(due);
                    let station = &mut self.stations[node];
                    station.machine.handle_timeout(self.now, &station.routes);
                    assert!(station.machine.poll_timeout().is_none_or(|next| next > self.now), "spins");
                    self.drain(node);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Sends a packet from a host of `from`'s LAN to `destination` and tells the stations that it passed.
    pub(super) fn ping(&mut self, from: Node, destination: Ipv4Addr) -> Option<Vec<Node>> {
        let source = self.stations[from].host();
        let packet = inner(source, destination);
        let mut visited = vec![from];
        let mut arrived_by = None;
        let mut node = from;
        for _ in 0..8 {
            let station = &mut self.stations[node];
            let shortcut = station.shortcuts.iter().filter(|(prefix, _)| prefix.contains(destination));
            let longest = shortcut.max_by_key(|(prefix, _)| prefix.prefix()).map(|(_, (next, _))| *next);
            let next_hop = match (station.routes.lookup(destination), longest) {
                (Route::Local | Route::OffTunnel { .. }, _) => return Some(visited),
                (Route::None, _) => return None,
                (_, Some(next_hop)) | (Route::Overlay { next_hop, .. }, None) => next_hop,
            };
            let bound = station.bindings.get(&next_hop).map(|(peer, _)| *peer);
            if bound.is_none() {
                let input = Input::Resolve { destination };
                station.machine.handle(self.now, input, &station.routes);
            }
            let by_hub =
                station.bindings.values().find(|(_, kind)| *kind == Kind::Nhs).map(|(peer, _)| *peer);
            let peer = bound.or(by_hub);
            if let Some(from) = arrived_by.filter(|_| peer.is_some()) {
                let input = Input::Redirect { from, packet: &packet };
                station.machine.handle(self.now, input, &station.routes);
            }
            self.drain(node);
            let (next, back, _) = self.count(node, peer?)?;
            self.count(next, back)?;
            arrived_by = Some(back);
            node = next;
            visited.push(node);
        }
        panic!("{destination} goes round: {visited:?}")
    }

    /// A station vanishes without a word; its peers find out when their probes say so.
    pub(super) fn kill(&mut self, node: Node) {
        self.stations[node].alive = false;
        self.stations[node].paths.clear();
    }

    /// What DPD does in the end.
    pub(super) fn peers_notice(&mut self, gone: Node) {
        for node in 0..self.stations.len() {
            if !self.stations[node].alive {
                continue;
            }
            while let Some(peer) = self.stations[node].peer_to(gone) {
                self.path_down(node, peer);
            }
        }
    }

    pub(super) fn revive(&mut self, node: Node, machine: Machine) {
        let nbma = self.stations[node].nbma;
        let station = &mut self.stations[node];
        station.alive = true;
        station.machine = machine;
        station.bindings.clear();
        station.shortcuts.clear();
        station.multicast.clear();
        station.connecting.clear();
        station.released.clear();
        station.machine.set_nbma(self.now, Some(nbma));
        self.drain(node);
    }

    /// A station gets another underlay address.
    pub(super) fn move_to(&mut self, node: Node, nbma: Ipv4Addr) {
        self.stations[node].connecting.clear();
        let station = &mut self.stations[node];
        station.nbma = nbma;
        station.public = nbma;
        station.machine.set_nbma(self.now, Some(nbma));
        self.drain(node);
    }

    /// A station says goodbye and goes.
    pub(super) fn shut_down(&mut self, node: Node) {
        self.stations[node].machine.shut_down();
        self.drain(node);
        self.run(Duration::from_millis(300));
        self.kill(node);
    }

    /// Tears the paths between two stations down at both ends.
    pub(super) fn cut(&mut self, a: Node, b: Node) {
        for (node, other) in [(a, b), (b, a)] {
            while let Some(peer) = self.stations[node].peer_to(other) {
                self.path_down(node, peer);
            }
        }
    }

    pub(super) fn path_down(&mut self, node: Node, peer: PeerId) {
        let station = &mut self.stations[node];
        station.paths.remove(&peer);
        station.machine.handle(self.now, Input::PeerDown { peer }, &station.routes);
        self.drain(node);
        assert!(self.stations[node].bindings.values().all(|(bound, _)| *bound != peer));
    }

    /// Gives a station a packet as if a peer had sent it.
    pub(super) fn inject(&mut self, node: Node, from: PeerId, bytes: &[u8]) {
        let station = &mut self.stations[node];
        station.machine.handle(self.now, Input::Packet { from, bytes }, &station.routes);
        self.drain(node);
    }

    /// Makes paths between two stations at once.
    pub(super) fn join(&mut self, a: Node, b: Node) {
        let ids = [a, b].map(|node| {
            self.stations[node].next_peer += 1;
            PeerId(self.stations[node].next_peer)
        });
        for (node, other, peer, back) in [(a, b, ids[0], ids[1]), (b, a, ids[1], ids[0])] {
            self.stations[node].paths.insert(peer, (other, back, 0));
            let nbma = self.stations[other].public;
            let natted = nbma != self.stations[other].nbma;
            self.stations[node].connecting.remove(&nbma);
            let station = &mut self.stations[node];
            station.machine.handle(self.now, Input::PeerUp { peer, nbma, natted }, &station.routes);
        }
        self.drain(a);
        self.drain(b);
    }

    fn count(&mut self, node: Node, peer: PeerId) -> Option<(Node, PeerId, u64)> {
        let path = self.stations[node].paths.get_mut(&peer)?;
        path.2 += 1;
        Some(*path)
    }

    fn at(&mut self, after: Duration, action: Action) {
        self.sequence += 1;
        self.actions.insert((self.now + after, self.sequence), action);
    }

    fn percent(&mut self, chance: u32) -> bool {
        self.rng.next_u32() % 100 < chance
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Deliver { to, from, packet } => {
                if self.stations[to].alive && self.count(to, from).is_some() {
                    self.inject(to, from, &packet);
                }
            }
            Action::Connected { a, b } => {
                let (seen_a, seen_b) = (self.stations[a].public, self.stations[b].public);
                let wanted = self.stations[a].connecting.contains(&seen_b);
                if wanted || (self.double_paths && self.stations[b].connecting.contains(&seen_a)) {
                    self.join(a, b);
                }
            }
            Action::Failed { node, nbma } => {
                if self.stations[node].connecting.remove(&nbma) {
                    let station = &mut self.stations[node];
                    station.machine.handle(self.now, Input::ConnectFailed { nbma }, &station.routes);
                    self.drain(node);
                }
            }
            Action::Counters => {
                for node in 0..self.stations.len() {
                    let station = &mut self.stations[node];
                    for (peer, (_, _, packets)) in &mut station.paths {
                        let input = Input::Used { peer: *peer, packets: std::mem::take(packets) };
                        if station.alive && !matches!(input, Input::Used { packets: 0, .. }) {
                            station.machine.handle(self.now, input, &station.routes);
                        }
                    }
                    self.drain(node);
                }
                self.at(COUNTERS, Action::Counters);
            }
        }
    }

    /// Carries out what a machine wants, and holds it to its promises.
    fn drain(&mut self, node: Node) {
        while let Some(output) = self.stations[node].machine.poll_output() {
            let now = self.now;
            let station = &mut self.stations[node];
            match output {
                Output::Send { to, packet } => self.transmit(node, to, packet),
                Output::Connect { nbma, .. } => self.connect(node, nbma),
                Output::Bind { overlay, peer, kind } => {
                    assert!(station.paths.contains_key(&peer), "{overlay} bound to a peer that is down");
                    assert_ne!(overlay, station.overlay);
                    station.released.remove(&peer);
                    station.bindings.insert(overlay, (peer, kind));
                }
                Output::Unbind { overlay } => {
                    assert!(station.bindings.remove(&overlay).is_some(), "{overlay} was not bound");
                    assert!(station.shortcuts.values().all(|(next_hop, _)| *next_hop != overlay));
                }
                Output::AddRoute { prefix, next_hop, peer } => {
                    assert_eq!(station.bindings.get(&next_hop).map(|(peer, _)| *peer), Some(peer));
                    assert!(prefix.prefix() >= 8 && !prefix.contains(station.overlay));
                    station.shortcuts.insert(prefix, (next_hop, peer));
                }
                Output::RemoveRoute { prefix } => {
                    assert!(station.shortcuts.remove(&prefix).is_some(), "{prefix} had no shortcut");
                }
                Output::Multicast { peer, member: true } => assert!(station.multicast.insert(peer)),
                Output::Multicast { peer, member: false } => assert!(station.multicast.remove(&peer)),
                Output::Release { peer } => {
                    station.released.insert(peer);
                }
                Output::Probe { peer } => {
                    if let Some((remote, ..)) = station.paths.get(&peer).copied()
                        && !self.stations[remote].alive
                    {
                        self.path_down(node, peer);
                    }
                }
                Output::Event(event) => station.events.push((now, event)),
            }
        }
    }

    fn transmit(&mut self, node: Node, to: PeerId, packet: Vec<u8>) {
        self.sent.push((self.now, node, packet.clone()));
        let (remote, back, _) = self.count(node, to).expect("sent to a peer that is down");
        let Weather { loss, duplication, reordering } = self.weather;
        if self.blackhole.is_some_and(|(a, b)| (a, b) == (node, remote) || (b, a) == (node, remote)) {
            return;
        }
        let copies = 1 + usize::from(self.percent(duplication));
        for _ in 0..copies {
            if self.percent(loss) {
                continue;
            }
            let jitter = if reordering { self.rng.next_u64() % 200_000 } else { 0 };
            let delay = Duration::from_micros(10_000 + jitter);
            self.at(delay, Action::Deliver { to: remote, from: back, packet: packet.clone() });
        }
    }

    /// IKE in three lines: it works if there is somebody at the address, and, behind a NAT, if he comes towards us.
    fn connect(&mut self, node: Node, nbma: Ipv4Addr) {
        assert!(self.stations[node].connecting.insert(nbma), "asked twice for {nbma}");
        let seen = self.stations[node].public;
        let there = |station: &Station| station.alive && station.public == nbma;
        let target = self.stations.iter().position(there).filter(|target| *target != node);
        let target = target.filter(|target| {
            let other = &self.stations[*target];
            other.nbma == other.public || other.connecting.contains(&seen)
        });
        match target {
            Some(target) => {
                if let Some(peer) = self.stations[node].peer_to(target) {
                    self.stations[node].connecting.remove(&nbma);
                    let station = &mut self.stations[node];
                    let input = Input::PeerUp { peer, nbma, natted: false };
                    station.machine.handle(self.now, input, &station.routes);
                } else {
                    self.at(HANDSHAKE, Action::Connected { a: node, b: target });
                }
            }
            None => self.at(NOBODY, Action::Failed { node, nbma }),
        }
    }
}

/// An IPv4 header, and eight octets of nothing.
pub(super) fn inner(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[8] = 62;
    packet[9] = 1;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet
}
