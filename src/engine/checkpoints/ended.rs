//! The model of a job that has ended without a session: it had left, or was lost with its process. The newest checkpoint
//! holds it.

use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, thread};

use super::format::Checkpoint;
use super::{Store, entries, saved_at};
use crate::domain::JobId;

impl Store {
    /// As [`Self::settle`], on a thread of its own.
    pub(in crate::engine) fn settle_later(self: &Arc<Self>, job: &JobId) {
        if !self.folder(job).exists() {
            return;
        }
        let (store, ended) = (Arc::clone(self), job.clone());
        let settling = thread::Builder::new().name(format!("keep-{job}")).spawn(move || store.settle(&ended));
        if let Err(error) = settling {
            // Its checkpoints stay, so that it is asked for once more.
            tracing::warn!(job_id = %job, "no thread to keep its model: {error}");
        }
    }

    /// Keeps the model of `job`, which has ended and has no session, and removes its checkpoints.
    pub(in crate::engine) fn settle(&self, job: &JobId) {
        // No session has that name.
        let Some(_settling) = self.under_way.begin(job, "") else { return };
        self.keep_newest(job);
        self.forget(job);
    }

    fn keep_newest(&self, job: &JobId) {
        let mut files: Vec<PathBuf> = entries(&self.folder(job));
        files.retain(|path| path.extension().is_none_or(|extension| extension != "part"));
        files.sort_by_key(|path| std::cmp::Reverse(saved_at(path)));
        let read = |path: &PathBuf| Checkpoint::decode(&fs::read(path).ok()?).ok();
        let Some(checkpoint) = files.iter().find_map(read) else {
            if !files.is_empty() {
                tracing::warn!(job_id = %job, "its model is not kept: no checkpoint can be read");
            }
            return;
        };
        if checkpoint.model.is_empty() {
            // It was kept after its task.
            return;
        }
        // Nobody waits for this; what is slow is given up by itself.
        match self.keep_model(job, &checkpoint.model_name, &checkpoint.model, &|| Ok(())) {
            Ok(place) => tracing::info!(job_id = %job, "the job has ended, {place}"),
            Err(error) => tracing::warn!(job_id = %job, "its model is not kept: {error}"),
        }
    }
}
