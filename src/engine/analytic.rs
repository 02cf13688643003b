//! No training: convergence curves and simulated time, for machines without an accelerator and for load tests.
//!
//! ```text
//! start(task) --delay 0--> done, inside of the call
//!      |
//!      +--delay > 0--> timer (one thread for all tasks) --4 steps of progress--> done
//!                        ^ Control::stop ends the wait at once
//! ```
//!
//! Invariants: results are simulated everywhere they appear; the same task gives the same figures; the data set is
//! never looked at.

mod curves;
mod timer;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;

use self::timer::{Event, Timer};
use super::seeds::{self, Purpose};
use super::{AnalyticProfile, Control, Done, Finished, Step};
use crate::domain::{Backend, Metrics, Progress, TaskResult, TaskSpec};

/// Device of an analytic result.
pub(crate) const DEVICE: &str = "analytic";

/// Progress reports during one simulated wait.
const REPORTS: u32 = 4;

/// Runs tasks that are not trained.
pub(crate) struct Analytic {
    profile: AnalyticProfile,
    delay: RangeInclusive<Duration>,
    timer: Timer,
}

impl Analytic {
    pub(crate) fn new(profile: AnalyticProfile, delay: RangeInclusive<Duration>) -> Self {
        Self { profile, delay, timer: Timer::new() }
    }

    /// Runs `task`; with a delay of 0 it has ended when this returns.
    pub(crate) fn start(&self, task: &TaskSpec, control: Arc<Control>, done: Done, notes: Vec<String>) {
        if let Err(reason) = control.check() {
            return done.finish(Finished { ending: Err(reason), notes });
        }
        control.started(Backend::Analytic);
        let seed = seeds::of_job(&task.identity.job_id, &task.hyperparameters);
        let mut generator = seeds::stream(seed, Purpose::Analytic, task.epoch, task.batches.start);
        let noise = [generator.random(), generator.random()];
        let figures = curves::at(self.profile, task.model.as_str(), task.epoch, noise);
        let wait = between(&self.delay, generator.random());
        let run =
            Run { figures, steps: steps(task), batch_size: task.hyperparameters.batch_size as u64, wait };
        if wait.is_zero() {
            run.report(&control, 1, 1);
            return done.finish(Finished { ending: Ok(run.result()), notes });
        }
        self.timer.start(control, done, notes, move |control, report| {
            run.report(control, report, REPORTS);
            if report < REPORTS {
                Event::At(run.wait * (report + 1) / REPORTS)
            } else {
                Event::End(run.result())
            }
        });
    }
}

/// One analytic task under way.
struct Run {
    figures: Metrics,
    steps: u64,
    batch_size: u64,
    wait: Duration,
}

impl Run {
    /// Says that report number `report` of `reports` is due; number 0 begins the wait and has nothing to say.
    fn report(&self, control: &Control, report: u32, reports: u32) {
        if report == 0 {
            return;
        }
        let done = |report: u32| self.steps * u64::from(report) / u64::from(reports);
        let (step, before) = (done(report), done(report - 1));
        let seconds = self.wait.as_secs_f64();
        let progress = Progress {
            step,
            total_steps: self.steps,
            loss: self.figures.loss,
            accuracy: self.figures.accuracy,
            samples_per_second: if seconds > 0.0 { self.samples() as f64 / seconds } else { 0.0 },
            simulated: true,
        };
        let samples = (step - before) * self.batch_size;
        control.stepped(progress, Step { duration: self.wait / reports, samples });
    }

    fn samples(&self) -> u64 {
        self.steps * self.batch_size
    }

    fn result(&self) -> TaskResult {
        TaskResult {
            train: self.figures,
            validation: None,
            samples: self.samples(),
            steps: self.steps,
            backend: Backend::Analytic,
            device: DEVICE.to_owned(),
            weights: Bytes::new(),
            reference: None,
        }
    }
}

fn steps(task: &TaskSpec) -> u64 {
    u64::from(task.batches.end.saturating_sub(task.batches.start))
}

fn between(range: &RangeInclusive<Duration>, unit: f64) -> Duration {
    let width = range.end().saturating_sub(*range.start());
    *range.start() + width.mul_f64(unit)
}

#[cfg(test)]
mod tests;
