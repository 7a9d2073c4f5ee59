//! Which cases a subcommand runs: the flags that all of them share.

use std::fmt;
use std::str::FromStr;

use anyhow::Context;
use clap::{Args, ValueEnum};
use dmvpn_esp::{Kernel, Suite};
use indicatif::{ProgressBar, ProgressStyle};
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
    #[arg(long, value_name = "S", default_value = "2")]
    pub(crate) seconds: f64,
    /// What every random choice comes from.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) seed: u64,
    /// The CPU to run on; the last one, if not given.
    #[arg(long, value_name = "N")]
    pub(crate) cpu: Option<usize>,
    /// Use these kernels: the fastest with this text in their description, instead of the fastest of all.
    #[arg(long, value_name = "NAME")]
    pub(crate) kernel: Option<NamedKernel>,
    /// JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
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
    /// The CPU to run on.
    ///
    /// # Errors
    /// The operating system does not say which there are.
    pub(crate) fn cpu(&self) -> anyhow::Result<usize> {
        let last = || core_affinity::get_core_ids()?.last().map(|core| core.id);
        self.cpu.or_else(last).context("no CPU known: say --cpu")
    }

    /// What all cases have in common, for the report.
    pub(crate) fn settings(&self, cpu: usize) -> Object {
        Object::default()
            .with("seed", self.seed)
            .with("seconds", self.seconds)
            .with("cpu", cpu)
            .with("kernel", self.kernel().to_string())
    }

    /// A bar on the terminal that fills as cases are done.
    pub(crate) fn progress(&self) -> ProgressBar {
        let cases = self.suites.len() * self.directions.len() * self.sizes.len() * self.peers.len();
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}");
        let bar = ProgressBar::new(cases as u64);
        style.into_iter().for_each(|style| bar.set_style(style));
        bar
    }

    /// The kernels to use.
    pub(crate) fn kernel(&self) -> Kernel {
        self.kernel.map_or_else(Kernel::best, |kernel| kernel.0)
    }
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
        let contains = |kernel: &Kernel| kernel.to_string().to_lowercase().contains(&name.to_lowercase());
        Kernel::available().filter(contains).last().map(Self).context("this CPU has no such kernel")
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
    }
}
