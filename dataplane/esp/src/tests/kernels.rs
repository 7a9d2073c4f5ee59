//! Every kernel against the portable one.

use super::*;

/// Suites with many packets of one kind in a burst, so that all lanes are in use.
fn suites() -> impl Strategy<Value = Suite> {
    prop::sample::select(Suite::all().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

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

    /// Packets of one length, for which nothing is sorted or begun anew: full and partly full lanes of each kernel.
    #[test]
    fn seal_alike_in_length(
        seed: u64,
        suite in suites(),
        len in 0usize..1600,
        shorter in 0usize..20,
        count in 1usize..70,
    ) {
        let wires: Vec<Vec<Vec<u8>>> = Kernel::available()
            .map(|kernel| {
                let rng = &mut ChaCha8Rng::seed_from_u64(seed);
                let pairs: Vec<Pair> = (0..count).map(|_| pair_on([kernel; 2], suite, rng)).collect();
                // Nearly of one length: some of them may be of as many blocks, and some not.
                let lens: Vec<usize> =
                    (0..count).map(|n| if n % 3 == 0 { len.saturating_sub(shorter) } else { len }).collect();
                let mut packets: Vec<_> = lens.iter().map(|&len| buffer(suite, len, rng)).collect();
                let jobs = packets.iter_mut().zip(&pairs).zip(&lens);
                let mut jobs: Vec<_> =
                    jobs.map(|((packet, pair), &len)| SealJob::new(&pair.tx, packet, len, 4)).collect();
                seal(&mut jobs);
                assert!(jobs.iter().all(|job| job.result() == Ok(())));
                let wire = packets.clone();
                let mut jobs: Vec<_> =
                    packets.iter_mut().zip(&pairs).map(|(packet, pair)| OpenJob::new(&pair.rx, packet)).collect();
                open(&mut jobs);
                for (job, &len) in jobs.iter().zip(&lens) {
                    let offset = suite.payload_offset();
                    assert_eq!(job.result(), Ok(Opened { offset, len, next_header: 4 }), "{kernel}");
                }
                wire
            })
            .collect();
        prop_assert!(wires.windows(2).all(|pair| pair[0] == pair[1]), "{}", suite);
    }

    /// Authentic and damaged packets in one burst get the same verdicts and payloads, and the damaged stay as they are.
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
                for ((result, packet), wire) in results.iter().zip(&packets).zip(&wire) {
                    assert!(result.is_ok() || packet == wire, "{kernel}: decrypted before it was proved");
                }
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

/// The HMAC of another implementation, at every length around the blocks.
#[test]
fn tags_are_those_of_the_hmac_crate() {
    fn reference<M: hmac::Mac + hmac::KeyInit>(key: &[u8], data: &[u8]) -> Vec<u8> {
        let mut mac = <M as hmac::KeyInit>::new_from_slice(key).unwrap();
        mac.update(data);
        mac.finalize().into_bytes().to_vec()
    }
    use Integrity::{HmacMd5_96, HmacSha1_96, HmacSha256_128, HmacSha384_192, HmacSha512_256};
    let data: Vec<u8> = (0..=255).cycle().take(300).collect();
    for (integrity, key_len, reference) in [
        (HmacMd5_96, 16, reference::<hmac::Hmac<md5::Md5>> as fn(&[u8], &[u8]) -> Vec<u8>),
        (HmacSha1_96, 20, reference::<hmac::Hmac<sha1::Sha1>>),
        (HmacSha256_128, 32, reference::<hmac::Hmac<sha2::Sha256>>),
        (HmacSha384_192, 48, reference::<hmac::Hmac<sha2::Sha384>>),
        (HmacSha512_256, 64, reference::<hmac::Hmac<sha2::Sha512>>),
    ] {
        let keys: Vec<_> = (0..64).map(|n| vec![n; key_len]).collect();
        let expanded: Vec<_> = keys.iter().map(|key| kernel::MacKeys::new(integrity, key)).collect();
        for kernel in Kernel::available() {
            // All lengths, 64 at a time, each under another key.
            for first in (0..300).step_by(64) {
                let lengths = first..300.min(first + 64);
                let mut lanes: Vec<_> = lengths
                    .clone()
                    .zip(&expanded)
                    .map(|(len, keys)| kernel::MacLane::new(keys, &data[..len]))
                    .collect();
                kernel::mac(kernel, &mut lanes);
                for ((len, key), lane) in lengths.zip(&keys).zip(&lanes) {
                    let expected = reference(key, &data[..len]);
                    let n = expected.len().min(size_of_val(&lane.tag));
                    assert_eq!(
                        lane.tag.0.as_flattened()[..n],
                        expected[..n],
                        "{kernel}: {integrity:?}, {len} bytes"
                    );
                }
            }
        }
    }
}
