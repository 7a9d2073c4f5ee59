//! What `dmvpnctl` and the daemon say to each other over the control socket: one line of JSON each way.
//!
//! ```text
//! {"command":"show","topic":"dmvpn"}                          {"ok":{"peers":[...]}}
//! {"command":"rekey","keys":"esp","peer":"203.0.113.2"}       {"error":"no peer has the address 203.0.113.2"}
//! ```
//!
//! Keys are in snake_case and stay; new ones may come.

use std::net::Ipv4Addr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Command {
    /// Tell.
    Show {
        /// About what.
        topic: Topic,
    },
    /// Replace keys now, without a gap in the traffic.
    Rekey {
        /// Which.
        #[serde(default)]
        keys: Keys,
        /// Of the peer with this underlay or overlay address; of all if absent.
        #[serde(default)]
        peer: Option<Ipv4Addr>,
    },
    /// End the sessions with peers; those that are wanted begin anew.
    Clear {
        /// With the peer that has this underlay or overlay address; with all if absent.
        #[serde(default)]
        peer: Option<Ipv4Addr>,
    },
    /// Read the configuration file again, and put in force what is new.
    Reload,
}

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Topic {
    /// Peers, and how far the way to each is.
    Dmvpn,
    /// NHRP: cache, next hop servers, shortcuts.
    Nhrp,
    /// IKE SAs.
    Ike,
    /// ESP SAs.
    Sas,
    /// Routes, and where their packets go.
    Routes,
    /// Ports and their traffic.
    Ports,
    /// Stations on the ports' links.
    Neighbors,
    /// Packets that were dropped, by reason.
    Drops,
    /// Worker threads and their load.
    Workers,
    /// The configuration in force, with its defaults, without its secrets.
    Config,
}

/// Keys that can be replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Keys {
    /// Those of ESP SAs and of IKE SAs.
    #[default]
    All,
    /// Those of IKE SAs.
    Ike,
    /// Those of ESP SAs.
    Esp,
}

/// The answer to a [`Command`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Done, with this result.
    Ok(serde_json::Value),
    /// Not done, for this reason.
    Error(String),
}
