//! Batches of packets and what is known of each.

use std::ops::Range;

use arrayvec::ArrayVec;
use dmvpn_esp::prefetch;
use dmvpn_tables::{PeerId, PortId, TunnelId};
use zerocopy::FromBytes;

/// Packets in one [`Frame`]. One poll takes in no more than this.
pub const FRAME_SIZE: usize = 64;

/// A batch of packets on its way from one stage to the next. Moving a packet moves its owner: a
/// buffer is in exactly one frame, ring or link at any time.
pub type Frame<B> = ArrayVec<B, FRAME_SIZE>;

/// One packet in one contiguous segment, with room around it to grow into.
///
/// There is no `Clone`: a buffer has one owner, and dropping it gives it back to where it came from.
pub trait Buffer: Sized + Send {
    /// The packet.
    fn bytes(&self) -> &[u8];

    /// The packet, to write.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Length of the packet in bytes.
    fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether there is no byte in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Free bytes in front of the packet.
    fn headroom(&self) -> usize;

    /// Free bytes behind the packet.
    fn tailroom(&self) -> usize;

    /// Grows the packet by `n` bytes at the front and returns them, their content unspecified.
    /// `None`, and no change, if the headroom is smaller.
    fn prepend(&mut self, n: usize) -> Option<&mut [u8]>;

    /// Grows the packet by `n` bytes at the back and returns them, their content unspecified.
    /// `None`, and no change, if the tailroom is smaller.
    fn append(&mut self, n: usize) -> Option<&mut [u8]>;

    /// Grows the packet by `front` bytes at the front and `back` at the back, their content unspecified, and gives the
    /// `ROOM` bytes in front of what was there before: of them, the last `front` belong to the packet now. `None`, and no
    /// change, if there is no room, or if `front` is more than `ROOM`.
    fn grow<const ROOM: usize>(&mut self, front: usize, back: usize) -> Option<&mut [u8; ROOM]>;

    /// Cuts `n` bytes off the front, or all if there are fewer.
    fn trim_front(&mut self, n: usize);

    /// Cuts `n` bytes off the back, or all if there are fewer.
    fn trim_back(&mut self, n: usize);

    /// Cuts the packet down to these of its bytes, or as many of them as there are.
    fn crop(&mut self, bytes: Range<usize>) {
        self.trim_back(self.len().saturating_sub(bytes.end));
        self.trim_front(bytes.start);
    }

    /// Asks for the cache lines of the packet's headers and of its meta data, ahead of use.
    fn prefetch(&self) {
        prefetch(self.meta(), 1);
        if let Some(first) = self.bytes().first() {
            prefetch(first, HEADERS);
        }
    }

    /// Asks for the cache line 64 bytes before the packet, where headers will be written.
    fn prefetch_headroom(&self);

    /// Asks for the cache lines that tell where the packet is, and for those of its meta data, to write to them. For a buffer
    /// that another core has had.
    fn prefetch_handle(&self) {
        prefetch(self.meta(), 1);
    }

    /// Asks for the cache lines of the packet, up to `most` bytes of it, and for those in front of it and behind, to write to
    /// them. To be preceded by [`prefetch_handle`](Self::prefetch_handle), which tells where they are.
    fn prefetch_to_write(&self, most: usize) {
        if let Some(first) = self.bytes().first() {
            prefetch(first, most.min(self.len()));
        }
        self.prefetch_headroom();
    }

    /// What the stages know of the packet.
    fn meta(&self) -> &Meta;

    /// What the stages know of the packet, to write.
    fn meta_mut(&mut self) -> &mut Meta;
}

/// Where stages get buffers for packets that did not come in by a link: fragments, multicast copies,
/// packets of the control thread.
pub trait Pool {
    /// What it gives.
    type Buffer: Buffer;

    /// An empty buffer with the pool's full headroom (at least [`HEADROOM`]), or `None` if there is none
    /// left.
    fn alloc(&mut self) -> Option<Self::Buffer>;
}

/// Bytes of a received packet that the stages read: all headers, also of what ESP protects.
const HEADERS: usize = 128;

/// Headroom that a received packet needs so that the encrypt stage can put everything in front of
/// it in place: Ethernet 14, IPv4 20, UDP 8, ESP with IV 24, IPv4 20, GRE with key 8, less the Ethernet header
/// that came off; rounded up to a cache line.
pub const HEADROOM: usize = 128;

/// Tailroom that a received packet needs for ESP padding, trailer and ICV (at most 15 + 2 + 32).
pub const TAILROOM: usize = 64;

/// What the stages know of a packet. It lives beside the packet (in an mbuf's private area) and fills
/// one cache line.
///
/// Every bit pattern is a valid value (that is what [`FromBytes`] says), so a buffer need not set it up. Who takes a packet
/// in sets port, flags and entry; all else is set before the flag, or the stage, that makes it valid.
#[derive(Debug, Clone, Copy, Default, FromBytes)]
#[repr(C, align(64))]
pub struct Meta {
    /// Destination of an IPv4 packet to be forwarded, as a big-endian number.
    pub(crate) destination: u32,
    /// Outer source address of a packet from a tunnel, as a big-endian number.
    pub(crate) outer_source: u32,
    /// The peer it came from; valid with [`Meta::FROM_PEER`].
    pub(crate) from_peer: u32,
    /// The peer it goes to.
    pub(crate) to_peer: u32,
    /// The neighbor it goes to.
    pub(crate) neighbor: u32,
    /// SPI of an ESP packet that came in.
    pub(crate) spi: u32,
    /// The tunnel it came in by, with [`Meta::FROM_TUNNEL`]; or that it is replicated to.
    pub(crate) tunnel: u16,
    /// Where the ESP header begins.
    pub(crate) esp_offset: u16,
    /// GRE protocol type of a packet on its way into a tunnel.
    pub(crate) gre_protocol: u16,
    /// The port it came in by, or is to leave by with [`Meta::FRAMED`].
    pub(crate) port: u16,
    /// Congestion notification bits of the outer header of a packet from a tunnel.
    pub(crate) outer_ecn: u8,
    /// Bits below.
    pub(crate) flags: u8,
    /// An [`Entry`].
    pub(crate) entry: u8,
}

/// The stage where a packet enters a worker's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Entry {
    /// Received by a port.
    Ingress,
    /// Handed over by another worker: ESP of an SA of ours.
    Decrypt,
    /// From the control thread: an IPv4 packet.
    Forward,
    /// From the control thread: for all peers of a tunnel.
    Replicate,
    /// Handed over by another worker, or from the control thread: for a peer.
    Encrypt,
    /// From the control thread: an Ethernet frame.
    Egress,
}

impl Entry {
    const ALL: [Self; 6] =
        [Self::Ingress, Self::Decrypt, Self::Forward, Self::Replicate, Self::Encrypt, Self::Egress];
}

impl Meta {
    /// Came out of a tunnel.
    pub(crate) const FROM_TUNNEL: u8 = 1;
    /// Came by an SA, so it is known from whom.
    pub(crate) const FROM_PEER: u8 = 2;
    /// Made by this box: no TTL decrement, no redirect.
    pub(crate) const OWN: u8 = 4;
    /// Has its Ethernet header already.
    pub(crate) const FRAMED: u8 = 8;
    /// Has the outer headers of a tunnel.
    pub(crate) const ENCAPSULATED: u8 = 16;
    /// Came in the clear by a port that protected tunnels run over.
    pub(crate) const FROM_UNDERLAY: u8 = 32;
    /// Is ESP in UDP.
    pub(crate) const IN_UDP: u8 = 64;

    /// For a packet that enters at `entry`.
    pub(crate) fn entering(entry: Entry) -> Self {
        Self { entry: entry as u8, ..Self::default() }
    }

    /// It came in by a port.
    #[inline]
    pub(crate) fn arrive(&mut self, port: PortId) {
        self.port = port.0;
        self.flags = 0;
        self.entry = Entry::Ingress as u8;
    }

    /// Where it enters.
    #[inline]
    pub(crate) fn entry(&self) -> Entry {
        Entry::ALL.get(usize::from(self.entry)).copied().unwrap_or(Entry::Ingress)
    }

    /// Whether a flag is set.
    #[inline]
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The peer it came from, if an SA tells.
    #[inline]
    pub(crate) fn peer(&self) -> Option<PeerId> {
        self.has(Self::FROM_PEER).then_some(PeerId(self.from_peer))
    }

    /// The tunnel it came from.
    #[inline]
    pub(crate) fn arrived_by(&self) -> Option<TunnelId> {
        self.has(Self::FROM_TUNNEL).then_some(TunnelId(self.tunnel))
    }
}

const _: () = assert!(size_of::<Meta>() == 64, "one cache line");
