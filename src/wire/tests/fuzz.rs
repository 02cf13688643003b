//! Every message of both services from bytes that nobody would send.

use prost::Message;

use super::*;
use crate::fuzz;

/// Reads `bytes` as each kind of message, which as such is the library's; ours is that nothing else happens.
macro_rules! read_as {
    ($bytes:expr, $($message:ty),+ $(,)?) => {
        $(
            if let Ok(message) = <$message>::decode($bytes) {
                let again = <$message>::decode(message.encode_to_vec().as_slice()).unwrap();
                assert_eq!(again.encode_to_vec(), message.encode_to_vec());
            }
        )+
    };
}

#[test]
fn fuzz_every_message() {
    let good = vec![
        assignment().encode_to_vec(),
        pb::HeartbeatResponse { cancel_task_ids: vec!["t".into()], drain: true, ..Default::default() }
            .encode_to_vec(),
        pb::HeartbeatRequest { worker_id: "w".into(), tasks: vec![Default::default()], ..Default::default() }
            .encode_to_vec(),
        pb::RegisterWorkerRequest {
            worker_id: "w".into(),
            capabilities: Some(pb::WorkerCapabilities {
                gpus: vec![Default::default()],
                ..Default::default()
            }),
            ..Default::default()
        }
        .encode_to_vec(),
    ];
    fuzz::run("every message", &good, |bytes| {
        read_as!(
            bytes,
            pb::TrainingJobRequest,
            pb::TrainingJobResponse,
            pb::GetJobStatusRequest,
            pb::GetJobStatusResponse,
            pb::AssignTaskRequest,
            pb::AssignTaskResponse,
            pb::TaskCompletionRequest,
            pb::TaskCompletionResponse,
            pb::JobMetricsRequest,
            pb::JobMetricsResponse,
            pb::CancelJobRequest,
            pb::CancelJobResponse,
            pb::WorkerActivityResponse,
            pb::RegisterWorkerRequest,
            pb::RegisterWorkerResponse,
            pb::HeartbeatRequest,
            pb::HeartbeatResponse,
            pb::TaskProgress,
            pb::ReportProgressResponse,
            pb::ReleaseTaskRequest,
            worker_pb::TaskRequest,
            worker_pb::TaskResponse,
            worker_pb::WorkerStatusRequest,
            worker_pb::WorkerStatusResponse,
            worker_pb::CancelTaskRequest,
            worker_pb::CancelTaskResponse,
            worker_pb::GetStatusResponse,
            worker_pb::WatchTaskRequest,
            worker_pb::DrainRequest,
        );
    });
}

/// Whatever came, what goes on inside is fit to be a label, a file name and a log field.
fn is_fit(task: &ClaimedTask) {
    let (identity, model) = match task {
        Ok(task) => (&task.identity, &task.model),
        Err(rejected) => {
            assert!(!rejected.error.to_string().contains(char::is_control), "{}", rejected.error);
            (&rejected.identity, &rejected.model)
        }
    };
    assert_eq!(TaskId::parse(identity.task_id.as_str()).as_ref(), Ok(&identity.task_id));
    assert_eq!(JobId::parse(identity.job_id.as_str()).as_ref(), Ok(&identity.job_id));
    assert_eq!(ModelType::parse(model.as_str()).as_ref(), Ok(model));
    if let Ok(task) = task {
        assert!(task.batches.start < task.batches.end);
        assert!(task.notes.iter().all(|note| !note.contains(char::is_control)), "{:?}", task.notes);
    }
}

fn hyperparameters() -> BTreeMap<String, String> {
    let given = [
        ("learning_rate", "0.1"),
        ("batch_size", "32"),
        ("hidden_layers", "64,32"),
        ("optimizer", "adamw"),
        ("max_depth", "6"),
        ("image_shape", "1x8x8"),
        ("validation_split", "0.2"),
        ("early_stopping", "true"),
        ("unknown", "x"),
    ];
    given.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

#[test]
fn fuzz_tasks_that_are_claimed() {
    let rich = pb::AssignTaskResponse { hyperparameters: hyperparameters(), ..assignment() };
    fuzz::run("AssignTask", &[assignment().encode_to_vec(), rich.encode_to_vec()], |bytes| {
        if let Ok(message) = pb::AssignTaskResponse::decode(bytes) {
            is_fit(&task_from_assignment(message.clone(), Strictness::Warn));
            is_fit(&task_from_assignment(message, Strictness::Reject));
        }
    });
}

#[test]
fn fuzz_tasks_that_are_asked_for() {
    let request = worker_pb::TaskRequest {
        task_id: "t".into(),
        job_id: "j".into(),
        model_type: "xgboost".into(),
        dataset_path: "https://host/data.csv?signature=x".into(),
        hyperparameters: hyperparameters(),
        epoch: 1,
        batch_start: 0,
        batch_end: 100,
    };
    fuzz::run("ExecuteTask", &[request.encode_to_vec()], |bytes| {
        if let Ok(message) = worker_pb::TaskRequest::decode(bytes) {
            is_fit(&task_from_request(message.clone(), Strictness::Warn));
            is_fit(&task_from_request(message, Strictness::Reject));
        }
    });
}

#[test]
fn fuzz_outcomes_from_disk() {
    let outcome = |ending| TaskOutcome {
        identity: TaskIdentity {
            task_id: TaskId::parse("t").unwrap(),
            job_id: JobId::parse("j").unwrap(),
            attempt: 7,
        },
        model: ModelType::parse("neural_network").unwrap(),
        epoch: 4,
        ending,
        notes: vec!["a note".into()],
        duration: Duration::from_millis(1500),
        energy_joules: Some(12.5),
    };
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
    let error = TaskError::new(ErrorCode::Diverged, "loss is NaN at step 3");
    let good = [encode_outcome(&outcome(Ok(result))), encode_outcome(&outcome(Err(error)))];
    let worker = WorkerId::parse("w").unwrap();
    fuzz::run("an outcome on disk", &good, |bytes| {
        if let Ok(outcome) = decode_outcome(bytes) {
            let again = decode_outcome(&encode_outcome(&outcome)).unwrap();
            assert_eq!(encode_outcome(&again), encode_outcome(&outcome));
            let _ = completion(&outcome, &worker);
        }
    });
}
