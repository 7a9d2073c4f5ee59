//! `dmvpn-perf`, the performance harness. Each subcommand is a file of its own; what they share is how cases are chosen
//! ([`cases`]), how time is taken ([`stats`]) and how results are reported ([`report`]).

#![forbid(unsafe_code)]

mod bare;
mod beside;
mod cases;
mod churn;
mod compare;
mod generate;
mod kernel;
mod latency;
mod library;
mod machine;
mod marked;
mod network;
mod offered;
mod path;
mod port;
mod progress;
mod publish;
mod replay;
mod report;
mod rig;
mod side_file;
mod stats;
mod traffic;
mod world;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

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
    Publish(publish::Arguments),
    Latency(latency::Arguments),
    Compare(compare::Arguments),
}

fn main() -> ExitCode {
    // What is measured where nothing is said differs.
    let command = Arguments::command()
        .mut_subcommand("kernel", kernel::defaults)
        .mut_subcommand("publish", publish::defaults)
        .mut_subcommand("latency", latency::defaults);
    let arguments = Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let outcome = match arguments.command {
        Command::Kernel(arguments) => kernel::run(&arguments),
        Command::Path(arguments) => path::run(&arguments),
        Command::Gen(arguments) => generate::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Publish(arguments) => publish::run(&arguments),
        Command::Latency(arguments) => latency::run(&arguments),
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
