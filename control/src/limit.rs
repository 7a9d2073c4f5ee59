//! A token bucket: how often something may happen.

use std::time::Duration;

use crate::time::Instant;

/// Lets `burst` events pass at once and one more per `interval` after that.
#[derive(Debug, Clone)]
pub struct RateLimit {
    interval: Duration,
    burst: u32,
    /// When the bucket would be full again if nothing more happened.
    full_at: Instant,
}

impl RateLimit {
    /// A full bucket.
    pub const fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst, full_at: Instant::ZERO }
    }

    /// Whether the event may happen now; if so it is counted.
    pub fn allow(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + self.interval;
        let allowed = full_at.since(now) <= self.interval * self.burst;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut limit = RateLimit::new(Duration::from_millis(10), 3);
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        let passed = |limit: &mut RateLimit, ms| (0..10).filter(|_| limit.allow(at(ms))).count();
        assert_eq!(passed(&mut limit, 0), 3);
        assert_eq!(passed(&mut limit, 9), 0);
        assert_eq!(passed(&mut limit, 10), 1);
        assert_eq!(passed(&mut limit, 25), 1);
        assert_eq!(passed(&mut limit, 10_000), 3);
    }
}
