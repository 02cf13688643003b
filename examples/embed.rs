//! A worker inside another program: built from a configuration, watched through its handle, drained at the end.
//!
//! cargo run --example embed

use std::error::Error;

use tensorfleet_worker::app::{App, Program, Shutdown};
use tensorfleet_worker::config::{Config, Layers};
use tensorfleet_worker::dev::{DevConfig, DevOrchestrator};
use tensorfleet_worker::engine::ModelRegistry;
use tensorfleet_worker::telemetry::traces::Traces;
use tensorfleet_worker::wire::pb;
use tensorfleet_worker::wire::pb::orchestrator_service_client::OrchestratorServiceClient;

/// Trains one small job in runner processes of `program` and returns how many tasks the worker completed.
pub(crate) async fn run(program: Program) -> Result<u64, Box<dyn Error + Send + Sync>> {
    // Here, one in memory; in earnest ORCHESTRATOR_ADDRESS is that of your fleet.
    let listen = "127.0.0.1:0".parse()?;
    let orchestrator = DevOrchestrator::start(DevConfig { listen, ..DevConfig::default() }).await?;
    let address = orchestrator.local_addr().to_string();

    // The same variables as in the environment, checked the same way.
    let state = std::env::temp_dir().join(format!("embedded-worker-{}", std::process::id()));
    let settings = [
        ("ORCHESTRATOR_ADDRESS", address.clone()),
        ("WORKER_PORT", "0".to_owned()),
        ("METRICS_PORT", "0".to_owned()),
        ("TRAINING_BACKEND", "cpu".to_owned()),
        ("STATE_DIR", state.to_string_lossy().into_owned()),
    ];
    let environment = settings.map(|(name, value)| (name.to_owned(), value)).into();
    let config = Config::resolve(&Layers { environment, ..Layers::default() })?.config;

    // Builds everything and takes the ports; nothing runs yet.
    let app = App::build_with(config, program, Traces::default()).await?;
    println!("the live page is at http://{}/", app.http_addr());
    let mut worker = app.worker();
    let shutdown = Shutdown::new();

    let working = async {
        let mut client = OrchestratorServiceClient::connect(format!("http://{address}")).await?;
        let job = pb::TrainingJobRequest {
            model_type: "neural_network".to_owned(),
            dataset_path: "builtin:iris".to_owned(),
            epochs: 2,
            ..pb::TrainingJobRequest::default()
        };
        client.create_training_job(job).await?;
        while worker.changed().await {
            let status = worker.status();
            println!(
                "{}: {} completed, {} held",
                status.worker_id,
                status.completed_tasks,
                status.tasks.len()
            );
            if status.completed_tasks == 20 {
                break;
            }
        }
        // No new task; those at hand are finished and reported, then run() returns.
        shutdown.drain();
        Ok::<_, Box<dyn Error + Send + Sync>>(worker.status().completed_tasks)
    };
    let (ran, completed) = tokio::join!(app.run(shutdown.clone()), working);
    ran?;
    orchestrator.shutdown().await;
    std::fs::remove_dir_all(&state)?;
    completed
}

#[allow(dead_code, reason = "tests call run() alone")]
fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // First of all: the worker starts this program again for its runners, which end in here. A program that cannot
    // promise that takes App::build, which trains in threads of its own.
    let program = Program::enter(ModelRegistry::default());
    let runtime = tokio::runtime::Runtime::new()?;
    println!("{} tasks completed", runtime.block_on(run(program))?);
    Ok(())
}
