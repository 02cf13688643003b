//! Our side of the comparison with other libraries: does what it is told on standard input, and says what it took.
//!
//! A line in: `GROUP/ID DATASET EPOCHS SEED`, DATASET a CSV file below the folder that is the only argument. A line out:
//! one JSON object with `wall` and `cpu` seconds, `units` (steps, or 1 for a whole fit), loss and accuracy on the held-out
//! rows (those of training where there are none), which rows those are, and how many are trained on. The same with `sizes `
//! before it asks for the rows of all nodes of a forest, and `peak` for the seconds that an update of a histogram takes at
//! best. Driven by benches/peers/compare.py; with the tests every work is done once, on few rows.

#[path = "../support/kernels.rs"]
mod kernels;
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use serde_json::{Value, json};
use support::{BOOSTING, FOREST, Prepared, STEPS, Work, epoch, is_trial};

/// Rows of each work where it is only tried out.
const FEW_ROWS: u32 = 300;

/// CPU time of the threads there are, as the scheduler counts it; those that train stay. Not from a clock of the process:
/// what asks for that does not run under valgrind.
fn cpu_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("there is /proc").flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let told = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        told.split(' ').next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 * 1e-9
}

/// A line of standard input.
#[derive(Debug, Clone, Copy)]
struct Order<'a> {
    group: &'a str,
    work: &'static Work,
    dataset: &'a str,
    epochs: u32,
    seed: u64,
}

impl<'a> Order<'a> {
    fn parse(line: &'a str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, dataset, epochs, seed] = words[..] else {
            panic!("GROUP/ID DATASET EPOCHS SEED, not {line:?}")
        };
        let (group, id) = name.split_once('/').unwrap_or_else(|| panic!("GROUP/ID, not {name:?}"));
        let works = match group {
            "train_step" => STEPS,
            "boosting" => BOOSTING,
            "forest" => FOREST,
            _ => panic!("no group {group:?}"),
        };
        let work = works.iter().find(|work| work.id == id).unwrap_or_else(|| panic!("no work {id:?}"));
        let [epochs, seed] =
            [epochs, seed].map(|number| number.parse().expect("EPOCHS and SEED are numbers"));
        Self { group, work, dataset, epochs: u32::try_from(epochs).unwrap(), seed }
    }

    fn prepare(&self, root: &str) -> Prepared {
        self.work.prepare_seeded(self.dataset, root, self.seed)
    }

    /// Trains on `rows`; what that took and gave.
    fn carry_out(&self, rows: &Prepared) -> Value {
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        let mut training = rows.model();
        let mut last = None;
        for number in 0..self.epochs {
            last = Some(epoch(&mut training, number));
        }
        let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let units = if self.group == "train_step" { self.epochs * training.batches_per_epoch() } else { 1 };
        let result = last.expect("EPOCHS is at least 1");
        let judged = result.validation.unwrap_or(result.train);
        json!({
            "wall": wall, "cpu": cpu, "units": units, "loss": judged.loss, "accuracy": judged.accuracy,
            "held_out": training.dataset().validation.rows, "rows": training.dataset().train.len(),
        })
    }
}

/// How many rows the nodes of a fitted forest had that were split, all of them together, each row as often as it was drawn.
/// Of several classes there is a tree for each, without what does not concern it: the largest of a round counts, so that it
/// is the least that they may have been.
fn sizes(order: Order<'_>, rows: &Prepared) -> Value {
    let mut training = rows.model();
    for number in 0..order.epochs {
        epoch(&mut training, number);
    }
    let model: Value = serde_json::from_slice(&training.weights().unwrap()).unwrap();
    let model = &model["learner"]["gradient_booster"]["gbtree"]["model"];
    let numbers = |list: &Value| -> Vec<f64> {
        list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    let split = |tree: &Value| -> f64 {
        let nodes = numbers(&tree["left_children"]).into_iter().zip(numbers(&tree["sum_hessian"]));
        nodes.filter(|(child, _)| *child >= 0.0).map(|(_, rows)| rows).sum()
    };
    let outputs = numbers(&model["tree_info"]).into_iter().fold(0.0, f64::max) as usize + 1;
    let trees = model["trees"].as_array().unwrap();
    let rounds = trees.chunks(outputs).map(|trees| trees.iter().map(split).fold(0.0, f64::max));
    json!({ "rows": rounds.sum::<f64>() })
}

/// What the machine does at best.
fn peak() -> Value {
    let mut histogram = kernels::Histogram::new(100_000);
    let pass = |histogram: &mut kernels::Histogram| {
        let began = Instant::now();
        std::hint::black_box(histogram.pass());
        began.elapsed().as_secs_f64()
    };
    let best = (0..50).map(|_| pass(&mut histogram)).fold(f64::INFINITY, f64::min);
    json!({ "update_seconds": best / histogram.updates() as f64 })
}

/// Does every work once, on few rows.
fn try_all() {
    for (group, works) in [("train_step", STEPS), ("boosting", BOOSTING), ("forest", FOREST)] {
        for work in works {
            let dataset = work.dataset_of(FEW_ROWS);
            let line = format!("{group}/{} {dataset} 1 1", work.id);
            let order = Order::parse(&line);
            let answer = order.carry_out(&order.prepare("."));
            for figure in ["wall", "loss", "accuracy"] {
                assert!(answer[figure].as_f64().is_some_and(|value| value >= 0.0), "{line}: {answer}");
            }
            assert!(
                answer["units"].as_u64() >= Some(1) && answer["rows"].as_u64() > Some(0),
                "{line}: {answer}"
            );
        }
    }
    for work in FOREST {
        let line = format!("forest/{} {} 1 1", work.id, work.dataset_of(FEW_ROWS));
        let order = Order::parse(&line);
        let rows = sizes(order, &order.prepare("."))["rows"].as_f64();
        // The root of each of 100 trees is split, with as many draws as there are rows to train on.
        assert!(rows.is_some_and(|rows| rows >= 100.0 * f64::from(FEW_ROWS) / 2.0), "{line}: {rows:?}");
    }
    assert!(peak()["update_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let [root] = arguments.as_slice() else {
        // Run as one of all benches there is nobody to talk to.
        if is_trial() {
            try_all();
        }
        return;
    };
    let mut prepared: Option<(String, Prepared)> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let answer = if line == "peak" {
            peak()
        } else {
            let sized = line.strip_prefix("sizes ");
            let line = sized.unwrap_or(&line);
            let order = Order::parse(line);
            let rows = match &prepared {
                Some((last, rows)) if *last == line => rows,
                _ => &prepared.insert((line.to_owned(), order.prepare(root))).1,
            };
            if sized.is_some() { sizes(order, rows) } else { order.carry_out(rows) }
        };
        println!("{answer}");
        std::io::stdout().flush().unwrap();
    }
}
