//! `dmvpnd`, the appliance: its start and its end, told from top to bottom.

#![forbid(unsafe_code)]

mod api;
mod control;
mod protocol;
mod supervise;

use std::io::{self, IsTerminal, Write};
use std::iter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Parser;
use dmvpn::devices::Devices;
use dmvpn::workers::Crew;
use dmvpn_config::Config;
use dmvpn_tables::esp::Kernel;
use dmvpn_tables::{Publisher, Snapshot};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::api::{Api, Observed};
use crate::control::ControlThread;
use crate::supervise::Supervisor;

/// The DMVPN appliance: NHRP, multipoint GRE and IPsec on DPDK poll-mode workers.
#[derive(Parser)]
#[command(name = "dmvpnd", version = env!("DMVPN_VERSION"))]
struct Arguments {
    /// Run with this configuration.
    #[arg(long, value_name = "FILE", required_unless_present = "check")]
    config: Option<PathBuf>,
    /// Say everything that is wrong with a configuration, and start nothing. Status 0 if it can be run.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    check: Option<PathBuf>,
    /// What to log: error, warn, info, debug or trace; or a level for a part, as in info,dmvpn_control::ike=debug.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: Targets,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(lines).with(arguments.log).init();
    let outcome = match (arguments.check, arguments.config) {
        (None, Some(file)) => run(&file),
        (Some(file), _) if load(&file).is_ok() => {
            writeln!(io::stdout(), "{}: ok", file.display()).context("cannot say so")
        }
        // What is wrong has been said.
        _ => return ExitCode::FAILURE,
    };
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    tracing::error!("{error:#}");
    ExitCode::FAILURE
}

fn run(file: &Path) -> anyhow::Result<()> {
    let config = Arc::new(load(file)?);
    let supervisor = Supervisor::new(file)?;

    // Packet memory and ports.
    let Devices { eal, pool, ports, queues } = Devices::open(&config)?;

    // Tables, empty at first: workers forward nothing before the control plane has spoken.
    let (publisher, readers) = Publisher::new(Snapshot::default(), queues.len());

    // Workers poll the ports.
    let (crew, rings) = Crew::start(&eal, &pool, &config.dataplane, queues, readers)?;

    // The control plane runs IKE and NHRP over the workers' rings, and publishes.
    let control = ControlThread::start(&eal, Arc::clone(&config), &ports, publisher, rings)?;

    // Operators come by the socket.
    let observed = Observed {
        workers: iter::zip(config.dataplane.workers.iter().copied(), crew.counters()).collect(),
        port: Box::new(move |number| ports.get(number).map(|port| (port.link_is_up(), port.stats()))),
    };
    let (api, questions) = Api::open(Path::new(&config.host.socket), observed, supervisor.waker())
        .with_context(|| format!("cannot open the control socket {}", config.host.socket))?;

    tracing::info!("{} is up, {}", config.host_name, dmvpn_dpdk::Eal::version());
    tracing::info!("{}", Kernel::best());
    let outcome = supervisor.watch(config, &crew, &control, questions);

    // No more questions; goodbye to the peers; what is under way leaves. Then ports stop and DPDK is
    // cleaned up, as the last of what was made from them goes.
    drop(api);
    drop(control);
    drop(crew);
    outcome
}

/// Reads a configuration, and says everything that is wrong with it.
fn load(file: &Path) -> anyhow::Result<Config> {
    let examined = dmvpn_config::examine(file);
    for finding in &examined.diagnostics {
        eprintln!("{finding}\n");
    }
    let Some(config) = examined.config else { bail!("{} cannot be used", file.display()) };
    Ok(config)
}
