//! Known answers: RFC vectors here, NIST CAVP and Wycheproof where `DMVPN_VECTORS` names them.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

use crate::kernel::{
    CbcDecryptKeys, CbcDecryptLane, CbcEncryptKeys, CbcEncryptLane, GcmKeys, MacKeys, MacLane,
};
use crate::keys::CipherKey;
use crate::suite::{CbcCipher, GcmCipher};
use crate::{Integrity, Kernel, kernel};

fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn cipher_key(key: &[u8]) -> CipherKey {
    std::array::from_fn(|i| key.get(i).copied().unwrap_or(0))
}

fn aes(key: &[u8]) -> CbcCipher {
    match key.len() {
        16 => CbcCipher::Aes128,
        24 => CbcCipher::Aes192,
        32 => CbcCipher::Aes256,
        n => panic!("AES key of {n} bytes"),
    }
}

/// CBC encryption with an explicit IV. The kernels chain from zero and encrypt the IV field as well,
/// so the field gets the decryption of the IV.
fn cbc_encrypt(cipher: CbcCipher, key: &[u8], iv: &[u8], plain: &[u8]) -> Vec<u8> {
    let field = cbc_decrypt(cipher, key, &vec![0; iv.len()], iv);
    let sealed = [&field, plain].concat();
    let texts = cipher_kernels().map(|kernel| {
        let keys = CbcEncryptKeys::new(kernel, cipher, &cipher_key(key));
        let mut blocks = sealed.clone();
        kernel::cbc_encrypt([CbcEncryptLane { keys: &keys, blocks: &mut blocks }].into_iter());
        assert_eq!(&blocks[..iv.len()], iv, "{kernel}");
        blocks.split_off(iv.len())
    });
    agreed(texts)
}

/// Those that differ in what ciphers run on.
fn cipher_kernels() -> impl Iterator<Item = Kernel> {
    Kernel::available().filter(|kernel| kernel.sha.is_none())
}

/// What every kernel says.
fn agreed(mut results: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let first = results.next().unwrap();
    assert!(results.all(|result| result == first));
    first
}

fn cbc_decrypt(cipher: CbcCipher, key: &[u8], iv: &[u8], text: &[u8]) -> Vec<u8> {
    agreed(cipher_kernels().map(|kernel| {
        let keys = CbcDecryptKeys::new(kernel, cipher, &cipher_key(key));
        let mut blocks = [iv, text].concat();
        kernel::cbc_decrypt([CbcDecryptLane { keys: &keys, blocks: &mut blocks }].into_iter());
        blocks.split_off(iv.len())
    }))
}

fn tag(integrity: Integrity, key: &[u8], data: &[u8]) -> Vec<u8> {
    let keys = MacKeys::new(integrity, key);
    agreed(Kernel::available().map(|kernel| {
        let mut lanes = [MacLane::new(&keys, data)];
        kernel::mac(kernel, &mut lanes);
        let len = match integrity {
            Integrity::HmacMd5_96 => 16,
            Integrity::HmacSha1_96 => 20,
            _ => 32,
        };
        lanes[0].tag.0.as_flattened()[..len].to_vec()
    }))
}

/// The folder of the vectors; a test without it says so.
fn folder(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("DMVPN_VECTORS").map(|root| PathBuf::from(root).join(name));
    if folder.is_none() {
        println!("DMVPN_VECTORS is not set: {name} skipped");
    }
    folder
}

/// RFC 3602 section 4, cases 1 to 4.
#[test]
fn rfc_3602_aes_cbc() {
    for (key, iv, plain, text) in [
        (
            "06a9214036b8a15b512e03d534120006",
            "3dafba429d9eb430b422da802c9fac41",
            "53696e676c6520626c6f636b206d7367",
            "e353779c1079aeb82708942dbe77181a",
        ),
        (
            "c286696d887c9aa0611bbb3e2025a45a",
            "562e17996d093d28ddb3ba695a2e6f58",
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
        ),
    ] {
        let (key, iv, plain, text) = (hex(key), hex(iv), hex(plain), hex(text));
        assert_eq!(cbc_encrypt(aes(&key), &key, &iv, &plain), text);
        assert_eq!(cbc_decrypt(aes(&key), &key, &iv, &text), plain);
    }
}

/// RFC 2202 section 2 and 3, and RFC 4231 section 4, cases 1 to 4, as far as ESP's ICV goes.
#[test]
fn rfc_2202_and_4231_hmac() {
    let long: Vec<u8> = (1..=25).collect();
    let b = |n| vec![0x0b; n];
    let hi = &b"Hi There"[..];
    let what = &b"what do ya want for nothing?"[..];
    use Integrity::{HmacMd5_96, HmacSha1_96, HmacSha256_128, HmacSha384_192, HmacSha512_256};
    for (integrity, key, data, expected) in [
        (HmacMd5_96, b(16), hi.to_vec(), "9294727a3638bb1c13f48ef8"),
        (HmacMd5_96, b"Jefe".to_vec(), what.to_vec(), "750c783e6ab0b503eaa86e31"),
        (HmacMd5_96, vec![0xaa; 16], vec![0xdd; 50], "56be34521d144c88dbb8c733"),
        (HmacMd5_96, long.clone(), vec![0xcd; 50], "697eaf0aca3a3aea3a751647"),
        (HmacSha1_96, b(20), hi.to_vec(), "b617318655057264e28bc0b6"),
        (HmacSha1_96, b"Jefe".to_vec(), what.to_vec(), "effcdf6ae5eb2fa2d27416d5"),
        (HmacSha1_96, vec![0xaa; 20], vec![0xdd; 50], "125d7342b9ac11cd91a39af4"),
        (HmacSha1_96, long.clone(), vec![0xcd; 50], "4c9007f4026250c6bc8414f9"),
        (HmacSha256_128, b(20), hi.to_vec(), "b0344c61d8db38535ca8afceaf0bf12b"),
        (HmacSha256_128, b"Jefe".to_vec(), what.to_vec(), "5bdcc146bf60754e6a042426089575c7"),
        (HmacSha256_128, vec![0xaa; 20], vec![0xdd; 50], "773ea91e36800e46854db8ebd09181a7"),
        (HmacSha256_128, long.clone(), vec![0xcd; 50], "82558a389a443c0ea4cc819899f2083a"),
        (HmacSha384_192, b(20), hi.to_vec(), "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec6"),
        (HmacSha384_192, b"Jefe".to_vec(), what.to_vec(), "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47"),
        (
            HmacSha512_256,
            b(20),
            hi.to_vec(),
            "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde",
        ),
        (
            HmacSha512_256,
            b"Jefe".to_vec(),
            what.to_vec(),
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554",
        ),
    ] {
        let expected = hex(expected);
        assert_eq!(tag(integrity, &key, &data)[..expected.len()], expected, "{integrity:?}");
    }
}

/// One record of a CAVP response file.
#[derive(Default, Clone)]
struct Record {
    encrypt: bool,
    key: Vec<u8>,
    iv: Vec<u8>,
    plain: Vec<u8>,
    text: Vec<u8>,
}

fn records(file: &str) -> Vec<Record> {
    let (mut records, mut record) = (Vec::new(), Record::default());
    for line in file.lines().map(str::trim) {
        match line.split_once(" = ") {
            None if line == "[ENCRYPT]" => record.encrypt = true,
            None if line == "[DECRYPT]" => record.encrypt = false,
            None => {}
            Some(("COUNT", _)) => record = Record { encrypt: record.encrypt, ..Record::default() },
            Some(("KEY", hexed)) => record.key = hex(hexed),
            Some(("KEYs", hexed)) => record.key = hex(hexed).repeat(3),
            Some(("KEY1" | "KEY2" | "KEY3", hexed)) => record.key.extend(hex(hexed)),
            Some(("IV", hexed)) => record.iv = hex(hexed),
            Some(("PLAINTEXT", hexed)) => record.plain = hex(hexed),
            Some(("CIPHERTEXT", hexed)) => record.text = hex(hexed),
            Some(_) => panic!("unknown line {line:?}"),
        }
        if !record.plain.is_empty() && !record.text.is_empty() {
            records.push(record.clone());
            record = Record { encrypt: record.encrypt, ..Record::default() };
        }
    }
    records
}

/// A record whose key (`KEYs`) or text comes in any order is complete when both texts are there.
fn check(cipher: CbcCipher, r: &Record) {
    if r.encrypt {
        assert_eq!(cbc_encrypt(cipher, &r.key, &r.iv, &r.plain), r.text);
    } else {
        assert_eq!(cbc_decrypt(cipher, &r.key, &r.iv, &r.text), r.plain);
    }
}

/// AESAVS section 6.4.2 and NIST SP 800-20 CBC Monte Carlo: the outcome after `rounds` steps, each of
/// which feeds the block before back as input.
fn monte_carlo(cipher: CbcCipher, r: &Record, rounds: usize) {
    let (mut iv, mut input) = (r.iv.clone(), if r.encrypt { r.plain.clone() } else { r.text.clone() });
    let mut output = Vec::new();
    for round in 0..rounds {
        let previous = output;
        if r.encrypt {
            output = cbc_encrypt(cipher, &r.key, &iv, &input);
            input = if round == 0 { r.iv.clone() } else { previous };
            iv = output.clone();
        } else {
            output = cbc_decrypt(cipher, &r.key, &iv, &input);
            iv = input;
            input = if cipher == CbcCipher::TripleDes {
                output.clone()
            } else if round == 0 {
                r.iv.clone()
            } else {
                previous
            };
        }
    }
    assert_eq!(&output, if r.encrypt { &r.text } else { &r.plain });
}

#[test]
fn cavp_aes_cbc() {
    let Some(folder) = folder("cavp/aes") else { return };
    let (mut known, mut chained) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        for record in records(&fs::read_to_string(&path).unwrap()) {
            if path.to_str().unwrap().contains("MCT") {
                monte_carlo(aes(&record.key), &record, 1000);
                chained += 1;
            } else {
                check(aes(&record.key), &record);
                known += 1;
            }
        }
    }
    println!("{known} known answers and multi-block messages, {chained} Monte Carlo records");
    assert!(known > 2000 && chained == 600, "{known} {chained}");
}

#[test]
fn cavp_3des_cbc() {
    let Some(folder) = folder("cavp/tdes") else { return };
    let (mut known, mut chained) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        for record in records(&fs::read_to_string(&path).unwrap()) {
            if path.to_str().unwrap().contains("Monte") {
                // Ten thousand steps each, so every hundredth record.
                if chained % 100 == 0 {
                    monte_carlo(CbcCipher::TripleDes, &record, 10_000);
                }
                chained += 1;
            } else {
                check(CbcCipher::TripleDes, &record);
                known += 1;
            }
        }
    }
    println!("{known} known answers and multi-block messages, {chained} Monte Carlo records");
    assert!(known > 300 && chained > 1000, "{known} {chained}");
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    test_groups: Vec<TestGroup>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TestGroup {
    #[serde(default)]
    key_size: usize,
    #[serde(default)]
    iv_size: usize,
    tests: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    tc_id: u32,
    key: String,
    #[serde(default)]
    iv: String,
    #[serde(default)]
    aad: String,
    msg: String,
    #[serde(default)]
    ct: String,
    #[serde(default)]
    tag: String,
    result: String,
}

fn wycheproof(file: &str) -> Option<Vec<TestGroup>> {
    let text = fs::read_to_string(folder("wycheproof")?.join(file)).unwrap();
    Some(serde_json::from_str::<File>(&text).unwrap().test_groups)
}

/// PKCS #5 padding is not ours: a valid case gives its message with padding, an invalid one none.
#[test]
fn wycheproof_aes_cbc() {
    let Some(groups) = wycheproof("aes_cbc_pkcs5_test.json") else { return };
    let mut count = 0;
    for case in groups.iter().flat_map(|g| &g.tests) {
        let (key, iv, text) = (hex(&case.key), hex(&case.iv), hex(&case.ct));
        if text.is_empty() || !text.len().is_multiple_of(16) {
            assert_eq!(case.result, "invalid");
            continue;
        }
        let plain = cbc_decrypt(aes(&key), &key, &iv, &text);
        let mut expected = hex(&case.msg);
        let pad = 16 - expected.len() % 16;
        expected.extend(vec![u8::try_from(pad).unwrap(); pad]);
        assert_eq!(plain == expected, case.result == "valid", "case {}", case.tc_id);
        assert_eq!(cbc_encrypt(aes(&key), &key, &iv, &plain), text, "case {}", case.tc_id);
        count += 1;
    }
    println!("{count} cases");
    assert!(count > 150, "{count}");
}

#[test]
fn wycheproof_hmac() {
    for (file, integrity, block) in [
        ("hmac_sha1_test.json", Integrity::HmacSha1_96, 64),
        ("hmac_sha256_test.json", Integrity::HmacSha256_128, 64),
        ("hmac_sha384_test.json", Integrity::HmacSha384_192, 128),
        ("hmac_sha512_test.json", Integrity::HmacSha512_256, 128),
    ] {
        let Some(groups) = wycheproof(file) else { return };
        let mut count = 0;
        // Keys longer than a block do not occur in ESP.
        for group in groups.iter().filter(|g| g.key_size <= block * 8) {
            for case in &group.tests {
                let (expected, ours) = (hex(&case.tag), tag(integrity, &hex(&case.key), &hex(&case.msg)));
                // An invalid tag may differ only where ours is cut off.
                let len = expected.len().min(ours.len());
                if case.result == "valid" {
                    assert_eq!(ours[..len], expected[..len], "{file} case {}", case.tc_id);
                } else if len == expected.len() {
                    assert_ne!(ours[..len], expected, "{file} case {}", case.tc_id);
                }
                count += 1;
            }
        }
        println!("{file}: {count} cases");
        assert!(count > 150, "{file}: {count}");
    }
}

/// The cases that are shaped like ESP: a 96-bit nonce and 8 bytes of additional data.
#[test]
fn wycheproof_aes_gcm() {
    let Some(groups) = wycheproof("aes_gcm_test.json") else { return };
    let mut count = 0;
    for group in groups.iter().filter(|g| g.iv_size == 96) {
        for case in group.tests.iter().filter(|case| case.aad.len() == 16) {
            let (cipher, key) = match hex(&case.key) {
                key if key.len() == 16 => (GcmCipher::Aes128, key),
                key if key.len() == 32 => (GcmCipher::Aes256, key),
                _ => continue,
            };
            let iv = hex(&case.iv);
            let wire = [hex(&case.aad), iv[4..].to_vec(), hex(&case.ct), hex(&case.tag)].concat();
            let plain = hex(&case.msg);
            for kernel in Kernel::available() {
                let keys = GcmKeys::new(kernel, cipher, &cipher_key(&[&key, &iv[..4]].concat()));
                let mut packet = wire.clone();
                assert_eq!(keys.open(&mut packet), case.result == "valid", "{kernel}: case {}", case.tc_id);
                if case.result == "valid" {
                    assert_eq!(packet[16..16 + plain.len()], plain, "{kernel}: case {}", case.tc_id);
                    keys.seal(&mut packet);
                    assert_eq!(packet, wire, "{kernel}: case {}", case.tc_id);
                }
            }
            count += 1;
        }
    }
    println!("{count} cases");
    assert!(count >= 4, "{count}");
}
