//! Peers out of nothing: addresses that fit a configuration, and SAs with keys from a seed.

use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use dmvpn_config::{Config, EspMode};
use dmvpn_tables::slab::INDEX_BITS;
use dmvpn_wire::MacAddr;
use ipnetwork::Ipv4Network;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::cases::NamedSuite;
use crate::side_file::{Hex, PeerEntry, PortEntry, SaEntry, SideFile, Station, Text};
use crate::world::is_underlay;

/// What peers to invent.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// How many.
    pub(crate) peers: u32,
    /// The suite of all their SAs.
    pub(crate) suite: NamedSuite,
    /// What keys come from.
    pub(crate) seed: u64,
    /// Each behind a NAT: ESP in UDP.
    pub(crate) nat: bool,
    /// Where their underlay addresses are.
    pub(crate) underlay: Ipv4Network,
    /// Where the networks behind them are.
    pub(crate) networks: Ipv4Network,
}

/// The longest prefix of a network behind a peer that has room for stations, and the shortest that is of use.
const NETWORK_PREFIXES: (u8, u8) = (24, 30);
/// Of SPIs; their slot bits are the number of the peer. The box chooses one, the peer the other.
const INBOUND_GENERATION: u32 = 0x101;
const OUTBOUND_GENERATION: u32 = 0x202;

/// Underlay addresses where none are asked for: shared address space (RFC 6598).
pub(crate) const UNDERLAY: &str = "100.64.0.0/10";
/// Networks behind peers where none are asked for.
pub(crate) const NETWORKS: &str = "10.0.0.0/8";

/// Peers of the first protected tunnel, and a station beside each interface.
///
/// # Errors
/// The configuration has no such tunnel, or no room for so many peers, or addresses that are asked for are others'.
pub(crate) fn invent(config: &Config, wish: &Wish) -> anyhow::Result<SideFile> {
    let tunnel = config.tunnels.iter().find(|tunnel| tunnel.profile.is_some());
    let tunnel = tunnel.context("the configuration has no tunnel with an IPsec profile")?;
    let esp_mode = tunnel.profile.as_ref().map(|profile| profile.esp.mode);
    let mut keys = ChaCha20Rng::seed_from_u64(wish.seed);
    let mut sa = |generation: u32, index: u32| SaEntry {
        spi: generation << INDEX_BITS | index,
        suite: Text(wish.suite),
        tunnel_mode: esp_mode == Some(EspMode::Tunnel),
        keys: Hex(random_bytes(&mut keys, wish.suite.0.cipher_key_len() + wish.suite.0.integrity_key_len())),
    };

    let own = |address: &Ipv4Addr| *address != tunnel.address.ip();
    let overlay = hosts(tunnel.address).filter(own).take(wish.peers as usize).collect::<Vec<_>>();
    ensure!(
        overlay.len() == wish.peers as usize,
        "the network of {}, {}, has no room for {} peers",
        tunnel.name,
        tunnel.address,
        wish.peers
    );
    ensure!(
        u64::from(wish.peers) < u64::from(wish.underlay.size()),
        "no room for the peers in {}",
        wish.underlay
    );
    ensure!(
        !wish.underlay.overlaps(wish.networks),
        "the peers' underlay, {}, and the networks behind them, {}, overlap",
        wish.underlay,
        wish.networks
    );
    let prefix = network_prefix(wish)?;
    for used in used(config) {
        for wanted in [wish.underlay, wish.networks] {
            ensure!(
                !wanted.overlaps(used),
                "{wanted} overlaps {used}, which the configuration uses: give others (--networks, --underlay)"
            );
        }
    }
    let peers = (0..wish.peers).zip(overlay).map(|(index, overlay)| {
        let network = Ipv4Addr::from(wish.networks.network().to_bits() + (index << (32 - prefix)));
        Ok(PeerEntry {
            tunnel: tunnel.name.clone(),
            remote: Ipv4Addr::from(wish.underlay.network().to_bits() + index + 1),
            nat_port: wish.nat.then_some(dmvpn_wire::udp::IKE_NAT),
            overlay,
            network: Ipv4Network::new(network, prefix)?,
            inbound: sa(INBOUND_GENERATION, index),
            outbound: sa(OUTBOUND_GENERATION, index),
        })
    });
    Ok(SideFile {
        notice: "Test keys, made from the seed: not for any traffic that matters.".to_owned(),
        seed: wish.seed,
        peers: peers.collect::<anyhow::Result<_>>()?,
        ports: ports(config),
        stations: stations(config)?,
    })
}

/// Prefix length of the network behind each peer.
fn network_prefix(wish: &Wish) -> anyhow::Result<u8> {
    let bits = wish.peers.max(1).next_power_of_two().ilog2();
    let (shortest, longest) = NETWORK_PREFIXES;
    let prefix = u32::from(wish.networks.prefix()) + bits;
    let prefix = u8::try_from(prefix).unwrap_or(u8::MAX).max(shortest);
    ensure!(prefix <= longest, "no room for the networks of {} peers in {}", wish.peers, wish.networks);
    Ok(prefix)
}

fn ports(config: &Config) -> Vec<PortEntry> {
    let port = |(number, interface): (u8, &dmvpn_config::Ethernet)| PortEntry {
        interface: interface.name.clone(),
        mac: Text(MacAddr([2, 0, 0, 0, 0, number])),
    };
    (0..).zip(&config.ethernet).map(port).collect()
}

/// Beside an interface that tunnels run over the gateway of a route; beside any other a host.
fn stations(config: &Config) -> anyhow::Result<Vec<Station>> {
    let mut stations = Vec::new();
    for ((number, octet), interface) in (0..).zip(0..).zip(&config.ethernet) {
        let Some(own) = interface.address else { continue };
        let address = if is_underlay(config, number) {
            let gateway = config.routes.iter().map(|route| route.next_hop).find(|hop| own.contains(*hop));
            gateway.with_context(|| format!("no route has its gateway beside {}", interface.name))?
        } else {
            let host = hosts(own).find(|host| *host != own.ip());
            host.with_context(|| format!("the network of {} has no room for a host", interface.name))?
        };
        let mac = Text(MacAddr([2, 0, 0, 0, 1, octet]));
        stations.push(Station { interface: interface.name.clone(), address, mac });
    }
    Ok(stations)
}

/// Networks of the interfaces of a configuration.
fn used(config: &Config) -> impl Iterator<Item = Ipv4Network> {
    let ethernet = config.ethernet.iter().filter_map(|interface| interface.address);
    ethernet.chain(config.tunnels.iter().map(|tunnel| tunnel.address))
}

/// Addresses that stations of a network can have.
fn hosts(network: Ipv4Network) -> impl Iterator<Item = Ipv4Addr> {
    let (first, last) = (network.network().to_bits(), network.broadcast().to_bits());
    (first.saturating_add(1)..last).map(Ipv4Addr::from)
}

fn random_bytes(random: &mut ChaCha20Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    random.fill_bytes(&mut bytes);
    bytes
}
