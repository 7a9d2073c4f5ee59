//! Replacing SAs under traffic: there is never a moment without a pair that both ends can use.

use std::time::Duration;

use dmvpn_config::model::Profile;

use super::pair::{Nat, Pair, Weather, profile, with_dpd};
use crate::ike::{Input, Output, Reason};

/// Short lives, so that much happens.
fn short(ike: u32, esp: u32) -> Profile {
    let mut profile = profile();
    profile.ike.lifetime = ike;
    profile.esp.lifetime = esp;
    profile
}

fn connected(pair: &mut Pair) {
    pair.connect(1);
    pair.run(Duration::from_secs(20));
    pair.assert_connected();
}

/// Runs in small steps; both ends can read what the other sends after each of them.
fn run_connected(pair: &mut Pair, time: Duration) {
    let end = pair.now + time;
    while pair.now < end {
        pair.run(Duration::from_millis(250));
        assert!(pair.is_connected(), "no usable pair at {}", pair.now);
    }
}

fn assert_bounded(pair: &Pair) {
    for end in &pair.ends {
        assert!(end.inbound.len() <= 8 && end.outbound.len() <= 8, "ESP SAs at {}", pair.now);
        assert!(end.machine.ike_sas(pair.now).count() <= 5, "IKE SAs at {}", pair.now);
        assert_eq!(end.up.len(), 1);
        assert!(end.down.is_empty());
    }
}

#[test]
fn an_esp_rekey_from_either_side_loses_nothing() {
    for from in 0..2 {
        for traffic in [true, false] {
            let mut pair = Pair::new(&profile(), &profile());
            pair.traffic = traffic;
            connected(&mut pair);
            let peer = pair.ends[from].peer();
            let before = pair.ends[from].outbound[0].0;
            pair.input(from, Input::RekeyEsp { peer });
            run_connected(&mut pair, Duration::from_secs(30));
            for end in &pair.ends {
                assert_eq!((end.inbound.len(), end.outbound.len()), (1, 1), "the old pair is gone");
            }
            assert_ne!(pair.ends[from].outbound[0].0, before);
        }
    }
}

/// A peer that judges otherwise may send by the pair that has lost: it is heard until the next replacement.
#[test]
fn of_simultaneous_esp_rekeys_the_loser_is_kept_until_the_next() {
    let mut kept = 0;
    for seed in 0..20 {
        let mut pair = Pair::seeded(seed, &profile(), &profile());
        connected(&mut pair);
        for end in 0..2 {
            let peer = pair.ends[end].peer();
            pair.input(end, Input::RekeyEsp { peer });
        }
        run_connected(&mut pair, Duration::from_secs(60));
        let [one, other] = pair.ends.each_ref().map(|end| end.inbound.len());
        assert_eq!(one, other, "seed {seed}");
        assert!(one == 1 || one == 2, "seed {seed}: what they replace is gone, {one} there");
        kept += usize::from(one == 2);

        let from = usize::from(seed % 2 == 0);
        let peer = pair.ends[from].peer();
        pair.input(from, Input::RekeyEsp { peer });
        run_connected(&mut pair, Duration::from_secs(60));
        for end in &pair.ends {
            assert_eq!((end.inbound.len(), end.outbound.len()), (1, 1), "seed {seed}");
        }
    }
    assert!(kept > 0, "some were simultaneous");
}

#[test]
fn an_ike_rekey_from_either_side_adopts_the_children() {
    for from in 0..2 {
        let mut pair = Pair::new(&profile(), &profile());
        connected(&mut pair);
        let children: Vec<u32> = pair.ends[0].inbound.keys().copied().collect();
        let peer = pair.ends[from].peer();
        let cookies =
            |pair: &Pair| pair.ends[0].machine.ike_sas(pair.now).map(|sa| sa.cookie_i).collect::<Vec<_>>();
        let before = cookies(&pair);
        pair.input(from, Input::RekeyIke { peer });
        run_connected(&mut pair, Duration::from_secs(40));
        assert_ne!(cookies(&pair), before);
        assert_eq!(cookies(&pair).len(), 1);
        assert_eq!(pair.ends[0].inbound.keys().copied().collect::<Vec<_>>(), children);
        assert_bounded(&pair);
    }
}

#[test]
fn simultaneous_ike_rekeys_keep_the_children() {
    for seed in 0..20 {
        let mut pair = Pair::seeded(seed, &profile(), &profile());
        connected(&mut pair);
        for end in 0..2 {
            let peer = pair.ends[end].peer();
            pair.input(end, Input::RekeyIke { peer });
        }
        run_connected(&mut pair, Duration::from_secs(60));
        for end in &pair.ends {
            assert_eq!(end.established(pair.now), 1, "seed {seed}");
        }
        assert_bounded(&pair);
    }
}

#[test]
fn sequence_numbers_that_run_out_are_replaced() {
    let mut pair = Pair::new(&profile(), &profile());
    connected(&mut pair);
    let (spi, sa) = pair.ends[0].outbound[0].clone();
    pair.input(0, Input::SequenceNearEnd { spi, peer: sa.peer });
    run_connected(&mut pair, Duration::from_secs(20));
    assert_ne!(pair.ends[0].outbound[0].0, spi);
}

#[test]
fn rekeys_survive_bad_weather() {
    for seed in 0..12 {
        let mut pair = Pair::seeded(seed, &with_dpd(short(300, 120), 10, 60), &short(300, 120));
        connected(&mut pair);
        pair.weather = Weather { loss: 5, duplication: 5, reordering: 10 };
        run_connected(&mut pair, Duration::from_secs(2000));
        assert_bounded(&pair);
    }
}

#[test]
fn rekeys_behind_nats() {
    let mut pair = Pair::new(&short(120, 60), &short(100, 70));
    pair.nats[1] = Some(Nat::new(std::net::Ipv4Addr::new(192, 0, 2, 2)));
    connected(&mut pair);
    run_connected(&mut pair, Duration::from_secs(1200));
    assert_bounded(&pair);
}

#[test]
fn unequal_lifetimes_end_with_the_shorter() {
    let mut pair = Pair::new(&short(3600, 60), &short(100, 3600));
    connected(&mut pair);
    // What the initiator does not know, the responder sees to.
    assert!(pair.ends[0].machine.esp_sas(pair.now).all(|sa| sa.remaining.as_secs() <= 60));
    assert!(
        pair.ends.iter().all(|end| end.machine.ike_sas(pair.now).all(|sa| sa.remaining.as_secs() <= 100))
    );
    run_connected(&mut pair, Duration::from_secs(600));
    assert_bounded(&pair);
}

#[test]
fn a_lost_third_message_costs_nothing() {
    let mut pair = Pair::new(&profile(), &profile());
    pair.traffic = false;
    connected(&mut pair);
    let peer = pair.ends[0].peer();
    pair.input(0, Input::RekeyEsp { peer });
    // Messages 1 and 2 pass, then the responder hears nothing for a while.
    while pair.ends[1].inbound.len() < 2 {
        pair.run(Duration::from_millis(1));
    }
    pair.deaf[1] = true;
    run_connected(&mut pair, Duration::from_millis(1500));
    pair.deaf[1] = false;
    run_connected(&mut pair, Duration::from_secs(30));
    assert!(pair.ends.iter().all(|end| end.outbound.len() == 1));
}

#[test]
fn a_rekey_whose_computation_is_refused_is_tried_again() {
    let mut pair = Pair::new(&profile(), &profile());
    connected(&mut pair);
    let (peer, before) = (pair.ends[0].peer(), pair.ends[0].outbound[0].0);
    let machine = &mut pair.ends[0].machine;
    machine.handle(pair.now, Input::RekeyEsp { peer });
    let Some(Output::Dh(job)) = machine.poll_output() else { panic!("a key pair is wanted") };
    machine.handle(pair.now, Input::Dh(job.refuse()));
    run_connected(&mut pair, Duration::from_secs(40));
    assert!(pair.ends[0].failures().contains(&Reason::Limit));
    assert_ne!(pair.ends[0].outbound[0].0, before);
}

#[test]
fn an_ike_sa_that_the_peer_lost_is_made_anew() {
    let mut pair = Pair::new(&profile(), &profile());
    connected(&mut pair);
    // The hub restarts: it knows nothing of the spoke, and the spoke nothing of the restart.
    let fresh = super::pair::End::new(77, super::pair::A, &profile());
    pair.ends[0] = fresh;
    let peer = pair.ends[1].peer();
    pair.input(1, Input::RekeyEsp { peer });
    pair.run(Duration::from_secs(60));
    pair.assert_connected();
    assert!(pair.ends[1].down.is_empty(), "the peer is the same");
}

#[test]
fn a_spoke_that_restarts_replaces_itself() {
    let mut pair = Pair::new(&profile(), &profile());
    connected(&mut pair);
    pair.ends[1] = super::pair::End::new(78, super::pair::B, &profile());
    pair.connect(1);
    pair.run(Duration::from_secs(2));
    pair.assert_connected();
    // INITIAL-CONTACT has told the hub that nothing from before is of use.
    assert_eq!((pair.ends[0].up.len(), pair.ends[0].inbound.len(), pair.ends[0].outbound.len()), (1, 1, 1));
    assert_eq!(pair.ends[0].established(pair.now), 1);
}

#[test]
fn a_day_of_rekeys_every_minute() {
    let mut pair = Pair::new(&with_dpd(short(600, 60), 10, 60), &short(600, 60));
    pair.nats[1] = Some(Nat::new(std::net::Ipv4Addr::new(192, 0, 2, 2)));
    connected(&mut pair);
    for _ in 0..24 {
        for _ in 0..14_400 {
            pair.run(Duration::from_millis(250));
            assert!(pair.is_connected(), "no usable pair at {}", pair.now);
        }
        assert_bounded(&pair);
        pair.log.clear();
    }
    let counters = pair.ends[0].machine.counters();
    assert!(counters.children_up > 1500 && counters.ike_up > 150, "{counters:?}");
    assert_eq!(counters.failed, 0);
}

#[test]
fn replay_memory_wears_an_ike_sa_out_before_it_forgets() {
    let mut pair = Pair::new(&with_dpd(profile(), 1, 20), &profile());
    pair.ends[0] = {
        let mut long = with_dpd(profile(), 1, 20);
        long.ike.lifetime = 86_400;
        super::pair::End::new(1, super::pair::A, &long)
    };
    pair.ends[1] = {
        let mut long = profile();
        long.ike.lifetime = 86_400;
        super::pair::End::new(2, super::pair::B, &long)
    };
    connected(&mut pair);
    run_connected(&mut pair, Duration::from_secs(2400));
    // Two identifiers a second: an SA for a day does not remember them all.
    assert!(pair.ends[0].machine.counters().ike_up >= 2);
}
