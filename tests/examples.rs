//! The examples do what they say.
//!
//! This program has a `main` of its own, as one has that holds a worker: its runners are this program again.

#[path = "../examples/custom_model.rs"]
mod custom_model;
#[path = "../examples/embed.rs"]
mod embed;

use tensorfleet_worker::app::Program;
use tensorfleet_worker::dev::JobStatus;
use tensorfleet_worker::engine::{ModelEntry, ModelRegistry};
use tokio::runtime::Runtime;

/// The example's model, which refuses to be made in the process of the worker.
static IN_RUNNERS: ModelEntry = ModelEntry {
    build: |blueprint| {
        assert_eq!(std::env::args().nth(1).as_deref(), Some("runner"), "not in a runner");
        (custom_model::NEAREST_CENTROID.build)(blueprint)
    },
    ..custom_model::NEAREST_CENTROID
};

fn main() {
    let program = Program::enter(ModelRegistry::default().with(&IN_RUNNERS).unwrap());
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        a_model_from_outside_trains_like_any_other(program.clone()).await;
        a_worker_lives_in_another_program(program).await;
        a_program_that_promises_nothing_trains_in_threads().await;
    });
}

async fn a_model_from_outside_trains_like_any_other(program: Program) {
    let job = custom_model::run(program).await.unwrap();
    assert_eq!((job.status, job.completed, job.failed), (JobStatus::Completed, 20, 0), "{job:?}");
    let accuracy = job.epochs[1].validation_accuracy.unwrap();
    assert!(accuracy > 0.8, "{job:?}");
}

async fn a_worker_lives_in_another_program(program: Program) {
    assert_eq!(embed::run(program).await.unwrap(), 20);
}

/// Else this program would be started again and again instead of a runner.
async fn a_program_that_promises_nothing_trains_in_threads() {
    let program = Program::without_children(ModelRegistry::default());
    assert_eq!(embed::run(program).await.unwrap(), 20);
}
