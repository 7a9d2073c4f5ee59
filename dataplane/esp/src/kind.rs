//! What the packets of one kernel run have in common.

use std::ptr;
use std::sync::{Mutex, PoisonError};

use crate::kernel::Kernel;
use crate::suite::Suite;
use crate::trailer::TRAILER_LEN;

/// A suite on a kernel, with what follows from them for each packet, worked out once. There is one of each: two are
/// compared by where they are.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) suite: Suite,
    pub(crate) kernel: Kernel,
    /// [`Suite::payload_offset`].
    pub(crate) payload_offset: usize,
    /// [`Suite::icv_len`].
    pub(crate) icv_len: usize,
    /// [`Suite::block`], a power of two, minus 1.
    block_mask: usize,
}

impl Kind {
    /// For the control side: an SA has its own.
    pub(crate) fn of(suite: Suite, kernel: Kernel) -> &'static Self {
        static KNOWN: Mutex<Vec<&Kind>> = Mutex::new(Vec::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kind) = known.iter().find(|kind| kind.suite == suite && kind.kernel == kernel) {
            return kind;
        }
        // Never given back: there are only so many suites and kernels.
        let kind = Box::leak(Box::new(Self {
            suite,
            kernel,
            payload_offset: suite.payload_offset(),
            icv_len: suite.icv_len(),
            block_mask: suite.block() - 1,
        }));
        known.push(kind);
        kind
    }

    #[inline]
    pub(crate) fn is(&self, other: &Self) -> bool {
        ptr::eq(self, other)
    }

    /// [`Suite::sealed_len`].
    #[inline]
    pub(crate) fn sealed_len(&self, payload_len: usize) -> usize {
        let encrypted = (payload_len + TRAILER_LEN + self.block_mask) & !self.block_mask;
        self.payload_offset + encrypted + self.icv_len
    }

    /// Whether a packet may be so long: with header, IV and ICV, and whole blocks that have room for the trailer.
    #[inline]
    pub(crate) fn may_be_long(&self, packet_len: usize) -> bool {
        match packet_len.checked_sub(self.payload_offset + self.icv_len) {
            Some(encrypted) => encrypted >= TRAILER_LEN && encrypted & self.block_mask == 0,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_of_each_and_it_is_as_its_suite() {
        for suite in Suite::all() {
            for kernel in Kernel::available() {
                let kind = Kind::of(suite, kernel);
                assert!(kind.is(Kind::of(suite, kernel)));
                assert_eq!((kind.suite, kind.kernel), (suite, kernel));
            }
            let kind = Kind::of(suite, Kernel::best());
            for len in 0..300 {
                assert_eq!(kind.sealed_len(len), suite.sealed_len(len), "{suite} {len}");
                let sealed = (0..len).any(|payload| suite.sealed_len(payload) == len);
                assert_eq!(kind.may_be_long(len), sealed, "{suite} {len}");
            }
        }
        let [one, other] = ["aes256-sha1", "aes128-sha1"].map(|name| name.parse().unwrap());
        assert!(!Kind::of(one, Kernel::best()).is(Kind::of(other, Kernel::best())));
    }
}
