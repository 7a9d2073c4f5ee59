//! `dmvpnctl`, the operator's command: shows and steers a running `dmvpnd`.

#![forbid(unsafe_code)]

#[path = "../ctl/client.rs"]
mod client;
#[path = "../protocol.rs"]
mod protocol;
#[path = "../ctl/tables.rs"]
mod tables;

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::protocol::{Command, Keys, Topic};

/// Shows and steers a running dmvpnd.
#[derive(Parser)]
#[command(name = "dmvpnctl", version = env!("DMVPN_VERSION"))]
struct Arguments {
    /// The daemon's control socket.
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/dmvpn/dmvpnd.sock")]
    socket: PathBuf,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show the state of something.
    Show {
        /// What.
        topic: Topic,
    },
    /// Replace keys now, without a gap in the traffic.
    Rekey {
        /// Which keys.
        #[arg(default_value = "all")]
        keys: Keys,
        /// Only those shared with the peer that has this underlay or overlay address.
        peer: Option<Ipv4Addr>,
    },
    /// End the sessions with peers; those that are wanted begin anew.
    Clear {
        /// Only the one with the peer that has this underlay or overlay address.
        peer: Option<Ipv4Addr>,
    },
    /// Read the configuration file again, and put in force what is new.
    Reload,
}

impl Action {
    fn command(&self) -> Command {
        match *self {
            Self::Show { topic } => Command::Show { topic },
            Self::Rekey { keys, peer } => Command::Rekey { keys, peer },
            Self::Clear { peer } => Command::Clear { peer },
            Self::Reload => Command::Reload,
        }
    }

    /// The daemon's answer, for people.
    fn tell(&self, answer: &Value) -> String {
        match self {
            Self::Show { topic } => tables::show(*topic, answer),
            Self::Rekey { .. } => tables::count("Replacing the keys shared with", answer),
            Self::Clear { .. } => tables::count("Ended the session with", answer),
            Self::Reload => tables::reload(answer),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let answer = match client::ask(&arguments.socket, &arguments.action.command()) {
        Ok(answer) => answer,
        Err(problem) => {
            eprintln!("dmvpnctl: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let text = if arguments.json { format!("{answer:#}\n") } else { arguments.action.tell(&answer) };
    // A reader that has seen enough, as in `dmvpnctl ... | head`, is no failure.
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("dmvpnctl: cannot write: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
