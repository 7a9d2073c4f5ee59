//! The far ends of the ports' cables: where packets are sent to the box, and what it sends comes back.

use std::fs::File;
use std::io::BufWriter;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dmvpn_config::{Config, Ethernet};
use dmvpn_dataplane::{Buffer, Frame, Link, Pool};
use dmvpn_dpdk::{Mempool, Queue};
use dmvpn_wire::MacAddr;
use pcap_file::pcap::{PcapPacket, PcapWriter};

use super::ports::{self, Outlet};

/// `ethN=DEVICE`: the DPDK device at the other end of an interface's cable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plug {
    interface: String,
    device: String,
}

/// The far ends of all cables.
pub(crate) struct Cables {
    ends: Vec<End>,
    pool: Mempool,
    /// What goes in each round.
    packets: Vec<Vec<u8>>,
    /// Which end it goes in by.
    entry: usize,
    /// Packets a second, at most.
    rate: f64,
    begin: Instant,
    /// Packets sent in all, and packets that have come back.
    pub(crate) offered: u64,
    pub(crate) returned: u64,
}

struct End {
    queue: Queue,
    writer: Option<PcapWriter<BufWriter<File>>>,
}

/// How long nothing comes back when everything has.
const SILENCE: Duration = Duration::from_millis(50);
/// How long a port may take no packet that is due.
const PATIENCE: Duration = Duration::from_secs(10);

impl FromStr for Plug {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (interface, device) = text.split_once('=').ok_or("not of the form ethN=DEVICE")?;
        Ok(Self { interface: interface.to_owned(), device: device.to_owned() })
    }
}

/// Adds, behind the interfaces of a configuration, one for the far end of the cable of each: then they are opened with
/// them.
///
/// # Errors
/// An interface has no cable.
pub(crate) fn add_far_ends(config: &mut Config, plugs: &[Plug]) -> anyhow::Result<()> {
    let far_end = |near: &Ethernet| {
        let plug = plugs.iter().find(|plug| plug.interface == near.name);
        let plug = plug.with_context(|| format!("{} has no cable: say --cable {0}=DEVICE", near.name))?;
        let name = format!("the other end of the cable of {}", near.name);
        anyhow::Ok(Ethernet { name, port: plug.device.clone(), address: None, ..near.clone() })
    };
    let far_ends = config.ethernet.iter().map(far_end).collect::<Result<Vec<_>, _>>()?;
    ensure!(far_ends.len() == plugs.len(), "a cable of an interface that the configuration does not have");
    config.ethernet.extend(far_ends);
    Ok(())
}

impl Cables {
    /// With the queues of the far ends, in the order of the interfaces; `packets` go in by `entry`, to `mac`, no more than
    /// `rate` a second.
    ///
    /// # Errors
    /// An outlet cannot be written to.
    pub(crate) fn new(
        config: &Config,
        queues: Vec<Queue>,
        pool: Mempool,
        (entry, mac): (usize, MacAddr),
        (mut packets, rate): (Vec<Vec<u8>>, f64),
        outlets: &[Outlet],
    ) -> anyhow::Result<Self> {
        for packet in &mut packets {
            if let Some(destination) = packet.get_mut(..mac.0.len()) {
                destination.copy_from_slice(&mac.0);
            }
        }
        let sinks = ports::sinks(config, entry, outlets)?;
        let mut ends = Vec::new();
        for (queue, sink) in queues.into_iter().zip(sinks) {
            let open = |path: &std::path::Path| {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                Ok::<_, anyhow::Error>(PcapWriter::new(BufWriter::new(file))?)
            };
            ends.push(End { queue, writer: sink.map(open).transpose()? });
        }
        Ok(Self { ends, pool, packets, entry, rate, begin: Instant::now(), offered: 0, returned: 0 })
    }

    /// Sends all packets, as fast as the port takes them where there is no rate, and waits for what comes back.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn round(&mut self, mut meanwhile: impl FnMut()) -> anyhow::Result<()> {
        let mut next = 0;
        let mut frame = Frame::new();
        let begin = Instant::now();
        let (mut last, mut moved) = (begin, begin);
        let (packets, rate) = (self.packets.len(), self.rate);
        let is_due = |next: usize| next < packets && next as f64 <= begin.elapsed().as_secs_f64() * rate;
        while next < packets || !frame.is_empty() || last.elapsed() < SILENCE {
            while !frame.is_full()
                && is_due(next)
                && let Some(packet) = self.packets.get(next)
                && let Some(mut buffer) = self.pool.alloc()
            {
                let room =
                    buffer.append(packet.len()).context("a packet is larger than the ports' MTUs allow")?;
                room.copy_from_slice(packet);
                frame.push(buffer);
                next += 1;
            }
            let before = frame.len();
            if let Some(end) = self.ends.get_mut(self.entry).filter(|_| before > 0) {
                end.queue.tx(&mut frame);
            }
            let sent = before - frame.len();
            self.offered += sent as u64;
            let received = self.receive()?;
            if sent > 0 || frame.is_empty() && !is_due(next) {
                moved = Instant::now();
            }
            ensure!(
                moved.elapsed() < PATIENCE,
                "the port where packets enter takes none: is its cable plugged in?"
            );
            if sent > 0 || received > 0 {
                last = Instant::now();
            } else {
                meanwhile();
                thread::yield_now();
            }
        }
        Ok(())
    }

    /// Takes what has come back, and says how many packets that was.
    fn receive(&mut self) -> anyhow::Result<usize> {
        let mut received = 0;
        for end in &mut self.ends {
            let mut frame = Frame::new();
            end.queue.rx(&mut frame);
            received += frame.len();
            let Some(writer) = &mut end.writer else { continue };
            for packet in &frame {
                let len = u32::try_from(packet.len())?;
                writer.write_packet(&PcapPacket::new(self.begin.elapsed(), len, packet.bytes()))?;
            }
        }
        self.returned += received as u64;
        Ok(received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugs() {
        let plug: Plug = "eth0=net_af_packet9,iface=veth1".parse().unwrap();
        assert_eq!(plug, Plug { interface: "eth0".into(), device: "net_af_packet9,iface=veth1".into() });
        assert!("eth0".parse::<Plug>().is_err());
    }
}
