//! The authentication extension (RFC 2332 section 5.3.4): a password in the clear, for the next station only.

use dmvpn_config::Secret;
use subtle::ConstantTimeEq;

use super::packet::{Extension, ExtensionKind, Packet, Value};

/// Authentication type 1: a clear text password.
const CLEARTEXT: [u8; 4] = [0, 0, 0, 1];

/// Whether `packet` carries exactly one authentication extension and it holds `key`. Without a key
/// everything passes.
pub(super) fn is_authentic(key: Option<&Secret>, packet: &Packet) -> bool {
    let Some(key) = key else { return true };
    let mut found =
        packet.extensions.iter().filter(|extension| extension.kind == ExtensionKind::Authentication);
    let (Some(extension), None) = (found.next(), found.next()) else { return false };
    let Value::Bytes(octets) = &extension.value else { return false };
    octets
        .split_first_chunk()
        .is_some_and(|(kind, password)| *kind == CLEARTEXT && bool::from(password.ct_eq(key.as_bytes())))
}

/// Puts our password into `packet`, where it had one or where Cisco has it: before the NAT extension.
/// Without a key, takes out what it had: that was for us alone.
pub(super) fn stamp(key: Option<&Secret>, packet: &mut Packet) {
    let is_authentication = |extension: &Extension| extension.kind == ExtensionKind::Authentication;
    let had = packet.extensions.iter().position(is_authentication);
    packet.extensions.retain(|extension| !is_authentication(extension));
    let Some(key) = key else { return };
    let before_nat = || packet.extensions.iter().position(|extension| extension.kind == ExtensionKind::Nat);
    let at = had.or_else(before_nat).unwrap_or(packet.extensions.len()).min(packet.extensions.len());
    let value = Value::Bytes([&CLEARTEXT, key.as_bytes()].concat());
    packet.extensions.insert(at, Extension { compulsory: true, kind: ExtensionKind::Authentication, value });
    packet.extended = true;
}
