//! The engine's host: the only I/O of the control plane. It reads the clock, runs key exchanges on
//! threads of their own, owns the TUN device, and moves packets between the engine and the workers.

mod clock;
mod dh_pool;
mod log;
mod tun;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender};
use dmvpn_config::Config;
use dmvpn_tables::{Inject, Publisher, Punt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::clock::Clock;
use self::dh_pool::DhPool;
use self::log::Log;
use self::tun::Tun;
use crate::engine::{Engine, Input, Output, Port};
use crate::show::{Request, Response};
use crate::time::Instant;

/// Packets taken from each source before the others have their turn.
const BURST: usize = 64;
/// The longest sleep: how late a punt may be noticed.
const NAP: Duration = Duration::from_millis(1);
/// How long the last messages may take at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// The workers, as the control thread reaches them.
pub trait Workers {
    /// The next packet that a worker hands over.
    fn poll_punt(&mut self) -> Option<Punt>;

    /// Hands a packet to a worker. Where there is no room it is dropped, and counted there.
    fn inject(&mut self, inject: Inject);
}

/// What other threads want of the control thread.
#[derive(Debug)]
pub enum Command {
    /// An operator asks; the answer goes to the sender.
    Ask(Request, Sender<Response>),
    /// The configuration is another. The number and the devices of ports do not change.
    Configure(Arc<Config>),
}

/// The control thread's work.
pub struct Host<W> {
    clock: Clock,
    engine: Engine,
    workers: W,
    commands: Receiver<Command>,
    dh: DhPool,
    tun: Option<Tun>,
    log: Log,
    turns: Arc<AtomicU64>,
}

impl<W: Workers> Host<W> {
    /// Starts the control plane: the engine begins its work with the first turn.
    ///
    /// # Errors
    /// The TUN device, a thread or random numbers could not be had.
    pub fn start(
        config: Arc<Config>,
        ports: Vec<Port>,
        publisher: Publisher,
        workers: W,
        commands: Receiver<Command>,
    ) -> io::Result<Self> {
        let clock = Clock::start();
        let tun = config.host.tun.as_deref().map(|name| Tun::create(name, &config)).transpose()?;
        let log = Log::new(config.clone());
        let engine = Engine::new(config, ports, publisher, clock::entropy()?, clock.now());
        let turns = Arc::default();
        Ok(Self { clock, engine, workers, commands, dh: DhPool::start()?, tun, log, turns })
    }

    /// Counts up with every turn of the loop: while it does, the control thread lives.
    pub fn turns(&self) -> Arc<AtomicU64> {
        self.turns.clone()
    }

    /// Works until `stop`; then takes leave of all peers.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if !self.turn() {
                self.nap();
            }
        }
        self.take_leave();
    }

    /// Does what there is to do, some of each kind; says whether there was anything.
    fn turn(&mut self) -> bool {
        self.turns.fetch_add(1, Ordering::Relaxed);
        let mut worked = self.carry_out(self.clock.now());
        for _ in 0..BURST {
            let Some(punt) = self.workers.poll_punt() else { break };
            worked |= self.handle(Input::Punt(punt));
        }
        while let Some(done) = self.dh.poll() {
            worked |= self.handle(Input::Dh(done));
        }
        for _ in 0..BURST {
            let Some(packet) = self.tun.as_mut().and_then(Tun::read) else { break };
            worked |= self.handle(Input::Tun(packet));
        }
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
            worked = true;
        }
        let now = self.clock.now();
        if self.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.engine.handle_timeout(now);
            self.carry_out(now);
            worked = true;
        }
        worked
    }

    fn handle(&mut self, input: Input) -> bool {
        let now = self.clock.now();
        self.engine.handle(now, input);
        self.carry_out(now);
        true
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Ask(request, reply) => {
                let now = self.clock.now();
                let response = self.engine.request(now, request);
                self.carry_out(now);
                // Who asked may have gone away meanwhile.
                let _ = reply.try_send(response);
            }
            Command::Configure(config) => {
                if let Some(tun) = &mut self.tun {
                    tun.configure(&config);
                }
                self.log.configure(config.clone());
                self.handle(Input::Config(config));
            }
        }
    }

    /// Carries out what the engine wants; says whether that was anything.
    fn carry_out(&mut self, now: Instant) -> bool {
        let mut worked = false;
        while let Some(output) = self.engine.poll_output() {
            worked = true;
            match output {
                Output::Inject(inject) => self.workers.inject(inject),
                Output::Dh(job) => {
                    if let Some(refused) = self.dh.submit(job) {
                        self.engine.handle(now, Input::Dh(refused));
                    }
                }
                Output::Tun(packet) => {
                    if let Some(tun) = &self.tun {
                        tun.write(&packet);
                    }
                }
                Output::Notice(notice) => self.log.write(now, &notice),
            }
        }
        worked
    }

    /// Sleeps until the TUN device has a packet, a deadline comes, or workers may have something.
    fn nap(&self) {
        let now = self.clock.now();
        let until = self.engine.poll_timeout().map_or(NAP, |at| at.since(now)).min(NAP);
        let timeout = Timespec { tv_sec: 0, tv_nsec: until.subsec_nanos().into() };
        let mut sources: Vec<_> =
            self.tun.iter().map(|tun| PollFd::from_borrowed_fd(tun.as_fd(), PollFlags::IN)).collect();
        // An interruption by a signal is as good as any other wake-up.
        let _ = poll(&mut sources, Some(&timeout));
    }

    /// Ends in order: deletes every SA, so that peers need not find out by themselves.
    fn take_leave(&mut self) {
        let now = self.clock.now();
        self.engine.request(now, Request::Shutdown);
        while !self.engine.has_left() && self.clock.now().since(now) < FAREWELL {
            if !self.turn() {
                self.nap();
            }
        }
        self.carry_out(self.clock.now());
    }
}
