//! Nanoseconds per packet of the portable kernel and the fastest of this CPU, side by side.
//!
//! `cargo bench -p dmvpn-esp -- [SUITE ...] [--sas=N] [--size=N] [--kernel=TEXT]`. Every packet is of another
//! SA out of N (2048), in bursts of 32. The kernels take turns round by round, so that noise meets all of
//! them; the figure is the lower decile of the rounds, and in brackets how many times faster than the
//! portable kernel that is.

use std::time::{Duration, Instant};

use dmvpn_esp::{
    InboundSa, IvSeed, Kernel, KeyMaterial, OpenJob, OutboundSa, SealJob, Suite, WindowSize, open, seal,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

const BURST: usize = 32;
const PACKETS: usize = 8 * BURST;
const SIZES: [usize; 5] = [64, 256, 576, 1024, 1400];
const TIME_PER_CASE: Duration = Duration::from_millis(1500);

/// Everything that one kernel works on.
struct Bench {
    tx: Vec<OutboundSa>,
    rx: Vec<InboundSa>,
    packets: Vec<Vec<u8>>,
    /// Nanoseconds per packet, by round.
    seal: Vec<f64>,
    open: Vec<f64>,
}

fn main() {
    let sas = number("--sas=").unwrap_or(2048);
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let names =
        if names.is_empty() { ["aes256-sha1", "aes256gcm"].map(String::from).to_vec() } else { names };
    for (i, kernel) in kernels().into_iter().enumerate() {
        println!("kernel {i}: {kernel}");
    }
    for name in names {
        match name.parse() {
            Ok(suite) => table(suite, sas),
            Err(error) => println!("{name}: {error}"),
        }
    }
}

fn number(option: &str) -> Option<usize> {
    std::env::args().find_map(|arg| arg.strip_prefix(option)?.parse().ok())
}

/// The portable one, and the fastest, or those whose description has the text `--kernel=` in it. More
/// at a time would push each other's SAs out of the caches.
fn kernels() -> Vec<Kernel> {
    let wanted = std::env::args().find_map(|arg| Some(arg.strip_prefix("--kernel=")?.to_string()));
    let mut available = Kernel::available();
    let portable = available.next();
    match wanted {
        Some(text) => {
            portable.into_iter().chain(available.filter(|k| k.to_string().contains(&text))).collect()
        }
        None => portable.into_iter().chain([Kernel::best()]).collect(),
    }
}

fn table(suite: Suite, sas: usize) {
    println!("\n{suite}, {sas} SAs, ns per packet");
    let sizes = number("--size=").map_or_else(|| SIZES.to_vec(), |size| vec![size]);
    for size in sizes {
        let rng = &mut ChaCha8Rng::seed_from_u64(size as u64);
        let mut benches: Vec<Bench> =
            kernels().into_iter().map(|kernel| Bench::new(kernel, suite, size, sas)).collect();
        let begin = Instant::now();
        while begin.elapsed() < TIME_PER_CASE {
            let order: Vec<usize> = (0..PACKETS).map(|_| rng.next_u32() as usize % sas).collect();
            for bench in &mut benches {
                bench.round(&order, size);
            }
        }
        for (what, pick) in [("seal", Bench::seal as fn(&mut Bench) -> f64), ("open", Bench::open)] {
            let figures: Vec<f64> = benches.iter_mut().map(pick).collect();
            let cells: Vec<String> =
                figures.iter().map(|ns| format!("{ns:8.0} ({:5.2})", figures[0] / ns)).collect();
            println!("{size:5} B {what}: {}", cells.join(" "));
        }
    }
}

impl Bench {
    fn new(kernel: Kernel, suite: Suite, size: usize, sas: usize) -> Self {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        let (mut tx, mut rx) = (Vec::new(), Vec::new());
        for spi in (0..).take(sas) {
            let mut keymat = vec![0; suite.cipher_key_len() + suite.integrity_key_len()];
            rng.fill_bytes(&mut keymat);
            let Ok(keys) = KeyMaterial::from_keymat(suite, &keymat) else { continue };
            tx.push(OutboundSa::for_kernel(kernel, spi, &keys, IvSeed::new([7; 16])));
            rx.push(InboundSa::for_kernel(kernel, spi, &keys, WindowSize::default()));
        }
        let packets = vec![vec![0x42; suite.sealed_len(size)]; PACKETS];
        Self { tx, rx, packets, seal: Vec::new(), open: Vec::new() }
    }

    /// Seals and opens every packet once.
    fn round(&mut self, order: &[usize], size: usize) {
        let begin = Instant::now();
        for (packets, order) in self.packets.chunks_mut(BURST).zip(order.chunks(BURST)) {
            let jobs = packets.iter_mut().zip(order);
            let mut jobs: Vec<_> = jobs.map(|(p, &sa)| SealJob::new(&self.tx[sa], p, size, 47)).collect();
            seal(&mut jobs);
            assert!(jobs.iter().all(|job| job.result().is_ok()));
        }
        let sealed = Instant::now();
        for (packets, order) in self.packets.chunks_mut(BURST).zip(order.chunks(BURST)) {
            let jobs = packets.iter_mut().zip(order);
            let mut jobs: Vec<_> = jobs.map(|(p, &sa)| OpenJob::new(&self.rx[sa], p)).collect();
            open(&mut jobs);
            assert!(jobs.iter().all(|job| job.result().is_ok()));
        }
        let ns = |time: Duration| time.as_nanos() as f64 / PACKETS as f64;
        self.open.push(ns(sealed.elapsed()));
        self.seal.push(ns(sealed - begin));
    }

    fn seal(&mut self) -> f64 {
        typical(&mut self.seal)
    }

    fn open(&mut self) -> f64 {
        typical(&mut self.open)
    }
}

/// The lower decile: what the code takes when the machine does little else.
fn typical(figures: &mut [f64]) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 10]
}
