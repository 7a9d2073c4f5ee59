//! One appliance: the engine and a worker, joined by the same rings as in the product.

use std::collections::VecDeque;
use std::sync::Arc;

use dmvpn_config::Config;
use dmvpn_control::Engine;
use dmvpn_control::engine::{Input, Output, Port, Start};
use dmvpn_control::show::{Request, Response};
use dmvpn_control::time::Instant;
use dmvpn_dataplane::link::{HeapBuffer, HeapPool, Loopback};
use dmvpn_dataplane::{Buffer, ControlEnd, DropReason, Frame, Handoff, Link, Worker};
use dmvpn_tables::{Publisher, Snapshot};

use crate::site::Site;

/// Packets that a cable holds.
const CABLE: usize = 256;
/// Lines of the log that are kept.
const LOG: usize = 200;

pub(crate) struct Appliance {
    engine: Engine,
    worker: Worker<Loopback<HeapBuffer>, HeapPool>,
    control: ControlEnd<HeapBuffer>,
    /// The far ends of its ports' cables.
    cables: Vec<Loopback<HeapBuffer>>,
    pool: HeapPool,
    pub(crate) log: VecDeque<String>,
    /// What the TUN device got: IPv4 packets.
    pub(crate) to_host: Vec<Vec<u8>>,
}

impl Appliance {
    /// `pool` may be shared: between two calls of `work`, no buffer is out.
    pub(crate) fn new(site: &Site, config: Arc<Config>, pool: HeapPool, seed: [u8; 32], now: u64) -> Self {
        let (near, cables): (Vec<_>, Vec<_>) = (0..2).map(|_| Loopback::pair(CABLE)).unzip();
        let (publisher, mut readers) = Publisher::new(Snapshot::default(), 1);
        let (reader, handoff) = (readers.remove(0), Handoff::between(1, CABLE).remove(0));
        let (worker, control) = Worker::new(near, pool.clone(), reader, handoff);
        let ports = (0..2).map(|port| Port { mac: site.mac(port), mtu: 1500, by_addresses: true }).collect();
        // As if all were switched on at a fixed date.
        let unix_seconds = 1_700_000_000 + u32::try_from(now / 1_000_000).unwrap_or_default();
        let start = Start { seed, unix_seconds };
        let engine = Engine::new(config, ports, publisher, start, Instant::from_micros(now));
        Self { engine, worker, control, cables, pool, log: VecDeque::new(), to_host: Vec::new() }
    }

    /// Puts a frame on the cable of a port.
    pub(crate) fn deliver(&mut self, port: usize, frame: &[u8]) {
        let mut frame: Frame<_> = self.pool.buffer(frame).into_iter().collect();
        self.cables[port].tx(&mut frame);
    }

    /// Works until there is nothing left to do at this time; returns the frames sent, by port.
    pub(crate) fn work(&mut self, now: u64) -> Vec<(usize, Vec<u8>)> {
        let time = Instant::from_micros(now);
        let mut sent = Vec::new();
        loop {
            let mut worked = self.worker.poll(now, || 0);
            while let Some(punt) = self.control.punts.poll() {
                self.engine.handle(time, Input::Punt(punt));
                worked = true;
            }
            if self.engine.poll_timeout().is_some_and(|at| at <= time) {
                self.engine.handle_timeout(time);
                worked = true;
            }
            worked |= self.carry_out(time);
            for (port, cable) in self.cables.iter_mut().enumerate() {
                let mut frame = Frame::new();
                cable.rx(&mut frame);
                worked |= !frame.is_empty();
                sent.extend(frame.iter().map(|buffer| (port, buffer.bytes().to_vec())));
            }
            if !worked {
                return sent;
            }
        }
    }

    /// When it wants to work next.
    pub(crate) fn wakes_at(&self) -> Option<u64> {
        self.engine.poll_timeout().map(Instant::as_micros)
    }

    pub(crate) fn request(&mut self, now: u64, request: Request) -> Response {
        self.engine.request(Instant::from_micros(now), request)
    }

    pub(crate) fn reload(&mut self, now: u64, config: Arc<Config>) {
        self.engine.handle(Instant::from_micros(now), Input::Config(config));
    }

    /// The host behind the TUN device sends an IPv4 packet.
    pub(crate) fn host_sends(&mut self, now: u64, packet: Vec<u8>) {
        self.engine.handle(Instant::from_micros(now), Input::Tun(packet));
    }

    pub(crate) fn drops(&self) -> Vec<(DropReason, u64)> {
        let drops = DropReason::ALL.iter().map(|reason| (*reason, self.control.counters.dropped(*reason)));
        drops.filter(|(_, count)| *count > 0).collect()
    }

    fn carry_out(&mut self, now: Instant) -> bool {
        let mut worked = false;
        while let Some(output) = self.engine.poll_output() {
            worked = true;
            match output {
                Output::Inject(inject) => {
                    // A full ring drops, as in the product.
                    let _ = self.control.injector.send(inject);
                }
                Output::Dh(job) => self.engine.handle(now, Input::Dh(job.run())),
                Output::Tun(packet) => self.to_host.push(packet),
                Output::Notice(notice) => {
                    if self.log.len() == LOG {
                        self.log.pop_front();
                    }
                    self.log.push_back(format!("{now} {}: {}", notice.kind(), notice.what));
                }
            }
        }
        worked
    }
}
