//! Models that a result cannot carry, or whose job has ended.
//!
//! ```text
//! model --> STATE_DIR/models/JOB/NAME --CHECKPOINT_URI?--> s3://BUCKET/PREFIX/JOB/SHA256/NAME
//!                                              \--trouble--> what is told names the file, and why
//! ```
//!
//! The file comes first and stays, so that no trouble with S3 costs a model; the next one of its job takes its place.
//! An object has its digest in its name: none is ever written over, workers that share a job do not meet, and putting
//! one again changes nothing.
//!
//! Deliberately absent: checkpoints in S3. They are of use to the worker alone that wrote them, after each task, and go
//! when the job ends.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{Store, file_name, hex, write_whole};
use crate::data::remote::ObjectFolder;
use crate::data::{Check, Remote};
use crate::domain::{JobId, ModelReference};

/// Where models are put beside STATE_DIR.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Elsewhere {
    /// CHECKPOINT_URI.
    pub(in crate::engine) folder: ObjectFolder,
    /// How S3 is reached.
    #[cfg_attr(not(feature = "remote"), allow(dead_code, reason = "such a program puts nothing there"))]
    pub(in crate::engine) remote: Remote,
}

/// A model that was put where it can be fetched.
#[derive(Debug)]
pub(in crate::engine) struct Kept {
    /// For programs.
    pub(in crate::engine) reference: ModelReference,
    /// For people: where it is, and what is to be said of that.
    said: String,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

impl Store {
    /// The same store, which puts models there too.
    pub(in crate::engine) fn and_put_models(self, elsewhere: Option<Elsewhere>) -> Self {
        Self { elsewhere, ..self }
    }

    /// Puts a model of `job` where it can be fetched, and says where that is; `check` stops what takes long.
    ///
    /// # Errors
    /// The disk's, where the model is nowhere else.
    pub(in crate::engine) fn keep_model(
        &self,
        job: &JobId,
        name: &str,
        model: &Bytes,
        check: Check<'_>,
    ) -> Result<Kept, String> {
        let digest = hex(&Sha256::digest(model));
        let kept = |uri: String, place: &str, more: String| Kept {
            reference: ModelReference { uri, sha256: digest.clone(), bytes: model.len() as u64 },
            said: format!("it is in {place} (sha256 {digest}){more}"),
        };
        let file = self.save_model(job, name, model);
        let Some(elsewhere) = &self.elsewhere else {
            return file
                .map(|path| kept(file_uri(&path), &path.display().to_string(), String::new()))
                .map_err(|error| error.to_string());
        };
        let put = elsewhere.put(&format!("{}/{digest}/{name}", file_name(job)), model, check);
        match (put, file) {
            (Ok(object), Ok(_)) => Ok(kept(object.clone(), &object, String::new())),
            (Ok(object), Err(error)) => {
                Ok(kept(object.clone(), &object, format!(", and not under STATE_DIR: {error}")))
            }
            (Err(why), Ok(path)) => {
                let said = format!("CHECKPOINT_URI: \"{}\": {why}", elsewhere.folder);
                let shown = path.display().to_string();
                tracing::warn!(job_id = %job, "a model stays in {shown}: {said}");
                Ok(kept(file_uri(&path), &shown, format!(", since {said}")))
            }
            (Err(why), Err(error)) => {
                Err(format!("{error}; CHECKPOINT_URI: \"{}\": {why}", elsewhere.folder))
            }
        }
    }

    fn save_model(&self, job: &JobId, name: &str, model: &[u8]) -> io::Result<PathBuf> {
        let folder = self.state_dir.join("models").join(file_name(job));
        write_whole(&folder, name, model)?;
        Ok(folder.join(name))
    }
}

/// `path` as a URI, whatever is in its names.
fn file_uri(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut uri = "file://".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => {
                // Writing to a string cannot fail.
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri
}

impl Elsewhere {
    #[cfg(feature = "remote")]
    fn put(&self, name: &str, model: &Bytes, check: Check<'_>) -> Result<String, String> {
        crate::data::remote::put(&self.folder, name, model, (&self.remote, check))
            .map_err(|error| error.to_string())
    }

    /// The configuration does not let it come to this.
    #[cfg(not(feature = "remote"))]
    fn put(&self, _: &str, _: &Bytes, _: Check<'_>) -> Result<String, String> {
        Err("this program was built without the feature remote".to_owned())
    }
}
