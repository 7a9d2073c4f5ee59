//! `replay`: a capture file through the ports and the data plane of a configuration.

mod cable;
mod order;
mod ports;
mod tap;

use std::iter;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use dmvpn::devices::Devices;
use dmvpn::workers::{Crew, Rings};
use dmvpn_config::{Config, IdlePolicy};
use dmvpn_control::engine;
use dmvpn_control::host::Workers;
use dmvpn_dataplane::counters::{Counter, PortCounters};
use dmvpn_dataplane::{Counters, Stage};
use dmvpn_dpdk::{Clock, Port};
use dmvpn_esp::Kernel;
use dmvpn_tables::{PortId, Publisher};
use dmvpn_wire::{MacAddr, View, eth};

use self::cable::{Cables, Plug};
use self::order::Seen;
use self::ports::{Capture, Outlet};
use self::tap::{Findings, Gate, Tap};
use crate::generate::load;
use crate::machine::Machine;
use crate::progress;
use crate::report::{Case, Object, Report};
use crate::side_file::SideFile;
use crate::world::{World, is_underlay, station_mac};

/// Replay a capture file through DPDK ports and the data plane of a configuration.
///
/// Capture files take the place of the configuration's ports (DPDK's net_pcap), unless these are cabled to others: the
/// packets enter by the interface that they are addressed to. Peers, SAs and neighbors are those of the side file, in place of NHRP, IKE and ARP; everything
/// else is as `dmvpnd` makes it of the configuration.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The configuration of the box.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Packets to replay.
    #[arg(long, value_name = "FILE")]
    pcap: PathBuf,
    /// Peers, SAs and neighbors, as `gen` writes them.
    #[arg(long, value_name = "FILE")]
    sas: PathBuf,
    /// Where to write packets that leave by an interface; without a name, by the one other than that where they enter.
    #[arg(long = "output", value_name = "[ethN=]FILE")]
    outputs: Vec<Outlet>,
    /// Be the peers instead of the box: open what the box has sealed for them.
    #[arg(long)]
    mirror: bool,
    /// Use the ports of the configuration, and send and receive by the devices at the other ends of their cables: one for
    /// each interface.
    #[arg(long = "cable", value_name = "ethN=DEVICE", conflicts_with = "mirror")]
    cables: Vec<Plug>,
    /// With cables: so many packets a second, and not as many as the port takes.
    #[arg(long, value_name = "N", requires = "cables", value_parser = rate)]
    rate: Option<f64>,
    /// Replay the file so many times.
    #[arg(long = "loop", value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Replay the file over and over for so long.
    #[arg(long, value_name = "S", conflicts_with = "rounds")]
    seconds: Option<f64>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// How long nothing may happen before a replay is over.
const SILENCE: Duration = Duration::from_millis(500);
/// Between two looks at the worker.
const LOOK: Duration = Duration::from_micros(200);

fn rate(text: &str) -> anyhow::Result<f64> {
    let rate: f64 = text.parse()?;
    ensure!(rate.is_finite() && rate > 0.0, "a number of packets above 0");
    Ok(rate)
}

/// Replays the file, and reports.
///
/// # Errors
/// Files do not fit together, or DPDK does not start.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let time = arguments.seconds.map(Duration::try_from_secs_f64).transpose().context("--seconds")?;
    let mut side = SideFile::read(&arguments.sas)?;
    let mut config = load(&arguments.config)?;
    let mut near = macs(&config, &side, arguments.mirror)?;
    let by_cable = !arguments.cables.is_empty();
    let mut packets = Vec::new();
    let capture = Capture::read(&arguments.pcap, |packet| {
        if by_cable {
            packets.push(packet.to_vec());
        }
    })?;
    let entry = near.iter().position(|mac| *mac == capture.destination);
    let entry = entry.with_context(|| format!("no interface has the address {}", capture.destination))?;
    // One file is one queue.
    config.dataplane.workers.truncate(1);
    config.dataplane.idle = IdlePolicy::Busy;
    let mut opened = config.clone();
    if by_cable {
        cable::add_far_ends(&mut opened, &arguments.cables)?;
    } else {
        let again = arguments.rounds > 1 || arguments.seconds.is_some();
        ports::put_in_place(&mut opened, &capture, entry, again, &arguments.outputs)?;
    }
    let config = Arc::new(config);

    let Devices { eal, pool, mut ports, mut queues } = Devices::open(&opened)?;
    let clock = Clock::new(&eal);
    let kernel = Kernel::best();
    let mut cables = None;
    if let Some(queues) = queues.first_mut().filter(|_| by_cable) {
        let far_queues = queues.split_off(config.ethernet.len());
        let far = ports.split_off(config.ethernet.len());
        near = ports.iter().map(Port::mac).collect();
        side.readdress(&config, &near, &far.iter().map(Port::mac).collect::<Vec<_>>());
        let (into, load) = ((entry, near[entry]), (packets, arguments.rate.unwrap_or(f64::INFINITY)));
        cables = Some(Cables::new(&config, far_queues, pool.clone(), into, load, &arguments.outputs)?);
    }
    let mut world = match arguments.mirror {
        true => World::of_peers(&config, &side, kernel)?,
        false => {
            let near = iter::zip(&near, &ports).map(|(&mac, port)| engine::Port {
                mac,
                mtu: port.mtu(),
                by_addresses: false,
            });
            World::of_box(&config, &near.collect::<Vec<_>>(), &side, kernel)?
        }
    };
    let (mut publisher, readers) = Publisher::new(world.snapshot.clone(), queues.len());

    let (gate, (report, findings)) = (Arc::new(Gate::default()), mpsc::channel());
    let mut taps = Vec::new();
    for queues in queues {
        let tap = |(port, queue)| {
            let ticks = (move || clock.cycles(), clock.hz());
            Tap::new(port, queue, Arc::clone(&gate), ticks, report.clone())
        };
        taps.push(queues.into_iter().enumerate().map(tap).collect::<Result<Vec<_>, _>>()?);
    }
    drop(report);
    let (crew, rings) = Crew::start(&eal, &pool, &config.dataplane, taps, readers)?;
    let counters = crew.counters().next().context("no worker")?;
    let mut replay = Replay { gate, counters, rings, packets: capture.packets, cables };

    let bar = progress::bar(time.map_or(arguments.rounds, millis), "replay");
    let begin = Instant::now();
    let mut rounds = 0;
    loop {
        replay.round()?;
        rounds += 1;
        let over = match time {
            Some(time) => {
                bar.set_position(millis(begin.elapsed()));
                begin.elapsed() >= time
            }
            None => {
                bar.inc(1);
                rounds == arguments.rounds
            }
        };
        if over {
            break;
        }
        // What was accepted once would be a replay the next time.
        world.renew_inbound(&config, &side, kernel)?;
        let version = publisher.publish(world.snapshot.clone());
        while !publisher.adopted(version) {
            thread::sleep(LOOK);
        }
    }
    bar.finish_and_clear();
    let Replay { counters, rings, cables, .. } = replay;
    let refused: u64 = ports.iter().map(|port| port.stats().rx_chained).sum();
    drop((crew, rings));

    let settings = Object::default()
        .with("config", arguments.config.display().to_string())
        .with("pcap", arguments.pcap.display().to_string())
        .with("cpu", config.dataplane.workers.first().copied().unwrap_or_default());
    let machine = Machine::here(clock.hz(), config.dataplane.hugepages);
    let mut result = Report::new("replay", machine, settings);
    let summary = Summary {
        pcap: arguments.pcap.display().to_string(),
        mirror: arguments.mirror,
        rounds,
        refused,
        by_cable: cables.as_ref().map(|cables| (cables.offered, cables.returned)),
        lan: (0..config.ethernet.len()).find(|&interface| !is_underlay(&config, interface)),
        ports: config.ethernet.len(),
        hz: clock.hz() as f64,
    };
    result.push(summary.case(&counters, &findings.into_iter().collect::<Vec<_>>())?);
    result.print(arguments.json)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A worker with taps at its ports, as the main thread sees it.
struct Replay {
    gate: Arc<Gate>,
    counters: Arc<Counters>,
    rings: Rings,
    /// In the file.
    packets: u64,
    /// By which packets come and go, if they do not so by files.
    cables: Option<Cables>,
}

impl Replay {
    /// Lets the file's packets in once, and waits until they are through.
    fn round(&mut self) -> anyhow::Result<()> {
        let Self { gate, rings, cables, .. } = self;
        if let Some(cables) = cables {
            gate.open(u64::from(u32::MAX));
            return cables.round(|| while rings.poll_punt().is_some() {});
        }
        let goal = self.gate.entered() + self.packets;
        self.gate.open(self.packets);
        let (mut entered, mut since) = (self.gate.entered(), Instant::now());
        // The driver may have refused some.
        while entered < goal && since.elapsed() < SILENCE {
            self.wait();
            if self.gate.entered() != entered {
                (entered, since) = (self.gate.entered(), Instant::now());
            }
        }
        self.gate.close();
        // What has entered leaves by the end of the poll, or of a later one where a port is full.
        let polls = self.counters.polls.value() + 8;
        while self.counters.polls.value() < polls {
            self.wait();
        }
        Ok(())
    }

    /// Lets the worker work. Nobody needs what it punts, but it needs the buffers.
    fn wait(&mut self) {
        while self.rings.poll_punt().is_some() {}
        thread::sleep(LOOK);
    }
}

/// What a replay is reported by.
struct Summary {
    pcap: String,
    mirror: bool,
    rounds: u64,
    /// Packets that ports refused.
    refused: u64,
    /// Packets offered by cable, and come back.
    by_cable: Option<(u64, u64)>,
    /// The port where packets are plain, if there is one.
    lan: Option<usize>,
    ports: usize,
    /// Cycles per second.
    hz: f64,
}

impl Summary {
    fn case(&self, counters: &Counters, findings: &[Findings]) -> anyhow::Result<Case> {
        let port =
            |number: usize| u16::try_from(number).ok().and_then(|number| counters.port(PortId(number)));
        let total = |of: fn(&PortCounters) -> &Counter| -> u64 {
            (0..self.ports).filter_map(port).map(|port| of(port).value()).sum()
        };
        let (entered, left) = (total(|port| &port.rx_packets), total(|port| &port.tx_packets));
        let (offered, returned) = self.by_cable.unwrap_or((entered, left));
        let busy = counters.busy.value() as f64;
        let rate = |amount: f64| if busy > 0.0 { amount * self.hz / busy } else { 0.0 };
        let per_packet = |stages: &[Stage]| {
            let cycles: u64 = stages.iter().map(|&stage| counters.stage(stage).ticks.value()).sum();
            cycles as f64 / entered.max(1) as f64
        };
        let inner = self.lan.and_then(port).map(|lan| {
            let (packets, bytes) = match lan.rx_packets.value() {
                0 => (lan.tx_packets.value(), lan.tx_bytes.value()),
                packets => (packets, lan.rx_bytes.value()),
            };
            bytes.saturating_sub(packets * eth::Header::LEN as u64) as f64 * 8.0
        });

        let (mut latency, mut seen) = (None, Seen::default());
        for of_port in findings {
            seen += of_port.seen;
            match &mut latency {
                None => latency = Some(of_port.latency.clone()),
                Some(sum) => sum.add(&of_port.latency)?,
            }
        }
        let micros = |quantile: f64| {
            latency.as_ref().map(|latency| latency.value_at_quantile(quantile) as f64 * 1e6 / self.hz)
        };
        let drops = counters.drops().filter(|(_, count)| *count > 0);
        let drops = drops.map(|(reason, count)| format!("{} {count}", reason.name()));
        let punts =
            counters.punts().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}"));
        Ok(Case::of(Object::default().with("pcap", self.pcap.clone()).with("mirror", self.mirror))
            .figure("rounds", self.rounds)
            .figure("packets", offered)
            .figure("sent", returned)
            .figure("lost", offered.saturating_sub(returned))
            .figure("refused", self.refused)
            .figure("drops", counters.drops().map(|(_, count)| count).sum::<u64>())
            .figure("drop_reasons", drops.collect::<Vec<_>>().join(", "))
            .figure("punts", punts.collect::<Vec<_>>().join(", "))
            .figure("mpps", rate(entered as f64) / 1e6)
            .figure("gbps", inner.filter(|bits| *bits > 0.0).map(|bits| rate(bits) / 1e9))
            .figure("path_cycles_per_packet", per_packet(&PATH))
            .figure("port_cycles_per_packet", per_packet(&[Stage::Receive, Stage::Transmit]))
            .figure("flows", seen.flows)
            .figure("numbered", seen.numbered)
            .figure("gaps", seen.gaps)
            .figure("out_of_order", seen.out_of_order)
            .figure("p50_us", micros(0.5))
            .figure("p99_us", micros(0.99))
            .figure("p999_us", micros(0.999))
            .figure("max_us", micros(1.0)))
    }
}

/// The stages that are ours, and not those of ports and of taps at them.
const PATH: [Stage; 5] = [Stage::Ingress, Stage::Decrypt, Stage::Forward, Stage::Encrypt, Stage::Egress];

/// The Ethernet addresses of the ports, in order: those of the box, or of the stations beside it.
fn macs(config: &Config, side: &SideFile, mirror: bool) -> anyhow::Result<Vec<MacAddr>> {
    let names = config.ethernet.iter().map(|interface| &interface.name);
    names.map(|name| if mirror { station_mac(side, name) } else { side.mac(name) }).collect()
}
