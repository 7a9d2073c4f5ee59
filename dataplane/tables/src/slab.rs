//! Slot allocation with generations, for peers and inbound SPIs.
//!
//! A handle is `generation << INDEX_BITS | index`. We choose inbound SPIs ourselves, so an SPI can
//! be such a handle: finding its SA is an array access.

use std::collections::VecDeque;

/// Bits of a handle that hold the slot: about a million slots.
pub const INDEX_BITS: u32 = 20;
/// Mask of the slot bits.
pub const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
/// Generations are 1 to this. Without generation 0, no handle is one of the SPIs up to 255, which are
/// reserved (RFC 4303 section 2.1).
const GENERATIONS: u32 = u32::MAX >> INDEX_BITS;
/// A freed slot rests until so many others were freed after it, unless there is no other left.
const RESTING: usize = 1024;

/// Gives out handles.
///
/// A handle that was given back does not return soon: its slot rests first, and comes with the next of
/// 4095 generations then. So what still carries the old one (a packet under way to a deleted SA) finds
/// nothing.
#[derive(Debug, Clone)]
pub struct HandlePool {
    capacity: u32,
    first_generation: u32,
    slots: Vec<Slot>,
    /// Slots given back, the oldest first.
    free: VecDeque<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Of the handle that is out, or was last.
    generation: u32,
    live: bool,
}

impl HandlePool {
    /// A pool of `capacity` handles (at most 2^20). Generations begin at a place that `seed` decides, so
    /// that another run of the program gives other handles.
    pub fn new(capacity: u32, seed: u32) -> Self {
        Self {
            capacity: capacity.min(1 << INDEX_BITS),
            first_generation: seed % GENERATIONS + 1,
            slots: Vec::new(),
            free: VecDeque::new(),
        }
    }

    /// A handle that is not out; `None` if all are.
    pub fn alloc(&mut self) -> Option<u32> {
        let fresh = u32::try_from(self.slots.len()).ok().filter(|index| *index < self.capacity);
        if let Some(index) = fresh
            && self.free.len() <= RESTING
        {
            self.slots.push(Slot { generation: self.first_generation, live: true });
            return Some(self.first_generation << INDEX_BITS | index);
        }
        let index = self.free.pop_front()?;
        let slot = self.slots.get_mut(index as usize)?;
        slot.generation = slot.generation % GENERATIONS + 1;
        slot.live = true;
        Some(slot.generation << INDEX_BITS | index)
    }

    /// Takes a handle back; false if it is not out.
    pub fn free(&mut self, handle: u32) -> bool {
        let live = self.contains(handle);
        if live && let Some(slot) = self.slots.get_mut((handle & INDEX_MASK) as usize) {
            slot.live = false;
            self.free.push_back(handle & INDEX_MASK);
        }
        live
    }

    /// Whether `handle` is out.
    pub fn contains(&self, handle: u32) -> bool {
        self.slots
            .get((handle & INDEX_MASK) as usize)
            .is_some_and(|slot| slot.live && slot.generation == handle >> INDEX_BITS)
    }

    /// How many handles are out.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether no handle is out.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_handle_does_not_return_soon() {
        let mut pool = HandlePool::new(1 << 20, 0);
        let mut seen = BTreeSet::new();
        // One SA, replaced over and over.
        for _ in 0..200_000 {
            let handle = pool.alloc().unwrap();
            assert!(seen.insert(handle), "{handle:#x} is back");
            assert!(pool.free(handle));
        }
        assert!(pool.slots.len() <= RESTING + 2, "slots are reused");
    }

    #[test]
    fn the_oldest_slot_is_reused_first() {
        let mut pool = HandlePool::new(3, 5);
        let handles: Vec<_> = (0..3).map(|_| pool.alloc().unwrap()).collect();
        assert_eq!((pool.alloc(), pool.len()), (None, 3));
        for index in [1, 2, 0] {
            assert!(pool.free(handles[index]));
            assert!(!pool.free(handles[index]), "twice");
        }
        assert!(pool.is_empty());
        let slots: Vec<_> = (0..3).map(|_| pool.alloc().unwrap() & INDEX_MASK).collect();
        assert_eq!(slots, [1, 2, 0]);
        assert!(!pool.contains(handles[0]), "of the generation before");
    }

    #[test]
    fn seeds_tell_runs_apart() {
        let first = |seed| HandlePool::new(1, seed).alloc().unwrap();
        assert_ne!(first(1), first(2));
        for seed in [0, GENERATIONS - 1, GENERATIONS, u32::MAX] {
            assert!(first(seed) >= 1 << INDEX_BITS);
        }
        assert_eq!(HandlePool::new(0, 0).alloc(), None);
        assert_eq!(HandlePool::new(u32::MAX, 0).capacity, 1 << INDEX_BITS);
    }

    proptest! {
        #[test]
        fn live_handles_are_distinct_and_not_reserved(
            capacity in 1u32..40,
            seed: u32,
            steps in proptest::collection::vec(any::<Option<prop::sample::Index>>(), 0..400),
        ) {
            let mut pool = HandlePool::new(capacity, seed);
            let mut live = Vec::new();
            for step in steps {
                match step {
                    Some(which) if !live.is_empty() => {
                        let handle = live.swap_remove(which.index(live.len()));
                        prop_assert!(pool.free(handle));
                        prop_assert!(!pool.contains(handle));
                    }
                    _ => match pool.alloc() {
                        Some(handle) => {
                            prop_assert!(handle >= 256);
                            prop_assert!(!live.contains(&handle));
                            live.push(handle);
                        }
                        None => prop_assert_eq!(live.len(), capacity as usize),
                    },
                }
                prop_assert_eq!(pool.len(), live.len());
                prop_assert!(live.iter().all(|handle| pool.contains(*handle)));
            }
        }
    }
}
