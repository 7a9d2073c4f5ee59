//! What real peers said to each other; `DMVPN_CAPTURES` names the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use dmvpn_config::model::{DhGroup, Encryption, Hash, IkeGroup, IkeProposal};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_file::pcap::PcapReader;

use super::super::keys::{Cipher, KeySeed, SkeyId, digest, equal, prf};
use super::super::payload::{Chain, Delete, Exchange, Header, Id, Kind, Notify, Sa};
use super::super::proposals::{accept_ike, choose_ike};
use super::super::sa::Keys;
use super::vectors::unhex;

/// What the peers logged of an IKE SA, by the names they gave.
type Logged = BTreeMap<String, Vec<u8>>;

/// An IKE SA as a listener follows it.
#[derive(Default)]
struct Followed {
    sa_body: Vec<u8>,
    proposal: Option<IkeProposal>,
    publics: Vec<Vec<u8>>,
    nonces: Vec<Vec<u8>>,
    keys: Option<(SkeyId, Keys)>,
    iv: Vec<u8>,
    quick: BTreeMap<u32, (Vec<u8>, Vec<Vec<u8>>)>,
    seen: BTreeSet<Vec<u8>>,
}

#[derive(Default, Debug)]
struct Count {
    plain: usize,
    main: usize,
    quick: usize,
    informational: usize,
}

#[test]
fn every_recorded_message_is_understood() {
    let Some(folder) = std::env::var_os("DMVPN_CAPTURES") else {
        println!("skipped: DMVPN_CAPTURES is not set");
        return;
    };
    let mut folders: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let mut files = 0;
    for folder in folders.iter().filter(|folder| folder.join("keys.txt").exists()) {
        let logged = logged(&std::fs::read_to_string(folder.join("keys.txt")).unwrap());
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "pcap") {
                let count = follow(&path, &logged);
                assert!(count.plain >= 4 && count.main >= 2, "{path:?} {count:?}");
                assert!(count.quick >= 3 && count.informational >= 1, "{path:?} {count:?}");
                files += 1;
            }
        }
    }
    assert!(files >= 12, "{files}");
}

fn logged(text: &str) -> BTreeMap<(u64, u64), Logged> {
    let mut sas = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("ike ") {
            let cookie = |word: &str| u64::from_str_radix(word.split_once('=').unwrap().1, 16).unwrap();
            let mut words = rest.split_whitespace();
            let cookies = (cookie(words.next().unwrap()), cookie(words.next().unwrap()));
            sas.insert(cookies, Logged::new());
            current = Some(cookies);
        } else if line.starts_with("esp") {
            current = None;
        } else if let (Some(cookies), Some((name, value))) = (current, line.trim().split_once('=')) {
            sas.get_mut(&cookies).unwrap().insert(name.to_owned(), unhex(value));
        }
    }
    sas
}

/// Every proposal there is: a listener takes what the peers agreed on.
fn anything() -> IkeGroup {
    let mut proposals = Vec::new();
    for encryption in [Encryption::Aes128, Encryption::Aes192, Encryption::Aes256, Encryption::TripleDes] {
        for hash in [Hash::Md5, Hash::Sha1, Hash::Sha256, Hash::Sha384, Hash::Sha512] {
            for dh_group in [DhGroup::Modp1024, DhGroup::Modp1536, DhGroup::Modp2048] {
                proposals.push(IkeProposal { encryption, hash, dh_group });
            }
        }
    }
    IkeGroup { name: String::new(), lifetime: 86_400, proposals, dead_peer_detection: None }
}

fn follow(path: &Path, logged: &BTreeMap<(u64, u64), Logged>) -> Count {
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut sas: BTreeMap<(u64, u64), Followed> = BTreeMap::new();
    let mut count = Count::default();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        let Ok(sliced) = SlicedPacket::from_ethernet(&packet.data) else { continue };
        let (Some(NetSlice::Ipv4(_)), Some(TransportSlice::Udp(udp))) = (sliced.net, sliced.transport) else {
            continue;
        };
        let message = match (udp.source_port(), udp.destination_port()) {
            (500, _) | (_, 500) => udp.payload(),
            (4500, _) | (_, 4500) => match udp.payload().strip_prefix(&[0; 4]) {
                Some(message) => message,
                None => continue,
            },
            _ => continue,
        };
        understand(message, logged, &mut sas, &mut count);
    }
    count
}

fn understand(
    message: &[u8],
    logged: &BTreeMap<(u64, u64), Logged>,
    sas: &mut BTreeMap<(u64, u64), Followed>,
    count: &mut Count,
) {
    let (header, body) = Header::decode(message).unwrap();
    if !header.is_encrypted() {
        count.plain += 1;
        let chain = Chain::decode(header.next, body).unwrap();
        check_payloads(&chain);
        if header.exchange != Exchange::MAIN {
            return;
        }
        // Message 1 does not know the responder's cookie yet.
        let sa = sas.entry((header.cookie_i, header.cookie_r)).or_default();
        if !sa.seen.insert(message.to_vec()) {
            return;
        }
        if let Some(sa_body) = chain.one(Kind::SA) {
            if header.cookie_r == 0 {
                assert!(choose_ike(&anything(), &Sa::decode(sa_body).unwrap()).is_some());
                sa.sa_body = sa_body.to_vec();
                return;
            }
            let offer = sas.get(&(header.cookie_i, 0)).map(|sa| sa.sa_body.clone()).unwrap_or_default();
            let sa = sas.entry((header.cookie_i, header.cookie_r)).or_default();
            sa.sa_body = offer;
            sa.proposal =
                accept_ike(&anything(), &Sa::decode(sa_body).unwrap()).map(|agreed| agreed.proposal);
            return;
        }
        sa.publics.extend(chain.one(Kind::KE).map(<[u8]>::to_vec));
        sa.nonces.extend(chain.one(Kind::NONCE).map(<[u8]>::to_vec));
        return;
    }
    let cookies = (header.cookie_i, header.cookie_r);
    let (Some(sa), Some(log)) = (sas.get_mut(&cookies), logged.get(&cookies)) else { return };
    if !sa.seen.insert(message.to_vec()) {
        return;
    }
    if sa.keys.is_none() {
        derive(sa, cookies, log);
    }
    let (skeyid, keys) = sa.keys.clone().unwrap();
    match header.exchange {
        Exchange::MAIN => {
            let (plain, next) = keys.open(&sa.iv, body).unwrap();
            let chain = Chain::decode(header.next, &plain).unwrap();
            check_payloads(&chain);
            let (ckyi, ckyr) = (cookies.0.to_be_bytes(), cookies.1.to_be_bytes());
            let id = chain.one(Kind::ID).unwrap();
            let (i, r) = (&sa.publics[0], &sa.publics[1]);
            let by_initiator = (keys.prf)(&skeyid.base, &[i, r, &ckyi, &ckyr, &sa.sa_body, id]);
            let by_responder = (keys.prf)(&skeyid.base, &[r, i, &ckyr, &ckyi, &sa.sa_body, id]);
            let expected = if count.main.is_multiple_of(2) { by_initiator } else { by_responder };
            assert!(equal(chain.one(Kind::HASH).unwrap(), &expected));
            sa.iv = next;
            count.main += 1;
        }
        Exchange::QUICK => {
            let first_iv = keys.phase2_iv(&sa.iv, header.message_id);
            let (iv, nonces) = sa.quick.entry(header.message_id).or_insert_with(|| (first_iv, Vec::new()));
            let (plain, next) = keys.open(iv, body).unwrap();
            let chain = Chain::decode(header.next, &plain).unwrap();
            check_payloads(&chain);
            let id = header.message_id.to_be_bytes();
            let mut parts: Vec<&[u8]> = vec![&id];
            if nonces.len() == 2 {
                parts.insert(0, &[0]);
            }
            parts.extend(nonces.iter().map(Vec::as_slice));
            parts.push(chain.after_first());
            let expected = (keys.prf)(&keys.skeyid_a, &parts);
            assert!(
                equal(chain.first().unwrap().body, &expected),
                "message {} of a quick mode",
                nonces.len() + 1
            );
            nonces.extend(chain.one(Kind::NONCE).map(<[u8]>::to_vec));
            *iv = next;
            count.quick += 1;
        }
        _ => {
            let iv = keys.phase2_iv(&sa.iv, header.message_id);
            let (plain, _) = keys.open(&iv, body).unwrap();
            let chain = Chain::decode(header.next, &plain).unwrap();
            check_payloads(&chain);
            let id = header.message_id.to_be_bytes();
            assert!(equal(
                chain.first().unwrap().body,
                &(keys.prf)(&keys.skeyid_a, &[&id, chain.after_first()])
            ));
            count.informational += 1;
        }
    }
}

/// Makes the keys from what was on the wire and the secrets that were logged.
fn derive(sa: &mut Followed, (cookie_i, cookie_r): (u64, u64), log: &Logged) {
    let proposal = sa.proposal.unwrap();
    let seed = KeySeed {
        secret: b"SECRET",
        nonce_i: &sa.nonces[0],
        nonce_r: &sa.nonces[1],
        shared: &log["shared_Diffie_Hellman_secret"],
        cookie_i,
        cookie_r,
    };
    let prf = prf(proposal.hash);
    let skeyid = SkeyId::derive(prf, &seed);
    for (name, key) in
        [("SKEYID", &skeyid.base), ("SKEYID_d", &skeyid.d), ("SKEYID_a", &skeyid.a), ("SKEYID_e", &skeyid.e)]
    {
        assert!(**key == log[name], "{name}");
    }
    let cipher = Cipher::new(&proposal, &skeyid.e).unwrap();
    let mut iv = digest(proposal.hash, &[&sa.publics[0], &sa.publics[1]]);
    iv.truncate(cipher.block_len());
    assert_eq!(iv, log["initial_IV"]);
    let (skeyid_d, skeyid_a) = (skeyid.d.clone(), skeyid.a.clone());
    sa.iv = iv;
    sa.keys = Some((skeyid, Keys { prf, hash: proposal.hash, skeyid_d, skeyid_a, cipher }));
}

/// Payloads decode, and what we would send for the same values are the same bytes.
fn check_payloads(chain: &Chain<'_>) {
    for body in chain.all(Kind::SA) {
        assert_eq!(Sa::decode(body).unwrap().encode(), body);
    }
    for body in chain.all(Kind::ID) {
        assert_eq!(Id::decode(body).unwrap().encode(), body);
    }
    for body in chain.all(Kind::NOTIFY) {
        assert_eq!(Notify::decode(body).unwrap().encode(), body);
    }
    for body in chain.all(Kind::DELETE) {
        assert_eq!(Delete::decode(body).unwrap().unwrap().encode(), body);
    }
}
