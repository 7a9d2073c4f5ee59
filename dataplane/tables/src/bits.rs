//! Sets of octets.

/// A set of octets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OctetSet([u64; 4]);

impl OctetSet {
    /// Whether `octet` is a member.
    pub(crate) fn contains(self, octet: u8) -> bool {
        self.0[word(octet)] & bit(octet) != 0
    }

    /// Whether there are no members.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Makes `octet` a member; false if it was one.
    pub(crate) fn insert(&mut self, octet: u8) -> bool {
        let new = !self.contains(octet);
        self.0[word(octet)] |= bit(octet);
        new
    }

    /// Makes `octet` no member.
    pub(crate) fn remove(&mut self, octet: u8) {
        self.0[word(octet)] &= !bit(octet);
    }
}

fn word(octet: u8) -> usize {
    usize::from(octet / 64)
}

fn bit(octet: u8) -> u64 {
    1 << (octet % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_set(steps in proptest::collection::vec((any::<u8>(), any::<bool>()), 0..300)) {
            let (mut set, mut model) = (OctetSet::default(), BTreeSet::new());
            for (octet, insert) in steps {
                if insert {
                    prop_assert_eq!(set.insert(octet), model.insert(octet));
                } else {
                    set.remove(octet);
                    model.remove(&octet);
                }
                prop_assert_eq!(set.is_empty(), model.is_empty());
            }
            for octet in 0..=255 {
                prop_assert_eq!(set.contains(octet), model.contains(&octet));
            }
        }
    }
}
