//! What can go wrong, and what DPDK says of it.

use std::ffi::CStr;
use std::fmt;

use crate::device::Device;

/// Why DPDK could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is one EAL per process, once.
    #[error("DPDK was set up in this process before")]
    Again,
    /// An argument has a NUL byte.
    #[error("{0:?} has a NUL byte")]
    Argument(String),
    /// `rte_eal_init` failed; it says more on standard error.
    #[error("DPDK does not start: {0}")]
    Init(Errno),
    /// No memory for packets.
    #[error("no memory for {buffers} packet buffers of {room} bytes: {errno}")]
    Memory {
        /// How many.
        buffers: u32,
        /// Data room of each.
        room: usize,
        /// What DPDK says.
        errno: Errno,
    },
    /// The device was not found, or no driver took it.
    #[error("there is no device {0}, or DPDK has no driver for it")]
    NoDevice(Device),
    /// A port was made of the device before.
    #[error("{0} is a port already")]
    Taken(Device),
    /// The device has fewer queues than there are workers.
    #[error("{device} has {offered} queues, and {wanted} workers need one each")]
    Queues {
        /// Which.
        device: Device,
        /// Workers.
        wanted: u16,
        /// What it has.
        offered: u16,
    },
    /// The MTU is outside of what device and buffers take.
    #[error("{device} takes an MTU from {min} to {max}, not {wanted}")]
    Mtu {
        /// Which.
        device: Device,
        /// What was asked for.
        wanted: u16,
        /// The smallest.
        min: u16,
        /// The largest.
        max: u16,
    },
    /// A step of setting up a port failed.
    #[error("{device}: cannot {step}: {errno}")]
    Port {
        /// Which.
        device: Device,
        /// What was tried.
        step: &'static str,
        /// What DPDK says.
        errno: Errno,
    },
    /// A thread could not be made known to DPDK: it is known, or there are too many.
    #[error("cannot register a thread: {0}")]
    Thread(Errno),
}

/// An error number as DPDK gives it, without its sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Argument list too long.
    pub(crate) const E2BIG: Self = Self(7);
    /// There already.
    pub(crate) const EEXIST: Self = Self(17);
    /// The driver does not know how.
    pub(crate) const ENOTSUP: Self = Self(95);

    /// Of the last call that failed in this thread.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a thread-local integer.
        Self(unsafe { dpdk_sys::shim_errno() })
    }

    /// Of a call that returns zero or a negative error number.
    pub(crate) fn check(returned: i32) -> Result<(), Self> {
        if returned < 0 { Err(Self(-returned)) } else { Ok(()) }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: takes any number, and returns a string that stays until this thread's next call.
        let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(self.0)) };
        f.write_str(&text.to_string_lossy())
    }
}
