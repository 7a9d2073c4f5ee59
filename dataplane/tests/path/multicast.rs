//! Replication to the peers of a tunnel.

use std::net::Ipv4Addr;

use dmvpn_dataplane::{DropReason, Pool};
use dmvpn_tables::{Inject, PuntReason};

use crate::lab::*;

const ALL_OSPF_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 5);

#[test]
fn a_packet_of_the_box_reaches_every_peer_of_the_list_once() {
    let mut hub = Site::new(1);
    let mut spokes: Vec<_> = (2..6).map(Site::new).collect();
    for spoke in &mut spokes {
        connect(&mut hub, spoke, &security(), 1);
    }
    hub.tunnel(|tunnel| tunnel.multicast = [peer(2), peer(3), peer(5)].into());
    hub.publish();
    let hello = packet(overlay_address(1), ALL_OSPF_ROUTERS, b"hello").with(|fields| fields.ttl = 1).bytes();
    let inject = Inject::Multicast { tunnel: TUNNEL, packet: hello.clone() };
    hub.workers[0].control.injector.send(inject).unwrap();
    let mut sites: Vec<_> = std::iter::once(&mut hub).chain(&mut spokes).collect();
    let carried = run_all(&mut sites);
    assert_eq!(carried.len(), 3);
    assert!(carried.iter().all(|frame| outer(frame).ttl() == 64), "far enough, though the inner TTL is 1");
    for spoke in &mut spokes {
        let punts = spoke.punts();
        if spoke.number == 4 {
            assert_eq!(punts, []);
        } else {
            assert_eq!(punts.len(), 1);
            assert_eq!(punts[0].reason, PuntReason::Local { tunnel: Some(TUNNEL) });
            assert_eq!(punts[0].packet, hello, "as sent: it has crossed no router");
        }
    }
    assert_eq!((hub.drops(), hub.pool.in_use()), (vec![], 0));
}

#[test]
fn a_long_list_is_worked_off_a_batch_at_a_time() {
    let (mut hub, mut spoke) = (Site::new(1), Site::new(2));
    connect(&mut hub, &mut spoke, &security(), 1);
    hub.tunnel(|tunnel| tunnel.multicast = [peer(2); 200].into());
    hub.publish();
    let hello = packet(overlay_address(1), ALL_OSPF_ROUTERS, b"").bytes();
    for _ in 0..2 {
        let inject = Inject::Multicast { tunnel: TUNNEL, packet: hello.clone() };
        hub.workers[0].control.injector.send(inject).unwrap();
    }
    let mut copies = Vec::new();
    while hub.workers[0].worker.poll(0, || 0) {
        copies.push(hub.sent(WAN).len());
    }
    assert_eq!(copies, [64, 64, 64, 64, 64, 64, 16]);
    assert_eq!((hub.drops(), hub.pool.in_use()), (vec![], 0));
}

#[test]
fn a_long_list_and_an_empty_pool_do_not_hold_the_worker_up() {
    let (mut hub, mut spoke) = (Site::new(1), Site::new(2));
    connect(&mut hub, &mut spoke, &security(), 1);
    hub.tunnel(|tunnel| tunnel.multicast = [peer(2); 200].into());
    hub.publish();
    let mut all: Vec<_> = std::iter::from_fn(|| hub.pool.alloc()).collect();
    // One buffer for the packet itself, none for copies.
    all.pop();
    let hello = packet(overlay_address(1), ALL_OSPF_ROUTERS, b"").bytes();
    hub.workers[0].control.injector.send(Inject::Multicast { tunnel: TUNNEL, packet: hello }).unwrap();
    assert!(hub.workers[0].worker.poll(0, || 0));
    assert_eq!(hub.drops(), [(DropReason::NoBuffer, 1)], "not one for each peer");
    drop(all);
    let mut copies = 0;
    while hub.workers[0].worker.poll(0, || 0) {
        copies += hub.sent(WAN).len();
    }
    assert_eq!((copies, hub.pool.in_use()), (199, 0));
}

#[test]
fn multicast_and_other_traffic_share_a_full_path() {
    let (mut hub, mut spoke) = (Site::new(1), Site::new(2));
    connect(&mut hub, &mut spoke, &security(), 1);
    hub.tunnel(|tunnel| tunnel.multicast = [peer(2); 100].into());
    hub.publish();
    let hello = packet(overlay_address(1), ALL_OSPF_ROUTERS, b"").bytes();
    hub.workers[0].control.injector.send(Inject::Multicast { tunnel: TUNNEL, packet: hello }).unwrap();
    let sent = packet(host(1), host(2), b"data");
    for _ in 0..2 {
        // More than one batch: the second poll has no room left by others either.
        for _ in 0..64 {
            hub.host_sends(&sent.bytes());
        }
        assert!(hub.workers[0].worker.poll(0, || 0));
    }
    for frame in hub.sent(WAN) {
        spoke.deliver(WAN, &frame);
    }
    spoke.run();
    assert_eq!(spoke.host_received().len(), 127, "one place in the first batch was the injected packet's");
    assert_eq!(spoke.punts().len(), 100);
    assert_eq!(hub.drops(), []);
}

#[test]
fn multicast_of_a_link_stays_there() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    a.tunnel(|tunnel| tunnel.multicast = [peer(2)].into());
    a.publish();
    a.host_sends(&packet(host(1), Ipv4Addr::new(239, 1, 2, 3), b"stream").bytes());
    a.host_sends(&packet(host(1), ALL_OSPF_ROUTERS, b"").bytes());
    assert_eq!(run_all(&mut [&mut a, &mut b]).len(), 0);
    assert_eq!((a.punts(), a.drops()), (vec![], vec![(DropReason::NotForwarded, 2)]));
}

#[test]
fn an_empty_list_is_a_drop() {
    let mut site = Site::new(1);
    let hello = packet(overlay_address(1), ALL_OSPF_ROUTERS, b"").bytes();
    site.workers[0].control.injector.send(Inject::Multicast { tunnel: TUNNEL, packet: hello }).unwrap();
    site.run();
    assert_eq!(site.drops(), [(DropReason::NoPeer, 1)]);
    assert_eq!(site.pool.in_use(), 0);
}
