//! From the configuration to DPDK: packet memory, ports, and the workers' queues.

use std::fs;

use anyhow::Context;
use dmvpn_config::Config;
use dmvpn_dpdk::{Device, Eal, EalOptions, Memory, Mempool, Port, PortOptions, Queue, Spread, Started};

/// What DPDK has set up for us.
#[derive(Debug)]
pub struct Devices {
    /// DPDK itself.
    pub eal: Eal,
    /// Where packets are.
    pub pool: Mempool,
    /// The ports, in the order of [`Config::ethernet`].
    pub ports: Vec<Port<Started>>,
    /// For each worker its queue of every port.
    pub queues: Vec<Vec<Queue>>,
}

impl Devices {
    /// Starts DPDK, and every port with as many queues as there are workers.
    ///
    /// # Errors
    /// DPDK does not start, there is not enough memory, or a port is not what the configuration says.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let devices: Vec<Device> =
            config.ethernet.iter().map(|interface| interface.port.parse()).collect::<Result<_, _>>()?;
        let memory = match config.dataplane.hugepages {
            true => Memory::Hugepages,
            false => Memory::Ordinary(config.dataplane.memory),
        };
        let eal = Eal::init(&EalOptions { memory, devices: devices.clone() })?;
        let largest = config.ethernet.iter().map(|interface| interface.mtu).max().unwrap_or_default();
        let pool = Mempool::new(&eal, config.dataplane.buffers, largest)?;

        let mut ports = Vec::new();
        let mut queues: Vec<Vec<Queue>> = config.dataplane.workers.iter().map(|_| Vec::new()).collect();
        for (number, (interface, device)) in config.ethernet.iter().zip(&devices).enumerate() {
            // SAs belong to the worker that what their peer sends arrives at.
            let underlay = config.tunnels.iter().any(|tunnel| tunnel.underlay == number);
            let spread = if underlay { Spread::Addresses } else { Spread::Flows };
            let options = PortOptions { queues: u16::try_from(queues.len())?, mtu: interface.mtu, spread };
            let (port, of_port) = Port::new(device, &pool, options)
                .and_then(Port::start)
                .with_context(|| interface.name.clone())?;
            for (worker, queue) in queues.iter_mut().zip(of_port) {
                worker.push(queue);
            }
            device.kernel_interface().into_iter().for_each(quieten);
            ports.push(port);
        }
        Ok(Self { eal, pool, ports, queues })
    }
}

/// Keeps the kernel from answering for us on an interface that it shares with a port. It sees every packet there, too,
/// and our addresses are its own, on the TUN device. So it is told to answer ARP only for addresses of the interface
/// itself, and to take nothing by it from senders that it would not send to by it.
fn quieten(interface: &str) {
    for setting in ["arp_ignore", "rp_filter"] {
        let file = format!("/proc/sys/net/ipv4/conf/{interface}/{setting}");
        if let Err(error) = fs::write(&file, "1") {
            tracing::warn!("the kernel may answer for us on {interface}: cannot write to {file}: {error}");
        }
    }
}
