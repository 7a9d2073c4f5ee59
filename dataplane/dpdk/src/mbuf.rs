//! Packet buffers.

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::slice;

use dmvpn_dataplane::frame::{Buffer, Meta};
use dpdk_sys::{rte_mbuf, shim_mbuf_offset as offset};

/// A packet in one mbuf. It has one owner; dropping it gives the mbuf back to its pool.
///
/// Invariants: the pointer is to an mbuf of one segment that nobody else uses, from a pool whose private
/// area holds a [`Meta`]; `buf_addr + data_off .. + data_len` is within its data room of `buf_len` bytes;
/// `pkt_len` is `data_len`.
#[repr(transparent)]
pub struct Mbuf {
    raw: NonNull<rte_mbuf>,
}

// SAFETY: an mbuf belongs to no thread, and a pool takes it back from any.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Bytes between the mbuf structure and the data room, as asked of the pool.
    #[expect(clippy::cast_possible_truncation, reason = "64")]
    pub(crate) const PRIVATE_SIZE: u16 = size_of::<Meta>() as u16;

    /// Takes ownership of an mbuf.
    ///
    /// # Safety
    /// The invariants of the type hold for it, and the caller gives up its use.
    pub(crate) unsafe fn from_raw(raw: NonNull<rte_mbuf>) -> Self {
        Self { raw }
    }

    /// Whether it is one of several segments, which breaks the invariants: such an mbuf may only be dropped.
    pub(crate) fn is_chained(&self) -> bool {
        self.field::<u16>(offset::MBUF_NB_SEGS) != 1
    }

    fn field<T: Copy>(&self, offset: u32) -> T {
        // SAFETY: only called with offsets and types of fields of the structure, which is valid.
        unsafe { self.raw.byte_add(offset as usize).cast::<T>().read() }
    }

    fn set_field<T>(&mut self, offset: u32, value: T) {
        // SAFETY: as in `field`, and nobody else uses the mbuf.
        unsafe { self.raw.byte_add(offset as usize).cast::<T>().write(value) }
    }

    fn data_off(&self) -> u16 {
        self.field(offset::MBUF_DATA_OFF)
    }

    fn data_len(&self) -> u16 {
        self.field(offset::MBUF_DATA_LEN)
    }

    fn buf_len(&self) -> u16 {
        self.field(offset::MBUF_BUF_LEN)
    }

    /// The caller sees to it that the bytes are within the data room.
    fn set_extent(&mut self, data_off: u16, data_len: u16) {
        debug_assert!(u32::from(data_off) + u32::from(data_len) <= u32::from(self.buf_len()));
        self.set_field(offset::MBUF_DATA_OFF, data_off);
        self.set_field(offset::MBUF_DATA_LEN, data_len);
        self.set_field(offset::MBUF_PKT_LEN, u32::from(data_len));
    }

    fn data(&self) -> *mut u8 {
        let start: *mut u8 = self.field(offset::MBUF_BUF_ADDR);
        // SAFETY: the offset is within the data room (invariant).
        unsafe { start.add(usize::from(self.data_off())) }
    }
}

impl Buffer for Mbuf {
    fn bytes(&self) -> &[u8] {
        // SAFETY: within the data room (invariant), whose memory came zeroed; nobody else writes to it.
        unsafe { slice::from_raw_parts(self.data(), self.len()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.data(), self.len()) }
    }

    fn len(&self) -> usize {
        usize::from(self.data_len())
    }

    fn headroom(&self) -> usize {
        usize::from(self.data_off())
    }

    fn tailroom(&self) -> usize {
        usize::from(self.buf_len()) - usize::from(self.data_off()) - usize::from(self.data_len())
    }

    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let grown = u16::try_from(n).ok()?;
        let (off, len) = (self.data_off().checked_sub(grown)?, self.data_len() + grown);
        self.set_extent(off, len);
        self.bytes_mut().get_mut(..n)
    }

    fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.tailroom() {
            return None;
        }
        let (off, len) = (self.data_off(), self.data_len());
        // Cannot fail nor overflow: `n` fits into a tailroom that 16 bits describe.
        self.set_extent(off, len + u16::try_from(n).ok()?);
        self.bytes_mut().get_mut(usize::from(len)..)
    }

    fn grow<const ROOM: usize>(&mut self, front: usize, back: usize) -> Option<&mut [u8; ROOM]> {
        let (off, len) = (usize::from(self.data_off()), self.len());
        if off < ROOM || front > ROOM || back > self.tailroom() {
            return None;
        }
        // SAFETY: the headroom has that many bytes (checked), and they are as the packet's own: see `bytes`.
        let room = unsafe { self.data().sub(ROOM).cast::<[u8; ROOM]>().as_mut() };
        // Cannot fail: what is in the data room has offsets and lengths of 16 bits.
        let (off, len) = (u16::try_from(off - front).ok()?, u16::try_from(len + front + back).ok()?);
        self.set_extent(off, len);
        room
    }

    fn trim_front(&mut self, n: usize) {
        let cut = u16::try_from(n).unwrap_or(u16::MAX).min(self.data_len());
        self.set_extent(self.data_off() + cut, self.data_len() - cut);
    }

    fn trim_back(&mut self, n: usize) {
        let cut = u16::try_from(n).unwrap_or(u16::MAX).min(self.data_len());
        self.set_extent(self.data_off(), self.data_len() - cut);
    }

    fn crop(&mut self, bytes: Range<usize>) {
        let end = bytes.end.min(self.len());
        let start = bytes.start.min(end);
        #[expect(clippy::cast_possible_truncation, reason = "no more than the length, which has 16 bits")]
        self.set_extent(self.data_off() + start as u16, (end - start) as u16);
    }

    fn prefetch_headroom(&self) {
        // SAFETY: a prefetch reads nothing and cannot fault; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(self.data().wrapping_sub(64).cast_const().cast()) };
    }

    fn prefetch_handle(&self) {
        let handle = self.raw.as_ptr().cast::<u8>();
        prefetch_to_write(handle);
        prefetch_to_write(handle.wrapping_add(size_of::<rte_mbuf>()));
    }

    fn prefetch_to_write(&self, most: usize) {
        let data = self.data();
        let len = self.len();
        // From the headers that will be put in front to the trailer behind.
        let (begin, end) =
            (data.wrapping_sub(64), data.wrapping_add(if len > most { most } else { len + TRAILER }));
        let lines = (end.addr() - (begin.addr() & !63)).div_ceil(64);
        for line in 0..lines {
            prefetch_to_write(begin.wrapping_add(64 * line));
        }
    }

    fn meta(&self) -> &Meta {
        // SAFETY: the private area follows the structure, is aligned as that is, is large enough, and any bit
        // pattern is a `Meta`.
        unsafe { self.raw.add(1).cast().as_ref() }
    }

    fn meta_mut(&mut self) -> &mut Meta {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { self.raw.add(1).cast().as_mut() }
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        let mut raw = self.raw.as_ptr();
        // SAFETY: it is ours to give back. (This frees a whole chain, too.)
        unsafe { dpdk_sys::rte_pktmbuf_free_bulk(&raw mut raw, 1) }
    }
}

/// Bytes of ESP padding, trailer and ICV, as most suites have them.
const TRAILER: usize = 32;

/// Asks for a cache line, and that no other core keeps it: to ask for it twice, to read it first, takes longer.
#[inline(always)]
fn prefetch_to_write(line: *const u8) {
    // SAFETY: it reads nothing and cannot fault; a CPU that does not know it does nothing.
    unsafe { asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly)) };
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

const _: () = {
    assert!(align_of::<Meta>() <= align_of::<rte_mbuf>());
    assert!(size_of::<Mbuf>() == size_of::<*mut rte_mbuf>());
};
