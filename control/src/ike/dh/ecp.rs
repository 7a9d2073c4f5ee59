//! Elliptic curves over prime fields (RFC 5903): a public value is `x || y`, the shared secret is the
//! `x` of the common point alone.

use dmvpn_config::model::DhGroup;
use p256::elliptic_curve::sec1::{FromSec1Point, ModulusSize, ToSec1Point};
use p256::elliptic_curve::{AffinePoint, CurveArithmetic, FieldBytesSize, Generate, PublicKey, SecretKey};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{InvalidPublic, SecretNumber};

/// First octet of an uncompressed point (SEC 1 section 2.3.3), which IKE leaves away.
const UNCOMPRESSED: u8 = 4;

/// A fresh scalar and its public value.
pub(super) fn generate(group: DhGroup, rng: &mut impl CryptoRng) -> (SecretNumber, Vec<u8>) {
    match group {
        DhGroup::Ecp256 => generate_on::<p256::NistP256>(rng),
        DhGroup::Ecp384 => generate_on::<p384::NistP384>(rng),
        _ => generate_on::<p521::NistP521>(rng),
    }
}

/// The shared secret, as long as a coordinate.
pub(super) fn agree(group: DhGroup, private: &[u8], theirs: &[u8]) -> Result<SecretNumber, InvalidPublic> {
    match group {
        DhGroup::Ecp256 => agree_on::<p256::NistP256>(private, theirs),
        DhGroup::Ecp384 => agree_on::<p384::NistP384>(private, theirs),
        _ => agree_on::<p521::NistP521>(private, theirs),
    }
}

fn generate_on<C>(rng: &mut impl CryptoRng) -> (SecretNumber, Vec<u8>)
where
    C: CurveArithmetic,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
    FieldBytesSize<C>: ModulusSize,
{
    let private = SecretKey::<C>::generate_from_rng(rng);
    let point = private.public_key().to_sec1_point(false);
    let coordinates = point.as_bytes().get(1..).unwrap_or_default().to_vec();
    (Zeroizing::new(private.to_bytes().to_vec()), coordinates)
}

fn agree_on<C>(private: &[u8], theirs: &[u8]) -> Result<SecretNumber, InvalidPublic>
where
    C: CurveArithmetic,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
    FieldBytesSize<C>: ModulusSize,
{
    let private = SecretKey::<C>::from_slice(private).map_err(|_| InvalidPublic)?;
    let mut point = vec![UNCOMPRESSED];
    point.extend_from_slice(theirs);
    // Refuses what is not on the curve, and the point at infinity.
    let theirs = PublicKey::<C>::from_sec1_bytes(&point).map_err(|_| InvalidPublic)?;
    Ok(Zeroizing::new(private.diffie_hellman(&theirs).raw_secret_bytes().to_vec()))
}
