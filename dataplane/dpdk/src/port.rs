//! Ports and their queues.

use std::ffi::CString;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dmvpn_dataplane::frame::{FRAME_SIZE, Frame};
use dmvpn_dataplane::link::Link;
use dmvpn_wire::MacAddr;
use dpdk_sys::{rte_eth_stats, rte_ether_addr, rte_mbuf};

use crate::device::Device;
use crate::error::{Errno, Error};
use crate::mbuf::Mbuf;
use crate::mempool::Mempool;

/// Packets that a receive or transmit queue holds, where the device does not want another number.
const DESCRIPTORS: u16 = 1024;

/// How a port is set up.
#[derive(Debug, Clone, Copy)]
pub struct PortOptions {
    /// Receive and transmit queues, one of each per worker.
    pub queues: u16,
    /// Largest packet after the Ethernet header, in bytes.
    pub mtu: u16,
    /// What its receive queues should share the traffic by; what they do share it by is [`Port::spread`].
    pub spread: Spread,
}

/// What decides which of several receive queues a packet comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// Its IP addresses alone: so all that a peer sends, IKE and ESP, in UDP or not, comes to one worker.
    Addresses,
    /// Its IP addresses, and its TCP or UDP ports: so the connections between two hosts come to all workers. Or whatever else
    /// the device has: some hash no other protocols, some nothing.
    Flows,
}

/// State of a [`Port`]: set up, and at rest.
#[derive(Debug)]
pub enum Configured {}

/// State of a [`Port`]: it sends and receives by its queues.
#[derive(Debug)]
pub enum Started {}

/// An Ethernet port. It stops, and is closed, when it and all its [`Queue`]s are gone.
#[derive(Debug)]
pub struct Port<State> {
    shared: Arc<Shared>,
    queues: u16,
    _state: PhantomData<State>,
}

/// One worker's receive queue and transmit queue of a port.
#[derive(Debug)]
pub struct Queue {
    port: Arc<Shared>,
    index: u16,
}

/// What a port has counted since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets lost because workers did not fetch them in time.
    pub rx_missed: u64,
    /// Packets that arrived damaged.
    pub rx_errors: u64,
    /// Packets lost because the pool was empty.
    pub rx_no_buffer: u64,
    /// Packets dropped because they came in several segments.
    pub rx_chained: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

#[derive(Debug)]
struct Shared {
    id: u16,
    device: Device,
    mac: MacAddr,
    mtu: u16,
    spread: Spread,
    chained: AtomicU64,
    /// Its receive queues allocate here, so it must not go before the port. It keeps the EAL, too.
    _pool: Mempool,
}

impl Port<Configured> {
    /// Sets a device up: promiscuous mode off, received packets in buffers of `pool`.
    ///
    /// # Errors
    /// The device is not there, has too few queues, does not take the MTU, or its driver refuses.
    pub fn new(device: &Device, pool: &Mempool, options: PortOptions) -> Result<Self, Error> {
        let id = port_of(device).ok_or_else(|| Error::NoDevice(device.clone()))?;
        if !pool.eal().claim_port(id) {
            return Err(Error::Taken(device.clone()));
        }
        let step = |step, returned| {
            Errno::check(returned).map_err(|errno| Error::Port { device: device.clone(), step, errno })
        };

        let mut capabilities = MaybeUninit::<dpdk_sys::shim_capabilities>::zeroed();
        // SAFETY: the port exists, and the structure is ours to fill.
        step("ask for its capabilities", unsafe {
            dpdk_sys::shim_capabilities(id, capabilities.as_mut_ptr())
        })?;
        // SAFETY: filled, and zeroes would do as well.
        let capabilities = unsafe { capabilities.assume_init() };
        let offered = capabilities.max_rx_queues.min(capabilities.max_tx_queues);
        if options.queues > offered {
            return Err(Error::Queues { device: device.clone(), wanted: options.queues, offered });
        }
        let (min, max) = (capabilities.min_mtu, capabilities.max_mtu.min(pool.max_mtu()));
        if !(min..=max).contains(&options.mtu) {
            return Err(Error::Mtu { device: device.clone(), wanted: options.mtu, min, max });
        }

        let spread = if capabilities.hashes_addresses { options.spread } else { Spread::Flows };
        let by_flow = spread == Spread::Flows;
        // SAFETY: the port exists, and is not started: it was claimed just now.
        step("configure", unsafe { dpdk_sys::shim_configure(id, options.queues, options.mtu, by_flow) })?;
        let (mut rx_descriptors, mut tx_descriptors) = (DESCRIPTORS, DESCRIPTORS);
        // SAFETY: as above.
        step("adjust its rings", unsafe {
            dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx_descriptors, &raw mut tx_descriptors)
        })?;
        // SAFETY: takes any port number. (Negative is "any", also in the unsigned parameter below.)
        let socket = unsafe { dpdk_sys::rte_eth_dev_socket_id(id) }.cast_unsigned();
        for queue in 0..options.queues {
            // SAFETY: the port is configured for this many queues; the pool lives as long as the EAL; null
            // options are the driver's defaults.
            step("set up a receive queue", unsafe {
                dpdk_sys::rte_eth_rx_queue_setup(
                    id,
                    queue,
                    rx_descriptors,
                    socket,
                    ptr::null(),
                    pool.as_ptr(),
                )
            })?;
            // SAFETY: as above.
            step("set up a transmit queue", unsafe {
                dpdk_sys::rte_eth_tx_queue_setup(id, queue, tx_descriptors, socket, ptr::null())
            })?;
        }
        // SAFETY: the port is configured.
        let returned = unsafe { dpdk_sys::rte_eth_dev_set_mtu(id, options.mtu) };
        if Errno::check(returned) != Err(Errno::ENOTSUP) {
            step("set its MTU", returned)?;
        }

        let mut mac = rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: the port exists, and the address is ours to fill.
        step("read its address", unsafe { dpdk_sys::rte_eth_macaddr_get(id, &raw mut mac) })?;
        let shared = Shared {
            id,
            device: device.clone(),
            mac: MacAddr(mac.addr_bytes),
            mtu: options.mtu,
            spread,
            chained: AtomicU64::new(0),
            _pool: pool.clone(),
        };
        Ok(Self { shared: Arc::new(shared), queues: options.queues, _state: PhantomData })
    }

    /// Starts it. Its queues go to the workers, in order.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn start(self) -> Result<(Port<Started>, Vec<Queue>), Error> {
        let device = &self.shared.device;
        let step = |step, returned| {
            Errno::check(returned).map_err(|errno| Error::Port { device: device.clone(), step, errno })
        };
        // SAFETY: the port is configured, with all its queues.
        step("start", unsafe { dpdk_sys::rte_eth_dev_start(self.shared.id) })?;
        // SAFETY: as above.
        let returned = unsafe { dpdk_sys::rte_eth_promiscuous_disable(self.shared.id) };
        if Errno::check(returned) != Err(Errno::ENOTSUP) {
            step("switch promiscuous mode off", returned)?;
        }
        let queues = (0..self.queues).map(|index| Queue { port: Arc::clone(&self.shared), index }).collect();
        Ok((Port { shared: self.shared, queues: self.queues, _state: PhantomData }, queues))
    }
}

impl<State> Port<State> {
    /// Its device.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// Its Ethernet address.
    pub fn mac(&self) -> MacAddr {
        self.shared.mac
    }

    /// Largest packet after the Ethernet header, in bytes.
    pub fn mtu(&self) -> u16 {
        self.shared.mtu
    }

    /// What its receive queues share the traffic by.
    pub fn spread(&self) -> Spread {
        self.shared.spread
    }
}

impl Port<Started> {
    /// Whether it has a link. Does not wait for a negotiation to end.
    pub fn link_is_up(&self) -> bool {
        // SAFETY: the port exists.
        (unsafe { dpdk_sys::shim_link_is_up(self.shared.id) }) == 1
    }

    /// What it has counted; zeros where the driver counts nothing.
    pub fn stats(&self) -> PortStats {
        let mut stats = MaybeUninit::<rte_eth_stats>::zeroed();
        // SAFETY: the port exists, and the structure is ours to fill.
        unsafe { dpdk_sys::rte_eth_stats_get(self.shared.id, stats.as_mut_ptr()) };
        // SAFETY: filled or zeroed: integers either way.
        let stats = unsafe { stats.assume_init() };
        PortStats {
            rx_packets: stats.ipackets,
            rx_bytes: stats.ibytes,
            tx_packets: stats.opackets,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            rx_no_buffer: stats.rx_nombuf,
            rx_chained: self.shared.chained.load(Ordering::Relaxed),
            tx_errors: stats.oerrors,
        }
    }
}

impl Link for Queue {
    type Buffer = Mbuf;

    fn rx(&mut self, frame: &mut Frame<Mbuf>) {
        let before = frame.len();
        let room = u16::try_from(FRAME_SIZE - before).unwrap_or(0);
        // An `Mbuf` is a pointer to an mbuf (repr(transparent)).
        // SAFETY: the port is started (this queue exists), no one else polls this queue (`&mut self`), and the
        // frame has room for that many pointers behind its last one.
        let received = unsafe {
            let end = frame.as_mut_ptr().add(before).cast::<*mut rte_mbuf>();
            dpdk_sys::shim_rx_burst(self.port.id, self.index, end, room)
        };
        // SAFETY: the driver wrote that many mbufs there and gave up their use. They come from a pool of
        // ours; those of several segments go at once.
        unsafe { frame.set_len(before + usize::from(received)) };
        if frame[before..].iter().any(Mbuf::is_chained) {
            frame.retain(|packet| !packet.is_chained());
            let refused = before + usize::from(received) - frame.len();
            self.port.chained.fetch_add(refused as u64, Ordering::Relaxed);
        }
    }

    fn tx(&mut self, frame: &mut Frame<Mbuf>) {
        let count = frame.len();
        let start = frame.as_mut_ptr();
        let offered = u16::try_from(count).unwrap_or(0);
        // SAFETY: the port is started and no one else sends by this queue; `start` is `offered` mbufs of ours.
        let sent = unsafe { dpdk_sys::shim_tx_burst(self.port.id, self.index, start.cast(), offered) };
        let left = count - usize::from(sent);
        // SAFETY: the driver owns the first `sent` now, so they leave the frame without a drop; the `left`
        // behind them move to the front.
        unsafe {
            frame.set_len(0);
            ptr::copy(start.add(usize::from(sent)), start, left);
            frame.set_len(left);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: there is no queue left that could be polled. Stopping a port that was not started, or that
        // does not stop, does no harm.
        unsafe {
            dpdk_sys::rte_eth_dev_stop(self.id);
            dpdk_sys::rte_eth_dev_close(self.id);
        }
    }
}

fn port_of(device: &Device) -> Option<u16> {
    let name = CString::new(device.name()).ok()?;
    let mut id = 0;
    // SAFETY: a string, and an integer to fill.
    let returned = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
    (returned == 0).then_some(id)
}
