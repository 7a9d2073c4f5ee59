//! Longest-prefix match for IPv4, persistent: a change copies a few nodes.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnetwork::Ipv4Network;

use crate::bits::OctetSet;
use crate::ids::AdjacencyId;

/// Levels of the trie, each for one octet of an address.
const LEVELS: usize = 4;

/// Destination prefixes and the adjacencies they lead to.
///
/// A trie with a node per octet. Within a node, prefixes are spread over the octets they cover, so that a
/// lookup decides a level at once; but never into the nodes below, where a lookup that finds nothing comes
/// back up. So a change copies the nodes on its path, four at most, whatever it covers and however many
/// routes there are. Nodes keep only what differs: children that exist, and runs of octets with the same
/// adjacency.
///
/// A clone costs one reference count.
#[derive(Debug, Clone, Default)]
pub struct Fib {
    root: Arc<Node>,
    len: usize,
}

/// What one octet of an address decides.
#[derive(Debug, Clone, Default)]
#[repr(C)]
struct Node {
    /// The octets that the next level knows more about.
    onward: OctetSet,
    /// The nodes for these.
    children: Box<[Arc<Self>]>,
    /// The octets where another adjacency begins.
    begins: OctetSet,
    /// The adjacencies that begin there, [`NONE`] where no prefix covers.
    runs: Box<[AdjacencyId]>,
    /// The prefixes that end in this octet, by [`Place::position`] in rising order, which is that of their
    /// lengths too: what the runs are made from.
    prefixes: Vec<(usize, AdjacencyId)>,
}

/// Where a run has no adjacency. No table is so large.
const NONE: AdjacencyId = AdjacencyId(u32::MAX);

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
        let octets = destination.octets();
        let mut path = [&*self.root; LEVELS];
        let mut deepest = 0;
        while let Some(child) = path[deepest].child(octets[deepest])
            && deepest + 1 < LEVELS
        {
            deepest += 1;
            path[deepest] = child;
        }
        (0..=deepest).rev().find_map(|level| path[level].longest(octets[level]))
    }

    /// Leads `prefix` to `adjacency`, instead of where it led before if it did. Host bits are ignored.
    pub fn insert(&mut self, prefix: Ipv4Network, adjacency: AdjacencyId) {
        let Place { octets, level, position } = place(prefix);
        let mut node = Arc::make_mut(&mut self.root);
        for octet in &octets[..level] {
            node = node.child_mut(*octet);
        }
        self.len += usize::from(node.insert(position, adjacency));
    }

    /// Takes `prefix` away; what covers it takes over. Nothing happens if it is not there. Host bits are
    /// ignored.
    pub fn remove(&mut self, prefix: Ipv4Network) {
        let Place { octets, level, position } = place(prefix);
        let path = &octets[..level];
        // Looked up first, so that nothing is copied in vain.
        if self.root.has(path, position) {
            Arc::make_mut(&mut self.root).remove(path, position);
            self.len -= 1;
        }
    }
}

impl Node {
    #[inline]
    fn child(&self, octet: u8) -> Option<&Self> {
        self.children.get(self.onward.place(octet)?).map(|child| &**child)
    }

    /// The adjacency of the longest prefix here that covers `octet`.
    #[inline]
    fn longest(&self, octet: u8) -> Option<AdjacencyId> {
        let run = self.begins.up_to(octet).checked_sub(1)?;
        self.runs.get(run).copied().filter(|adjacency| *adjacency != NONE)
    }

    /// The child for `octet`, which is made if there is none.
    fn child_mut(&mut self, octet: u8) -> &mut Self {
        let place = self.onward.place(octet).unwrap_or_else(|| {
            let place = self.onward.up_to(octet);
            self.onward.insert(octet);
            let mut children = std::mem::take(&mut self.children).into_vec();
            children.insert(place, Arc::default());
            self.children = children.into();
            place
        });
        Arc::make_mut(&mut self.children[place])
    }

    /// Whether there is such a prefix at the end of `path`.
    fn has(&self, path: &[u8], position: usize) -> bool {
        match path.split_first() {
            None => self.find(position).is_ok(),
            Some((octet, rest)) => self.child(*octet).is_some_and(|child| child.has(rest, position)),
        }
    }

    /// True if there was no such prefix yet.
    fn insert(&mut self, position: usize, adjacency: AdjacencyId) -> bool {
        let found = self.find(position);
        match found {
            Ok(index) => self.prefixes[index].1 = adjacency,
            Err(index) => self.prefixes.insert(index, (position, adjacency)),
        }
        self.lay_out();
        found.is_err()
    }

    /// Takes away what is at the end of `path`. Nodes that are left empty go with it.
    fn remove(&mut self, path: &[u8], position: usize) {
        let Some((octet, rest)) = path.split_first() else {
            if let Ok(index) = self.find(position) {
                self.prefixes.remove(index);
                self.lay_out();
            }
            return;
        };
        let Some(place) = self.onward.place(*octet) else { return };
        let child = Arc::make_mut(&mut self.children[place]);
        child.remove(rest, position);
        if child.children.is_empty() && child.prefixes.is_empty() {
            self.onward.remove(*octet);
            let mut children = std::mem::take(&mut self.children).into_vec();
            children.remove(place);
            self.children = children.into();
        }
    }

    fn find(&self, position: usize) -> Result<usize, usize> {
        self.prefixes.binary_search_by_key(&position, |(position, _)| *position)
    }

    /// Makes the runs anew from the prefixes: shorter ones first, so that longer ones cover them.
    fn lay_out(&mut self) {
        let mut octets = [NONE; 256];
        for (position, adjacency) in &self.prefixes {
            let bits = position.ilog2();
            let first = (position << (8 - bits)) & 0xff;
            octets[first..first + (256 >> bits)].fill(*adjacency);
        }
        let mut last = NONE;
        let mut runs = Vec::new();
        self.begins = (0..=255)
            .zip(octets)
            .filter(|(_, adjacency)| std::mem::replace(&mut last, *adjacency) != *adjacency)
            .map(|(octet, adjacency)| {
                runs.push(adjacency);
                octet
            })
            .collect();
        self.runs = runs.into();
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
