//! A seeded simulation: workers with their state machines, clients and outboxes, an orchestrator, and a network between
//! them in which everything goes wrong, in virtual time on one thread.
//!
//! A seed decides all: how long calls travel, which are lost or come twice, when a worker is cut off, killed, drained and
//! started again, when it stands still and when its disk is full or hangs, when the orchestrator is away, how long tasks take and which
//! fail. The same seed gives the same history.
//!
//! `SIMULATION_SEED=42 cargo test --lib simulation` plays one again, `SIMULATION_SEEDS=100000` plays more than usual.

mod dispatch;
mod engine;
mod fuzz;
mod network;
mod scenario;

pub(super) use engine::Waiting;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::ends;
use crate::domain::{JobId, TaskId, TaskIdentity};

/// Seeds that a usual run plays.
const SEEDS: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn simulation_of_thousands_of_histories() {
    if let Some(seed) = number("SIMULATION_SEED") {
        let history = scenario::play(seed);
        println!("{}", history.trace.join("\n"));
        history.check();
        return;
    }
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let [calls, faults, counted] = [(); 3].map(|()| AtomicU64::new(0));
    let play_some = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let played = catch_unwind(AssertUnwindSafe(|| {
                let history = scenario::play(seed);
                history.check();
                calls.fetch_add(history.trace.len() as u64, Ordering::Relaxed);
                faults.fetch_add(history.faults, Ordering::Relaxed);
                counted.fetch_add(
                    history.counts.values().map(|count| u64::from(*count)).sum(),
                    Ordering::Relaxed,
                );
            }));
            assert!(
                played.is_ok(),
                "seed {seed} fails; SIMULATION_SEED={seed} cargo test --lib simulation plays it again"
            );
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(play_some)).collect();
        for player in players {
            player.join().unwrap();
        }
    });
    let [calls, faults, counted] = [calls, faults, counted].map(AtomicU64::into_inner);
    println!(
        "{seeds} seeds: {calls} calls, {faults} faults, {counted} tasks counted in {:?}",
        began.elapsed()
    );
    assert!(faults > seeds && counted > seeds, "something went wrong, and work was done all the same");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..20 {
        let (first, second) = (scenario::play(seed), scenario::play(seed));
        for (one, other) in first.trace.iter().zip(&second.trace) {
            assert_eq!(one, other, "seed {seed}");
        }
        assert_eq!(first.trace.len(), second.trace.len(), "seed {seed}");
    }
}

#[test]
fn an_outcome_ends_the_attempts_up_to_its_own() {
    let attempt = |task: &str, attempt| TaskIdentity {
        task_id: TaskId::parse(task).unwrap(),
        job_id: JobId::parse("job").unwrap(),
        attempt,
    };
    for (held, ended) in [(1, true), (2, true), (3, false)] {
        assert_eq!(ends(&attempt("t", 2), &attempt("t", held)), ended, "{held}");
    }
    assert!(!ends(&attempt("t", 2), &attempt("u", 2)));
}
