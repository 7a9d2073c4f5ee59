//! Neighbors on the ports' links: resolves and answers ARP (RFC 826).
//!
//! An entry that answered is asked again before it expires, so traffic never waits for a station that
//! is there; one that stays silent is reported down, and packets for it are unreachable.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_tables::{Neighbor, NeighborId, PortId};
use dmvpn_wire::arp::{Operation, Packet};
use dmvpn_wire::{EtherType, MacAddr, View, eth};
use ipnetwork::Ipv4Network;

use crate::time::{Instant, Timers};

/// Entries, over all ports.
const CAPACITY: usize = 8192;
/// Packets that wait for one answer.
const HELD: usize = 4;
/// From an answer to the next question.
const REFRESH: Duration = Duration::from_secs(60);
/// Between unanswered questions.
const RETRY: Duration = Duration::from_secs(1);
/// Questions without an answer until a station counts as down.
const TRIES: u8 = 3;
/// How long a station that is down stays down without being asked.
const DOWN: Duration = Duration::from_secs(5);

/// A port as ARP sees it.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Our Ethernet address.
    pub mac: MacAddr,
    /// Our address and the link's network, if we have one.
    pub address: Option<Ipv4Network>,
}

/// What follows from an input or a deadline.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send an Ethernet frame.
    Frame {
        /// On this port.
        port: PortId,
        /// From the destination address on.
        frame: Vec<u8>,
    },
    /// An entry is new, or its Ethernet address changed or became unknown.
    Changed(NeighborId, Neighbor),
    /// An entry is no more.
    Removed(NeighborId, Neighbor),
    /// A packet that waited in vain; from the IPv4 header on.
    Unreachable(Vec<u8>),
    /// Somebody else claims our address.
    Conflict {
        /// Where.
        port: PortId,
        /// Our address.
        address: Ipv4Addr,
        /// Who.
        mac: MacAddr,
    },
}

/// The neighbor tables of all ports.
#[derive(Debug, Default)]
pub struct Arp {
    links: Vec<Link>,
    entries: BTreeMap<NeighborId, Entry>,
    by_address: BTreeMap<(PortId, Ipv4Addr), NeighborId>,
    vacant: Vec<NeighborId>,
    timers: Timers<NeighborId>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Entry {
    port: PortId,
    address: Ipv4Addr,
    state: State,
    /// Gateways and peers that depend on the entry: it stays, and is asked for, even while it is down.
    pins: usize,
}

#[derive(Debug)]
enum State {
    /// Asked, not answered yet.
    Incomplete { tries: u8, held: VecDeque<Vec<u8>> },
    /// Answered; `tries` questions since then without an answer.
    Reachable { mac: MacAddr, tries: u8 },
    /// Did not answer.
    Down,
}

impl Arp {
    /// Sets the ports, and announces our addresses on them (gratuitous ARP, RFC 5227 section 2.3).
    pub fn configure(&mut self, links: Vec<Link>) {
        let before = std::mem::replace(&mut self.links, links);
        let moved: Vec<_> = self
            .by_address
            .iter()
            .filter(|((port, address), _)| !self.on_link(*port, *address))
            .map(|(_, id)| *id)
            .collect();
        for id in moved {
            self.forget(id);
        }
        for (number, link) in (0..).zip(self.links.clone()) {
            let Some(own) = link.address else { continue };
            if before.get(usize::from(number)).is_none_or(|old| old.address != link.address) {
                let announcement = Packet::request(link.mac, own.ip(), own.ip());
                self.emit(PortId(number), MacAddr::BROADCAST, EtherType::ARP, announcement.octets());
            }
        }
    }

    /// The entry of a station, made and asked for if it is new; `None` if the address is not a
    /// station's on that link, or the table is full of entries that must stay.
    pub fn resolve(&mut self, now: Instant, port: PortId, address: Ipv4Addr) -> Option<NeighborId> {
        if let Some(id) = self.by_address.get(&(port, address)) {
            return Some(*id);
        }
        if !self.on_link(port, address) {
            return None;
        }
        if self.entries.len() >= CAPACITY {
            self.evict()?;
        }
        let id = self.create(port, address, State::Incomplete { tries: 0, held: VecDeque::new() });
        self.ask(now, id);
        Some(id)
    }

    /// Keeps an entry, and keeps asking for it, until as many [`Arp::unpin`] follow.
    pub fn pin(&mut self, id: NeighborId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.pins += 1;
        }
    }

    /// Takes back one [`Arp::pin`].
    pub fn unpin(&mut self, id: NeighborId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }

    /// Sends an IPv4 packet to a neighbor, now or when it has answered; the oldest of too many that
    /// wait is dropped.
    pub fn send(&mut self, id: NeighborId, packet: Vec<u8>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match &mut entry.state {
            State::Reachable { mac, .. } => {
                let (port, mac) = (entry.port, *mac);
                self.emit(port, mac, EtherType::IPV4, &packet);
            }
            State::Incomplete { held, .. } => {
                if held.len() == HELD {
                    held.pop_front();
                }
                held.push_back(packet);
            }
            State::Down => self.outputs.push_back(Output::Unreachable(packet)),
        }
    }

    /// Takes an ARP frame that came in by a port, from its Ethernet header on.
    pub fn handle(&mut self, now: Instant, port: PortId, frame: &[u8]) {
        let Some(link) = self.links.get(usize::from(port.0)).copied() else { return };
        let Some(own) = link.address.map(|network| network.ip()) else { return };
        let Ok((_, payload)) = eth::Header::view(frame) else { return };
        let Ok((packet, operation)) = Packet::parse(payload) else { return };
        let (sender, mac) = (packet.sender(), packet.sender_mac);
        if sender == own {
            if mac != link.mac {
                self.outputs.push_back(Output::Conflict { port, address: own, mac });
            }
            return;
        }
        let for_us = packet.target() == own;
        let known = self.on_link(port, sender);
        if known {
            self.learn(now, port, (sender, mac), for_us);
        }
        // A probe (RFC 5227) has no sender address yet and wants its answer all the same.
        if operation == Operation::Request && for_us && (known || sender.is_unspecified()) {
            self.emit(port, mac, EtherType::ARP, packet.reply(link.mac).octets());
        }
    }

    /// When [`Arp::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.timers.pop_due(now) {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            match &mut entry.state {
                State::Incomplete { tries, .. } | State::Reachable { tries, .. } if *tries < TRIES => {
                    self.ask(now, id);
                }
                State::Incomplete { .. } | State::Reachable { .. } => self.give_up(now, id),
                State::Down if entry.pins > 0 => {
                    entry.state = State::Incomplete { tries: 0, held: VecDeque::new() };
                    self.ask(now, id);
                }
                State::Down => self.forget(id),
            }
        }
    }

    /// What follows; `None` when nothing is left.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A station's address on that link: in its network, and neither ours nor a broadcast.
    fn on_link(&self, port: PortId, address: Ipv4Addr) -> bool {
        self.links.get(usize::from(port.0)).and_then(|link| link.address).is_some_and(|own| {
            let edges = own.prefix() < 31 && (address == own.network() || address == own.broadcast());
            own.contains(address) && address != own.ip() && !edges
        })
    }

    /// RFC 826: refresh what is known; take in a new station only if it talks to us.
    fn learn(&mut self, now: Instant, port: PortId, station: (Ipv4Addr, MacAddr), for_us: bool) {
        let (address, mac) = station;
        let id = match self.by_address.get(&(port, address)) {
            Some(id) => *id,
            None if for_us && self.entries.len() < CAPACITY => self.create(port, address, State::Down),
            None => return,
        };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let before = std::mem::replace(&mut entry.state, State::Reachable { mac, tries: 0 });
        self.timers.set(id, now + REFRESH);
        if matches!(before, State::Reachable { mac: known, .. } if known == mac) {
            return;
        }
        let neighbor = entry.neighbor();
        self.outputs.push_back(Output::Changed(id, neighbor));
        if let State::Incomplete { held, .. } = before {
            for packet in held {
                self.emit(port, mac, EtherType::IPV4, &packet);
            }
        }
    }

    fn create(&mut self, port: PortId, address: Ipv4Addr, state: State) -> NeighborId {
        let id = self
            .vacant
            .pop()
            .unwrap_or_else(|| NeighborId(u32::try_from(self.entries.len()).unwrap_or(u32::MAX)));
        let entry = Entry { port, address, state, pins: 0 };
        self.outputs.push_back(Output::Changed(id, entry.neighbor()));
        self.by_address.insert((port, address), id);
        self.entries.insert(id, entry);
        id
    }

    /// Sends one question: to the station itself if it is known, else to all.
    fn ask(&mut self, now: Instant, id: NeighborId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let (State::Incomplete { tries, .. } | State::Reachable { tries, .. }) = &mut entry.state else {
            return;
        };
        *tries += 1;
        let last = *tries == TRIES;
        self.timers.set(id, now + RETRY);
        let to = entry.neighbor().mac.filter(|_| !last).unwrap_or(MacAddr::BROADCAST);
        let (port, target) = (entry.port, entry.address);
        let Some(link) = self.links.get(usize::from(port.0)) else { return };
        let Some(own) = link.address else { return };
        let question = Packet::request(link.mac, own.ip(), target);
        self.emit(port, to, EtherType::ARP, question.octets());
    }

    /// Nobody answered.
    fn give_up(&mut self, now: Instant, id: NeighborId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let before = std::mem::replace(&mut entry.state, State::Down);
        self.timers.set(id, now + DOWN);
        match before {
            State::Incomplete { held, .. } => {
                self.outputs.extend(held.into_iter().map(Output::Unreachable));
            }
            State::Reachable { .. } => {
                let neighbor = entry.neighbor();
                self.outputs.push_back(Output::Changed(id, neighbor));
            }
            State::Down => {}
        }
    }

    /// Makes room by dropping the entry that was heard longest ago among those that need not stay.
    fn evict(&mut self) -> Option<()> {
        let id = self.timers.keys().find(|id| self.entries.get(id).is_some_and(|e| e.pins == 0))?;
        self.forget(id);
        Some(())
    }

    fn forget(&mut self, id: NeighborId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.by_address.remove(&(entry.port, entry.address));
        self.timers.cancel(id);
        self.vacant.push(id);
        self.outputs.push_back(Output::Removed(id, entry.neighbor()));
    }

    /// Sends a frame from our address on a port.
    fn emit(&mut self, port: PortId, to: MacAddr, ether_type: EtherType, payload: &[u8]) {
        let Some(link) = self.links.get(usize::from(port.0)) else { return };
        let mut frame = eth::Header::new(to, link.mac, ether_type).octets().to_vec();
        frame.extend_from_slice(payload);
        self.outputs.push_back(Output::Frame { port, frame });
    }
}

impl Entry {
    fn neighbor(&self) -> Neighbor {
        let mac = match self.state {
            State::Reachable { mac, .. } => Some(mac),
            State::Incomplete { .. } | State::Down => None,
        };
        Neighbor { port: self.port, address: self.address, mac }
    }
}

#[cfg(test)]
mod tests;
