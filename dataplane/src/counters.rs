//! What a worker counts: one block per worker, each counter with one writer, read at scrape. The writer is the worker, but
//! for what the control thread could not hand to it.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use dmvpn_tables::{PortId, PuntReason};

/// A number with one writer. Adding is a plain load and store, not a locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the counter's owner may call this: of two threads that add at the same time, one addition
    /// could be lost.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Its value, a moment ago.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything that one worker counts.
#[derive(Debug)]
pub struct Counters {
    drops: CachePadded<[Counter; DropReason::ALL.len()]>,
    punts: CachePadded<[Counter; PUNT_NAMES.len()]>,
    ports: CachePadded<Box<[PortCounters]>>,
    stages: CachePadded<[StageCounters; Stage::ALL.len()]>,
    /// Calls of [`Worker::poll`](crate::Worker::poll).
    pub polls: CachePadded<Counter>,
    /// Packets given to other workers.
    pub handed_over: Counter,
    /// Packets taken from other workers.
    pub taken_over: Counter,
    /// Packets taken from the control thread.
    pub injected: Counter,
    /// Time of polls that found work, in the unit of whoever runs the worker (TSC cycles): the worker has no
    /// clock, so its loop adds this.
    pub busy: Counter,
    /// Time of polls that found none.
    pub idle: Counter,
}

/// Traffic of one port through one worker. Bytes are those of Ethernet frames, without FCS.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Packets received.
    pub rx_packets: Counter,
    /// Bytes received.
    pub rx_bytes: Counter,
    /// Packets sent.
    pub tx_packets: Counter,
    /// Bytes sent.
    pub tx_bytes: Counter,
}

/// What a worker does in a poll, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Taking packets from ports, from other workers and from the control thread, and adopting the newest snapshot.
    Receive,
    /// Checking and sorting what ports received.
    Ingress,
    /// Opening ESP, and taking off GRE.
    Decrypt,
    /// Looking up where packets go.
    Forward,
    /// Putting on GRE, sealing ESP.
    Encrypt,
    /// Putting on Ethernet headers.
    Egress,
    /// Giving packets to ports.
    Transmit,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 7] = [
        Self::Receive,
        Self::Ingress,
        Self::Decrypt,
        Self::Forward,
        Self::Encrypt,
        Self::Egress,
        Self::Transmit,
    ];

    /// Its name in metrics and listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Receive => "rx",
            Self::Ingress => "ingress",
            Self::Decrypt => "decrypt",
            Self::Forward => "forward",
            Self::Encrypt => "encrypt",
            Self::Egress => "egress",
            Self::Transmit => "tx",
        }
    }
}

/// What a stage has cost. Runs without packets are not counted.
#[derive(Debug, Default)]
pub struct StageCounters {
    /// Batches.
    pub runs: Counter,
    /// Packets in them.
    pub packets: Counter,
    /// Time for them, in the unit of [`Worker::poll`](crate::Worker::poll)'s caller.
    pub ticks: Counter,
}

impl Counters {
    /// All zero, for a worker with links to `ports` ports.
    pub fn new(ports: usize) -> Self {
        Self {
            drops: CachePadded::new(array::from_fn(|_| Counter::default())),
            punts: CachePadded::default(),
            ports: CachePadded::new((0..ports).map(|_| PortCounters::default()).collect()),
            stages: CachePadded::default(),
            polls: CachePadded::default(),
            handed_over: Counter::default(),
            taken_over: Counter::default(),
            injected: Counter::default(),
            busy: Counter::default(),
            idle: Counter::default(),
        }
    }

    /// Packets dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].value()
    }

    /// Every drop reason with its count.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|&reason| (reason, self.dropped(reason)))
    }

    /// Every kind of packet for the control thread, by name, with the number handed to it.
    pub fn punts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        PUNT_NAMES.iter().zip(self.punts.iter()).map(|(&name, counter)| (name, counter.value()))
    }

    /// Traffic of a port.
    pub fn port(&self, port: PortId) -> Option<&PortCounters> {
        self.ports.get(usize::from(port.0))
    }

    /// What a stage has cost.
    pub fn stage(&self, stage: Stage) -> &StageCounters {
        &self.stages[stage as usize]
    }

    pub(crate) fn count_drop(&self, reason: DropReason) {
        self.drops[reason as usize].add(1);
    }

    pub(crate) fn count_punt(&self, reason: &PuntReason) {
        self.punts[punt_index(reason)].add(1);
    }
}

/// Names of the kinds of [`PuntReason`], in the order of [`punt_index`].
const PUNT_NAMES: [&str; 14] = [
    "arp",
    "dhcp",
    "ike",
    "nhrp",
    "local",
    "unresolved",
    "glean",
    "neighbor_unresolved",
    "redirect",
    "ttl_exceeded",
    "fragmentation_needed",
    "unreachable",
    "peer_moved",
    "unknown_spi",
];

pub(crate) const PUNT_KINDS: usize = PUNT_NAMES.len();

pub(crate) fn punt_index(reason: &PuntReason) -> usize {
    match reason {
        PuntReason::Arp { .. } => 0,
        PuntReason::Dhcp { .. } => 1,
        PuntReason::Ike { .. } => 2,
        PuntReason::Nhrp { .. } => 3,
        PuntReason::Local { .. } => 4,
        PuntReason::Unresolved { .. } => 5,
        PuntReason::Glean { .. } => 6,
        PuntReason::NeighborUnresolved { .. } => 7,
        PuntReason::Redirect { .. } => 8,
        PuntReason::TtlExceeded => 9,
        PuntReason::FragmentationNeeded { .. } => 10,
        PuntReason::Unreachable => 11,
        PuntReason::PeerMoved { .. } => 12,
        PuntReason::UnknownSpi { .. } => 13,
    }
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet went no further. Every one is counted; the names are those of the metrics and stay.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum DropReason { $($(#[$doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its name in metrics and listings.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

drop_reasons! {
    // Ingress: what a port received.
    /// Shorter than an Ethernet header.
    Runt = "runt",
    /// For another station's Ethernet address.
    OtherStation = "other_station",
    /// Carries an 802.1Q tag; ports are untagged.
    Vlan = "vlan",
    /// Neither IPv4 nor ARP.
    EtherType = "ether_type",
    /// The port has no entry in the snapshot.
    UnknownPort = "unknown_port",
    /// IPv4 version, header length or total length is wrong (RFC 791), or the checksum is.
    Ipv4Header = "ipv4_header",
    /// A source address that no station can have: loopback, multicast, broadcast, "this network".
    MartianSource = "martian_source",
    /// A destination that must not be on a link: loopback, "this network", class E.
    MartianDestination = "martian_destination",
    /// Source address is one of ours: somebody else uses it, or we are fooled.
    OwnSource = "own_source",
    /// A fragment of ESP, GRE, IKE or NAT-T to an address of ours: peers do not fragment these.
    FragmentToUs = "fragment_to_us",
    /// The UDP length of a packet to port 4500 does not fit its IPv4 packet.
    UdpLength = "udp_length",
    /// NAT keepalive (RFC 3948 section 2.3): has done its work by arriving.
    NatKeepalive = "nat_keepalive",

    // GRE, in the clear or out of ESP.
    /// GRE in the clear for a tunnel that is bound to an IPsec profile.
    ClearGreOnProtected = "clear_gre_on_protected",
    /// GRE in the clear with an address and key of no tunnel.
    GreNoTunnel = "gre_no_tunnel",
    /// GRE header cut short, of another version, with source routes, or with a wrong checksum.
    GreHeader = "gre_header",
    /// Out of an SA, but with the key of another tunnel, or none.
    GreKey = "gre_key",
    /// Neither IPv4 nor NHRP inside.
    GreProtocol = "gre_protocol",

    // Decrypt.
    /// ESP with an SPI that we have not given out (any more).
    UnknownSpi = "unknown_spi",
    /// ESP in UDP on an SA without, or the other way round.
    EspEncapsulation = "esp_encapsulation",
    /// ESP packet too short, or not a whole number of cipher blocks.
    EspLength = "esp_length",
    /// Sequence number seen before, or left of the window (RFC 4303 section 3.4.3).
    EspReplay = "esp_replay",
    /// The integrity check value is wrong.
    EspAuthentication = "esp_authentication",
    /// The padding is not 1, 2, 3 ... (RFC 4303 section 2.4), or longer than the packet.
    EspPadding = "esp_padding",
    /// An empty packet that hides how much is sent (RFC 4303 section 2.6).
    EspDummy = "esp_dummy",
    /// Authentic, but not GRE (transport mode) or not IPv4 (tunnel mode) inside.
    EspNextHeader = "esp_next_header",
    /// Tunnel mode: the inner IPv4 header is not exactly what was negotiated.
    EspInnerHeader = "esp_inner_header",
    /// Outside: congestion experienced; inside: not ECN-capable (RFC 6040 section 4.2).
    EcnCongestion = "ecn_congestion",

    // Forward.
    /// Came in the clear by an underlay port, from an address that a protected tunnel leads to.
    SourceInTunnel = "source_in_tunnel",
    /// To 255.255.255.255 or multicast that nobody here wants.
    NotForwarded = "not_forwarded",
    /// The TTL ended here, and as many of those as may be answered have been.
    TtlExceeded = "ttl_exceeded",
    /// No route, and as many of those as may be answered have been.
    Unreachable = "unreachable",
    /// The overlay next hop is being resolved, there is no way meanwhile, and enough packets wait already.
    Unresolved = "unresolved",
    /// The station on a connected network is being resolved, and enough packets wait already.
    Glean = "glean",

    // Encrypt.
    /// The peer is gone.
    NoPeer = "no_peer",
    /// The tunnel is gone, or has no address to send from.
    NoTunnel = "no_tunnel",
    /// A clear path on a tunnel that is protected now.
    ClearPathOnProtected = "clear_path_on_protected",
    /// The outbound SA has used up its sequence numbers (RFC 4303 section 3.3.3).
    SequenceExhausted = "sequence_exhausted",
    /// Too large for the tunnel, not to be fragmented, and as many of those as may be answered have been.
    FragmentationNeeded = "fragmentation_needed",
    /// Would have to be cut into too many fragments.
    TooManyFragments = "too_many_fragments",
    /// The buffer has no room left for the headers or the trailer.
    NoRoom = "no_room",
    /// The buffer pool is empty.
    NoBuffer = "no_buffer",
    /// Multicast packets come faster than they can be replicated.
    ReplicationFull = "replication_full",
    /// The worker that owns the SA does not keep up.
    HandoffFull = "handoff_full",

    // Egress.
    /// The next hop is gone.
    NoNeighbor = "no_neighbor",
    /// The next hop's Ethernet address is being resolved, and enough packets wait already.
    NeighborUnresolved = "neighbor_unresolved",
    /// Inside a tunnel, but too large for the port it leaves by: the tunnel's MTU is set too high.
    OuterTooLarge = "outer_too_large",
    /// The port to send on is gone, or this worker has no queue of it.
    NoPort = "no_port",
    /// The port's transmit queue is full.
    TxFull = "tx_full",

    // Punt and inject.
    /// The control thread does not keep up.
    PuntFull = "punt_full",
    /// The worker does not keep up with what the control thread sends.
    InjectFull = "inject_full",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_names_are_unique_and_in_snake_case() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert!(
            names
                .iter()
                .all(|name| name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
        assert!(DropReason::ALL.iter().enumerate().all(|(index, &reason)| reason as usize == index));
    }

    #[test]
    fn counts() {
        let counters = Counters::new(2);
        counters.count_drop(DropReason::Runt);
        counters.count_drop(DropReason::Runt);
        counters.count_punt(&PuntReason::UnknownSpi { spi: 1 });
        assert_eq!(counters.dropped(DropReason::Runt), 2);
        assert_eq!(counters.drops().map(|(_, count)| count).sum::<u64>(), 2);
        assert_eq!(counters.punts().last(), Some(("unknown_spi", 1)));
        assert!(counters.port(PortId(1)).is_some() && counters.port(PortId(2)).is_none());
    }
}
