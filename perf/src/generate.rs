//! `gen`: capture files with generated traffic, and what a box needs to know to forward it.

pub(crate) mod peers;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use dmvpn_config::Config;
use dmvpn_esp::Kernel;
use ipnetwork::Ipv4Network;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

use self::peers::Wish;
use crate::cases::{Direction, NamedSuite, Size};
use crate::marked::{self, Lan, Mark, Peers};
use crate::progress;
use crate::report;
use crate::side_file::SideFile;

/// Write capture files: packets of a LAN for peers, and ESP of peers for the box; with keys, for `replay`.
///
/// The files are lan.pcap (encap), wan.pcap (decap) and hairpin.pcap, sas.toml with peers and SAs, and hub.toml where no
/// configuration is given. The same arguments give the same bytes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder to write to.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    output: PathBuf,
    /// The configuration of the box that the traffic is for. Without, one is written, too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which ways the packets go: one capture file for each.
    #[arg(long = "direction", value_delimiter = ',', default_value = "encap,decap")]
    directions: Vec<Direction>,
    /// The cipher suite of all SAs.
    #[arg(long, value_name = "NAME", default_value = "aes256-sha1")]
    suite: NamedSuite,
    /// Length of the inner IPv4 packets in bytes, or imix.
    #[arg(long, value_name = "N|imix", default_value = "imix")]
    size: Size,
    /// Peers, each with SAs of its own; every packet is of another one, at random.
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    peers: u32,
    /// Packets in each file.
    #[arg(long, value_name = "N", default_value = "100000")]
    count: u32,
    /// What every random choice comes from.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// All peers are behind NATs: ESP in UDP.
    #[arg(long)]
    nat: bool,
    /// Where the peers' underlay addresses are.
    #[arg(long, value_name = "A.B.C.D/len", default_value = peers::UNDERLAY)]
    underlay: Ipv4Network,
    /// Where the networks behind the peers are.
    #[arg(long, value_name = "A.B.C.D/len", default_value = peers::NETWORKS)]
    networks: Ipv4Network,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// A hub with room for a million peers.
const HUB: &str = include_str!("generate/hub.toml");

/// Writes the files.
///
/// # Errors
/// The configuration does not fit, or files cannot be written.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = &arguments.output;
    if let Size::Bytes(len) = arguments.size {
        ensure!(
            len >= marked::SHORTEST,
            "--size {len}: a packet with a mark has {} bytes at least",
            marked::SHORTEST
        );
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let config = match &arguments.config {
        Some(file) => load(file)?,
        None => {
            let file = folder.join("hub.toml");
            let other = fs::read(&file).is_ok_and(|text| text != HUB.as_bytes());
            ensure!(
                !other,
                "{0} is there already, and another one: give it by --config {0}, or choose another folder by --output",
                file.display()
            );
            fs::write(&file, HUB).with_context(|| format!("cannot write {}", file.display()))?;
            load(&file)?
        }
    };
    let wish = Wish {
        peers: arguments.peers,
        suite: arguments.suite,
        seed: arguments.seed,
        nat: arguments.nat,
        underlay: arguments.underlay,
        networks: arguments.networks,
    };
    let side = peers::invent(&config, &wish)?;
    side.write(&folder.join("sas.toml"))?;

    let mut generator = Generator::new(&config, &side, arguments)?;
    let mut files = Vec::new();
    for &direction in &arguments.directions {
        files.push(generator.write(direction, &folder.join(file_name(direction)))?);
    }
    if arguments.json {
        let files: Vec<_> = files.into_iter().map(serde_json::Map::from_iter).collect();
        writeln!(
            io::stdout(),
            "{}",
            serde_json::to_string_pretty(&json!({ "command": "gen", "files": files }))?
        )?;
    } else {
        let rows = files.iter().map(|file| file.iter().map(|(name, value)| (&**name, value)).collect());
        writeln!(io::stdout(), "{}", report::table(&rows.collect::<Vec<_>>()))?;
    }
    Ok(())
}

/// Reads a configuration, and says everything that is wrong with it.
///
/// # Errors
/// It cannot be used.
pub(crate) fn load(file: &Path) -> anyhow::Result<Config> {
    let examined = dmvpn_config::examine(file);
    for finding in &examined.diagnostics {
        eprintln!("{finding}\n");
    }
    let Some(config) = examined.config else { bail!("{} cannot be used", file.display()) };
    Ok(config)
}

fn file_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Encap => "lan.pcap",
        Direction::Decap => "wan.pcap",
        Direction::Hairpin => "hairpin.pcap",
    }
}

/// Makes packets.
struct Generator<'a> {
    side: &'a SideFile,
    arguments: &'a Arguments,
    lan: Lan,
    peers: Peers,
    random: ChaCha20Rng,
}

impl<'a> Generator<'a> {
    fn new(config: &Config, side: &'a SideFile, arguments: &'a Arguments) -> anyhow::Result<Self> {
        Ok(Self {
            side,
            arguments,
            lan: Lan::new(config, side)?,
            peers: Peers::new(config, side, Kernel::best())?,
            random: ChaCha20Rng::seed_from_u64(arguments.seed),
        })
    }

    /// Writes a capture file, with a packet every microsecond; what is in it.
    fn write(&mut self, direction: Direction, path: &Path) -> anyhow::Result<Vec<(String, Value)>> {
        let problem = || format!("cannot write {}", path.display());
        let file = BufWriter::new(File::create(path).with_context(problem)?);
        let mut writer = PcapWriter::new(file).with_context(problem)?;
        let bar = progress::bar(self.arguments.count.into(), file_name(direction));
        let mut numbers = vec![0; self.side.peers.len()];
        let (mut bytes, mut inner_bytes) = (0, 0);
        for n in 0..self.arguments.count {
            let len = self.arguments.size.of_packet(n as usize);
            let frame = self.frame(direction, len, &mut numbers)?;
            bytes += frame.len();
            inner_bytes += len;
            let len = u32::try_from(frame.len())?;
            let packet = PcapPacket::new(Duration::from_micros(n.into()), len, &frame);
            writer.write_packet(&packet).with_context(problem)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        let values = [
            ("file", path.display().to_string().into()),
            ("direction", direction.name().into()),
            ("suite", self.arguments.suite.name().into()),
            ("size", self.arguments.size.value()),
            ("peers", self.side.peers.len().into()),
            ("packets", self.arguments.count.into()),
            ("bytes", bytes.into()),
            ("inner_bytes", inner_bytes.into()),
        ];
        Ok(values.map(|(name, value)| (name.to_owned(), value)).to_vec())
    }

    /// The next frame, to or from any peer; `numbers` counts the packets of each.
    fn frame(&mut self, direction: Direction, len: usize, numbers: &mut [u32]) -> anyhow::Result<Vec<u8>> {
        let peer = self.any_peer();
        numbers[peer] += 1;
        let mark = Mark { flow: u32::try_from(peer)?, number: numbers[peer] };
        let (host_mac, host) = self.lan.host;
        let behind_peer = marked::host_behind(self.side, peer)?;
        match direction {
            Direction::Encap => {
                let packet = marked::packet(host, behind_peer, len, mark)?;
                Ok(marked::frame(self.lan.box_mac, host_mac, &packet))
            }
            Direction::Decap => self.peers.seal(peer, &marked::packet(behind_peer, host, len, mark)?),
            Direction::Hairpin => {
                let other = self.any_peer();
                let behind_other = marked::host_behind(self.side, other)?;
                self.peers.seal(peer, &marked::packet(behind_peer, behind_other, len, mark)?)
            }
        }
    }

    fn any_peer(&mut self) -> usize {
        let peers = self.side.peers.len() as u64;
        // Of 32 random bits as good as any number of peers needs.
        ((u64::from(self.random.next_u32()) * peers) >> 32) as usize
    }
}
