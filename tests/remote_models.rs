//! Models in S3, put there by the runner of a real worker, or the worker itself.
#![cfg(feature = "remote")]

mod support;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use sha2::{Digest as _, Sha256};
use support::*;
use tensorfleet_worker::dev::Contract;
use tensorfleet_worker::wire::pb;
use tensorfleet_worker::wire::worker_pb::{TaskRequest, TaskResponse};

/// A service that takes objects, or says that it cannot.
struct Service {
    address: SocketAddr,
    objects: Arc<Mutex<HashMap<String, Vec<u8>>>>,
}

impl Service {
    fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, objects) = (listener.local_addr().unwrap(), Arc::<Mutex<HashMap<_, _>>>::default());
        std::thread::spawn({
            let objects = Arc::clone(&objects);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let (path, body) = request(&stream);
                    if status.starts_with("200") {
                        objects.lock().unwrap().insert(path, body);
                    }
                    let answer =
                        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                    (&stream).write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        Self { address, objects }
    }
}

/// Path and body of a request to put an object, which has to be signed.
fn request(stream: &TcpStream) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let lines = reader.by_ref().lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let target = head[0].strip_prefix("PUT ").unwrap().split(' ').next().unwrap();
    let (path, query) = target.split_once('?').unwrap();
    assert!(query.contains("X-Amz-Signature="), "{query}");
    let length =
        head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap()];
    reader.read_exact(&mut body).unwrap();
    (path.to_owned(), body)
}

/// A worker whose models go to `service`.
fn worker(orchestrator: SocketAddr, service: &Service) -> WorkerProcess {
    worker_in(Arc::new(tempfile::tempdir().unwrap()), orchestrator, service)
}

fn worker_in(state: Arc<tempfile::TempDir>, orchestrator: SocketAddr, service: &Service) -> WorkerProcess {
    WorkerProcess::start_in(
        state,
        orchestrator,
        &[
            ("LOG_LEVEL", "debug"),
            ("TRAINING_BACKEND", "cpu"),
            ("CHECKPOINT_URI", "s3://bucket/models"),
            ("S3_ENDPOINT", &format!("http://{}", service.address)),
            ("AWS_ACCESS_KEY_ID", "s3cretid"),
            ("AWS_SECRET_ACCESS_KEY", "s3cretkey"),
        ],
    )
}

/// Such a worker, and its answer to a task whose model is too large for it.
async fn trained(service: &Service) -> (WorkerProcess, tonic::Response<TaskResponse>) {
    let orchestrator = orchestrator(Contract::Extended).await;
    let worker = worker(orchestrator.local_addr(), service);
    let given = [("hidden_layers", "1000,900"), ("optimizer", "sgd"), ("batch_size", "4")];
    let task = TaskRequest {
        task_id: "t".into(),
        job_id: "a/job".into(),
        model_type: "mlp".into(),
        dataset_path: "builtin:iris".into(),
        hyperparameters: given.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        epoch: 0,
        batch_start: 0,
        batch_end: 2,
    };
    let response = worker.client().await.execute_task(task).await.unwrap();
    assert!(response.get_ref().success, "{response:?}");
    assert!(response.get_ref().model_weights.is_empty());
    (worker, response)
}

/// What the answer says to programs of where the model is: URI, SHA-256 and size.
fn reference<T>(response: &tonic::Response<T>) -> [String; 3] {
    ["uri", "sha256", "bytes"].map(|what| {
        let value = response.metadata().get(format!("tensorfleet-model-{what}")).unwrap();
        value.to_str().unwrap().to_owned()
    })
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_too_large_is_put_into_s3_and_referred_to() {
    let service = Service::start("200 OK");
    let (worker, response) = trained(&service).await;
    let objects = service.objects.lock().unwrap().clone();
    let [(path, model)] = Vec::from_iter(&objects)[..] else { panic!("{:?}", objects.keys()) };
    let digest = digest(model);
    // The job's slash is %2F in the key, and its percent sign %25 in the URL.
    assert_eq!(*path, format!("/bucket/models/a%252Fjob/{digest}/model.safetensors"));
    let told = format!("it is in s3://bucket/models/a%2Fjob/{digest}/model.safetensors (sha256 {digest})");
    assert!(response.get_ref().message.contains(&told), "{response:?}");
    let uri = format!("s3://bucket/models/a%2Fjob/{digest}/model.safetensors");
    assert_eq!(reference(&response), [uri, digest, model.len().to_string()]);
    let copy = std::fs::read(worker.state.path().join("models/a%2Fjob/model.safetensors")).unwrap();
    assert_eq!(copy, *model);
    let shown = format!("{:?}{response:?}{}", worker.log(), worker.get("/api/v1/status").1);
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_s3_does_not_take_stays_and_the_outcome_says_where() {
    let service = Service::start("503 Slow Down");
    let (worker, response) = trained(&service).await;
    let path = worker.state.path().join("models/a%2Fjob/model.safetensors");
    let digest = digest(&std::fs::read(&path).unwrap());
    let told = format!(
        "it is in {} (sha256 {digest}), since CHECKPOINT_URI: \"s3://bucket/models\"",
        path.display()
    );
    assert!(response.get_ref().message.contains(&told), "{response:?}");
    assert!(response.get_ref().message.contains("HTTP status 503"), "{response:?}");
    let [uri, sha256, _] = reference(&response);
    assert!(uri.starts_with("file:///") && uri.ends_with("/models/a%252Fjob/model.safetensors"), "{uri}");
    assert_eq!(sha256, digest);
    assert!(worker.log().iter().any(|line| line.to_string().contains("a model stays in")));
}

/// With the session that has the model, and without: then the worker itself puts it there, from the checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_model_of_a_job_that_is_seen_to_end_is_put_into_s3_too() {
    for killed in [false, true] {
        let service = Service::start("200 OK");
        let orchestrator = orchestrator(Contract::Base).await;
        let mut worker = worker(orchestrator.local_addr(), &service);
        let mut slow = real_job(20);
        let given = [("hidden_layers", "800,900"), ("optimizer", "sgd"), ("batch_size", "120")];
        slow.hyperparameters.extend(given.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let job = submit(orchestrator.local_addr(), slow).await;
        let trained =
            orchestrator.board().wait_for(|board| board.job(&job).ok().filter(|job| job.completed >= 1));
        tokio::time::timeout(PATIENCE, trained).await.unwrap();
        assert!(service.objects.lock().unwrap().is_empty(), "models of less than 3 MiB travel");
        if killed {
            worker.signal(Signal::KILL);
            worker.wait();
        }
        let cancel = pb::CancelJobRequest { job_id: job.to_string() };
        client_of(orchestrator.local_addr()).await.cancel_job(cancel).await.unwrap();
        if killed {
            let state = Arc::clone(&worker.state);
            worker = worker_in(state, orchestrator.local_addr(), &service);
        }
        let place = format!("/bucket/models/{job}/");
        eventually("its model is in S3", || {
            service.objects.lock().unwrap().keys().any(|path| path.starts_with(&place))
        });
        let told = worker.wait_for_log("the job has ended, it is in s3://bucket/models/");
        assert!(told.to_string().contains("sha256"), "{told}");
    }
}
