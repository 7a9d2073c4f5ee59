//! Every kernel against the portable one.

use super::*;

/// Suites with many packets of one kind in a burst, so that all lanes are in use.
fn suites() -> impl Strategy<Value = Suite> {
    prop::sample::select(Suite::all().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The same keys, seeds and payloads give the same bytes on the wire.
    #[test]
    fn seal_alike(
        seed: u64,
        suite in suites(),
        plan in prop::collection::vec((0usize..20, 0usize..1600), 1..70),
    ) {
        let wires: Vec<Vec<Vec<u8>>> = Kernel::available()
            .map(|kernel| {
                let rng = &mut ChaCha8Rng::seed_from_u64(seed);
                let pairs: Vec<Pair> = (0..20).map(|_| pair_on([kernel; 2], suite, rng)).collect();
                let mut packets: Vec<_> = plan.iter().map(|&(_, len)| buffer(suite, len, rng)).collect();
                let mut jobs: Vec<_> = packets
                    .iter_mut()
                    .zip(&plan)
                    .map(|(packet, &(sa, len))| SealJob::new(&pairs[sa].tx, packet, len, 4))
                    .collect();
                seal(&mut jobs);
                assert!(jobs.iter().all(|job| job.result() == Ok(())));
                packets
            })
            .collect();
        prop_assert!(wires.windows(2).all(|pair| pair[0] == pair[1]), "{}", suite);
    }

    /// Authentic, damaged and repeated packets in one burst get the same verdicts and payloads.
    #[test]
    fn open_alike(
        seed: u64,
        suite in suites(),
        plan in prop::collection::vec((0usize..20, 0usize..1600, 0usize..4, 0usize..20_000), 1..70),
    ) {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let pairs: Vec<Pair> = (0..20).map(|_| pair(suite, rng)).collect();
        let mut wire: Vec<Vec<u8>> = Vec::new();
        for &(sa, len, fate, at) in &plan {
            let mut packet = sealed(&pairs[sa].tx, len, rng);
            if fate == 0 {
                let bit = at % (packet.len() * 8);
                packet[bit / 8] ^= 1 << (bit % 8);
            }
            wire.push(packet);
        }
        let outcomes: Vec<_> = Kernel::available()
            .map(|kernel| {
                let rng = &mut ChaCha8Rng::seed_from_u64(seed);
                let pairs: Vec<Pair> = (0..20).map(|_| pair_on([kernel; 2], suite, rng)).collect();
                let mut packets = wire.clone();
                let mut jobs: Vec<_> = packets
                    .iter_mut()
                    .zip(&plan)
                    .map(|(packet, &(sa, ..))| OpenJob::new(&pairs[sa].rx, packet))
                    .collect();
                open(&mut jobs);
                let results: Vec<_> = jobs.iter().map(OpenJob::result).collect();
                let payloads: Vec<Option<Vec<u8>>> = results
                    .iter()
                    .zip(&packets)
                    .map(|(result, packet)| result.ok().map(|o| packet[o.offset..][..o.len].to_vec()))
                    .collect();
                (results, payloads)
            })
            .collect();
        prop_assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "{}", suite);
        for (result, &(.., fate, _)) in outcomes[0].0.iter().zip(&plan) {
            prop_assert_eq!(result.is_ok(), fate != 0);
        }
    }

    /// Bytes that no peer made never open, and nothing panics on them.
    #[test]
    fn noise_never_opens(
        seed: u64,
        suite in suites(),
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..40),
    ) {
        for kernel in Kernel::available() {
            let Pair { rx, .. } = pair_on([kernel; 2], suite, &mut ChaCha8Rng::seed_from_u64(seed));
            let mut packets = noise.clone();
            let mut jobs: Vec<_> = packets.iter_mut().map(|p| OpenJob::new(&rx, p)).collect();
            open(&mut jobs);
            prop_assert!(jobs.iter().all(|job| job.result().is_err()));
            prop_assert_eq!(rx.sequence(), 0);
            let counters = rx.counters();
            prop_assert_eq!(counters.malformed + counters.bad_icv + counters.replayed, noise.len() as u64);
        }
    }
}

#[test]
fn the_portable_kernel_is_always_there_and_the_best_is_last() {
    let names: Vec<String> = Kernel::available().map(|kernel| kernel.to_string()).collect();
    assert!(names[0].starts_with("AES-CBC portable"));
    assert_eq!(Some(&Kernel::best().to_string()), names.last());
    println!("{}", Kernel::best());
}
