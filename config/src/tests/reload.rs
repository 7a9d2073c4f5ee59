//! The configuration as text, and differences between configurations.

use super::{accepted, example, without_detection};
use crate::{Config, ConfigDelta, Secret};

/// The configuration with every secret replaced by the mask of its text form.
fn masked(mut config: Config) -> Config {
    let mask = || Secret::new("********");
    for tunnel in &mut config.tunnels {
        if let Some(nhrp) = &mut tunnel.nhrp {
            nhrp.authentication = nhrp.authentication.as_ref().map(|_| mask());
        }
        if let Some(profile) = &mut tunnel.profile {
            profile.secret = mask();
            profile.peer_secrets.iter_mut().for_each(|(_, secret)| *secret = mask());
        }
    }
    config
}

#[track_caller]
fn survives_as_text(text: &str) {
    let config = accepted(text);
    let shown = config.to_string();
    assert!(!shown.contains("SECRET"), "{shown}");
    assert_eq!(accepted(&shown), masked(config), "{shown}");
}

#[test]
fn text_loads_to_the_same() {
    for name in ["hub.toml", "spoke1.toml", "spoke2.toml"] {
        survives_as_text(&example(name));
    }
    let odd = without_detection(&example("spoke1.toml"))
        .replace("key = 1", "ttl = 0\ntos = 255\nno-pmtu-discovery = true")
        .replace("description = \"DMVPN\"", "description = 'a \"quoted\" \\ text'\nmtu = 1300")
        .replace("pfs = \"dh-group2\"", "pfs = \"disable\"\nmode = \"transport\"\nreplay-window = 1024")
        .replace("ESP-SPOKE", "\"ESP of the spoke\"")
        .replace("\"\"ESP of the spoke\"\"", "\"ESP of the spoke\"")
        .replace("key-exchange = \"ikev1\"", "dead-peer-detection = \"disable\"")
        .replace("mode = \"pre-shared-secret\"", "peer.\"203.0.113.0/24\".pre-shared-secret = \"SECRET2\"")
        .replace("encryption = \"3des\"\nhash = \"md5\"", "encryption = \"aes256gcm128\"")
        .replace("tun = \"dmvpn0\"", "tun = \"\"");
    survives_as_text(&odd);
}

#[test]
fn one_esp_group_may_mean_two() {
    let second = "[vpn.ipsec.ike-group.OTHER.proposal.1]
encryption = \"aes128\"
dh-group = 14

[vpn.ipsec.profile.OTHER]
esp-group = \"ESP-HUB\"
ike-group = \"OTHER\"
authentication.pre-shared-secret = \"SECRET\"
bind.tunnel = \"tun1\"

[interfaces.ethernet.eth2]
address = \"203.0.113.1/30\"
port = \"net_null0\"

[protocols.nhrp.tunnel.tun1]

[interfaces.tunnel.tun1]
address = \"10.0.1.1/24\"
encapsulation = \"gre\"
local-ip = \"203.0.113.1\"

[vpn.ipsec.ipsec-interfaces]";
    let text = example("hub.toml")
        .replace("[vpn.ipsec.ipsec-interfaces]", second)
        .replace("interface = \"eth0\"", "interface = [\"eth0\", \"eth2\"]")
        .replace("pfs = \"dh-group2\"", "pfs = \"enable\"");
    let reread = accepted(&accepted(&text).to_string());
    let pfs: Vec<_> = reread.tunnels.iter().map(|tunnel| tunnel.profile.as_ref().unwrap().esp.pfs).collect();
    assert_eq!(pfs, [Some(crate::DhGroup::Modp1024), Some(crate::DhGroup::Modp2048)]);
}

#[test]
fn tunnel_without_a_network() {
    let text = example("spoke1.toml")
        .replace("address = \"10.0.0.2/24\"", "address = \"10.0.0.2/32\"")
        .replace("map.\"10.0.0.1/24\"", "map.\"10.0.0.1/32\"")
        .replace("next-hop = \"10.0.0.3\"", "next-hop = \"10.0.0.1\"");
    assert_eq!(accepted(&text).tunnels[0].address.prefix(), 32);
}

#[track_caller]
fn changes(from: &str, to: &str, hot: &[&str], restart: &[&str]) {
    let text = example("hub.toml");
    assert!(text.contains(from), "the hub's example has no {from}");
    let delta = ConfigDelta::between(&accepted(&text), &accepted(&text.replacen(from, to, 1)));
    assert_eq!(
        (delta.hot.as_slice(), delta.restart.as_slice()),
        (to_strings(hot).as_slice(), to_strings(restart).as_slice())
    );
    assert_eq!(delta.is_empty(), hot.is_empty() && restart.is_empty());
}

fn to_strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn what_takes_a_restart() {
    changes("# HUB", "# hub", &[], &[]);
    changes("\"HUB\"", "\"HUB2\"", &["system"], &[]);
    changes("192.168.1.1/24", "192.168.1.2/24", &["interfaces.ethernet.eth1"], &[]);
    changes("10.0.0.1/24", "10.0.0.4/24", &["interfaces.tunnel.tun0"], &[]);
    changes("next-hop = \"10.0.0.2\"", "next-hop = \"10.0.0.9\"", &["protocols.static"], &[]);
    changes("holding-time = 300", "holding-time = 301", &["protocols.nhrp.tunnel.tun0"], &[]);
    changes(
        "pre-shared-secret = \"SECRET\"",
        "pre-shared-secret = \"new\"",
        &["vpn.ipsec.profile.NHRPVPN"],
        &[],
    );
    changes("net_af_packet1", "net_af_packet7", &[], &["interfaces.ethernet"]);
    changes("memory = 256", "memory = 300", &[], &["dataplane"]);
    changes("tun = \"dmvpn0\"", "tun = \"\"", &[], &["host"]);
}
