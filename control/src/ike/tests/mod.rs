//! Whole machines against each other, against recorded peers, and against attackers.

mod captures;
mod establish;
mod pair;
mod rekey;
mod threats;
mod vectors;

use dmvpn_tables::esp::{IvSeed, KeyMaterial, OutboundSa, SealJob, seal};

/// What a packet becomes under these keys: two SAs have the same keys if it is the same.
fn fingerprint(keys: &KeyMaterial) -> Vec<u8> {
    let sa = OutboundSa::new(0x1234_5678, keys, IvSeed::new([7; 16]));
    let mut packet = vec![0; keys.suite().sealed_len(16)];
    let mut jobs = [SealJob::new(&sa, &mut packet, 16, 47)];
    seal(&mut jobs);
    assert!(jobs[0].result().is_ok());
    packet
}
