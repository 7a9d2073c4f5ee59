//! Modular exponentiation with safe primes: constant time in the exponent, whose length is fixed.

use std::sync::LazyLock;

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U1024, U1536, U2048, U3072, U4096, U6144, U8192, Uint};
use dmvpn_config::model::DhGroup;
use rand_core::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

use super::{InvalidPublic, SecretNumber, primes};

/// A MODP group. The generator is 2.
pub(super) struct Modp {
    prime: Vec<u8>,
    /// Bytes of our exponents: at least twice the group's strength (RFC 3526 section 8).
    exponent_len: usize,
    field: Box<dyn Field + Send + Sync>,
}

/// The MODP group of this number; `None` for an elliptic curve.
pub(super) fn modp(group: DhGroup) -> Option<&'static Modp> {
    Some(match group {
        DhGroup::Modp1024 => &MODP_1024,
        DhGroup::Modp1536 => &MODP_1536,
        DhGroup::Modp2048 => &MODP_2048,
        DhGroup::Modp3072 => &MODP_3072,
        DhGroup::Modp4096 => &MODP_4096,
        DhGroup::Modp6144 => &MODP_6144,
        DhGroup::Modp8192 => &MODP_8192,
        DhGroup::Ecp256 | DhGroup::Ecp384 | DhGroup::Ecp521 => return None,
    })
}

impl Modp {
    fn new<const LIMBS: usize>(prime: Odd<Uint<LIMBS>>, exponent_len: usize) -> Self {
        let bytes = prime.as_ref().to_be_bytes().as_ref().to_vec();
        Self { prime: bytes, exponent_len, field: Box::new(FixedMontyParams::new_vartime(prime)) }
    }

    /// Whether the big-endian `value`, as long as the prime, is in `2..=p - 2`.
    pub(super) fn in_range(&self, value: &[u8]) -> bool {
        let (Some((last, rest)), Some((prime_last, prime_rest))) =
            (value.split_last(), self.prime.split_last())
        else {
            return false;
        };
        let at_least_two = *last >= 2 || rest.iter().any(|&byte| byte != 0);
        // The prime is odd, so `p - 1` differs from it in the last bit only.
        let below_top = (rest, *last) < (prime_rest, prime_last & 0xfe);
        value.len() == self.prime.len() && at_least_two && below_top
    }

    /// A fresh exponent and its public value.
    pub(super) fn generate(&self, rng: &mut impl CryptoRng) -> (SecretNumber, Vec<u8>) {
        let mut private = Zeroizing::new(vec![0; self.exponent_len]);
        rng.fill_bytes(&mut private);
        let mut generator = vec![0; self.prime.len()];
        if let Some(byte) = generator.last_mut() {
            *byte = 2;
        }
        let public = self.field.power(&generator, &private).to_vec();
        (private, public)
    }

    /// The shared secret, as long as the prime.
    pub(super) fn agree(&self, private: &[u8], theirs: &[u8]) -> Result<SecretNumber, InvalidPublic> {
        if self.in_range(theirs) { Ok(self.field.power(theirs, private)) } else { Err(InvalidPublic) }
    }

    #[cfg(test)]
    pub(super) fn prime(&self) -> &[u8] {
        &self.prime
    }
}

/// Arithmetic modulo a prime of one size; all numbers big-endian.
trait Field {
    /// `base` has the length of the prime, `exponent` at most that.
    fn power(&self, base: &[u8], exponent: &[u8]) -> SecretNumber;
}

impl<const LIMBS: usize> Field for FixedMontyParams<LIMBS> {
    fn power(&self, base: &[u8], exponent: &[u8]) -> SecretNumber {
        let mut padded = Zeroizing::new(vec![0; Uint::<LIMBS>::BYTES.saturating_sub(exponent.len())]);
        padded.extend_from_slice(exponent);
        let mut number = Uint::<LIMBS>::from_be_slice(&padded);
        let bits = u32::try_from(exponent.len() * 8).unwrap_or(Uint::<LIMBS>::BITS);
        let base = FixedMontyForm::new(&Uint::from_be_slice(base), self);
        let mut power = base.pow_amm_bounded_exp(&number, bits);
        let mut plain = power.retrieve();
        let bytes = Zeroizing::new(plain.to_be_bytes().as_ref().to_vec());
        number.zeroize();
        plain.zeroize();
        power.zeroize();
        bytes
    }
}

static MODP_1024: LazyLock<Modp> =
    LazyLock::new(|| Modp::new(Odd::<U1024>::from_be_hex(primes::MODP_1024), 32));
static MODP_1536: LazyLock<Modp> =
    LazyLock::new(|| Modp::new(Odd::<U1536>::from_be_hex(primes::MODP_1536), 32));
static MODP_2048: LazyLock<Modp> =
    LazyLock::new(|| Modp::new(Odd::<U2048>::from_be_hex(primes::MODP_2048), 32));
static MODP_3072: LazyLock<Modp> =
    LazyLock::new(|| Modp::new(Odd::<U3072>::from_be_hex(primes::MODP_3072), 40));
static MODP_4096: LazyLock<Modp> =
    LazyLock::new(|| Modp::new(Odd::<U4096>::from_be_hex(primes::MODP_4096), 40));
static MODP_6144: LazyLock<Modp> =
    LazyLock::new(|| Modp::new(Odd::<U6144>::from_be_hex(primes::MODP_6144), 50));
static MODP_8192: LazyLock<Modp> =
    LazyLock::new(|| Modp::new(Odd::<U8192>::from_be_hex(primes::MODP_8192), 50));
