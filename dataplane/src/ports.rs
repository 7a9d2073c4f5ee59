//! A worker's share of all ports.

use std::sync::Arc;

use dmvpn_tables::PortId;

use crate::counters::{Counters, DropReason};
use crate::frame::{Buffer, Frame};
use crate::link::Link;

/// This worker's queues of all ports, by number, and what waits to be sent on each.
pub(crate) struct Ports<L: Link> {
    queues: Vec<Queue<L>>,
    /// The port to receive from first, next time: when more comes in than a batch, all get their turn.
    first: usize,
    counters: Arc<Counters>,
}

struct Queue<L: Link> {
    port: PortId,
    link: L,
    /// What a full transmit queue has left over stays until the next poll.
    waiting: Frame<L::Buffer>,
}

impl<L: Link> Ports<L> {
    pub(crate) fn new(links: Vec<L>, counters: Arc<Counters>) -> Self {
        let queues = (0..=u16::MAX)
            .zip(links)
            .map(|(number, link)| Queue { port: PortId(number), link, waiting: Frame::new() })
            .collect();
        Self { queues, first: 0, counters }
    }

    /// Fills the room in `frame` with what has come in on all ports.
    pub(crate) fn receive(&mut self, frame: &mut Frame<L::Buffer>) {
        let (last, first) = self.queues.split_at_mut(self.first);
        for queue in first.iter_mut().chain(last) {
            queue.receive(frame, &self.counters);
        }
        self.first = if self.first + 1 < self.queues.len() { self.first + 1 } else { 0 };
    }

    /// Queues a packet, with its Ethernet header, to be sent on a port.
    #[inline]
    pub(crate) fn queue(&mut self, port: PortId, packet: L::Buffer) {
        let Some(queue) = self.queues.get_mut(usize::from(port.0)) else {
            return self.counters.count_drop(DropReason::NoPort);
        };
        if let Err(full) = queue.waiting.try_push(packet) {
            queue.send_and_push(full.element(), &self.counters);
        }
    }

    /// Sends what is queued, as far as there is room, and says how many packets that was.
    pub(crate) fn send(&mut self) -> usize {
        let waiting = self.queues.iter_mut().filter(|queue| !queue.waiting.is_empty());
        waiting.map(|queue| queue.send(&self.counters)).sum()
    }
}

impl<L: Link> Queue<L> {
    fn receive(&mut self, frame: &mut Frame<L::Buffer>, counters: &Counters) {
        let old = frame.len();
        self.link.rx(frame);
        let received = frame.get_mut(old..).unwrap_or_default();
        if received.is_empty() {
            return;
        }
        for packet in &mut *received {
            packet.prefetch();
            packet.meta_mut().arrive(self.port);
        }
        if let Some(counters) = counters.port(self.port) {
            counters.rx_packets.add(received.len() as u64);
            counters.rx_bytes.add(bytes(received));
        }
    }

    /// Makes room for a packet, if that can be.
    #[cold]
    fn send_and_push(&mut self, packet: L::Buffer, counters: &Counters) {
        self.send(counters);
        if self.waiting.try_push(packet).is_err() {
            counters.count_drop(DropReason::TxFull);
        }
    }

    /// Says how many packets were sent.
    fn send(&mut self, counters: &Counters) -> usize {
        let (waiting, bytes) = (self.waiting.len(), bytes(&self.waiting));
        self.link.tx(&mut self.waiting);
        let sent = waiting - self.waiting.len();
        if let Some(counters) = counters.port(self.port) {
            counters.tx_packets.add(sent as u64);
            counters.tx_bytes.add(bytes - self::bytes(&self.waiting));
        }
        sent
    }
}

fn bytes<B: Buffer>(frame: &[B]) -> u64 {
    frame.iter().map(|packet| packet.len() as u64).sum()
}
