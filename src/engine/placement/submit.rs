//! What both engines do with a task.

use super::{Placement, Placer};
use crate::engine::analytic::Analytic;
use crate::engine::session::SessionPlan;
use crate::engine::sessions::Submission;
use crate::engine::{Finished, seeds};

impl Placer {
    /// Ends what is refused, draws the curves of what is simulated, and gives `train` the rest.
    pub(crate) fn submit(
        &self,
        submission: Submission,
        analytic: &Analytic,
        train: impl FnOnce(SessionPlan, Submission),
    ) {
        let task = &submission.task;
        match self.place(task) {
            Err(error) => submission.done.finish(Finished { ending: Err(error), notes: Vec::new() }),
            Ok(Placement::Analytic(note)) => {
                if let Some(note) = &note {
                    submission.control.span(&task.identity).in_scope(|| tracing::warn!("{note}"));
                }
                let Submission { task, control, done } = submission;
                analytic.start(&task, control, done, note.into_iter().collect());
            }
            Ok(Placement::Train(entry, device)) => {
                let plan = SessionPlan {
                    entry,
                    dataset_path: task.dataset_path.clone(),
                    hyperparameters: task.hyperparameters.clone(),
                    seed: seeds::of_job(&task.identity.job_id, &task.hyperparameters),
                    device,
                };
                train(plan, submission);
            }
        }
    }
}
