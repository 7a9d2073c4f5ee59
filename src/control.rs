//! The control thread, and how others reach it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use crossbeam::channel::{self, Sender};
use dmvpn::workers::Rings;
use dmvpn_config::Config;
use dmvpn_control::engine;
use dmvpn_control::host::{Command, Host};
use dmvpn_control::show::{Request, Response};
use dmvpn_dpdk::{Eal, Port, Spread, Started};
use dmvpn_tables::Publisher;

/// Commands that may wait.
const COMMANDS: usize = 16;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// The thread of the control plane. When this is dropped, it takes leave of all peers and ends.
#[derive(Debug)]
pub(crate) struct ControlThread {
    thread: Option<JoinHandle<()>>,
    commands: Sender<Command>,
    turns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl ControlThread {
    /// Starts it.
    pub(crate) fn start(
        eal: &Eal,
        config: Arc<Config>,
        ports: &[Port<Started>],
        publisher: Publisher,
        rings: Rings,
    ) -> anyhow::Result<Self> {
        let (commands, receiver) = channel::bounded(COMMANDS);
        let ports = ports.iter().map(|port| engine::Port {
            mac: port.mac(),
            mtu: port.mtu(),
            by_addresses: port.spread() == Spread::Addresses,
        });
        let ports = ports.collect();
        let host = Host::start(config, ports, publisher, rings, receiver)
            .context("cannot start the control plane")?;
        let (turns, stop) = (host.turns(), Arc::<AtomicBool>::default());
        let (eal, told) = (eal.clone(), Arc::clone(&stop));
        let work = move || {
            // Without a cache of its own it still can give packets back, only slower.
            let registered = eal.register_thread();
            host.run(&told);
            drop(registered);
        };
        let thread = thread::Builder::new().name("control".to_owned()).spawn(work)?;
        Ok(Self { thread: Some(thread), commands, turns, stop })
    }

    /// How often it has looked for work.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Whether it has ended without being told to.
    pub(crate) fn is_lost(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Asks it; `None` if it does not answer.
    pub(crate) fn ask(&self, request: Request) -> Option<Response> {
        let (sender, receiver) = channel::bounded(1);
        self.commands.send_timeout(Command::Ask(request, sender), PATIENCE).ok()?;
        receiver.recv_timeout(PATIENCE).ok()
    }

    /// Gives it another configuration; `false` if it does not take it.
    pub(crate) fn configure(&self, config: Arc<Config>) -> bool {
        self.commands.send_timeout(Command::Configure(config), PATIENCE).is_ok()
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it has panicked it said so already, and there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}
