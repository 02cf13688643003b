//! An object put into S3, tried again where that may help.
//!
//! Each try runs in a thread of its own, as a download does, so that whoever waits can stop at any time. Deliberately
//! absent: uploads in parts. S3 takes 5 GiB at once, and whoever puts an object keeps a copy.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::Check;
use super::super::error::{DataError, RemoteProblem};
use super::http::{CHECK_EVERY, send};
use super::location::Location;
use super::{ObjectFolder, Remote};
use crate::domain::{ErrorCode, TaskError};

/// Tries in all, the wait after the first (it doubles), and the time after which none begins any more.
const TRIES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(20);

/// Why an object is not there.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// S3 does not take it.
    #[error("{object} {}{}", told(.problem), allowed(.problem))]
    Refused {
        /// Its URL.
        object: String,
        /// Why.
        problem: RemoteProblem,
    },
    /// It has no place there.
    #[error(transparent)]
    Place(DataError),
    /// Whoever waited was told to stop.
    #[error("the upload was stopped: {0}")]
    Stopped(TaskError),
}

/// What is wrong, in the words of an upload.
fn told(problem: &RemoteProblem) -> String {
    match problem {
        RemoteProblem::Failed(why) => format!("cannot be put there: {why}"),
        RemoteProblem::HostNotFound => "is at a host that cannot be found".to_owned(),
        other => other.to_string(),
    }
}

/// What to do about it.
fn allowed(problem: &RemoteProblem) -> &'static str {
    match problem {
        RemoteProblem::Status { status: 401 | 403 } => {
            "; allowed: a bucket into which AWS_ACCESS_KEY_ID may put objects"
        }
        RemoteProblem::Status { status: 404 } | RemoteProblem::Redirect { .. } => {
            "; allowed: a bucket that exists at S3_ENDPOINT or in AWS_REGION"
        }
        _ => "",
    }
}

/// Puts `body` into `folder` as `name`, and returns the URL of the object.
///
/// # Errors
/// S3 refuses it, or still does not take it after a few tries, or `check` says to stop.
pub fn put(
    folder: &ObjectFolder,
    name: &str,
    body: &Bytes,
    (remote, check): (&Remote, Check<'_>),
) -> Result<String, UploadError> {
    let object = folder.object(name);
    let key = object.strip_prefix("s3://").unwrap_or_default();
    let location = Location::of_object(key, &object, &remote.s3).map_err(UploadError::Place)?;
    let began = Instant::now();
    let mut wait = FIRST_WAIT;
    for number in 1.. {
        let Err(problem) = attempt(&location, body, remote, check)? else { break };
        let hopeless = problem.code() != ErrorCode::Unavailable;
        if hopeless || number == TRIES || began.elapsed() + wait > PATIENCE {
            return Err(UploadError::Refused { object, problem });
        }
        tracing::debug!(%object, number, "not taken, tried again: {}", told(&problem));
        pause(wait, check)?;
        wait *= 2;
    }
    Ok(object)
}

/// One try.
fn attempt(
    location: &Location,
    body: &Bytes,
    remote: &Remote,
    check: Check<'_>,
) -> Result<Result<(), RemoteProblem>, UploadError> {
    let (sender, answers) = sync_channel(1);
    // Signed anew each time, since a signature holds for minutes.
    let url = String::from(location.upload_url(&remote.s3));
    let (body, timeouts) = (body.clone(), (remote.connect_timeout, remote.read_timeout));
    let started = thread::Builder::new().name("model-upload".to_owned()).spawn(move || {
        // Who asked may be gone; then nobody is left to tell.
        drop(sender.send(send(&url, &body, timeouts)));
    });
    if let Err(error) = started {
        return Ok(Err(RemoteProblem::Failed(error.to_string())));
    }
    loop {
        check().map_err(UploadError::Stopped)?;
        match answers.recv_timeout(CHECK_EVERY) {
            Ok(Ok(200..=299)) => return Ok(Ok(())),
            Ok(Ok(status @ 300..=399)) => return Ok(Err(RemoteProblem::Redirect { status })),
            Ok(Ok(status)) => return Ok(Err(RemoteProblem::Status { status })),
            Ok(Err(problem)) => return Ok(Err(problem)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Err(RemoteProblem::Failed("the upload ended in an odd way".to_owned())));
            }
        }
    }
}

fn pause(time: Duration, check: Check<'_>) -> Result<(), UploadError> {
    let end = Instant::now() + time;
    loop {
        check().map_err(UploadError::Stopped)?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(CHECK_EVERY));
    }
}
