//! `gen` and `replay` as their users run them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use pcap_file::pcap::PcapReader;
use serde_json::Value;
use tempfile::TempDir;

const PACKETS: usize = 300;
const PEERS: usize = 7;

/// Of a frame: where its IPv4 header begins, and parts of that which routers change.
const IPV4: usize = 14;
const TTL: usize = IPV4 + 8;
const CHECKSUM: std::ops::Range<usize> = IPV4 + 10..IPV4 + 12;

#[test]
fn what_the_box_has_sealed_its_peers_open() {
    for options in [&["--suite", "aes256-sha1"][..], &["--suite", "aes128gcm", "--nat"]] {
        let folder = generate(options);
        let there = replay(&folder, "lan.pcap", &["--output", "sealed.pcap"]);
        whole(&there, PACKETS);
        assert_eq!((&there["flows"], &there["numbered"]), (&PEERS.into(), &PACKETS.into()), "by SA");
        let back = replay(&folder, "sealed.pcap", &["--mirror", "--output", "eth1=opened.pcap"]);
        whole(&back, PACKETS);

        let (sent, sealed, opened) =
            (read(&folder, "lan.pcap"), read(&folder, "sealed.pcap"), read(&folder, "opened.pcap"));
        let hidden = |packet: &[u8]| !sealed.iter().any(|sealed| contains(sealed, &packet[IPV4..IPV4 + 40]));
        assert!(sent.iter().all(|packet| hidden(packet)), "nothing leaves in the clear");
        let sent: Vec<_> = sent.into_iter().map(|packet| after_hops(packet, 2)).collect();
        let opened: Vec<_> = opened.into_iter().map(|packet| after_hops(packet, 0)).collect();
        assert_eq!(sent, opened);
    }
}

#[test]
fn what_peers_have_sealed_the_box_opens_however_often() {
    let folder = generate(&["--suite", "aes256-sha256"]);
    let once = replay(&folder, "wan.pcap", &["--output", "plain.pcap"]);
    whole(&once, PACKETS);
    let plain = read(&folder, "plain.pcap");
    let mut lens = [0; 2];
    for packet in &plain {
        let total_length = usize::from(u16::from_be_bytes([packet[IPV4 + 2], packet[IPV4 + 3]]));
        assert_eq!(packet.len(), IPV4 + total_length);
        lens[usize::from(total_length == 46)] += 1;
    }
    assert_eq!(lens, [PACKETS * 20 / 48, PACKETS * 28 / 48], "the mix");

    let thrice = replay(&folder, "wan.pcap", &["--loop", "3", "--output", "plain.pcap"]);
    whole(&thrice, 3 * PACKETS);
    assert_eq!(read(&folder, "plain.pcap"), [&plain[..]; 3].concat());
    let some_time = replay(&folder, "wan.pcap", &["--seconds", "0.2"]);
    whole(&some_time, usize::try_from(some_time["rounds"].as_u64().unwrap()).unwrap() * PACKETS);
}

/// The box's own ports, and the other ends of their cables: shared memory, whose ends must have different names for its
/// socket where both are in one process.
#[test]
fn packets_come_and_go_by_cables() {
    let folder = generate(&["--size", "200"]);
    let config = folder.path().join("hub.toml");
    let at = folder.path().display();
    let near =
        |number| format!("net_memif{number},role=server,id={number},socket={at}/{number},socket-abstract=no");
    let far = |number| {
        format!(
            "eth{number}=net_memif1{number},role=client,id={number},socket={at}/./{number},socket-abstract=no"
        )
    };
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("mtu = 1500", "mtu = 1400").replace("mtu = 1600", "mtu = 1500");
    fs::write(&config, text.replace("net_null0", &near(0)).replace("net_null1", &near(1))).unwrap();
    let options = ["--cable", &far(0), "--cable", &far(1), "--rate", "20000", "--output", "plain.pcap"];
    let figures = replay(&folder, "wan.pcap", &options);
    whole(&figures, PACKETS);
    assert_eq!(read(&folder, "plain.pcap").len(), PACKETS);
    for (options, problem) in
        [(&[][..], "eth1 has no cable"), (&["--rate", "0"], "a number of packets above 0")]
    {
        let output =
            command(&folder, "wan.pcap", &[&["--cable", &far(0)], options].concat()).output().unwrap();
        assert!(String::from_utf8(output.stderr).unwrap().contains(problem));
    }
}

#[test]
fn a_wrong_key_is_a_drop_with_a_reason() {
    let folder = generate(&[]);
    let sas = folder.path().join("sas.toml");
    let text = fs::read_to_string(&sas).unwrap();
    let (before, after) = text.split_at(text.find("keys = \"").unwrap() + 8);
    let digit = if after.starts_with('0') { "1" } else { "0" };
    fs::write(&sas, [before, digit, &after[1..]].concat()).unwrap();
    let figures = replay(&folder, "wan.pcap", &[]);
    let lost = figures["lost"].as_u64().unwrap();
    assert!(lost > 0 && lost < 100, "those of one peer of seven: {lost}");
    // A wrong cipher key alone shows after authentication: as padding, as GRE, as an inner packet.
    assert_eq!(figures["drops"], lost, "{figures}");
    let dropped: u64 = (figures["drop_reasons"].as_str().unwrap().split(", "))
        .map(|of_reason| of_reason.split_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(dropped, lost, "{figures}");
}

#[test]
fn the_same_arguments_give_the_same_bytes() {
    let contents = |options: &[&str]| {
        let folder = generate(options);
        let read = |name: &str| (name.to_owned(), fs::read(folder.path().join(name)).unwrap());
        ["hub.toml", "sas.toml", "lan.pcap", "wan.pcap"].map(read).into_iter().collect::<BTreeMap<_, _>>()
    };
    assert_eq!(contents(&["--seed", "5"]), contents(&["--seed", "5"]));
    let (five, six) = (contents(&["--seed", "5"]), contents(&["--seed", "6"]));
    assert!(["sas.toml", "lan.pcap", "wan.pcap"].iter().all(|name| five[*name] != six[*name]));
}

#[test]
fn says_what_does_not_fit() {
    let folder = generate(&[]);
    for (pcap, options, problem) in [
        ("none.pcap", &[][..], "none.pcap"),
        ("sas.toml", &[], "sas.toml"),
        ("lan.pcap", &["--output", "eth7=x.pcap"], "x.pcap"),
        ("lan.pcap", &["--output", "a,b.pcap"], "a,b.pcap"),
        ("wan.pcap", &["--mirror"], "02:00:00:00:00:00"),
    ] {
        let output = command(&folder, pcap, options).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(problem), "{told}");
    }
}

#[test]
fn makes_nothing_that_it_was_not_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hub.toml"), "# mine").unwrap();
    for (options, problem) in [
        (&["--size", "39"][..], "40 bytes"),
        (&["--underlay", "10.64.0.0/10"], "overlap"),
        (&["--networks", "192.168.0.0/16", "--peers", "1"], "which the configuration uses"),
        (&[], "hub.toml is there already"),
    ] {
        let at = if options.is_empty() { folder.path().to_owned() } else { folder.path().join("new") };
        let mut program = Command::new(env!("CARGO_BIN_EXE_dmvpn-perf"));
        let output =
            program.args(["gen", "--count", "1", "--output"]).arg(at).args(options).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(problem), "{told}");
    }
    assert_eq!(fs::read(folder.path().join("hub.toml")).unwrap(), b"# mine");
}

/// A folder with files of `gen`.
fn generate(options: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dmvpn-perf"))
        .args(["gen", "--count", &PACKETS.to_string(), "--peers", &PEERS.to_string(), "--json"])
        .args(options)
        .arg("--output")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["files"][0]["packets"], PACKETS);
    folder
}

/// The figures of a replay in that folder.
fn replay(folder: &TempDir, pcap: &str, options: &[&str]) -> Value {
    let output = command(folder, pcap, options).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["cases"][0].clone()
}

fn command(folder: &TempDir, pcap: &str, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmvpn-perf"));
    command.current_dir(folder).args(["replay", "--config", "hub.toml", "--sas", "sas.toml", "--pcap", pcap]);
    command.args(options);
    command
}

/// Everything has gone through, in order.
fn whole(figures: &Value, packets: usize) {
    for (name, expected) in
        [("packets", packets), ("sent", packets), ("lost", 0), ("gaps", 0), ("out_of_order", 0)]
    {
        assert_eq!(figures[name], expected, "{name}: {figures}");
    }
    assert_eq!((&figures["drops"], &figures["drop_reasons"]), (&0.into(), &"".into()));
    assert!(figures["p50_us"].as_f64() <= figures["max_us"].as_f64(), "{figures}");
}

fn read(folder: &TempDir, name: &str) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(File::open(Path::new(folder.path()).join(name)).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        packets.push(packet.unwrap().data.into_owned());
    }
    packets
}

/// A frame after some routers, without the header checksum.
fn after_hops(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    frame[TTL] -= hops;
    frame[CHECKSUM].fill(0);
    frame
}

fn contains(packet: &[u8], part: &[u8]) -> bool {
    packet.windows(part.len()).any(|window| window == part)
}
