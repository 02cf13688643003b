//! Waiting times between tries: exponential with full jitter, so that a fleet does not come back in step.
//!
//! Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

use rand::RngExt as _;

/// The next waiting time is uniform in [0, min(longest, first * 2^tries)).
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    tries: u32,
}

impl Backoff {
    /// Between tries to reach the orchestrator: 0.2 s, doubling up to 30 s.
    pub const fn reconnect() -> Self {
        Self { first: Duration::from_millis(200), longest: Duration::from_secs(30), tries: 0 }
    }

    /// Before try number `retries` of a task that failed in passing: 0.5 s, doubling up to 30 s.
    pub const fn task_retry(retries: u32) -> Self {
        let tries = retries.saturating_sub(1);
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(30), tries }
    }

    /// After an orchestrator that is there answered that it cannot now: up to 2 s.
    pub const fn busy() -> Self {
        Self { first: Duration::from_secs(2), longest: Duration::from_secs(2), tries: 0 }
    }

    /// The longest that the next wait can be.
    pub fn ceiling(&self) -> Duration {
        self.first.saturating_mul(1 << self.tries.min(20)).min(self.longest)
    }

    /// Draws the next wait and raises the ceiling of the one after it.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.ceiling().mul_f64(chance());
        self.tries = self.tries.saturating_add(1);
        wait
    }

    /// After empty answer number `answers` in a row to a poll that did not last: up to 10 ms, doubling up to 250 ms.
    pub const fn empty_poll(answers: u32) -> Self {
        let tries = answers.saturating_sub(1);
        Self { first: Duration::from_millis(10), longest: Duration::from_millis(250), tries }
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// Uniform in [0, 1).
#[cfg(not(test))]
fn chance() -> f64 {
    rand::rng().random()
}

/// As above; the same on each run of a simulation.
#[cfg(test)]
fn chance() -> f64 {
    SEEDED.with_borrow_mut(|seeded| match seeded {
        Some(generator) => generator.random(),
        None => rand::rng().random(),
    })
}

#[cfg(test)]
thread_local! {
    static SEEDED: std::cell::RefCell<Option<rand_chacha::ChaCha8Rng>> = const { std::cell::RefCell::new(None) };
}

/// Makes the waits that this thread draws those of `seed`.
#[cfg(test)]
pub(crate) fn seed_waits(seed: u64) {
    SEEDED.set(Some(rand::SeedableRng::seed_from_u64(seed)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_longest_and_spread_below_it() {
        let mut backoff = Backoff::reconnect();
        let mut ceilings = Vec::new();
        for _ in 0..10 {
            let ceiling = backoff.ceiling();
            assert!(backoff.next_wait() <= ceiling);
            ceilings.push(ceiling.as_millis());
        }
        assert_eq!(ceilings, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_millis(200));
    }

    #[test]
    fn waits_are_not_in_step() {
        let waits: std::collections::BTreeSet<_> =
            (0..32).map(|_| Backoff { tries: 8, ..Backoff::reconnect() }.next_wait()).collect();
        assert!(waits.len() > 16, "{waits:?}");
    }
}
