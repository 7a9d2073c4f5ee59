//! The machine that figures are from, as every report names it.

use std::fmt;
use std::fs;

use dmvpn_dpdk::Eal;
use dmvpn_esp::Kernel;
use serde::Serialize;

/// Instruction sets that the kernels could make use of.
const FLAGS: [&str; 16] = [
    "aes",
    "avx2",
    "avx512bw",
    "avx512f",
    "avx512ifma",
    "avx512vbmi",
    "avx512vl",
    "bmi2",
    "gfni",
    "movdir64b",
    "pclmulqdq",
    "sha_ni",
    "ssse3",
    "vaes",
    "vpclmulqdq",
    "hypervisor",
];

/// What figures depend on, besides the program.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    /// Those of [`FLAGS`] that the CPU has.
    flags: Vec<String>,
    tsc_hz: u64,
    /// The kernels that would be chosen for it.
    kernel: String,
    hugepages: bool,
    rustc: &'static str,
    dpdk: String,
    /// Of this program.
    version: &'static str,
}

impl Machine {
    /// This machine.
    pub(crate) fn here(tsc_hz: u64, hugepages: bool) -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let has = field(&info, "flags");
        let flags = FLAGS.iter().filter(|flag| has.split_whitespace().any(|has| has == **flag));
        Self {
            cpu: field(&info, "model name").to_owned(),
            cores: info.lines().filter(|line| line.starts_with("processor")).count(),
            flags: flags.map(ToString::to_string).collect(),
            tsc_hz,
            kernel: Kernel::best().to_string(),
            hugepages,
            rustc: env!("DMVPN_RUSTC"),
            dpdk: Eal::version(),
            version: env!("DMVPN_VERSION"),
        }
    }

    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        Self::here(2_000_000_000, false)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, flags, tsc_hz, kernel, hugepages, rustc, dpdk, version } = self;
        let memory = if *hugepages { "hugepages" } else { "ordinary pages" };
        writeln!(f, "{cpu}, {cores} CPUs, TSC {:.0} MHz, {memory}", *tsc_hz as f64 / 1e6)?;
        writeln!(f, "{}", flags.join(" "))?;
        writeln!(f, "{kernel}")?;
        write!(f, "dmvpn-perf {version}, {rustc}, {dpdk}")
    }
}

/// A field of the first CPU in /proc/cpuinfo.
fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(field, value)| (field.trim() == name).then(|| value.trim()))
        .unwrap_or("unknown")
}
