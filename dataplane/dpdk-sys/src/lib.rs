//! Raw bindings to the part of DPDK that dmvpn uses: an allowlist of functions, generated from the
//! installed headers, and a shim for what DPDK has as static inline only.
//!
//! DPDK's structures are opaque here. The few mbuf fields that a packet needs on its way are reached by
//! the offsets in [`shim_mbuf_offset`].

#![no_std]
#![allow(non_camel_case_types, reason = "names of DPDK")]

#[allow(missing_docs, clippy::all, clippy::ptr_as_ptr, clippy::use_self, reason = "generated")]
mod bindings {
    use super::{rte_eth_rxconf, rte_eth_txconf, rte_mbuf, rte_mempool};

    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

/// A packet buffer. What follows it in memory is its private area, then the data room. The shim does not
/// compile against a DPDK where its size is another.
#[repr(C, align(64))]
pub struct rte_mbuf {
    opaque: [u8; 128],
}

/// A pool of packet buffers.
#[repr(C)]
pub struct rte_mempool {
    opaque: [u8; 0],
}

/// Options of a receive queue; a null pointer stands for the driver's defaults.
#[repr(C)]
pub struct rte_eth_rxconf {
    opaque: [u8; 0],
}

/// Options of a transmit queue; a null pointer stands for the driver's defaults.
#[repr(C)]
pub struct rte_eth_txconf {
    opaque: [u8; 0],
}
