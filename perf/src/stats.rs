//! Time on a shared machine: rounds in turns, of which only those count in which the machine did little else.

use std::array;
use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use dmvpn_dpdk::Clock;

/// Rounds without which there is no figure, however long they take.
const FEWEST: usize = 10;
/// A round is quiet if the probes around it took no more than this times what the quickest took.
const QUIET: f64 = 1.05;
/// At least one of so many rounds is taken as quiet, and [`FEWEST`] in any case: the quietest.
const KEPT: usize = 4;

/// Figures of one contender, one for each quiet round.
#[derive(Debug, Clone)]
pub(crate) struct Samples {
    by_round: Vec<f64>,
    sorted: Vec<f64>,
}

/// Lets contenders do a round each, in turns, until `time` is over, and gives the figures of each: of a round there are
/// `N`, in the order in which `round` gives them.
///
/// Before and after each turn of all, a probe runs: code whose time is known, and which finds out whether somebody else
/// has the core or its other half.
///
/// # Errors
/// Those of the contenders.
pub(crate) fn in_turns<C, const N: usize>(
    clock: Clock,
    time: Duration,
    contenders: &mut [C],
    mut round: impl FnMut(&mut C) -> anyhow::Result<[f64; N]>,
) -> anyhow::Result<Vec<[Samples; N]>> {
    let mut probes = Vec::new();
    let mut figures = vec![Vec::new(); contenders.len()];
    // The first round finds cold caches and pages that nobody has touched.
    for contender in &mut *contenders {
        round(contender)?;
    }
    let begin = Instant::now();
    let mut before = probe(clock);
    for turn in 0.. {
        if turn >= FEWEST && begin.elapsed() >= time {
            break;
        }
        for place in 0..contenders.len() {
            // Who comes first changes: it finds what the last one left in the caches.
            let place = (place + turn) % contenders.len();
            figures[place].push(round(&mut contenders[place])?);
        }
        let after = probe(clock);
        probes.push(before.max(after));
        before = after;
    }
    let quiet = quiet(&probes);
    let pick = |rounds: Vec<[f64; N]>| {
        array::from_fn(|figure| Samples::new(quiet.iter().map(|&round| rounds[round][figure]).collect()))
    };
    Ok(figures.into_iter().map(pick).collect())
}

/// The median of each of the `N` figures of several tries.
pub(crate) fn median_of_each<const N: usize>(tries: &[[f64; N]]) -> [f64; N] {
    array::from_fn(|figure| Samples::new(tries.iter().map(|figures| figures[figure]).collect()).median())
}

/// The rounds that count, by what their probes took.
fn quiet(probes: &[u64]) -> Vec<usize> {
    let mut sorted = probes.to_vec();
    sorted.sort_unstable();
    let Some(&quickest) = sorted.first() else { return Vec::new() };
    let least = ((sorted.len() - 1) / KEPT).max(FEWEST - 1).min(sorted.len() - 1);
    let limit = (quickest as f64 * QUIET).max(sorted[least] as f64);
    (0..probes.len()).filter(|&round| probes[round] as f64 <= limit).collect()
}

/// Cycles for work that keeps the core's units busy and needs no memory.
pub(crate) fn probe(clock: Clock) -> u64 {
    let begin = clock.cycles();
    let mut lanes = black_box([1u64, 2, 3, 4, 5, 6, 7, 8]);
    for _ in 0..2000 {
        for lane in &mut lanes {
            *lane = lane.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (*lane >> 3);
        }
    }
    black_box(lanes);
    clock.cycles() - begin
}

/// Nanoseconds for which this thread could have run, but waited for a CPU.
pub(crate) fn run_delay() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

impl Samples {
    pub(crate) fn new(by_round: Vec<f64>) -> Self {
        let mut sorted = by_round.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        Self { by_round, sorted }
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// What the code takes when the machine does little else: the lower decile.
    pub(crate) fn typical(&self) -> f64 {
        self.percentile(10)
    }

    /// The figure in the middle.
    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// How far the middle half of them spreads, as a part of the median.
    pub(crate) fn spread(&self) -> f64 {
        (self.percentile(75) - self.percentile(25)) / self.median()
    }

    /// What this is of `other`, round by round: the median. Noise that both of a round meet cancels out.
    pub(crate) fn ratio(&self, other: &Self) -> f64 {
        let ratios = self.by_round.iter().zip(&other.by_round).map(|(a, b)| a / b);
        Self::new(ratios.collect()).median()
    }

    /// The figure that so many percent of them are not above; not a number if there are none.
    fn percentile(&self, percent: usize) -> f64 {
        let index = self.sorted.len().saturating_sub(1) * percent / 100;
        self.sorted.get(index).copied().unwrap_or(f64::NAN)
    }
}

/// The straight line that fits points best (least squares): its slope, and where it meets `x` = 0. `None` for less than
/// two different `x`.
pub(crate) fn fit(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|p| p.0), mean(|p| p.1));
    let (covariance, variance) = points.iter().fold((0.0, 0.0), |(c, v), (x, y)| {
        (c + (x - mean_x) * (y - mean_y), v + (x - mean_x) * (x - mean_x))
    });
    (variance > 0.0).then(|| {
        let slope = covariance / variance;
        (slope, mean_y - slope * mean_x)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_beside_a_slow_probe_do_not_count() {
        let mut probes = vec![100; 12];
        (probes[2], probes[5], probes[7]) = (104, 200, 106);
        let all_but = |left_out: &[usize]| (0..12).filter(|n| !left_out.contains(n)).collect::<Vec<_>>();
        assert_eq!(quiet(&probes), all_but(&[5, 7]));
        probes[3] = 300;
        assert_eq!(quiet(&probes), all_but(&[3, 5]), "ten at least");
        let slower: Vec<u64> = (0..80).map(|n| 100 + 10 * n).collect();
        assert_eq!(quiet(&slower), (0..20).collect::<Vec<_>>(), "the quietest quarter, where few are quiet");
        assert_eq!(quiet(&[100, 300]), [0, 1]);
        assert_eq!(quiet(&[]), [0usize; 0]);
    }

    #[test]
    fn figures_of_samples() {
        let samples = Samples::new(vec![9.0, 10.0, 8.0, 30.0, 12.0]);
        assert_eq!((samples.len(), samples.typical(), samples.median()), (5, 8.0, 10.0));
        assert_eq!(Samples::new((0..=20).map(f64::from).collect()).typical(), 2.0);
        assert!((samples.spread() - 0.3).abs() < 1e-9);
        let half = Samples::new(vec![4.5, 5.0, 4.0, 15.0, 6.0]);
        assert!((half.ratio(&samples) - 0.5).abs() < 1e-9);
        assert!(Samples::new(Vec::new()).median().is_nan());
    }

    #[test]
    fn a_line_is_found_again() {
        let points = [64.0, 576.0, 1400.0].map(|x| (x, 1.25 * x + 80.0));
        let (slope, intercept) = fit(&points).unwrap();
        assert!((slope - 1.25).abs() < 1e-9 && (intercept - 80.0).abs() < 1e-6);
        assert_eq!(fit(&[(64.0, 1.0), (64.0, 2.0)]), None);
        assert_eq!(fit(&[]), None);
    }
}
