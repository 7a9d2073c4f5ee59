//! Packet memory.

use std::ffi::CString;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use dmvpn_dataplane::frame::{HEADROOM, Meta, Pool, TAILROOM};
use dpdk_sys::{rte_mempool, shim_mbuf_room};

use crate::eal::Eal;
use crate::error::{Errno, Error};
use crate::mbuf::Mbuf;

/// Ethernet header with a VLAN tag, and FCS, as some devices leave it on.
const LINK_OVERHEAD: usize = 14 + 4 + 4;

/// NICs take the size of receive buffers in steps; this one suits all.
const ROOM_STEP: usize = 1024;

/// A fixed number of packet buffers. Clones share them; threads that are registered with the EAL have a
/// cache each.
#[derive(Clone)]
pub struct Mempool {
    raw: NonNull<rte_mempool>,
    capacity: u32,
    packet_room: usize,
    /// The pool's memory goes with the EAL.
    eal: Eal,
}

// SAFETY: a mempool may be used from any number of threads.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes `buffers` buffers, each for a packet of up to `mtu` bytes after its Ethernet header, with at
    /// least [`HEADROOM`] bytes in front and [`TAILROOM`] behind. The pool lives as long as the EAL.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is not enough.
    pub fn new(eal: &Eal, buffers: u32, mtu: u16) -> Result<Self, Error> {
        const { assert!(shim_mbuf_room::MBUF_HEADROOM as usize >= HEADROOM) };
        static SERIAL: AtomicU32 = AtomicU32::new(0);

        let headroom = shim_mbuf_room::MBUF_HEADROOM as usize;
        let packet_room = (usize::from(mtu) + LINK_OVERHEAD + TAILROOM).next_multiple_of(ROOM_STEP);
        let room = headroom + packet_room;
        let error = |errno| Error::Memory { buffers, room, errno };
        let data_room = u16::try_from(room).map_err(|_| error(Errno::E2BIG))?;
        // DPDK wants caches to be well below the pool's size.
        let cache = (buffers / 3).min(shim_mbuf_room::MBUF_POOL_CACHE_MAX / 2);
        let name = format!("packets{}", SERIAL.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name).map_err(|_| error(Errno::E2BIG))?;
        // SAFETY: the EAL runs, and the name is a string that is copied.
        let raw = unsafe {
            dpdk_sys::shim_packet_pool(name.as_ptr(), buffers, cache, Mbuf::PRIVATE_SIZE, data_room)
        };
        let raw = NonNull::new(raw).ok_or_else(|| error(Errno::last()))?;
        eal.adopt_pool(raw, buffers);
        Ok(Self { raw, capacity: buffers, packet_room: packet_room - TAILROOM, eal: eal.clone() })
    }

    /// Buffers in all.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Buffers that are free, those in the caches of threads included. For display: it walks the caches.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool is valid while the EAL lives.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.raw.as_ptr()) }
    }

    /// The largest MTU that its buffers are made for.
    pub(crate) fn max_mtu(&self) -> u16 {
        u16::try_from(self.packet_room - LINK_OVERHEAD).unwrap_or(u16::MAX)
    }

    pub(crate) fn eal(&self) -> &Eal {
        &self.eal
    }

    pub(crate) fn as_ptr(&self) -> *mut rte_mempool {
        self.raw.as_ptr()
    }
}

impl Pool for Mempool {
    type Buffer = Mbuf;

    fn alloc(&mut self) -> Option<Mbuf> {
        let mut raw = ptr::null_mut();
        // SAFETY: the pool is valid, and there is room for the one pointer asked for.
        let returned = unsafe { dpdk_sys::shim_alloc_bulk(self.raw.as_ptr(), &raw mut raw, 1) };
        if returned != 0 {
            return None;
        }
        // SAFETY: a fresh mbuf has one segment, and is ours alone; the pool gave it a private area.
        NonNull::new(raw).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }
}

impl fmt::Debug for Mempool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mempool").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

const _: () = assert!(!std::mem::needs_drop::<Meta>(), "nobody would drop it");
