//! The TUN device: packets from and to the host itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};

use dmvpn_config::Config;
use ipnetwork::Ipv4Network;
use route_manager::{Route, RouteManager};
use tun_rs::{DeviceBuilder, SyncDevice};

/// Largest packet that the device gives.
const BUFFER: usize = 65_535;

/// Metric of the host's routes through the device: any route of its own to the same prefix wins.
const ROUTE_METRIC: u32 = 4096;

/// A TUN device that carries all our addresses: those of tunnels with their networks, so that the host
/// reaches the overlay through it, and the others as single addresses. The host gets a route through it to
/// every network that we have one to, except by our default route: how the host reaches the rest of the world is its
/// own business.
pub(super) struct Tun {
    device: SyncDevice,
    addresses: BTreeSet<(Ipv4Addr, u8)>,
    routes: Routes,
    route_manager: RouteManager,
    name: String,
    buffer: Box<[u8]>,
}

/// Destinations, and the source address that the host uses for them.
type Routes = BTreeMap<Ipv4Network, Ipv4Addr>;

impl Tun {
    /// Creates the device and brings it up.
    pub(super) fn create(name: &str, config: &Config) -> io::Result<Self> {
        let device = DeviceBuilder::new().name(name).mtu(mtu(config)).build_sync()?;
        device.set_nonblocking(true)?;
        let mut tun = Self {
            device,
            addresses: BTreeSet::new(),
            routes: Routes::new(),
            route_manager: RouteManager::new()?,
            name: name.to_owned(),
            buffer: vec![0; BUFFER].into(),
        };
        for (address, prefix) in addresses(config) {
            tun.device.add_address_v4(address, prefix)?;
            tun.addresses.insert((address, prefix));
        }
        tun.set_routes(routes(config));
        Ok(tun)
    }

    /// Takes over addresses and MTU of another configuration.
    pub(super) fn configure(&mut self, config: &Config) {
        // An address that goes takes the routes along that have it as their source, so these go first.
        let wanted_routes = routes(config);
        self.set_routes(
            self.routes.clone().into_iter().filter(|route| kept(route, &wanted_routes)).collect(),
        );
        let wanted = addresses(config);
        for (address, _) in self.addresses.difference(&wanted) {
            report("remove an address from", self.device.remove_address(IpAddr::V4(*address)));
        }
        for (address, prefix) in wanted.difference(&self.addresses) {
            report("add an address to", self.device.add_address_v4(*address, *prefix));
        }
        self.addresses = wanted;
        self.set_routes(wanted_routes);
        report("set the MTU of", self.device.set_mtu(mtu(config)));
    }

    /// Removes the routes that are not wanted (any more), then adds those that are missing.
    fn set_routes(&mut self, wanted: Routes) {
        let has = std::mem::take(&mut self.routes);
        for route in has.iter().map(owned).filter(|route| !kept(route, &wanted)) {
            report("remove a route through", self.route_manager.delete(&self.route(route)));
        }
        for route in wanted.iter().map(owned).filter(|route| !kept(route, &has)) {
            report("add a route through", self.route_manager.add(&self.route(route)));
        }
        self.routes = wanted;
    }

    fn route(&self, (destination, source): (Ipv4Network, Ipv4Addr)) -> Route {
        Route::new(destination.network().into(), destination.prefix())
            .with_if_name(self.name.clone())
            .with_metric(ROUTE_METRIC)
            .with_pref_source(source.into())
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

/// Our networks, and what lies behind next hops in them; not what the device's own addresses lead to already.
fn routes(config: &Config) -> Routes {
    let tunnels: Vec<Ipv4Network> = config.tunnels.iter().map(|tunnel| tunnel.address).collect();
    let ports: Vec<Ipv4Network> = config.ethernet.iter().filter_map(|ethernet| ethernet.address).collect();
    let ours = tunnels.iter().chain(&ports);
    let source = |next_hop| ours.clone().find(|ours| ours.contains(next_hop)).map(|ours| ours.ip());
    let connected = ports.iter().map(|port| (subnet(*port), port.ip()));
    let remote =
        config.routes.iter().filter_map(|route| Some((subnet(route.prefix), source(route.next_hop)?)));
    connected.chain(remote).filter(|(destination, _)| destination.prefix() != 0).collect()
}

/// A network without the host part of the address that it was written with.
fn subnet(network: Ipv4Network) -> Ipv4Network {
    Ipv4Network::new(network.network(), network.prefix()).unwrap_or(network)
}

fn owned((destination, source): (&Ipv4Network, &Ipv4Addr)) -> (Ipv4Network, Ipv4Addr) {
    (*destination, *source)
}

/// Whether `routes` has the same route with the same source.
fn kept((destination, source): &(Ipv4Network, Ipv4Addr), routes: &Routes) -> bool {
    routes.get(destination) == Some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_gets_every_route_but_the_default() {
        let text = include_str!("../../../config/examples/spoke1.toml");
        let config = dmvpn_config::parse(text, "spoke1.toml").unwrap();
        let routes = routes(&config);
        let expected = [
            ("192.168.1.0/24", "10.0.0.2"),
            ("192.168.2.0/24", "192.168.2.1"),
            ("192.168.3.0/24", "10.0.0.2"),
            ("203.0.113.0/30", "203.0.113.2"),
        ];
        let expected: Routes = expected.map(|(to, from)| (to.parse().unwrap(), from.parse().unwrap())).into();
        assert_eq!(routes, expected);
    }
}
