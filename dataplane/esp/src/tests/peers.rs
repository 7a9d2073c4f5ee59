//! Packets of real peers, where `DMVPN_CAPTURES` names their captures and keys.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use pcap_file::pcap::PcapReader;

use crate::*;

/// Folder, ESP packets in all its pcaps together, and the suite they are under.
const CAPTURES: [(&str, usize, &str); 5] = [
    ("10-ikev1-transport-aes256-sha1", 112, "aes256-sha1"),
    ("11-ikev1-tunnel-aes256-sha1", 44, "aes256-sha1"),
    ("12-ikev1-transport-3des-md5", 34, "3des-md5"),
    ("13-ikev1-natt-udp4500", 118, "aes256-sha1"),
    ("14-ikev1-ike-rekey", 28, "aes256-sha1"),
];

#[test]
fn packets_of_real_peers_open() {
    let Some(root) = std::env::var_os("DMVPN_CAPTURES").map(PathBuf::from) else {
        println!("DMVPN_CAPTURES is not set: skipped");
        return;
    };
    for (name, expected, suite) in CAPTURES {
        let keys =
            keys(&fs::read_to_string(root.join(name).join("keys.txt")).unwrap(), suite.parse().unwrap());
        let mut count = 0;
        for file in fs::read_dir(root.join(name)).unwrap().map(|f| f.unwrap().path()) {
            if file.extension().is_some_and(|e| e == "pcap") {
                count += open_all(&file, &keys);
            }
        }
        println!("{name}: {count} ESP packets opened");
        assert_eq!(count, expected, "{name}");
    }
}

/// `esp spi=0x... src=... dst=... enc=HEX auth=HEX` lines.
fn keys(text: &str, suite: Suite) -> HashMap<u32, KeyMaterial> {
    let mut keys = HashMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("esp ")) {
        let fields: HashMap<_, _> = line.split(' ').filter_map(|field| field.split_once('=')).collect();
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
        };
        let spi = u32::from_str_radix(fields["spi"].trim_start_matches("0x"), 16).unwrap();
        let material = KeyMaterial::new(suite, &bytes(fields["enc"]), &bytes(fields["auth"])).unwrap();
        keys.insert(spi, material);
    }
    keys
}

/// Opens every ESP packet of one file, one SA per SPI, and says how many there were.
fn open_all(file: &Path, keys: &HashMap<u32, KeyMaterial>) -> usize {
    let mut reader = PcapReader::new(fs::File::open(file).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        packets.extend(esp(&packet.unwrap().data));
    }
    let sas: HashMap<u32, InboundSa> = keys
        .iter()
        .map(|(&spi, material)| (spi, InboundSa::new(spi, material, WindowSize::default())))
        .collect();
    let spi = |packet: &[u8]| u32::from_be_bytes(packet[..4].try_into().unwrap());
    let mut jobs: Vec<OpenJob<'_>> =
        packets.iter_mut().map(|packet| OpenJob::new(&sas[&spi(packet)], packet)).collect();
    open(&mut jobs);
    for job in &jobs {
        let opened = job.result().unwrap();
        assert!(matches!(opened.next_header, 4 | 47), "{}: {opened:?}", file.display());
    }
    jobs.len()
}

/// The ESP packet in an Ethernet frame: over IPv4, or over UDP 4500.
fn esp(frame: &[u8]) -> Option<Vec<u8>> {
    let ip = frame[12..].strip_prefix(&[0x08, 0x00])?;
    let (header, total) = (usize::from(ip[0] & 0xf) * 4, usize::from(ip[2]) << 8 | usize::from(ip[3]));
    let payload = &ip[header..total];
    match ip[9] {
        50 => Some(payload.to_vec()),
        17 if payload[0..2] == 4500u16.to_be_bytes() || payload[2..4] == 4500u16.to_be_bytes() => {
            let inner = &payload[8..];
            (inner.len() > 4 && inner[..4] != [0; 4]).then(|| inner.to_vec())
        }
        _ => None,
    }
}
