use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use dmvpn_tables::esp::KeyMaterial;
use dmvpn_tables::{Adjacency, Endpoints, Mode, PortId, PuntReason, Reader, Snapshot, WorkerId};
use dmvpn_wire::arp::Packet as ArpPacket;
use dmvpn_wire::icmp::{Echo, Message};
use dmvpn_wire::ipv4::{self, Fields};
use dmvpn_wire::{EtherType, IpProtocol, View, eth, udp};

use super::*;
use crate::peer::Peer;
use crate::show::{Request, Response, Topic};

const SPOKE: &str = include_str!("../../../config/examples/spoke1.toml");
const HUB: &str = include_str!("../../../config/examples/hub.toml");
const WAN: PortId = PortId(0);
const LAN: PortId = PortId(1);
const TUNNEL: TunnelId = TunnelId(0);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 9, 9]);
const LAN_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 10);
const FAR_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 3, 10);

/// An engine with a worker's view of its tables.
struct Bench {
    engine: Engine,
    reader: Reader,
    now: Instant,
}

impl Bench {
    fn new(config: &str) -> Self {
        let config = Arc::new(dmvpn_config::parse(config, "test.toml").unwrap());
        let (publisher, mut readers) = Publisher::new(Snapshot::default(), 1);
        let port = |n| Port { mac: MacAddr([2, 0, 0, 0, 0, n]), mtu: 1500, by_addresses: true };
        let start = Start { seed: [7; 32], unix_seconds: 1_700_000_000 };
        let engine = Engine::new(config, vec![port(0), port(1)], publisher, start, Instant::ZERO);
        Self { engine, reader: readers.remove(0), now: Instant::ZERO }
    }

    fn tables(&mut self) -> Snapshot {
        self.reader.refresh().clone()
    }

    fn way(&mut self, to: Ipv4Addr) -> Option<Adjacency> {
        let tables = self.tables();
        tables.adjacencies.get(tables.fib.lookup(to)?.0 as usize).copied()
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.engine.poll_output()).collect()
    }

    fn injects(&mut self) -> Vec<Inject> {
        let outputs = self.outputs();
        outputs
            .into_iter()
            .filter_map(|of| if let Output::Inject(inject) = of { Some(inject) } else { None })
            .collect()
    }

    fn punt(&mut self, reason: PuntReason, packet: &[u8]) {
        self.engine.handle(self.now, Input::Punt(Punt { reason, packet: packet.to_vec() }));
    }

    /// The gateway answers ARP.
    fn gateway_answers(&mut self) {
        let ours = self.engine.ports[0].mac;
        let answer = ArpPacket::request(ours, Ipv4Addr::new(203, 0, 113, 2), GATEWAY).reply(GATEWAY_MAC);
        let mut frame = eth::Header::new(ours, GATEWAY_MAC, EtherType::ARP).octets().to_vec();
        frame.extend_from_slice(answer.octets());
        self.punt(PuntReason::Arp { port: WAN }, &frame);
    }

    /// Lets time pass, up to `until` seconds.
    fn run(&mut self, until: u64) {
        let until = Instant::from_micros(until * 1_000_000);
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.engine.handle_timeout(self.now);
        }
        self.now = until;
    }
}

fn packet(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let fields =
        Fields { tos: 0, identification: 1, dont_fragment: false, ttl: 9, protocol, source, destination };
    let mut packet = ipv4::Header::new(&fields, payload.len()).unwrap().octets().to_vec();
    packet.extend_from_slice(payload);
    packet
}

fn ping(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut message = [0; 16];
    let len = Echo { identifier: 1, sequence: 2, data: b"ping" }.emit_request(&mut message).unwrap();
    packet(source, destination, IpProtocol::ICMP, &message[..len])
}

/// Ports and destinations of the UDP datagrams in frames that go out.
fn datagrams(injects: &[Inject]) -> Vec<(PortId, MacAddr, Ipv4Addr, u16)> {
    injects
        .iter()
        .filter_map(|inject| {
            let Inject::Frame { port, frame } = inject else { return None };
            let (header, rest) = eth::Header::view(frame).unwrap();
            let packet = ipv4::Packet::parse(rest).ok()?;
            let (udp, content) = udp::Header::parse(packet.payload).ok()?;
            let (source, destination) = (packet.header.source(), packet.header.destination());
            assert!(udp.verify(source, destination, content));
            Some((*port, header.destination, destination, udp.destination_port()))
        })
        .collect()
}

#[test]
fn starts_with_addresses_routes_and_a_gratuitous_arp() {
    let mut bench = Bench::new(SPOKE);
    assert_eq!(bench.way(Ipv4Addr::new(10, 0, 0, 2)), Some(Adjacency::Local));
    assert_eq!(bench.way(Ipv4Addr::new(192, 168, 2, 1)), Some(Adjacency::Local));
    assert_eq!(bench.way(LAN_HOST), Some(Adjacency::Glean(LAN)));
    let resolving = Adjacency::Resolving { tunnel: TUNNEL, via: None };
    assert_eq!(bench.way(FAR_HOST), Some(resolving));
    assert_eq!(bench.way(Ipv4Addr::new(10, 0, 0, 77)), Some(resolving));
    assert!(matches!(bench.way(Ipv4Addr::new(8, 8, 8, 8)), Some(Adjacency::Neighbor(_))));
    let tables = bench.tables();
    assert!(tables.tunnels[0].protected);
    assert_eq!(tables.tunnels[0].local, Ipv4Addr::new(203, 0, 113, 2), "local-ip follows the interface");
    assert_eq!(tables.ports.len(), 2);
    let announced: Vec<_> = bench
        .injects()
        .into_iter()
        .filter_map(|inject| {
            let Inject::Frame { port, frame } = inject else { return None };
            let (packet, _) = ArpPacket::parse(&frame[14..]).unwrap();
            (packet.sender() == packet.target()).then(|| (port, packet.sender()))
        })
        .collect();
    let expected = [(WAN, Ipv4Addr::new(203, 0, 113, 2)), (LAN, Ipv4Addr::new(192, 168, 2, 1))];
    assert_eq!(announced, expected);
}

#[test]
fn pings_to_all_addresses_of_the_box_are_answered() {
    let mut bench = Bench::new(SPOKE);
    bench.outputs();
    for ours in ["10.0.0.2", "192.168.2.1", "203.0.113.2"] {
        let ours: Ipv4Addr = ours.parse().unwrap();
        bench.punt(PuntReason::Local { tunnel: None }, &ping(LAN_HOST, ours));
        let injects = bench.injects();
        let [Inject::Packet(reply)] = &injects[..] else { panic!("{injects:?}") };
        let reply = ipv4::Packet::parse(reply).unwrap();
        assert_eq!((reply.header.source(), reply.header.destination()), (ours, LAN_HOST));
        assert!(matches!(Message::parse(reply.payload), Ok(Message::EchoReply(_))));
    }
}

#[test]
fn packets_for_the_host_go_to_the_tun_device_and_back() {
    let mut bench = Bench::new(SPOKE);
    bench.outputs();
    let tunnel_address = Ipv4Addr::new(10, 0, 0, 2);
    let segment = packet(LAN_HOST, tunnel_address, IpProtocol::TCP, &[0; 20]);
    bench.punt(PuntReason::Local { tunnel: None }, &segment);
    let outputs = bench.outputs();
    assert!(matches!(&outputs[..], [Output::Tun(to_host)] if *to_host == segment));

    let tun = |bench: &mut Bench, packet: Vec<u8>| {
        bench.engine.handle(bench.now, Input::Tun(packet));
        bench.injects()
    };
    let answer = packet(tunnel_address, LAN_HOST, IpProtocol::TCP, &[0; 20]);
    assert_eq!(tun(&mut bench, answer.clone()), [Inject::Packet(answer)]);
    let hello = packet(tunnel_address, Ipv4Addr::new(224, 0, 0, 5), IpProtocol(89), &[0; 24]);
    assert_eq!(tun(&mut bench, hello.clone()), [Inject::Multicast { tunnel: TUNNEL, packet: hello }]);
    let from_lan = packet(Ipv4Addr::new(192, 168, 2, 1), Ipv4Addr::new(224, 0, 0, 5), IpProtocol(89), &[]);
    assert_eq!(tun(&mut bench, from_lan), [], "multicast goes into the tunnel of its source address only");
    let foreign = packet(Ipv4Addr::new(1, 2, 3, 4), LAN_HOST, IpProtocol::TCP, &[]);
    assert_eq!(tun(&mut bench, foreign), [], "only addresses of ours");
}

#[test]
fn a_spoke_calls_its_hub_by_the_underlay_interface_once_the_gateway_is_known() {
    let mut bench = Bench::new(SPOKE);
    assert_eq!(datagrams(&bench.injects()), []);
    bench.gateway_answers();
    let hub = Ipv4Addr::new(198, 51, 100, 41);
    assert_eq!(datagrams(&bench.injects()), [(WAN, GATEWAY_MAC, hub, udp::IKE)]);
    bench.run(30);
    let again = datagrams(&bench.injects());
    assert!(!again.is_empty() && again.iter().all(|of| *of == (WAN, GATEWAY_MAC, hub, udp::IKE)));
}

#[test]
fn nothing_leaves_a_protected_tunnel_without_an_sa() {
    let mut bench = Bench::new(SPOKE);
    bench.gateway_answers();
    for second in 1..60 {
        let held = PuntReason::Unresolved { tunnel: TUNNEL, held: true };
        bench.punt(held, &ping(LAN_HOST, FAR_HOST));
        // NHRP in the clear, as if it came from the hub.
        let nhrp = PuntReason::Nhrp { tunnel: TUNNEL, peer: None, source: Ipv4Addr::new(198, 51, 100, 41) };
        bench.punt(nhrp, &[0; 60]);
        bench.run(second);
        for inject in bench.injects() {
            let to_sender = |packet: &[u8]| {
                ipv4::Packet::parse(packet).is_ok_and(|packet| packet.header.destination() == LAN_HOST)
            };
            match inject {
                Inject::Packet(error) => assert!(to_sender(&error), "only ICMP errors"),
                Inject::Frame { .. } => {}
                Inject::Gre { .. } | Inject::Multicast { .. } => panic!("{inject:?}"),
            }
        }
        let tables = bench.tables();
        assert!(tables.peers.iter().all(|(_, peer)| peer.is_none()));
    }
}

#[test]
fn what_waits_in_vain_is_answered() {
    let mut bench = Bench::new(SPOKE);
    bench.outputs();
    let held = PuntReason::Unresolved { tunnel: TUNNEL, held: true };
    bench.punt(held, &ping(LAN_HOST, FAR_HOST));
    assert!(!bench.injects().iter().any(|inject| matches!(inject, Inject::Packet(_))));
    bench.run(15);
    let injects = bench.injects();
    let error = injects.iter().find_map(|of| if let Inject::Packet(error) = of { Some(error) } else { None });
    let error = ipv4::Packet::parse(error.unwrap()).unwrap();
    assert_eq!(error.header.source(), Ipv4Addr::new(192, 168, 2, 1), "our address on the sender's side");
    assert!(matches!(Message::parse(error.payload), Ok(Message::Error { .. })));
}

#[test]
fn a_hub_cannot_resolve_so_it_answers_at_once() {
    let mut bench = Bench::new(HUB);
    bench.outputs();
    let host = Ipv4Addr::new(192, 168, 1, 10);
    bench.punt(PuntReason::Unresolved { tunnel: TUNNEL, held: true }, &ping(host, FAR_HOST));
    assert!(bench.injects().iter().any(|inject| matches!(inject, Inject::Packet(_))));
}

#[test]
fn a_lan_station_gets_a_route_of_its_own_while_it_answers() {
    let mut bench = Bench::new(SPOKE);
    bench.outputs();
    bench.punt(PuntReason::Glean { port: LAN }, &ping(FAR_HOST, LAN_HOST));
    let ours = bench.engine.ports[1].mac;
    let station = MacAddr([2, 0, 0, 0, 5, 5]);
    let answer = ArpPacket::request(ours, Ipv4Addr::new(192, 168, 2, 1), LAN_HOST).reply(station);
    let mut frame = eth::Header::new(ours, station, EtherType::ARP).octets().to_vec();
    frame.extend_from_slice(answer.octets());
    bench.punt(PuntReason::Arp { port: LAN }, &frame);
    let Some(Adjacency::Neighbor(id)) = bench.way(LAN_HOST) else { panic!() };
    let tables = bench.tables();
    assert_eq!(tables.neighbors.get(id.0 as usize).unwrap().unwrap().mac, Some(station));
    let Some(Inject::Frame { frame, .. }) = bench.injects().pop() else { panic!("the packet that waited") };
    assert_eq!(eth::Header::view(&frame).unwrap().0.destination, station);
    bench.run(120);
    assert_eq!(bench.way(LAN_HOST), Some(Adjacency::Glean(LAN)), "silent stations lose it");
}

#[test]
fn a_reload_changes_what_changed_and_no_more() {
    let mut bench = Bench::new(SPOKE);
    let before = bench.tables();
    let same = Arc::new(dmvpn_config::parse(SPOKE, "test.toml").unwrap());
    bench.engine.handle(bench.now, Input::Config(same));
    assert_eq!(bench.tables().fib.len(), before.fib.len());

    let other = SPOKE
        .replace("192.168.2.1/24", "192.168.22.1/24")
        .replace(
            "[protocols.static.route.\"192.168.3.0/24\"]",
            "[protocols.static.route.\"192.168.33.0/24\"]",
        )
        .replace("key = 1", "key = 2");
    let other = Arc::new(dmvpn_config::parse(&other, "test.toml").unwrap());
    bench.engine.handle(bench.now, Input::Config(other));
    let default_route = bench.way(Ipv4Addr::new(8, 8, 8, 8));
    assert_eq!(bench.way(LAN_HOST), default_route);
    assert_eq!(bench.way(FAR_HOST), default_route);
    assert_eq!(bench.way(Ipv4Addr::new(192, 168, 22, 1)), Some(Adjacency::Local));
    let resolving = Adjacency::Resolving { tunnel: TUNNEL, via: None };
    assert_eq!(bench.way(Ipv4Addr::new(192, 168, 33, 1)), Some(resolving));
    assert_eq!(bench.tables().tunnels[0].key, Some(2));
    assert_eq!(bench.tables().fib.len(), before.fib.len());
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let run = || {
        let mut bench = Bench::new(SPOKE);
        bench.gateway_answers();
        bench.run(120);
        bench.injects()
    };
    let first = run();
    assert!(first.len() > 3);
    assert_eq!(first, run());
}

#[test]
fn any_punt_is_survived() {
    let reasons = [
        PuntReason::Arp { port: WAN },
        PuntReason::Arp { port: PortId(77) },
        PuntReason::Dhcp { port: WAN },
        PuntReason::Ike { port: WAN, worker: WorkerId(9) },
        PuntReason::Nhrp { tunnel: TunnelId(9), peer: None, source: GATEWAY },
        PuntReason::Nhrp { tunnel: TUNNEL, peer: Some(PeerId(5)), source: GATEWAY },
        PuntReason::Local { tunnel: None },
        PuntReason::Unresolved { tunnel: TunnelId(9), held: true },
        PuntReason::Glean { port: PortId(77) },
        PuntReason::NeighborUnresolved { neighbor: dmvpn_tables::NeighborId(999) },
        PuntReason::Redirect { tunnel: TUNNEL, peer: None, source: GATEWAY },
        PuntReason::TtlExceeded,
        PuntReason::FragmentationNeeded { mtu: 0 },
        PuntReason::PeerMoved { peer: PeerId(5), to: "203.0.113.9:4500".parse().unwrap() },
        PuntReason::UnknownSpi { spi: 1 },
    ];
    let mut bench = Bench::new(SPOKE);
    let whole = ping(FAR_HOST, LAN_HOST);
    for len in 0..whole.len() {
        for reason in reasons {
            bench.punt(reason, &whole[..len]);
        }
    }
    bench.run(200);
}

#[test]
fn forged_senders_of_unknown_spis_have_few_main_modes_begun() {
    let mut bench = Bench::new(HUB);
    let ours = Ipv4Addr::new(198, 51, 100, 41);
    let called = |bench: &mut Bench| -> BTreeSet<Ipv4Addr> {
        let Response::Ike(ike) = bench.engine.request(bench.now, Request::Show(Topic::Ike)) else { panic!() };
        ike.sas.iter().map(|sa| *sa.remote.ip()).collect()
    };
    for second in 1..=20 {
        bench.run(second);
        for host in 0..100 {
            let esp = packet(Ipv4Addr::new(192, 0, 2, host), ours, IpProtocol::ESP, &[1; 8]);
            bench.punt(PuntReason::UnknownSpi { spi: 0x0101_0101 }, &esp);
        }
    }
    let first = called(&mut bench);
    assert_eq!(first.len(), 16);
    // Later others have their turn, but not when all of our previous life must be over.
    for (second, expected) in [(70, true), (400, false)] {
        bench.run(second);
        let late = Ipv4Addr::new(192, 0, 2, 200 + u8::from(expected));
        let esp = packet(late, ours, IpProtocol::ESP, &[1; 8]);
        bench.punt(PuntReason::UnknownSpi { spi: 0x0101_0101 }, &esp);
        assert_eq!(called(&mut bench).contains(&late), expected, "after {second} s");
    }
}

#[test]
fn new_sas_are_for_the_worker_that_ike_of_their_peer_arrives_at() {
    let config = HUB.replace("[dataplane]", "[dataplane]\nworkers = [0, 1, 2, 3]");
    let (peer, spoke) = (PeerId(1 << 20), Ipv4Addr::new(203, 0, 113, 2));
    let mut spi = 0x10_0000;
    let mut owner = |from: Ipv4Addr, port, worker, by_addresses| {
        let mut bench = Bench::new(&config);
        let ours = bench.tables().ports[0].address;
        bench.engine.ports.iter_mut().for_each(|port| port.by_addresses = by_addresses);
        let endpoints = Endpoints { local: ours, remote: spoke, udp: None };
        let identity = ike::Identity { kind: 1, data: spoke.octets().to_vec() };
        bench.engine.peers.insert(peer, Peer::protected(TUNNEL, endpoints, identity, None));
        let datagram =
            udp::Header::new(500, 500, 4).map(|header| [header.octets(), &[0; 4]].concat()).unwrap();
        bench.punt(PuntReason::Ike { port, worker }, &packet(from, ours, IpProtocol::UDP, &datagram));
        spi += 1;
        let suite = "aes256-sha1".parse().unwrap();
        let new = ike::NewSa {
            peer,
            tunnel: TUNNEL,
            child: ike::ChildId(1),
            spi,
            keys: KeyMaterial::from_keymat(suite, &[7; 52]).unwrap(),
            mode: Mode::Transport,
            endpoints,
            replay_window: 64,
            lifetime: Duration::from_secs(3600),
        };
        bench.engine.carry_out_ike(bench.now, ike::Output::Event(ike::Event::InstallInbound(Box::new(new))));
        bench.engine.tables.edit().inbound_sa(spi).unwrap().owner()
    };
    let anywhere = owner(GATEWAY, WAN, WorkerId(3), true);
    let elsewhere = WorkerId((anywhere.0 + 1) % 4);
    assert_eq!(owner(spoke, WAN, elsewhere, true), elsewhere);
    assert_eq!(owner(spoke, WAN, elsewhere, false), anywhere, "its ESP may come to another worker");
    assert_eq!(owner(spoke, LAN, elsewhere, true), anywhere, "forged");
    assert_eq!(owner(spoke, WAN, WorkerId(4), true), anywhere, "there is no such worker");
}

#[test]
fn shows_without_secrets() {
    let mut bench = Bench::new(SPOKE);
    use Topic::{Dmvpn, Ike, Neighbors, Nhrp, Ports, Routes, Sas};
    for topic in [Dmvpn, Nhrp, Ike, Sas, Routes, Ports, Neighbors] {
        let shown = bench.engine.request(bench.now, Request::Show(topic));
        let text = serde_json::to_string(&shown).unwrap();
        assert!(!text.contains("SECRET"), "{text}");
    }
    let Response::Routes(routes) = bench.engine.request(bench.now, Request::Show(Routes)) else { panic!() };
    let far =
        routes.iter().find(|route| route.prefix.contains(FAR_HOST) && route.prefix.prefix() == 24).unwrap();
    assert_eq!((far.origin.as_str(), far.path.as_str()), ("static", "unreachable"));
    assert_eq!(far.next_hop, Some(Ipv4Addr::new(10, 0, 0, 3)));
    let nobody = Request::Disconnect { peer: Some(FAR_HOST) };
    assert_eq!(bench.engine.request(bench.now, nobody), Response::NoSuchPeer);
}

#[test]
fn a_station_of_a_tunnel_with_a_host_address_never_follows_the_default_route() {
    let text = SPOKE
        .replace(r#"address = "10.0.0.2/24""#, r#"address = "10.0.0.2/32""#)
        .replace(r#"map."10.0.0.1/24""#, r#"map."10.0.0.1/32""#)
        .replace("[protocols.static.route.\"192.168.3.0/24\"]\nnext-hop = \"10.0.0.3\"\n", "");
    let mut bench = Bench::new(&text);
    let way = bench.way(Ipv4Addr::new(10, 0, 0, 1));
    assert!(matches!(way, Some(Adjacency::Resolving { tunnel: TUNNEL, .. })), "{way:?}");
}
