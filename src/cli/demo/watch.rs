//! Follows the demonstration's job and draws it.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::cluster::{Cluster, Member};
use crate::cli::Failure;
use crate::cli::signals::Signals;
use crate::cli::ui::{Board, Quality, Track, figures};
use crate::dev::{EpochSummary, JobSummary};
use crate::domain::{JobId, TaskView};

/// How often the bars move.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Why following ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// The job did.
    Job(JobSummary),
    /// Somebody interrupted it.
    Interrupted,
}

/// Shows how the job goes until it ends.
///
/// # Errors
/// A worker ended before.
pub(super) async fn until_end(
    cluster: &mut Cluster,
    job_id: &JobId,
    picture: &mut Picture,
    signals: &mut Signals,
) -> Result<Ending, Failure> {
    picture.begin(cluster);
    let mut redraw = interval(REDRAW_INTERVAL);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = redraw.tick() => {}
            _ = signals.next() => {
                picture.board.leave();
                return Ok(Ending::Interrupted);
            }
            failure = cluster.worker_ended() => {
                picture.board.clear();
                return Err(failure);
            }
        }
        let Ok(job) = cluster.board().read(|board| board.job(job_id)) else {
            return Err(Failure::EndedEarly("the job's record"));
        };
        picture.draw(&job, &cluster.members);
        if job.status.is_final() {
            picture.end(&job, &cluster.members);
            return Ok(Ending::Job(job));
        }
    }
}

/// The job as it is drawn.
pub(super) struct Picture {
    pub(super) quality: Quality,
    board: Board,
    job: Track,
    members: Vec<Track>,
    epochs_said: usize,
}

impl Picture {
    /// Nothing is drawn yet.
    pub(super) fn new(board: Board, quality: Quality) -> Self {
        Self { quality, board, job: Track::default(), members: Vec::new(), epochs_said: 0 }
    }

    fn begin(&mut self, cluster: &Cluster) {
        self.job = self.board.whole("job", 0);
        // Short, so that there is room for figures.
        let name = |member: &Member| member.name.trim_start_matches("demo-").to_owned();
        self.members = cluster.members.iter().map(|member| self.board.part(&name(member))).collect();
    }

    fn draw(&mut self, job: &JobSummary, members: &[Member]) {
        let now = job
            .current
            .map(|metrics| figures(metrics.loss, self.quality, metrics.accuracy))
            .unwrap_or_default();
        self.job.set(job.completed.into(), job.total.into(), format!("tasks    {now}"));
        for (track, member) in self.members.iter().zip(members) {
            match member.handle.status().tasks.first() {
                Some(task) => draw_task(track, task, self.quality),
                None => draw_share(track, member, job),
            }
        }
        // An epoch is said when the next one has begun or the job has ended: only then are its figures final.
        let known = if job.status.is_final() { job.epochs.len() } else { job.epochs.len().saturating_sub(1) };
        for epoch in job.epochs.iter().take(known).skip(self.epochs_said) {
            self.board.line(|| epoch_line(epoch, self.quality));
        }
        self.epochs_said = self.epochs_said.max(known);
    }

    fn end(&self, job: &JobSummary, members: &[Member]) {
        for (track, member) in self.members.iter().zip(members) {
            draw_share(track, member, job);
        }
        for track in self.members.iter().chain([&self.job]) {
            track.finish();
        }
        self.board.close();
    }
}

fn epoch_line(epoch: &EpochSummary, quality: Quality) -> String {
    let held_out = epoch
        .validation_accuracy
        .map(|value| format!(", validation {} {value:.4}", quality.name()))
        .unwrap_or_default();
    format!(
        "epoch {}: {} tasks, {}{held_out}",
        epoch.epoch + 1,
        epoch.tasks,
        figures(epoch.loss, quality, epoch.accuracy)
    )
}

fn draw_task(track: &Track, task: &TaskView, quality: Quality) {
    let progress = &task.progress;
    let figures = match progress.step {
        // Before its first step a task has no figures, only zeros.
        0 => String::new(),
        _ => format!(
            ", {}, {:.0} samples/s",
            figures(progress.loss, quality, progress.accuracy),
            progress.samples_per_second
        ),
    };
    track.set(progress.step, progress.total_steps, format!("batches  epoch {}{figures}", task.epoch + 1));
}

/// What a worker without a task has done of the whole.
fn draw_share(track: &Track, member: &Member, job: &JobSummary) {
    track.set(member.handle.status().completed_tasks, job.total.into(), "tasks    done by it");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_told_with_the_name_of_what_was_measured() {
        let epoch = EpochSummary {
            epoch: 0,
            tasks: 10,
            loss: 0.5,
            accuracy: 12.25,
            validation_loss: Some(0.75),
            validation_accuracy: Some(14.0),
        };
        assert_eq!(
            epoch_line(&epoch, Quality::Rmse),
            "epoch 1: 10 tasks, loss 0.5000, RMSE 12.2500, validation RMSE 14.0000"
        );
        assert!(epoch_line(&epoch, Quality::Accuracy).ends_with("validation accuracy 14.0000"));
    }
}
