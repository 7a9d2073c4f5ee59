//! From a [`Draft`] to the [`Config`]: the rules that span sections.

mod profile;
mod tunnel;

use crate::draft::Draft;
use crate::model::{Config, StaticRoute};
use crate::report::Report;
use crate::topology::Topology;

/// Follows all references. What is wrong is in the report; if that holds an error, the result is not to be used.
pub(crate) fn check(draft: Draft, report: &Report<'_>) -> Config {
    let topology = Topology::new(&draft, report);
    refuse_shared_ports(&draft, report);
    refuse_small_memory(&draft, report);
    let profiles = profile::bind(&draft, report);
    let tunnels = tunnel::check(&draft, &topology, profiles, report);
    let routes = draft.routes.iter();
    let routes = routes
        .map(|route| StaticRoute { prefix: *route.prefix.get_ref(), next_hop: *route.next_hop.get_ref() });
    Config {
        host_name: draft.host_name,
        routes: routes.collect(),
        ethernet: draft.ethernet.into_iter().map(|entry| entry.ethernet).collect(),
        tunnels,
        dataplane: draft.dataplane,
        host: draft.host,
    }
}

fn refuse_shared_ports(draft: &Draft, report: &Report<'_>) {
    let device = |port: &str| port.split(',').next().unwrap_or(port).to_lowercase();
    let ports: Vec<_> = draft
        .ethernet
        .iter()
        .filter_map(|entry| Some((&entry.name, entry.port.clone().located()?)))
        .collect();
    for (index, (_, port)) in ports.iter().enumerate() {
        let same =
            ports.iter().take(index).find(|(_, other)| device(other.get_ref()) == device(port.get_ref()));
        if let Some((other, _)) = same {
            let message = format!("the device of {} already", other.get_ref());
            report.error(port.span(), message, "every interface has a device of its own");
        }
    }
}

/// Bytes that one packet buffer takes beside its data: DPDK's header, our own, headroom and rounding.
const BUFFER_OVERHEAD: u64 = 1536;

/// MiB that DPDK needs beside the packet buffers, for its rings and its own tables.
const MEMORY_BESIDE: u64 = 32;

fn refuse_small_memory(draft: &Draft, report: &Report<'_>) {
    let mtu = draft.ethernet.iter().map(|entry| u64::from(entry.ethernet.mtu)).max().unwrap_or(0);
    let dataplane = &draft.dataplane;
    let needed = (u64::from(dataplane.buffers) * (mtu + BUFFER_OVERHEAD)).div_ceil(1 << 20) + MEMORY_BESIDE;
    if !dataplane.hugepages && needed > u64::from(dataplane.memory) {
        let message = format!(
            "{} packet buffers for an MTU of {mtu} need {needed} MiB, memory is {} MiB",
            dataplane.buffers, dataplane.memory
        );
        report.error(
            draft.dataplane_span.clone(),
            message,
            "raise `memory` or lower `buffers` in [dataplane]",
        );
    }
}
