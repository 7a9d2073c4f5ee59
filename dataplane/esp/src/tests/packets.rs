//! What is refused, and what is counted for it.

use std::collections::HashSet;

use cipher::Array;

use super::*;

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(7)
}

fn suite(name: &str) -> Suite {
    name.parse().unwrap()
}

/// Every suite on every kernel, at both ends.
fn all_on_all() -> impl Iterator<Item = (Suite, Kernel)> {
    Suite::all().flat_map(|suite| Kernel::available().map(move |kernel| (suite, kernel)))
}

#[test]
fn every_flipped_bit_is_refused_and_moves_nothing() {
    for (suite, kernel) in all_on_all() {
        let Pair { tx, rx } = pair_on([kernel; 2], suite, &mut rng());
        let packet = sealed(&tx, 33, &mut rng());
        for bit in 0..packet.len() * 8 {
            let mut forged = packet.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let before = forged.clone();
            // The SPI and the sequence number too are covered by the ICV; number 0 is caught before.
            let expected = if forged[4..8] == [0; 4] { OpenError::Replayed } else { OpenError::BadIcv };
            assert_eq!(opened(&rx, &mut forged), Err(expected), "{suite} bit {bit}, {kernel}");
            assert_eq!(forged, before, "{suite} bit {bit}, {kernel}: decrypted before it was proved");
        }
        let bits = packet.len() as u64 * 8;
        assert_eq!(rx.counters(), InboundCounters { replayed: 1, bad_icv: bits - 1, ..Default::default() });
        assert_eq!(rx.sequence(), 0);
        assert!(opened(&rx, &mut packet.clone()).is_ok(), "{suite}, {kernel}: the true packet still passes");
    }
}

#[test]
fn every_length_but_the_right_one_is_refused() {
    for suite in Suite::all() {
        let Pair { tx, rx } = pair(suite, &mut rng());
        let packet = sealed(&tx, 40, &mut rng());
        for len in 0..packet.len() {
            let result = opened(&rx, &mut packet[..len].to_vec());
            let shortest = suite.sealed_len(0);
            let blocks = len >= shortest && (len - shortest).is_multiple_of(suite.block());
            let expected = if blocks { OpenError::BadIcv } else { OpenError::Length };
            assert_eq!(result, Err(expected), "{suite} {len}");
        }
        let counters = rx.counters();
        assert_eq!(counters.malformed + counters.bad_icv, packet.len() as u64);
        assert_eq!(rx.sequence(), 0);
    }
}

#[test]
fn a_forged_packet_does_not_move_the_window() {
    let Pair { tx, rx } = pair(suite("aes256-sha1"), &mut rng());
    let first = sealed(&tx, 10, &mut rng());
    let mut forged = first.clone();
    forged[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(opened(&rx, &mut forged), Err(OpenError::BadIcv));
    assert_eq!(rx.sequence(), 0);
    assert!(opened(&rx, &mut first.clone()).is_ok());
    assert_eq!(rx.sequence(), 1);
}

#[test]
fn replays_are_refused_in_one_batch_and_across_batches() {
    for (suite, kernel) in all_on_all() {
        let name = format!("{suite}, {kernel}");
        let Pair { tx, rx } = pair_on([kernel; 2], suite, &mut rng());
        let mut packets: Vec<_> = (0..3).map(|_| sealed(&tx, 100, &mut rng())).collect();
        packets.push(packets[1].clone());
        packets.push(packets[0].clone());
        let copies = packets.clone();
        let mut jobs: Vec<_> = packets.iter_mut().map(|p| OpenJob::new(&rx, p)).collect();
        open(&mut jobs);
        let ok: Vec<_> = jobs.iter().map(|job| job.result().is_ok()).collect();
        assert_eq!(ok, [true, true, true, false, false], "{name}");
        assert_eq!(jobs[3].result(), Err(OpenError::Replayed));
        for mut packet in copies {
            assert_eq!(opened(&rx, &mut packet), Err(OpenError::Replayed), "{name}");
        }
        let expected = InboundCounters { packets: 3, bytes: 300, replayed: 7, ..Default::default() };
        assert_eq!(rx.counters(), expected, "{name}");
    }
}

#[test]
fn packets_left_of_the_window_are_refused_and_late_ones_accepted() {
    let Pair { tx, rx } = pair(suite("aes256gcm"), &mut rng());
    let mut packets: Vec<_> = (0..66).map(|_| sealed(&tx, 4, &mut rng())).collect();
    let mut last = packets.pop().unwrap();
    assert!(opened(&rx, &mut last).is_ok());
    // Top is 66: numbers 3 to 65 are inside, 1 and 2 are not.
    for (i, packet) in packets.iter_mut().enumerate() {
        assert_eq!(opened(&rx, packet).is_ok(), i >= 2, "number {}", i + 1);
    }
}

#[test]
fn an_sa_stops_at_its_last_number() {
    for (suite, kernel) in all_on_all() {
        let name = format!("{suite}, {kernel}");
        let Pair { tx, rx } = pair_on([kernel; 2], suite, &mut rng());
        tx.sent.set_sequence(u32::MAX - 2);
        let mut packets: Vec<_> = (0..4).map(|_| buffer(tx.suite(), 9, &mut rng())).collect();
        let mut jobs: Vec<_> = packets.iter_mut().map(|p| SealJob::new(&tx, p, 9, 47)).collect();
        seal(&mut jobs);
        let results: Vec<_> = jobs.iter().map(SealJob::result).collect();
        let exhausted = Err(SealError::SequenceExhausted);
        assert_eq!(results, [Ok(()), Ok(()), exhausted, exhausted], "{name}");
        assert_eq!(tx.sequence(), u32::MAX);
        assert_eq!(packets[1][4..8], [0xff; 4]);
        assert!(opened(&rx, &mut packets[0]).is_ok() && opened(&rx, &mut packets[1]).is_ok());
        assert_eq!(rx.sequence(), u32::MAX);
    }
}

#[test]
fn a_buffer_of_the_wrong_length_takes_no_number() {
    let Pair { tx, .. } = pair(suite("aes256-sha512"), &mut rng());
    let right = tx.suite().sealed_len(50);
    for (len, payload) in
        [(right - 1, 50), (right + 1, 50), (0, 0), (0, 50), (right, usize::MAX), (right, 70)]
    {
        let mut packet = vec![0; len];
        let mut job = [SealJob::new(&tx, &mut packet, payload, 47)];
        assert_eq!(job[0].result(), Err(SealError::Pending));
        seal(&mut job);
        assert_eq!(job[0].result(), Err(SealError::Length), "{len} {payload}");
    }
    assert_eq!(tx.counters(), OutboundCounters::default());
}

#[test]
fn a_dummy_is_reported_as_such() {
    let Pair { tx, rx } = pair(suite("aes128-md5"), &mut rng());
    let mut packet = buffer(tx.suite(), 0, &mut rng());
    seal(&mut [SealJob::new(&tx, &mut packet, 0, DUMMY)]);
    assert!(opened(&rx, &mut packet).unwrap().is_dummy());
    let mut packet = sealed(&tx, 0, &mut rng());
    assert!(!opened(&rx, &mut packet).unwrap().is_dummy());
}

/// Seals a packet whose last plaintext bytes are as given, padding and trailer included.
fn sealed_raw(kernel: Kernel, material: &KeyMaterial, sequence: u32, plain: &[u8]) -> Vec<u8> {
    let suite = material.suite();
    let mut packet = [1u32.to_be_bytes(), sequence.to_be_bytes()].concat();
    packet.extend(vec![3; suite.iv_len()]);
    packet.extend(plain);
    packet.extend(vec![0; suite.icv_len()]);
    match kernel::SealKeys::for_sealing(kernel, material) {
        #[cfg(feature = "null-cipher")]
        kernel::Keys::Null => {}
        kernel::Keys::Aead(keys) => {
            keys.seal(&mut packet);
        }
        kernel::Keys::EncryptThenMac(cbc, mac) => {
            let end = packet.len() - suite.icv_len();
            let lane = kernel::CbcEncryptLane { keys: &cbc, blocks: &mut packet[HEADER_LEN..end] };
            kernel::cbc_encrypt([lane].into_iter());
            let tag = mac.tag(&packet[..end]);
            tag.write(&mut packet[end..]);
        }
    }
    packet
}

#[test]
#[cfg(feature = "null-cipher")]
fn the_null_suite_keeps_all_but_the_cipher() {
    let Pair { tx, rx } = pair(Suite::null(), &mut rng());
    let packet = sealed(&tx, 5, &mut rng());
    assert_eq!(packet.len(), 8 + 8);
    assert_eq!(opened(&rx, &mut packet.clone()), Ok(Opened { offset: 8, len: 5, next_header: 47 }));
    assert_eq!(opened(&rx, &mut packet.clone()), Err(OpenError::Replayed));
}

#[test]
fn authentic_packets_with_wrong_padding_are_refused() {
    for (suite, kernel) in all_on_all() {
        let keymat: Vec<u8> = (1..).take(suite.cipher_key_len() + suite.integrity_key_len()).collect();
        let material = KeyMaterial::from_keymat(suite, &keymat).unwrap();
        let rx = InboundSa::for_kernel(kernel, 1, &material, WindowSize::default());
        let mut sequence = 0;
        let mut open_with_tail = |len: usize, tail: &[u8]| {
            sequence += 1;
            let mut plain = vec![0x55; len];
            plain[len - tail.len()..].copy_from_slice(tail);
            opened(&rx, &mut sealed_raw(kernel, &material, sequence, &plain))
        };
        let offset = suite.payload_offset();
        let ok = |len| Ok(Opened { offset, len, next_header: 47 });
        assert_eq!(open_with_tail(16, &[1, 2, 3, 3, 47]), ok(11));
        assert_eq!(open_with_tail(16, &[0, 47]), ok(14));
        assert_eq!(open_with_tail(16, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 14, 47]), ok(0));
        // More padding than the block needs is allowed (RFC 4303 section 2.4).
        let long: Vec<u8> = (1..=255).chain([255, 47]).collect();
        assert_eq!(open_with_tail(272, &long), ok(272 - 257));
        for wrong in
            [&[1, 2, 4, 3, 47][..], &[0, 1, 2, 3, 47], &[0, 2, 2, 47], &[15, 47], &[255, 47], &[2, 1, 2, 47]]
        {
            assert_eq!(open_with_tail(16, wrong), Err(OpenError::BadPadding), "{suite} {wrong:?}, {kernel}");
        }
        assert_eq!(rx.counters().malformed, 6);
        assert_eq!(rx.counters().packets, 4);
    }
}

#[test]
fn ivs_never_repeat_and_cbc_ones_are_of_full_width() {
    for name in ["aes256-sha1", "3des-sha1", "aes256gcm"] {
        let Pair { tx, .. } = pair(suite(name), &mut rng());
        let iv_len = tx.suite().iv_len();
        let mut packets: Vec<_> = (0..4000).map(|_| buffer(tx.suite(), 1, &mut rng())).collect();
        let mut jobs: Vec<_> = packets.iter_mut().map(|p| SealJob::new(&tx, p, 1, 47)).collect();
        seal(&mut jobs);
        let ivs: HashSet<&[u8]> = packets.iter().map(|p| &p[8..8 + iv_len]).collect();
        assert_eq!(ivs.len(), packets.len(), "{name}");
        if iv_len == 16 || name.starts_with("3des") {
            // Each bit is set in about half of them: 2000 with a standard deviation of 32.
            for bit in 0..iv_len * 8 {
                let set = ivs.iter().filter(|iv| iv[bit / 8] >> (bit % 8) & 1 == 1).count();
                assert!((1700..2300).contains(&set), "{name}: bit {bit} is set in {set} of 4000");
            }
        }
    }
}

#[test]
fn the_iv_is_the_encrypted_seed() {
    let material = KeyMaterial::new(suite("aes128-sha1"), &[9; 16], &[8; 20]).unwrap();
    let tx = OutboundSa::new(5, &material, IvSeed::new([0x11; 16]));
    let packet = sealed(&tx, 20, &mut rng());
    let mut expected: [u8; 16] = [0x11; 16];
    expected[7] ^= 1;
    let mut expected = Array::from(expected);
    let aes: aes::Aes128 = cipher::KeyInit::new(&[9; 16].into());
    cipher::BlockCipherEncrypt::encrypt_block(&aes, &mut expected);
    assert_eq!(packet[8..24], expected[..]);
}

#[test]
fn sas_are_shared_between_threads_and_show_no_keys() {
    fn shared<T: Send + Sync>(_: &T) {}
    let keys = KeyMaterial::new(suite("aes128gcm"), &[0xab; 20], &[]).unwrap();
    let tx = OutboundSa::new(0x1234, &keys, IvSeed::new([0xcd; 16]));
    let rx = InboundSa::new(0x1234, &keys, WindowSize::default());
    shared(&tx);
    shared(&rx);
    assert_eq!(format!("{tx:?}"), "OutboundSa(0x00001234, aes128gcm)");
    assert_eq!(format!("{rx:?}"), "InboundSa(0x00001234, aes128gcm)");
}
