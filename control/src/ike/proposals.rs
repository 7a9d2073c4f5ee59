//! Between the profile's proposals and SA payloads: what we offer, what we choose, and whether an answer
//! is one of our offers (RFC 2407 section 4, RFC 2409 appendix A).

use std::time::Duration;

use dmvpn_config::model::{DhGroup, Encryption, EspGroup, EspMode, EspProposal, Hash, IkeGroup, IkeProposal};
use dmvpn_tables::esp::{Cipher, Integrity, Suite};

use super::payload::{Attribute, Proposal, Sa, Transform};

const PROTOCOL_ISAKMP: u8 = 1;
const PROTOCOL_ESP: u8 = 3;

/// The only phase 1 transform.
const KEY_IKE: u8 = 1;

/// Phase 1 attributes.
mod phase1 {
    pub(super) const ENCRYPTION: u16 = 1;
    pub(super) const HASH: u16 = 2;
    pub(super) const AUTHENTICATION: u16 = 3;
    pub(super) const GROUP: u16 = 4;
    pub(super) const LIFE_TYPE: u16 = 11;
    pub(super) const LIFE_DURATION: u16 = 12;
    pub(super) const KEY_LENGTH: u16 = 14;
}

/// Phase 2 attributes.
mod phase2 {
    pub(super) const LIFE_TYPE: u16 = 1;
    pub(super) const LIFE_DURATION: u16 = 2;
    pub(super) const GROUP: u16 = 3;
    pub(super) const ENCAPSULATION: u16 = 4;
    pub(super) const AUTHENTICATION: u16 = 5;
    pub(super) const KEY_LENGTH: u16 = 6;
}

const AUTHENTICATION_PSK: u32 = 1;
const LIFE_SECONDS: u32 = 1;

/// A peer may ask for less life than we want, but not for a new SA every other moment.
const SHORTEST_LIFE: Duration = Duration::from_secs(30);
/// What a proposal without a lifetime means (RFC 2407 section 4.5).
const DEFAULT_LIFE: Duration = Duration::from_secs(28_800);

/// An IKE proposal that both ends agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AgreedIke {
    pub(super) proposal: IkeProposal,
    pub(super) lifetime: Duration,
    /// The SA payload that says so: one proposal with one transform, numbered by the initiator.
    pub(super) answer: Sa,
}

/// An ESP proposal that both ends agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AgreedEsp {
    pub(super) proposal: EspProposal,
    pub(super) suite: Suite,
    pub(super) pfs: Option<DhGroup>,
    pub(super) mode: EspMode,
    /// ESP in UDP (RFC 3948).
    pub(super) udp: bool,
    pub(super) lifetime: Duration,
    /// The other end's SPI.
    pub(super) spi: u32,
    /// The number of the chosen proposal, and the chosen transform.
    pub(super) number: u8,
    pub(super) transform: Transform,
}

/// What we offer for an IKE SA: one proposal, our alternatives as its transforms, best first.
pub(super) fn offer_ike(group: &IkeGroup) -> Sa {
    let transforms = (1..).zip(&group.proposals).map(|(number, proposal)| {
        let (algorithm, key_length) = ike_encryption(proposal.encryption);
        let mut attributes = vec![Attribute::new(phase1::ENCRYPTION, algorithm)];
        attributes.extend(key_length.map(|bits| Attribute::new(phase1::KEY_LENGTH, bits)));
        attributes.extend([
            Attribute::new(phase1::HASH, ike_hash(proposal.hash)),
            Attribute::new(phase1::GROUP, proposal.dh_group as u32),
            Attribute::new(phase1::AUTHENTICATION, AUTHENTICATION_PSK),
            Attribute::new(phase1::LIFE_TYPE, LIFE_SECONDS),
            Attribute::new(phase1::LIFE_DURATION, group.lifetime),
        ]);
        Transform { number, id: KEY_IKE, attributes }
    });
    let proposal =
        Proposal { number: 1, protocol: PROTOCOL_ISAKMP, spi: Vec::new(), transforms: transforms.collect() };
    Sa { proposals: vec![proposal] }
}

/// Chooses from a far end's offer, by our order of preference.
pub(super) fn choose_ike(group: &IkeGroup, offer: &Sa) -> Option<AgreedIke> {
    group.proposals.iter().find_map(|wanted| {
        let of_isakmp = offer.proposals.iter().filter(|proposal| proposal.protocol == PROTOCOL_ISAKMP);
        of_isakmp
            .flat_map(|proposal| proposal.transforms.iter().map(move |transform| (proposal, transform)))
            .find_map(|(proposal, transform)| {
                let (found, life) = read_ike(transform)?;
                let answer = Proposal { transforms: vec![transform.clone()], ..proposal.clone() };
                (found == *wanted).then(|| AgreedIke {
                    proposal: found,
                    lifetime: shorter(group.lifetime, life),
                    answer: Sa { proposals: vec![answer] },
                })
            })
    })
}

/// Takes a far end's answer to [`offer_ike`]: exactly one transform, and one that we offered.
pub(super) fn accept_ike(group: &IkeGroup, answer: &Sa) -> Option<AgreedIke> {
    only_transform(answer)?;
    choose_ike(group, answer)
}

/// What we offer for a pair of ESP SAs: our alternatives, best first, all with the same mode and PFS
/// group, which must not differ within one quick mode (RFC 2409 section 5.5).
pub(super) fn offer_esp(group: &EspGroup, spi: u32, udp: bool) -> Sa {
    let encapsulation = match (group.mode, udp) {
        (EspMode::Tunnel, false) => 1,
        (EspMode::Transport, false) => 2,
        // RFC 3947 section 5.1.
        (EspMode::Tunnel, true) => 3,
        (EspMode::Transport, true) => 4,
    };
    let transforms = (1..).zip(&group.proposals).map(|(number, proposal)| {
        let (id, key_length) = esp_transform(proposal.encryption);
        let mut attributes: Vec<_> =
            key_length.map(|bits| Attribute::new(phase2::KEY_LENGTH, bits)).into_iter().collect();
        attributes.extend(proposal.hash.map(|hash| Attribute::new(phase2::AUTHENTICATION, esp_hash(hash))));
        attributes.extend(group.pfs.map(|pfs| Attribute::new(phase2::GROUP, pfs as u32)));
        attributes.extend([
            Attribute::new(phase2::ENCAPSULATION, encapsulation),
            Attribute::new(phase2::LIFE_TYPE, LIFE_SECONDS),
            Attribute::new(phase2::LIFE_DURATION, group.lifetime),
        ]);
        Transform { number, id, attributes }
    });
    let spi = spi.to_be_bytes().to_vec();
    let proposal = Proposal { number: 1, protocol: PROTOCOL_ESP, spi, transforms: transforms.collect() };
    Sa { proposals: vec![proposal] }
}

/// Chooses from a far end's offer, by our order of preference. Either mode will do: our own is for what
/// we offer. So will PFS with any group that we know where our profile asks for none.
pub(super) fn choose_esp(group: &EspGroup, offer: &Sa) -> Option<AgreedEsp> {
    group.proposals.iter().find_map(|wanted| {
        offer.proposals.iter().filter(|proposal| !is_bundled(offer, proposal)).find_map(|proposal| {
            proposal.transforms.iter().find_map(|transform| {
                let agreed = read_esp(group, proposal, transform)?;
                let pfs_fits = group.pfs.is_none() || group.pfs == agreed.pfs;
                (agreed.proposal == *wanted && pfs_fits).then_some(agreed)
            })
        })
    })
}

/// Takes a far end's answer to [`offer_esp`].
pub(super) fn accept_esp(group: &EspGroup, udp: bool, answer: &Sa) -> Option<AgreedEsp> {
    only_transform(answer)?;
    let agreed = choose_esp(group, answer)?;
    (agreed.mode == group.mode && agreed.udp == udp && agreed.pfs == group.pfs).then_some(agreed)
}

/// The answer to an offer: what was chosen, with our SPI.
pub(super) fn answer_esp(agreed: &AgreedEsp, spi: u32) -> Sa {
    let proposal = Proposal {
        number: agreed.number,
        protocol: PROTOCOL_ESP,
        spi: spi.to_be_bytes().to_vec(),
        transforms: vec![agreed.transform.clone()],
    };
    Sa { proposals: vec![proposal] }
}

/// The life that a RESPONDER-LIFETIME notification grants an IKE SA (RFC 2407 section 4.6.3.1).
pub(super) fn responder_lifetime(attributes: &[Attribute]) -> Option<Duration> {
    life(attributes, phase1::LIFE_TYPE, phase1::LIFE_DURATION).map(at_least)
}

/// The data plane's name of a proposal; `None` for encryption without integrity.
pub(super) fn suite(proposal: &EspProposal) -> Option<Suite> {
    let cipher = match proposal.encryption {
        Encryption::Aes128 => Cipher::Aes128Cbc,
        Encryption::Aes192 => Cipher::Aes192Cbc,
        Encryption::Aes256 => Cipher::Aes256Cbc,
        Encryption::TripleDes => Cipher::TripleDesCbc,
        Encryption::Aes128Gcm128 => Cipher::Aes128Gcm,
        Encryption::Aes256Gcm128 => Cipher::Aes256Gcm,
    };
    let integrity = proposal.hash.map(|hash| match hash {
        Hash::Md5 => Integrity::HmacMd5_96,
        Hash::Sha1 => Integrity::HmacSha1_96,
        Hash::Sha256 => Integrity::HmacSha256_128,
        Hash::Sha384 => Integrity::HmacSha384_192,
        Hash::Sha512 => Integrity::HmacSha512_256,
    });
    Suite::new(cipher, integrity).ok()
}

fn only_transform(sa: &Sa) -> Option<&Transform> {
    match sa.proposals.as_slice() {
        [Proposal { transforms, .. }] => match transforms.as_slice() {
            [transform] => Some(transform),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the proposal shares its number with another: then it means "this and that" (RFC 2408 section
/// 4.2), say ESP and compression.
fn is_bundled(offer: &Sa, proposal: &Proposal) -> bool {
    offer.proposals.iter().filter(|other| other.number == proposal.number).count() > 1
}

fn read_ike(transform: &Transform) -> Option<(IkeProposal, Option<Duration>)> {
    if transform.id != KEY_IKE {
        return None;
    }
    let (mut encryption, mut hash, mut psk, mut group, mut key_length) = (None, None, false, None, None);
    for attribute in &transform.attributes {
        let number = attribute.number()?;
        match attribute.kind {
            phase1::ENCRYPTION => encryption = Some(number),
            phase1::HASH => hash = Some(number),
            phase1::AUTHENTICATION => psk = number == AUTHENTICATION_PSK,
            phase1::GROUP => group = Some(number),
            phase1::KEY_LENGTH => key_length = Some(number),
            phase1::LIFE_TYPE | phase1::LIFE_DURATION => {}
            _ => return None,
        }
    }
    let encryption = match (encryption?, key_length) {
        (5, None) => Encryption::TripleDes,
        // Without a length some peers mean the shortest.
        (7, None | Some(128)) => Encryption::Aes128,
        (7, Some(192)) => Encryption::Aes192,
        (7, Some(256)) => Encryption::Aes256,
        _ => return None,
    };
    let hash = match hash? {
        1 => Hash::Md5,
        2 => Hash::Sha1,
        4 => Hash::Sha256,
        5 => Hash::Sha384,
        6 => Hash::Sha512,
        _ => return None,
    };
    let dh_group = dh_group(group?)?;
    let life = life(&transform.attributes, phase1::LIFE_TYPE, phase1::LIFE_DURATION);
    psk.then_some((IkeProposal { encryption, hash, dh_group }, life))
}

fn read_esp(group: &EspGroup, proposal: &Proposal, transform: &Transform) -> Option<AgreedEsp> {
    let spi = u32::from_be_bytes(proposal.spi.as_slice().try_into().ok()?);
    // RFC 4303 section 2.1: SPIs up to 255 are reserved.
    if proposal.protocol != PROTOCOL_ESP || spi <= 255 {
        return None;
    }
    let (mut hash, mut pfs, mut key_length) = (None, None, None);
    // Without the attribute some peers mean tunnel mode.
    let (mut mode, mut udp) = (EspMode::Tunnel, false);
    for attribute in &transform.attributes {
        let number = attribute.number()?;
        match attribute.kind {
            phase2::LIFE_TYPE | phase2::LIFE_DURATION => {}
            phase2::GROUP => pfs = Some(dh_group(number)?),
            phase2::ENCAPSULATION => {
                (mode, udp) = match number {
                    1 => (EspMode::Tunnel, false),
                    2 => (EspMode::Transport, false),
                    // RFC 3947, and the drafts before it.
                    3 | 61443 => (EspMode::Tunnel, true),
                    4 | 61444 => (EspMode::Transport, true),
                    _ => return None,
                }
            }
            phase2::AUTHENTICATION => {
                hash = Some(match number {
                    1 => Hash::Md5,
                    2 => Hash::Sha1,
                    5 => Hash::Sha256,
                    6 => Hash::Sha384,
                    7 => Hash::Sha512,
                    _ => return None,
                });
            }
            phase2::KEY_LENGTH => key_length = Some(number),
            _ => return None,
        }
    }
    let encryption = match (transform.id, key_length) {
        (3, None) => Encryption::TripleDes,
        (12, None | Some(128)) => Encryption::Aes128,
        (12, Some(192)) => Encryption::Aes192,
        (12, Some(256)) => Encryption::Aes256,
        (20, None | Some(128)) => Encryption::Aes128Gcm128,
        (20, Some(256)) => Encryption::Aes256Gcm128,
        _ => return None,
    };
    let chosen = EspProposal { encryption, hash };
    Some(AgreedEsp {
        proposal: chosen,
        suite: suite(&chosen)?,
        pfs,
        mode,
        udp,
        lifetime: shorter(
            group.lifetime,
            life(&transform.attributes, phase2::LIFE_TYPE, phase2::LIFE_DURATION),
        ),
        spi,
        number: proposal.number,
        transform: transform.clone(),
    })
}

/// The life in seconds among attributes. A duration belongs to the life type right before it; there may
/// be another pair, in kilobytes.
fn life(attributes: &[Attribute], life_type: u16, life_duration: u16) -> Option<Duration> {
    attributes
        .windows(2)
        .find_map(|pair| match pair {
            [kind, duration] if kind.kind == life_type && duration.kind == life_duration => {
                (kind.number() == Some(LIFE_SECONDS)).then(|| duration.number()).flatten()
            }
            _ => None,
        })
        .map(|seconds| Duration::from_secs(u64::from(seconds)))
}

fn shorter(ours: u32, theirs: Option<Duration>) -> Duration {
    let theirs = theirs.unwrap_or(DEFAULT_LIFE);
    at_least(theirs.min(Duration::from_secs(u64::from(ours))))
}

fn at_least(life: Duration) -> Duration {
    life.max(SHORTEST_LIFE)
}

fn ike_encryption(encryption: Encryption) -> (u32, Option<u32>) {
    match encryption {
        Encryption::TripleDes => (5, None),
        Encryption::Aes128 | Encryption::Aes128Gcm128 => (7, Some(128)),
        Encryption::Aes192 => (7, Some(192)),
        Encryption::Aes256 | Encryption::Aes256Gcm128 => (7, Some(256)),
    }
}

fn ike_hash(hash: Hash) -> u32 {
    match hash {
        Hash::Md5 => 1,
        Hash::Sha1 => 2,
        Hash::Sha256 => 4,
        Hash::Sha384 => 5,
        Hash::Sha512 => 6,
    }
}

fn esp_transform(encryption: Encryption) -> (u8, Option<u32>) {
    match encryption {
        Encryption::TripleDes => (3, None),
        Encryption::Aes128 => (12, Some(128)),
        Encryption::Aes192 => (12, Some(192)),
        Encryption::Aes256 => (12, Some(256)),
        Encryption::Aes128Gcm128 => (20, Some(128)),
        Encryption::Aes256Gcm128 => (20, Some(256)),
    }
}

fn esp_hash(hash: Hash) -> u32 {
    match hash {
        Hash::Md5 => 1,
        Hash::Sha1 => 2,
        Hash::Sha256 => 5,
        Hash::Sha384 => 6,
        Hash::Sha512 => 7,
    }
}

fn dh_group(number: u32) -> Option<DhGroup> {
    Some(match number {
        2 => DhGroup::Modp1024,
        5 => DhGroup::Modp1536,
        14 => DhGroup::Modp2048,
        15 => DhGroup::Modp3072,
        16 => DhGroup::Modp4096,
        17 => DhGroup::Modp6144,
        18 => DhGroup::Modp8192,
        19 => DhGroup::Ecp256,
        20 => DhGroup::Ecp384,
        21 => DhGroup::Ecp521,
        _ => return None,
    })
}
