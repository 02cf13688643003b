//! Random numbers that follow from the job alone, so that a retry, a restart or another worker draws the same.
//!
//! Every use has a stream of its own: what one draws does not move another. Burn's global seed is never used,
//! since sessions that run at the same time would share it.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::domain::{Hyperparameters, JobId};

/// What random numbers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// First weights of a model.
    Weights = 1,
    /// Order of the training rows in an epoch.
    Order = 2,
    /// Which held-out rows are evaluated in the middle of an epoch.
    Validation = 3,
    /// Noise and simulated time of an analytic task.
    Analytic = 4,
    /// Rows, features and rounding of a tree.
    Trees = 5,
    /// Which hidden units a minibatch leaves out.
    Dropout = 6,
}

/// The seed of a job: hyperparameter `seed`, else a hash of the job's id that never changes between versions.
pub(crate) fn of_job(job: &JobId, hyperparameters: &Hyperparameters) -> u64 {
    hyperparameters.seed.unwrap_or_else(|| fnv1a(job.as_str().as_bytes()))
}

/// The stream of `seed` for `purpose`; `index` and `part` tell its uses apart (an epoch, a task's first batch).
pub(crate) fn stream(seed: u64, purpose: Purpose, index: u32, part: u32) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
    key[16..20].copy_from_slice(&index.to_le_bytes());
    key[20..24].copy_from_slice(&part.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_hyperparameter_replaces_the_job() {
        let job = JobId::parse("job-1").unwrap();
        let seeded = Hyperparameters { seed: Some(7), ..Hyperparameters::default() };
        assert_eq!(of_job(&job, &seeded), 7);
        assert_ne!(of_job(&job, &Hyperparameters::default()), 7);
    }

    #[test]
    fn streams_differ_by_purpose_and_index_and_repeat_themselves() {
        let draw = |purpose, index, part| stream(1, purpose, index, part).random::<u64>();
        assert_eq!(draw(Purpose::Order, 3, 0), draw(Purpose::Order, 3, 0));
        assert_ne!(draw(Purpose::Order, 3, 0), draw(Purpose::Order, 4, 0));
        assert_ne!(draw(Purpose::Order, 3, 0), draw(Purpose::Order, 3, 1));
        assert_ne!(draw(Purpose::Order, 3, 0), draw(Purpose::Validation, 3, 0));
    }
}
