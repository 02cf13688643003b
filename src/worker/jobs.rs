//! Learns that jobs have ended, so that the engine lets go of what it keeps of them.
//!
//! ```text
//! engine: sessions, checkpoints --kept_jobs--> Watched --GetJobStatus, when due--> ended --> engine: forget
//! ```
//!
//! Nobody tells a worker that a job has ended: its last task may have been another worker's. So each job is asked for of
//! which something is kept and no task is held, soon after its last task here and then less and less often. That is
//! the same with both contracts. What an orchestrator says nothing of leaves by its age.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::handle::WorkerHandle;
use crate::domain::JobId;
use crate::engine::Engine;
use crate::orchestrator::Orchestrator;

/// Between two looks at what the engine keeps.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// From the last task of a job to the first question about it; each wait is twice the one before, up to the last.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LAST_WAIT: Duration = Duration::from_secs(300);

/// Answers in a row that the orchestrator does not know a job, after which that has ended: eight and a half minutes. One that
/// was started anew may learn of it in the meantime.
const UNKNOWN_ANSWERS: u32 = 8;

/// Questions that are under way at once.
const QUESTIONS_AT_ONCE: usize = 8;

/// Jobs that are watched at once; others wait until one of them leaves.
const MOST_WATCHED: usize = 1024;

/// Asks for jobs.
pub(super) struct Jobs<O> {
    pub(super) orchestrator: Arc<O>,
    pub(super) worker: WorkerHandle,
    pub(super) engine: Arc<dyn Engine>,
}

impl<O: Orchestrator> Jobs<O> {
    /// Watches the jobs until `ended`.
    pub(super) async fn watch(self, ended: CancellationToken) {
        let mut ticks = interval_at(Instant::now() + LOOK_INTERVAL, LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watched = Watched::default();
        loop {
            tokio::select! {
                biased;
                () = ended.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let engine = Arc::clone(&self.engine);
            let Ok(kept) = tokio::task::spawn_blocking(move || engine.kept_jobs()).await else { continue };
            let held: BTreeSet<JobId> =
                self.worker.status().tasks.into_iter().map(|task| task.identity.job_id).collect();
            let idle = kept.into_iter().filter(|job| !held.contains(job)).collect();
            watched.see(idle, Instant::now());
            if self.worker.link.mode().is_none() {
                continue;
            }
            let generation = self.worker.link.now().generation;
            let questions = stream::iter(watched.due(Instant::now())).map(|job| self.ask(job, generation));
            let mut answers = questions.buffer_unordered(QUESTIONS_AT_ONCE);
            while let Some((job, standing)) = answers.next().await {
                if watched.hear(&job, standing) == Verdict::Ended {
                    self.engine.forget(&job);
                }
            }
        }
    }

    async fn ask(&self, job: JobId, generation: u64) -> (JobId, Standing) {
        let standing = match self.orchestrator.job_state(&job).await {
            Ok(state) => {
                self.worker.link.contact();
                match (state.ended, state.known) {
                    (true, _) => Standing::Ended,
                    (false, true) => Standing::Open,
                    (false, false) => Standing::Unknown,
                }
            }
            Err(error) => {
                tracing::debug!(job_id = %job, %error, "a job could not be asked for");
                self.worker.link.heard(error, generation);
                Standing::Untold
            }
        };
        (job, standing)
    }
}

/// What the orchestrator says of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Open,
    Ended,
    Unknown,
    Untold,
}

/// What follows for what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Wait,
    Ended,
}

/// Jobs of which something is kept and no task is held.
#[derive(Debug, Default)]
struct Watched(BTreeMap<JobId, Watch>);

#[derive(Debug)]
struct Watch {
    /// When it is asked for next.
    due: Instant,
    /// How long after that once more.
    wait: Duration,
    /// Answers in a row that it is not known.
    unknown: u32,
}

impl Watched {
    /// `jobs` are those now. One that was away meanwhile, as with a task, is asked for soon again.
    fn see(&mut self, jobs: BTreeSet<JobId>, now: Instant) {
        self.0.retain(|job, _| jobs.contains(job));
        for job in jobs {
            let room = self.0.len() < MOST_WATCHED;
            if let (true, Entry::Vacant(entry)) = (room, self.0.entry(job)) {
                entry.insert(Watch { due: now + FIRST_WAIT, wait: FIRST_WAIT * 2, unknown: 0 });
            }
        }
    }

    /// Jobs that are to be asked for `now`; the next time is set.
    fn due(&mut self, now: Instant) -> Vec<JobId> {
        let due = self.0.iter_mut().filter(|(_, watch)| watch.due <= now);
        due.map(|(job, watch)| {
            watch.due = now + watch.wait;
            watch.wait = (watch.wait * 2).min(LAST_WAIT);
            job.clone()
        })
        .collect()
    }

    /// The orchestrator answered. A job that has ended stays until nothing is kept of it, which may take a while.
    fn hear(&mut self, job: &JobId, standing: Standing) -> Verdict {
        let Some(watch) = self.0.get_mut(job) else { return Verdict::Wait };
        watch.unknown = if standing == Standing::Unknown { watch.unknown + 1 } else { 0 };
        if standing == Standing::Ended || watch.unknown >= UNKNOWN_ANSWERS {
            Verdict::Ended
        } else {
            Verdict::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str) -> JobId {
        JobId::parse(id).unwrap()
    }

    fn jobs(ids: &[&str]) -> BTreeSet<JobId> {
        ids.iter().map(|id| job(id)).collect()
    }

    /// Seconds after `began` at which `watched` asks for its one job in `time`, looking each second.
    fn questions(watched: &mut Watched, began: Instant, seconds: std::ops::Range<u64>) -> Vec<u64> {
        seconds.filter(|second| !watched.due(began + Duration::from_secs(*second)).is_empty()).collect()
    }

    #[test]
    fn a_job_is_asked_for_soon_and_then_less_and_less_often() {
        let (mut watched, began) = (Watched::default(), Instant::now());
        watched.see(jobs(&["j"]), began);
        assert_eq!(questions(&mut watched, began, 0..1200), [2, 6, 14, 30, 62, 126, 254, 510, 810, 1110]);
        // A task of it came and went.
        let again = began + Duration::from_secs(1200);
        watched.see(jobs(&[]), again);
        watched.see(jobs(&["j"]), again);
        assert_eq!(questions(&mut watched, again, 0..10), [2, 6]);
    }

    #[test]
    fn a_job_has_ended_when_the_orchestrator_says_so_or_does_not_know_it_for_long() {
        let mut watched = Watched::default();
        watched.see(jobs(&["j"]), Instant::now());
        for standing in [Standing::Open, Standing::Untold] {
            assert_eq!(watched.hear(&job("j"), standing), Verdict::Wait);
        }
        assert_eq!(watched.hear(&job("j"), Standing::Ended), Verdict::Ended);
        for _ in 1..UNKNOWN_ANSWERS {
            assert_eq!(watched.hear(&job("j"), Standing::Unknown), Verdict::Wait);
        }
        assert_eq!(watched.hear(&job("j"), Standing::Unknown), Verdict::Ended);
        assert_eq!(watched.hear(&job("j"), Standing::Open), Verdict::Wait, "it is known again");
        assert_eq!(watched.hear(&job("j"), Standing::Unknown), Verdict::Wait);
        assert_eq!(watched.hear(&job("other"), Standing::Ended), Verdict::Wait, "nothing is kept of it");
    }

    #[test]
    fn not_more_are_watched_than_there_is_room_for() {
        let (mut watched, now) = (Watched::default(), Instant::now());
        let many: BTreeSet<_> = (0..2 * MOST_WATCHED).map(|number| job(&number.to_string())).collect();
        watched.see(many.clone(), now);
        assert_eq!(watched.due(now + FIRST_WAIT).len(), MOST_WATCHED);
        let left = many.into_iter().skip(MOST_WATCHED).collect();
        watched.see(left, now);
        assert_eq!(watched.due(now + FIRST_WAIT).len(), MOST_WATCHED);
    }
}
