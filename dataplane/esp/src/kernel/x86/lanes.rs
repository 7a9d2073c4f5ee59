//! Keeping lanes busy with packets of different lengths.

use arrayvec::ArrayVec;

use crate::burst::BURST;

/// `N` lanes that advance in step.
pub(super) trait Lanes<const N: usize> {
    /// Lane `lane` has done all its blocks: ends what it was at, begins what comes next, and says how
    /// many blocks that has. 0 leaves the lane idle: it must be able to do [`RUN`] blocks without
    /// effect, again after each call.
    fn refill(&mut self, lane: usize) -> usize;

    /// Does so many blocks in every lane.
    ///
    /// # Safety
    /// No busy lane has fewer blocks left of what `refill` said, and if any is idle it is at most
    /// [`RUN`] blocks.
    unsafe fn run(&mut self, blocks: usize);
}

/// The most blocks of a run with idle lanes: those go through a spare buffer of that many.
pub(super) const RUN: usize = 32;

/// Runs all lanes to the end of the shortest, refills, and so on until all are idle.
#[inline(always)]
pub(super) fn drive<const N: usize>(lanes: &mut impl Lanes<N>) {
    // Blocks left, 0 in an idle lane.
    let mut left = [0_usize; N];
    loop {
        for (lane, left) in left.iter_mut().enumerate() {
            if *left == 0 {
                *left = lanes.refill(lane);
            }
        }
        // Minus one: an idle lane has most of all.
        let least = left.iter().fold(usize::MAX, |least, left| least.min(left.wrapping_sub(1)));
        let any_idle = left.contains(&0);
        let blocks = match least.wrapping_add(1) {
            0 => return,
            blocks if any_idle => blocks.min(RUN),
            blocks => blocks,
        };
        // SAFETY: `blocks` is at most the least of what is left in busy lanes, and at most `RUN` if any
        // is idle.
        unsafe { lanes.run(blocks) };
        for left in &mut left {
            *left = left.saturating_sub(blocks);
        }
    }
}

/// The indices of so many lengths, to be popped: the longest first, so that no lane is left alone with a
/// long packet at the end.
#[inline]
pub(super) fn longest_first(lengths: impl Iterator<Item = usize>) -> ArrayVec<usize, BURST> {
    // Plain numbers are sorted without a branch for each comparison.
    let mut order: ArrayVec<usize, BURST> =
        lengths.enumerate().map(|(index, length)| length * BURST + index).collect();
    // Packets of one length, or nearly, are often together.
    let length = |key: &usize| key / BURST;
    if order.iter().any(|key| length(key) != length(&order[0])) {
        order.sort_unstable();
    }
    order.iter_mut().for_each(|key| *key %= BURST);
    order
}
