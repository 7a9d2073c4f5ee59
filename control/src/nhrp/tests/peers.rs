//! What other implementations sent, given to our machine in their peer's place.

use dmvpn_config::{Multicast, Nhrp, NhrpMap};
use dmvpn_tables::PeerId;

use super::net::{HUB_NBMA, Table, config, hub_map, ip, net, nhrp};
use crate::nhrp::packet::tests::captured;
use crate::nhrp::packet::{Body, ExtensionKind, MessageKind, Packet};
use crate::nhrp::{Event, Input, Kind, Machine, Output, Route, Routes};
use crate::time::Instant;

const PLAIN: &str = "03-nhrp-plain-frr844-noauth";
const AUTHENTICATED: &str = "04-nhrp-plain-frr103-auth-nat";

/// A machine with its routes, outside of any network.
struct Bench {
    machine: Machine,
    routes: Table,
    now: Instant,
}

impl Bench {
    fn new(address: &str, nhrp: Nhrp, nbma: &str) -> Self {
        let mut machine = Machine::new(config(address, nhrp, 7));
        machine.set_nbma(Instant::ZERO, Some(ip(nbma)));
        let mut routes = Table::default();
        let network = net("10.0.0.0/24");
        routes.set(network, Route::Overlay { next_hop: ip("0.0.0.0"), prefix: network });
        Self { machine, routes, now: Instant::ZERO }
    }

    fn input(&mut self, input: Input<'_>) -> Vec<Output> {
        self.machine.handle(self.now, input, &self.routes as &dyn Routes);
        std::iter::from_fn(|| self.machine.poll_output()).collect()
    }

    fn up(&mut self, peer: u32, nbma: &str) -> Vec<Output> {
        self.input(Input::PeerUp { peer: PeerId(peer), nbma: ip(nbma), natted: false })
    }

    fn packet(&mut self, from: u32, bytes: &[u8]) -> Vec<Output> {
        self.input(Input::Packet { from: PeerId(from), bytes })
    }

    fn lan(&mut self, prefix: &str) {
        self.routes.set(net(prefix), Route::OffTunnel { prefix: net(prefix) });
    }
}

fn hub(authenticated: bool) -> Bench {
    let mut nhrp = nhrp(Vec::new(), Multicast::Dynamic);
    nhrp.authentication = nhrp.authentication.filter(|_| authenticated);
    let mut bench = Bench::new("10.0.0.1/24", nhrp, "198.51.100.41");
    for (lan, next_hop) in
        [("192.168.2.0/24", "10.0.0.2"), ("192.168.3.0/24", "10.0.0.3"), ("192.168.4.0/24", "10.0.0.4")]
    {
        bench.routes.via(lan, next_hop);
    }
    bench
}

fn sent(outputs: &[Output]) -> Vec<(u32, Vec<u8>)> {
    let packet = |output: &Output| match output {
        Output::Send { to, packet } => Some((to.0, packet.clone())),
        _ => None,
    };
    outputs.iter().filter_map(packet).collect()
}

fn decoded(bytes: &[u8]) -> Packet {
    Packet::decode(bytes).unwrap()
}

fn kind(packet: &Packet) -> Option<MessageKind> {
    match &packet.body {
        Body::Message(message) => Some(message.kind),
        _ => None,
    }
}

fn of_kind(packets: &[Vec<u8>], wanted: MessageKind) -> Vec<Packet> {
    packets.iter().map(|bytes| decoded(bytes)).filter(|packet| kind(packet) == Some(wanted)).collect()
}

/// Every registration and everything passed on in a hub's capture: our hub does what that hub did, to the byte but
/// for the hop count of what it originates.
fn replay_at_the_hub(folder: &str, authenticated: bool, spokes: [(u32, &str, &str); 2]) -> Option<()> {
    let packets = captured(&format!("{folder}/plhub.pcap"))?;
    let mut bench = hub(authenticated);
    for (peer, nbma, _) in spokes {
        bench.up(peer, nbma);
    }
    let claimed = |packet: &Packet| {
        spokes.iter().find(|(_, _, claimed)| packet.source_nbma == ip(claimed)).map(|(peer, ..)| *peer)
    };
    let (mut registrations, mut passed) = (0, 0);
    for (index, bytes) in packets.iter().enumerate() {
        let packet = decoded(bytes);
        let later = &packets[index + 1..];
        let sender = match kind(&packet) {
            Some(MessageKind::RegistrationRequest) => claimed(&packet).unwrap(),
            Some(MessageKind::ResolutionRequest) if packet.hop_count == 64 => claimed(&packet).unwrap(),
            // A reply comes from the other one than who asked.
            Some(MessageKind::ResolutionReply) if packet.hop_count == 64 => 3 - claimed(&packet).unwrap(),
            _ => continue,
        };
        let outputs = bench.packet(sender, bytes);
        let replies = sent(&outputs);
        assert_eq!(replies.len(), 1, "{packet:?}");
        let (to, ours) = &replies[0];
        let mut ours = decoded(ours);
        let theirs = later.iter().map(|bytes| decoded(bytes)).find(|theirs| {
            let same = |packet: &Packet| match &packet.body {
                Body::Message(message) => Some((message.id, message.kind, packet.source)),
                _ => None,
            };
            theirs.hop_count != packet.hop_count && same(theirs) == same(&ours)
        });
        let theirs = theirs.unwrap();
        if kind(&packet) == Some(MessageKind::RegistrationRequest) {
            registrations += 1;
            assert_eq!(*to, sender);
            ours.hop_count = theirs.hop_count;
        } else {
            passed += 1;
            assert_eq!(*to, 3 - sender);
        }
        assert_eq!(ours.encode().unwrap(), theirs.encode().unwrap(), "{ours:?}\n{theirs:?}");
    }
    assert_eq!((registrations, passed), (2, 4));
    Some(())
}

#[test]
fn a_hub_answers_and_passes_on_as_frr_does() {
    let spokes = [(1, "203.0.113.2", "203.0.113.2"), (2, "203.0.113.18", "203.0.113.18")];
    replay_at_the_hub(PLAIN, false, spokes);
}

#[test]
fn a_hub_with_authentication_and_a_spoke_behind_a_nat_as_frr_does() {
    let spokes = [(1, "203.0.113.2", "203.0.113.2"), (2, "203.0.113.33", "10.99.1.2")];
    replay_at_the_hub(AUTHENTICATED, true, spokes);
}

#[test]
fn a_spoke_behind_a_nat_registers_with_frr_is_redirected_and_resolves() {
    let Some(packets) = captured(&format!("{AUTHENTICATED}/plnat1.pcap")) else { return };
    let mut bench = Bench::new("10.0.0.4/24", nhrp(vec![hub_map()], Multicast::Nhs), "10.99.1.2");
    bench.routes.via("192.168.0.0/16", "10.0.0.1");
    bench.lan("192.168.4.0/24");
    let outputs = bench.up(1, "198.51.100.41");
    let registration = decoded(&sent(&outputs)[0].1);
    assert_eq!(kind(&registration), Some(MessageKind::RegistrationRequest));

    // Theirs differs in its hop count and the order of its extensions only.
    let theirs = of_kind(&packets, MessageKind::RegistrationRequest).remove(0);
    assert_eq!(registration.body, theirs.body);
    assert_eq!(registration.source_nbma, theirs.source_nbma);
    for extension in &theirs.extensions {
        assert!(registration.extensions.contains(extension), "{extension:?}");
    }
    assert_eq!(registration.extensions.len(), theirs.extensions.len());

    let reply = of_kind(&packets, MessageKind::RegistrationReply).remove(0);
    let outputs = bench.packet(1, &reply.encode().unwrap());
    assert!(outputs.contains(&Output::Event(Event::NhsUp { nhs: ip("10.0.0.1"), nbma: HUB_NBMA })));
    assert!(outputs.contains(&Output::Event(Event::BehindNat { public: ip("203.0.113.33") })));

    let indication = packets.iter().find(|bytes| bytes[17] == 8).unwrap();
    let outputs = bench.packet(1, indication);
    let request = decoded(&sent(&outputs)[0].1);
    let theirs = of_kind(&packets, MessageKind::ResolutionRequest);
    let theirs = theirs.iter().find(|packet| packet.source == ip("10.0.0.4")).unwrap();
    assert_eq!(request.destination, theirs.destination);
    assert_eq!(request.extension(ExtensionKind::Nat), theirs.extension(ExtensionKind::Nat));

    let mut reply = of_kind(&packets, MessageKind::ResolutionReply)
        .into_iter()
        .find(|packet| packet.source == ip("10.0.0.4"))
        .unwrap();
    let id = |packet: &Packet| match &packet.body {
        Body::Message(message) => message.id,
        _ => unreachable!(),
    };
    if let Body::Message(message) = &mut reply.body {
        message.id = id(&request);
    }
    let outputs = bench.packet(1, &reply.encode().unwrap());
    let connect = Output::Connect { nbma: ip("203.0.113.2"), overlay: ip("10.0.0.2") };
    assert_eq!(outputs, [connect]);

    // The path is tried, by a request that the station answers over the hub, as FRR does.
    let outputs = bench.up(2, "203.0.113.2");
    let probe = decoded(&sent(&outputs)[0].1);
    assert_eq!((probe.hop_count, probe.destination), (1, ip("10.0.0.2")));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Bind { .. })));
    let mut answer = reply.clone();
    answer.destination = ip("10.0.0.2");
    if let Body::Message(message) = &mut answer.body {
        message.id = id(&probe);
    }
    let outputs = bench.packet(1, &answer.encode().unwrap());
    let bind = Output::Bind { overlay: ip("10.0.0.2"), peer: PeerId(2), kind: Kind::Cached };
    let route = Output::AddRoute { prefix: net("192.168.2.0/24"), next_hop: ip("10.0.0.2"), peer: PeerId(2) };
    assert_eq!(outputs[..2], [bind, route]);
}

#[test]
fn a_spoke_answers_as_frr_does() {
    let Some(packets) = captured(&format!("{AUTHENTICATED}/plnat1.pcap")) else { return };
    let mut bench = Bench::new("10.0.0.4/24", nhrp(vec![hub_map()], Multicast::Nhs), "10.99.1.2");
    bench.routes.via("192.168.0.0/16", "10.0.0.1");
    bench.lan("192.168.4.0/24");
    bench.up(1, "198.51.100.41");
    let reply = of_kind(&packets, MessageKind::RegistrationReply).remove(0);
    bench.packet(1, &reply.encode().unwrap());

    let from_far = |packet: &Packet| packet.source == ip("10.0.0.2");
    let request = of_kind(&packets, MessageKind::ResolutionRequest).into_iter().find(from_far).unwrap();
    let outputs = bench.packet(1, &request.encode().unwrap());
    let mut ours = decoded(&sent(&outputs)[0].1);
    let theirs = of_kind(&packets, MessageKind::ResolutionReply).into_iter().find(from_far).unwrap();
    // We begin at 255 hops, and say that we know about NAT, which OpenNHRP wants to see.
    assert_eq!(ours.hop_count, 255);
    ours.hop_count = theirs.hop_count;
    if let Body::Message(message) = &mut ours.body {
        assert_eq!(message.flags, 0xe802);
        message.flags = 0xe800;
    }
    assert_eq!(ours, theirs);
    // Behind a NAT we begin as well, so that the other one can come in.
    let connect = Output::Connect { nbma: ip("203.0.113.2"), overlay: ip("10.0.0.2") };
    assert!(outputs.contains(&connect), "{outputs:?}");
}

#[test]
fn a_client_that_does_not_know_the_server_names_itself_or_everybody() {
    for destination in ["10.0.0.2", "10.0.0.255"] {
        let mut client = Bench::new("10.0.0.2/24", nhrp(vec![hub_map()], Multicast::Nhs), "203.0.113.2");
        let mut request = decoded(&sent(&client.up(1, "198.51.100.41"))[0].1);
        request.destination = ip(destination);
        request.hop_count = 1;
        let mut hub = hub(true);
        hub.up(1, "203.0.113.2");
        let reply = decoded(&sent(&hub.packet(1, &request.encode().unwrap()))[0].1);
        assert_eq!(kind(&reply), Some(MessageKind::RegistrationReply));
        assert_eq!(reply.destination, ip("10.0.0.1"), "the client learns who it is");
        let mut registrations = client.machine.counters().received[4];
        registrations += 1;
        let outputs = client.packet(1, &reply.encode().unwrap());
        assert_eq!(client.machine.counters().received[4], registrations);
        assert!(outputs.iter().any(|output| matches!(output, Output::Event(Event::NhsUp { .. }))));
    }
}

#[test]
fn the_real_overlay_address_of_a_server_is_learned_from_its_reply() {
    let map = NhrpMap { address: net("10.0.0.9/24"), ..hub_map() };
    let mut client = Bench::new("10.0.0.2/24", nhrp(vec![map], Multicast::Nhs), "203.0.113.2");
    let mut request = decoded(&sent(&client.up(1, "198.51.100.41"))[0].1);
    request.destination = ip("10.0.0.2");
    let mut hub = hub(true);
    hub.up(1, "203.0.113.2");
    let reply = sent(&hub.packet(1, &request.encode().unwrap())).remove(0).1;
    let outputs = client.packet(1, &reply);
    let bind = Output::Bind { overlay: ip("10.0.0.1"), peer: PeerId(1), kind: Kind::Nhs };
    assert!(outputs.contains(&bind), "{outputs:?}");
}
