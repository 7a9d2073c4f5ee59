//! Packets for and from the hub of a [`Network`].

use anyhow::{Context, ensure};
use dmvpn_dataplane::{Buffer, Pool};
use dmvpn_dpdk::{Mbuf, Mempool};
use dmvpn_esp::{SealJob, Suite, seal};
use dmvpn_wire::{EtherType, IpProtocol, View, eth, gre, ipv4, udp};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::cases::{Direction, LARGEST, Size};
use crate::network::{
    GATEWAY_MAC, HOSTS, HUB, KEY, LAN_MAC, Network, WAN_MAC, lan_host, lan_host_mac, queue, spoke_host,
    underlay,
};

/// Where the ESP header begins in a frame on the WAN.
pub(crate) const ESP: usize = eth::Header::LEN + ipv4::Header::LEN;
/// What is between the ESP header's IV and the inner packet.
pub(crate) const GRE: usize = gre::header_len(KEY);

/// Pad length and next header.
const ESP_TRAILER: usize = 2;

const TTL: u8 = 64;

/// Packets of a case, without end: each from or to another spoke, at random.
pub(crate) struct Traffic {
    direction: Direction,
    size: Size,
    spokes: u32,
    rng: ChaCha8Rng,
    /// Packets so far: all, and modulo 2^16.
    count: usize,
    number: u16,
    /// The receive queue that they come by, and how many there are.
    queue: (u16, u16),
}

/// One packet, wherever it is on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    /// The spoke whose SA it comes by, unless it comes from the LAN.
    pub(crate) from: Option<u32>,
    /// The spoke whose SA it leaves by, unless it goes to the LAN.
    pub(crate) to: Option<u32>,
    host: u8,
    /// Of the inner IPv4 packet.
    pub(crate) len: usize,
    number: u16,
}

impl Traffic {
    /// Packets of `size` that go in `direction`.
    pub(crate) fn new(direction: Direction, size: Size, network: &Network, seed: u64) -> Self {
        let spokes = u32::try_from(network.spokes.len()).unwrap_or(u32::MAX);
        Self {
            direction,
            size,
            spokes,
            rng: ChaCha8Rng::seed_from_u64(seed),
            count: 0,
            number: 0,
            queue: (0, 1),
        }
    }

    /// Those of them that come by one of `queues` receive queues: from a spoke always by the same one, from the LAN (where
    /// every packet is of another flow) by any.
    pub(crate) fn of_queue(mut self, queue: u16, queues: u16) -> Self {
        self.queue = (queue, queues);
        self
    }

    /// The next packet.
    pub(crate) fn next(&mut self) -> Flow {
        let (a, b) = (self.sender(), self.below(self.spokes));
        let (from, to) = match self.direction {
            Direction::Encap => (None, Some(a)),
            Direction::Decap => (Some(a), None),
            Direction::Hairpin => (Some(a), Some(b)),
        };
        self.count += 1;
        self.number = self.number.wrapping_add(1);
        Flow {
            from,
            to,
            host: self.rng.next_u32().to_le_bytes()[0] % HOSTS,
            len: self.size.of_packet(self.count),
            number: self.number,
        }
    }

    /// Where its packets go.
    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// A spoke whose packets come by this queue; any, if there is none.
    fn sender(&mut self) -> u32 {
        let (number, queues) = self.queue;
        let of_queue = |spoke: &u32| queue(*spoke, queues) == number;
        let tries = if self.direction == Direction::Encap { 1 } else { 64 * u32::from(queues) };
        let mut spokes = (0..tries).map(|_| self.rng.next_u32() % self.spokes);
        let any = spokes.next().unwrap_or_default();
        if of_queue(&any) { any } else { spokes.find(of_queue).unwrap_or(any) }
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.rng.next_u32() % limit
    }
}

impl Flow {
    /// Its number, modulo 2^16.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// Writes the inner packet to the front of `out`, as it is after `hops` routers.
    pub(crate) fn inner(&self, hops: u8, out: &mut [u8]) -> Option<()> {
        let fields = ipv4::Fields {
            tos: 0,
            identification: self.number,
            dont_fragment: true,
            ttl: TTL - hops,
            protocol: IpProtocol::UDP,
            source: self.from.map_or_else(|| lan_host(self.host), |spoke| spoke_host(spoke, self.host)),
            destination: self.to.map_or_else(|| lan_host(self.host), |spoke| spoke_host(spoke, self.host)),
        };
        let rest = ipv4::Header::new(&fields, self.len - ipv4::Header::LEN)?.emit(out)?;
        let payload_len = self.len - ipv4::Header::LEN - udp::Header::LEN;
        let rest = udp::Header::new(self.number, 7, payload_len)?.emit(rest)?;
        rest.get_mut(..payload_len)?.fill(self.number.to_le_bytes()[0]);
        Some(())
    }

    /// A frame from a host on the LAN.
    pub(crate) fn lan_frame(&self, pool: &mut Mempool) -> anyhow::Result<Mbuf> {
        let mut frame = buffer(pool, eth::Header::LEN + self.len)?;
        let ethernet = eth::Header::new(LAN_MAC, lan_host_mac(self.host), EtherType::IPV4);
        let rest = ethernet.emit(frame.bytes_mut()).context("no room")?;
        self.inner(0, rest).context("no room")?;
        Ok(frame)
    }

    /// A frame on the WAN that is to be sealed: everything but ESP is in its place. It comes from a spoke, or the hub.
    pub(crate) fn wan_frame(&self, network: &Network, pool: &mut Mempool) -> anyhow::Result<Mbuf> {
        let suite = network.suite;
        let sealed_len = suite.sealed_len(self.payload_len());
        let mut frame = buffer(pool, ESP + sealed_len)?;
        let (source, destination) = match (self.from, self.to) {
            (Some(spoke), _) => (underlay(spoke), HUB),
            (None, spoke) => (HUB, underlay(spoke.unwrap_or_default())),
        };
        let outer = ipv4::Fields {
            tos: 0,
            identification: self.number,
            dont_fragment: true,
            ttl: TTL,
            protocol: IpProtocol::ESP,
            source,
            destination,
        };
        let mut write = || {
            let ethernet = eth::Header::new(WAN_MAC, GATEWAY_MAC, EtherType::IPV4);
            let rest = ethernet.emit(frame.bytes_mut())?;
            let rest = ipv4::Header::new(&outer, sealed_len)?.emit(rest)?;
            let rest = gre::emit(EtherType::IPV4, KEY, rest.get_mut(suite.payload_offset()..)?)?;
            self.inner(0, rest)
        };
        write().context("no room")?;
        Ok(frame)
    }

    /// Writes what else is to be encrypted of such a frame, and all that is in front of it.
    pub(crate) fn finish_plaintext(&self, suite: Suite, frame: &mut Mbuf) {
        let esp = &mut frame.bytes_mut()[ESP..];
        esp[..suite.payload_offset()].fill(self.number.to_le_bytes()[0]);
        let end = esp.len() - suite.icv_len();
        let padding = &mut esp[suite.payload_offset() + self.payload_len()..end];
        let pad_len = padding.len() - ESP_TRAILER;
        // RFC 4303 section 2.4.
        (1..).zip(&mut *padding).for_each(|(n, byte)| *byte = n);
        padding[pad_len..].copy_from_slice(&[pad_len.to_le_bytes()[0], IpProtocol::GRE.0]);
    }

    /// Length of what ESP carries.
    pub(crate) fn payload_len(&self) -> usize {
        GRE + self.len
    }

    /// Checks that `packet` is the inner packet after `hops` routers.
    pub(crate) fn check(&self, hops: u8, packet: &[u8]) -> anyhow::Result<()> {
        let mut expected = [0; LARGEST];
        self.inner(hops, &mut expected).context("no room")?;
        ensure!(packet == &expected[..self.len], "a packet came out as another than went in: {self:?}");
        Ok(())
    }
}

/// Seals frames of spokes for the hub, each with the SA of the spoke that it comes from.
///
/// # Errors
/// A sequence number space is used up.
pub(crate) fn seal_at_spokes(network: &Network, frames: &mut [Mbuf], flows: &[Flow]) -> anyhow::Result<()> {
    for (frames, flows) in frames.chunks_mut(32).zip(flows.chunks(32)) {
        let jobs = frames.iter_mut().zip(flows);
        let mut jobs: Vec<_> = jobs
            .map(|(frame, flow)| {
                let sa = &network.spokes[flow.from.unwrap_or_default() as usize].to_hub;
                SealJob::new(sa, &mut frame.bytes_mut()[ESP..], flow.payload_len(), IpProtocol::GRE.0)
            })
            .collect();
        seal(&mut jobs);
        jobs.iter().try_for_each(SealJob::result)?;
    }
    Ok(())
}

fn buffer(pool: &mut Mempool, len: usize) -> anyhow::Result<Mbuf> {
    let mut buffer = pool.alloc().context("no packet buffer left")?;
    buffer.append(len).context("the packet is larger than a buffer")?;
    Ok(buffer)
}
