//! What the tests have in common.

use std::time::Duration;

use dmvpn_simulation::site::Options;
use dmvpn_simulation::{Faults, Network, Site, SiteId};

pub(crate) const HUB_ID: SiteId = 0;
pub(crate) const GOOD: Faults = Faults { loss: 0, duplication: 0, reordering: 0 };

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Hubs and spokes on the open internet.
pub(crate) fn network(seed: u64, faults: Faults, spokes: u8, options: &Options) -> Network {
    let mut network = Network::new(seed, faults);
    for number in 0..options.hubs + spokes {
        network.add(Site::new(number, options.clone()));
    }
    network
}

pub(crate) fn all_register(network: &mut Network, spokes: usize, limit: Duration) {
    if !network.run_until(limit, |network| network.registered(HUB_ID) == spokes) {
        let logs: String =
            (0..=spokes.min(3)).map(|site| format!("site {site}\n{}", network.log(site))).collect();
        panic!("{} of {spokes}\n{logs}", network.registered(HUB_ID));
    }
}

/// Pings until an answer comes as fast as only the direct way is, and says how many pings were not answered.
pub(crate) fn until_direct(network: &mut Network, from: SiteId, to: SiteId, limit: Duration) -> usize {
    let end = network.time() + limit;
    let mut pings = Vec::new();
    loop {
        let ping = network.ping(from, to);
        pings.push(ping);
        network.run(Duration::from_millis(200));
        if network.answer(from, ping).is_some_and(|time| time < Duration::from_millis(30)) {
            return pings.iter().filter(|ping| network.answer(from, **ping).is_none()).count();
        }
        assert!(network.time() < end, "no shortcut\n{}\n{}", network.log(from), network.log(HUB_ID));
    }
}
