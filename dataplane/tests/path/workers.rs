//! Several workers: every SA has one owner, wherever its packets come in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dmvpn_tables::{Inject, PuntReason};
use dmvpn_wire::EtherType;

use crate::lab::*;

fn handed_over(site: &Site) -> u64 {
    site.workers.iter().map(|one| one.control.counters.handed_over.value()).sum()
}

fn taken_over(site: &Site) -> u64 {
    site.workers.iter().map(|one| one.control.counters.taken_over.value()).sum()
}

/// A hub with so many workers and spokes 2 to 13 with one each.
fn network(workers: usize) -> (Site, Vec<Site>) {
    let mut hub = Site::with_workers(1, workers);
    let mut spokes: Vec<_> = (2..14).map(Site::new).collect();
    for spoke in &mut spokes {
        let security =
            Security { tunnel_mode: spoke.number % 2 == 0, nat: spoke.number % 3 == 0, ..security() };
        connect(&mut hub, spoke, &security, 1);
    }
    (hub, spokes)
}

#[test]
fn packets_of_every_peer_may_come_in_anywhere() {
    for workers in [2, 3] {
        let (mut hub, mut spokes) = network(workers);
        for round in 0..20u8 {
            // Out: the same packets to each worker.
            for worker in 0..workers {
                for n in 2..14 {
                    let sent = packet(host(1), host(n), &[round, n]).bytes();
                    hub.deliver_to(worker, LAN, &ethernet(lan_mac(1), host_mac(1), &sent));
                }
            }
            // In: each packet of a spoke to another worker, whoever owns its SA.
            for spoke in &mut spokes {
                for _ in 0..workers {
                    spoke.host_sends(&packet(host(spoke.number), host(1), &[round]).bytes());
                }
                spoke.run();
                for (worker, frame) in spoke.sent(WAN).iter().enumerate() {
                    hub.deliver_to(worker, WAN, frame);
                }
            }
            hub.run();
            let mut to_host = hub.host_received();
            assert_eq!(to_host.len(), 12 * workers);
            to_host.dedup();
            for frame in hub.sent(WAN) {
                let spoke = spokes.iter_mut().find(|spoke| frame.starts_with(&wan_mac(spoke.number).0));
                spoke.unwrap().deliver(WAN, &frame);
            }
            for spoke in &mut spokes {
                spoke.run();
                let expected = packet(host(1), host(spoke.number), &[round, spoke.number]).after_hops(2);
                assert_eq!(spoke.host_received(), vec![expected; workers]);
                assert_eq!(spoke.drops(), [], "no sequence number twice");
            }
        }
        assert_eq!(hub.drops(), []);
        assert!(handed_over(&hub) > 0);
        assert_eq!(handed_over(&hub), taken_over(&hub));
        assert_eq!(hub.pool.in_use(), 0);
    }
}

#[test]
fn a_replay_to_another_worker_is_a_replay() {
    let (mut hub, mut spokes) = network(3);
    spokes[0].host_sends(&packet(host(2), host(1), b"once").bytes());
    spokes[0].run();
    let frame = spokes[0].sent(WAN).remove(0);
    for worker in 0..3 {
        hub.deliver_to(worker, WAN, &frame);
    }
    hub.run();
    assert_eq!(hub.host_received().len(), 1);
    assert_eq!(hub.drops(), [(dmvpn_dataplane::DropReason::EspReplay, 2)]);
}

#[test]
fn spoke_to_spoke_changes_workers_on_the_way() {
    let (mut hub, mut spokes) = network(3);
    hub.tunnel(|tunnel| tunnel.redirect = true);
    hub.publish();
    let (first, others) = spokes.split_first_mut().unwrap();
    for other in others.iter() {
        first.snapshot.fib.insert(net(&format!("192.168.{}.0/24", other.number)), tunnel_adjacency(1));
    }
    first.publish();
    for other in others.iter() {
        first.host_sends(&packet(host(2), host(other.number), b"spoke to spoke").bytes());
    }
    let mut sites: Vec<_> = std::iter::once(&mut hub).chain([&mut *first]).chain(others.iter_mut()).collect();
    run_all(&mut sites);
    for other in others {
        let expected = packet(host(2), host(other.number), b"spoke to spoke").after_hops(3);
        assert_eq!(other.host_received(), [expected]);
    }
    let punts = hub.punts();
    assert_eq!(punts.len(), 11);
    assert!(
        punts
            .iter()
            .all(|punt| matches!(punt.reason, PuntReason::Redirect { peer: Some(p), .. } if p == peer(2)))
    );
    assert!(handed_over(&hub) > 0);
}

#[test]
fn the_control_thread_may_inject_into_any_worker() {
    let (mut hub, mut spokes) = network(3);
    for spoke in &spokes {
        for worker in 0..3 {
            let payload = vec![spoke.number, worker];
            let inject = Inject::Gre { peer: peer(spoke.number), protocol: EtherType::NHRP.0, payload };
            hub.workers[usize::from(worker)].control.injector.send(inject).unwrap();
        }
    }
    let mut sites: Vec<_> = std::iter::once(&mut hub).chain(&mut spokes).collect();
    run_all(&mut sites);
    for spoke in &mut spokes {
        let mut payloads: Vec<_> = spoke.punts().into_iter().map(|punt| punt.packet).collect();
        payloads.sort();
        assert_eq!(payloads, [0, 1, 2].map(|worker| vec![spoke.number, worker]));
    }
}

#[test]
fn real_threads() {
    const PACKETS: u16 = 200;
    let (mut hub, mut spokes) = network(2);
    let spoke = &mut spokes[0];
    let mut frames = Vec::new();
    for n in 0..PACKETS {
        spoke.host_sends(&packet(host(2), host(1), &n.to_be_bytes()).bytes());
        spoke.run();
        frames.append(&mut spoke.sent(WAN));
    }
    // All through the worker that does not own the SA, in bursts that fit the rings.
    let owner = usize::from(hub.owner(2).0);
    for frame in &frames {
        hub.deliver_to(1 - owner, WAN, frame);
    }
    let counters: Vec<_> = hub.workers.iter().map(|one| Arc::clone(&one.control.counters)).collect();
    let all_sent = || {
        let sent: u64 = counters.iter().map(|c| c.port(LAN).unwrap().tx_packets.value()).sum();
        sent == u64::from(PACKETS)
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        for one in &mut hub.workers {
            scope.spawn(|| {
                while !all_sent() && Instant::now() < deadline {
                    if !one.worker.poll(0, || 0) {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    let arrived = hub.host_received();
    let expected: Vec<_> =
        (0..PACKETS).map(|n| packet(host(2), host(1), &n.to_be_bytes()).after_hops(2)).collect();
    assert_eq!(arrived, expected, "all of them, and in order");
}
