//! Buffers on the heap, for tests, simulations and benchmarks without DPDK.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;
use dmvpn_esp::prefetch;

use crate::frame::{Buffer, HEADROOM, Meta, Pool, TAILROOM};

/// Largest packet that a buffer starts with room for, besides headroom and tailroom: a jumbo frame.
const PACKET_ROOM: usize = 9216;

/// A fixed number of buffers. Clones share them, so that what one worker allocates another may free.
#[derive(Clone)]
pub struct HeapPool {
    shared: Arc<Shared>,
}

struct Shared {
    free: ArrayQueue<Vec<u8>>,
    in_use: AtomicUsize,
}

impl HeapPool {
    /// A pool of `capacity` buffers (at least one).
    pub fn new(capacity: usize) -> Self {
        let free = ArrayQueue::new(capacity.max(1));
        while free.push(vec![0; HEADROOM + PACKET_ROOM + TAILROOM]).is_ok() {}
        Self { shared: Arc::new(Shared { free, in_use: AtomicUsize::new(0) }) }
    }

    /// A buffer that holds `packet`; `None` if the pool is empty or the packet too large.
    pub fn buffer(&mut self, packet: &[u8]) -> Option<HeapBuffer> {
        let mut buffer = self.alloc()?;
        buffer.append(packet.len())?.copy_from_slice(packet);
        Some(buffer)
    }

    /// Buffers that are somewhere: in a frame, a ring or a link.
    pub fn in_use(&self) -> usize {
        self.shared.in_use.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for HeapPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapPool").field("in_use", &self.in_use()).finish_non_exhaustive()
    }
}

impl Pool for HeapPool {
    type Buffer = HeapBuffer;

    fn alloc(&mut self) -> Option<HeapBuffer> {
        let data = self.shared.free.pop()?;
        self.shared.in_use.fetch_add(1, Ordering::Relaxed);
        let home = Arc::clone(&self.shared);
        Some(HeapBuffer { meta: Meta::default(), start: HEADROOM, end: HEADROOM, data, home })
    }
}

/// A buffer of a [`HeapPool`].
pub struct HeapBuffer {
    meta: Meta,
    start: usize,
    end: usize,
    data: Vec<u8>,
    home: Arc<Shared>,
}

impl Buffer for HeapBuffer {
    fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    fn headroom(&self) -> usize {
        self.start
    }

    fn tailroom(&self) -> usize {
        self.data.len() - self.end
    }

    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        self.start = self.start.checked_sub(n)?;
        Some(&mut self.data[self.start..self.start + n])
    }

    fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.tailroom() {
            return None;
        }
        self.end += n;
        Some(&mut self.data[self.end - n..self.end])
    }

    fn grow<const ROOM: usize>(&mut self, front: usize, back: usize) -> Option<&mut [u8; ROOM]> {
        let (room, start) = (self.start.checked_sub(ROOM)?, self.start);
        if front > ROOM || back > self.tailroom() {
            return None;
        }
        self.start -= front;
        self.end += back;
        self.data[room..start].first_chunk_mut()
    }

    fn trim_front(&mut self, n: usize) {
        self.start += n.min(self.end - self.start);
    }

    fn trim_back(&mut self, n: usize) {
        self.end -= n.min(self.end - self.start);
    }

    fn prefetch_headroom(&self) {
        if let Some(line) = self.data[..self.start].last_chunk::<64>() {
            prefetch(line, 1);
        }
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }
}

impl Drop for HeapBuffer {
    fn drop(&mut self) {
        self.home.in_use.fetch_sub(1, Ordering::Relaxed);
        // As many places as buffers, so there is one for this.
        let _ = self.home.free.push(mem::take(&mut self.data));
    }
}

impl fmt::Debug for HeapBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapBuffer").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_shrinks_at_both_ends() {
        let mut pool = HeapPool::new(2);
        let mut buffer = pool.buffer(&[1, 2, 3]).unwrap();
        assert_eq!((buffer.headroom(), buffer.len()), (HEADROOM, 3));
        buffer.prepend(2).unwrap().copy_from_slice(&[8, 9]);
        buffer.append(1).unwrap()[0] = 4;
        assert_eq!(buffer.bytes(), [8, 9, 1, 2, 3, 4]);
        buffer.trim_front(3);
        buffer.trim_back(1);
        assert_eq!(buffer.bytes(), [2, 3]);
        assert!(buffer.prepend(HEADROOM + 2).is_none());
        assert!(buffer.append(PACKET_ROOM + TAILROOM).is_none());
        assert_eq!(buffer.bytes(), [2, 3]);
        buffer.grow::<4>(1, 2).unwrap().copy_from_slice(&[5, 6, 7, 8]);
        assert_eq!((buffer.bytes()[..3].to_vec(), buffer.len()), (vec![8, 2, 3], 5));
        assert!(buffer.grow::<4>(5, 0).is_none());
        assert!(buffer.grow::<HEADROOM>(0, 0).is_some());
        assert!(buffer.grow::<{ HEADROOM + 1 }>(0, 0).is_none());
        assert!(buffer.grow::<4>(0, PACKET_ROOM + TAILROOM).is_none());
        buffer.crop(1..3);
        assert_eq!(buffer.bytes(), [2, 3]);
        buffer.trim_front(9);
        buffer.trim_back(9);
        assert!(buffer.is_empty());
    }

    #[test]
    fn is_bounded_and_gets_its_buffers_back() {
        let mut pool = HeapPool::new(2);
        let (a, b) = (pool.alloc().unwrap(), pool.alloc().unwrap());
        assert!(pool.alloc().is_none());
        assert_eq!(pool.in_use(), 2);
        drop((a, b));
        assert_eq!(pool.in_use(), 0);
        assert!(pool.alloc().is_some());
    }
}
