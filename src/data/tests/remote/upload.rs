//! Objects that are put into S3.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;

use bytes::Bytes;

use super::super::super::remote::{Credentials, ObjectFolder, Secret, UploadError, put};
use super::s3::{refusal, with_s3};
use super::*;

fn folder() -> ObjectFolder {
    ObjectFolder::parse("s3://my-bucket/models/day=1").unwrap()
}

/// More than the sockets between both sides hold.
fn body() -> Bytes {
    (0..5_000_000_u32).map(|byte| (byte % 251) as u8).collect()
}

fn put_into(worker: &Worker, body: &Bytes) -> Result<String, UploadError> {
    put(&folder(), "job%2F1/abc/model.safetensors", body, (&worker.config.remote, &|| Ok(())))
}

#[test]
fn an_object_is_put_whole_and_with_a_signature_of_version_four() {
    let server = Server::start(|request| match refusal(request, "hunter2", "eu-central-1") {
        Some(why) => Answer::new("403 Forbidden", "", why.as_bytes()),
        None => Answer::new("200 OK", "ETag: \"v1\"\r\n", b""),
    });
    let mut worker = with_s3(&server);
    let object = put_into(&worker, &body()).unwrap();
    assert_eq!(object, "s3://my-bucket/models/day=1/job%2F1/abc/model.safetensors");
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!((requests[0].method.as_str(), requests[0].body == body()), ("PUT", true));
    // The key holds the percent sign itself.
    let path = "/my-bucket/models/day%3D1/job%252F1/abc/model.safetensors?";
    assert!(requests[0].target.starts_with(path), "{}", requests[0].target);
    assert!(requests[0].target.contains("X-Amz-Security-Token=token%2Fof%2Bmine"));
    // Another key is refused; that is not tried again, and nothing of either key is said.
    worker.config.remote.s3.credentials = Some(Credentials {
        access_key_id: Secret::new("AKIDEXAMPLE"),
        secret_access_key: Secret::new("hunter3"),
        session_token: None,
    });
    let error = put_into(&worker, &body()).unwrap_err();
    let text = format!("{error} {error:?}");
    for word in ["s3://my-bucket/models/day=1/job%2F1", "403", "allowed: a bucket", "AWS_ACCESS_KEY_ID"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    for secret in ["hunter", "AKIDEX", "token/", "X-Amz", "Signature"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn trouble_that_may_pass_is_tried_again_and_not_for_ever() {
    let (calls, failures) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(2)));
    let server = Server::start({
        let (calls, failures) = (Arc::clone(&calls), Arc::clone(&failures));
        move |_| match calls.fetch_add(1, Ordering::SeqCst) < failures.load(Ordering::SeqCst) {
            true => Answer::new("503 Slow Down", "", b"<Error/>"),
            false => Answer::new("200 OK", "", b""),
        }
    });
    let worker = with_s3(&server);
    let began = Instant::now();
    put_into(&worker, &body()).unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert!(began.elapsed() >= Duration::from_millis(1500), "it waits: {:?}", began.elapsed());
    failures.store(usize::MAX, Ordering::SeqCst);
    let error = put_into(&worker, &body()).unwrap_err().to_string();
    assert!(error.contains("503"), "{error}");
    assert_eq!(calls.load(Ordering::SeqCst), 3 + 4);
}

#[test]
fn what_cannot_help_is_not_tried_again() {
    let status = Arc::new(AtomicU16::new(0));
    let server = Server::start({
        let status = Arc::clone(&status);
        move |_| Answer::new(&format!("{} X", status.load(Ordering::SeqCst)), "", b"")
    });
    let worker = with_s3(&server);
    for (number, (code, word)) in
        [(307, "redirect"), (400, "400"), (404, "a bucket that exists")].into_iter().enumerate()
    {
        status.store(code, Ordering::SeqCst);
        let error = put_into(&worker, &Bytes::from_static(b"model")).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(server.requests().len(), number + 1);
    }
    // A service that is not there at all.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut worker = with_s3(&server);
    worker.config.remote.s3.endpoint = Some(format!("http://127.0.0.1:{port}"));
    let error = put_into(&worker, &Bytes::from_static(b"model")).unwrap_err().to_string();
    assert!(error.contains("cannot be put there"), "{error}");
}

#[test]
fn a_silent_service_does_not_hold_up_whoever_is_told_to_stop() {
    let server = Server::start(|_| Answer::raw(b"", Then::Wait(Duration::from_secs(60))));
    let worker = with_s3(&server);
    let (began, looks) = (Instant::now(), Cell::new(0));
    let check = || {
        looks.set(looks.get() + 1);
        match looks.get() < 5 {
            true => Ok(()),
            false => Err(TaskError::new(ErrorCode::Cancelled, "unwanted")),
        }
    };
    let error = put(&folder(), "m", &body(), (&worker.config.remote, &check)).unwrap_err();
    assert!(matches!(&error, UploadError::Stopped(reason) if reason.message == "unwanted"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
