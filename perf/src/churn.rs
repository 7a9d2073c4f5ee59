//! A control plane that never rests: peers rekey, move, register. Its changes go the way of real ones, through the
//! engine's own table of peers and the publisher. What is left out are the messages that lead to them.

use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use anyhow::Context;
use dmvpn_control::ike::{ChildId, Identity, NewSa};
use dmvpn_control::peer::{Peer, Peers};
use dmvpn_dpdk::Clock;
use dmvpn_esp::{IvSeed, KeyMaterial, Suite, WindowSize};
use dmvpn_tables::{
    Adjacency, AdjacencyId, Endpoints, HandlePool, Mode, NeighborId, PeerId, Publisher, Snapshot, TunnelId,
};
use hdrhistogram::Histogram;
use ipnetwork::Ipv4Network;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::network::Network;

/// One publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// A step of a peer's rekeying: the new inbound SA, the new outbound SA, the end of the old ones. Three make a rekey.
    Rekey,
    /// A peer has another underlay address.
    Move,
    /// A station is bound to a peer, or no more.
    Registration,
}

/// What to do until the next order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Order {
    /// Nothing; says what was done before.
    Rest,
    /// Nothing, but without rest: the CPU is as busy as with changes, which may be felt where two share a core.
    Spin,
    /// A change, and when all workers have adopted it, after a pause, the next.
    OneByOne,
    /// So many changes a second.
    Steady(f64),
}

/// What was done by an order.
pub(crate) struct Done {
    /// Changes.
    pub(crate) changes: u64,
    /// Cycles that it took.
    pub(crate) cycles: u64,
    /// Cycles for the change and its publication.
    pub(crate) publication: Histogram<u64>,
    /// Cycles from the beginning of a change to its adoption by all workers.
    pub(crate) adoption: Histogram<u64>,
}

/// The control plane of a network's hub.
pub(crate) struct Churn {
    clock: Clock,
    program: &'static [Change],
    tables: Tables,
    random: ChaCha8Rng,
    changes: usize,
}

/// The engine's side of the tables.
struct Tables {
    working: Snapshot,
    publisher: Publisher,
    suite: Suite,
    peers: Peers,
    spokes: Vec<Spoke>,
    spis: HandlePool,
    /// The spoke that is being rekeyed, and the step.
    rekeying: (usize, u8),
    registered: usize,
}

struct Spoke {
    id: PeerId,
    tunnel: TunnelId,
    endpoints: Endpoints,
    neighbor: NeighborId,
    /// SPIs of the SAs in use, of those that it has got here; then of those to come.
    inbound: [Option<u32>; 2],
    outbound: [Option<u32>; 2],
}

/// The longest pause between two changes that come one by one, in microseconds.
const PAUSE: u64 = 100;
/// Stations that register go to addresses from here on.
const STATIONS: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 0);

impl Churn {
    /// Changes of that program, over and over, each of another peer of the network: at random.
    ///
    /// # Errors
    /// SAs cannot be made.
    pub(crate) fn new(
        clock: Clock,
        network: &Network,
        publisher: Publisher,
        program: &'static [Change],
        seed: u64,
    ) -> anyhow::Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let tables = Tables::new(network, publisher, &mut random)?;
        Ok(Self { clock, program, tables, random, changes: 0 })
    }

    /// Obeys until nobody gives orders any more.
    ///
    /// # Errors
    /// SAs cannot be made.
    pub(crate) fn run(mut self, orders: &Receiver<Order>, done: &Sender<Done>) -> anyhow::Result<()> {
        let mut order = Order::Rest;
        loop {
            let next = match order {
                Order::Rest => orders.recv().ok(),
                Order::Spin | Order::OneByOne | Order::Steady(_) => {
                    let (next, what) = self.obey(order, orders)?;
                    if done.send(what).is_err() {
                        return Ok(());
                    }
                    next
                }
            };
            match next {
                Some(next) => order = next,
                None => return Ok(()),
            }
        }
    }

    /// Carries out an order until the next one comes.
    fn obey(&mut self, order: Order, orders: &Receiver<Order>) -> anyhow::Result<(Option<Order>, Done)> {
        let histogram = || Histogram::new_with_max(self.clock.hz().max(2), 3);
        let (mut publication, mut adoption) = (histogram()?, histogram()?);
        let begin = self.clock.cycles();
        let (mut changes, mut due) = (0, begin);
        let next = loop {
            match orders.try_recv() {
                Ok(next) => break Some(next),
                Err(TryRecvError::Disconnected) => break None,
                Err(TryRecvError::Empty) => {}
            }
            let start = self.clock.cycles();
            if start < due || order == Order::Spin {
                std::hint::spin_loop();
                continue;
            }
            let change = self.program[self.changes % self.program.len()];
            self.changes += 1;
            self.tables.change(change, &mut self.random)?;
            let version = self.tables.publish();
            publication.saturating_record(self.clock.cycles() - start);
            changes += 1;
            match order {
                Order::Rest | Order::Spin => {}
                Order::Steady(rate) => due += self.cycles(1.0 / rate),
                Order::OneByOne => {
                    while !self.tables.publisher.adopted(version) {
                        std::hint::spin_loop();
                    }
                    let adopted = self.clock.cycles();
                    adoption.saturating_record(adopted - start);
                    // What is not used any more goes while nothing is measured, as it would between two events.
                    self.tables.publisher.reclaim();
                    let pause = below(&mut self.random, PAUSE) as f64;
                    due = adopted + self.cycles(pause * 1e-6);
                }
            }
        };
        Ok((next, Done { changes, cycles: self.clock.cycles() - begin, publication, adoption }))
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cycles, and not negative")]
    fn cycles(&self, seconds: f64) -> u64 {
        (seconds * self.clock.hz() as f64) as u64
    }
}

impl Tables {
    fn new(network: &Network, publisher: Publisher, random: &mut ChaCha8Rng) -> anyhow::Result<Self> {
        let count = u32::try_from(network.spokes.len())?;
        // Those of the network, and some for every spoke.
        let mut spis = HandlePool::new(count.saturating_mul(4).max(1 << 14), 1);
        for _ in 0..count {
            spis.alloc();
        }
        let mut tables = Self {
            working: network.snapshot.clone(),
            publisher,
            suite: network.suite,
            peers: Peers::new(0, 1),
            spokes: Vec::new(),
            spis,
            rekeying: (0, 0),
            registered: 0,
        };
        for entry in network.snapshot.peers.iter().filter_map(|(_, peer)| peer.as_ref()) {
            let (id, tunnel, endpoints, neighbor) =
                (entry.id(), entry.tunnel(), *entry.endpoints(), entry.neighbor());
            let identity = Identity { kind: 1, data: endpoints.remote.octets().to_vec() };
            tables.peers.insert(id, Peer::protected(tunnel, endpoints, identity, Some(neighbor)));
            let spoke = Spoke { id, tunnel, endpoints, neighbor, inbound: [None; 2], outbound: [None; 2] };
            tables.spokes.push(spoke);
            // A peer without an outbound SA that the engine knows would have no path after its first change.
            let index = tables.spokes.len() - 1;
            tables.install_outbound(index, random)?;
            tables.spokes[index].outbound.rotate_left(1);
        }
        tables.publish();
        Ok(tables)
    }

    fn publish(&mut self) -> u64 {
        self.publisher.publish(self.working.clone())
    }

    fn change(&mut self, change: Change, random: &mut ChaCha8Rng) -> anyhow::Result<()> {
        match change {
            Change::Rekey => self.rekey(random),
            Change::Move => {
                self.relocate(random);
                Ok(())
            }
            Change::Registration => self.register(),
        }
    }

    /// The next step of a rekey.
    fn rekey(&mut self, random: &mut ChaCha8Rng) -> anyhow::Result<()> {
        let (index, step) = self.rekeying;
        match step {
            0 => {
                let index = self.any(random);
                self.install_inbound(index, random)?;
                self.rekeying = (index, 1);
            }
            1 => {
                self.install_outbound(index, random)?;
                self.rekeying = (index, 2);
            }
            _ => {
                let spoke = &mut self.spokes[index];
                if let Some(old) = spoke.inbound[0].take() {
                    self.peers.remove_inbound(&mut self.working, spoke.id, old);
                    self.spis.free(old);
                }
                if let Some(old) = spoke.outbound[0].take() {
                    self.peers.remove_outbound(&mut self.working, spoke.id, old);
                }
                spoke.inbound.rotate_left(1);
                spoke.outbound.rotate_left(1);
                self.rekeying = (0, 0);
            }
        }
        Ok(())
    }

    fn install_inbound(&mut self, index: usize, random: &mut ChaCha8Rng) -> anyhow::Result<()> {
        let spi = self.spis.alloc().context("no SPI left")?;
        let new = self.new_sa(index, spi, random)?;
        let window = WindowSize::new(new.replay_window)?;
        self.peers.install_inbound(&mut self.working, &new, window);
        self.spokes[index].inbound[1] = Some(spi);
        Ok(())
    }

    fn install_outbound(&mut self, index: usize, random: &mut ChaCha8Rng) -> anyhow::Result<()> {
        let spi = random.next_u32() | 1 << 8;
        let new = self.new_sa(index, spi, random)?;
        let mut seed = [0; 16];
        random.fill_bytes(&mut seed);
        self.peers.install_outbound(&mut self.working, &new, IvSeed::new(seed));
        self.spokes[index].outbound[1] = Some(spi);
        Ok(())
    }

    /// An SA with fresh keys.
    fn new_sa(&self, index: usize, spi: u32, random: &mut ChaCha8Rng) -> anyhow::Result<NewSa> {
        let mut keymat = [0; 128];
        let keymat = &mut keymat[..self.suite.cipher_key_len() + self.suite.integrity_key_len()];
        random.fill_bytes(keymat);
        let spoke = &self.spokes[index];
        Ok(NewSa {
            peer: spoke.id,
            tunnel: spoke.tunnel,
            child: ChildId(0),
            spi,
            keys: KeyMaterial::from_keymat(self.suite, keymat)?,
            mode: Mode::Transport,
            endpoints: spoke.endpoints,
            replay_window: 64,
            lifetime: Duration::from_secs(3600),
        })
    }

    fn relocate(&mut self, random: &mut ChaCha8Rng) {
        let index = self.any(random);
        let remote = Ipv4Addr::from_bits(self.spokes[index].endpoints.remote.to_bits() ^ 1 << 21);
        let spoke = &mut self.spokes[index];
        spoke.endpoints.remote = remote;
        self.peers.relocate(&mut self.working, spoke.id, spoke.endpoints, Some(spoke.neighbor));
    }

    /// A station comes, or the one that came so many registrations ago goes.
    fn register(&mut self) -> anyhow::Result<()> {
        let stations = self.spokes.len();
        let (station, leaves) = (self.registered % stations, (self.registered / stations) % 2 == 1);
        self.registered += 1;
        let number = u32::try_from(station)?;
        let prefix = Ipv4Network::from(Ipv4Addr::from_bits(STATIONS.to_bits() + number));
        // Behind those of the network, which has fewer than that for all its spokes.
        let adjacency = AdjacencyId(u32::try_from(stations + SPARE)? + number);
        let place = adjacency.0 as usize;
        if leaves {
            self.working.fib.remove(prefix);
            self.working.adjacencies.set(place, Adjacency::Unreachable);
        } else {
            self.working.adjacencies.set(place, Adjacency::Tunnel(self.spokes[station].id));
            self.working.fib.insert(prefix, adjacency);
        }
        Ok(())
    }

    fn any(&self, random: &mut ChaCha8Rng) -> usize {
        usize::try_from(below(random, self.spokes.len() as u64)).unwrap_or_default()
    }
}

fn below(random: &mut ChaCha8Rng, limit: u64) -> u64 {
    (u64::from(random.next_u32()) * limit) >> 32
}

/// Adjacencies of a network besides those of its spokes, at most.
const SPARE: usize = 1024;

#[cfg(test)]
mod tests {
    use dmvpn_esp::Kernel;
    use dmvpn_tables::Path;

    use super::*;

    const PEERS: u32 = 20;

    /// Every peer has a path at any moment, SAs that are replaced go, and a station that comes is found.
    #[test]
    fn tables_stay_whole() {
        let network = Network::new(Kernel::best(), "aes128gcm".parse().unwrap(), PEERS, 1, 1).unwrap();
        let (publisher, _) = Publisher::new(network.snapshot.clone(), 0);
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut tables = Tables::new(&network, publisher, &mut random).unwrap();
        let inbound = |tables: &Tables| tables.working.inbound.iter().filter(|(_, sa)| sa.is_some()).count();
        let mut moved = 0;
        for n in 0..400u32 {
            let change = [Change::Rekey, Change::Move, Change::Registration][n as usize % 3];
            let before = tables.working.clone();
            tables.change(change, &mut random).unwrap();
            let mut paths = 0;
            for (index, peer) in tables.working.peers.iter() {
                let Some(peer) = peer else { continue };
                paths += usize::from(matches!(peer.path(), Path::Esp { .. }));
                let old = before.peers.get(index).unwrap().as_ref().unwrap();
                moved += usize::from(old.endpoints().remote != peer.endpoints().remote);
                assert!(change != Change::Registration || std::ptr::eq(old, peer), "no peer changes by it");
            }
            assert_eq!(paths, PEERS as usize);
            if change == Change::Registration {
                let station = Ipv4Addr::from_bits(STATIONS.to_bits() + n / 3 % PEERS);
                let found = |tables: &Snapshot| {
                    tables.fib.lookup(station).map(|id| *tables.adjacencies.get(id.0 as usize).unwrap())
                };
                assert_ne!(found(&tables.working), found(&before));
            }
        }
        assert!(moved > 100);
        // Those of the network, one more for every peer that was rekeyed, and one that is being replaced.
        assert!(inbound(&tables) <= 2 * PEERS as usize + 1, "{}", inbound(&tables));
    }
}
