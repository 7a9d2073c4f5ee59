//! Published known answers; `DMVPN_VECTORS` names their folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dmvpn_config::model::{DhGroup, Encryption, Hash, IkeProposal};
use zeroize::Zeroizing;

use super::super::dh::{DhJob, Public, Ticket, Work};
use super::super::keys::{Cipher, KeySeed, Prf, SkeyId, hmac_of, keymat, prf};

/// The folder of a set of vectors, if there is one.
fn vectors(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("DMVPN_VECTORS");
    if folder.is_none() {
        println!("skipped: DMVPN_VECTORS is not set");
    }
    folder.map(|folder| PathBuf::from(folder).join(path))
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// The cases of a CAVP response file, with the section each stands in.
fn cases(text: &str) -> Vec<(Vec<String>, BTreeMap<String, String>)> {
    let (mut section, mut cases, mut in_section) = (Vec::new(), Vec::new(), false);
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[') {
            if !in_section {
                section.clear();
            }
            in_section = true;
            section.push(header.trim_end_matches(']').to_owned());
        } else if let Some((key, value)) = line.split_once('=') {
            in_section = false;
            if key.trim() == "COUNT" {
                cases.push((section.clone(), BTreeMap::new()));
            } else if let Some((_, case)) = cases.last_mut() {
                let _: Option<String> = case.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        }
    }
    cases
}

#[test]
fn cavp_key_derivation() {
    let Some(path) = vectors("cavp/ikev1_psk.rsp") else { return };
    let mut count = 0;
    for (section, case) in cases(&std::fs::read_to_string(path).unwrap()) {
        let prf: Prf = match section.iter().find(|line| line.starts_with("SHA")).unwrap().as_str() {
            "SHA-1" => prf(Hash::Sha1),
            "SHA-224" => hmac_of::<sha2::Sha224>,
            "SHA-256" => prf(Hash::Sha256),
            "SHA-384" => prf(Hash::Sha384),
            "SHA-512" => prf(Hash::Sha512),
            other => panic!("{other}"),
        };
        let field = |name: &str| unhex(&case[name]);
        let cookie = |name: &str| u64::from_str_radix(&case[name], 16).unwrap();
        let seed = KeySeed {
            secret: &field("pre-shared-key"),
            nonce_i: &field("Ni"),
            nonce_r: &field("Nr"),
            shared: &field("g^xy"),
            cookie_i: cookie("CKY_I"),
            cookie_r: cookie("CKY_R"),
        };
        let keys = SkeyId::derive(prf, &seed);
        for (name, key) in
            [("SKEYID", keys.base), ("SKEYID_d", keys.d), ("SKEYID_a", keys.a), ("SKEYID_e", keys.e)]
        {
            assert_eq!(*key, field(name), "{section:?} {name}");
        }
        count += 1;
    }
    assert_eq!(count, 280);
}

#[test]
fn cavp_ecdh() {
    let Some(path) = vectors("cavp/ecdh/KAS_ECC_CDH_PrimitiveTest.txt") else { return };
    let mut count = 0;
    for (section, case) in cases(&std::fs::read_to_string(path).unwrap()) {
        let group = match section[0].as_str() {
            "P-256" => DhGroup::Ecp256,
            "P-384" => DhGroup::Ecp384,
            "P-521" => DhGroup::Ecp521,
            _ => continue,
        };
        let len = super::super::dh::public_len(group) / 2;
        let field = |name: &str| {
            let bytes = unhex(&case[name]);
            // P-521 numbers come with one more byte than they have.
            [vec![0; len.saturating_sub(bytes.len())], bytes[bytes.len().saturating_sub(len)..].to_vec()]
                .concat()
        };
        let theirs = Public::parse(group, &[field("QCAVSx"), field("QCAVSy")].concat()).unwrap();
        let work = Work::Agree(Zeroizing::new(field("dIUT")), theirs);
        let done = DhJob::new(Ticket(1), group, work, std::net::Ipv4Addr::LOCALHOST, true).run();
        assert_eq!(*done.result.unwrap().shared.unwrap(), field("ZIUT"));
        count += 1;
    }
    assert_eq!(count, 75);
}

#[test]
fn wycheproof_ecdh() {
    let mut count = 0;
    for (name, group) in
        [("secp256r1", DhGroup::Ecp256), ("secp384r1", DhGroup::Ecp384), ("secp521r1", DhGroup::Ecp521)]
    {
        let Some(path) = vectors(&format!("wycheproof/ecdh_{name}_ecpoint_test.json")) else { return };
        let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for test in
            file["testGroups"].as_array().unwrap().iter().flat_map(|group| group["tests"].as_array().unwrap())
        {
            let text = |name: &str| unhex(test[name].as_str().unwrap());
            let point = text("public");
            // IKE knows nothing but uncompressed points.
            let Some(coordinates) = point.strip_prefix(&[4]) else { continue };
            let len = super::super::dh::public_len(group) / 2;
            let private = text("private");
            let private = [
                vec![0; len.saturating_sub(private.len())],
                private[private.len().saturating_sub(len)..].to_vec(),
            ]
            .concat();
            let shared = Public::parse(group, coordinates).ok().and_then(|theirs| {
                let work = Work::Agree(Zeroizing::new(private), theirs);
                DhJob::new(Ticket(1), group, work, std::net::Ipv4Addr::LOCALHOST, true)
                    .run()
                    .result
                    .ok()?
                    .shared
            });
            let valid = test["result"] == "valid";
            assert_eq!(
                shared.map(|shared| shared.to_vec()),
                valid.then(|| text("shared")),
                "{name} {}",
                test["tcId"]
            );
            count += 1;
        }
    }
    assert!(count > 500, "{count}");
}

/// RFC 2409 appendix B: a key longer than SKEYID_e is `K1 | K2 | ...`.
#[test]
fn short_key_seeds_are_stretched() {
    let proposal = |encryption, hash| IkeProposal { encryption, hash, dh_group: DhGroup::Modp1024 };
    let skeyid_e = [9; 20];
    let k1 = prf(Hash::Sha1)(&skeyid_e, &[&[0]]);
    let k2 = prf(Hash::Sha1)(&skeyid_e, &[&k1]);
    let expected = [k1.to_vec(), k2.to_vec()].concat();
    let stretched = Cipher::new(&proposal(Encryption::Aes256, Hash::Sha1), &skeyid_e).unwrap();
    let plain = Cipher::new(&proposal(Encryption::Aes256, Hash::Sha256), &expected[..32]).unwrap();
    let encrypt = |cipher: &Cipher| {
        let mut data = [3; 32];
        let last = cipher.encrypt(&[1; 16], &mut data).unwrap();
        assert_eq!(last, data[16..]);
        let mut back = data;
        assert_eq!(cipher.decrypt(&[1; 16], &mut back), Some(last));
        assert_eq!(back, [3; 32]);
        data
    };
    assert_eq!(encrypt(&stretched), encrypt(&plain));
    // What is long enough is cut.
    let cut = Cipher::new(&proposal(Encryption::Aes128, Hash::Sha1), &skeyid_e).unwrap();
    let short = Cipher::new(&proposal(Encryption::Aes128, Hash::Sha1), &skeyid_e[..16]).unwrap();
    assert_eq!(encrypt(&cut), encrypt(&short));
}

#[test]
fn ciphers_take_whole_blocks_only() {
    let proposal =
        IkeProposal { encryption: Encryption::Aes256, hash: Hash::Sha256, dh_group: DhGroup::Ecp256 };
    let cipher = Cipher::new(&proposal, &[5; 32]).unwrap();
    for len in [0, 1, 15, 17, 31] {
        assert_eq!(cipher.decrypt(&[0; 16], &mut vec![0; len]), None, "{len}");
    }
    for iv in [0, 8, 15, 17] {
        assert_eq!(cipher.encrypt(&vec![0; iv], &mut [0; 16]), None, "{iv}");
    }
}

#[test]
fn weak_keys_are_refused() {
    let proposal =
        IkeProposal { encryption: Encryption::TripleDes, hash: Hash::Sha256, dh_group: DhGroup::Ecp256 };
    let accepts = |key: &[u8]| Cipher::new(&proposal, key).is_ok();
    let strong: Vec<u8> = (0..24u8).map(|n| n.wrapping_mul(37).wrapping_add(11)).collect();
    assert!(accepts(&strong));
    for weak in [[0x01; 8], [0xfe; 8], [0x00; 8], [0xff; 8]] {
        assert!(!accepts(&[&weak[..], &strong[8..]].concat()));
        assert!(!accepts(&[&strong[..16], &weak].concat()));
    }
    assert!(!accepts(&[&strong[..8], &strong[..8], &strong[16..]].concat()), "it is but DES");
}

#[test]
fn keymat_differs_by_spi_and_nonces_and_has_no_end() {
    let prf = prf(Hash::Sha1);
    let long = keymat(prf, b"d", b"secret", 1000, b"nonces", 100);
    let k1 = prf(b"d", &[b"secret", &[3], &1000u32.to_be_bytes(), b"nonces"]);
    let k2 = prf(b"d", &[&k1, b"secret", &[3], &1000u32.to_be_bytes(), b"nonces"]);
    assert_eq!(long[..40], [k1.to_vec(), k2.to_vec()].concat());
    assert_eq!(long.len(), 100);
    assert!(long != keymat(prf, b"d", b"secret", 1001, b"nonces", 100));
    assert!(long != keymat(prf, b"d", b"", 1000, b"nonces", 100));
}
