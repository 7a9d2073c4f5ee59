//! How many packets of each kind a worker bothers the control thread with.

use dmvpn_tables::PuntReason;

use crate::counters::{PUNT_KINDS, punt_index};

/// Length of a counting window in microseconds.
const WINDOW: u64 = 100_000;
/// Packets of one kind in a window, whatever they are about.
const TOTAL: u32 = 200;
/// Packets of one kind about one thing in a window, where the packets themselves matter.
const PER_KEY: u8 = 8;
/// Things that are told apart, in a table without chains: of two that meet in one slot, the last one counts.
const SLOTS: usize = 1024;

/// Rate limits in fixed memory, without locks: so many packets per kind and window, and so many of those about
/// one destination, source or peer.
pub(crate) struct Limiter {
    kinds: [Tally<u32>; PUNT_KINDS],
    slots: Box<[Slot]>,
}

#[derive(Clone, Copy, Default)]
struct Tally<N> {
    window: u64,
    count: N,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    kind: u8,
    key: u32,
    tally: Tally<u8>,
}

impl Limiter {
    pub(crate) fn new() -> Self {
        Self { kinds: [Tally::default(); PUNT_KINDS], slots: vec![Slot::default(); SLOTS].into_boxed_slice() }
    }

    /// Whether one more packet for `reason`, about `key`, may go. `now` in microseconds.
    pub(crate) fn admit(&mut self, reason: &PuntReason, key: u32, now: u64) -> bool {
        // Windows count from 1: the zero of a fresh tally is none.
        let window = now / WINDOW + 1;
        let kind = punt_index(reason);
        let total = &mut self.kinds[kind];
        if total.window != window {
            *total = Tally { window, count: 0 };
        }
        // The usual end under load, and it costs one look.
        if total.count >= TOTAL {
            return false;
        }
        let slot = &mut self.slots[slot_of(kind, key)];
        if (usize::from(slot.kind), slot.key) != (kind, key) || slot.tally.window != window {
            #[allow(clippy::cast_possible_truncation, reason = "there are few kinds")]
            let kind = kind as u8;
            *slot = Slot { kind, key, tally: Tally { window, count: 0 } };
        }
        if slot.tally.count >= per_key(reason) {
            return false;
        }
        slot.tally.count += 1;
        total.count += 1;
        true
    }
}

fn per_key(reason: &PuntReason) -> u8 {
    match reason {
        // News, and once is enough.
        PuntReason::Redirect { .. }
        | PuntReason::PeerMoved { .. }
        | PuntReason::UnknownSpi { .. }
        | PuntReason::Unresolved { held: false, .. } => 1,
        _ => PER_KEY,
    }
}

/// Fibonacci hashing (Knuth, volume 3, section 6.4).
fn slot_of(kind: usize, key: u32) -> usize {
    let hash = (u64::from(key) << 8 | kind as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 54) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_each_key_and_all_together_per_window() {
        let mut limiter = Limiter::new();
        let reason = PuntReason::Unreachable;
        let admitted =
            |limiter: &mut Limiter, key, now| (0..1000).filter(|_| limiter.admit(&reason, key, now)).count();
        assert_eq!(admitted(&mut limiter, 1, 0), usize::from(PER_KEY));
        assert_eq!(admitted(&mut limiter, 2, 0), usize::from(PER_KEY));
        assert_eq!(admitted(&mut limiter, 1, WINDOW), usize::from(PER_KEY));
        let all = (0..10_000).filter(|&key| limiter.admit(&reason, key, 2 * WINDOW)).count();
        assert_eq!(all, TOTAL as usize);
        assert!(limiter.admit(&PuntReason::TtlExceeded, 1, 2 * WINDOW), "kinds do not share");
    }

    #[test]
    fn news_goes_once() {
        let mut limiter = Limiter::new();
        let reason = PuntReason::UnknownSpi { spi: 7 };
        assert!(limiter.admit(&reason, 7, 5));
        assert!(!limiter.admit(&reason, 7, WINDOW - 1));
        assert!(limiter.admit(&reason, 7, WINDOW));
    }
}
