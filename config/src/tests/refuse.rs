//! What is refused: one mistake at a time, found where it is, and nothing else found.

use super::{example, refused_in};
use crate::{Severity, examine_text};

const HUB: &str = "hub.toml";
const SPOKE: &str = "spoke1.toml";

#[test]
fn unknown_keys_in_every_section() {
    for file in [HUB, SPOKE] {
        let text = example(file);
        for header in text.lines().filter(|line| line.starts_with('[')) {
            refused_in(file, header, &format!("{header}\nbogus-key = 1"), "bogus-key", &["unknown key"]);
        }
        refused_in(
            file,
            "[system]",
            "bogus-key = 1\n[system]",
            "bogus-key",
            &["allowed here: system, interfaces"],
        );
    }
}

#[test]
fn misspelt_keys() {
    refused_in(HUB, "holding-time", "holding-tiem", "holding-tiem", &["did you mean `holding-time`?"]);
    refused_in(
        HUB,
        "cisco-auth",
        "cisco-aut",
        "cisco-autentication",
        &["did you mean `cisco-authentication`?"],
    );
}

#[test]
fn references_to_nothing() {
    refused_in(
        HUB,
        "tunnel = \"tun0\"",
        "tunnel = [\"tun0\", \"tun1\"]",
        "\"tun1\"",
        &["there is no tunnel"],
    );
    refused_in(HUB, "interface = \"eth0\"", "interface = [\"eth0\", \"eth9\"]", "\"eth9\"", &["eth0"]);
    let parts = ["there is no ike-group `IKE-HUG`", "did you mean `IKE-HUB`?"];
    let examined =
        examine_text(&example(HUB).replace("ike-group = \"IKE-HUB\"", "ike-group = \"IKE-HUG\""), HUB);
    let errors: Vec<_> =
        examined.diagnostics.iter().filter(|found| found.severity == Severity::Error).collect();
    assert_eq!(errors.len(), 1);
    assert!(parts.iter().all(|part| errors[0].to_string().contains(part)), "{}", errors[0]);
    let more = "[protocols.nhrp.tunnel.tun1]\n\n[vpn.ipsec.ipsec-interfaces]";
    refused_in(HUB, "[vpn.ipsec.ipsec-interfaces]", more, "tun1", &["there is no tunnel `tun1`"]);
}

#[test]
fn routes_to_nowhere() {
    refused_in(HUB, "198.51.100.42", "1.1.1.2", "\"1.1.1.2\"", &["on no link", "eth0 198.51.100.41/30"]);
    refused_in(HUB, "10.0.0.2", "10.0.0.1", "\"10.0.0.1\"", &["our own address on tun0"]);
    refused_in(HUB, "10.0.0.2", "10.0.0.255", "\"10.0.0.255\"", &["broadcast"]);
    refused_in(HUB, "\"192.168.2.0/24\"", "\"192.168.2.1/24\"", "\"192.168.2.1/24\"", &["192.168.2.0/24?"]);
    refused_in(HUB, "\"192.168.2.0/24\"", "\"192.168.1.0/24\"", "\"192.168.1.0/24\"", &["network of eth1"]);
    let again = "host-name = \"HUB\"\nhost-name";
    refused_in(HUB, "host-name", again, "host-name", &["defined twice", "hub.toml:7:1"]);
}

#[test]
fn underlay_addresses_out_of_reach() {
    let route = "[protocols.static.route.\"0.0.0.0/0\"]\nnext-hop = \"203.0.113.1\"\n";
    refused_in(SPOKE, route, "", "\"198.51.100.41\"", &["no route leads to 198.51.100.41", "default route"]);
    let into_tunnel = route.replace("203.0.113.1", "10.0.0.1");
    refused_in(
        SPOKE,
        route,
        &into_tunnel,
        "\"198.51.100.41\"",
        &["through tun0, but eth0 carries the tunnel"],
    );
    refused_in(
        SPOKE,
        "nbma-address = \"198.51.100.41\"",
        "nbma-address = \"203.0.113.2\"",
        "\"203.0.113.2\"",
        &["our own address on eth0"],
    );
}

#[test]
fn addresses_of_interfaces() {
    refused_in(
        HUB,
        "192.168.1.1/24",
        "198.51.100.42/24",
        "\"198.51.100.42/24\"",
        &["overlaps with 198.51.100.41/30"],
    );
    refused_in(HUB, "192.168.1.1/24", "192.168.1.0/24", "\"192.168.1.0/24\"", &["network itself"]);
    refused_in(HUB, "192.168.1.1/24", "192.168.1.255/24", "\"192.168.1.255/24\"", &["broadcast"]);
    refused_in(HUB, "192.168.1.1/24", "127.0.0.1/8", "\"127.0.0.1/8\"", &["no address for a station"]);
    refused_in(HUB, "192.168.1.1/24", "224.0.0.1/8", "\"224.0.0.1/8\"", &["no address for a station"]);
    refused_in(HUB, "192.168.1.1/24", "192.168.1.1/33", "\"192.168.1.1/33\"", &["prefix length"]);
    refused_in(HUB, "192.168.1.1/24", "192.168.1.1", "\"192.168.1.1\"", &["prefix length"]);
    refused_in(
        HUB,
        "192.168.1.1/24",
        "192.168.1.1/255.255.255.0",
        "\"192.168.1.1/255.255.255.0\"",
        &["prefix length"],
    );
    refused_in(
        HUB,
        "198.51.100.41\"",
        "198.51.100.40\"",
        "\"198.51.100.40\"",
        &["no Ethernet interface has"],
    );
    refused_in(SPOKE, "203.0.113.2/30", "dhcp", "\"dhcp\"", &["DHCP is not supported yet"]);
    refused_in(HUB, "address = \"198.51.100.41/30\"", "address = []", "[]", &["an empty list"]);
}

#[test]
fn tunnels_without_their_parts() {
    refused_in(HUB, "encapsulation = \"gre\"", "", "tun0", &["`encapsulation` is missing"]);
    refused_in(HUB, "local-ip = \"198.51.100.41\"", "", "tun0", &["`local-ip` is missing"]);
    refused_in(HUB, "address = \"10.0.0.1/24\"", "address = 10", "10", &["`address` cannot be a number"]);
    refused_in(
        HUB,
        "interface = \"eth0\"",
        "interface = \"eth1\"",
        "\"198.51.100.41\"",
        &["no ipsec interface"],
    );
    refused_in(HUB, "port = \"net_af_packet0,iface=eth0\"", "", "eth0", &["`port` is missing"]);
    refused_in(
        HUB,
        "net_af_packet1",
        "net_af_packet0",
        "\"net_af_packet0,iface=eth1\"",
        &["the device of eth0"],
    );
}

#[test]
fn next_hop_servers() {
    refused_in(
        SPOKE,
        "nbma-address = \"198.51.100.41\"",
        "",
        "\"10.0.0.1/24\"",
        &["`nbma-address` is missing"],
    );
    refused_in(SPOKE, "register = true", "", "\"nhs\"", &["there is no next hop server"]);
    refused_in(
        SPOKE,
        "map.\"10.0.0.1/24\"",
        "map.\"10.0.0.2/24\"",
        "\"10.0.0.2/24\"",
        &["our own address on tun0"],
    );
    refused_in(
        SPOKE,
        "map.\"10.0.0.1/24\"",
        "map.\"10.0.1.1/24\"",
        "\"10.0.1.1/24\"",
        &["not in the network of tun0"],
    );
    let again = "map.\"10.0.0.1/32\"]\nnbma-address = \"198.51.100.41\"\n[protocols.nhrp.tunnel.tun0.map.\"10.0.0.1/24\"";
    refused_in(SPOKE, "map.\"10.0.0.1/24\"", again, "\"10.0.0.1/32\"", &["a second map for 10.0.0.1"]);
}

#[test]
fn packets_that_do_not_fit() {
    refused_in(HUB, "description = \"DMVPN\"", "mtu = 1395", "1395", &["at most 1394"]);
    refused_in(HUB, "description = \"WAN\"", "mtu = 640", "tun0", &["a tunnel needs at least 576"]);
    refused_in(HUB, "buffers = 16384", "buffers = 500000", "dataplane", &["memory is 256 MiB"]);
}

#[test]
fn memory_is_for_a_box_without_hugepages() {
    let text = example(HUB).replace("hugepages = false", "hugepages = true");
    let examined = examine_text(&text.replace("buffers = 16384", "buffers = 500000"), HUB);
    let [warning] = examined.diagnostics.as_slice() else { panic!("{:?}", examined.diagnostics) };
    assert_eq!((warning.severity, examined.config.is_some()), (Severity::Warning, true));
    assert_eq!(warning.excerpt.as_ref().unwrap().offending(), "256");
}

#[test]
fn numbers_out_of_range() {
    for (from, to, offending) in [
        ("key = 1", "key = 4294967296", "4294967296"),
        ("key = 1", "key = -1", "-1"),
        ("key = 1", "key = 1\nttl = 256", "256"),
        ("key = 1", "key = 1\ntos = 256", "256"),
        ("holding-time = 300", "holding-time = 0", "0"),
        ("holding-time = 300", "holding-time = 65536", "65536"),
        ("lifetime = 3600", "lifetime = 29", "29"),
        ("lifetime = 3600", "lifetime = 86401", "86401"),
        ("lifetime = 1800", "lifetime = 86401", "86401"),
        (
            "lifetime = 1800",
            "lifetime = 0x1F0000000000000000000000000000000000",
            "0x1F0000000000000000000000000000000000",
        ),
        ("lifetime = 1800", "replay-window = 63", "63"),
        ("lifetime = 1800", "replay-window = 4160", "4160"),
        ("interval = 5", "interval = 1", "1"),
        ("timeout = 15", "timeout = 86401", "86401"),
    ] {
        refused_in(HUB, from, to, offending, &["out of range", "allowed: "]);
    }
}

#[test]
fn probes_need_time_for_an_answer() {
    refused_in(HUB, "timeout = 15", "timeout = 5", "5", &["no time for an answer"]);
    refused_in(
        HUB,
        "interval = 5\ntimeout = 15",
        "interval = 120",
        "dead-peer-detection",
        &["no time for an answer"],
    );
}

#[test]
fn words_of_the_same_vocabulary() {
    use crate::keyword::{ESP_ENCRYPTION, HASH, IKE_ENCRYPTION};
    for word in IKE_ENCRYPTION.unsupported {
        let offending = format!("\"{word}\"");
        refused_in(
            HUB,
            "\"aes256\"",
            &offending,
            &offending,
            &["not supported", "aes128, aes192, aes256, 3des"],
        );
    }
    for word in ESP_ENCRYPTION.unsupported {
        let offending = format!("\"{word}\"");
        refused_in(HUB, "\"3des\"", &offending, &offending, &["not supported", "aes128gcm128, aes256gcm128"]);
    }
    for word in HASH.unsupported {
        let offending = format!("\"{word}\"");
        refused_in(
            HUB,
            "\"sha1\"",
            &offending,
            &offending,
            &["not supported", "md5, sha1, sha256, sha384, sha512"],
        );
    }
    for group in [1, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32] {
        refused_in(
            HUB,
            "hash = \"sha1\"",
            &format!("dh-group = {group}"),
            &group.to_string(),
            &["not supported"],
        );
        let word = format!("\"dh-group{group}\"");
        refused_in(HUB, "\"dh-group2\"", &word, &word, &["not supported", "enable, disable, dh-group2"]);
    }
}

#[test]
fn secrets_that_nobody_can_use() {
    for bad in ["\"\"", "\"NINECHARS\"", "\"a b\"", "1234", "\"\u{e9}\""] {
        let to = format!("cisco-authentication = {bad}");
        refused_in(HUB, "cisco-authentication = \"SECRET\"", &to, "***", &["1 to 8 characters"]);
    }
    refused_in(HUB, "pre-shared-secret = \"SECRET\"", "pre-shared-secret = \"\"", "***", &["not empty"]);
    refused_in(HUB, "pre-shared-secret = \"SECRET\"", "pre-shared-secret = 1", "***", &["not empty"]);
}

#[test]
fn tunnels_that_look_the_same() {
    let second = "[interfaces.tunnel.tun1]
address = \"10.0.1.1/24\"
encapsulation = \"gre\"
local-ip = \"198.51.100.41\"
parameters.ip.key = KEY

[protocols.nhrp.tunnel.tun1]

[interfaces.tunnel.tun0]";
    let both = example(HUB)
        .replace("[interfaces.tunnel.tun0]", second)
        .replace("tunnel = \"tun0\"", "tunnel = [\"tun0\", \"tun1\"]");
    let good = examine_text(&both.replace("KEY", "2"), HUB).config.unwrap();
    assert_eq!(good.tunnels[0].profile, good.tunnels[1].profile);
    let twins = examine_text(&both.replace("KEY", "1"), HUB).into_result().unwrap_err();
    assert!(
        twins[0].to_string().contains("tun0 and tun1 have the same underlay and the same key"),
        "{}",
        twins[0]
    );
}

#[test]
fn files_that_cannot_be_read() {
    let folder = std::env::temp_dir().join(format!("dmvpn-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let missing = crate::load(&folder.join("none.toml")).unwrap_err();
    assert!(missing[0].to_string().starts_with("error: cannot be read: "), "{}", missing[0]);
    let file = folder.join("latin1.toml");
    std::fs::write(&file, b"[system]\nhost-name = \"\xe9\"\n").unwrap();
    let refused = crate::load(&file).unwrap_err();
    assert!(refused[0].to_string().contains("byte 22"), "{}", refused[0]);
    std::fs::remove_dir_all(&folder).unwrap();
}
