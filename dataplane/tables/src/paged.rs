//! A persistent array: clones share pages, a change copies the pages on its path.

use std::fmt;
use std::sync::Arc;

const BITS: usize = 6;
/// Slots of a page, and pages of a directory.
const FANOUT: usize = 1 << BITS;
const MASK: usize = FANOUT - 1;

type Page<T> = [T; FANOUT];
type Directory<T> = [Option<Arc<Page<T>>>; FANOUT];

/// An array that grows by writing, made of pages of 64 slots under directories of 64 pages.
///
/// A clone costs one reference count. The first change after a clone copies one page, its directory and
/// the root (one word for 4096 slots); further changes in the same page copy nothing. So a transaction of
/// many changes copies each page once, and readers of older clones are never disturbed.
#[derive(Clone)]
pub struct Paged<T> {
    root: Arc<[Arc<Directory<T>>]>,
    len: usize,
}

impl<T: Clone + Default> Paged<T> {
    /// One more than the highest index ever written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is at `index`; `None` if its page was never written to. A slot that was not written, in a
    /// page that was, holds the default value.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        let directory = self.root.get(index >> (2 * BITS))?;
        let page = directory[(index >> BITS) & MASK].as_ref()?;
        Some(&page[index & MASK])
    }

    /// Writes `value` to `index`. The array grows as needed.
    pub fn set(&mut self, index: usize, value: T) {
        *self.entry(index) = value;
    }

    /// The slot at `index`, to be changed in place. The array grows as needed, and the page is copied if
    /// a clone shares it: do not ask for it only to read.
    pub fn entry(&mut self, index: usize) -> &mut T {
        let above = index >> (2 * BITS);
        if above >= self.root.len() {
            let empty = Arc::new(no_pages());
            let missing = above + 1 - self.root.len();
            self.root = self.root.iter().cloned().chain(std::iter::repeat_n(empty, missing)).collect();
        }
        self.len = self.len.max(index + 1);
        let directory = Arc::make_mut(&mut Arc::make_mut(&mut self.root)[above]);
        let page = directory[(index >> BITS) & MASK].get_or_insert_with(|| Arc::new(empty_page()));
        &mut Arc::make_mut(page)[index & MASK]
    }

    /// Everything from index 0 to [`len`](Self::len), except pages that were never written to, with its
    /// index.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let pages = self.root.iter().flat_map(|directory| directory.iter()).enumerate();
        pages
            .filter_map(|(number, page)| Some((number << BITS, page.as_ref()?)))
            .flat_map(|(first, page)| (first..).zip(page.iter()))
            .take_while(|(index, _)| *index < self.len)
    }
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Self { root: Arc::default(), len: 0 }
    }
}

impl<T: Clone + Default + fmt::Debug> fmt::Debug for Paged<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

fn no_pages<T>() -> Directory<T> {
    std::array::from_fn(|_| None)
}

fn empty_page<T: Default>() -> Page<T> {
    std::array::from_fn(|_| T::default())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// How many pages of `new` are not those of `old`.
    fn copied<T>(old: &Paged<T>, new: &Paged<T>) -> usize {
        let pages = |paged: &Paged<T>| -> Vec<_> {
            paged.root.iter().flat_map(|directory| directory.iter().flatten().map(Arc::as_ptr)).collect()
        };
        let old = pages(old);
        pages(new).iter().filter(|page| !old.contains(page)).count()
    }

    #[test]
    fn one_change_among_100_000_copies_one_page() {
        let mut table = Paged::default();
        for index in 0..100_000 {
            table.set(index, index);
        }
        let before = table.clone();
        table.set(70_000, 1);
        assert_eq!(copied(&before, &table), 1);
        table.set(70_001, 1);
        assert_eq!(copied(&before, &table), 1, "a page is copied once in a transaction");
        table.set(3, 1);
        assert_eq!(copied(&before, &table), 2);
        assert_eq!((before.get(70_000), table.get(70_000)), (Some(&70_000), Some(&1)));
    }

    #[test]
    fn bounds() {
        let mut table: Paged<u32> = Paged::default();
        assert!(table.is_empty());
        assert_eq!((table.get(0), table.get(usize::MAX)), (None, None));
        table.set(4096, 7);
        assert_eq!((table.len(), table.get(4096), table.get(4097)), (4097, Some(&7), Some(&0)));
        assert_eq!((table.get(0), table.get(8192)), (None, None));
        assert_eq!(table.iter().collect::<Vec<_>>(), [(4096, &7)]);
    }

    proptest! {
        #[test]
        fn is_an_array(writes in proptest::collection::vec((0usize..20_000, 1u32..), 0..300), keep in 0usize..300) {
            let mut model = BTreeMap::new();
            let mut table = Paged::default();
            let mut old = None;
            for (number, (index, value)) in writes.into_iter().enumerate() {
                if number == keep {
                    old = Some((table.clone(), model.clone()));
                }
                table.set(index, value);
                model.insert(index, value);
            }
            for (table, model) in old.into_iter().chain([(table, model)]) {
                let written: Vec<_> = table.iter().filter(|(_, value)| **value != 0).collect();
                prop_assert_eq!(written, model.iter().map(|(index, value)| (*index, value)).collect::<Vec<_>>());
                prop_assert_eq!(table.len(), model.last_key_value().map_or(0, |(index, _)| index + 1));
                for (index, value) in &model {
                    prop_assert_eq!(table.get(*index), Some(value));
                }
            }
        }
    }
}
