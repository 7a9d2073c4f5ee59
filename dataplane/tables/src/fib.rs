//! Longest-prefix match for IPv4, persistent: a change copies a few nodes.

mod node;

use std::net::Ipv4Addr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use ipnetwork::Ipv4Network;

use crate::ids::AdjacencyId;
use node::{Branch, Leaves, NONE, Node, Place};

/// Lookups that [`Fib::lookup_batch`] has under way at once.
const ABREAST: usize = 32;

/// Destination prefixes and the adjacencies they lead to.
///
/// A trie with a node per octet. Within a node, prefixes are spread over the octets they cover, so that one
/// cache line decides a level: it holds the adjacency and the way on. They are never spread into the nodes
/// below; a lookup carries along the last adjacency that it met. So a change copies the nodes on its path,
/// four at most, whatever it covers and however many routes there are.
///
/// A clone costs one reference count. A node takes 4 KiB, one of the last octet 1 KiB.
#[derive(Debug, Clone, Default)]
pub struct Fib {
    root: Arc<First>,
    len: usize,
}

/// A lookup under way: what it has found, and where the third and the fourth octet decide more.
struct Lookup<'a> {
    destination: Ipv4Addr,
    best: AdjacencyId,
    node: Option<&'a Third>,
    leaves: Option<&'a Leaves>,
}

type First = Branch<Second>;
type Second = Branch<Third>;
type Third = Branch<Leaves>;

impl Fib {
    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no route at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where to send what is for `destination`: the adjacency of the longest prefix that covers it.
    #[inline]
    pub fn lookup(&self, destination: Ipv4Addr) -> Option<AdjacencyId> {
        let [_, _, third, fourth] = destination.octets();
        let (mut found, node) = self.lookup_half(destination);
        if let Some(node) = node {
            let leaves = node.step(third, &mut found);
            if let Some(leaves) = leaves {
                leaves.step(fourth, &mut found);
            }
        }
        (found != NONE).then_some(found)
    }

    /// Looks up all of `destinations`, and hands what it finds to `found`, in their order. What a lookup needs of the
    /// lower levels is asked of the memory for all of them before it is used for the first.
    #[inline]
    pub fn lookup_batch(
        &self,
        mut destinations: impl Iterator<Item = Ipv4Addr>,
        mut found: impl FnMut(Option<AdjacencyId>),
    ) {
        loop {
            let mut lookups = ArrayVec::<Lookup<'_>, ABREAST>::new();
            // The upper levels are small enough to be in the cache.
            for destination in destinations.by_ref().take(ABREAST) {
                let (best, node) = self.lookup_half(destination);
                if let Some(node) = node {
                    node.prefetch(destination.octets()[2]);
                }
                lookups.push(Lookup { destination, best, node, leaves: None });
            }
            if lookups.is_empty() {
                return;
            }
            for lookup in &mut lookups {
                let [_, _, third, fourth] = lookup.destination.octets();
                if let Some(node) = lookup.node {
                    lookup.leaves = node.step(third, &mut lookup.best);
                    if let Some(leaves) = lookup.leaves {
                        leaves.prefetch(fourth);
                    }
                }
            }
            for &Lookup { destination, mut best, leaves, .. } in &lookups {
                if let Some(leaves) = leaves {
                    leaves.step(destination.octets()[3], &mut best);
                }
                found((best != NONE).then_some(best));
            }
        }
    }

    /// What the first two octets decide: the adjacency so far, and where the third decides more.
    #[inline]
    fn lookup_half(&self, destination: Ipv4Addr) -> (AdjacencyId, Option<&Third>) {
        let [first, second, _, _] = destination.octets();
        let mut found = NONE;
        let node = self.root.step(first, &mut found);
        let node = node.and_then(|node| node.step(second, &mut found));
        (found, node)
    }

    /// Leads `prefix` to `adjacency`, instead of where it led before if it did. Host bits are ignored.
    pub fn insert(&mut self, prefix: Ipv4Network, adjacency: AdjacencyId) {
        let place = Place::of(prefix);
        let new = Arc::make_mut(&mut self.root).insert(place.path(), place.position, adjacency);
        self.len += usize::from(new);
    }

    /// Takes `prefix` away; what covers it takes over. Nothing happens if it is not there. Host bits are
    /// ignored.
    pub fn remove(&mut self, prefix: Ipv4Network) {
        let place = Place::of(prefix);
        // Looked up first, so that nothing is copied in vain.
        if self.root.has(place.path(), place.position) {
            Arc::make_mut(&mut self.root).remove(place.path(), place.position);
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
