//! Longest-prefix match for IPv4, persistent: a change copies a few nodes.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnetwork::Ipv4Network;

use crate::bits::BitSet;
use crate::ids::AdjacencyId;

/// Levels of the trie, each for one octet of an address.
const LEVELS: usize = 4;

/// Destination prefixes and the adjacencies they lead to.
///
/// A tree bitmap: a trie with a node per octet, in which a node keeps its prefixes and its children as
/// bit sets beside dense arrays. Every prefix is stored once, in the node that it ends in, and not spread
/// over what it covers. So a change copies the nodes on its path, four at most, whatever it covers and
/// however many routes there are, and what a removed route had covered needs no restoring.
///
/// A clone costs one reference count.
#[derive(Debug, Clone, Default)]
pub struct Fib {
    root: Arc<Node>,
    len: usize,
}

/// What a node's octet decides.
#[derive(Debug, Clone, Default)]
struct Node {
    /// The next level, by octet.
    children: BitSet<4>,
    /// The prefixes that end in this octet, by [`Place::position`].
    prefixes: BitSet<8>,
    child: Vec<Arc<Self>>,
    adjacency: Vec<AdjacencyId>,
}

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
        let mut node = &*self.root;
        let mut best = None;
        for octet in destination.octets() {
            best = node.longest(octet).or(best);
            let child = node.children.rank(octet.into()).and_then(|rank| node.child.get(rank));
            let Some(child) = child else { break };
            node = child;
        }
        best
    }

    /// Leads `prefix` to `adjacency`, instead of where it led before if it did. Host bits are ignored.
    pub fn insert(&mut self, prefix: Ipv4Network, adjacency: AdjacencyId) {
        let Place { octets, level, position } = place(prefix);
        let mut node = Arc::make_mut(&mut self.root);
        for octet in &octets[..level] {
            let octet = usize::from(*octet);
            let slot = node.children.position(octet);
            if node.children.insert(octet) {
                node.child.insert(slot, Arc::default());
            }
            node = Arc::make_mut(&mut node.child[slot]);
        }
        let slot = node.prefixes.position(position);
        if node.prefixes.insert(position) {
            node.adjacency.insert(slot, adjacency);
            self.len += 1;
        } else {
            node.adjacency[slot] = adjacency;
        }
    }

    /// Takes `prefix` away; what covers it takes over. Nothing happens if it is not there. Host bits are
    /// ignored.
    pub fn remove(&mut self, prefix: Ipv4Network) {
        let Place { octets, level, position } = place(prefix);
        let path = &octets[..level];
        // Looked up first, so that nothing is copied in vain.
        if self.root.leads_to(path, position) {
            Arc::make_mut(&mut self.root).remove(path, position);
            self.len -= 1;
        }
    }
}

impl Node {
    /// The longest prefix here that covers `octet`.
    #[inline]
    fn longest(&self, octet: u8) -> Option<AdjacencyId> {
        if self.adjacency.is_empty() {
            return None;
        }
        // Halving a position drops the last bit of its prefix: from /8 to /0 of this octet.
        let mut position = 256 | usize::from(octet);
        while position > 0 {
            if let Some(rank) = self.prefixes.rank(position) {
                return self.adjacency.get(rank).copied();
            }
            position >>= 1;
        }
        None
    }

    fn leads_to(&self, path: &[u8], position: usize) -> bool {
        match path.split_first() {
            None => self.prefixes.rank(position).is_some(),
            Some((octet, rest)) => self
                .children
                .rank((*octet).into())
                .is_some_and(|child| self.child[child].leads_to(rest, position)),
        }
    }

    /// Takes away what is there. Nodes that are left empty go with it.
    fn remove(&mut self, path: &[u8], position: usize) {
        let Some((octet, rest)) = path.split_first() else {
            let slot = self.prefixes.position(position);
            self.prefixes.remove(position);
            self.adjacency.remove(slot);
            return;
        };
        let slot = self.children.position((*octet).into());
        let child = Arc::make_mut(&mut self.child[slot]);
        child.remove(rest, position);
        if child.child.is_empty() && child.adjacency.is_empty() {
            self.children.remove((*octet).into());
            self.child.remove(slot);
        }
    }
}

/// Where a prefix is kept.
struct Place {
    octets: [u8; LEVELS],
    /// How many of the octets lead to its node.
    level: usize,
    /// Where in its node: the prefix of `n` bits `b` has position `1 << n | b`. So 1 is the whole node, 2
    /// and 3 are its halves, and 256 to 511 the octets themselves.
    position: usize,
}

fn place(prefix: Ipv4Network) -> Place {
    let octets = prefix.network().octets();
    let length = usize::from(prefix.prefix());
    // The length 8 is the last of the first level, not the first of the second.
    let level = length.saturating_sub(1) / 8;
    let bits = length - level * 8;
    Place { octets, level, position: 1 << bits | usize::from(octets[level]) >> (8 - bits) }
}

#[cfg(test)]
mod tests;
