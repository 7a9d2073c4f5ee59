//! Where the time of a poll goes.

use crate::counters::{Counters, Stage};

/// Times the stages of one poll, one after the other: what has passed since the last reading belongs to the stage that
/// ends. A stage without packets is not run, and costs no reading.
pub(crate) struct Stopwatch<'a, T> {
    counters: &'a Counters,
    ticks: T,
    last: u64,
}

impl<'a, T: Fn() -> u64> Stopwatch<'a, T> {
    pub(crate) fn start(counters: &'a Counters, ticks: T) -> Self {
        let last = ticks();
        Self { counters, ticks, last }
    }

    /// Runs a stage, if it has packets.
    #[inline]
    pub(crate) fn time(&mut self, stage: Stage, packets: usize, run: impl FnOnce()) {
        if packets > 0 {
            run();
            self.lap(stage, packets);
        }
    }

    /// A stage with so many packets has ended.
    #[inline]
    pub(crate) fn lap(&mut self, stage: Stage, packets: usize) {
        if packets > 0 {
            let now = (self.ticks)();
            let counters = self.counters.stage(stage);
            counters.runs.add(1);
            counters.packets.add(packets as u64);
            counters.ticks.add(now.wrapping_sub(self.last));
            self.last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn time_belongs_to_the_stage_that_ends() {
        let (counters, now) = (Counters::new(0), Cell::new(100));
        let pass = |ticks| now.set(now.get() + ticks);
        for _ in 0..2 {
            let mut watch = Stopwatch::start(&counters, || now.get());
            pass(5);
            watch.lap(Stage::Receive, 3);
            watch.time(Stage::Ingress, 3, || pass(30));
            watch.time(Stage::Decrypt, 0, || unreachable!("nothing to decrypt"));
            watch.time(Stage::Forward, 2, || pass(7));
            pass(1000);
        }
        let counted = Stage::ALL.map(|stage| {
            let stage = counters.stage(stage);
            (stage.runs.value(), stage.packets.value(), stage.ticks.value())
        });
        let idle = (0, 0, 0);
        assert_eq!(counted, [(2, 6, 10), (2, 6, 60), idle, (2, 4, 14), idle, idle, idle]);
    }
}
