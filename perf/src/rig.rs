//! What a measurement runs on: a pinned thread, DPDK, and its clock.

use std::fs;

use anyhow::{Context, ensure};
use core_affinity::CoreId;
use dmvpn_dpdk::{Clock, Device, Eal, EalOptions, Memory, RegisteredThread};

use crate::machine::Machine;

/// MiB of packet memory where there are no hugepages.
const ORDINARY_MIB: u32 = 256;

/// DPDK, started; and its clock. Clones share it.
#[derive(Clone)]
pub(crate) struct Rig {
    pub(crate) eal: Eal,
    pub(crate) clock: Clock,
    hugepages: bool,
}

/// A thread that stays on one CPU, and that DPDK knows.
pub(crate) struct Pinned {
    _registered: Option<RegisteredThread>,
}

impl Rig {
    /// Starts DPDK with these devices; with hugepages if there are any.
    ///
    /// # Errors
    /// DPDK does not start.
    pub(crate) fn start(devices: Vec<Device>) -> anyhow::Result<Self> {
        let hugepages = has_hugepages();
        let memory = if hugepages { Memory::Hugepages } else { Memory::Ordinary(ORDINARY_MIB) };
        let eal = Eal::init(&EalOptions { memory, devices }).context("cannot start DPDK")?;
        let clock = Clock::new(&eal);
        Ok(Self { eal, clock, hugepages })
    }

    /// The same for all tests: DPDK starts once in a process.
    #[cfg(test)]
    pub(crate) fn for_tests() -> &'static Self {
        static RIG: std::sync::LazyLock<Rig> = std::sync::LazyLock::new(|| Rig::start(Vec::new()).unwrap());
        &RIG
    }

    /// Keeps the calling thread on a CPU.
    ///
    /// # Errors
    /// There is no such CPU for us.
    pub(crate) fn pin(&self, cpu: usize) -> anyhow::Result<Pinned> {
        ensure!(core_affinity::set_for_current(CoreId { id: cpu }), "cannot run on CPU {cpu}");
        // The thread that started DPDK is known to it already; one more than it can take works, but slowly.
        Ok(Pinned { _registered: self.eal.register_thread().ok() })
    }

    /// Cycles of the time stamp counter per second.
    pub(crate) fn hz(&self) -> f64 {
        self.clock.hz() as f64
    }

    /// The machine it runs on.
    pub(crate) fn machine(&self) -> Machine {
        Machine::here(self.clock.hz(), self.hugepages)
    }
}

/// Whether the kernel has free hugepages of the size that it gives by default.
fn has_hugepages() -> bool {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = info.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    free.and_then(|count| count.trim().parse().ok()).is_some_and(|count: u64| count > 0)
}
