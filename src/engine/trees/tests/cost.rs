//! What tasks cost by the time that their thread is on a CPU, which other threads do not change much.

use super::*;
use crate::engine::session::{Session, SessionPlan, Validation};

/// Nanoseconds that this thread was on a CPU.
fn on_cpu() -> u64 {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    times.split(' ').next().unwrap().parse().unwrap()
}

/// What 50 rounds cost in a new session, as tasks of so many rounds, and the model that comes of them.
fn fifty_rounds(rounds_per_task: u32) -> (u64, bytes::Bytes) {
    let mut hyperparameters = Hyperparameters::default();
    hyperparameters.trees.rounds_per_task = rounds_per_task;
    let plan = SessionPlan {
        entry: ModelEntry::of(&ModelType::parse("xgboost").unwrap()).unwrap(),
        dataset_path: "synthetic:classification?rows=20000&features=28&classes=2&seed=0".to_owned(),
        hyperparameters,
        seed: SEED,
        device: ComputeDevice::cpu(),
    };
    let mut session = Session::open(&plan, &config().data, &|| Ok(())).unwrap();
    let start = on_cpu();
    let mut steps = 0;
    let mut last = None;
    for task in 0..50 / rounds_per_task {
        let result = session.run(&tasks(task..task + 1), Validation::Sample, &quiet()).unwrap();
        steps += result.steps;
        last = Some(result.weights);
    }
    assert_eq!(steps, 50);
    (on_cpu() - start, last.unwrap())
}

#[test]
fn ten_tasks_of_five_rounds_cost_little_more_than_one_of_fifty() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        let (mut whole, mut parts) = (u64::MAX, u64::MAX);
        for _ in 0..5 {
            let (one, model) = fifty_rounds(50);
            let (ten, same) = fifty_rounds(5);
            assert!(model == same, "the same model");
            (whole, parts) = (whole.min(one), parts.min(ten));
        }
        assert!(parts as f64 <= 1.3 * whole as f64, "{parts} ns in ten tasks, {whole} ns in one");
    });
}
