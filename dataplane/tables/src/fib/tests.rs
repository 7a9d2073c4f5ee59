use std::collections::BTreeMap;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn prefix(text: &str) -> Ipv4Network {
    text.parse().unwrap()
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// Notes where nodes are, from itself down.
trait Walk {
    fn walk(&self, into: &mut BTreeSet<usize>);
}

impl<C: Walk> Walk for Branch<C> {
    fn walk(&self, into: &mut BTreeSet<usize>) {
        into.insert(std::ptr::from_ref(self).addr());
        self.slots.iter().filter_map(|slot| slot.child.as_ref()).for_each(|child| child.walk(into));
    }
}

impl Walk for Leaves {
    fn walk(&self, into: &mut BTreeSet<usize>) {
        into.insert(std::ptr::from_ref(self).addr());
    }
}

/// Nodes of `new` that are not those of `old`.
fn copied(old: &Fib, new: &Fib) -> usize {
    let (mut before, mut after) = (BTreeSet::new(), BTreeSet::new());
    old.root.walk(&mut before);
    new.root.walk(&mut after);
    after.difference(&before).count()
}

#[test]
fn the_longest_prefix_wins_and_the_next_takes_over() {
    let mut fib = Fib::default();
    assert!(fib.lookup(address("10.1.2.3")).is_none());
    let routes =
        ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.1.0.0/16", "10.1.2.0/23", "10.1.2.0/24", "10.1.2.3/32"];
    for (number, route) in (0..).zip(routes) {
        fib.insert(prefix(route), AdjacencyId(number));
        assert_eq!(fib.lookup(address("10.1.2.3")), Some(AdjacencyId(number)), "{route}");
    }
    assert_eq!(fib.lookup(address("10.1.2.4")), Some(AdjacencyId(5)));
    assert_eq!(fib.lookup(address("10.1.3.4")), Some(AdjacencyId(4)));
    assert_eq!(fib.lookup(address("10.128.0.0")), Some(AdjacencyId(1)));
    assert_eq!(fib.lookup(address("255.255.255.255")), Some(AdjacencyId(0)));
    for (number, route) in (0..).zip(routes).skip(1).collect::<Vec<_>>().into_iter().rev() {
        fib.remove(prefix(route));
        assert_eq!(fib.lookup(address("10.1.2.3")), Some(AdjacencyId(number - 1)), "{route}");
    }
    fib.remove(prefix("0.0.0.0/0"));
    assert!(fib.is_empty() && fib.root.is_empty());
}

#[test]
fn host_bits_are_ignored() {
    let mut fib = Fib::default();
    fib.insert(prefix("192.168.2.77/24"), AdjacencyId(1));
    fib.insert(prefix("192.168.2.0/24"), AdjacencyId(2));
    assert_eq!((fib.len(), fib.lookup(address("192.168.2.1"))), (1, Some(AdjacencyId(2))));
    fib.remove(prefix("192.168.2.1/24"));
    assert!(fib.is_empty());
}

#[test]
fn one_change_among_100_000_copies_its_path() {
    let mut fib = Fib::default();
    for number in 0..100_000u32 {
        let network = Ipv4Addr::from(0x0a00_0000 + (number << 8));
        fib.insert(Ipv4Network::new(network, 24).unwrap(), AdjacencyId(number));
    }
    assert_eq!(fib.len(), 100_000);
    let probe = address("10.9.8.7");
    let owner = fib.lookup(probe);
    for (change, nodes) in [("10.9.8.7/32", 4), ("10.9.8.0/24", 3), ("10.9.0.0/16", 2), ("0.0.0.0/0", 1)] {
        let mut changed = fib.clone();
        changed.insert(prefix(change), AdjacencyId(200_000));
        assert_eq!(copied(&fib, &changed), nodes, "{change}");
        assert_eq!(fib.lookup(probe), owner, "the older one is as it was");
    }
    fib.insert(prefix("10.9.8.7/32"), AdjacencyId(200_000));
    let before = fib.clone();
    fib.remove(prefix("10.9.8.6/32"));
    assert_eq!(copied(&before, &fib), 0, "what is not there is not removed");
    fib.remove(prefix("10.9.8.7/32"));
    assert_eq!(copied(&before, &fib), 3);
}

/// Few distinct octets, so that prefixes cover each other often.
fn any_prefix() -> impl Strategy<Value = Ipv4Network> {
    let octet = prop_oneof![Just(0u8), Just(10), Just(255), any::<u8>()];
    (proptest::array::uniform4(octet), 0u8..=32)
        .prop_map(|(octets, length)| Ipv4Network::new(octets.into(), length).unwrap())
}

fn naive(routes: &BTreeMap<(Ipv4Addr, u8), AdjacencyId>, destination: Ipv4Addr) -> Option<AdjacencyId> {
    (0..=32).rev().find_map(|length| {
        let network = Ipv4Network::new(destination, length).unwrap().network();
        routes.get(&(network, length)).copied()
    })
}

proptest! {
    #[test]
    fn agrees_with_a_list(
        steps in proptest::collection::vec((any_prefix(), any::<Option<u16>>(), any::<bool>()), 1..200),
        keep in any::<prop::sample::Index>(),
        others in proptest::collection::vec(any::<u32>(), 20),
    ) {
        let keep = keep.index(steps.len());
        let (mut fib, mut model, mut old) = (Fib::default(), BTreeMap::new(), None);
        let mut probes: Vec<u32> = others;
        for (number, (prefix, adjacency, of_old)) in steps.into_iter().enumerate() {
            if number == keep {
                old = Some((fib.clone(), model.clone()));
            }
            // Removals mostly of what is there.
            let key = match model.keys().nth(number % (model.len() + 1)) {
                Some(key) if of_old => *key,
                _ => (prefix.network(), prefix.prefix()),
            };
            let prefix = Ipv4Network::new(key.0, key.1).unwrap();
            match adjacency.map(|number| AdjacencyId(number.into())) {
                Some(adjacency) => {
                    fib.insert(prefix, adjacency);
                    model.insert(key, adjacency);
                }
                None => {
                    fib.remove(prefix);
                    model.remove(&key);
                }
            }
            prop_assert_eq!(fib.len(), model.len());
            let (first, last) = (prefix.network().to_bits(), prefix.broadcast().to_bits());
            probes.extend([first, last, first.wrapping_sub(1), last.wrapping_add(1)]);
        }
        for (fib, model) in old.into_iter().chain([(fib, model)]) {
            let destinations: Vec<Ipv4Addr> = probes.iter().map(|probe| Ipv4Addr::from(*probe)).collect();
            let mut batch = Vec::new();
            fib.lookup_batch(destinations.iter().copied(), |found| batch.push(found));
            prop_assert_eq!(batch.len(), destinations.len());
            for (destination, of_batch) in destinations.into_iter().zip(batch) {
                let expected = naive(&model, destination);
                prop_assert_eq!((fib.lookup(destination), of_batch), (expected, expected), "{}", destination);
            }
        }
    }
}
