//! Which cases a subcommand runs: the flags that all of them share.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum, value_parser};
use dmvpn_dataplane::frame::FRAME_SIZE;
use dmvpn_esp::{Kernel, Suite};
use serde_json::Value;

use crate::report::Object;

/// Flags that choose cases. Where several values are given, every combination is a case.
#[derive(Debug, Clone, Args)]
pub(crate) struct Cases {
    /// Cipher suites: aes256-sha1, aes128-sha1, aes256-sha256, aes256gcm, aes128gcm, 3des-md5 and so on, or null.
    #[arg(
        long = "suite",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "aes256-sha1,aes256gcm"
    )]
    pub(crate) suites: Vec<NamedSuite>,
    /// Ways through the box.
    #[arg(long = "direction", value_delimiter = ',', default_value = "encap,decap,hairpin")]
    pub(crate) directions: Vec<Direction>,
    /// Lengths of the inner IPv4 packet in bytes, or imix.
    #[arg(
        long = "size",
        value_name = "N|imix",
        value_delimiter = ',',
        default_value = "64,256,576,1400,imix"
    )]
    pub(crate) sizes: Vec<Size>,
    /// Peers, each with SAs of its own; every packet is of another one, at random.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,1000")]
    pub(crate) peers: Vec<u32>,
    /// Time to measure a case for.
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    pub(crate) seconds: f64,
    /// What every random choice comes from.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) seed: u64,
    /// The CPU to run on; the last one, if not given.
    #[arg(long, value_name = "N")]
    pub(crate) cpu: Option<usize>,
    /// Use these kernels: the fastest with this text in their description, instead of the fastest of all. Several texts are
    /// joined by +, and one that must not be there begins with !, as in 'vaes-256+!avx-512'.
    #[arg(long, value_name = "NAME")]
    pub(crate) kernel: Option<NamedKernel>,
    /// Packets that a port gives at a time.
    #[arg(long, value_name = "N", default_value = "32", value_parser = value_parser!(u16).range(1..=FRAME_SIZE as i64))]
    pub(crate) burst: u16,
    /// Run every case with one thing changed, too, in turns with the case as it is: suite, size, peers, burst or kernel.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) ab: Option<Change>,
    /// JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What decides the figures of a case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) suite: NamedSuite,
    pub(crate) direction: Direction,
    pub(crate) size: Size,
    pub(crate) peers: u32,
    pub(crate) kernel: Kernel,
    pub(crate) burst: usize,
}

/// One thing that is different in a [`Setup`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    text: String,
    to: To,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Suite(NamedSuite),
    Size(Size),
    Peers(u32),
    Burst(usize),
    Kernel(NamedKernel),
}

/// A way through the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Direction {
    /// From the LAN into the tunnel.
    Encap,
    /// From the tunnel to the LAN.
    Decap,
    /// From a spoke through the hub to another spoke.
    Hairpin,
}

/// A cipher suite by its name; `null` is none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NamedSuite(pub(crate) Suite);

/// A choice of kernels by part of its description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NamedKernel(pub(crate) Kernel);

/// Lengths of the inner IPv4 packets of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// All the same.
    Bytes(usize),
    /// The simple Internet mix: see [`IMIX`].
    Imix,
}

/// Lengths of inner packets of the mix, and how many of each are among 48 packets: the Ethernet frames of the Internet
/// mix (64, 570 and 1518 bytes with FCS) without Ethernet header and FCS.
pub(crate) const IMIX: [(usize, usize); 3] = [(46, 28), (552, 16), (LARGEST, 4)];

/// The smallest inner packet: an IPv4 and a UDP header.
pub(crate) const SMALLEST: usize = 28;

/// The largest inner packet: what a LAN with an MTU of 1500 sends.
pub(crate) const LARGEST: usize = 1500;

impl Cases {
    /// Every combination of what was given.
    pub(crate) fn setups(&self) -> Vec<Setup> {
        let (kernel, burst) = (self.kernel(), self.burst.into());
        let mut setups = Vec::new();
        for &suite in &self.suites {
            for &peers in &self.peers {
                for &direction in &self.directions {
                    for &size in &self.sizes {
                        setups.push(Setup { suite, direction, size, peers, kernel, burst });
                    }
                }
            }
        }
        setups
    }

    /// A case as it is, and the same with what `--ab` changes: each with a name, if there are two.
    pub(crate) fn variants(&self, setup: Setup) -> Vec<(Option<String>, Setup)> {
        match &self.ab {
            None => vec![(None, setup)],
            Some(change) => {
                vec![(Some("as it is".to_owned()), setup), (Some(change.text.clone()), change.apply(setup))]
            }
        }
    }

    /// CPUs for so many workers, the one asked for first. (Of those that the calling thread may use: ask before it is pinned.)
    ///
    /// # Errors
    /// There are not so many.
    pub(crate) fn cpus(&self, workers: usize) -> anyhow::Result<Vec<usize>> {
        let all: Vec<_> =
            core_affinity::get_core_ids().unwrap_or_default().iter().rev().map(|core| core.id).collect();
        let first = self.cpu.or_else(|| all.first().copied()).context("no CPU known: say --cpu")?;
        let others = all.into_iter().filter(|&cpu| cpu != first);
        let cpus: Vec<_> = [first].into_iter().chain(others).take(workers).collect();
        ensure!(cpus.len() == workers, "{workers} workers need as many CPUs");
        Ok(cpus)
    }

    /// What all cases have in common, for the report.
    pub(crate) fn settings(&self, cpus: &[usize]) -> Object {
        Object::default()
            .with("seed", self.seed)
            .with("seconds", self.seconds)
            .with("cpus", cpus)
            .with("burst", self.burst)
            .with("kernel", self.kernel().to_string())
    }

    /// For measurements in which the engine makes the SAs, which chooses the kernels itself.
    ///
    /// # Errors
    /// Other kernels are asked for.
    pub(crate) fn ensure_no_kernel(&self) -> anyhow::Result<()> {
        let changed = self.ab.as_ref().is_some_and(|change| matches!(change.to, To::Kernel(_)));
        ensure!(
            self.kernel.is_none() && !changed,
            "here the control plane chooses the kernels: only `kernel` and `path` run others"
        );
        Ok(())
    }

    /// Time to measure a case for.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// The kernels to use.
    fn kernel(&self) -> Kernel {
        self.kernel.map_or_else(Kernel::best, |kernel| kernel.0)
    }
}

impl Setup {
    /// Which case it is, in a report.
    pub(crate) fn identity(&self) -> Object {
        Object::default()
            .with("suite", self.suite.name())
            .with("direction", self.direction.name())
            .with("size", self.size.value())
            .with("peers", self.peers)
    }
}

impl Change {
    fn apply(&self, mut setup: Setup) -> Setup {
        match self.to {
            To::Suite(suite) => setup.suite = suite,
            To::Size(size) => setup.size = size,
            To::Peers(peers) => setup.peers = peers,
            To::Burst(burst) => setup.burst = burst,
            To::Kernel(kernel) => setup.kernel = kernel.0,
        }
        setup
    }
}

impl FromStr for Change {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').context("not NAME=VALUE")?;
        let to = match name {
            "suite" => To::Suite(value.parse()?),
            "size" => To::Size(value.parse().map_err(anyhow::Error::msg)?),
            "peers" => To::Peers(value.parse()?),
            "burst" => To::Burst(value.parse()?),
            "kernel" => To::Kernel(value.parse()?),
            _ => bail!("none of suite, size, peers, burst and kernel"),
        };
        ensure!(
            !matches!(to, To::Burst(burst) if !(1..=FRAME_SIZE).contains(&burst)),
            "a burst is 1 to {FRAME_SIZE}"
        );
        Ok(Self { text: text.to_owned(), to })
    }
}

fn seconds(text: &str) -> anyhow::Result<f64> {
    let seconds: f64 = text.parse()?;
    ensure!((0.01..=1e6).contains(&seconds), "from 0.01 to a million");
    Ok(seconds)
}

impl Direction {
    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Encap => "encap",
            Self::Decap => "decap",
            Self::Hairpin => "hairpin",
        }
    }
}

impl NamedSuite {
    /// Its name in reports.
    pub(crate) fn name(self) -> String {
        if self.0 == Suite::null() { "null".to_owned() } else { self.0.to_string() }
    }
}

impl FromStr for NamedSuite {
    type Err = dmvpn_esp::SuiteError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name == "null" { Ok(Self(Suite::null())) } else { name.parse().map(Self) }
    }
}

impl FromStr for NamedKernel {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let name = name.to_lowercase();
        let is_meant = |kernel: &Kernel| {
            let text = kernel.to_string().to_lowercase();
            name.split('+').all(|part| match part.strip_prefix('!') {
                Some(part) => !text.contains(part),
                None => text.contains(part),
            })
        };
        Kernel::available().filter(is_meant).last().map(Self).context("this CPU has no such kernel")
    }
}

impl Size {
    /// Length of packet number `n` of an endless row of them: of 48 in a row, each length has its share, evenly spread.
    pub(crate) fn of_packet(self, n: usize) -> usize {
        match self {
            Self::Bytes(len) => len,
            Self::Imix => match n % 12 {
                2 | 5 | 8 | 11 => IMIX[1].0,
                6 => IMIX[2].0,
                _ => IMIX[0].0,
            },
        }
    }

    /// How many packets are prepared, and then timed. Of the mix each length has its share in every batch.
    pub(crate) fn batch(self) -> usize {
        match self {
            Self::Bytes(_) => 256,
            Self::Imix => 288,
        }
    }

    /// The length of a packet on average.
    pub(crate) fn mean(self) -> f64 {
        match self {
            Self::Bytes(len) => len as f64,
            Self::Imix => {
                let (bytes, count) =
                    IMIX.iter().fold((0, 0), |(bytes, count), (len, n)| (bytes + len * n, count + n));
                bytes as f64 / count as f64
            }
        }
    }

    /// As a value of a report: a number of bytes, or "imix".
    pub(crate) fn value(self) -> Value {
        match self {
            Self::Bytes(len) => len.into(),
            Self::Imix => "imix".into(),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(len @ SMALLEST..=LARGEST) => Ok(Self::Bytes(len)),
            Err(_) if text == "imix" => Ok(Self::Imix),
            _ => Err(format!("neither a number of bytes from {SMALLEST} to {LARGEST} nor imix")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(len) => write!(f, "{len}"),
            Self::Imix => f.write_str("imix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_has_its_shares_in_every_48_packets() {
        for first in [0, 7] {
            let lens: Vec<_> = (first..first + 48).map(|n| Size::Imix.of_packet(n)).collect();
            for (len, share) in IMIX {
                assert_eq!(lens.iter().filter(|&&l| l == len).count(), share, "{len}");
            }
            let mean = lens.iter().sum::<usize>() as f64 / 48.0;
            assert!((Size::Imix.mean() - mean).abs() < 1e-9);
        }
        assert_eq!(Size::Imix.batch() % 48, 0);
    }

    #[test]
    fn names() {
        for name in
            ["aes256-sha1", "aes128-sha1", "aes256-sha256", "aes256gcm", "aes128gcm", "3des-md5", "null"]
        {
            assert_eq!(name.parse::<NamedSuite>().unwrap().name(), name);
        }
        assert_eq!("imix".parse(), Ok(Size::Imix));
        assert_eq!("1400".parse(), Ok(Size::Bytes(1400)));
        assert!(["27", "1501", "mix", ""].iter().all(|text| text.parse::<Size>().is_err()));
        assert!("PORTABLE".parse::<NamedKernel>().is_ok());
        assert!("abacus".parse::<NamedKernel>().is_err());
        assert!("portable+!portable".parse::<NamedKernel>().is_err());
        let kernel = |name: &str| name.parse::<NamedKernel>().unwrap();
        assert_eq!(kernel("portable+!abacus"), kernel("portable"));
    }

    #[test]
    fn a_change_is_of_one_thing() {
        let setup = Setup {
            suite: "null".parse().unwrap(),
            direction: Direction::Encap,
            size: Size::Imix,
            peers: 7,
            kernel: Kernel::best(),
            burst: 32,
        };
        let applied = |text: &str| text.parse::<Change>().unwrap().apply(setup);
        assert_eq!((applied("peers=9").peers, applied("peers=9").burst), (9, 32));
        assert_eq!((applied("burst=64").peers, applied("burst=64").burst), (7, 64));
        assert_eq!(applied("size=64").size, Size::Bytes(64));
        assert_eq!(applied("suite=aes128gcm").suite.name(), "aes128gcm");
        assert_eq!(applied("kernel=portable").suite.name(), "null");
        for text in ["peers", "peers=x", "burst=0", "burst=65", "colour=red"] {
            assert!(text.parse::<Change>().is_err(), "{text}");
        }
    }
}
