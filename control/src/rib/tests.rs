use super::*;

const TUNNEL: TunnelId = TunnelId(0);
const SPOKE: PeerId = PeerId(0x10_0005);
const HUB: PeerId = PeerId(0x10_0001);

fn prefix(text: &str) -> Ipv4Network {
    text.parse().unwrap()
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn station(text: &str) -> NextHop {
    NextHop::Station(TUNNEL, address(text))
}

fn route(origin: Origin, next_hop: NextHop) -> Route {
    Route { origin, next_hop }
}

fn gateway(text: &str) -> NextHop {
    NextHop::Gateway(Gateway { port: PortId(0), address: address(text), neighbor: NeighborId(7) })
}

/// Where workers send packets for an address.
fn way(tables: &Snapshot, to: &str) -> Option<Adjacency> {
    let slot = tables.fib.lookup(address(to))?;
    tables.adjacencies.get(slot.0 as usize).copied()
}

#[test]
fn a_static_route_goes_by_the_server_until_its_next_hop_is_bound() {
    let (mut rib, mut tables) = (Rib::default(), Snapshot::default());
    rib.insert(&mut tables, prefix("192.168.3.0/24"), route(Origin::Static, station("10.0.0.3")));
    let resolving = |via| Some(Adjacency::Resolving { tunnel: TUNNEL, via });
    assert_eq!(way(&tables, "192.168.3.9"), resolving(None));
    rib.set_via(&mut tables, TUNNEL, Some(HUB));
    assert_eq!(way(&tables, "192.168.3.9"), resolving(Some(HUB)));
    rib.bind(&mut tables, TUNNEL, address("10.0.0.3"), Some(SPOKE));
    assert_eq!(way(&tables, "192.168.3.9"), Some(Adjacency::Tunnel(SPOKE)));
    rib.set_via(&mut tables, TUNNEL, None);
    assert_eq!(way(&tables, "192.168.3.9"), Some(Adjacency::Tunnel(SPOKE)), "the shortcut lives on");
    rib.bind(&mut tables, TUNNEL, address("10.0.0.3"), None);
    assert_eq!(way(&tables, "192.168.3.9"), resolving(None));
    rib.set_via(&mut tables, TUNNEL, Some(HUB));
    assert_eq!(way(&tables, "192.168.3.9"), resolving(Some(HUB)), "it fails over to the new server");
}

#[test]
fn the_preferred_origin_wins_and_the_next_takes_over() {
    let (mut rib, mut tables) = (Rib::default(), Snapshot::default());
    rib.bind(&mut tables, TUNNEL, address("10.0.0.3"), Some(SPOKE));
    rib.bind(&mut tables, TUNNEL, address("10.0.0.1"), Some(HUB));
    let lan = prefix("192.168.3.0/24");
    rib.insert(&mut tables, lan, route(Origin::Static, station("10.0.0.1")));
    rib.insert(&mut tables, lan, route(Origin::Shortcut, station("10.0.0.3")));
    assert_eq!(way(&tables, "192.168.3.9"), Some(Adjacency::Tunnel(SPOKE)));
    let ordinary = |route: &Route| route.origin != Origin::Shortcut;
    let (_, found) = rib.lookup(address("192.168.3.9"), ordinary).unwrap();
    assert_eq!(found.next_hop, station("10.0.0.1"));
    rib.remove(&mut tables, lan, Origin::Shortcut);
    assert_eq!(way(&tables, "192.168.3.9"), Some(Adjacency::Tunnel(HUB)));
    rib.remove(&mut tables, lan, Origin::Static);
    assert_eq!(way(&tables, "192.168.3.9"), None);
    assert_eq!(rib.iter().count(), 0);
}

#[test]
fn several_static_next_hops_and_a_replaced_shortcut() {
    let (mut rib, mut tables) = (Rib::default(), Snapshot::default());
    let any = prefix("0.0.0.0/0");
    rib.insert(&mut tables, any, route(Origin::Static, gateway("198.51.100.42")));
    rib.insert(&mut tables, any, route(Origin::Static, station("10.0.0.1")));
    assert_eq!(rib.iter().next().unwrap().1.len(), 2);
    let by_port = |route: &Route| route.next_hop.port() == Some(PortId(0));
    assert_eq!(rib.lookup(address("203.0.113.1"), by_port).unwrap().1.next_hop, gateway("198.51.100.42"));
    assert_eq!(rib.lookup(address("203.0.113.1"), |of| of.next_hop.port() == Some(PortId(1))), None);
    let lan = prefix("192.168.3.0/24");
    rib.insert(&mut tables, lan, route(Origin::Shortcut, station("10.0.0.3")));
    rib.insert(&mut tables, lan, route(Origin::Shortcut, station("10.0.0.4")));
    let (_, routes) = rib.iter().find(|(of, _)| *of == lan).unwrap();
    assert_eq!(routes, [route(Origin::Shortcut, station("10.0.0.4"))]);
}

#[test]
fn a_peer_among_many_changes_one_slot() {
    let (mut rib, mut tables) = (Rib::default(), Snapshot::default());
    rib.set_via(&mut tables, TUNNEL, Some(HUB));
    for n in 0..10_000 {
        let network = Ipv4Network::new(Ipv4Addr::from_bits(0xc0a8_0000 + n * 256), 24).unwrap();
        let through = if n % 2 == 0 { station("10.0.0.3") } else { station("10.0.0.4") };
        rib.insert(&mut tables, network, route(Origin::Static, through));
    }
    assert_eq!(tables.adjacencies.len(), 2, "routes share the slots of their next hops");
    rib.bind(&mut tables, TUNNEL, address("10.0.0.3"), Some(SPOKE));
    assert_eq!(way(&tables, "192.168.0.1"), Some(Adjacency::Tunnel(SPOKE)));
    assert_eq!(way(&tables, "192.168.1.1"), Some(Adjacency::Resolving { tunnel: TUNNEL, via: Some(HUB) }));
}

#[test]
fn slots_are_used_again_and_never_lead_to_what_they_led_to_before() {
    let (mut rib, mut tables) = (Rib::default(), Snapshot::default());
    for round in 0..100u32 {
        let lan = prefix("192.168.3.0/24");
        let through = NextHop::Station(TUNNEL, Ipv4Addr::from_bits(round));
        rib.insert(&mut tables, lan, route(Origin::Static, through));
        rib.remove(&mut tables, lan, Origin::Static);
    }
    assert_eq!(tables.adjacencies.len(), 1);
    assert_eq!(tables.adjacencies.get(0), Some(&Adjacency::Unreachable));
}
