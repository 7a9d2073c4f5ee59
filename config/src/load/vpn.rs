//! `vpn.ipsec`: groups, proposals and profiles.

use std::collections::BTreeMap;

use ipnetwork::Ipv4Network;
use toml::Spanned;
use toml::de::DeValue;

use crate::draft::{DEAD_PEER_DETECTION, DraftEspGroup, DraftProfile};
use crate::keyword::{
    AEAD, AUTHENTICATION_MODE, DH_GROUP, ESP_ENCRYPTION, ESP_MODE, HASH, IKE_ENCRYPTION, KEY_EXCHANGE, PFS,
    Pfs,
};
use crate::model::{
    DeadPeerDetection, DhGroup, Encryption, EspMode, EspProposal, Hash, IkeGroup, IkeProposal, Secret,
};
use crate::section::{Given, Section, parse_network, shown};

const LIFETIME: std::ops::RangeInclusive<u32> = 30..=86400;

#[derive(Debug, Default)]
pub(super) struct Vpn {
    pub(super) ike_groups: Vec<(Spanned<String>, IkeGroup)>,
    pub(super) esp_groups: Vec<(Spanned<String>, DraftEspGroup)>,
    pub(super) interfaces: Vec<Spanned<String>>,
    pub(super) profiles: Vec<DraftProfile>,
}

pub(super) fn vpn(mut section: Section<'_>) -> Vpn {
    let ipsec = section.section("ipsec").map(ipsec).unwrap_or_default();
    section.finish();
    ipsec
}

fn ipsec(mut section: Section<'_>) -> Vpn {
    section.hint("interface", "here it is `interface` in the section [vpn.ipsec.ipsec-interfaces]");
    section.hint("site-to-site", "not supported: peers come from NHRP and a profile");
    let ike_groups =
        section.named("ike-group").into_iter().map(|(name, inner)| (name.clone(), ike_group(&name, inner)));
    let ike_groups = ike_groups.collect();
    let esp_groups =
        section.named("esp-group").into_iter().map(|(name, inner)| (name, esp_group(inner))).collect();
    let mut interfaces = Vec::new();
    if let Some(mut inner) = section.section("ipsec-interfaces") {
        interfaces = names(&mut inner, "interface", "names of Ethernet interfaces");
        inner.finish();
    }
    let profiles = section.named("profile").into_iter().map(|(name, inner)| profile(name, inner)).collect();
    section.finish();
    Vpn { ike_groups, esp_groups, interfaces, profiles }
}

fn ike_group(name: &Spanned<String>, mut section: Section<'_>) -> IkeGroup {
    section.keyword("key-exchange", &KEY_EXCHANGE);
    section.hint("mode", "not supported: it is main mode always");
    let lifetime = section.number("lifetime", LIFETIME).or(28800);
    let proposals = proposals(&mut section, ike_proposal);
    let dead_peer_detection = dead_peer_detection(&mut section);
    section.finish();
    IkeGroup { name: name.get_ref().clone(), lifetime, proposals, dead_peer_detection }
}

fn ike_proposal(mut section: Section<'_>) -> IkeProposal {
    let encryption = section.parsed("encryption", &IKE_ENCRYPTION.allowed(), |word| {
        if AEAD.contains(&word) {
            return Err(format!("`{word}` is not for an ike-group: IKEv1 takes no authenticated encryption"));
        }
        IKE_ENCRYPTION.find(word)
    });
    let hash = section.keyword("hash", &HASH).or(Hash::Sha1);
    let dh_group = section.scalar("dh-group", &DH_GROUP.allowed(), |value| match value {
        DeValue::Integer(number) => Some(DH_GROUP.find(&number.to_string())),
        _ => None,
    });
    section.finish();
    IkeProposal {
        encryption: encryption.or(Encryption::Aes128),
        hash,
        dh_group: dh_group.or(DhGroup::Modp1024),
    }
}

/// `dead-peer-detection`: a section, or the word `disable`.
fn dead_peer_detection(section: &mut Section<'_>) -> Option<DeadPeerDetection> {
    const KEY: &str = "dead-peer-detection";
    let mut detection = DEAD_PEER_DETECTION;
    if section.is_text(KEY) {
        let off = section.parsed(KEY, "a section with interval and timeout, or \"disable\"", |word| {
            if word == "disable" { Ok(()) } else { Err(format!("unknown word `{}`", shown(word))) }
        });
        return off.is_bad().then_some(detection);
    }
    let Some(mut inner) = section.section(KEY) else { return Some(detection) };
    let interval = inner.number("interval", 2..=86400);
    let timeout = inner.number("timeout", 2..=86400);
    let place = timeout.clone().located().map_or_else(|| inner.span(), |timeout| timeout.span());
    let complete = !interval.is_bad() && !timeout.is_bad();
    detection.interval = interval.or(detection.interval);
    detection.timeout = timeout.or(detection.timeout);
    if complete && detection.timeout <= detection.interval {
        let message = format!(
            "a timeout of {} s leaves no time for an answer to the probe after {} s",
            detection.timeout, detection.interval
        );
        inner.report().error(place, message, "the timeout is longer than the interval");
    }
    inner.finish();
    Some(detection)
}

fn esp_group(mut section: Section<'_>) -> DraftEspGroup {
    for (key, hint) in [
        ("compression", "not supported"),
        ("life-bytes", "not supported: give a `lifetime` in seconds"),
        ("life-packets", "not supported: give a `lifetime` in seconds"),
        ("disable-rekey", "not supported: an SA is always replaced before its end"),
    ] {
        section.hint(key, hint);
    }
    let lifetime = section.number("lifetime", LIFETIME).or(3600);
    let mode = section.keyword("mode", &ESP_MODE).or(EspMode::Tunnel);
    let pfs = section.keyword("pfs", &PFS).or(Pfs::Enable);
    let proposals = proposals(&mut section, esp_proposal);
    let replay_window = section.number("replay-window", 64..=4096);
    let replay_window = replay_window.located().map_or(64, |window| {
        if !window.get_ref().is_multiple_of(64) {
            let message = format!("{} is no multiple of 64", window.get_ref());
            section.report().error(window.span(), message, "allowed: 64, 128, 192, ... 4096 packets");
        }
        window.into_inner()
    });
    section.finish();
    DraftEspGroup { lifetime, mode, pfs, proposals, replay_window }
}

fn esp_proposal(mut section: Section<'_>) -> EspProposal {
    let encryption = section.keyword("encryption", &ESP_ENCRYPTION);
    let hash = section.keyword("hash", &HASH);
    let cipher = encryption.clone().or(Encryption::Aes128);
    if !encryption.is_bad() {
        let word = ESP_ENCRYPTION.word(cipher);
        if !AEAD.contains(&word) {
            let help = format!("{word} does not authenticate; allowed: {}", HASH.allowed());
            section.require("hash", &hash, &help);
        } else if let Given::Is(hash) = &hash {
            let message = format!("a hash beside {word}, which authenticates by itself");
            section.report().error(hash.span(), message, "remove it");
        }
    }
    section.finish();
    EspProposal { encryption: cipher, hash: hash.value() }
}

/// The numbered proposals of a group, in the order of their numbers.
fn proposals<'t, T: PartialEq>(section: &mut Section<'t>, read: impl Fn(Section<'t>) -> T) -> Vec<T> {
    let report = section.report();
    let mut numbered = BTreeMap::new();
    let named = section.named("proposal");
    if !section.has("proposal") {
        section.missing("proposal", "a group has at least one, in a section of its own: [... .proposal.1]");
    }
    for (name, inner) in named {
        let number = name
            .get_ref()
            .parse::<u16>()
            .ok()
            .filter(|number| *number != 0 && number.to_string() == *name.get_ref());
        let proposal = read(inner);
        let Some(number) = number else {
            let message = format!("`{}` is no number of a proposal", shown(name.get_ref()));
            report.error(name.span(), message, "allowed: 1 to 65535, the best proposal has the lowest");
            continue;
        };
        numbered.insert(number, (name.span(), proposal));
    }
    let mut ordered: Vec<T> = Vec::new();
    for (span, proposal) in numbered.into_values() {
        if ordered.contains(&proposal) && !report.has_errors() {
            report.warning(span, "the same as a proposal before it", "it is never chosen");
        }
        ordered.push(proposal);
    }
    ordered
}

fn profile(name: Spanned<String>, mut section: Section<'_>) -> DraftProfile {
    let (secret, peer_secrets) = match section.section("authentication") {
        Some(inner) => authentication(inner),
        None => {
            section.missing("authentication.pre-shared-secret", "a profile needs a secret");
            (None, Vec::new())
        }
    };
    let mut tunnels = Vec::new();
    if let Some(mut bind) = section.section("bind") {
        tunnels = names(&mut bind, "tunnel", "names of tunnels");
        bind.finish();
    }
    let ike_group = section.text("ike-group");
    section.require("ike-group", &ike_group, "the name of an ike-group");
    let esp_group = section.text("esp-group");
    section.require("esp-group", &esp_group, "the name of an esp-group");
    section.finish();
    DraftProfile {
        name,
        secret,
        peer_secrets,
        tunnels,
        ike_group: ike_group.located(),
        esp_group: esp_group.located(),
    }
}

fn authentication(mut section: Section<'_>) -> (Option<Secret>, Vec<(Ipv4Network, Secret)>) {
    section.keyword("mode", &AUTHENTICATION_MODE);
    let secret = pre_shared_secret(&mut section);
    let report = section.report();
    let mut peers: Vec<(Ipv4Network, Secret)> = Vec::new();
    for (name, mut inner) in section.named("peer") {
        let secret = pre_shared_secret(&mut inner);
        inner.finish();
        // A single peer may be written without a prefix length.
        let written = name.get_ref();
        let text = if written.contains('/') { written.clone() } else { format!("{written}/32") };
        let peer = parse_network(&text).and_then(|network| {
            if network.ip() == network.network() {
                return Ok(network);
            }
            Err(format!("{network} has bits set behind its prefix length"))
        });
        match (peer, secret) {
            (Ok(peer), _) if peers.iter().any(|(other, _)| *other == peer) => {
                report.error(name.span(), format!("{peer} a second time"), "one secret per network");
            }
            (Ok(peer), Some(secret)) => peers.push((peer, secret)),
            (Ok(_), None) => {}
            (Err(message), _) => {
                report.error(
                    name.span(),
                    message,
                    "allowed: an IPv4 address or network, as in 203.0.113.0/24",
                );
            }
        }
    }
    section.finish();
    peers.sort_by_key(|(peer, _)| (std::cmp::Reverse(peer.prefix()), peer.ip()));
    (secret, peers)
}

fn pre_shared_secret(section: &mut Section<'_>) -> Option<Secret> {
    let allowed = "allowed: a text that is not empty";
    let secret = section.secret("pre-shared-secret", allowed, |text| !text.is_empty());
    section.require("pre-shared-secret", &secret, allowed);
    secret.value()
}

fn names(section: &mut Section<'_>, key: &'static str, allowed: &str) -> Vec<Spanned<String>> {
    let list = section.list(key, allowed, |value| match value {
        DeValue::String(name) => Some(Ok(name.to_string())),
        _ => None,
    });
    list.unwrap_or_default()
}
