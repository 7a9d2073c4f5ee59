//! The TUN device: packets from and to the host itself.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};

use dmvpn_config::Config;
use ipnetwork::Ipv4Network;
use tun_rs::{DeviceBuilder, SyncDevice};

/// Largest packet that the device gives.
const BUFFER: usize = 65_535;

/// A TUN device that carries all our addresses: those of tunnels with their networks, so that the host
/// reaches the overlay through it, and the others as single addresses.
pub(super) struct Tun {
    device: SyncDevice,
    addresses: BTreeSet<(Ipv4Addr, u8)>,
    buffer: Box<[u8]>,
}

impl Tun {
    /// Creates the device and brings it up.
    pub(super) fn create(name: &str, config: &Config) -> io::Result<Self> {
        let device = DeviceBuilder::new().name(name).mtu(mtu(config)).build_sync()?;
        device.set_nonblocking(true)?;
        let mut tun = Self { device, addresses: BTreeSet::new(), buffer: vec![0; BUFFER].into() };
        for (address, prefix) in addresses(config) {
            tun.device.add_address_v4(address, prefix)?;
            tun.addresses.insert((address, prefix));
        }
        Ok(tun)
    }

    /// Takes over addresses and MTU of another configuration.
    pub(super) fn configure(&mut self, config: &Config) {
        let wanted = addresses(config);
        for (address, _) in self.addresses.difference(&wanted) {
            report("remove an address from", self.device.remove_address(IpAddr::V4(*address)));
        }
        for (address, prefix) in wanted.difference(&self.addresses) {
            report("add an address to", self.device.add_address_v4(*address, *prefix));
        }
        self.addresses = wanted;
        report("set the MTU of", self.device.set_mtu(mtu(config)));
    }

    /// The next packet of the host, if there is one.
    pub(super) fn read(&mut self) -> Option<Vec<u8>> {
        let len = self.device.recv(&mut self.buffer).ok()?;
        self.buffer.get(..len).map(<[u8]>::to_vec)
    }

    /// Gives the host a packet; it is lost if the host does not keep up.
    pub(super) fn write(&self, packet: &[u8]) {
        let _ = self.device.send(packet);
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn report(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!("cannot {what} the TUN device: {error}");
    }
}

/// What fits through every tunnel.
fn mtu(config: &Config) -> u16 {
    config.tunnels.iter().map(|tunnel| tunnel.mtu).min().unwrap_or(1400)
}

fn addresses(config: &Config) -> BTreeSet<(Ipv4Addr, u8)> {
    let of = |network: Ipv4Network, prefix| (network.ip(), prefix);
    let tunnels = config.tunnels.iter().map(|tunnel| of(tunnel.address, tunnel.address.prefix()));
    let ports = config.ethernet.iter().filter_map(|ethernet| Some(of(ethernet.address?, 32)));
    tunnels.chain(ports).collect()
}
