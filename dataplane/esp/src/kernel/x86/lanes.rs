//! Keeping lanes busy with packets of different lengths.

/// `N` lanes that advance in step.
pub(super) trait Lanes<const N: usize> {
    /// Lane `lane` has done all its blocks: ends what it was at, begins what comes next, and says how
    /// many blocks that has. 0 leaves the lane idle: it must be able to run on any number of blocks
    /// without effect.
    fn refill(&mut self, lane: usize) -> usize;

    /// Does so many blocks in every lane.
    ///
    /// # Safety
    /// No busy lane has fewer blocks left of what `refill` said.
    unsafe fn run(&mut self, blocks: usize);
}

/// Runs all lanes to the end of the shortest, refills, and so on until all are idle.
#[inline]
pub(super) fn drive<const N: usize>(lanes: &mut impl Lanes<N>) {
    // Blocks left, 0 in an idle lane.
    let mut left = [0; N];
    loop {
        for (lane, left) in left.iter_mut().enumerate() {
            if *left == 0 {
                *left = lanes.refill(lane);
            }
        }
        let Some(blocks) = left.into_iter().filter(|&left| left != 0).min() else { return };
        // SAFETY: `blocks` is the least of what is left in busy lanes.
        unsafe { lanes.run(blocks) };
        for left in &mut left {
            *left = left.saturating_sub(blocks);
        }
    }
}
