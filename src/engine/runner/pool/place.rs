//! Which runner takes a task, when one starts, and which idle one leaves.

use std::time::Instant;

use super::{
    Current, Lane, Order, Phase, Pool, Runner, Submit, ToRunner, Try, Verdict, failed, identity_of, pack,
};
use crate::domain::{ErrorCode, TaskError};
use crate::engine::ExitCause;
use crate::engine::runner::process::Process;

impl Pool {
    /// The runner that `run` has to go to, busy or not.
    pub(super) fn home(&self, run: &Try) -> Option<u64> {
        let job = &run.task.identity.job_id;
        let mut living = self.runners.iter().filter(|(_, runner)| runner.phase != Phase::Leaving);
        let found = living.find(|(_, runner)| {
            runner.lane == run.lane && (run.lane != Lane::Cpu || runner.jobs.contains(job))
        });
        found.map(|(id, _)| *id)
    }

    /// The runner that takes `run` now; one is started where it has none.
    pub(super) fn place(&mut self, run: &Try, now: Instant) -> Option<u64> {
        let home = self.home(run).or_else(|| self.spare(run.lane)).or_else(|| self.start(run.lane, now))?;
        let root = identity_of(&self.setup(run.lane).data.root);
        let leave = now + self.patience.leave;
        let runner = self.runners.get_mut(&home)?;
        if runner.is_idle() && runner.root != root {
            // It may not read the data folder that is there now.
            runner.dismiss(leave);
            return None;
        }
        let job = &run.task.identity.job_id;
        if !runner.jobs.contains(job) {
            runner.jobs.push(job.clone());
        }
        runner.is_idle().then_some(home)
    }

    /// A runner that no job has, ready ones first.
    fn spare(&self, lane: Lane) -> Option<u64> {
        let free = |runner: &Runner, phase| {
            runner.lane == lane && runner.phase == phase && runner.jobs.is_empty() && runner.current.is_none()
        };
        let first = |phase| self.runners.iter().find(|(_, runner)| free(runner, phase)).map(|(id, _)| *id);
        first(Phase::Ready).or_else(|| first(Phase::Starting))
    }

    /// Starts a runner, unless the last ones failed a moment ago.
    pub(super) fn start(&mut self, lane: Lane, now: Instant) -> Option<u64> {
        if self.starts(lane).not_before.is_some_and(|due| due > now) {
            return None;
        }
        let mut setup = self.setup(lane).clone();
        if let Lane::Gpu(position) = lane {
            setup.gpu = self.gpus.get(&position).map(ToString::to_string);
        }
        let root = identity_of(&setup.data.root);
        let setup = match pack(&setup) {
            Ok(setup) => setup,
            Err(error) => {
                self.start_failed(lane, &error.to_string());
                return None;
            }
        };
        let mut process = match Process::start(&self.program) {
            Ok(process) => process,
            Err(error) => {
                self.start_failed(lane, &format!("the system does not start a process: {error}"));
                return None;
            }
        };
        process.send(&ToRunner { order: Some(Order::Setup(setup)) });
        self.last_id += 1;
        let runner = Runner {
            process,
            lane,
            phase: Phase::Starting,
            jobs: Vec::new(),
            warm: Vec::new(),
            current: None,
            deadline: Some(now + self.patience.start),
            began: false,
            forgotten: Vec::new(),
            doom: None,
            last_words: None,
            root,
            used: now,
        };
        self.runners.insert(self.last_id, runner);
        self.dirty = true;
        Some(self.last_id)
    }

    /// Lets the runner of `lane` leave if it has nothing to do.
    pub(in super::super) fn vacate(&mut self, lane: Lane) {
        let leave = Instant::now() + self.patience.leave;
        for runner in self.runners.values_mut().filter(|runner| runner.lane == lane && runner.is_idle()) {
            runner.dismiss(leave);
        }
    }

    /// Ends what works on the GPU of `lane`, or waits for that: it is lost, and a driver may hang there for ever.
    pub(in super::super) fn lost(&mut self, lane: Lane) {
        const WHY: &str = "the driver says that the GPU is lost";
        for runner in self.runners.values_mut().filter(|runner| runner.lane == lane) {
            runner.kill(Verdict::new(ExitCause::GpuLost, WHY));
        }
        for run in std::mem::take(&mut self.waiting) {
            if run.lane == lane {
                run.finish(failed(TaskError::new(ErrorCode::DeviceLost, WHY)));
            } else {
                self.waiting.push_back(run);
            }
        }
    }

    pub(super) fn hand_over(&mut self, id: u64, run: Try) {
        if let Err(reason) = run.control.check() {
            return run.finish(failed(reason));
        }
        let loss = self.lost.remove(&run.task.identity.job_id).map_or(0, |loss| loss.number());
        let Some(runner) = self.runners.get_mut(&id) else { return self.waiting.push_front(run) };
        match Submit::new(run.number, &run.task, loss, run.control.traceparent()) {
            Err(error) => run.finish(failed(error)),
            Ok(submit) => {
                runner.process.forget_oom_kills();
                runner.process.send(&ToRunner { order: Some(Order::Submit(submit)) });
                runner.last_words = None;
                runner.current = Some(Current { run, reason: None });
            }
        }
    }

    /// Kills what did not do in time what it was told to.
    pub(super) fn end_late(&mut self, now: Instant) {
        for runner in self.runners.values_mut() {
            if runner.deadline.is_none_or(|deadline| deadline > now) {
                continue;
            }
            let code = runner.current.as_ref().and_then(|current| Some(current.reason.as_ref()?.code));
            let (cause, what) = match (runner.phase, code) {
                (Phase::Starting, _) => (ExitCause::Protocol, "it was not ready in time"),
                (_, Some(ErrorCode::TimedOut)) => {
                    (ExitCause::TimeOut, "its task ran too long and did not stop")
                }
                (_, Some(_)) => (ExitCause::Cancelled, "its task was told to stop and did not"),
                (_, None) => (ExitCause::Retired, "it was told to leave and did not"),
            };
            runner.kill(Verdict::new(cause, what));
        }
    }

    /// When [`Pool::advance`] has something to do even if nothing happens.
    pub(in super::super) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = self.runners.values().filter_map(|runner| runner.deadline);
        let starts = self.starts.iter().filter_map(|starts| {
            let wanted = starts.keep_one || starts.trouble.is_some() || !self.waiting.is_empty();
            starts.not_before.filter(|_| wanted && !self.closing)
        });
        // Those that are past have been tried, and something else is waited for.
        let now = Instant::now();
        let starts = starts.filter(|due| *due > now);
        deadlines.chain(starts).chain(self.idle_until()).min()
    }

    /// When the first idle runner has been idle for too long.
    pub(super) fn idle_until(&self) -> Option<Instant> {
        let idle = self.runners.values().filter(|runner| runner.is_idle());
        idle.map(|runner| runner.used + self.limits.idle_time).min()
    }

    /// Lets runners leave that have nothing to do: those idle for long, spare ones but one, and then the least
    /// recently used until the limits are kept.
    pub(super) fn let_idle_go(&mut self, now: Instant) {
        let leave = now + self.patience.leave;
        let wanted: Vec<_> = self.waiting.iter().map(|run| &run.task.identity.job_id).collect();
        let mut idle: Vec<_> = self
            .runners
            .iter_mut()
            .filter(|(_, runner)| runner.is_idle() && !runner.jobs.iter().any(|job| wanted.contains(&job)))
            .map(|(_, runner)| runner)
            .collect();
        idle.sort_by_key(|runner| runner.used);
        for runner in &mut idle {
            if now.saturating_duration_since(runner.used) >= self.limits.idle_time {
                runner.dismiss(leave);
            }
        }
        let spares = idle
            .iter_mut()
            .filter(|runner| runner.lane == Lane::Cpu && runner.is_idle() && runner.jobs.is_empty());
        for runner in spares.rev().skip(1) {
            runner.dismiss(leave);
        }
        let mut left: Vec<_> = idle.into_iter().filter(|runner| runner.is_idle()).collect();
        if left.len() < 2 {
            return;
        }
        let mut memory: u64 = left.iter().map(|runner| runner.process.resident_bytes()).sum();
        while left.len() > 1 && (left.len() > self.limits.idle || memory > self.limits.memory_bytes) {
            let runner = left.remove(0);
            memory = memory.saturating_sub(runner.process.resident_bytes());
            tracing::info!(jobs = ?runner.jobs, "an idle runner leaves");
            runner.dismiss(leave);
        }
    }

    /// Says what has changed.
    pub(super) fn tell(&mut self) {
        let mut warm: Vec<_> = self
            .runners
            .values()
            .filter(|runner| runner.phase == Phase::Ready)
            .flat_map(|runner| runner.warm.iter().cloned())
            .collect();
        warm.sort_unstable();
        warm.dedup();
        let trouble = self.starts.iter().find_map(|starts| starts.trouble.clone());
        let count = self.runners.len();
        if let Some(watcher) = &self.watcher {
            if self.told.0 != trouble {
                watcher.trouble(trouble.clone());
            }
            if self.told.1 != count {
                watcher.runners(count);
            }
        }
        self.told = (trouble.clone(), count);
        let same = {
            let seen = self.shared.lock();
            seen.warm == warm && seen.trouble == trouble
        };
        if !same {
            self.shared.change(|seen| {
                seen.warm = warm;
                seen.trouble = trouble;
            });
        }
    }
}
