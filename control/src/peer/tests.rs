use dmvpn_tables::esp::KeyMaterial;
use dmvpn_tables::{Tunnel, UdpPorts};

use super::*;
use crate::ike::ChildId;

const TUNNEL: TunnelId = TunnelId(0);
const PEER: PeerId = PeerId(0x10_0003);

fn tables(protected: bool) -> Snapshot {
    let tunnel = Tunnel {
        id: TUNNEL,
        address: Ipv4Addr::new(10, 0, 0, 1),
        local: Ipv4Addr::new(198, 51, 100, 41),
        key: Some(1),
        mtu: 1400,
        ttl: Some(64),
        tos: None,
        dont_fragment: true,
        protected,
        redirect: true,
        multicast: Arc::default(),
    };
    Snapshot { tunnels: [tunnel].into(), ..Snapshot::default() }
}

fn endpoints(remote: [u8; 4], port: Option<u16>) -> Endpoints {
    Endpoints {
        local: Ipv4Addr::new(198, 51, 100, 41),
        remote: remote.into(),
        udp: port.map(|remote| UdpPorts { local: 4500, remote }),
    }
}

fn new_sa(spi: u32) -> NewSa {
    let suite: dmvpn_tables::esp::Suite = "aes256-sha1".parse().unwrap();
    NewSa {
        peer: PEER,
        tunnel: TUNNEL,
        child: ChildId(u64::from(spi)),
        spi,
        keys: KeyMaterial::from_keymat(suite, &[7; 52]).unwrap(),
        mode: Mode::Transport,
        endpoints: endpoints([203, 0, 113, 2], None),
        replay_window: 64,
        lifetime: Duration::from_secs(3600),
    }
}

fn identity() -> Identity {
    Identity { kind: 1, data: vec![203, 0, 113, 2] }
}

fn one_peer(tables: &mut Snapshot) -> Peers {
    let mut peers = Peers::new(1, 4);
    let at = endpoints([203, 0, 113, 2], None);
    peers.insert(PEER, Peer::protected(TUNNEL, at, identity(), Some(NeighborId(0))));
    peers.relocate(tables, PEER, at, Some(NeighborId(0)));
    peers
}

fn sending_spi(tables: &Snapshot) -> Option<u32> {
    match tables.peer(PEER)?.path() {
        Path::Esp { sa, .. } => Some(sa.spi()),
        Path::Clear => None,
    }
}

#[test]
fn workers_see_a_protected_peer_only_with_an_outbound_sa() {
    let mut tables = tables(true);
    let mut peers = one_peer(&mut tables);
    assert!(tables.peer(PEER).is_none());
    peers.install_inbound(&mut tables, &new_sa(0x10_0001), WindowSize::default());
    assert!(tables.peer(PEER).is_none());
    peers.install_outbound(&mut tables, &new_sa(0xaaaa), IvSeed::new([1; 16]));
    assert_eq!(sending_spi(&tables), Some(0xaaaa));
    peers.remove_outbound(&mut tables, PEER, 0xaaaa);
    assert!(tables.peer(PEER).is_none(), "without an SA it is closed");
}

#[test]
fn a_rekey_sends_by_the_new_sa_and_receives_by_both() {
    let mut tables = tables(true);
    let mut peers = one_peer(&mut tables);
    for (inbound, outbound) in [(0x10_0001, 0xaaaa), (0x10_0002, 0xbbbb)] {
        peers.install_inbound(&mut tables, &new_sa(inbound), WindowSize::default());
        peers.install_outbound(&mut tables, &new_sa(outbound), IvSeed::new([1; 16]));
    }
    assert_eq!(sending_spi(&tables), Some(0xbbbb));
    assert!(tables.inbound_sa(0x10_0001).is_some() && tables.inbound_sa(0x10_0002).is_some());
    peers.remove_outbound(&mut tables, PEER, 0xaaaa);
    peers.remove_inbound(&mut tables, PEER, 0x10_0001);
    assert_eq!(sending_spi(&tables), Some(0xbbbb));
    assert!(tables.inbound_sa(0x10_0001).is_none());
    peers.remove(&mut tables, PEER).unwrap();
    assert!(tables.inbound_sa(0x10_0002).is_none() && tables.peer(PEER).is_none());
    assert!(peers.at(TUNNEL, Ipv4Addr::new(203, 0, 113, 2)).next().is_none());
}

#[test]
fn a_move_keeps_the_state_of_its_sas() {
    let mut tables = tables(true);
    let mut peers = one_peer(&mut tables);
    peers.install_inbound(&mut tables, &new_sa(0x10_0001), WindowSize::default());
    peers.install_outbound(&mut tables, &new_sa(0xaaaa), IvSeed::new([1; 16]));
    let before = tables.inbound_sa(0x10_0001).unwrap().sa.clone();
    let there = endpoints([203, 0, 113, 77], Some(31_000));
    peers.relocate(&mut tables, PEER, there, Some(NeighborId(4)));
    let entry = tables.inbound_sa(0x10_0001).unwrap();
    assert!(Arc::ptr_eq(&entry.sa, &before), "the replay window goes on");
    assert_eq!((entry.remote, entry.udp), (there.remote, there.udp));
    let peer = tables.peer(PEER).unwrap();
    assert_eq!((*peer.endpoints(), peer.neighbor()), (there, NeighborId(4)));
    assert_eq!(peers.at(TUNNEL, there.remote).collect::<Vec<_>>(), [PEER]);
    peers.relocate(&mut tables, PEER, there, None);
    assert!(tables.peer(PEER).is_none(), "no underlay route");
}

#[test]
fn an_sa_keeps_its_worker_and_the_next_one_follows_the_peer() {
    let mut tables = tables(true);
    let mut peers = one_peer(&mut tables);
    let there = endpoints([203, 0, 113, 77], None);
    let sending = |tables: &Snapshot| tables.peer(PEER).unwrap().owner();
    let receiving = |tables: &Snapshot, spi| tables.inbound_sa(spi).unwrap().owner();

    peers.arrive_at(PEER, WorkerId(3));
    peers.arrive_at(PEER, WorkerId(u16::MAX));
    peers.arrive_at(PeerId(PEER.0 + 1), WorkerId(0));
    peers.install_inbound(&mut tables, &new_sa(0x10_0001), WindowSize::default());
    peers.install_outbound(&mut tables, &new_sa(0xaaaa), IvSeed::new([1; 16]));
    assert_eq!((sending(&tables), receiving(&tables, 0x10_0001)), (Some(WorkerId(3)), WorkerId(3)));

    // Its packets come to another worker; whatever is published anew meanwhile, those SAs stay.
    peers.relocate(&mut tables, PEER, there, Some(NeighborId(0)));
    peers.arrive_at(PEER, WorkerId(1));
    peers.relocate(&mut tables, PEER, there, Some(NeighborId(4)));
    assert_eq!((sending(&tables), receiving(&tables, 0x10_0001)), (Some(WorkerId(3)), WorkerId(3)));

    peers.install_inbound(&mut tables, &new_sa(0x10_0002), WindowSize::default());
    assert_eq!((sending(&tables), receiving(&tables, 0x10_0002)), (Some(WorkerId(3)), WorkerId(1)));
    peers.install_outbound(&mut tables, &new_sa(0xbbbb), IvSeed::new([1; 16]));
    assert_eq!((sending(&tables), receiving(&tables, 0x10_0001)), (Some(WorkerId(1)), WorkerId(3)));
}

#[test]
fn peers_that_nobody_has_heard_of_are_shared_out_evenly() {
    let peer = Peer::protected(TUNNEL, endpoints([203, 0, 113, 2], None), identity(), None);
    for workers in 1..=8u16 {
        for (peers, stride) in [(1000, 1), (1000, 2), (1000, 8), (100_000, 1)] {
            let mut owned = vec![0; workers.into()];
            for n in 0..peers {
                let owner = peer.owner(PeerId((5 << 20) | (n * stride)), workers);
                assert_eq!(peer.owner(PeerId((6 << 20) | (n * stride)), workers), owner);
                owned[usize::from(owner.0)] += 1;
            }
            let fair = peers / u32::from(workers);
            assert!(owned.iter().all(|&count| count >= fair * 9 / 10), "{workers} {stride}: {owned:?}");
        }
    }
}

#[test]
fn no_clear_peer_on_a_protected_tunnel() {
    for protected in [false, true] {
        let mut tables = tables(protected);
        let mut peers = Peers::new(1, 1);
        let id = peers.clear_handle().unwrap();
        let at = endpoints([203, 0, 113, 2], None);
        peers.insert(id, Peer::clear(TUNNEL, at, None));
        peers.relocate(&mut tables, id, at, Some(NeighborId(0)));
        assert_eq!(tables.peer(id).is_some(), !protected);
        peers.remove(&mut tables, id).unwrap();
        assert!(peers.clear.is_empty(), "its handle is given back");
    }
}

#[test]
fn a_peer_is_doubtful_when_what_we_send_stays_unanswered() {
    let at = endpoints([203, 0, 113, 2], None);
    let mut peer = Peer::protected(TUNNEL, at, identity(), None);
    let silence = Duration::from_secs(5);
    let mut see = |second: u64, received, sent| {
        let now = Instant::from_micros(second * 1_000_000);
        peer.is_doubtful(now, Traffic { received, sent }, silence)
    };
    assert!(!see(0, 0, 0) && !see(60, 0, 0), "an idle peer");
    assert!(!see(61, 0, 9) && !see(63, 5, 9), "it answers");
    assert!(!see(64, 0, 1) && !see(66, 0, 0) && !see(68, 0, 0));
    assert!(see(69, 0, 0), "one packet, and silence since");
    assert!(!see(70, 0, 1), "asked once per silence");
    assert!(see(75, 0, 1));
}
