//! Tables change while packets flow.

use dmvpn_dataplane::DropReason;
use dmvpn_tables::{Adjacency, PuntReason};

use crate::lab::*;

#[test]
fn a_rekey_loses_nothing_in_either_order_of_arrival() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    let mut frames = Vec::new();
    let send = |a: &mut Site, n: u8| {
        a.host_sends(&packet(host(1), host(2), &[n]).bytes());
        a.run();
        a.sent(WAN).remove(0)
    };
    frames.push(send(&mut a, 0));
    // The responder has the new inbound SA first; the initiator goes on with the old one for a while.
    let new = receive_from(&mut b, 1, &security(), 2);
    frames.push(send(&mut a, 1));
    send_with(&mut a, 2, &security(), new);
    frames.push(send(&mut a, 2));
    frames.push(send(&mut a, 3));
    // The network turns the order around the change.
    for n in [0, 2, 1, 3] {
        b.deliver(WAN, &frames[n]);
    }
    b.run();
    assert_eq!(b.host_received(), [0, 2, 1, 3].map(|n| packet(host(1), host(2), &[n]).after_hops(2)));
    assert_eq!(b.drops(), []);

    // The old SA goes; what still comes by it is of an unknown SPI, and the new one goes on.
    b.snapshot.inbound.set((spi(2, 1, 1) & 0xf_ffff) as usize, None);
    b.publish();
    b.deliver(WAN, &frames[0]);
    b.deliver(WAN, &send(&mut a, 4));
    b.run();
    assert_eq!(b.host_received(), [packet(host(1), host(2), &[4]).after_hops(2)]);
    assert_eq!(b.drops(), [(DropReason::UnknownSpi, 1)]);
}

#[test]
fn an_spi_of_another_generation_is_unknown() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    a.host_sends(&packet(host(1), host(2), b"").bytes());
    a.run();
    let mut frame = a.sent(WAN).remove(0);
    // The SPI follows 14 bytes of Ethernet and 20 of IPv4; its upper bits are the generation.
    frame[34] ^= 0x10;
    b.deliver(WAN, &frame);
    b.run();
    assert_eq!(b.drops(), [(DropReason::UnknownSpi, 1)]);
}

#[test]
fn a_thousand_publications_between_packets_lose_none() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    for n in 0..1000u32 {
        let sent = packet(host(1), host(2), &n.to_be_bytes());
        a.host_sends(&sent.bytes());
        // Other peers come and go, and so do the routes to them.
        let other = 3 + n.to_le_bytes()[0] % 50;
        let (outbound, _) = sa_pair(security().suite, n + 1);
        send_with(&mut a, other, &security(), outbound);
        a.snapshot.fib.remove(net(&format!("192.168.{other}.0/24")));
        b.publish();
        run_all(&mut [&mut a, &mut b]);
        assert_eq!(b.host_received(), [sent.after_hops(2)]);
    }
    assert_eq!((a.drops(), b.drops()), (vec![], vec![]));
    assert!(a.publisher.retired() <= 2);
}

#[test]
fn a_shortcut_takes_over_from_the_hub_without_loss() {
    let (mut hub, mut a, mut b) = (Site::new(1), Site::new(2), Site::new(3));
    connect(&mut hub, &mut a, &security(), 1);
    connect(&mut hub, &mut b, &security(), 1);
    a.route("192.168.3.0/24", Adjacency::Resolving { tunnel: TUNNEL, via: Some(peer(1)) });
    a.publish();
    let sent = packet(host(2), host(3), b"data");
    a.host_sends(&sent.bytes());
    assert_eq!(run_all(&mut [&mut hub, &mut a, &mut b]).len(), 2, "through the hub");
    assert_eq!(b.host_received(), [sent.after_hops(3)]);

    // Make before break: the receiver first, then the sender's peer, then its route, all while it sends.
    let outbound = receive_from(&mut b, 2, &security(), 1);
    a.host_sends(&sent.bytes());
    run_all(&mut [&mut hub, &mut a, &mut b]);
    send_with(&mut a, 3, &security(), outbound);
    a.host_sends(&sent.bytes());
    assert_eq!(run_all(&mut [&mut hub, &mut a, &mut b]).len(), 1, "directly");
    assert_eq!(b.host_received(), [sent.after_hops(3), sent.after_hops(2)]);
    for site in [&hub, &a, &b] {
        assert_eq!(site.drops(), []);
    }
}

#[test]
fn a_peer_that_is_gone_gets_nothing_even_if_its_slot_is_taken_again() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    // Another generation of the same slot.
    let stale = dmvpn_tables::PeerId(peer(2).0 ^ (1 << 20));
    a.route("172.16.0.0/12", Adjacency::Tunnel(stale));
    a.publish();
    a.host_sends(&packet(host(1), [172, 16, 0, 1].into(), b"").bytes());
    assert_eq!(run_all(&mut [&mut a, &mut b]), Vec::<Vec<u8>>::new());
    assert_eq!(a.drops(), [(DropReason::NoPeer, 1)]);
}

#[test]
fn what_was_injected_meets_the_tables_it_was_made_for() {
    let (mut a, mut b) = (Site::new(1), Site::new(2));
    connect(&mut a, &mut b, &security(), 1);
    a.run();
    // Published, then injected: the worker has to adopt before it looks the peer up.
    let mut c = Site::new(3);
    connect(&mut a, &mut c, &security(), 1);
    let inject = dmvpn_tables::Inject::Gre { peer: peer(3), protocol: 0x2001, payload: b"first".to_vec() };
    a.workers[0].control.injector.send(inject).unwrap();
    assert!(a.workers[0].worker.poll(0, || 0));
    run_all(&mut [&mut a, &mut b, &mut c]);
    let punts = c.punts();
    assert_eq!(punts.len(), 1);
    assert!(matches!(punts[0].reason, PuntReason::Nhrp { .. }));
}
