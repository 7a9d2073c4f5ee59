//! The configuration after loading and checking: every reference resolved, every default filled in.

use std::fmt;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Everything one appliance is told to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `system.host-name`.
    pub host_name: String,
    /// Ethernet interfaces, in the order of their names. The position is the port number.
    pub ethernet: Vec<Ethernet>,
    /// Tunnel interfaces, in the order of their names. The position is the tunnel number.
    pub tunnels: Vec<Tunnel>,
    /// Static routes.
    pub routes: Vec<StaticRoute>,
    /// Worker threads and memory.
    pub dataplane: Dataplane,
    /// How the appliance meets the host it runs on.
    pub host: Host,
}

/// An Ethernet interface: a DPDK port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ethernet {
    /// `ethN`, the name that other sections refer to.
    pub name: String,
    /// Address and prefix length. (One per interface.)
    pub address: Option<Ipv4Network>,
    /// DPDK device: a PCI address, or a virtual device string.
    pub port: String,
    /// Largest IPv4 packet on its link, in bytes.
    pub mtu: u16,
    /// Free text.
    pub description: Option<String>,
}

/// A multipoint GRE tunnel interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// `tunN`.
    pub name: String,
    /// Our overlay address and its network.
    pub address: Ipv4Network,
    /// `local-ip`.
    pub local: LocalAddress,
    /// The Ethernet interface (index into [`Config::ethernet`]) that the tunnel's traffic uses.
    pub underlay: usize,
    /// `multicast enable`.
    pub multicast: bool,
    /// Free text.
    pub description: Option<String>,
    /// Largest inner IPv4 packet, in bytes.
    pub mtu: u16,
    /// `parameters ip key`.
    pub key: Option<u32>,
    /// `parameters ip ttl`; `None` (written 0) copies the inner TTL.
    pub ttl: Option<u8>,
    /// `parameters ip tos`; `None` (written `inherit`) copies the inner octet.
    pub tos: Option<u8>,
    /// `parameters ip no-pmtu-discovery`: leave the outer "don't fragment" bit clear.
    pub no_pmtu_discovery: bool,
    /// `protocols nhrp tunnel`.
    pub nhrp: Option<Nhrp>,
    /// The IPsec profile bound to this tunnel. With one, nothing passes in the clear.
    pub profile: Option<Profile>,
}

/// `local-ip` of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalAddress {
    /// A fixed address.
    Address(Ipv4Addr),
    /// `0.0.0.0`: whatever address the underlay interface has at the moment.
    FollowInterface,
}

/// `protocols nhrp tunnel tunN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nhrp {
    /// `cisco-authentication`.
    pub authentication: Option<Secret>,
    /// `holding-time`, in seconds.
    pub holding_time: u16,
    /// `map`.
    pub maps: Vec<NhrpMap>,
    /// `multicast`.
    pub multicast: Multicast,
    /// Tell peers of shorter ways.
    pub redirect: bool,
    /// Act on redirects.
    pub shortcut: bool,
}

/// `map <ipv4/net>`: an overlay station whose underlay address is known beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NhrpMap {
    /// Its overlay address, with the prefix length as written.
    pub address: Ipv4Network,
    /// `nbma-address`: its underlay address.
    pub nbma: Ipv4Addr,
    /// `register`: it is a next hop server, register with it.
    pub register: bool,
}

/// Where multicast that this box sends into a tunnel goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Multicast {
    /// Nowhere.
    None,
    /// To every registered peer.
    Dynamic,
    /// To the next hop servers.
    Nhs,
}

/// `vpn ipsec profile`, with its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// `authentication pre-shared-secret`: for every peer without a secret of its own.
    pub secret: Secret,
    /// Secrets of particular peers, most specific network first.
    pub peer_secrets: Vec<(Ipv4Network, Secret)>,
    /// Its `ike-group`.
    pub ike: IkeGroup,
    /// Its `esp-group`.
    pub esp: EspGroup,
}

/// `vpn ipsec ike-group` (key exchange: IKEv1, main mode).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeGroup {
    /// Its name.
    pub name: String,
    /// Life of an IKE SA, in seconds.
    pub lifetime: u32,
    /// What to offer and accept, best first.
    pub proposals: Vec<IkeProposal>,
    /// `dead-peer-detection`; `None` where switched off.
    pub dead_peer_detection: Option<DeadPeerDetection>,
}

/// `dead-peer-detection`: probe a silent peer, and give it up when it does not answer (RFC 3706).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadPeerDetection {
    /// Silence before a probe, in seconds.
    pub interval: u32,
    /// Silence after which the peer is given up, in seconds.
    pub timeout: u32,
}

/// One IKE proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IkeProposal {
    /// Encryption; never an AEAD.
    pub encryption: Encryption,
    /// Hash, also the PRF.
    pub hash: Hash,
    /// Diffie-Hellman group.
    pub dh_group: DhGroup,
}

/// `vpn ipsec esp-group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EspGroup {
    /// Its name.
    pub name: String,
    /// Life of an ESP SA, in seconds.
    pub lifetime: u32,
    /// `mode`.
    pub mode: EspMode,
    /// `pfs`, resolved: `enable` is the group of the first IKE proposal.
    pub pfs: Option<DhGroup>,
    /// What to offer and accept, best first.
    pub proposals: Vec<EspProposal>,
    /// Anti-replay window, in packets: a multiple of 64 up to 4096.
    pub replay_window: u32,
}

/// One ESP proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EspProposal {
    /// Encryption.
    pub encryption: Encryption,
    /// Integrity; `None` for an AEAD.
    pub hash: Option<Hash>,
}

/// `esp-group mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EspMode {
    /// A whole IPv4 packet inside.
    Tunnel,
    /// GRE directly inside.
    Transport,
}

/// Encryption algorithms, by their configuration keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Encryption {
    Aes128,
    Aes192,
    Aes256,
    TripleDes,
    Aes128Gcm128,
    Aes256Gcm128,
}

/// Hash algorithms, by their configuration keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Hash {
    Md5,
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// Diffie-Hellman groups, by their IANA number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum DhGroup {
    Modp1024 = 2,
    Modp1536 = 5,
    Modp2048 = 14,
    Modp3072 = 15,
    Modp4096 = 16,
    Modp6144 = 17,
    Modp8192 = 18,
    Ecp256 = 19,
    Ecp384 = 20,
    Ecp521 = 21,
}

/// `protocols static route`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticRoute {
    /// Destination.
    pub prefix: Ipv4Network,
    /// A tunnel address, or a gateway on an Ethernet interface's link.
    pub next_hop: Ipv4Addr,
}

/// `[dataplane]`: worker threads and memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataplane {
    /// CPUs of the workers, one worker each.
    pub workers: Vec<usize>,
    /// What an idle worker does.
    pub idle: IdlePolicy,
    /// Memory for packets and DPDK, in MiB, where there are no hugepages.
    pub memory: u32,
    /// Use hugepages.
    pub hugepages: bool,
    /// Packet buffers.
    pub buffers: u32,
}

/// What a worker without work does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Polls on: for a core of its own.
    Busy,
    /// Polls a while, then sleeps in growing steps: for a shared core.
    Adaptive,
}

/// `[host]`: how the appliance meets the host it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// TUN device that carries packets from and to the box itself; `None`: none.
    pub tun: Option<String>,
    /// Path of the control socket.
    pub socket: String,
}

/// Key text. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes key text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The key as it goes into a computation or a packet.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}
