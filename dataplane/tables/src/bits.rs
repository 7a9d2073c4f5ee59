//! Sets of octets that index dense arrays.

/// A set of octets. What belongs to its members lies in an array in their order, without gaps; the set says
/// where.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OctetSet {
    words: [u64; 4],
    /// Members in the words before each.
    before: [u8; 4],
}

impl OctetSet {
    /// The place of `octet`, if it is a member.
    #[inline]
    pub(crate) fn place(&self, octet: u8) -> Option<usize> {
        let word = self.words[usize::from(octet / 64)];
        (word >> (octet % 64) & 1 != 0).then(|| self.up_to(octet).wrapping_sub(1))
    }

    /// How many members there are up to `octet`, itself included. One less is the place of the last of them.
    #[inline]
    pub(crate) fn up_to(&self, octet: u8) -> usize {
        let word = usize::from(octet / 64);
        let members = self.words[word] << (63 - octet % 64);
        usize::from(self.before[word]) + members.count_ones() as usize
    }

    /// Makes `octet` a member.
    pub(crate) fn insert(&mut self, octet: u8) {
        self.words[usize::from(octet / 64)] |= bit(octet);
        self.count();
    }

    /// Makes `octet` no member.
    pub(crate) fn remove(&mut self, octet: u8) {
        self.words[usize::from(octet / 64)] &= !bit(octet);
        self.count();
    }

    fn count(&mut self) {
        let [first, second, third, _] = self.words.map(ones);
        self.before = [0, first, first + second, first + second + third];
    }
}

impl FromIterator<u8> for OctetSet {
    fn from_iter<I: IntoIterator<Item = u8>>(octets: I) -> Self {
        let mut set = Self::default();
        for octet in octets {
            set.words[usize::from(octet / 64)] |= bit(octet);
        }
        set.count();
        set
    }
}

fn bit(octet: u8) -> u64 {
    1 << (octet % 64)
}

#[allow(clippy::cast_possible_truncation, reason = "at most 64")]
fn ones(word: u64) -> u8 {
    word.count_ones() as u8
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn agrees(set: &OctetSet, model: &BTreeSet<u8>) {
        for octet in 0..=255 {
            let up_to = model.range(..=octet).count();
            assert_eq!(set.up_to(octet), up_to, "{octet}");
            assert_eq!(set.place(octet), model.contains(&octet).then(|| up_to - 1), "{octet}");
        }
    }

    #[test]
    fn all_octets() {
        agrees(&(0..=255).collect(), &(0..=255).collect());
    }

    proptest! {
        #[test]
        fn is_a_set(steps in proptest::collection::vec((any::<u8>(), any::<bool>()), 0..300)) {
            let (mut set, mut model) = (OctetSet::default(), BTreeSet::new());
            for (octet, insert) in steps {
                if insert {
                    set.insert(octet);
                    model.insert(octet);
                } else {
                    set.remove(octet);
                    model.remove(&octet);
                }
            }
            agrees(&set, &model);
            agrees(&model.iter().copied().collect(), &model);
        }
    }
}
