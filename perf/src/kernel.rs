//! `kernel`: the ESP kernels alone, beside libraries.

use std::rc::Rc;

use anyhow::{Context, ensure};
use clap::Args;
use dmvpn_dataplane::Buffer;
use dmvpn_dataplane::frame::FRAME_SIZE;
use dmvpn_dpdk::{Clock, Mbuf, Mempool};

use crate::bare;
use crate::cases::{Cases, Direction, Setup, Size};
use crate::library::{Library, Name, Packet};
use crate::network::{Network, WAN_MTU, Way};
use crate::progress;
use crate::report::{Case, Report};
use crate::rig::Rig;
use crate::stats::{Samples, fit, in_turns, median_of_each};
use crate::traffic::{ESP, Flow, Traffic, seal_at_spokes};

/// The bare kernels: sealing (encap) and opening (decap) of packets that lie ready, every one of another peer, or opening and
/// sealing anew (hairpin). The limit that the path is held against.
///
/// A size is that of the inner IPv4 packet; ESP carries that and 8 bytes of GRE, as on the path.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    cases: Cases,
    /// Libraries to run in turns with the kernels, on the same packets. They find header, IV, padding and trailer in place,
    /// and count no sequence numbers.
    #[arg(long, value_delimiter = ',')]
    against: Vec<Name>,
}

/// What is measured where nothing is said.
pub(crate) fn defaults(command: clap::Command) -> clap::Command {
    command.mut_arg("directions", |argument| argument.default_value("encap,decap"))
}

/// Packets by which a library is checked.
const CHECKED: usize = 256;
/// Batches of a turn. What a turn took is the median of them.
const BATCHES: usize = 8;
const BUFFERS: u32 = 4096;

/// Runs all cases.
///
/// # Errors
/// The machine does not let us, a library is not there, or does not make the same of a packet as the kernels.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let cases = &arguments.cases;
    ensure!(
        arguments.against.is_empty() || !cases.directions.contains(&Direction::Hairpin),
        "libraries either seal or open: --against goes with --direction encap,decap"
    );
    let rig = Rig::start(Vec::new())?;
    let cpus = cases.cpus(1)?;
    let _pinned = rig.pin(cpus[0])?;
    let pool = Mempool::new(&rig.eal, BUFFERS, WAN_MTU)?;
    let mut report = Report::new("kernel", rig.machine(), cases.settings(&cpus));
    let setups = cases.setups();
    let progress = progress::bar(setups.len() as u64, "kernel");
    // Cases that differ in size alone follow each other.
    for of_one_line in setups.chunks(cases.sizes.len()) {
        let mut points = Vec::new();
        for &setup in of_one_line {
            for (variant, (case, cycles)) in measure(&rig, &pool, setup, arguments)?.into_iter().enumerate() {
                report.push(case);
                if let Size::Bytes(len) = setup.size
                    && variant == 0
                {
                    points.push((len as f64, cycles));
                }
            }
            progress.inc(1);
        }
        if let Some((slope, intercept)) = fit(&points) {
            let line = of_one_line[0].identity().with_other("size", "fit");
            report.push(
                Case::of(line).figure("cycles_per_byte", slope).figure("cycles_per_packet_fixed", intercept),
            );
        }
    }
    progress.finish_and_clear();
    report.print(cases.json)
}

/// Measures a case, and its variant if there is one; with its cycles per packet.
fn measure(
    rig: &Rig,
    pool: &Mempool,
    setup: Setup,
    arguments: &Arguments,
) -> anyhow::Result<Vec<(Case, f64)>> {
    let variants = arguments.cases.variants(setup);
    let seed = arguments.cases.seed;
    let mut contenders = Vec::new();
    for (_, setup) in &variants {
        let network = Network::new(setup.kernel, setup.suite.0, setup.peers, 1, seed)?;
        contenders.push(Contender::new(rig.clock, pool, *setup, Rc::new(network), None, seed));
    }
    let network = Rc::clone(&contenders[0].network);
    let mut loaded = Vec::new();
    for &name in &arguments.against {
        let way = if setup.direction == Direction::Encap { Way::ToSpoke } else { Way::ToHub };
        let keys: Vec<_> = (0..setup.peers).map(|spoke| network.keymat(spoke, way)).collect();
        let Some(mut library) = name.load(setup.suite.0, &keys)? else { continue };
        check(&network, pool, setup.direction, &mut *library)
            .with_context(|| format!("{} does not do as we do", name.text()))?;
        contenders.push(Contender::new(rig.clock, pool, setup, Rc::clone(&network), Some(library), seed));
        loaded.push(name);
    }
    let figures = in_turns(rig.clock, arguments.cases.time(), &mut contenders, Contender::turn)?;
    let figures: Vec<&Samples> = figures.iter().map(|[cycles]| cycles).collect();
    let (ours, theirs) = figures.split_at(variants.len());
    let mut results = Vec::new();
    for (number, ((name, setup), cycles)) in variants.into_iter().zip(ours).enumerate() {
        let mut identity = setup.identity();
        if let Some(name) = name {
            identity = identity.with("setting", name);
        }
        let ns = |cycles: &Samples| cycles.typical() * 1e9 / rig.hz();
        let mut case = Case::of(identity)
            .figure("mpps", 1e3 / ns(cycles))
            .figure("gbps", setup.size.mean() * 8.0 / ns(cycles))
            .figure("ns_per_packet", ns(cycles))
            .figure("cycles_per_packet", cycles.typical())
            // So that programs find in every case of `kernel` and `path` the same. A packet that is refused ends the run.
            .figure("ratio_to_kernel", 1.0)
            .figure("drops", 0)
            .figure("median_cycles", cycles.median())
            .figure("spread", cycles.spread())
            .figure("rounds", cycles.len());
        if number > 0 {
            case = case.figure("throughput_to_first", ours[0].ratio(cycles));
        }
        for (name, cycles) in loaded.iter().zip(theirs) {
            case = case.figure(name.ns(), ns(cycles));
        }
        let best = loaded.iter().zip(theirs).min_by(|a, b| f64::total_cmp(&a.1.typical(), &b.1.typical()));
        if let Some((name, best)) = best {
            case = case.figure("best_library", name.text()).figure("ratio_to_best", best.ratio(cycles));
        }
        results.push((case, cycles.typical()));
    }
    Ok(results)
}

/// Our kernels or a library, with SAs and packets of its own.
struct Contender {
    clock: Clock,
    pool: Mempool,
    setup: Setup,
    network: Rc<Network>,
    traffic: Traffic,
    /// The kernels, if none.
    library: Option<Box<dyn Library>>,
}

impl Contender {
    fn new(
        clock: Clock,
        pool: &Mempool,
        setup: Setup,
        network: Rc<Network>,
        library: Option<Box<dyn Library>>,
        seed: u64,
    ) -> Self {
        let traffic = Traffic::new(setup.direction, setup.size, &network, seed);
        Self { clock, pool: pool.clone(), setup, network, traffic, library }
    }

    /// So many batches that the caches hold what they would if there was nothing else.
    fn turn(&mut self) -> anyhow::Result<[f64; 1]> {
        let Self { clock, pool, setup, network, traffic, library } = self;
        let packets = setup.size.batch();
        let batch = |_| {
            let cycles = match library {
                None => bare::cycles(*clock, network, traffic, pool, packets, setup.burst),
                Some(library) => library_cycles(*clock, network, traffic, pool, packets, &mut **library),
            };
            cycles.map(|cycles| [cycles as f64 / packets as f64])
        };
        Ok(median_of_each(&(0..BATCHES).map(batch).collect::<Result<Vec<_>, _>>()?))
    }
}

/// Cycles that a library takes for a batch, all of which it may have in flight.
fn library_cycles(
    clock: Clock,
    network: &Network,
    traffic: &mut Traffic,
    pool: &mut Mempool,
    packets: usize,
    library: &mut dyn Library,
) -> anyhow::Result<u64> {
    let flows: Vec<Flow> = (0..packets).map(|_| traffic.next()).collect();
    let mut frames = flows.iter().map(|flow| flow.wan_frame(network, pool)).collect::<Result<Vec<_>, _>>()?;
    let opens = traffic.direction() == Direction::Decap;
    if opens {
        seal_at_spokes(network, &mut frames, &flows)?;
    } else {
        frames.iter_mut().zip(&flows).for_each(|(frame, flow)| flow.finish_plaintext(network.suite, frame));
    }
    let mut packets = described(&mut frames, &flows);
    let begin = clock.cycles();
    let good = if opens { library.open(&mut packets) } else { library.seal(&mut packets) };
    let cycles = clock.cycles() - begin;
    ensure!(good, "a packet was refused");
    Ok(cycles)
}

fn described<'a>(frames: &'a mut [Mbuf], flows: &[Flow]) -> Vec<Packet<'a>> {
    let sa = |flow: &Flow| flow.from.or(flow.to).unwrap_or_default() as usize;
    let packets = frames.iter_mut().zip(flows);
    packets.map(|(frame, flow)| Packet { sa: sa(flow), bytes: &mut frame.bytes_mut()[ESP..] }).collect()
}

/// Checks that a library makes of packets what the kernels make of them, bit by bit, and that it refuses a damaged one.
fn check(
    network: &Network,
    pool: &Mempool,
    direction: Direction,
    library: &mut dyn Library,
) -> anyhow::Result<()> {
    let pool = &mut pool.clone();
    let mut traffic = Traffic::new(direction, Size::Imix, network, 0);
    let flows: Vec<Flow> = (0..CHECKED).map(|_| traffic.next()).collect();
    let mut ours = flows.iter().map(|flow| flow.wan_frame(network, pool)).collect::<Result<Vec<_>, _>>()?;
    let mut plain = Vec::new();
    for (frame, flow) in ours.iter_mut().zip(&flows) {
        flow.finish_plaintext(network.suite, frame);
        plain.push(frame.bytes().to_vec());
    }
    if direction == Direction::Encap {
        let bursts = ours.chunks_mut(FRAME_SIZE).zip(flows.chunks(FRAME_SIZE));
        for (frames, flows) in bursts {
            bare::seal_all(network, frames, flows)?;
        }
    } else {
        seal_at_spokes(network, &mut ours, &flows)?;
    }

    // Header and IV are what we chose.
    let head = ESP..ESP + network.suite.payload_offset();
    let mut theirs = Vec::new();
    for ((frame, flow), plain) in ours.iter().zip(&flows).zip(&mut plain) {
        plain[head.clone()].copy_from_slice(&frame.bytes()[head.clone()]);
        let mut copy = flow.wan_frame(network, pool)?;
        copy.bytes_mut().copy_from_slice(plain);
        theirs.push(copy);
    }
    ensure!(library.seal(&mut described(&mut theirs, &flows)), "it refuses to seal");
    let same = |a: &Mbuf, b: &Mbuf| a.bytes() == b.bytes();
    ensure!(ours.iter().zip(&theirs).all(|(a, b)| same(a, b)), "it seals otherwise");
    ensure!(library.open(&mut described(&mut theirs, &flows)), "it refuses to open");
    let text = |frame: &[u8]| frame[..frame.len() - network.suite.icv_len()].to_vec();
    ensure!(theirs.iter().zip(&plain).all(|(a, b)| text(a.bytes()) == text(b)), "it opens otherwise");
    ours[CHECKED / 2].bytes_mut()[ESP + network.suite.payload_offset()] ^= 1;
    ensure!(!library.open(&mut described(&mut ours, &flows)), "it opens what is damaged");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use dmvpn_esp::Kernel;

    use super::*;
    use crate::cases::NamedSuite;

    /// All that this program was built with, in every suite that it names; and the check tells one from another.
    #[test]
    fn libraries_do_as_we_do() {
        let rig = Rig::for_tests();
        let _known = rig.eal.register_thread();
        let pool = Mempool::new(&rig.eal, BUFFERS, WAN_MTU).unwrap();
        let mut checked = 0;
        for suite in ["aes256-sha1", "aes128-sha1", "aes256-sha256", "aes256gcm", "aes128gcm", "3des-md5"] {
            let suite = suite.parse::<NamedSuite>().unwrap().0;
            let network = Network::new(Kernel::best(), suite, 3, 1, 7).unwrap();
            for (direction, way) in [(Direction::Encap, Way::ToSpoke), (Direction::Decap, Way::ToHub)] {
                let keys = |way| (0..3).map(|spoke| network.keymat(spoke, way)).collect::<Vec<_>>();
                for &name in Name::value_variants() {
                    // What it was built without is an error.
                    let Ok(Some(mut library)) = name.load(suite, &keys(way)) else { continue };
                    check(&network, &pool, direction, &mut *library).unwrap();
                    let other = if direction == Direction::Encap { Way::ToHub } else { Way::ToSpoke };
                    let mut library = name.load(suite, &keys(other)).unwrap().unwrap();
                    assert!(check(&network, &pool, direction, &mut *library).is_err());
                    checked += 1;
                }
            }
        }
        assert!(checked >= 12, "RustCrypto is always there");
    }
}
