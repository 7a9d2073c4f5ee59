//! The network: who is there, what is under way, and what time it is.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dmvpn_config::Config;
use dmvpn_control::show::{self, Request, Response, Topic};
use dmvpn_dataplane::DropReason;
use dmvpn_dataplane::link::HeapPool;
use dmvpn_wire::MacAddr;

use crate::appliance::Appliance;
use crate::internet::{Faults, Internet, Traffic, Verdict};
use crate::random::Random;
use crate::site::Site;
use crate::station::Station;

/// A site, by its place in the network.
pub type SiteId = usize;

/// Time that a packet takes through the internet, in microseconds, and how much that varies.
const LATENCY: u64 = 10_000;
const JITTER: u64 = 200;
/// Time on a LAN.
const LAN_LATENCY: u64 = 50;
/// How much later a packet is that others overtake.
const LATE: u64 = 15_000;

const WAN_PORT: usize = 0;
const LAN_PORT: usize = 1;

/// Sites on an internet, in virtual time.
pub struct Network {
    now: u64,
    next: u64,
    events: BTreeMap<(u64, u64), Event>,
    places: Vec<Place>,
    internet: Internet,
    faults: Faults,
    /// When the last packet from one site to another arrives.
    arrivals: BTreeMap<(SiteId, SiteId), u64>,
    random: Random,
    pool: HeapPool,
    digest: DefaultHasher,
    frames: u64,
}

struct Place {
    site: Site,
    /// `None` while it is switched off.
    appliance: Option<Appliance>,
    station: Station,
    /// When it wakes by itself.
    wake: Option<u64>,
}

enum Event {
    Wake(SiteId),
    ToAppliance(SiteId, usize, Vec<u8>),
    ToStation(SiteId, Vec<u8>),
}

impl Network {
    /// A network without sites.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            now: 0,
            next: 0,
            events: BTreeMap::new(),
            places: Vec::new(),
            internet: Internet::default(),
            faults,
            arrivals: BTreeMap::new(),
            random: Random::new(seed),
            pool: HeapPool::new(512),
            digest: DefaultHasher::new(),
            frames: 0,
        }
    }

    /// Adds a site and switches it on.
    pub fn add(&mut self, site: Site) -> SiteId {
        let id = self.places.len();
        let station_mac = MacAddr([2, 0, 0, 1, site.number, 10]);
        let station = Station::new(station_mac, site.station(), site.mac(1));
        self.internet.add(site.clone());
        self.places.push(Place { site, appliance: None, station, wake: None });
        self.switch_on(id);
        id
    }

    /// Starts a site's appliance, without any memory of what it was before.
    ///
    /// # Panics
    /// If its configuration has a mistake.
    pub fn switch_on(&mut self, id: SiteId) {
        let place = &mut self.places[id];
        let config = parse(&place.site.configuration());
        let seed = self.random.seed();
        let appliance = Appliance::new(&place.site, config, self.pool.clone(), seed, self.now);
        place.appliance = Some(appliance);
        self.work(id);
    }

    /// Cuts a site's power: nothing is said to anybody.
    pub fn switch_off(&mut self, id: SiteId) {
        self.places[id].appliance = None;
        self.places[id].wake = None;
    }

    /// The cables are as bad as this from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Reboots a NAT.
    pub fn reset_nat(&mut self, public: Ipv4Addr) {
        self.internet.reset_nat(public);
    }

    /// Gives an appliance its configuration anew, with changes.
    ///
    /// # Panics
    /// If that has a mistake.
    pub fn reload(&mut self, id: SiteId, change: impl Fn(&str) -> String) {
        let config = parse(&change(&self.places[id].site.configuration()));
        let now = self.now;
        if let Some(appliance) = &mut self.places[id].appliance {
            appliance.reload(now, config);
        }
        self.work(id);
    }

    /// A site gets another WAN address, in another network.
    pub fn readdress(&mut self, id: SiteId, wan: Ipv4Addr) {
        self.places[id].site.wan = wan;
        self.reload(id, str::to_owned);
        self.internet.readdress(id, wan);
    }

    /// A site's tunnel is bound to an IPsec profile.
    pub fn protect(&mut self, id: SiteId) {
        self.places[id].site.options.protected = true;
        self.reload(id, str::to_owned);
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= until
        {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.happen(event);
        }
        self.now = until;
    }

    /// Lets time pass until `done`, looking every 100 ms; false if `limit` passes first.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.time() + limit;
        while !done(self) {
            if self.time() >= end {
                return false;
            }
            self.run(Duration::from_millis(100));
        }
        true
    }

    /// The time since the beginning.
    pub fn time(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// The station of `from` pings that of `to`; the number is for [`Network::answer`].
    pub fn ping(&mut self, from: SiteId, to: SiteId) -> u16 {
        let destination = self.places[to].site.station();
        self.ping_address(from, destination)
    }

    /// The station of `from` pings an address.
    pub fn ping_address(&mut self, from: SiteId, to: Ipv4Addr) -> u16 {
        let (sequence, frame) = self.places[from].station.ping(self.now, to);
        self.after(LAN_LATENCY, Event::ToAppliance(from, LAN_PORT, frame));
        sequence
    }

    /// How long the answer to a ping took; `None` if there was none yet.
    pub fn answer(&self, from: SiteId, ping: u16) -> Option<Duration> {
        let (sent, answered) = self.places[from].station.pings.get(&ping)?;
        Some(Duration::from_micros((*answered)? - sent))
    }

    /// Pings every `interval` for a time; returns how many were sent and how many not answered by its end,
    /// which is a second after the last one.
    pub fn ping_train(
        &mut self,
        from: SiteId,
        to: SiteId,
        interval: Duration,
        time: Duration,
    ) -> (usize, Vec<Duration>) {
        let end = self.time() + time;
        let mut pings = Vec::new();
        while self.time() < end {
            pings.push((self.time(), self.ping(from, to)));
            self.run(interval);
        }
        self.run(Duration::from_secs(1));
        let lost = pings.iter().filter(|(_, ping)| self.answer(from, *ping).is_none());
        (pings.len(), lost.map(|(at, _)| *at).collect())
    }

    /// What went from one site's WAN port to another's.
    pub fn traffic(&self, from: SiteId, to: SiteId) -> Traffic {
        self.internet.traffic.get(&(from, to)).copied().unwrap_or_default()
    }

    /// What went from any site to any other.
    pub fn total(&self) -> Traffic {
        self.internet.traffic.values().fold(Traffic::default(), |sum, of| Traffic {
            ike: sum.ike + of.ike,
            esp: sum.esp + of.esp,
            clear: sum.clear + of.clear,
            other: sum.other + of.other,
        })
    }

    /// Asks an appliance, as an operator. Nothing comes from one that is switched off.
    pub fn request(&mut self, id: SiteId, request: Request) -> Option<Response> {
        let now = self.now;
        let response = self.places[id].appliance.as_mut()?.request(now, request);
        self.work(id);
        Some(response)
    }

    /// The peers of an appliance.
    pub fn peers(&mut self, id: SiteId) -> Vec<show::Peer> {
        match self.request(id, Request::Show(Topic::Dmvpn)) {
            Some(Response::Dmvpn(peers)) => peers,
            _ => Vec::new(),
        }
    }

    /// How many overlay addresses have registered with an appliance and are reachable.
    pub fn registered(&mut self, id: SiteId) -> usize {
        let peers = self.peers(id);
        let up = peers.iter().filter(|peer| peer.up).flat_map(|peer| &peer.overlay);
        up.filter(|binding| binding.kind == dmvpn_control::nhrp::Kind::Dynamic).count()
    }

    /// The host behind an appliance's TUN device sends an IPv4 packet.
    pub fn host_sends(&mut self, id: SiteId, packet: Vec<u8>) {
        let now = self.now;
        if let Some(appliance) = &mut self.places[id].appliance {
            appliance.host_sends(now, packet);
        }
        self.work(id);
    }

    /// Takes what came for the host behind an appliance's TUN device.
    pub fn host_receives(&mut self, id: SiteId) -> Vec<Vec<u8>> {
        self.places[id].appliance.as_mut().map_or_else(Vec::new, |of| std::mem::take(&mut of.to_host))
    }

    /// The last lines of an appliance's log.
    pub fn log(&self, id: SiteId) -> String {
        let lines = self.places[id].appliance.iter().flat_map(|appliance| &appliance.log);
        lines.fold(String::new(), |text, line| text + line + "\n")
    }

    /// What an appliance's worker dropped, and why.
    pub fn drops(&self, id: SiteId) -> Vec<(DropReason, u64)> {
        self.places[id].appliance.as_ref().map_or_else(Vec::new, Appliance::drops)
    }

    /// A hash of all frames that appliances sent so far, with their times; and their number.
    pub fn digest(&self) -> (u64, u64) {
        (self.digest.finish(), self.frames)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(id) => {
                if self.places[id].wake == Some(self.now) {
                    self.places[id].wake = None;
                    self.work(id);
                }
            }
            Event::ToAppliance(id, port, frame) => {
                if let Some(appliance) = &mut self.places[id].appliance {
                    appliance.deliver(port, &frame);
                    self.work(id);
                }
            }
            Event::ToStation(id, frame) => {
                if let Some(answer) = self.places[id].station.receive(self.now, &frame) {
                    self.after(LAN_LATENCY, Event::ToAppliance(id, LAN_PORT, answer));
                }
            }
        }
    }

    /// Lets an appliance work, and sends its frames on their way.
    fn work(&mut self, id: SiteId) {
        let Some(appliance) = &mut self.places[id].appliance else { return };
        let sent = appliance.work(self.now);
        let wake = appliance.wakes_at().map(|at| at.max(self.now + 1));
        for (port, frame) in sent {
            self.frames += 1;
            self.digest.write_u64(self.now);
            self.digest.write(&frame);
            if port == WAN_PORT {
                self.send_by_wan(id, &frame);
            } else {
                self.after(LAN_LATENCY, Event::ToStation(id, frame));
            }
        }
        if let Some(at) = wake
            && self.places[id].wake != wake
        {
            self.places[id].wake = wake;
            self.after(at - self.now, Event::Wake(id));
        }
    }

    fn send_by_wan(&mut self, from: SiteId, frame: &[u8]) {
        match self.internet.receive(from, frame) {
            Verdict::Answer(frame) => self.after(LAN_LATENCY, Event::ToAppliance(from, WAN_PORT, frame)),
            Verdict::Deliver(to, frame) => {
                let copies = 1 + usize::from(self.random.strikes(self.faults.duplication));
                for _ in 0..copies {
                    if self.random.strikes(self.faults.loss) {
                        continue;
                    }
                    let arrival = self.now + LATENCY + self.random.below(JITTER);
                    // A cable keeps the order of what it carries, unless a fault strikes.
                    let arrival = if self.random.strikes(self.faults.reordering) {
                        arrival + LATE
                    } else {
                        let last = self.arrivals.entry((from, to)).or_default();
                        *last = arrival.max(*last + 1);
                        *last
                    };
                    self.after(arrival - self.now, Event::ToAppliance(to, WAN_PORT, frame.clone()));
                }
            }
            Verdict::Nothing => {}
        }
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.next += 1;
        self.events.insert((self.now + delay, self.next), event);
    }
}

fn parse(text: &str) -> Arc<Config> {
    let config = dmvpn_config::parse(text, "site.toml").unwrap_or_else(|mistakes| {
        panic!("{}", mistakes.iter().map(ToString::to_string).collect::<String>())
    });
    Arc::new(config)
}
