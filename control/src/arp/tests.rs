use super::*;

const PORT: PortId = PortId(0);
const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const OURS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);

fn link() -> Link {
    Link { mac: OUR_MAC, address: Some("192.168.1.1/24".parse().unwrap()) }
}

fn arp() -> Arp {
    let mut arp = Arp::default();
    arp.configure(vec![link()]);
    let announced = questions(&drain(&mut arp));
    assert_eq!(announced, [(MacAddr::BROADCAST, OURS, OURS)]);
    arp
}

fn drain(arp: &mut Arp) -> Vec<Output> {
    std::iter::from_fn(|| arp.poll_output()).collect()
}

/// Destination, sender and target of all ARP requests.
fn questions(outputs: &[Output]) -> Vec<(MacAddr, Ipv4Addr, Ipv4Addr)> {
    outputs
        .iter()
        .filter_map(|output| {
            let Output::Frame { frame, .. } = output else { return None };
            let (header, payload) = eth::Header::view(frame).unwrap();
            let (packet, operation) = Packet::parse(payload).ok()?;
            (operation == Operation::Request).then_some((
                header.destination,
                packet.sender(),
                packet.target(),
            ))
        })
        .collect()
}

fn framed(packet: Packet) -> Vec<u8> {
    let mut frame = eth::Header::new(OUR_MAC, packet.sender_mac, EtherType::ARP).octets().to_vec();
    frame.extend_from_slice(packet.octets());
    frame
}

fn answer(from: Ipv4Addr, mac: MacAddr) -> Vec<u8> {
    framed(Packet::request(OUR_MAC, OURS, from).reply(mac))
}

fn at(seconds: u64) -> Instant {
    Instant::from_micros(seconds * 1_000_000)
}

#[test]
fn resolves_and_releases_what_waited() {
    let mut arp = arp();
    let id = arp.resolve(at(0), PORT, PEER).unwrap();
    for n in 0..6 {
        arp.send(id, vec![n]);
    }
    let outputs = drain(&mut arp);
    assert_eq!(questions(&outputs), [(MacAddr::BROADCAST, OURS, PEER)]);
    arp.handle(at(0), PORT, &answer(PEER, PEER_MAC));
    let outputs = drain(&mut arp);
    let known = Neighbor { port: PORT, address: PEER, mac: Some(PEER_MAC) };
    assert_eq!(outputs[0], Output::Changed(id, known));
    let sent: Vec<u8> = outputs[1..]
        .iter()
        .map(|output| {
            let Output::Frame { frame, .. } = output else { panic!("{output:?}") };
            assert_eq!(eth::Header::view(frame).unwrap().0.destination, PEER_MAC);
            frame[14]
        })
        .collect();
    assert_eq!(sent, [2, 3, 4, 5], "the newest are kept");
}

#[test]
fn a_silent_station_makes_packets_unreachable() {
    let mut arp = arp();
    let id = arp.resolve(at(0), PORT, PEER).unwrap();
    arp.send(id, vec![1]);
    let mut asked = 0;
    let mut failed = Vec::new();
    while failed.is_empty() {
        let now = arp.poll_timeout().unwrap();
        asked += questions(&drain(&mut arp)).len();
        arp.handle_timeout(now);
        failed = drain(&mut arp);
        asked += questions(&failed).len();
        failed.retain(|output| matches!(output, Output::Unreachable(_)));
    }
    assert_eq!(asked, 3);
    assert_eq!(failed, [Output::Unreachable(vec![1])]);
    arp.send(id, vec![2]);
    assert_eq!(drain(&mut arp), [Output::Unreachable(vec![2])]);
    let now = arp.poll_timeout().unwrap();
    arp.handle_timeout(now);
    assert!(matches!(drain(&mut arp)[..], [Output::Removed(gone, _)] if gone == id));
    assert_eq!(arp.poll_timeout(), None);
}

#[test]
fn a_pinned_station_is_asked_again_while_down() {
    let mut arp = arp();
    let id = arp.resolve(at(0), PORT, PEER).unwrap();
    arp.pin(id);
    for _ in 0..5 {
        let now = arp.poll_timeout().unwrap();
        arp.handle_timeout(now);
    }
    assert!(questions(&drain(&mut arp)).len() >= 4);
    arp.unpin(id);
    while let Some(now) = arp.poll_timeout() {
        arp.handle_timeout(now);
    }
    assert!(matches!(drain(&mut arp).last(), Some(Output::Removed(..))));
}

#[test]
fn an_entry_is_refreshed_by_unicast_before_it_expires() {
    let mut arp = arp();
    let id = arp.resolve(at(0), PORT, PEER).unwrap();
    arp.handle(at(0), PORT, &answer(PEER, PEER_MAC));
    drain(&mut arp);
    let now = arp.poll_timeout().unwrap();
    arp.handle_timeout(now);
    assert_eq!(questions(&drain(&mut arp)), [(PEER_MAC, OURS, PEER)]);
    arp.handle(now, PORT, &answer(PEER, PEER_MAC));
    assert_eq!(drain(&mut arp), [], "nothing changed");
    // Now it falls silent: two more to itself or all, then it is down.
    for _ in 0..4 {
        let now = arp.poll_timeout().unwrap();
        arp.handle_timeout(now);
    }
    let down = Neighbor { port: PORT, address: PEER, mac: None };
    assert_eq!(drain(&mut arp).last(), Some(&Output::Changed(id, down)));
}

#[test]
fn answers_for_our_address_only() {
    let mut arp = arp();
    arp.handle(at(0), PORT, &framed(Packet::request(PEER_MAC, PEER, OURS)));
    let outputs = drain(&mut arp);
    let Some(Output::Frame { frame, .. }) = outputs.last() else { panic!("{outputs:?}") };
    let (packet, operation) = Packet::parse(&frame[14..]).unwrap();
    assert_eq!((operation, packet.sender(), packet.sender_mac), (Operation::Reply, OURS, OUR_MAC));

    let other = Ipv4Addr::new(192, 168, 1, 77);
    arp.handle(at(0), PORT, &framed(Packet::request(PEER_MAC, PEER, other)));
    assert_eq!(drain(&mut arp), []);
    let off_link = Ipv4Addr::new(172, 16, 0, 1);
    arp.handle(at(0), PORT, &framed(Packet::request(PEER_MAC, off_link, OURS)));
    assert_eq!(drain(&mut arp), []);
    // An address probe has no sender yet.
    arp.handle(at(0), PORT, &framed(Packet::request(PEER_MAC, Ipv4Addr::UNSPECIFIED, OURS)));
    assert_eq!(drain(&mut arp).len(), 1);
    arp.handle(at(0), PORT, &answer(OURS, PEER_MAC));
    let conflict = Output::Conflict { port: PORT, address: OURS, mac: PEER_MAC };
    assert_eq!(drain(&mut arp), [conflict]);
}

#[test]
fn only_stations_of_the_link_are_resolved() {
    let mut arp = arp();
    for address in ["192.168.1.0", "192.168.1.255", "192.168.1.1", "192.168.2.1"] {
        assert_eq!(arp.resolve(at(0), PORT, address.parse().unwrap()), None, "{address}");
    }
    assert_eq!(arp.resolve(at(0), PortId(9), PEER), None);
}

#[test]
fn the_table_is_bounded_and_spares_what_is_pinned() {
    let mut arp = Arp::default();
    arp.configure(vec![Link { mac: OUR_MAC, address: Some("10.0.0.1/8".parse().unwrap()) }]);
    let first = Ipv4Addr::new(10, 1, 0, 0);
    let pinned = arp.resolve(at(0), PORT, first).unwrap();
    arp.pin(pinned);
    for n in 1..20_000 {
        let address = Ipv4Addr::from_bits(first.to_bits() + n);
        assert!(arp.resolve(at(0), PORT, address).is_some());
    }
    assert_eq!(arp.entries.len(), CAPACITY);
    assert_eq!(arp.resolve(at(0), PORT, first), Some(pinned));
}

proptest::proptest! {
    #[test]
    fn any_frame_is_survived(frame in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
        arp().handle(at(0), PORT, &frame);
    }
}
