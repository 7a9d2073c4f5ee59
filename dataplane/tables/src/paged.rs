//! A persistent array: clones share pages, a change copies the pages on its path.
