//! Follows the demonstration's job and draws it.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::cluster::{Cluster, Member};
use crate::cli::Failure;
use crate::cli::signals::Signals;
use crate::cli::ui::{Board, Track, figures};
use crate::dev::JobSummary;
use crate::domain::JobId;

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
    signals: &mut Signals,
) -> Result<Ending, Failure> {
    let mut picture = Picture::new(cluster);
    let mut redraw = interval(REDRAW_INTERVAL);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = redraw.tick() => {}
            _ = signals.next() => {
                picture.board.clear();
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
            picture.end();
            return Ok(Ending::Job(job));
        }
    }
}

struct Picture {
    board: Board,
    job: Track,
    members: Vec<Track>,
    epochs_said: usize,
}

impl Picture {
    fn new(cluster: &Cluster) -> Self {
        let board = Board::new();
        let job = board.whole("job", 0);
        let members = cluster.members.iter().map(|member| board.part(&member.name)).collect();
        Self { board, job, members, epochs_said: 0 }
    }

    fn draw(&mut self, job: &JobSummary, members: &[Member]) {
        let now = job.current.map(|metrics| figures(metrics.loss, metrics.accuracy)).unwrap_or_default();
        self.job.set(job.completed.into(), job.total.into(), format!("tasks    {now}"));
        for (track, member) in self.members.iter().zip(members) {
            draw_member(track, member);
        }
        // An epoch is said when the next one has begun or the job has ended: only then are its figures final.
        let known = if job.status.is_final() { job.epochs.len() } else { job.epochs.len().saturating_sub(1) };
        for epoch in job.epochs.iter().take(known).skip(self.epochs_said) {
            self.board.line(|| {
                let held_out = epoch
                    .validation_accuracy
                    .map(|accuracy| format!(", validation accuracy {accuracy:.4}"))
                    .unwrap_or_default();
                format!(
                    "epoch {}: {} tasks, {}{held_out}",
                    epoch.epoch + 1,
                    epoch.tasks,
                    figures(epoch.loss, epoch.accuracy)
                )
            });
        }
        self.epochs_said = self.epochs_said.max(known);
    }

    fn end(&self) {
        for track in self.members.iter().chain([&self.job]) {
            track.finish();
        }
    }
}

fn draw_member(track: &Track, member: &Member) {
    let status = member.handle.status();
    match status.tasks.first() {
        Some(task) => {
            let progress = &task.progress;
            let message = format!(
                "batches  epoch {}, {}, {:.0} samples/s",
                task.epoch + 1,
                figures(progress.loss, progress.accuracy),
                progress.samples_per_second
            );
            track.set(progress.step, progress.total_steps, message);
        }
        None => track.set(0, 1, format!("waits    {} tasks done", status.completed_tasks)),
    }
}
