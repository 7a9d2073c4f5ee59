//! Time for poll loops.

use crate::eal::Eal;

/// The CPU's time stamp counter: time without a system call, cheap enough to read at every poll.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Cycles per second.
    hz: u64,
    /// Microseconds per cycle, times 2^64.
    scale: u128,
}

impl Clock {
    /// The clock, with the frequency that the EAL has measured.
    pub fn new(_: &Eal) -> Self {
        // SAFETY: the EAL has started and measured it; it is a number.
        let hz = unsafe { dpdk_sys::rte_get_tsc_hz() }.max(1_000_000);
        Self { hz, scale: (1_000_000 << 64) / u128::from(hz) }
    }

    /// Cycles per second.
    pub fn hz(self) -> u64 {
        self.hz
    }

    /// Cycles since some moment in the past.
    pub fn cycles(self) -> u64 {
        // SAFETY: reads a register.
        unsafe { dpdk_sys::shim_cycles() }
    }

    /// What a number of cycles is in microseconds.
    pub fn micros(self, cycles: u64) -> u64 {
        // No overflow: the scale is 2^64 at most.
        u64::try_from((u128::from(cycles) * self.scale) >> 64).unwrap_or(u64::MAX)
    }
}
