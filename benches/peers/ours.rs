//! Our side of the comparison with other libraries: does what it is told on standard input, and says what it took.
//!
//! A line in: `GROUP/ID DATASET`, a CSV file below the folder that is the only argument. A line out: one JSON object
//! with `wall` and `cpu` seconds, `units` (steps, or 1 for a whole fit), loss and accuracy on the held-out rows (those
//! of training where there are none), and which rows those are. Driven by benches/peers/compare.py.

#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use support::{BOOSTING, FOREST, STEPS, Work, epoch};

/// CPU time of this process.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn find(name: &str) -> (&'static str, &'static Work) {
    let (group, id) = name.split_once('/').unwrap_or_else(|| panic!("GROUP/ID, not {name:?}"));
    let (group, works) = match group {
        "train_step" => ("train_step", STEPS),
        "boosting" => ("boosting", BOOSTING),
        "forest" => ("forest", FOREST),
        _ => panic!("no group {group:?}"),
    };
    (group, works.iter().find(|work| work.id == id).unwrap_or_else(|| panic!("no work {id:?}")))
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    // Run as one of all benches there is nobody to talk to.
    let [root] = arguments.as_slice() else { return };
    let mut prepared = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (name, dataset) = line.split_once(' ').unwrap();
        let (group, work) = find(name);
        if prepared.as_ref().is_none_or(|(last, _)| *last != line) {
            prepared = Some((line.clone(), work.prepare(dataset, root)));
        }
        let Some((_, rows)) = &prepared else { continue };
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        let mut training = rows.model();
        let epochs = if group == "train_step" { 5 } else { 1 };
        let mut last = None;
        for number in 0..epochs {
            last = Some(epoch(&mut training, number));
        }
        let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let units = if group == "train_step" { epochs * training.batches_per_epoch() } else { 1 };
        let result = last.unwrap();
        let judged = result.validation.unwrap_or(result.train);
        let answer = serde_json::json!({
            "wall": wall, "cpu": cpu, "units": units, "loss": judged.loss, "accuracy": judged.accuracy,
            "held_out": training.dataset().validation.rows,
        });
        println!("{answer}");
        std::io::stdout().flush().unwrap();
    }
}
