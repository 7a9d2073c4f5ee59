//! The configuration as text: what is in force, with every default written out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Write};

use crate::keyword::{DH_GROUP, ESP_MODE, IDLE, MULTICAST, PFS, Pfs};
use crate::model::{Config, EspGroup, IkeGroup, LocalAddress, Multicast, Profile, Tunnel};

/// What stands in the place of a secret.
const MASK: &str = "********";

/// TOML text that loads to the same configuration, secrets aside.
impl Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Writer { out: f };
        out.section("system")?;
        out.text("host-name", &self.host_name)?;
        for ethernet in &self.ethernet {
            out.section(format_args!("interfaces.ethernet.{}", ethernet.name))?;
            if let Some(address) = ethernet.address {
                out.text("address", address)?;
            }
            out.text("port", &ethernet.port)?;
            out.plain("mtu", ethernet.mtu)?;
            out.optional_text("description", ethernet.description.as_ref())?;
        }
        for tunnel in &self.tunnels {
            tunnel_sections(&mut out, tunnel)?;
        }
        for tunnel in &self.tunnels {
            nhrp_sections(&mut out, tunnel)?;
        }
        for route in &self.routes {
            out.section(format_args!("protocols.static.route.\"{}\"", route.prefix))?;
            out.text("next-hop", route.next_hop)?;
        }
        ipsec_sections(&mut out, self)?;
        out.section("dataplane")?;
        out.plain("workers", format_args!("{:?}", self.dataplane.workers))?;
        out.text("idle", IDLE.word(self.dataplane.idle))?;
        out.plain("memory", self.dataplane.memory)?;
        out.plain("hugepages", self.dataplane.hugepages)?;
        out.plain("buffers", self.dataplane.buffers)?;
        out.section("host")?;
        out.text("tun", self.host.tun.as_deref().unwrap_or_default())?;
        out.text("socket", &self.host.socket)
    }
}

struct Writer<'o, 'f> {
    out: &'o mut fmt::Formatter<'f>,
}

impl Writer<'_, '_> {
    fn section(&mut self, name: impl Display) -> fmt::Result {
        writeln!(self.out, "\n[{name}]")
    }

    fn plain(&mut self, key: &str, value: impl Display) -> fmt::Result {
        writeln!(self.out, "{key} = {value}")
    }

    fn text(&mut self, key: &str, value: impl Display) -> fmt::Result {
        self.plain(key, toml::Value::from(value.to_string()))
    }

    fn optional_text(&mut self, key: &str, value: Option<impl Display>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.text(key, value))
    }
}

fn tunnel_sections(out: &mut Writer<'_, '_>, tunnel: &Tunnel) -> fmt::Result {
    out.section(format_args!("interfaces.tunnel.{}", tunnel.name))?;
    out.text("address", tunnel.address)?;
    out.text("encapsulation", "gre")?;
    match tunnel.local {
        LocalAddress::Address(address) => out.text("local-ip", address)?,
        LocalAddress::FollowInterface => out.text("local-ip", "0.0.0.0")?,
    }
    out.text("multicast", if tunnel.multicast { "enable" } else { "disable" })?;
    out.optional_text("description", tunnel.description.as_ref())?;
    out.plain("mtu", tunnel.mtu)?;
    out.section(format_args!("interfaces.tunnel.{}.parameters.ip", tunnel.name))?;
    if let Some(key) = tunnel.key {
        out.plain("key", key)?;
    }
    out.plain("ttl", tunnel.ttl.unwrap_or(0))?;
    match tunnel.tos {
        Some(tos) => out.plain("tos", tos)?,
        None => out.text("tos", "inherit")?,
    }
    out.plain("no-pmtu-discovery", tunnel.no_pmtu_discovery)
}

fn nhrp_sections(out: &mut Writer<'_, '_>, tunnel: &Tunnel) -> fmt::Result {
    let Some(nhrp) = &tunnel.nhrp else { return Ok(()) };
    out.section(format_args!("protocols.nhrp.tunnel.{}", tunnel.name))?;
    out.optional_text("cisco-authentication", nhrp.authentication.as_ref().map(|_| MASK))?;
    out.plain("holding-time", nhrp.holding_time)?;
    out.optional_text(
        "multicast",
        (nhrp.multicast != Multicast::None).then(|| MULTICAST.word(nhrp.multicast)),
    )?;
    out.plain("redirect", nhrp.redirect)?;
    out.plain("shortcut", nhrp.shortcut)?;
    for map in &nhrp.maps {
        out.section(format_args!("protocols.nhrp.tunnel.{}.map.\"{}\"", tunnel.name, map.address))?;
        out.text("nbma-address", map.nbma)?;
        out.plain("register", map.register)?;
    }
    Ok(())
}

fn ipsec_sections(out: &mut Writer<'_, '_>, config: &Config) -> fmt::Result {
    let protected = || config.tunnels.iter().filter_map(|tunnel| Some((tunnel, tunnel.profile.as_ref()?)));
    let underlays: BTreeSet<_> = protected()
        .filter_map(|(tunnel, _)| config.ethernet.get(tunnel.underlay))
        .map(|entry| &entry.name)
        .collect();
    if underlays.is_empty() {
        return Ok(());
    }
    out.section("vpn.ipsec.ipsec-interfaces")?;
    out.plain("interface", format_args!("{:?}", Vec::from_iter(underlays)))?;
    let mut groups = Groups::default();
    for (_, profile) in protected() {
        groups.add(profile);
    }
    for (name, group) in &groups.ike {
        ike_group_sections(out, name, group)?;
    }
    for (name, group) in &groups.esp {
        esp_group_sections(out, name, group)?;
    }
    for (name, (profile, esp_name)) in &groups.profiles {
        let tunnels = protected().filter(|(_, of)| of.name == *name).map(|(tunnel, _)| &tunnel.name);
        let path = format!("vpn.ipsec.profile.{}", key(name));
        out.section(&path)?;
        out.text("esp-group", esp_name)?;
        out.text("ike-group", &profile.ike.name)?;
        out.section(format_args!("{path}.authentication"))?;
        out.text("mode", "pre-shared-secret")?;
        out.text("pre-shared-secret", MASK)?;
        for (peer, _) in &profile.peer_secrets {
            out.section(format_args!("{path}.authentication.peer.\"{peer}\""))?;
            out.text("pre-shared-secret", MASK)?;
        }
        out.section(format_args!("{path}.bind"))?;
        out.plain("tunnel", format_args!("{:?}", tunnels.collect::<Vec<_>>()))?;
    }
    Ok(())
}

/// Profiles and groups, each once, by their names.
#[derive(Default)]
struct Groups<'c> {
    ike: BTreeMap<&'c str, &'c IkeGroup>,
    esp: BTreeMap<String, &'c EspGroup>,
    /// With the name of the ESP group.
    profiles: BTreeMap<&'c str, (&'c Profile, String)>,
}

impl<'c> Groups<'c> {
    fn add(&mut self, profile: &'c Profile) {
        self.ike.insert(&profile.ike.name, &profile.ike);
        // `pfs enable` stands for one group in this profile and perhaps for another in that: then the one
        // esp-group has become two.
        let mut esp_name = profile.esp.name.clone();
        while self.esp.get(&esp_name).is_some_and(|known| **known != profile.esp) {
            let _ = write!(esp_name, "-{}", profile.name);
        }
        self.esp.insert(esp_name.clone(), &profile.esp);
        self.profiles.insert(&profile.name, (profile, esp_name));
    }
}

fn ike_group_sections(out: &mut Writer<'_, '_>, name: &str, group: &IkeGroup) -> fmt::Result {
    let path = format!("vpn.ipsec.ike-group.{}", key(name));
    out.section(&path)?;
    out.text("key-exchange", "ikev1")?;
    out.plain("lifetime", group.lifetime)?;
    match group.dead_peer_detection {
        Some(detection) => out.plain(
            "dead-peer-detection",
            format_args!("{{ interval = {}, timeout = {} }}", detection.interval, detection.timeout),
        )?,
        None => out.text("dead-peer-detection", "disable")?,
    }
    for (number, proposal) in (1..).zip(&group.proposals) {
        let number: u32 = number;
        out.section(format_args!("{path}.proposal.{number}"))?;
        out.text("encryption", proposal.encryption)?;
        out.text("hash", proposal.hash)?;
        out.plain("dh-group", DH_GROUP.word(proposal.dh_group))?;
    }
    Ok(())
}

fn esp_group_sections(out: &mut Writer<'_, '_>, name: &str, group: &EspGroup) -> fmt::Result {
    let path = format!("vpn.ipsec.esp-group.{}", key(name));
    out.section(&path)?;
    out.plain("lifetime", group.lifetime)?;
    out.text("mode", ESP_MODE.word(group.mode))?;
    out.text("pfs", PFS.word(group.pfs.map_or(Pfs::Disable, Pfs::Group)))?;
    out.plain("replay-window", group.replay_window)?;
    for (number, proposal) in (1..).zip(&group.proposals) {
        let number: u32 = number;
        out.section(format_args!("{path}.proposal.{number}"))?;
        out.text("encryption", proposal.encryption)?;
        out.optional_text("hash", proposal.hash)?;
    }
    Ok(())
}

/// A name as a key: quoted where TOML wants that.
fn key(name: &str) -> String {
    let is_bare =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if is_bare { name.to_owned() } else { toml::Value::from(name).to_string() }
}
