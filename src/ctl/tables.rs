//! The daemon's answers as people read them.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::protocol::Topic;

/// The answer to `show`.
pub(crate) fn show(topic: Topic, answer: &Value) -> String {
    match topic {
        Topic::Dmvpn => dmvpn(answer),
        Topic::Nhrp => nhrp(answer),
        Topic::Ike => table(list(answer, "sas"), IKE, "no IKE SA"),
        Topic::Sas => table(list(answer, "sas"), SAS, "no ESP SA"),
        Topic::Routes => table(list(answer, "routes"), ROUTES, "no route"),
        Topic::Ports => table(list(answer, "ports"), PORTS, "no port"),
        Topic::Neighbors => table(list(answer, "neighbors"), NEIGHBORS, "no neighbor"),
        Topic::Drops => drops(answer),
        Topic::Workers => workers(answer),
        Topic::Config => answer["config"].as_str().unwrap_or_default().trim_start().to_owned(),
    }
}

/// The answer to a command that concerns some peers.
pub(crate) fn count(what: &str, answer: &Value) -> String {
    format!("{what} {}.\n", some_peers(number(&answer["peers"])))
}

/// The answer to `reload`.
pub(crate) fn reload(answer: &Value) -> String {
    let mut text = String::new();
    for key in list(answer, "changed").iter().filter_map(Value::as_str) {
        let _ = writeln!(text, "changed: {key}");
    }
    if text.is_empty() { String::from("nothing has changed\n") } else { text }
}

/// A column: its heading, and how to get its text out of an entry.
type Column = (&'static str, fn(&Value) -> String);

const IKE: &[Column] = &[
    ("Tunnel", |sa| text(&sa["tunnel"])),
    ("Remote", |sa| text(&sa["remote"])),
    ("Identity", |sa| text(&sa["identity"])),
    ("Role", |sa| if sa["initiator"] == true { "initiator".into() } else { "responder".into() }),
    ("State", |sa| text(&sa["state"])),
    ("Proposal", |sa| text(&sa["proposal"])),
    ("NAT", |sa| match (sa["nat_local"] == true, sa["nat_remote"] == true) {
        (false, false) => "-".into(),
        (true, false) => "here".into(),
        (false, true) => "there".into(),
        (true, true) => "both".into(),
    }),
    ("Age", |sa| time(&sa["age"])),
    ("Left", |sa| time(&sa["remaining"])),
];

const SAS: &[Column] = &[
    ("Tunnel", |sa| text(&sa["tunnel"])),
    ("Peer NBMA", |sa| text(&sa["nbma"])),
    ("Dir", |sa| text(&sa["direction"])),
    ("SPI", |sa| text(&sa["spi"])),
    ("State", |sa| text(&sa["state"])),
    ("Suite", |sa| text(&sa["suite"])),
    ("Mode", |sa| format!("{}{}", text(&sa["mode"]), if sa["udp"] == true { ", UDP" } else { "" })),
    ("Packets", |sa| text(&sa["packets"])),
    ("Bytes", |sa| text(&sa["bytes"])),
    ("Replayed", |sa| text(&sa["replayed"])),
    ("Forged", |sa| text(&sa["unauthentic"])),
    ("Age", |sa| time(&sa["age"])),
    ("Left", |sa| time(&sa["remaining"])),
];

const ROUTES: &[Column] = &[
    ("", |route| if route["active"] == true { "*".into() } else { String::new() }),
    ("Prefix", |route| text(&route["prefix"])),
    ("Next hop", |route| text(&route["next_hop"])),
    ("Interface", |route| text(&route["interface"])),
    ("Origin", |route| text(&route["origin"])),
    ("Goes to", |route| text(&route["path"])),
];

const PORTS: &[Column] = &[
    ("Port", |port| text(&port["name"])),
    ("Address", |port| text(&port["address"])),
    ("Link", |port| match port["link_up"].as_bool() {
        Some(true) => "up".into(),
        Some(false) => "down".into(),
        None => "-".into(),
    }),
    ("MAC", |port| text(&port["mac"])),
    ("MTU", |port| text(&port["mtu"])),
    ("RX packets", |port| text(&port["rx_packets"])),
    ("RX bytes", |port| text(&port["rx_bytes"])),
    ("TX packets", |port| text(&port["tx_packets"])),
    ("TX bytes", |port| text(&port["tx_bytes"])),
    ("Missed", |port| text(&port["rx_missed"])),
    ("No buffer", |port| text(&port["rx_no_buffer"])),
    ("Errors", |port| (number(&port["rx_errors"]) + number(&port["tx_errors"])).to_string()),
    ("Device", |port| text(&port["device"])),
];

const NEIGHBORS: &[Column] = &[
    ("Port", |neighbor| text(&neighbor["interface"])),
    ("Address", |neighbor| text(&neighbor["address"])),
    ("MAC", |neighbor| text(&neighbor["mac"])),
];

const WORKERS: &[Column] = &[
    ("Worker", |worker| text(&worker["worker"])),
    ("CPU", |worker| text(&worker["cpu"])),
    ("Busy", |worker| {
        let (busy, idle) = (number(&worker["busy_cycles"]), number(&worker["idle_cycles"]));
        match tenths(u128::from(busy) * 100, u128::from(busy) + u128::from(idle)) {
            Some(percent) => format!("{percent} %"),
            None => "-".into(),
        }
    }),
    ("Polls", |worker| text(&worker["polls"])),
    ("Handed over", |worker| text(&worker["handed_over"])),
    ("Taken over", |worker| text(&worker["taken_over"])),
    ("Injected", |worker| text(&worker["injected"])),
    ("Drops", |worker| text(&worker["drops"])),
];

const STAGES: &[Column] = &[
    ("Stage", |stage| text(&stage["stage"])),
    ("Runs", |stage| text(&stage["runs"])),
    ("Packets", |stage| text(&stage["packets"])),
    ("Packets/run", |stage| ratio(&stage["packets"], &stage["runs"])),
    ("Cycles/packet", |stage| ratio(&stage["cycles"], &stage["packets"])),
];

const CACHE: &[Column] = &[
    ("Protocol address", |entry| text(&entry["overlay"])),
    ("Type", |entry| text(&entry["kind"])),
    ("NBMA address", |entry| text(&entry["nbma"])),
    ("Claimed", |entry| text(&entry["claimed"])),
    ("Path", |entry| if entry["up"] == true { "up".into() } else { "-".into() }),
    ("Flags", |entry| {
        let flags = [("unique", "unique"), ("used", "used")];
        let set: Vec<_> =
            flags.iter().filter(|(key, _)| entry[*key] == true).map(|(_, name)| *name).collect();
        if set.is_empty() { "-".into() } else { set.join(" ") }
    }),
    ("Expires in", |entry| time(&entry["expires_in"])),
];

const SERVERS: &[Column] = &[
    ("Next hop server", |server| text(&server["overlay"])),
    ("NBMA address", |server| text(&server["nbma"])),
    ("State", |server| text(&server["state"])),
    ("Unanswered", |server| text(&server["unanswered"])),
    ("Seen as", |server| text(&server["public"])),
    ("Expires in", |server| time(&server["expires_in"])),
];

const SHORTCUTS: &[Column] = &[
    ("Shortcut", |shortcut| text(&shortcut["prefix"])),
    ("Next hop", |shortcut| text(&shortcut["next_hop"])),
    ("NBMA address", |shortcut| text(&shortcut["nbma"])),
    ("State", |shortcut| if shortcut["up"] == true { "up".into() } else { "connecting".into() }),
    ("Expires in", |shortcut| time(&shortcut["expires_in"])),
];

const DMVPN: &[Column] = &[
    ("Peer NBMA", |peer| text(&peer["nbma"])),
    ("Peer Tunnel", |peer| text(&peer["overlay"])),
    ("State", |peer| text(&peer["state"]).to_uppercase()),
    ("UpDn Tm", |peer| time(&peer["up_for"])),
    ("Attrb", attributes),
    ("Received", |peer| text(&peer["received"])),
    ("Sent", |peer| text(&peer["sent"])),
    ("Identity", |peer| text(&peer["identity"])),
];

/// One table per tunnel, with the columns that operators of DMVPN know.
fn dmvpn(answer: &Value) -> String {
    let peers = list(answer, "peers");
    if peers.is_empty() {
        return String::from("no peer\n");
    }
    let mut text = String::from("Attrb: S static, D dynamic, I incomplete, N behind a NAT\n");
    for of_tunnel in peers.chunk_by(|a, b| a["tunnel"] == b["tunnel"]) {
        let name = of_tunnel[0]["tunnel"].as_str().unwrap_or_default();
        let _ = write!(
            text,
            "\nInterface {name}, {}\n{}",
            some_peers(of_tunnel.len() as u64),
            table(of_tunnel, DMVPN, "")
        );
    }
    text
}

fn attributes(peer: &Value) -> String {
    let mut letters = String::from(match peer["kind"].as_str() {
        Some("static" | "nhs") => "S",
        Some("incomplete") => "I",
        Some(_) => "D",
        None => "",
    });
    if peer["nat"] == true {
        letters.push('N');
    }
    if letters.is_empty() { String::from("-") } else { letters }
}

fn nhrp(answer: &Value) -> String {
    let tunnels = list(answer, "tunnels").iter().map(|tunnel| {
        let description =
            tunnel["description"].as_str().map(|words| format!(", {words}")).unwrap_or_default();
        let mut text = format!("Interface {}{description}\n", text(&tunnel["tunnel"]));
        text += &table(list(tunnel, "cache"), CACHE, "the cache is empty");
        for (name, columns) in [("next_hop_servers", SERVERS), ("shortcuts", SHORTCUTS)] {
            if !list(tunnel, name).is_empty() {
                let _ = write!(text, "\n{}", table(list(tunnel, name), columns, ""));
            }
        }
        text
    });
    let tunnels: Vec<_> = tunnels.collect();
    if tunnels.is_empty() { String::from("no tunnel with NHRP\n") } else { tunnels.join("\n") }
}

/// All workers, and what the stages of each have cost since it started.
fn workers(answer: &Value) -> String {
    let workers = list(answer, "workers");
    let mut text = table(workers, WORKERS, "no worker");
    for worker in workers {
        let stages = table(list(worker, "stages"), STAGES, "no stage");
        let _ = write!(text, "\nWorker {}\n{stages}", self::text(&worker["worker"]));
    }
    text
}

/// Reasons that have occurred, the most frequent first.
fn drops(answer: &Value) -> String {
    let mut text = String::new();
    for (name, heading, none) in [
        ("drops", "Dropped because", "nothing dropped"),
        ("punts", "To control because", "nothing to control"),
    ] {
        let counts = answer[name].as_object().into_iter().flatten();
        let mut counts: Vec<_> =
            counts.map(|(reason, count)| (number(count), reason)).filter(|of| of.0 != 0).collect();
        counts.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        if counts.is_empty() {
            let _ = writeln!(text, "{none}");
            continue;
        }
        let mut table = empty_table([heading, "Packets"]);
        for (count, reason) in counts {
            table.add_row([reason.clone(), count.to_string()]);
        }
        text += &finished(&mut table);
    }
    text
}

fn table(entries: &[Value], columns: &[Column], none: &str) -> String {
    if entries.is_empty() {
        return format!("{none}\n");
    }
    let mut table = empty_table(columns.iter().map(|(heading, _)| *heading));
    for entry in entries {
        table.add_row(columns.iter().map(|(_, cell)| cell(entry)));
    }
    finished(&mut table)
}

fn empty_table<'h>(headings: impl IntoIterator<Item = &'h str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings);
    table
}

/// The table's text: numbers to the right, and no blanks at the ends of lines.
fn finished(table: &mut Table) -> String {
    let is_number = |cell: &str| cell == "-" || cell.is_empty() || cell.parse::<f64>().is_ok();
    let numeric: Vec<bool> = (0..table.column_count())
        .map(|index| {
            let cells =
                table.row_iter().filter_map(|row| row.cell_iter().nth(index)).map(|cell| cell.content());
            let cells: Vec<String> = cells.collect();
            cells.iter().all(|cell| is_number(cell)) && cells.iter().any(|cell| cell != "-")
        })
        .collect();
    for (column, _) in table.column_iter_mut().zip(numeric).filter(|(_, numeric)| *numeric) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn some_peers(count: u64) -> String {
    if count == 1 { String::from("1 peer") } else { format!("{count} peers") }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::from("-"),
        Value::String(text) => text.clone(),
        Value::Bool(true) => String::from("yes"),
        Value::Bool(false) => String::from("no"),
        other => other.to_string(),
    }
}

fn ratio(of: &Value, to: &Value) -> String {
    tenths(number(of).into(), number(to).into()).unwrap_or_else(|| String::from("-"))
}

/// A quotient with one decimal, rounded down; `None` for one by nothing.
fn tenths(of: u128, by: u128) -> Option<String> {
    let tenths = (of * 10).checked_div(by)?;
    Some(format!("{}.{}", tenths / 10, tenths % 10))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Seconds as operators of routers write them: 00:12:34, 2d03h, 5w1d.
fn time(value: &Value) -> String {
    let Some(seconds) = value.as_u64() else { return String::from("-") };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match days {
        0 => format!("{:02}:{:02}:{:02}", hours, minutes % 60, seconds % 60),
        1..7 => format!("{days}d{:02}h", hours % 24),
        _ => format!("{}w{}d", days / 7, days % 7),
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
