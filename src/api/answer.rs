//! What the answers say: the shapes of the JSON that programs read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dmvpn_control::nhrp::Kind;
use dmvpn_control::nhrp::show::{EntryKind, NhsState};
use dmvpn_control::show::{self, EspSa, Peer, Rekey, Request, Response};
use dmvpn_dataplane::{Counters, Stage};
use dmvpn_tables::PortId;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Ask, Desk, Observed, Reply};
use crate::protocol::{Command, Keys, Topic};

/// Carries out a command.
pub(super) fn answer(observed: &Observed, desk: &Desk, command: Command) -> Result<Value, String> {
    match command {
        Command::Show { topic } => show(observed, desk, topic),
        Command::Rekey { keys, peer } => {
            let each = match keys {
                Keys::All => &[Rekey::Esp, Rekey::Ike][..],
                Keys::Ike => &[Rekey::Ike],
                Keys::Esp => &[Rekey::Esp],
            };
            let answers = each.iter().map(|&what| done(desk, Request::Rekey { what, peer }, peer));
            answers.collect::<Result<Vec<_>, _>>().map(|mut answers| answers.pop().unwrap_or_default())
        }
        Command::Clear { peer } => done(desk, Request::Disconnect { peer }, peer),
        Command::Reload => match desk.ask(Ask::Reload)? {
            Reply::Reload(delta) => delta.map(|delta| json!({ "changed": delta.hot })),
            _ => Err(crossed()),
        },
    }
}

fn show(observed: &Observed, desk: &Desk, topic: Topic) -> Result<Value, String> {
    let of_control = |topic| request(desk, Request::Show(topic));
    match topic {
        Topic::Dmvpn => match (of_control(show::Topic::Dmvpn)?, of_control(show::Topic::Nhrp)?) {
            (Response::Dmvpn(peers), Response::Nhrp(tunnels)) => {
                to_json("peers", &peers_and_sought(peers, &tunnels))
            }
            _ => Err(crossed()),
        },
        Topic::Nhrp => match of_control(show::Topic::Nhrp)? {
            Response::Nhrp(tunnels) => to_json("tunnels", &tunnels),
            _ => Err(crossed()),
        },
        Topic::Ike => match of_control(show::Topic::Ike)? {
            Response::Ike(ike) => serde_json::to_value(ike).map_err(|error| error.to_string()),
            _ => Err(crossed()),
        },
        Topic::Sas => match of_control(show::Topic::Sas)? {
            Response::Sas(pairs) => to_json("sas", &pairs.iter().flat_map(one_way).collect::<Vec<_>>()),
            _ => Err(crossed()),
        },
        Topic::Routes => match of_control(show::Topic::Routes)? {
            Response::Routes(routes) => to_json("routes", &routes),
            _ => Err(crossed()),
        },
        Topic::Neighbors => match of_control(show::Topic::Neighbors)? {
            Response::Neighbors(neighbors) => to_json("neighbors", &neighbors),
            _ => Err(crossed()),
        },
        Topic::Ports => match of_control(show::Topic::Ports)? {
            Response::Ports(known) => ports(observed, &known),
            _ => Err(crossed()),
        },
        Topic::Drops => Ok(drops(observed)),
        Topic::Workers => {
            let workers = observed.workers.iter().enumerate();
            let workers: Vec<_> =
                workers.map(|(number, (cpu, counters))| worker(number, *cpu, counters)).collect();
            to_json("workers", &workers)
        }
        Topic::Config => match desk.ask(Ask::Config)? {
            Reply::Config(text) => Ok(json!({ "config": text })),
            _ => Err(crossed()),
        },
    }
}

fn request(desk: &Desk, request: Request) -> Result<Response, String> {
    match desk.ask(Ask::Request(request))? {
        Reply::Response(response) => Ok(response),
        _ => Err(crossed()),
    }
}

fn done(desk: &Desk, what: Request, peer: Option<Ipv4Addr>) -> Result<Value, String> {
    match (request(desk, what)?, peer) {
        (Response::Done { peers }, _) => Ok(json!({ "peers": peers })),
        (Response::NoSuchPeer, Some(peer)) => Err(format!("no peer has the address {peer}")),
        _ => Err(crossed()),
    }
}

/// An answer to another question, which the types of questions and answers cannot exclude.
fn crossed() -> String {
    String::from("the control thread answered something else")
}

fn to_json(name: &str, list: &impl Serialize) -> Result<Value, String> {
    let list = serde_json::to_value(list).map_err(|error| error.to_string())?;
    Ok(Value::Object(Map::from_iter([(name.to_owned(), list)])))
}

/// A line of `show dmvpn`: an overlay address, and the way to it.
#[derive(Debug, Clone, Serialize)]
struct Line {
    tunnel: String,
    /// Underlay address; absent while it is being asked for.
    nbma: Option<Ipv4Addr>,
    /// UDP port at the underlay address, where ESP travels in UDP.
    nbma_port: Option<u16>,
    /// Overlay address; absent while the peer has not told it.
    overlay: Option<Ipv4Addr>,
    state: State,
    /// How it became known.
    kind: Option<EntryKind>,
    /// A NAT is between us.
    nat: bool,
    identity: Option<String>,
    /// Seconds since the path came up.
    up_for: Option<u64>,
    /// Seconds since packets were last seen to pass.
    idle_for: Option<u64>,
    /// Packets received and sent by the SAs of now.
    received: u64,
    sent: u64,
}

/// How far the way to an overlay address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// No keys agreed on yet.
    Ike,
    /// There are keys; NHRP is not done.
    Nhrp,
    /// Packets can pass.
    Up,
}

/// The peers that there are, and those that are only looked for.
fn peers_and_sought(peers: Vec<Peer>, tunnels: &[show::Nhrp]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut listed = BTreeSet::new();
    for peer in peers {
        let line = Line {
            tunnel: peer.tunnel,
            nbma: Some(peer.nbma),
            nbma_port: peer.port,
            overlay: None,
            state: if peer.up { State::Nhrp } else { State::Ike },
            kind: None,
            nat: peer.port.is_some(),
            identity: peer.identity,
            up_for: peer.up_for,
            idle_for: peer.idle_for,
            received: peer.received,
            sent: peer.sent,
        };
        for binding in &peer.overlay {
            let is_registering = tunnels.iter().filter(|of| of.tunnel == line.tunnel).any(|of| {
                let mut servers = of.next_hop_servers.iter();
                servers.any(|server| server.overlay == binding.address && server.state != NhsState::Up)
            });
            let state = if peer.up && !is_registering { State::Up } else { line.state };
            listed.insert((line.tunnel.clone(), binding.address));
            let kind = Some(kind_of_binding(binding.kind));
            lines.push(Line { overlay: Some(binding.address), state, kind, ..line.clone() });
        }
        if peer.overlay.is_empty() {
            lines.push(line);
        }
    }
    for tunnel in tunnels {
        let sought = tunnel.cache.iter().filter(|entry| {
            matches!(
                entry.kind,
                EntryKind::Nhs | EntryKind::Static | EntryKind::Incomplete | EntryKind::Cached
            ) && !listed.contains(&(tunnel.tunnel.clone(), entry.overlay))
        });
        for entry in sought {
            // The peer may be listed already, by its underlay address alone.
            let known = lines.iter_mut().find(|line| {
                line.overlay.is_none()
                    && line.nbma.is_some()
                    && line.nbma == entry.nbma
                    && line.tunnel == tunnel.tunnel
            });
            if let Some(line) = known {
                (line.overlay, line.kind) = (Some(entry.overlay), Some(entry.kind));
                continue;
            }
            lines.push(Line {
                tunnel: tunnel.tunnel.clone(),
                nbma: entry.nbma,
                nbma_port: None,
                overlay: Some(entry.overlay),
                state: if entry.kind == EntryKind::Incomplete { State::Nhrp } else { State::Ike },
                kind: Some(entry.kind),
                nat: entry.claimed.is_some(),
                identity: None,
                up_for: None,
                idle_for: None,
                received: 0,
                sent: 0,
            });
        }
    }
    lines.sort_by(|a, b| (&a.tunnel, a.overlay, a.nbma).cmp(&(&b.tunnel, b.overlay, b.nbma)));
    lines
}

fn kind_of_binding(kind: Kind) -> EntryKind {
    match kind {
        Kind::Static => EntryKind::Static,
        Kind::Nhs => EntryKind::Nhs,
        Kind::Dynamic => EntryKind::Dynamic,
        Kind::Cached => EntryKind::Cached,
    }
}

/// A line of `show sas`: an SA of one direction.
#[derive(Debug, Serialize)]
struct OneWay<'a> {
    tunnel: &'a str,
    nbma: Ipv4Addr,
    direction: &'static str,
    spi: &'a str,
    /// `active`: of the pair that is sent with; `standby`: before or after that.
    state: &'static str,
    mode: &'a str,
    udp: bool,
    suite: &'a str,
    pfs: bool,
    age: u64,
    remaining: u64,
    packets: u64,
    bytes: u64,
    /// Received again or too late, and forged: of the inbound direction only.
    replayed: u64,
    unauthentic: u64,
}

/// Both directions of a pair; the outbound one only once the peer has told its SPI.
fn one_way(pair: &EspSa) -> impl Iterator<Item = OneWay<'_>> {
    let inbound = OneWay {
        tunnel: &pair.tunnel,
        nbma: pair.nbma,
        direction: "in",
        spi: &pair.spi_in,
        state: if pair.sending { "active" } else { "standby" },
        mode: &pair.mode,
        udp: pair.udp,
        suite: &pair.proposal,
        pfs: pair.pfs,
        age: pair.age,
        remaining: pair.remaining,
        packets: pair.packets_in,
        bytes: pair.bytes_in,
        replayed: pair.replayed,
        unauthentic: pair.unauthentic,
    };
    let outbound = pair.spi_out.as_deref().map(|spi| OneWay {
        direction: "out",
        spi,
        packets: pair.packets_out,
        bytes: pair.bytes_out,
        replayed: 0,
        unauthentic: 0,
        ..inbound
    });
    [Some(OneWay { ..inbound }), outbound].into_iter().flatten()
}

/// The ports with the counters of their devices and of the workers.
fn ports(observed: &Observed, known: &[show::Port]) -> Result<Value, String> {
    let mut list = Vec::new();
    for (number, port) in known.iter().enumerate() {
        let Value::Object(mut entry) = serde_json::to_value(port).map_err(|error| error.to_string())? else {
            return Err(crossed());
        };
        let sum = |pick: fn(&dmvpn_dataplane::counters::PortCounters) -> u64| -> u64 {
            let id = u16::try_from(number).map(PortId).ok();
            let of_workers =
                observed.workers.iter().filter_map(|(_, counters)| Some(pick(counters.port(id?)?)));
            of_workers.sum()
        };
        entry.insert("rx_packets".into(), sum(|port| port.rx_packets.value()).into());
        entry.insert("rx_bytes".into(), sum(|port| port.rx_bytes.value()).into());
        entry.insert("tx_packets".into(), sum(|port| port.tx_packets.value()).into());
        entry.insert("tx_bytes".into(), sum(|port| port.tx_bytes.value()).into());
        if let Some((link_up, device)) = (observed.port)(number) {
            entry.insert("link_up".into(), link_up.into());
            entry.insert("rx_missed".into(), device.rx_missed.into());
            entry.insert("rx_errors".into(), device.rx_errors.into());
            entry.insert("rx_no_buffer".into(), device.rx_no_buffer.into());
            entry.insert("rx_chained".into(), device.rx_chained.into());
            entry.insert("tx_errors".into(), device.tx_errors.into());
        }
        list.push(Value::Object(entry));
    }
    to_json("ports", &list)
}

/// Drops of all workers, and packets handed to the control thread.
fn drops(observed: &Observed) -> Value {
    let (mut drops, mut punts) = (BTreeMap::new(), BTreeMap::new());
    for (_, counters) in &observed.workers {
        for (reason, count) in counters.drops() {
            *drops.entry(reason.name()).or_insert(0) += count;
        }
        for (reason, count) in counters.punts() {
            *punts.entry(reason).or_insert(0) += count;
        }
    }
    json!({ "drops": drops, "punts": punts })
}

fn worker(number: usize, cpu: usize, counters: &Counters) -> Value {
    let stages = Stage::ALL.map(|stage| {
        let counted = counters.stage(stage);
        json!({
            "stage": stage.name(),
            "runs": counted.runs.value(),
            "packets": counted.packets.value(),
            "cycles": counted.ticks.value(),
        })
    });
    json!({
        "worker": number,
        "cpu": cpu,
        "polls": counters.polls.value(),
        "busy_cycles": counters.busy.value(),
        "idle_cycles": counters.idle.value(),
        "handed_over": counters.handed_over.value(),
        "taken_over": counters.taken_over.value(),
        "injected": counters.injected.value(),
        "drops": counters.drops().map(|(_, count)| count).sum::<u64>(),
        "stages": stages,
    })
}
