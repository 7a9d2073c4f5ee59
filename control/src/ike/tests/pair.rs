//! Two machines and the network between them, in virtual time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use dmvpn_config::model::{
    DeadPeerDetection, DhGroup, Encryption, EspGroup, EspMode, EspProposal, Hash, IkeGroup, IkeProposal,
    Profile, Secret,
};
use dmvpn_tables::{PeerId, TunnelId};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::ike::{DownReason, Event, Input, Limits, Machine, Notice, NoticeKind, Output, Reason};
use crate::time::Instant;

pub(super) const TUNNEL: TunnelId = TunnelId(0);
pub(super) const A: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 41);
pub(super) const B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// A profile like the seed's: aes256-sha1, group 2, PFS, tunnel mode.
pub(super) fn profile() -> Profile {
    Profile {
        name: "NHRPVPN".into(),
        secret: Secret::new("SECRET"),
        peer_secrets: Vec::new(),
        ike: IkeGroup {
            name: "IKE-HUB".into(),
            lifetime: 3600,
            proposals: vec![IkeProposal {
                encryption: Encryption::Aes256,
                hash: Hash::Sha1,
                dh_group: DhGroup::Ecp256,
            }],
            dead_peer_detection: None,
        },
        esp: EspGroup {
            name: "ESP-HUB".into(),
            lifetime: 1800,
            mode: EspMode::Tunnel,
            pfs: Some(DhGroup::Ecp256),
            proposals: vec![EspProposal { encryption: Encryption::Aes256, hash: Some(Hash::Sha1) }],
            replay_window: 64,
        },
    }
}

pub(super) fn with_dpd(mut profile: Profile, interval: u32, timeout: u32) -> Profile {
    profile.ike.dead_peer_detection = Some(DeadPeerDetection { interval, timeout });
    profile
}

/// One ESP SA as an end has it installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) peer: PeerId,
    pub(super) child: crate::ike::ChildId,
    pub(super) mode: dmvpn_tables::Mode,
    pub(super) endpoints: dmvpn_tables::Endpoints,
    /// Suite and keys, to compare the two ends of an SA.
    pub(super) keys: String,
}

/// A machine with what its outside would keep.
pub(super) struct End {
    pub(super) machine: Machine,
    pub(super) address: Ipv4Addr,
    pub(super) inbound: BTreeMap<u32, Installed>,
    /// In the order of installation; the last is sent with.
    pub(super) outbound: Vec<(u32, Installed)>,
    /// Every outbound SA there ever was: none may be installed twice.
    pub(super) spent: BTreeSet<(u32, crate::ike::ChildId)>,
    pub(super) up: BTreeMap<PeerId, dmvpn_tables::Endpoints>,
    pub(super) down: Vec<DownReason>,
    pub(super) failed: Vec<Reason>,
    pub(super) notices: Vec<Notice>,
    pub(super) sent: Vec<Datagram>,
    pub(super) identities: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Datagram {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) marker: bool,
    pub(super) payload: Vec<u8>,
}

/// What the network does to datagrams, in percent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    pub(super) loss: u32,
    pub(super) duplication: u32,
    pub(super) reordering: u32,
}

/// A NAT in front of an end: it shows `outside`, and gives every inner port one of its own.
pub(super) struct Nat {
    pub(super) outside: Ipv4Addr,
    pub(super) ports: BTreeMap<u16, u16>,
    pub(super) next: u16,
}

impl Nat {
    pub(super) fn new(outside: Ipv4Addr) -> Self {
        Self { outside, ports: BTreeMap::new(), next: 40_000 }
    }

    /// Forgets its ports: everything gets another one.
    pub(super) fn reboot(&mut self) {
        self.ports.clear();
    }

    fn out(&mut self, from: SocketAddrV4) -> SocketAddrV4 {
        let port = *self.ports.entry(from.port()).or_insert_with(|| {
            self.next += 1;
            self.next
        });
        SocketAddrV4::new(self.outside, port)
    }

    fn into(&self, inside: Ipv4Addr, to: SocketAddrV4) -> Option<SocketAddrV4> {
        let inner = self.ports.iter().find(|(_, outer)| **outer == to.port())?;
        Some(SocketAddrV4::new(inside, *inner.0))
    }
}

pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) ends: [End; 2],
    pub(super) nats: [Option<Nat>; 2],
    pub(super) weather: Weather,
    pub(super) latency: Duration,
    /// Drops everything for this end.
    pub(super) deaf: [bool; 2],
    wire: BTreeMap<(Instant, u64), (usize, Datagram)>,
    order: u64,
    rng: ChaCha20Rng,
    /// Every datagram, as it was sent.
    pub(super) log: Vec<(Instant, usize, Datagram)>,
    /// Whether an end is told of first packets on new SAs, as by a data plane with traffic.
    pub(super) traffic: bool,
    used: BTreeSet<(usize, u32)>,
}

impl End {
    pub(super) fn new(seed: u8, address: Ipv4Addr, profile: &Profile) -> Self {
        let mut machine = Machine::new([seed; 32], Limits::default());
        machine.set_profile(Instant::ZERO, TUNNEL, Arc::new(profile.clone()), Some(address));
        Self {
            machine,
            address,
            inbound: BTreeMap::new(),
            outbound: Vec::new(),
            spent: BTreeSet::new(),
            up: BTreeMap::new(),
            down: Vec::new(),
            failed: Vec::new(),
            notices: Vec::new(),
            sent: Vec::new(),
            identities: Vec::new(),
        }
    }

    pub(super) fn peer(&self) -> PeerId {
        *self.up.keys().next_back().expect("a peer")
    }

    /// Takes what the machine wants done.
    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Send { local, remote, marker, payload } => {
                    self.sent.push(Datagram { from: local, to: remote, marker, payload });
                }
                Output::Dh(job) => self.machine.handle(now, Input::Dh(job.run())),
                Output::Event(event) => self.take(event),
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::PeerUp { peer, endpoints, identity, .. } => {
                self.identities.push(identity.to_string());
                assert!(self.up.insert(peer, endpoints).is_none(), "a peer comes up once");
            }
            Event::PeerMoved { peer, endpoints } => {
                assert!(self.up.insert(peer, endpoints).is_some(), "only a peer moves");
            }
            Event::PeerDown { peer, reason, .. } => {
                assert!(self.up.remove(&peer).is_some(), "only a peer goes down");
                assert!(self.inbound.values().all(|sa| sa.peer != peer), "its SAs go before");
                assert!(self.outbound.iter().all(|(_, sa)| sa.peer != peer), "its SAs go before");
                self.down.push(reason);
            }
            Event::InstallInbound(sa) => {
                assert!(self.up.contains_key(&sa.peer));
                assert!(self.inbound.insert(sa.spi, installed(&sa)).is_none(), "an SPI is free");
            }
            Event::InstallOutbound(sa) => {
                assert!(self.up.contains_key(&sa.peer));
                assert!(self.spent.insert((sa.spi, sa.child)), "its sequence numbers must not begin anew");
                self.outbound.push((sa.spi, installed(&sa)));
            }
            Event::RemoveInbound { spi, .. } => {
                assert!(self.inbound.remove(&spi).is_some(), "only what was installed is removed");
            }
            Event::RemoveOutbound { child, .. } => {
                let position = self.outbound.iter().position(|(_, sa)| sa.child == child);
                self.outbound.remove(position.expect("only what was installed is removed"));
            }
            Event::Failed { reason, .. } => self.failed.push(reason),
            Event::Notice(notice) => self.notices.push(notice),
        }
    }

    pub(super) fn failures(&self) -> Vec<Reason> {
        let of = |notice: &Notice| match notice.kind {
            NoticeKind::Failed { reason, .. } => Some(reason),
            _ => None,
        };
        self.notices.iter().filter_map(of).collect()
    }

    pub(super) fn established(&self, now: Instant) -> usize {
        self.machine.ike_sas(now).filter(|sa| sa.state == "established" || sa.state == "retiring").count()
    }
}

fn installed(sa: &crate::ike::NewSa) -> Installed {
    Installed {
        peer: sa.peer,
        child: sa.child,
        mode: sa.mode,
        endpoints: sa.endpoints,
        keys: format!("{} {:?}", sa.keys.suite(), super::fingerprint(&sa.keys)),
    }
}

impl Pair {
    pub(super) fn new(a: &Profile, b: &Profile) -> Self {
        Self::seeded(1, a, b)
    }

    pub(super) fn seeded(seed: u8, a: &Profile, b: &Profile) -> Self {
        Self {
            now: Instant::from_micros(1_000_000),
            ends: [End::new(seed, A, a), End::new(seed ^ 0x80, B, b)],
            nats: [None, None],
            weather: Weather::default(),
            latency: Duration::from_millis(20),
            deaf: [false; 2],
            wire: BTreeMap::new(),
            order: 0,
            rng: ChaCha20Rng::from_seed([seed ^ 0x55; 32]),
            log: Vec::new(),
            traffic: true,
            used: BTreeSet::new(),
        }
    }

    /// What an end calls the other one.
    pub(super) fn address_of(&self, end: usize) -> Ipv4Addr {
        self.nats[end].as_ref().map_or(self.ends[end].address, |nat| nat.outside)
    }

    pub(super) fn connect(&mut self, from: usize) {
        let remote = self.address_of(1 - from);
        self.input(from, Input::Connect { tunnel: TUNNEL, remote });
    }

    pub(super) fn input(&mut self, end: usize, input: Input) {
        self.ends[end].machine.handle(self.now, input);
        self.flush(end);
    }

    /// Carries datagrams and time on until nothing happens before `until`.
    pub(super) fn run_until(&mut self, until: Instant) {
        loop {
            for end in 0..2 {
                self.flush(end);
            }
            let wire = self.wire.keys().next().map(|(at, _)| *at);
            let timers = self.ends.iter().filter_map(|end| end.machine.poll_timeout());
            // Traffic goes on between events.
            let traffic = self.traffic.then(|| self.now + Duration::from_secs(1));
            let Some(next) = timers.chain(wire).chain(traffic).min().filter(|at| *at <= until) else { break };
            self.now = self.now.max(next);
            while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (to, datagram) = entry.remove();
                self.deliver(to, datagram);
            }
            for end in 0..2 {
                if self.ends[end].machine.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.ends[end].machine.handle_timeout(self.now);
                }
                self.flush(end);
            }
            self.carry_traffic();
        }
        self.now = self.now.max(until);
    }

    pub(super) fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Both ends send to each other, and all they send can be read.
    pub(super) fn assert_connected(&self) {
        for (end, other) in [(0, 1), (1, 0)] {
            let (spi, sa) = self.ends[end].outbound.last().unwrap_or_else(|| panic!("end {end} has no path"));
            let receiver = self.ends[other].inbound.get(spi);
            assert_eq!(
                receiver.map(|sa| &sa.keys),
                Some(&sa.keys),
                "end {end} sends what the other cannot read"
            );
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        [(0, 1), (1, 0)].iter().all(|(end, other)| {
            self.ends[*end].outbound.last().is_some_and(|(spi, sa)| {
                self.ends[*other].inbound.get(spi).is_some_and(|r| r.keys == sa.keys)
            })
        })
    }

    /// Hands a datagram to an end as it stands, whatever the network would do.
    pub(super) fn inject(&mut self, to: usize, datagram: &Datagram) {
        let input =
            Input::Datagram { local: datagram.to, remote: datagram.from, payload: datagram.payload.clone() };
        self.input(to, input);
    }

    /// Both ends send ESP all the time, if `traffic` is on: each first packet is told of.
    fn carry_traffic(&mut self) {
        if !self.traffic {
            return;
        }
        for (end, other) in [(0, 1), (1, 0)] {
            let Some((spi, _)) = self.ends[end].outbound.last() else { continue };
            let spi = *spi;
            let Some(peer) = self.ends[other].inbound.get(&spi).map(|sa| sa.peer) else {
                let remote = self.address_of(end);
                self.input(other, Input::UnknownSpi { spi, remote });
                continue;
            };
            if self.used.insert((other, spi)) {
                self.input(other, Input::InboundUsed { peer, spi });
            }
        }
    }

    fn flush(&mut self, end: usize) {
        self.ends[end].drain(self.now);
        for datagram in std::mem::take(&mut self.ends[end].sent) {
            self.log.push((self.now, end, datagram.clone()));
            self.post(end, datagram);
        }
    }

    fn post(&mut self, from: usize, mut datagram: Datagram) {
        if let Some(nat) = &mut self.nats[from] {
            datagram.from = nat.out(datagram.from);
        }
        let mut copies: VecDeque<Datagram> = VecDeque::from([datagram.clone()]);
        if self.percent(self.weather.duplication) {
            copies.push_back(datagram);
        }
        for copy in copies {
            if self.percent(self.weather.loss) {
                continue;
            }
            let late = if self.percent(self.weather.reordering) { 1 + self.rng.next_u32() % 8 } else { 1 };
            self.order += 1;
            self.wire.insert((self.now + self.latency * late, self.order), (1 - from, copy));
        }
    }

    fn deliver(&mut self, to: usize, mut datagram: Datagram) {
        if let Some(nat) = &self.nats[to] {
            let Some(inner) = nat.into(self.ends[to].address, datagram.to) else { return };
            datagram.to = inner;
        }
        if self.deaf[to] || *datagram.to.ip() != self.ends[to].address || datagram.payload == [0xff] {
            return;
        }
        assert_eq!(
            datagram.marker,
            datagram.to.port() == 4500 || datagram.from.port() == 4500 || datagram.marker
        );
        self.inject(to, &datagram);
    }

    fn percent(&mut self, chance: u32) -> bool {
        self.rng.next_u32() % 100 < chance
    }
}
