//! The nodes of the trie.

use std::sync::Arc;

use dmvpn_esp::prefetch;
use ipnetwork::Ipv4Network;

use crate::bits::OctetSet;
use crate::ids::AdjacencyId;

/// Where no prefix covers. No table is so large.
pub(super) const NONE: AdjacencyId = AdjacencyId(u32::MAX);

/// Levels of the trie, each for one octet of an address.
const LEVELS: usize = 4;

/// Values of an octet.
const OCTETS: usize = 256;

/// Where a prefix is kept.
pub(super) struct Place {
    octets: [u8; LEVELS],
    /// How many of the octets lead to its node.
    level: usize,
    /// Where in its node: the prefix of `n` bits `b` has position `1 << n | b`. So 1 is the whole node, 2
    /// and 3 are its halves, and 256 to 511 the octets themselves.
    pub(super) position: u16,
}

impl Place {
    pub(super) fn of(prefix: Ipv4Network) -> Self {
        let octets = prefix.network().octets();
        let length = usize::from(prefix.prefix());
        // The length 8 is the last of the first level, not the first of the second.
        let level = length.saturating_sub(1) / 8;
        let bits = length - level * 8;
        Self { octets, level, position: 1 << bits | u16::from(octets[level]) >> (8 - bits) }
    }

    /// The octets that lead to its node.
    pub(super) fn path(&self) -> &[u8] {
        &self.octets[..self.level]
    }
}

/// What all levels can do.
pub(super) trait Node: Clone + Default {
    /// Whether there is such a prefix at the end of `path`.
    fn has(&self, path: &[u8], position: u16) -> bool;

    /// True if there was no such prefix yet. Nodes on the path are made where there are none.
    fn insert(&mut self, path: &[u8], position: u16, adjacency: AdjacencyId) -> bool;

    /// Takes away what is at the end of `path`. Nodes that are left empty go with it.
    fn remove(&mut self, path: &[u8], position: u16);

    /// Whether it decides nothing.
    fn is_empty(&self) -> bool;
}

/// What one octet of an address decides, if it is not the last; `C` is for the next one.
#[derive(Debug, Clone)]
pub(super) struct Branch<C> {
    pub(super) slots: [Slot<C>; OCTETS],
    prefixes: Prefixes,
}

/// What one value of an octet leads to. Four fill a cache line.
#[derive(Debug, Clone)]
pub(super) struct Slot<C> {
    /// Who knows more.
    pub(super) child: Option<Arc<C>>,
    /// The longest prefix that ends in this octet, or [`NONE`].
    adjacency: AdjacencyId,
}

/// What the last octet of an address decides.
#[derive(Debug, Clone)]
pub(super) struct Leaves {
    adjacencies: [AdjacencyId; OCTETS],
    prefixes: Prefixes,
}

impl<C> Branch<C> {
    /// Replaces `found` if there is something longer for `octet`, and says who knows more.
    #[inline]
    pub(super) fn step(&self, octet: u8, found: &mut AdjacencyId) -> Option<&C> {
        let slot = &self.slots[usize::from(octet)];
        if slot.adjacency != NONE {
            *found = slot.adjacency;
        }
        slot.child.as_deref()
    }

    /// Asks for what [`step`](Self::step) is going to read.
    #[inline]
    pub(super) fn prefetch(&self, octet: u8) {
        prefetch(&self.slots[usize::from(octet)], 1);
    }
}

impl Leaves {
    /// Replaces `found` if there is something longer for `octet`.
    #[inline]
    pub(super) fn step(&self, octet: u8, found: &mut AdjacencyId) {
        let adjacency = self.adjacencies[usize::from(octet)];
        if adjacency != NONE {
            *found = adjacency;
        }
    }

    /// Asks for what [`step`](Self::step) is going to read.
    #[inline]
    pub(super) fn prefetch(&self, octet: u8) {
        prefetch(&self.adjacencies[usize::from(octet)], 1);
    }
}

impl<C: Node> Node for Branch<C> {
    fn has(&self, path: &[u8], position: u16) -> bool {
        let Some((octet, rest)) = path.split_first() else { return self.prefixes.has(position) };
        self.slots[usize::from(*octet)].child.as_ref().is_some_and(|child| child.has(rest, position))
    }

    fn insert(&mut self, path: &[u8], position: u16, adjacency: AdjacencyId) -> bool {
        let Self { slots, prefixes } = self;
        match path.split_first() {
            Some((octet, rest)) => {
                let child = slots[usize::from(*octet)].child.get_or_insert_default();
                Arc::make_mut(child).insert(rest, position, adjacency)
            }
            None => prefixes
                .insert(position, adjacency, |octet, longest| slots[usize::from(octet)].adjacency = longest),
        }
    }

    fn remove(&mut self, path: &[u8], position: u16) {
        let Self { slots, prefixes } = self;
        let Some((octet, rest)) = path.split_first() else {
            return prefixes.remove(position, |octet, longest| slots[usize::from(octet)].adjacency = longest);
        };
        let child = &mut slots[usize::from(*octet)].child;
        if let Some(node) = child {
            let node = Arc::make_mut(node);
            node.remove(rest, position);
            if node.is_empty() {
                *child = None;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.prefixes.is_empty() && self.slots.iter().all(|slot| slot.child.is_none())
    }
}

impl Node for Leaves {
    fn has(&self, _: &[u8], position: u16) -> bool {
        self.prefixes.has(position)
    }

    fn insert(&mut self, _: &[u8], position: u16, adjacency: AdjacencyId) -> bool {
        let Self { adjacencies, prefixes } = self;
        prefixes.insert(position, adjacency, |octet, longest| adjacencies[usize::from(octet)] = longest)
    }

    fn remove(&mut self, _: &[u8], position: u16) {
        let Self { adjacencies, prefixes } = self;
        prefixes.remove(position, |octet, longest| adjacencies[usize::from(octet)] = longest);
    }

    fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }
}

impl<C> Default for Branch<C> {
    fn default() -> Self {
        let slots = std::array::from_fn(|_| Slot { child: None, adjacency: NONE });
        Self { slots, prefixes: Prefixes::default() }
    }
}

impl Default for Leaves {
    fn default() -> Self {
        Self { adjacencies: [NONE; OCTETS], prefixes: Prefixes::default() }
    }
}

/// The prefixes that end in a node.
#[derive(Debug, Clone, Default)]
struct Prefixes {
    /// Those of one octet only; the node shows what they lead to.
    exact: OctetSet,
    /// The others by position in rising order, which is that of their lengths too.
    shorter: Vec<(u16, AdjacencyId)>,
}

impl Prefixes {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.shorter.is_empty()
    }

    fn has(&self, position: u16) -> bool {
        match exactly(position) {
            Some(octet) => self.exact.contains(octet),
            None => self.find(position).is_ok(),
        }
    }

    /// True if there was no such prefix yet. `show` learns for which octets another prefix is the longest now.
    fn insert(
        &mut self,
        position: u16,
        adjacency: AdjacencyId,
        mut show: impl FnMut(u8, AdjacencyId),
    ) -> bool {
        if let Some(octet) = exactly(position) {
            show(octet, adjacency);
            return self.exact.insert(octet);
        }
        let found = self.find(position);
        match found {
            Ok(index) => self.shorter[index].1 = adjacency,
            Err(index) => self.shorter.insert(index, (position, adjacency)),
        }
        self.show(position, show);
        found.is_err()
    }

    fn remove(&mut self, position: u16, show: impl FnMut(u8, AdjacencyId)) {
        if let Some(octet) = exactly(position) {
            self.exact.remove(octet);
        } else if let Ok(index) = self.find(position) {
            self.shorter.remove(index);
        }
        self.show(position, show);
    }

    fn find(&self, position: u16) -> Result<usize, usize> {
        self.shorter.binary_search_by_key(&position, |(position, _)| *position)
    }

    /// Shows what is the longest for the octets that `position` covers, where no octet has its own.
    fn show(&self, position: u16, mut show: impl FnMut(u8, AdjacencyId)) {
        let mut longest = [NONE; OCTETS];
        for (position, adjacency) in &self.shorter {
            let (first, last) = covered(*position);
            longest[first.into()..=last.into()].fill(*adjacency);
        }
        let (first, last) = covered(position);
        for octet in (first..=last).filter(|octet| !self.exact.contains(*octet)) {
            show(octet, longest[usize::from(octet)]);
        }
    }
}

/// The octet that a position is for, if it is for one only.
fn exactly(position: u16) -> Option<u8> {
    position.checked_sub(0x100).and_then(|octet| u8::try_from(octet).ok())
}

/// The first and the last octet that a position covers.
fn covered(position: u16) -> (u8, u8) {
    let bits = position.ilog2();
    let [first, _] = (position << (8 - bits)).to_le_bytes();
    let [inside, _] = (0xff_u16 >> bits).to_le_bytes();
    (first, first | inside)
}
