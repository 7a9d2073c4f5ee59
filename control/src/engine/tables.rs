//! The tables that workers forward by, as they are being changed.

use dmvpn_tables::{Publisher, Snapshot};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

/// The working copy and where it is published.
pub(super) struct Tables {
    working: Snapshot,
    publisher: Publisher,
    changed: bool,
}

impl Tables {
    pub(super) fn new(publisher: Publisher) -> Self {
        Self { working: Snapshot::default(), publisher, changed: false }
    }

    /// The tables as they will be published.
    pub(super) fn read(&self) -> &Snapshot {
        &self.working
    }

    /// The tables, to be changed.
    pub(super) fn edit(&mut self) -> &mut Snapshot {
        self.changed = true;
        &mut self.working
    }

    /// Lets workers see all changes since the last time, at once.
    pub(super) fn publish(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.publisher.publish(self.working.clone());
        }
    }

    /// Frees what workers do not use any more.
    pub(super) fn reclaim(&mut self) {
        self.publisher.reclaim();
    }
}

/// Random bytes.
pub(super) fn draw<const N: usize>(rng: &mut ChaCha20Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}
