//! What is in the file of a checkpoint.

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::domain::{Backend, Metrics, TaskResult, TaskSpec};

/// Begins each file; the last byte is the version.
pub(super) const MAGIC: &[u8; 8] = b"TFCKPT03";

/// Bytes of a SHA-256.
const DIGEST_BYTES: usize = 32;

/// A task whose effect is in a checkpoint, and what it yielded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::engine) struct Completed {
    task_id: String,
    epoch: u32,
    start: u32,
    end: u32,
    /// Bits of loss and accuracy, since JSON rounds.
    train: [u64; 2],
    validation: Option<[u64; 2]>,
    samples: u64,
    steps: u64,
    /// What produced it: the session may go on elsewhere.
    backend: Backend,
    device: String,
}

impl Completed {
    /// That `task` yielded `result`.
    pub(in crate::engine) fn new(task: &TaskSpec, result: &TaskResult) -> Self {
        let bits = |metrics: Metrics| [metrics.loss.to_bits(), metrics.accuracy.to_bits()];
        Self {
            task_id: task.identity.task_id.as_str().to_owned(),
            epoch: task.epoch,
            start: task.batches.start,
            end: task.batches.end,
            train: bits(result.train),
            validation: result.validation.map(bits),
            samples: result.samples,
            steps: result.steps,
            backend: result.backend,
            device: result.device.clone(),
        }
    }

    /// Whether `task` is that task.
    pub(in crate::engine) fn is(&self, task: &TaskSpec) -> bool {
        (self.task_id.as_str(), self.epoch, self.start, self.end)
            == (task.identity.task_id.as_str(), task.epoch, task.batches.start, task.batches.end)
    }

    /// What it yielded, as `now` but for the figures.
    pub(in crate::engine) fn result(&self, now: TaskResult) -> TaskResult {
        let metrics = |[loss, accuracy]: [u64; 2]| Metrics {
            loss: f64::from_bits(loss),
            accuracy: f64::from_bits(accuracy),
        };
        TaskResult {
            train: metrics(self.train),
            validation: self.validation.map(metrics),
            samples: self.samples,
            steps: self.steps,
            backend: self.backend,
            device: self.device.clone(),
            ..now
        }
    }
}

/// Where a session is. Its header is all but model and state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::engine) struct Checkpoint {
    /// Digest of the data set.
    pub(in crate::engine) data: String,
    /// The last tasks in it, oldest first.
    pub(in crate::engine) completed: Vec<Completed>,
    /// Name of the model's file.
    pub(in crate::engine) model_name: String,
    /// The model, should nobody ask the session for it any more; empty where it is too large to travel with a result, and is
    /// kept as a file therefore.
    #[serde(skip)]
    pub(in crate::engine) model: Bytes,
    /// The state of its trainer.
    #[serde(skip)]
    pub(in crate::engine) state: Vec<u8>,
}

impl Checkpoint {
    /// As it is on disk.
    pub(in crate::engine) fn encode(&self) -> io::Result<Vec<u8>> {
        let header = serde_json::to_vec(self)?;
        let parts = header.len() + self.model.len() + self.state.len();
        let mut bytes = Vec::with_capacity(MAGIC.len() + 16 + parts + DIGEST_BYTES);
        bytes.extend_from_slice(MAGIC);
        for part in [&header[..], &self.model] {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&self.state);
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        Ok(bytes)
    }

    /// The checkpoint that `bytes` are, whatever they are.
    pub(in crate::engine) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let (content, digest) =
            bytes.split_at_checked(bytes.len().saturating_sub(DIGEST_BYTES)).ok_or(Damage::Torn)?;
        let content_after_magic = content.strip_prefix(MAGIC).ok_or(Damage::Torn)?;
        if Sha256::digest(content).as_slice() != digest {
            return Err(Damage::Digest);
        }
        let (header, rest) = part(content_after_magic).ok_or(Damage::Torn)?;
        let (model, state) = part(rest).ok_or(Damage::Torn)?;
        let checkpoint: Self = serde_json::from_slice(header).map_err(|_| Damage::Header)?;
        Ok(Self { model: Bytes::copy_from_slice(model), state: state.to_vec(), ..checkpoint })
    }
}

/// The part at the beginning of `bytes`, behind its length, and the rest.
fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// Why a file is no checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::engine) enum Damage {
    #[error("it is torn")]
    Torn,
    #[error("its digest is another one")]
    Digest,
    #[error("its header cannot be read")]
    Header,
}
