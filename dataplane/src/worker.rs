//! The loop of a worker: take in a batch, run it through the stages, send.

use std::sync::Arc;

use dmvpn_tables::Reader;

use crate::counters::{Counters, Stage};
use crate::frame::{FRAME_SIZE, Frame, Pool};
use crate::handoff::Handoff;
use crate::inject;
use crate::link::Link;
use crate::ports::Ports;
use crate::punt::{Injections, Injector, PuntReceiver, Punter, inject_ring, punt_ring};
use crate::stage::check::OwnAddresses;
use crate::stage::replicate::Replicator;
use crate::stage::{Context, Frames, decrypt, egress, encrypt, forward, ingress};
use crate::stopwatch::Stopwatch;

/// One thread's part of the packet path: its queues of all ports, the SAs that it owns, and its rings to the other
/// workers and to the control thread. It is not a thread itself: somebody calls [`poll`](Self::poll).
pub struct Worker<L: Link, P: Pool<Buffer = L::Buffer>> {
    ports: Ports<L>,
    pool: P,
    reader: Reader,
    handoff: Handoff<L::Buffer>,
    /// From other workers, for the next batch.
    taken_over: Frame<L::Buffer>,
    replicator: Replicator<L::Buffer>,
    punter: Punter<L::Buffer>,
    injections: Injections,
    counters: Arc<Counters>,
    identification: u16,
}

/// What the control thread holds of a worker.
#[derive(Debug)]
pub struct ControlEnd<B> {
    /// Packets from the worker.
    pub punts: PuntReceiver<B>,
    /// Packets for the worker.
    pub injector: Injector,
    /// What it counts.
    pub counters: Arc<Counters>,
}

/// Of a batch, so much may be packets from other workers; the rest is left for the ports.
const MOST_HANDED_OVER: usize = FRAME_SIZE / 2;
/// And so much packets of the control thread.
const MOST_INJECTED: usize = FRAME_SIZE / 4;

impl<L: Link, P: Pool<Buffer = L::Buffer>> Worker<L, P> {
    /// A worker with a link to every port, in the order of their numbers; and the control thread's end of it.
    pub fn new(
        links: Vec<L>,
        pool: P,
        reader: Reader,
        handoff: Handoff<L::Buffer>,
    ) -> (Self, ControlEnd<L::Buffer>) {
        let counters = Arc::new(Counters::new(links.len()));
        let (punter, punts) = punt_ring(Arc::clone(&counters));
        let (injector, injections) = inject_ring(Arc::clone(&counters));
        // Workers number their packets apart, as far as 16 bits allow (RFC 6864 section 4.3).
        let apart = usize::from(u16::MAX) / handoff.workers();
        let identification = u16::try_from(apart).unwrap_or_default().wrapping_mul(handoff.worker().0);
        let ports = Ports::new(links, Arc::clone(&counters));
        let control = ControlEnd { punts, injector, counters: Arc::clone(&counters) };
        let replicator = Replicator::new();
        (
            Self {
                ports,
                pool,
                reader,
                handoff,
                taken_over: Frame::new(),
                replicator,
                punter,
                injections,
                counters,
                identification,
            },
            control,
        )
    }

    /// Runs one batch, if there is anything to do; says whether there was. `now` is in microseconds of a clock that
    /// never goes back; `ticks` counts finely whatever the stages are to be measured in (TSC cycles), or nothing.
    pub fn poll(&mut self, now: u64, ticks: impl Fn() -> u64) -> bool {
        let Self { ports, pool, counters, replicator, .. } = self;
        counters.polls.add(1);
        let mut watch = Stopwatch::start(counters, ticks);

        // Take in first, adopt the newest snapshot then: so no packet that another worker or the control thread gave us
        // meets an older snapshot than theirs, and what it names is still there or gone for good.
        let mut frames = Frames::new();
        frames.taken_in.extend(self.taken_over.drain(..));
        let injected = inject::take(&self.injections, MOST_INJECTED, pool, counters, &mut frames.taken_in);
        let before = frames.taken_in.len();
        ports.receive(&mut frames.taken_in);
        let snapshot = self.reader.refresh();
        watch.lap(Stage::Receive, injected + frames.taken_in.len() - before);

        let worked = injected > 0 || !frames.taken_in.is_empty() || !replicator.is_empty();
        if worked {
            let cx = &mut Context {
                snapshot,
                own: OwnAddresses::of(snapshot),
                counters,
                punter: &mut self.punter,
                handoff: &mut self.handoff,
                pool,
                identification: &mut self.identification,
                now,
            };
            watch.time(Stage::Ingress, frames.taken_in.len(), || ingress::run(cx, &mut frames));
            watch.time(Stage::Decrypt, frames.decrypt.len(), || decrypt::run(cx, &mut frames));
            watch.time(Stage::Forward, frames.forward.len(), || forward::run(cx, &mut frames));
            watch.time(Stage::Encrypt, frames.for_peers(), || encrypt::run(cx, &mut frames, ports));
            // Multicast copies are a batch of their own, or they would wait for ever while the path is full.
            replicator.run(cx, &mut frames);
            watch.time(Stage::Encrypt, frames.for_peers(), || encrypt::run(cx, &mut frames, ports));
            watch.time(Stage::Egress, frames.egress.len(), || egress::run(cx, &mut frames.egress, ports));
        }
        let sent = ports.send();
        watch.lap(Stage::Transmit, sent);
        drop(frames);
        // For the next batch, so that they are here by then.
        let taken_over = self.handoff.take(MOST_HANDED_OVER, &mut self.taken_over);
        counters.taken_over.add(taken_over as u64);
        watch.lap(Stage::Receive, taken_over);
        worked || sent > 0 || taken_over > 0
    }
}
