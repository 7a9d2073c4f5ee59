use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const SIZES: [u32; 6] = [64, 128, 192, 256, 1024, 4096];

fn window(size: u32) -> ReplayWindow {
    ReplayWindow::new(WindowSize::new(size).unwrap())
}

#[test]
fn sizes() {
    for ok in [64, 128, 320, 4096] {
        assert_eq!(WindowSize::new(ok).map(WindowSize::packets), Ok(ok));
    }
    for bad in [0, 1, 63, 65, 100, 4097, 4160, 1 << 31] {
        assert_eq!(WindowSize::new(bad), Err(WindowSizeError(bad)));
    }
    assert_eq!(WindowSize::default().packets(), 64);
}

#[test]
fn the_window_is_half_a_cache_line() {
    assert_eq!(size_of::<ReplayWindow>(), 32);
}

#[test]
fn number_zero_is_never_accepted() {
    for size in SIZES {
        let w = window(size);
        assert!(!w.may_accept(0) && !w.accept(0));
        assert!(w.accept(1));
        assert!(!w.may_accept(0) && !w.accept(0));
    }
}

#[test]
fn every_edge_of_the_window() {
    for size in SIZES {
        for top in [size - 1, size, size + 1, 2 * size, 100_000, u32::MAX - size, u32::MAX - 1, u32::MAX] {
            let lowest = if top >= size { top - size + 1 } else { 1 };
            let w = window(size);
            assert!(w.accept(top));
            assert_eq!(w.top(), top);
            // Left of the window, also by exactly one.
            for old in [lowest - 1, lowest.saturating_sub(2), lowest.saturating_sub(64), 1.min(lowest - 1)] {
                assert!(!w.may_accept(old) && !w.accept(old), "{size} {top} {old}");
            }
            // Every number in it, once.
            for n in lowest..top {
                assert!(w.may_accept(n), "{size} {top} {n}");
                assert!(w.accept(n), "{size} {top} {n}");
                assert!(!w.may_accept(n) && !w.accept(n), "{size} {top} {n}");
            }
            assert!(!w.accept(top));
            assert_eq!(w.top(), top, "older packets do not move the top");
        }
    }
}

#[test]
fn one_step_drops_exactly_the_oldest() {
    for size in SIZES {
        let w = window(size);
        for n in 1..=3 * size {
            assert!(w.accept(n));
            assert!(!w.accept(n));
        }
        let w = window(size);
        assert!(w.accept(1) && w.accept(size + 1));
        assert!(!w.may_accept(1), "left of the window, no longer a duplicate");
        assert!(w.may_accept(2));
    }
}

#[test]
fn a_jump_forgets_everything_it_passes() {
    for size in SIZES {
        for jump in [1, 63, 64, 65, size - 1, size, size + 1, 2 * size, 8192, 1 << 20, u32::MAX - 200] {
            let w = window(size);
            for n in 1..=100 {
                assert!(w.accept(n));
            }
            let top = 100 + jump;
            assert!(w.accept(top));
            for n in 101.max(top.saturating_sub(size - 1))..top {
                assert!(w.accept(n), "{size}: {n} was never seen, after a jump to {top}");
            }
            for n in 1..=100 {
                assert!(!w.accept(n), "{size}: {n} again, after a jump to {top}");
            }
        }
    }
}

#[test]
fn looking_changes_nothing() {
    let w = window(64);
    assert!(w.accept(10));
    for n in [11, 1000, u32::MAX, 9, 10] {
        w.may_accept(n);
    }
    assert_eq!(w.top(), 10);
    assert!(w.accept(9) && w.accept(11));
}

/// The definition: a number is accepted once, unless it is 0 or `size` or more below the top.
#[derive(Default)]
struct Model {
    top: u32,
    seen: HashSet<u32>,
}

impl Model {
    fn accept(&mut self, size: u32, n: u32) -> bool {
        let stale = n == 0 || (n < self.top && self.top - n >= size);
        let fresh = !stale && self.seen.insert(n);
        if fresh {
            self.top = self.top.max(n);
        }
        fresh
    }
}

proptest! {
    #[test]
    fn behaves_as_the_model(
        size in prop::sample::select(SIZES.to_vec()),
        start in prop::sample::select(vec![0, 1, 60, 1 << 20, u32::MAX - 20_000]),
        steps in prop::collection::vec((0u8..8, 0u32..5000), 1..2000),
    ) {
        let (w, mut model) = (window(size), Model::default());
        if start > 0 {
            prop_assert!(w.accept(start) && model.accept(size, start));
        }
        for (kind, n) in steps {
            let top = model.top;
            let sequence = match kind {
                0..=2 => top.saturating_add(n % 3),
                3 => top.saturating_add(n % 200),
                4 => top.saturating_add(n),
                5 => top.saturating_sub(n),
                6 => top.saturating_sub(n % (size + 2)),
                _ => top.saturating_sub(n % 70),
            };
            let may = w.may_accept(sequence);
            let expected = model.accept(size, sequence);
            prop_assert_eq!(may, expected, "look at {} with top {}", sequence, top);
            prop_assert_eq!(w.accept(sequence), expected, "accept {} with top {}", sequence, top);
            prop_assert_eq!(w.top(), model.top);
        }
    }
}
