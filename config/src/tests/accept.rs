//! What is accepted, and that it takes effect.

use std::net::Ipv4Addr;

use super::{accepted, example, without_detection};
use crate::*;

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

fn proposals(dh_group: DhGroup) -> Vec<IkeProposal> {
    [Encryption::Aes256, Encryption::Aes128]
        .map(|encryption| IkeProposal { encryption, hash: Hash::Sha1, dh_group })
        .to_vec()
}

#[test]
fn examples_give_no_reason_to_warn() {
    for name in ["hub.toml", "spoke1.toml", "spoke2.toml"] {
        assert_eq!(examine_text(&example(name), name).diagnostics, []);
    }
}

#[test]
fn hub_of_the_document() {
    let hub = accepted(&example("hub.toml"));
    assert_eq!(hub.host_name, "HUB");
    assert_eq!(hub.ethernet[0].address, Some("198.51.100.41/30".parse().unwrap()));
    assert_eq!(hub.ethernet[1].address, Some("192.168.1.1/24".parse().unwrap()));
    let [tunnel] = hub.tunnels.as_slice() else { panic!("one tunnel") };
    assert_eq!(tunnel.name, "tun0");
    assert_eq!(tunnel.address, "10.0.0.1/24".parse().unwrap());
    assert_eq!(tunnel.local, LocalAddress::Address(Ipv4Addr::new(198, 51, 100, 41)));
    assert_eq!((tunnel.underlay, tunnel.multicast, tunnel.key), (0, true, Some(1)));
    assert_eq!((tunnel.ttl, tunnel.tos, tunnel.no_pmtu_discovery), (Some(64), None, false));
    assert_eq!(
        tunnel.nhrp,
        Some(Nhrp {
            authentication: Some(secret("SECRET")),
            holding_time: 300,
            maps: Vec::new(),
            multicast: Multicast::Dynamic,
            redirect: true,
            shortcut: false,
        })
    );
    assert_eq!(
        tunnel.profile,
        Some(Profile {
            name: String::from("NHRPVPN"),
            secret: secret("SECRET"),
            peer_secrets: Vec::new(),
            ike: IkeGroup {
                name: String::from("IKE-HUB"),
                lifetime: 3600,
                proposals: proposals(DhGroup::Modp1024),
                dead_peer_detection: Some(DeadPeerDetection { interval: 5, timeout: 15 }),
            },
            esp: EspGroup {
                name: String::from("ESP-HUB"),
                lifetime: 1800,
                mode: EspMode::Tunnel,
                pfs: Some(DhGroup::Modp1024),
                proposals: vec![
                    EspProposal { encryption: Encryption::Aes256, hash: Some(Hash::Sha1) },
                    EspProposal { encryption: Encryption::TripleDes, hash: Some(Hash::Md5) },
                ],
                replay_window: 64,
            },
        })
    );
    let routes: Vec<_> = hub.routes.iter().map(|route| (route.prefix.to_string(), route.next_hop)).collect();
    assert_eq!(
        routes,
        [
            (String::from("0.0.0.0/0"), Ipv4Addr::new(198, 51, 100, 42)),
            (String::from("192.168.2.0/24"), Ipv4Addr::new(10, 0, 0, 2)),
            (String::from("192.168.3.0/24"), Ipv4Addr::new(10, 0, 0, 3)),
        ]
    );
}

#[test]
fn spokes_of_the_document() {
    for (file, host, own, wan) in
        [("spoke1.toml", "SPOKE1", 2, "203.0.113.2/30"), ("spoke2.toml", "SPOKE2", 3, "203.0.113.18/30")]
    {
        let spoke = accepted(&example(file));
        assert_eq!(spoke.host_name, host);
        assert_eq!(spoke.ethernet[0].address, Some(wan.parse().unwrap()));
        assert_eq!(spoke.ethernet[1].address, Some(format!("192.168.{own}.1/24").parse().unwrap()));
        let [tunnel] = spoke.tunnels.as_slice() else { panic!("one tunnel") };
        assert_eq!(tunnel.address, format!("10.0.0.{own}/24").parse().unwrap());
        assert_eq!((tunnel.local, tunnel.underlay), (LocalAddress::FollowInterface, 0));
        assert_eq!(
            tunnel.nhrp,
            Some(Nhrp {
                authentication: Some(secret("SECRET")),
                holding_time: 7200,
                maps: vec![NhrpMap {
                    address: "10.0.0.1/24".parse().unwrap(),
                    nbma: Ipv4Addr::new(198, 51, 100, 41),
                    register: true,
                }],
                multicast: Multicast::Nhs,
                redirect: true,
                shortcut: true,
            })
        );
        let profile = tunnel.profile.as_ref().unwrap();
        assert_eq!((profile.ike.lifetime, profile.esp.lifetime), (3600, 1800));
        assert_eq!(spoke.routes.len(), 3);
    }
}

/// A change of the hub's text, and what it changes in the configuration.
#[track_caller]
fn effect(from: &str, to: &str, change: impl FnOnce(&mut Config)) {
    let text = example("hub.toml");
    assert!(text.contains(from), "the hub's example has no {from}");
    let mut expected = accepted(&text);
    change(&mut expected);
    assert_eq!(accepted(&text.replacen(from, to, 1)), expected, "{from} -> {to}");
}

fn tunnel(config: &mut Config) -> &mut Tunnel {
    &mut config.tunnels[0]
}

fn nhrp(config: &mut Config) -> &mut Nhrp {
    config.tunnels[0].nhrp.as_mut().unwrap()
}

fn profile(config: &mut Config) -> &mut Profile {
    config.tunnels[0].profile.as_mut().unwrap()
}

#[test]
fn options_of_interfaces() {
    effect("\"HUB\"", "\"hub-2\"", |config| config.host_name = String::from("hub-2"));
    effect("host-name = \"HUB\"", "", |config| config.host_name = String::from("dmvpn"));
    effect("description = \"LAN\"", "mtu = 9000", |config| {
        config.ethernet[1].description = None;
        config.ethernet[1].mtu = 9000;
    });
    effect("\"192.168.1.1/24\"", "[\"192.168.1.2/24\"]", |config| {
        config.ethernet[1].address = Some("192.168.1.2/24".parse().unwrap());
    });
    effect("net_af_packet1,iface=eth1", "0000:3b:00.1", |config| {
        config.ethernet[1].port = String::from("0000:3b:00.1");
    });
    effect("\"198.51.100.41\"", "\"0.0.0.0\"", |config| tunnel(config).local = LocalAddress::FollowInterface);
    effect("description = \"DMVPN\"", "mtu = 1200", |config| {
        tunnel(config).description = None;
        tunnel(config).mtu = 1200;
    });
    effect("key = 1", "key = 4294967295", |config| tunnel(config).key = Some(u32::MAX));
    effect("key = 1", "key = 0x10", |config| tunnel(config).key = Some(16));
    effect("key = 1", "key = 1\nttl = 255", |config| tunnel(config).ttl = Some(255));
    effect("key = 1", "key = 1\nttl = 0", |config| tunnel(config).ttl = None);
    effect("key = 1", "key = 1\ntos = 184", |config| tunnel(config).tos = Some(184));
    effect("key = 1", "key = 1\ntos = \"inherit\"", |_| {});
    effect("key = 1", "key = 1\nno-pmtu-discovery = true", |config| tunnel(config).no_pmtu_discovery = true);
}

#[test]
fn interfaces_are_ordered_by_number() {
    let text = example("hub.toml").replace("eth1]", "eth10]").replace("iface=eth1", "iface=eth10")
        + "\n[interfaces.ethernet.eth2]\nport = \"net_null0\"\n";
    let names: Vec<String> = accepted(&text).ethernet.into_iter().map(|ethernet| ethernet.name).collect();
    assert_eq!(names, ["eth0", "eth2", "eth10"]);
}

#[test]
fn options_of_nhrp() {
    effect("cisco-authentication = \"SECRET\"", "", |config| nhrp(config).authentication = None);
    effect("holding-time = 300", "holding-time = 65535", |config| nhrp(config).holding_time = 65535);
    effect("multicast = \"dynamic\"", "", |config| nhrp(config).multicast = Multicast::None);
    effect("redirect = true", "shortcut = true", |config| {
        nhrp(config).redirect = false;
        nhrp(config).shortcut = true;
    });
    effect(
        "redirect = true",
        "redirect = true\nmap.\"10.0.0.9/32\".nbma-address = \"203.0.113.9\"",
        |config| {
            nhrp(config).maps.push(NhrpMap {
                address: "10.0.0.9/32".parse().unwrap(),
                nbma: Ipv4Addr::new(203, 0, 113, 9),
                register: false,
            });
        },
    );
}

#[test]
fn options_of_ipsec() {
    effect("lifetime = 3600", "lifetime = 86400", |config| profile(config).ike.lifetime = 86400);
    effect("lifetime = 3600", "", |config| profile(config).ike.lifetime = 28800);
    effect("lifetime = 1800", "lifetime = 30", |config| profile(config).esp.lifetime = 30);
    effect("lifetime = 1800", "", |config| profile(config).esp.lifetime = 3600);
    effect("lifetime = 1800", "lifetime = 1800\nmode = \"transport\"", |config| {
        profile(config).esp.mode = EspMode::Transport;
        tunnel(config).mtu = 1400;
    });
    effect("lifetime = 1800", "lifetime = 1800\nmode = \"tunnel\"", |_| {});
    effect("lifetime = 1800", "lifetime = 1800\nreplay-window = 4096", |config| {
        profile(config).esp.replay_window = 4096;
    });
    effect("encryption = \"aes256\"", "", |config| {
        profile(config).ike.proposals[0].encryption = Encryption::Aes128;
    });
    effect("hash = \"sha1\"", "", |_| {});
    effect("pre-shared-secret = \"SECRET\"", "pre-shared-secret = \"two words\"", |config| {
        profile(config).secret = secret("two words");
    });
    effect("mode = \"pre-shared-secret\"", "", |_| {});
    effect("interface = \"eth0\"", "interface = [\"eth0\"]", |_| {});
}

#[test]
fn dead_peer_detection() {
    let interval = |config: &mut Config, interval, timeout| {
        profile(config).ike.dead_peer_detection = Some(DeadPeerDetection { interval, timeout });
    };
    effect("interval = 5\ntimeout = 15", "interval = 2\ntimeout = 86400", |config| {
        interval(config, 2, 86400)
    });
    effect("interval = 5\ntimeout = 15", "", |config| interval(config, 30, 120));
    let group = "key-exchange = \"ikev1\"";
    for (word, detection) in [
        ("", Some(DeadPeerDetection { interval: 30, timeout: 120 })),
        ("dead-peer-detection = \"disable\"", None),
    ] {
        let text = without_detection(&example("hub.toml")).replace(group, word);
        assert_eq!(accepted(&text).tunnels[0].profile.as_ref().unwrap().ike.dead_peer_detection, detection);
    }
}

#[test]
fn peers_may_have_secrets_of_their_own() {
    let peers = "mode = \"pre-shared-secret\"
        peer.\"203.0.113.0/24\".pre-shared-secret = \"net\"
        peer.\"203.0.113.18\".pre-shared-secret = \"host\"";
    effect("mode = \"pre-shared-secret\"", peers, |config| {
        profile(config).peer_secrets = vec![
            ("203.0.113.18/32".parse().unwrap(), secret("host")),
            ("203.0.113.0/24".parse().unwrap(), secret("net")),
        ];
    });
}

#[test]
fn proposals_are_ordered_by_number() {
    effect("IKE-HUB.proposal.1]", "IKE-HUB.proposal.10]", |config| profile(config).ike.proposals.reverse());
}

#[test]
fn pfs_is_resolved() {
    for (word, group) in
        [("enable", Some(DhGroup::Modp2048)), ("disable", None), ("dh-group19", Some(DhGroup::Ecp256))]
    {
        let text = example("hub.toml")
            .replacen("hash = \"sha1\"", "hash = \"sha1\"\ndh-group = 14", 1)
            .replace("dh-group2", word);
        assert_eq!(accepted(&text).tunnels[0].profile.as_ref().unwrap().esp.pfs, group, "{word}");
    }
    effect("pfs = \"dh-group2\"", "", |_| {});
}

#[test]
fn every_keyword() {
    let ciphers = [
        ("aes128", Encryption::Aes128),
        ("aes192", Encryption::Aes192),
        ("aes256", Encryption::Aes256),
        ("3des", Encryption::TripleDes),
    ];
    for (word, encryption) in ciphers {
        effect("encryption = \"aes256\"", &format!("encryption = \"{word}\"\ndh-group = 5"), |config| {
            profile(config).ike.proposals[0] =
                IkeProposal { encryption, hash: Hash::Sha1, dh_group: DhGroup::Modp1536 };
        });
    }
    let hashes = [
        ("md5", Hash::Md5),
        ("sha1", Hash::Sha1),
        ("sha256", Hash::Sha256),
        ("sha384", Hash::Sha384),
        ("sha512", Hash::Sha512),
    ];
    for (word, hash) in hashes {
        effect("hash = \"sha1\"", &format!("hash = \"{word}\""), |config| {
            profile(config).ike.proposals[0].hash = hash
        });
    }
    let groups = [2, 5, 14, 15, 16, 17, 18, 19, 20, 21];
    for number in groups {
        let text = example("hub.toml").replacen(
            "hash = \"sha1\"",
            &format!("hash = \"sha1\"\ndh-group = {number}"),
            1,
        );
        let group = accepted(&text).tunnels[0].profile.as_ref().unwrap().ike.proposals[0].dh_group;
        assert_eq!(group as u16, number);
        let text = example("hub.toml").replacen("dh-group2", &format!("dh-group{number}"), 1);
        let group = accepted(&text).tunnels[0].profile.as_ref().unwrap().esp.pfs.unwrap();
        assert_eq!(group as u16, number);
    }
    let esp = "[vpn.ipsec.esp-group.ESP-HUB.proposal.1]\nencryption = \"aes256\"\nhash = \"sha1\"";
    let header = "[vpn.ipsec.esp-group.ESP-HUB.proposal.1]\n";
    for (word, encryption) in ciphers {
        for (hash_word, hash) in hashes {
            let text = format!("{header}encryption = \"{word}\"\nhash = \"{hash_word}\"");
            let config = accepted(&example("hub.toml").replacen(esp, &text, 1));
            let proposal = config.tunnels[0].profile.as_ref().unwrap().esp.proposals[0];
            assert_eq!(proposal, EspProposal { encryption, hash: Some(hash) });
        }
    }
    for (word, encryption) in
        [("aes128gcm128", Encryption::Aes128Gcm128), ("aes256gcm128", Encryption::Aes256Gcm128)]
    {
        let config =
            accepted(&example("hub.toml").replacen(esp, &format!("{header}encryption = \"{word}\""), 1));
        let proposal = config.tunnels[0].profile.as_ref().unwrap().esp.proposals[0];
        assert_eq!(proposal, EspProposal { encryption, hash: None });
    }
}

#[test]
fn options_of_dataplane_and_host() {
    effect("idle = \"adaptive\"", "idle = \"busy\"\nworkers = [3, 2]", |config| {
        config.dataplane.idle = IdlePolicy::Busy;
        config.dataplane.workers = vec![3, 2];
    });
    effect("memory = 256", "memory = 1024", |config| config.dataplane.memory = 1024);
    effect("hugepages = false", "hugepages = true", |config| config.dataplane.hugepages = true);
    effect("buffers = 16384", "buffers = 4096", |config| config.dataplane.buffers = 4096);
    effect("tun = \"dmvpn0\"", "tun = \"\"", |config| config.host.tun = None);
    effect("/run/dmvpn/hub.sock", "/tmp/hub", |config| config.host.socket = String::from("/tmp/hub"));
}

#[test]
fn hugepages_are_the_default_of_nics() {
    let text = example("hub.toml").replace("hugepages = false\n", "");
    assert!(!accepted(&text).dataplane.hugepages);
    assert!(accepted(&text.replace("net_af_packet1,iface=eth1", "3b:00.1")).dataplane.hugepages);
}

#[test]
fn local_address_follows_the_default_route_without_ipsec() {
    let text = example("spoke1.toml");
    let clear = &text[..text.find("[vpn.").unwrap()];
    let examined = examine_text(clear, "spoke1.toml");
    let tunnel = &examined.config.unwrap().tunnels[0];
    assert_eq!((tunnel.underlay, tunnel.profile.is_none(), tunnel.mtu), (0, true, 1400));
    let [warning] = examined.diagnostics.as_slice() else { panic!("one warning") };
    assert!(warning.to_string().contains("no profile protects tun0"), "{warning}");
}

/// A bogus key in any section makes the loader say which keys it knows: the reference must name them all.
#[test]
fn reference_names_every_key() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let reference = std::fs::read_to_string(path).unwrap();
    let text = example("spoke1.toml");
    // Keys are quoted there, alone or within a path: `a`, `a.b`, `[a.b]`.
    let words: std::collections::BTreeSet<&str> = reference
        .split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|quoted| quoted.split(['.', '[', ']', '"', ' ']))
        .collect();
    let mut count = 0;
    for header in text.lines().filter(|line| line.starts_with('[')) {
        let bogus = text.replace(header, &format!("{header}\nzzzzzzzzzzzz = 1"));
        let diagnostics = examine_text(&bogus, "box.toml").diagnostics;
        let help =
            diagnostics.iter().find_map(|of| of.help.as_ref()?.strip_prefix("allowed here: ")).unwrap();
        for key in help.split(", ") {
            assert!(words.contains(key), "{key} of {header}");
            count += 1;
        }
    }
    assert!(count > 50, "{count} keys");
}
