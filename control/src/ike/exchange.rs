//! What every exchange needs: repeating what is not answered, answering what is repeated, and never
//! taking a message identifier twice.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use rand_core::Rng;
use sha2::{Digest, Sha256};

use crate::time::Instant;

/// Waits between transmissions, in milliseconds; after the last one the exchange has failed.
const WAITS: [u32; 7] = [500, 1000, 2000, 4000, 6000, 8000, 10_000];
/// Most repetitions of an answer.
const MAX_ANSWERS: u8 = 16;
/// Message identifiers that an IKE SA remembers, ours and the far end's.
const MAX_SEEN: usize = 2048;
/// Message identifiers after which an IKE SA should be replaced, so that it never forgets one.
const ENOUGH_SEEN: usize = 1536;

/// A message that we send until it is answered.
pub(super) struct Request {
    pub(super) message: Vec<u8>,
    sent: usize,
    /// When it is to be sent again, or given up.
    pub(super) at: Instant,
}

/// What a [`Request`] wants at its time.
pub(super) enum Due {
    Repeat,
    GiveUp,
}

impl Request {
    pub(super) fn new(now: Instant, rng: &mut impl Rng, message: Vec<u8>) -> Self {
        Self { message, sent: 1, at: now + wait(rng, 0) }
    }

    /// To be called when [`Request::at`] has come.
    pub(super) fn due(&mut self, now: Instant, rng: &mut impl Rng) -> Due {
        if self.sent >= WAITS.len() {
            return Due::GiveUp;
        }
        self.at = now + wait(rng, self.sent);
        self.sent += 1;
        Due::Repeat
    }
}

/// A wait with up to a tenth more or less, so that many exchanges do not keep step.
fn wait(rng: &mut impl Rng, step: usize) -> Duration {
    let millis = WAITS.get(step).copied().unwrap_or_default();
    Duration::from_millis(u64::from(millis - millis / 10 + rng.next_u32() % (millis / 5 + 1)))
}

/// A message told from others by its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(message: &[u8]) -> Self {
        Self(Sha256::digest(message).into())
    }
}

/// The last message of an exchange that was taken, and the answer to it.
pub(super) struct Answered {
    question: Fingerprint,
    answer: Vec<u8>,
    times: u8,
}

impl Answered {
    pub(super) fn new(question: Fingerprint, answer: Vec<u8>) -> Self {
        Self { question, answer, times: 0 }
    }

    pub(super) fn is_to(&self, question: Fingerprint) -> bool {
        self.question == question
    }

    /// The answer once more; `None` when it was given often enough.
    pub(super) fn again(&mut self) -> Option<&[u8]> {
        self.times += 1;
        (self.times <= MAX_ANSWERS).then_some(self.answer.as_slice()).filter(|answer| !answer.is_empty())
    }
}

/// Message identifiers of phase 2 that an IKE SA has used. Both ends encrypt with the same keys, so one of
/// our own that comes back is a reflection.
#[derive(Default)]
pub(super) struct MessageIds {
    order: VecDeque<u32>,
    set: BTreeSet<u32>,
}

impl MessageIds {
    pub(super) fn contains(&self, id: u32) -> bool {
        self.set.contains(&id)
    }

    pub(super) fn insert(&mut self, id: u32) {
        if !self.set.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > MAX_SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }

    /// A fresh one of ours.
    pub(super) fn draw(&mut self, rng: &mut impl Rng) -> u32 {
        loop {
            let id = rng.next_u32();
            if id != 0 && !self.set.contains(&id) {
                self.insert(id);
                return id;
            }
        }
    }

    /// Whether the SA should be replaced before it forgets.
    pub(super) fn is_worn(&self) -> bool {
        self.order.len() >= ENOUGH_SEEN
    }
}
