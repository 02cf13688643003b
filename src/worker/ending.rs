//! What the log says of a task that ended.

use crate::domain::{TaskOutcome, TaskStatus};

/// Says how a task ended; which one says the span around it.
pub(super) fn log_end(outcome: &TaskOutcome) {
    let seconds = outcome.duration.as_secs_f64();
    let notes = outcome.notes.join("; ");
    match &outcome.ending {
        Ok(result) => tracing::info!(
            model_type = outcome.model.as_str(),
            epoch = outcome.epoch,
            loss = result.train.loss,
            accuracy = result.train.accuracy,
            backend = result.backend.name(),
            simulated = result.backend.is_simulated(),
            energy_joules = outcome.energy_joules,
            seconds,
            notes,
            "task completed"
        ),
        Err(error) if outcome.status() == TaskStatus::Cancelled => {
            tracing::info!(reason = error.message, seconds, "task cancelled");
        }
        Err(error) => {
            tracing::warn!(code = error.code.name(), reason = error.message, seconds, notes, "task failed");
        }
    }
}
