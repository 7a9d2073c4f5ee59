//! The groups against their definitions, and against published vectors.

use std::net::Ipv4Addr;

use dmvpn_config::model::DhGroup;

use super::*;

const GROUPS: [DhGroup; 10] = [
    DhGroup::Modp1024,
    DhGroup::Modp1536,
    DhGroup::Modp2048,
    DhGroup::Modp3072,
    DhGroup::Modp4096,
    DhGroup::Modp6144,
    DhGroup::Modp8192,
    DhGroup::Ecp256,
    DhGroup::Ecp384,
    DhGroup::Ecp521,
];

fn run(group: DhGroup, work: Work) -> Result<Computed, Reason> {
    DhJob::new(Ticket(1), group, work, Ipv4Addr::LOCALHOST, true).run().result
}

#[test]
fn both_ends_agree_in_every_group() {
    for group in GROUPS {
        let a = run(group, Work::Generate(Seed::new([1; 32]))).unwrap();
        assert_eq!(a.public.len(), public_len(group));
        let public = Public::parse(group, &a.public).unwrap();
        let b = run(group, Work::Respond(Seed::new([2; 32]), public)).unwrap();
        let public = Public::parse(group, &b.public).unwrap();
        let c = run(group, Work::Agree(a.private.unwrap(), public)).unwrap();
        let shared = c.shared.unwrap();
        assert!(shared == b.shared.unwrap(), "{group:?}");
        // A coordinate alone, or the whole prime.
        let len = if modp(group).is_some() { public_len(group) } else { public_len(group) / 2 };
        assert_eq!(shared.len(), len);
    }
}

#[test]
fn values_of_another_length_are_refused() {
    for group in GROUPS {
        let len = public_len(group);
        for len in [0, 1, len - 1, len + 1, len * 2] {
            assert!(Public::parse(group, &vec![3; len]).is_err());
        }
    }
}

#[test]
fn modp_values_at_the_edges_are_refused() {
    for group in GROUPS {
        let Some(modp) = modp(group) else { continue };
        let small = |n: u8| {
            let mut value = vec![0; modp.prime().len()];
            *value.last_mut().unwrap() = n;
            value
        };
        // The last byte of each prime is 0xff, so what is around it has no borrow.
        let near = |minus: u8| {
            let mut value = modp.prime().to_vec();
            *value.last_mut().unwrap() -= minus;
            value
        };
        for value in [small(0), small(1), near(0), near(1), vec![0xff; modp.prime().len()]] {
            assert!(Public::parse(group, &value).is_err(), "{group:?}");
        }
        for value in [small(2), near(2)] {
            assert!(Public::parse(group, &value).is_ok(), "{group:?}");
        }
    }
}

#[test]
fn points_off_the_curve_are_refused() {
    for group in [DhGroup::Ecp256, DhGroup::Ecp384, DhGroup::Ecp521] {
        let mut honest = run(group, Work::Generate(Seed::new([1; 32]))).unwrap().public;
        for value in [vec![0; honest.len()], vec![0xff; honest.len()]] {
            let public = Public::parse(group, &value).unwrap();
            assert!(run(group, Work::Respond(Seed::new([2; 32]), public)).is_err());
        }
        *honest.last_mut().unwrap() ^= 1;
        let public = Public::parse(group, &honest).unwrap();
        assert!(run(group, Work::Respond(Seed::new([2; 32]), public)).is_err());
    }
}

/// RFC 2409 section 6.2, RFC 3526: `p = 2^n - 2^(n-64) - 1 + 2^64 * (floor(2^(n-130) * pi) + c)`.
#[test]
fn the_primes_are_what_their_definition_says() {
    let groups = [
        (DhGroup::Modp1024, 129_093),
        (DhGroup::Modp1536, 741_804),
        (DhGroup::Modp2048, 124_476),
        (DhGroup::Modp3072, 1_690_314),
        (DhGroup::Modp4096, 240_904),
        (DhGroup::Modp6144, 929_484),
        (DhGroup::Modp8192, 4_743_158),
    ];
    for (group, c) in groups {
        let prime = modp(group).unwrap().prime();
        let bits = prime.len() * 8;
        // floor(2^(n-130) pi) + c, big-endian, of n - 128 bits; what the -1 borrows below it takes one.
        let mut middle = pi_bits(bits - 130);
        let mut carry = c - 1;
        for byte in middle.iter_mut().rev() {
            carry += u32::from(*byte);
            *byte = carry.to_be_bytes()[3];
            carry >>= 8;
        }
        let expected = [&[0xff; 8][..], &middle, &[0xff; 8]].concat();
        assert_eq!(prime, expected, "{group:?}");
    }
}

/// `2^((p-1)/2) = 1` modulo a prime `p = 7 (mod 8)`: a check of the arithmetic as well as of the primes.
#[test]
fn euler_holds() {
    for group in [DhGroup::Modp1024, DhGroup::Modp1536, DhGroup::Modp2048, DhGroup::Modp3072] {
        let modp = modp(group).unwrap();
        let mut half = modp.prime().to_vec();
        let mut carry = 0;
        for byte in &mut half {
            let next = *byte & 1;
            *byte = *byte >> 1 | carry << 7;
            carry = next;
        }
        let mut two = vec![0; half.len()];
        *two.last_mut().unwrap() = 2;
        let power = modp.agree(&half, &two).unwrap();
        let (last, rest) = power.split_last().unwrap();
        assert!(*last == 1 && rest.iter().all(|byte| *byte == 0), "{group:?}");
    }
}

/// `floor(2^bits * pi)` by Machin's formula, big-endian, `(bits + 2) / 8` bytes (`bits + 2` is a multiple
/// of 8 here).
fn pi_bits(bits: usize) -> Vec<u8> {
    // Fixed point: one integer word, then enough fraction words and two to spare.
    let words = 1 + bits.div_ceil(32) + 2;
    let mut pi = arctan_of_inverse(5, words);
    scale(&mut pi, 4);
    subtract(&mut pi, &arctan_of_inverse(239, words));
    scale(&mut pi, 4);
    let all: Vec<u8> = pi.iter().flat_map(|word| word.to_be_bytes()).collect();
    // Cut after `bits` fraction bits: shift right by what is left of the last byte.
    let end = 32 + bits;
    let shift = (8 - end % 8) % 8;
    let cut = &all[..end.div_ceil(8)];
    let mut out = vec![0; cut.len()];
    for i in 0..cut.len() {
        let high = if i == 0 { 0 } else { u16::from(cut[i - 1]) };
        out[i] = ((high << 8 | u16::from(cut[i])) >> shift).to_be_bytes()[1];
    }
    out[out.len() - (bits + 2) / 8..].to_vec()
}

fn arctan_of_inverse(x: u32, words: usize) -> Vec<u32> {
    let mut term = vec![0; words];
    term[0] = 1;
    divide(&mut term, x);
    let mut sum = term.clone();
    let mut n = 1;
    while term.iter().any(|word| *word != 0) {
        divide(&mut term, x);
        divide(&mut term, x);
        n += 2;
        let mut part = term.clone();
        divide(&mut part, n);
        if n % 4 == 3 { subtract(&mut sum, &part) } else { add(&mut sum, &part) }
    }
    sum
}

fn divide(number: &mut [u32], by: u32) {
    let mut rest = 0;
    for word in number {
        let value = rest << 32 | u64::from(*word);
        *word = u32::try_from(value / u64::from(by)).unwrap();
        rest = value % u64::from(by);
    }
}

fn scale(number: &mut [u32], by: u32) {
    let mut carry = 0;
    for word in number.iter_mut().rev() {
        let value = u64::from(*word) * u64::from(by) + carry;
        *word = u32::try_from(value & 0xffff_ffff).unwrap();
        carry = value >> 32;
    }
}

fn add(number: &mut [u32], other: &[u32]) {
    let mut carry = false;
    for (word, other) in number.iter_mut().zip(other).rev() {
        let (sum, over) = word.overflowing_add(*other);
        let (sum, more) = sum.overflowing_add(u32::from(carry));
        (*word, carry) = (sum, over || more);
    }
}

fn subtract(number: &mut [u32], other: &[u32]) {
    let mut borrow = false;
    for (word, other) in number.iter_mut().zip(other).rev() {
        let (difference, under) = word.overflowing_sub(*other);
        let (difference, more) = difference.overflowing_sub(u32::from(borrow));
        (*word, borrow) = (difference, under || more);
    }
}
