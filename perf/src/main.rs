//! `dmvpn-perf`, the performance harness. Each subcommand is a file of its own; what they share is how cases are chosen
//! ([`cases`]), how time is taken ([`stats`]) and how results are reported ([`report`]).

#![forbid(unsafe_code)]

mod bare;
mod cases;
mod compare;
mod generate;
mod kernel;
mod library;
mod machine;
mod marked;
mod network;
mod path;
mod port;
mod progress;
mod replay;
mod report;
mod rig;
mod side_file;
mod stats;
mod traffic;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures the data plane. perf/README.md says what the figures mean.
#[derive(Parser)]
#[command(name = "dmvpn-perf", version = env!("DMVPN_VERSION"))]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Kernel(kernel::Arguments),
    Path(path::Arguments),
    Gen(generate::Arguments),
    Replay(replay::Arguments),
    Compare(compare::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Kernel(arguments) => kernel::run(&arguments),
        Command::Path(arguments) => path::run(&arguments),
        Command::Gen(arguments) => generate::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmvpn-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}
