//! What a message may say, and what survives the way to disk and back.

mod fuzz;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tonic::metadata::MetadataMap;

use super::*;
use crate::domain::{
    Backend, ErrorCode, JobId, Metrics, ModelReference, ModelType, Strictness, TaskError, TaskId,
    TaskIdentity, TaskOutcome, TaskResult, WorkerId,
};

fn assignment() -> pb::AssignTaskResponse {
    pb::AssignTaskResponse {
        task_id: "t1".into(),
        job_id: "j1".into(),
        model_type: "neural_network".into(),
        dataset_path: "builtin:digits".into(),
        hyperparameters: BTreeMap::new(),
        epoch: 2,
        batch_start: 900,
        batch_end: 1000,
        attempt: 3,
        lease_seconds: 30,
        timeout_seconds: 0,
        total_epochs: 10,
        model_weights: Bytes::new(),
        more: Vec::new(),
    }
}

fn refused(message: pb::AssignTaskResponse) -> RejectedTask {
    *task_from_assignment(message, Strictness::Warn).unwrap_err()
}

#[test]
fn a_good_assignment_becomes_a_task() {
    let task = task_from_assignment(assignment(), Strictness::Warn).unwrap();
    assert_eq!(task.identity.attempt, 3);
    assert_eq!(task.batches, 900..1000);
    assert_eq!(task.lease, Some(Duration::from_secs(30)));
    assert_eq!(task.timeout, None);
    assert_eq!(task.total_epochs, Some(10));
    assert!(task.ends_epoch());
}

#[test]
fn each_bad_field_is_named_with_its_value() {
    type Break = fn(&mut pb::AssignTaskResponse);
    let cases: [(&str, &str, Break); 9] = [
        ("task_id", "", |m| m.task_id.clear()),
        ("job_id", "a b", |m| m.job_id = "a b".into()),
        ("model_type", "a/b", |m| m.model_type = "a/b".into()),
        ("epoch", "-1", |m| m.epoch = -1),
        ("batch_start", "-5", |m| m.batch_start = -5),
        ("batch_end", "900", |m| m.batch_end = 900),
        ("batch_end", "10", |m| m.batch_end = 10),
        ("dataset_path", "a\u{fffd}", |m| m.dataset_path = "a\0".into()),
        ("hyperparameters.batch_size", "0", |m| {
            m.hyperparameters.insert("batch_size".into(), "0".into());
        }),
    ];
    for (field, value, damage) in cases {
        let mut message = assignment();
        damage(&mut message);
        let RejectedTask { error, identity, .. } = refused(message);
        assert_eq!((error.field.as_str(), error.value.as_str()), (field, value));
        assert_eq!(identity.attempt, 3);
    }
}

#[test]
fn an_outcome_survives_the_way_to_disk() {
    let identity =
        TaskIdentity { task_id: TaskId::parse("t").unwrap(), job_id: JobId::parse("j").unwrap(), attempt: 7 };
    let result = TaskResult {
        train: Metrics { loss: 0.5, accuracy: 0.9 },
        validation: Some(Metrics { loss: 0.6, accuracy: 0.8 }),
        samples: 3200,
        steps: 100,
        backend: Backend::Cpu,
        device: "cpu".into(),
        weights: Bytes::from_static(b"weights"),
        reference: None,
    };
    let digest = "0f".repeat(32);
    let model = ModelReference { uri: "s3://bucket/model".into(), sha256: digest.clone(), bytes: 5 << 20 };
    let unvalidated =
        TaskResult { validation: None, weights: Bytes::new(), reference: Some(model), ..result.clone() };
    let error = TaskError::new(ErrorCode::Diverged, "loss is NaN at step 3");
    for ending in [Ok(result), Ok(unvalidated), Err(error)] {
        let outcome = TaskOutcome {
            identity: identity.clone(),
            model: ModelType::parse("neural_network").unwrap(),
            epoch: 4,
            ending,
            notes: vec!["a note".into()],
            duration: Duration::from_millis(1500),
            energy_joules: Some(12.5),
        };
        assert_eq!(decode_outcome(&encode_outcome(&outcome)).unwrap(), outcome);
        let report = completion(&outcome, &WorkerId::parse("w").unwrap());
        assert_eq!(report.success, outcome.ending.is_ok());
        assert_eq!(
            report.validation_loss.is_some(),
            outcome.ending.as_ref().is_ok_and(|r| r.validation.is_some())
        );
        assert!(report.error_message.contains("a note"));
        let mut metadata = MetadataMap::new();
        refer_to_model(&outcome, &mut metadata);
        let told = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
        let refers = outcome.ending.as_ref().is_ok_and(|result| result.reference.is_some());
        let expected = ["s3://bucket/model", digest.as_str(), "5242880"].map(|value| refers.then_some(value));
        assert_eq!(
            ["uri", "sha256", "bytes"].map(|what| told(&format!("tensorfleet-model-{what}"))),
            expected
        );
    }
}

#[test]
fn garbage_on_disk_is_an_error_not_an_outcome() {
    assert!(decode_outcome(&[0xff; 40]).is_err());
    assert!(decode_outcome(&[]).is_err());
}
