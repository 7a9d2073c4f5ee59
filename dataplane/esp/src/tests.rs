//! Whole packets through [`seal`] and [`open`].

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::*;

/// Both ends of an SA with random keys.
struct Pair {
    tx: OutboundSa,
    rx: InboundSa,
}

fn pair(suite: Suite, rng: &mut ChaCha8Rng) -> Pair {
    pair_on([Kernel::best(); 2], suite, rng)
}

/// The same, with one kernel for sealing and one for opening.
fn pair_on([seal, open]: [Kernel; 2], suite: Suite, rng: &mut ChaCha8Rng) -> Pair {
    let mut keymat = vec![0; suite.cipher_key_len() + suite.integrity_key_len()];
    rng.fill_bytes(&mut keymat);
    let keys = KeyMaterial::from_keymat(suite, &keymat).unwrap();
    let mut seed = [0; 16];
    rng.fill_bytes(&mut seed);
    let spi = rng.next_u32();
    Pair {
        tx: OutboundSa::for_kernel(seal, spi, &keys, IvSeed::new(seed)),
        rx: InboundSa::for_kernel(open, spi, &keys, WindowSize::default()),
    }
}

/// A buffer with random payload in its place.
fn buffer(suite: Suite, payload_len: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut packet = vec![0xee; suite.sealed_len(payload_len)];
    rng.fill_bytes(&mut packet[suite.payload_offset()..][..payload_len]);
    packet
}

/// Seals one packet.
fn sealed(sa: &OutboundSa, payload_len: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut packet = buffer(sa.suite(), payload_len, rng);
    let mut job = [SealJob::new(sa, &mut packet, payload_len, 47)];
    seal(&mut job);
    assert_eq!(job[0].result(), Ok(()));
    packet
}

/// Opens one packet.
fn opened(sa: &InboundSa, packet: &mut [u8]) -> Result<Opened, OpenError> {
    let mut job = [OpenJob::new(sa, packet)];
    open(&mut job);
    job[0].result()
}

/// A pair of any suite, with any kernel at each end.
fn random_pair(rng: &mut ChaCha8Rng) -> Pair {
    let (suites, kernels): (Vec<_>, Vec<_>) = (Suite::all().collect(), Kernel::available().collect());
    let mut any = |n: usize| rng.next_u32() as usize % n;
    let (suite, ends) =
        (suites[any(suites.len())], [kernels[any(kernels.len())], kernels[any(kernels.len())]]);
    pair_on(ends, suite, rng)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any mix of suites, SAs, kernels and sizes in one batch comes back as it was, in order.
    #[test]
    fn batches_round_trip(seed: u64, plan in prop::collection::vec((0usize..40, 0usize..2001), 1..150)) {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let pairs: Vec<Pair> = (0..40).map(|_| random_pair(rng)).collect();
        let mut packets: Vec<Vec<u8>> =
            plan.iter().map(|&(sa, len)| buffer(pairs[sa].tx.suite(), len, rng)).collect();
        let plain = packets.clone();

        let mut jobs: Vec<SealJob<'_>> = packets
            .iter_mut()
            .zip(&plan)
            .map(|(packet, &(sa, len))| SealJob::new(&pairs[sa].tx, packet, len, 47))
            .collect();
        seal(&mut jobs);
        prop_assert!(jobs.iter().all(|job| job.result() == Ok(())));

        let mut jobs: Vec<OpenJob<'_>> = packets
            .iter_mut()
            .zip(&plan)
            .map(|(packet, &(sa, _))| OpenJob::new(&pairs[sa].rx, packet))
            .collect();
        open(&mut jobs);
        let results: Vec<_> = jobs.iter().map(OpenJob::result).collect();

        for (i, (&(sa, len), result)) in plan.iter().zip(results).enumerate() {
            let offset = pairs[sa].tx.suite().payload_offset();
            prop_assert_eq!(result, Ok(Opened { offset, len, next_header: 47 }));
            prop_assert_eq!(&packets[i][offset..][..len], &plain[i][offset..][..len]);
        }
        for (sa, pair) in pairs.iter().enumerate() {
            let sizes: Vec<u64> = plan.iter().filter(|p| p.0 == sa).map(|p| p.1 as u64).collect();
            let (packets, bytes) = (sizes.len() as u64, sizes.iter().sum());
            prop_assert_eq!(pair.tx.counters(), OutboundCounters { packets, bytes });
            prop_assert_eq!(pair.rx.counters(), InboundCounters { packets, bytes, ..Default::default() });
            prop_assert_eq!(pair.rx.sequence(), pair.tx.sequence());
        }
    }
}

mod kernels;
mod packets;
mod peers;
mod vectors;
