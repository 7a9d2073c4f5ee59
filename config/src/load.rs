//! From the TOML tree to a [`Draft`]: the vocabulary, types, ranges and defaults of every section.

mod vpn;

use std::num::NonZero;

use ipnetwork::Ipv4Network;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::draft::{Draft, DraftEthernet, DraftMap, DraftNhrp, DraftRoute, DraftTunnel};
use crate::keyword::{ENCAPSULATION, IDLE, MULTICAST, SWITCH};
use crate::model::{Dataplane, Ethernet, Host, IdlePolicy, LocalAddress};
use crate::report::Report;
use crate::section::{Given, Section, parse_address, parse_network, shown};

const A_NETWORK: &str = "an IPv4 address with its prefix length, as in 192.168.1.1/24";
const AN_ADDRESS: &str = "an IPv4 address, as in 198.51.100.41";
const A_PORT: &str = "a PCI address (0000:3b:00.0), or a DPDK virtual device (net_af_packet0,iface=eth0)";

/// Smallest and largest IPv4 packet that can be set for an interface, in bytes.
const MTU: std::ops::RangeInclusive<u32> = 576..=9600;

/// Reads the whole document. What is wrong is in the report; the draft then has gaps.
pub(crate) fn load<'t>(report: &'t Report<'t>, table: &'t DeTable<'t>) -> Draft {
    let mut root = Section::root(report, table);
    let host_name = root.section("system").map_or_else(default_host_name, system);
    let (ethernet, tunnels) = root.section("interfaces").map(interfaces).unwrap_or_default();
    let (nhrp, routes) = root.section("protocols").map(protocols).unwrap_or_default();
    let vpn = root.section("vpn").map(vpn::vpn).unwrap_or_default();
    let uses_pci = ethernet.iter().any(|entry| is_pci(&entry.ethernet.port));
    let dataplane_section = root.section("dataplane");
    let dataplane_span = dataplane_section.as_ref().map_or(0..0, Section::span);
    let dataplane = dataplane(dataplane_section, uses_pci);
    let host = host(root.section("host"));
    if ethernet.is_empty() && !report.is_damaged() {
        report.error(0..0, "there is no Ethernet interface", "add a section [interfaces.ethernet.eth0]");
    }
    root.finish();
    Draft {
        host_name,
        ethernet,
        tunnels,
        nhrp,
        routes,
        ike_groups: vpn.ike_groups,
        esp_groups: vpn.esp_groups,
        ipsec_interfaces: vpn.interfaces,
        profiles: vpn.profiles,
        dataplane,
        dataplane_span,
        host,
    }
}

/// Whether a port is given by the PCI address of a NIC.
fn is_pci(port: &str) -> bool {
    let device = port.split(',').next().unwrap_or(port);
    let is_hex =
        |text: &str, len: usize| text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut parts = device.rsplit(':');
    let (Some(slot), Some(bus), domain, None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let slot_is_good = slot.split_once('.').is_some_and(|(device, function)| {
        is_hex(device, 2)
            && function.len() == 1
            && function.bytes().all(|digit| (b'0'..=b'7').contains(&digit))
    });
    slot_is_good && is_hex(bus, 2) && domain.is_none_or(|domain| is_hex(domain, 4))
}

fn default_host_name() -> String {
    String::from("dmvpn")
}

fn system(mut section: Section<'_>) -> String {
    let name = section.parsed("host-name", "letters, digits and hyphens, at most 63", |text| {
        let is_good = (1..=63).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if is_good { Ok(text.to_owned()) } else { Err(format!("`{}` is no host name", shown(text))) }
    });
    section.finish();
    name.value().unwrap_or_else(default_host_name)
}

fn interfaces(mut section: Section<'_>) -> (Vec<DraftEthernet>, Vec<DraftTunnel>) {
    let mut ethernets = numbered(&mut section, "ethernet", "eth", ethernet);
    ethernets.sort_by_key(|entry| number_of(entry.name.get_ref(), "eth"));
    let mut tunnels = numbered(&mut section, "tunnel", "tun", tunnel);
    tunnels.sort_by_key(|entry| number_of(entry.name.get_ref(), "tun"));
    section.finish();
    (ethernets, tunnels)
}

/// The interfaces of one kind, whose names are a word and a number.
fn numbered<'t, T>(
    section: &mut Section<'t>,
    key: &'static str,
    word: &str,
    read: impl Fn(Spanned<String>, Section<'t>) -> T,
) -> Vec<T> {
    let mut read_all = Vec::new();
    for (name, inner) in section.named(key) {
        if number_of(name.get_ref(), word).is_none() {
            let message = format!("`{}` is no name of this kind of interface", shown(name.get_ref()));
            section.report().error(name.span(), message, format!("allowed: {word}0, {word}1, ..."));
        }
        read_all.push(read(name, inner));
    }
    read_all
}

fn number_of(name: &str, word: &str) -> Option<u16> {
    let digits = name.strip_prefix(word)?;
    let number: u16 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

fn ethernet(name: Spanned<String>, mut section: Section<'_>) -> DraftEthernet {
    section.hint("vif", "VLANs are not supported");
    section.hint("hw-id", "the device is named by `port`");
    let address = one_address(&mut section);
    let port = section.parsed("port", A_PORT, |text| {
        let device = text.split(',').next().unwrap_or(text);
        let is_virtual = device.starts_with("net_") || device.starts_with("virtio_user");
        let is_good = (is_virtual || is_pci(text)) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_good { Ok(text.to_owned()) } else { Err(format!("`{}` is no DPDK device", shown(text))) }
    });
    section.require("port", &port, A_PORT);
    let mtu = section.number("mtu", MTU).or(1500);
    let description = section.text("description").value();
    section.finish();
    let ethernet = Ethernet {
        name: name.get_ref().clone(),
        address: address.clone().value(),
        port: port.clone().or(String::new()),
        mtu: saturate(mtu),
        description,
    };
    DraftEthernet { name, address, port, ethernet }
}

/// `address` of an interface: one, alone or in a list.
fn one_address(section: &mut Section<'_>) -> Given<Ipv4Network> {
    let list = section.list("address", A_NETWORK, |value| {
        let DeValue::String(text) = value else { return None };
        Some(match text.as_ref() {
            "dhcp" => Err(String::from("an address by DHCP is not supported yet")),
            text => parse_network(text).and_then(host_in_network),
        })
    });
    let Some(list) = list else { return Given::Absent };
    let mut list = list.into_iter();
    let first = list.next();
    for extra in list {
        section.report().error(extra.span(), "a second address", "an interface has one address");
    }
    first.map_or(Given::Bad, Given::Is)
}

/// Refuses addresses that no station can have.
fn host_in_network(network: Ipv4Network) -> Result<Ipv4Network, String> {
    let ip = network.ip();
    let has_ends = network.prefix() < 31;
    let problem = if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.octets()[0] >= 240 {
        "no address for a station"
    } else if has_ends && ip == network.network() {
        "the address of the network itself"
    } else if has_ends && ip == network.broadcast() {
        "the broadcast address of its network"
    } else {
        return Ok(network);
    };
    Err(format!("{ip} is {problem}"))
}

fn tunnel(name: Spanned<String>, mut section: Section<'_>) -> DraftTunnel {
    section.hint("remote-ip", "not supported: a tunnel without it is multipoint, its peers come from NHRP");
    section.hint("remote", "not supported: a tunnel without it is multipoint, its peers come from NHRP");
    section.hint("source-address", "here it is called `local-ip`");
    section.hint("enable-multicast", "here it is called `multicast`");
    let address = one_address(&mut section);
    section.require("address", &address, A_NETWORK);
    let encapsulation = section.keyword("encapsulation", &ENCAPSULATION);
    section.require("encapsulation", &encapsulation, "allowed: gre");
    let local_help = "an IPv4 address of an Ethernet interface, or 0.0.0.0 to follow the interface";
    let local = section.parsed("local-ip", local_help, |text| {
        let address = parse_address(text)?;
        Ok(if address.is_unspecified() {
            LocalAddress::FollowInterface
        } else {
            LocalAddress::Address(address)
        })
    });
    section.require("local-ip", &local, local_help);
    let multicast = section.keyword("multicast", &SWITCH).or(false);
    let description = section.text("description").value();
    let mtu = section.number("mtu", MTU);
    let mut draft = DraftTunnel {
        name,
        address,
        local,
        multicast,
        description,
        mtu,
        key: None,
        ttl: Some(64),
        tos: None,
        no_pmtu_discovery: false,
    };
    if let Some(mut parameters) = section.section("parameters") {
        if let Some(ip) = parameters.section("ip") {
            tunnel_ip_parameters(ip, &mut draft);
        }
        parameters.finish();
    }
    section.finish();
    draft
}

fn tunnel_ip_parameters(mut section: Section<'_>, tunnel: &mut DraftTunnel) {
    tunnel.key = section.number("key", 0..=u32::MAX).value();
    if let Some(ttl) = section.number("ttl", 0..=255).value() {
        tunnel.ttl = u8::try_from(ttl).ok().filter(|&ttl| ttl != 0);
    }
    let tos = section.scalar("tos", "inherit, or a number from 0 to 255", |value| match value {
        DeValue::String(word) if word == "inherit" => Some(Ok(None)),
        DeValue::String(word) => Some(Err(format!("unknown word `{}`", shown(word)))),
        DeValue::Integer(number) => {
            let octet = u8::from_str_radix(number.as_str(), number.radix());
            Some(octet.map(Some).map_err(|_| format!("{number} is out of range")))
        }
        _ => None,
    });
    tunnel.tos = tos.or(None);
    tunnel.no_pmtu_discovery = section.flag("no-pmtu-discovery").or(false);
    section.finish();
}

fn protocols(mut section: Section<'_>) -> (Vec<DraftNhrp>, Vec<DraftRoute>) {
    let mut tunnels = Vec::new();
    if let Some(mut nhrp_section) = section.section("nhrp") {
        tunnels = nhrp_section.named("tunnel").into_iter().map(|(name, inner)| nhrp(name, inner)).collect();
        nhrp_section.finish();
    }
    let mut routes = Vec::new();
    if let Some(mut static_section) = section.section("static") {
        routes = static_section
            .named("route")
            .into_iter()
            .filter_map(|(name, inner)| route(&name, inner))
            .collect();
        static_section.finish();
    }
    section.finish();
    (tunnels, routes)
}

fn nhrp(tunnel: Spanned<String>, mut section: Section<'_>) -> DraftNhrp {
    let authentication =
        section.secret("cisco-authentication", "allowed: 1 to 8 characters, no space", |text| {
            (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        });
    let holding_time = saturate(section.number("holding-time", 1..=65535).or(7200));
    let mut maps = Vec::new();
    let mut has_server = false;
    for (name, mut inner) in section.named("map") {
        let register = inner.flag("register").or(false);
        has_server |= register;
        maps.extend(nhrp_map(&name, inner, register));
    }
    let multicast = section.keyword("multicast", &MULTICAST).located();
    let redirect = section.flag("redirect").or(false);
    let shortcut = section.flag("shortcut").or(false);
    section.finish();
    DraftNhrp {
        tunnel,
        authentication: authentication.value(),
        holding_time,
        maps,
        has_server,
        multicast,
        redirect,
        shortcut,
    }
}

fn nhrp_map(name: &Spanned<String>, mut section: Section<'_>, register: bool) -> Option<DraftMap> {
    let overlay = named_network(&section, name, "the overlay address of the peer, as in 10.0.0.1/24");
    let nbma = section.parsed("nbma-address", AN_ADDRESS, parse_address);
    if nbma.is_absent() {
        let help = if register { "where to register" } else { "a map tells the underlay address of a peer" };
        section.missing("nbma-address", help);
    }
    section.finish();
    Some(DraftMap { address: overlay?, nbma: nbma.located()?, register })
}

fn route(name: &Spanned<String>, mut section: Section<'_>) -> Option<DraftRoute> {
    let report = section.report();
    let prefix = named_network(&section, name, "a network, as in 192.168.2.0/24").filter(|prefix| {
        let (written, network) = (prefix.get_ref(), prefix.get_ref().network());
        if written.ip() != network {
            let message = format!("{written} has bits set behind its prefix length");
            report.error(prefix.span(), message, format!("did you mean {network}/{}?", written.prefix()));
        }
        written.ip() == network
    });
    let next_hop = section.parsed("next-hop", AN_ADDRESS, parse_address);
    section.require("next-hop", &next_hop, AN_ADDRESS);
    section.finish();
    Some(DraftRoute { prefix: prefix?, next_hop: next_hop.located()? })
}

/// A section's own name where that is a network.
fn named_network(
    section: &Section<'_>,
    name: &Spanned<String>,
    allowed: &str,
) -> Option<Spanned<Ipv4Network>> {
    match parse_network(name.get_ref()) {
        Ok(network) => Some(Spanned::new(name.span(), network)),
        Err(message) => {
            section.report().error(name.span(), message, format!("allowed: {allowed}"));
            None
        }
    }
}

fn dataplane(section: Option<Section<'_>>, uses_pci: bool) -> Dataplane {
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut dataplane = Dataplane {
        workers: vec![usize::from(cpus > 1)],
        idle: IdlePolicy::Adaptive,
        memory: 512,
        hugepages: uses_pci,
        buffers: 16384,
    };
    let Some(mut section) = section else { return dataplane };
    if let Some(workers) = workers(&mut section) {
        dataplane.workers = workers;
    }
    dataplane.idle = section.keyword("idle", &IDLE).or(dataplane.idle);
    let memory = section.number("memory", 64..=1 << 20).located();
    dataplane.hugepages = section.flag("hugepages").or(dataplane.hugepages);
    if let Some(memory) = memory {
        if dataplane.hugepages {
            let help = "hugepages are taken as they are needed; `hugepages = false` does without them";
            section.report().warning(memory.span(), "this has no effect beside hugepages", help);
        }
        dataplane.memory = memory.into_inner();
    }
    dataplane.buffers = section.number("buffers", 1024..=1 << 22).or(dataplane.buffers);
    section.finish();
    dataplane
}

/// Highest CPU number that DPDK as Debian builds it can use.
const LAST_CPU: usize = 127;

fn workers(section: &mut Section<'_>) -> Option<Vec<usize>> {
    let report = section.report();
    let list = section.list("workers", "CPU numbers from 0 to 127", |value| match value {
        DeValue::Integer(number) => {
            let cpu =
                usize::from_str_radix(number.as_str(), number.radix()).ok().filter(|&cpu| cpu <= LAST_CPU);
            Some(cpu.ok_or_else(|| format!("{number} is out of range")))
        }
        _ => None,
    })?;
    let mut cpus = Vec::new();
    for cpu in list {
        if cpus.contains(cpu.get_ref()) {
            let message = format!("CPU {} a second time", cpu.get_ref());
            report.error(cpu.span(), message, "every worker has a CPU of its own");
        }
        cpus.push(cpu.into_inner());
    }
    Some(cpus)
}

fn host(section: Option<Section<'_>>) -> Host {
    let mut host = Host { tun: Some(String::from("dmvpn0")), socket: String::from("/run/dmvpn/dmvpnd.sock") };
    let Some(mut section) = section else { return host };
    let tun = section.parsed("tun", "a device name of 1 to 15 characters, or \"\" for none", |text| {
        let is_name = text.len() <= 15
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte))
            && !matches!(text, "." | "..");
        if is_name { Ok(text.to_owned()) } else { Err(format!("`{}` is no device name", shown(text))) }
    });
    if let Some(name) = tun.value() {
        host.tun = Some(name).filter(|name| !name.is_empty());
    }
    let socket = section.parsed("socket", "an absolute path of at most 107 bytes", |text| {
        let is_path = text.starts_with('/') && text.len() <= 107 && !text.bytes().any(|byte| byte == 0);
        if is_path { Ok(text.to_owned()) } else { Err(format!("`{}` is no path for a socket", shown(text))) }
    });
    if let Some(path) = socket.value() {
        host.socket = path;
    }
    section.finish();
    host
}

fn saturate(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
