//! An engine that waits instead of training.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::domain::{Backend, ErrorCode, JobId, Metrics, TaskError, TaskResult, TaskSpec};
use crate::engine::{Control, Done, Engine, EngineCapabilities, Finished};
use crate::worker::clock::standstill::VirtualClock;

pub(in crate::worker) struct Waiting {
    chance: Arc<Mutex<ChaCha8Rng>>,
    clock: Arc<VirtualClock>,
}

impl Waiting {
    pub(in crate::worker) fn new(seed: u64) -> Self {
        let chance = Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed)));
        Self { chance, clock: VirtualClock::since(Instant::now()) }
    }

    /// The same, in the process that `clock` is of.
    pub(in crate::worker) fn within(&self, clock: &Arc<VirtualClock>) -> Self {
        Self { chance: Arc::clone(&self.chance), clock: Arc::clone(clock) }
    }
}

impl Engine for Waiting {
    fn capabilities(&self) -> EngineCapabilities {
        EngineCapabilities {
            model_types: Vec::new(),
            backends: vec![Backend::Analytic],
            default_backend: Backend::Analytic,
            device: "none".into(),
        }
    }

    fn submit(&self, _: Arc<TaskSpec>, control: Arc<Control>, done: Done) {
        let (time, fails) = {
            let mut chance = self.chance.lock().unwrap();
            let short: bool = chance.random_bool(0.8);
            let most = if short { 0.5 } else { 12.0 };
            (Duration::from_secs_f64(chance.random_range(0.0..most)), chance.random_bool(0.02))
        };
        let clock = Arc::clone(&self.clock);
        TaskTracker::new().spawn(async move {
            control.started(Backend::Analytic);
            let stopped = Arc::new(Notify::new());
            control.on_stop({
                let stopped = Arc::clone(&stopped);
                move || stopped.notify_one()
            });
            tokio::select! {
                biased;
                () = stopped.notified() => {}
                () = tokio::time::sleep(time) => {}
            }
            clock.moving().await;
            let result = TaskResult {
                train: Metrics { loss: 0.5, accuracy: 0.5 },
                validation: None,
                samples: 1,
                steps: 1,
                backend: Backend::Analytic,
                device: "none".into(),
                weights: Bytes::new(),
                reference: None,
            };
            let failed = || Err(TaskError::new(ErrorCode::Unavailable, "by chance"));
            let ending = control.check().and_then(|()| if fails { failed() } else { Ok(result) });
            done.finish(Finished { ending, notes: Vec::new() });
        });
    }

    fn warm_jobs(&self) -> Vec<JobId> {
        Vec::new()
    }

    fn forget(&self, _: &JobId) {}
}
