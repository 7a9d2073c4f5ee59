//! Capture files in the place of ports.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use dmvpn_config::Config;
use dmvpn_wire::{MacAddr, View, eth};
use pcap_file::pcap::PcapReader;

/// A capture file to read from.
#[derive(Debug)]
pub(crate) struct Capture {
    path: PathBuf,
    /// How many packets are in it.
    pub(crate) packets: u64,
    /// The Ethernet address that all of them are for.
    pub(crate) destination: MacAddr,
}

/// `[ethN=]FILE`: a capture file to write to, and the interface by which what is in it has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outlet {
    interface: Option<String>,
    file: PathBuf,
}

/// Bytes of a packet buffer besides the packet itself, at most.
const BUFFER_OVERHEAD: u64 = 1024;
/// Packets that are in the worker, in its rings, or in caches.
const UNDER_WAY: u32 = 8192;

impl Capture {
    /// Looks through a capture file, and has a look at each packet.
    ///
    /// # Errors
    /// It cannot be read, is not one, or its packets are not for one interface.
    pub(crate) fn read(path: &Path, mut look: impl FnMut(&[u8])) -> anyhow::Result<Self> {
        let problem = || format!("cannot read {}", path.display());
        let file = BufReader::new(File::open(path).with_context(problem)?);
        let mut reader = PcapReader::new(file).with_context(problem)?;
        let (mut packets, mut destination) = (0, None);
        while let Some(packet) = reader.next_packet() {
            let packet = packet.with_context(problem)?;
            let (header, _) =
                eth::Header::view(&packet.data).ok().context("a packet without an Ethernet header")?;
            let expected = *destination.get_or_insert(header.destination);
            ensure!(
                header.destination == expected,
                "{}: packets for {expected} and for {}: they cannot all enter by one interface",
                path.display(),
                header.destination
            );
            packets += 1;
            look(&packet.data);
        }
        let destination = destination.with_context(|| format!("{} has no packets", path.display()))?;
        Ok(Self { path: path.to_owned(), packets, destination })
    }
}

impl FromStr for Outlet {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (interface, file) = match text.split_once('=') {
            Some((interface, file)) => (Some(interface.to_owned()), file),
            None => (None, text),
        };
        Ok(Self { interface, file: file.into() })
    }
}

/// Makes every port of the configuration a device that reads or writes a file, or neither. What is read over and over
/// stays in packet buffers, so there are more of these.
///
/// # Errors
/// An outlet has no interface, or a file has a name that DPDK takes for something else.
pub(crate) fn put_in_place(
    config: &mut Config,
    capture: &Capture,
    entry: usize,
    again: bool,
    outlets: &[Outlet],
) -> anyhow::Result<()> {
    let sinks = sinks(config, entry, outlets)?;
    for ((number, interface), sink) in config.ethernet.iter_mut().enumerate().zip(sinks) {
        let mut arguments = String::new();
        if number == entry {
            arguments += &format!(",rx_pcap={}", device_argument(&capture.path)?);
            if again {
                arguments += ",infinite_rx=1";
            }
        }
        if let Some(file) = sink {
            arguments += &format!(",tx_pcap={}", device_argument(file)?);
        }
        interface.port = match arguments.is_empty() {
            true => format!("net_null{number},no-rx=1"),
            false => format!("net_pcap{number}{arguments}"),
        };
    }
    if again {
        let packets = u32::try_from(capture.packets).ok().filter(|packets| *packets <= MOST_AGAIN);
        let Some(packets) = packets else {
            bail!("{} packets are too many to be held in memory: {MOST_AGAIN} at most", capture.packets)
        };
        let largest = config.ethernet.iter().map(|interface| interface.mtu).max().unwrap_or_default();
        let buffers = packets + UNDER_WAY;
        let bytes = u64::from(buffers) * (u64::from(largest).next_multiple_of(1024) + BUFFER_OVERHEAD);
        config.dataplane.buffers = config.dataplane.buffers.max(buffers);
        config.dataplane.memory = config.dataplane.memory.max(u32::try_from(bytes >> 20)? + 64);
    }
    Ok(())
}

/// For each interface the file for what leaves by it, where there is one.
///
/// # Errors
/// An outlet has no interface, or an interface two outlets.
pub(crate) fn sinks<'a>(
    config: &Config,
    entry: usize,
    outlets: &'a [Outlet],
) -> anyhow::Result<Vec<Option<&'a Path>>> {
    let mut sinks: Vec<Option<&Path>> = vec![None; config.ethernet.len()];
    for outlet in outlets {
        let place = match &outlet.interface {
            Some(name) => config.ethernet.iter().position(|interface| interface.name == *name),
            None => other_than(entry, config.ethernet.len()),
        };
        let place =
            place.with_context(|| format!("no interface for the output {}", outlet.file.display()))?;
        ensure!(sinks[place].is_none(), "two outputs for {}", config.ethernet[place].name);
        sinks[place] = Some(&outlet.file);
    }
    Ok(sinks)
}

/// Packets of a file that is replayed over and over.
const MOST_AGAIN: u32 = 1 << 20;

/// The interface beside that where packets enter, if there is exactly one.
fn other_than(entry: usize, interfaces: usize) -> Option<usize> {
    let mut others = (0..interfaces).filter(|number| *number != entry);
    others.next().filter(|_| others.next().is_none())
}

/// A file's name as part of a device string.
fn device_argument(path: &Path) -> anyhow::Result<&str> {
    let name = path.to_str().filter(|name| !name.contains([',', '=']));
    name.with_context(|| format!("DPDK cannot take the file name {}", path.display()))
}
