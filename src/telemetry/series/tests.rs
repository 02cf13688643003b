//! Label sets come, end and go.

use super::*;
use crate::telemetry::render;

/// A clock that moves only when it is told to.
#[derive(Clone)]
struct Hand {
    start: Instant,
    passed: Arc<Mutex<Duration>>,
}

impl Hand {
    fn new() -> Self {
        Self { start: Instant::now(), passed: Arc::default() }
    }

    fn clock(&self) -> Clock {
        let hand = self.clone();
        Arc::new(move || hand.start + *hand.passed.lock().unwrap())
    }

    fn advance(&self, seconds: u64) {
        *self.passed.lock().unwrap() += Duration::from_secs(seconds);
    }
}

fn gauges(most: usize, hand: &Hand) -> ExpiringGauges {
    let opts = Opts::new("worker_training_loss", "Loss of a task.");
    ExpiringGauges::with_clock(&[opts], &["job_id", "task_id"], Limits::gauges(most), hand.clock()).unwrap()
}

fn shown(collector: &impl Collector) -> Vec<String> {
    let family = collector.collect().remove(0);
    let mut tasks: Vec<_> = family
        .get_metric()
        .iter()
        .map(|metric| metric.get_label().last().unwrap().value().to_owned())
        .collect();
    tasks.sort();
    tasks
}

#[test]
fn a_finished_label_set_leaves_after_its_time() {
    let hand = Hand::new();
    let gauges = gauges(10, &hand);
    gauges.of(&["j", "done"]).set(0, 1.0);
    gauges.of(&["j", "running"]).set(0, 2.0);
    gauges.end(&["j", "done"]);
    hand.advance(299);
    assert_eq!(shown(&gauges), ["done", "running"]);
    hand.advance(1);
    assert_eq!(shown(&gauges), ["running"]);
    hand.advance(100_000);
    assert_eq!(shown(&gauges), ["running"]);
}

#[test]
fn ending_twice_does_not_prolong_and_setting_revives() {
    let hand = Hand::new();
    let gauges = gauges(10, &hand);
    gauges.of(&["j", "a"]).set(0, 1.0);
    gauges.end(&["j", "a"]);
    hand.advance(200);
    gauges.end(&["j", "a"]);
    gauges.end(&["j", "never seen"]);
    hand.advance(100);
    assert_eq!(shown(&gauges), [""; 0]);

    gauges.of(&["j", "a"]).set(0, 1.0);
    gauges.end(&["j", "a"]);
    hand.advance(200);
    gauges.of(&["j", "a"]).set(0, 2.0);
    hand.advance(200);
    assert_eq!(shown(&gauges), ["a"]);
}

#[test]
fn the_oldest_finished_leaves_first_then_the_least_recently_touched() {
    let hand = Hand::new();
    let gauges = gauges(3, &hand);
    for task in ["a", "b", "c"] {
        gauges.of(&["j", task]).set(0, 0.0);
        hand.advance(1);
    }
    gauges.end(&["j", "c"]);
    hand.advance(1);
    gauges.end(&["j", "b"]);
    gauges.of(&["j", "d"]).set(0, 0.0);
    assert_eq!(shown(&gauges), ["a", "b", "d"]);
    gauges.of(&["j", "e"]).set(0, 0.0);
    assert_eq!(shown(&gauges), ["a", "d", "e"]);
    gauges.of(&["j", "a"]).set(0, 1.0);
    gauges.of(&["j", "f"]).set(0, 0.0);
    assert_eq!(shown(&gauges), ["a", "e", "f"]);
}

#[test]
fn families_over_the_same_tasks_show_what_was_set_and_leave_together() {
    let (hand, registry) = (Hand::new(), Registry::new());
    let families = [Opts::new("worker_loss", "Loss."), Opts::new("worker_accuracy", "Accuracy.")];
    let limits = Limits::gauges(2);
    let gauges = ExpiringGauges::with_clock(&families, &["task_id"], limits, hand.clock()).unwrap();
    gauges.register(&registry).unwrap();
    let series = || {
        let text = String::from_utf8(render(&registry).unwrap()).unwrap();
        let mut lines: Vec<_> =
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let (a, b) = (gauges.of(&["a"]), gauges.of(&["b"]));
    a.set(0, 0.5);
    b.set(0, f64::NAN);
    b.set(1, 1.0);
    a.set(2, 3.0);
    let shown_of_b = [r#"worker_accuracy{task_id="b"} 1"#, r#"worker_loss{task_id="b"} NaN"#];
    assert_eq!(series(), [shown_of_b[0], r#"worker_loss{task_id="a"} 0.5"#, shown_of_b[1]]);
    // What is kept goes on to be shown, until the label set leaves.
    a.set(0, 0.25);
    gauges.end(&["a"]);
    assert_eq!(series(), [shown_of_b[0], r#"worker_loss{task_id="a"} 0.25"#, shown_of_b[1]]);
    gauges.of(&["c"]);
    a.set(0, 0.125);
    assert_eq!(series(), shown_of_b);
}

#[test]
fn a_family_without_room_shows_nothing() {
    let gauges = gauges(0, &Hand::new());
    gauges.of(&["j", "a"]).set(0, 1.0);
    assert_eq!(gauges.label_sets(), 0);
}

#[test]
fn a_hundred_thousand_tasks_leave_no_trace() {
    let hand = Hand::new();
    let gauges = gauges(150, &hand);
    let start = Instant::now();
    for task in 0..100_000 {
        let task = task.to_string();
        gauges.of(&["j", &task]).set(0, 1.0);
        gauges.of(&["j", &task]).set(0, 0.5);
        gauges.end(&["j", &task]);
        assert!(gauges.label_sets() <= 150);
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    hand.advance(300);
    assert_eq!(shown(&gauges), [""; 0]);
    assert_eq!(gauges.label_sets(), 0);
}

#[test]
fn the_budget_of_a_thousand_series_is_kept() {
    let hand = Hand::new();
    let registry = Registry::new();
    let buckets = vec![0.1, 0.5, 1.0, 5.0, 30.0, 300.0];
    let limits = Limits::histograms(400, buckets.len());
    let opts = HistogramOpts::new("worker_task_duration_seconds", "Duration.").buckets(buckets);
    let durations =
        ExpiringHistograms::with_clock(opts, &["model_type", "job_id"], limits, hand.clock()).unwrap();
    durations.register(&registry).unwrap();
    let families: Vec<_> = (0..4)
        .map(|family| {
            let opts = Opts::new(format!("worker_figure_{family}"), "A figure.");
            let gauges = ExpiringGauges::with_clock(
                &[opts],
                &["job_id", "task_id"],
                Limits::gauges(150),
                hand.clock(),
            )
            .unwrap();
            gauges.register(&registry).unwrap();
            gauges
        })
        .collect();
    for id in 0..5_000 {
        let id = id.to_string();
        durations.observe(&["neural_network", &id], 1.0);
        families.iter().for_each(|gauges| gauges.of(&[&id, &id]).set(0, 1.0));
    }
    let text = String::from_utf8(render(&registry).unwrap()).unwrap();
    let series = text.lines().filter(|line| line.contains("job_id=")).count();
    assert!((900..=1000).contains(&series), "{series}");
}

#[test]
fn histograms_are_written_as_prometheus_reads_them() {
    let registry = Registry::new();
    let opts =
        HistogramOpts::new("worker_task_duration_seconds", "Duration of a task.").buckets(vec![0.5, 1.0]);
    let labels = ["model_type", "job_id"];
    let durations = ExpiringHistograms::new(opts, &labels, Limits::histograms(100, 2)).unwrap();
    durations.register(&registry).unwrap();
    for seconds in [0.25, 0.5, 0.75, 8.0] {
        durations.observe(&["cnn", "j"], seconds);
    }
    let expected = r#"# HELP worker_task_duration_seconds Duration of a task.
# TYPE worker_task_duration_seconds histogram
worker_task_duration_seconds_bucket{model_type="cnn",job_id="j",le="0.5"} 2
worker_task_duration_seconds_bucket{model_type="cnn",job_id="j",le="1"} 3
worker_task_duration_seconds_bucket{model_type="cnn",job_id="j",le="+Inf"} 4
worker_task_duration_seconds_sum{model_type="cnn",job_id="j"} 9.5
worker_task_duration_seconds_count{model_type="cnn",job_id="j"} 4
"#;
    assert_eq!(String::from_utf8(render(&registry).unwrap()).unwrap(), expected);
    durations.end(&["cnn", "j"]);
    assert_eq!(durations.label_sets(), 1);
}

#[test]
fn wrong_families_are_refused() {
    let opts = HistogramOpts::new("a", "b").buckets(vec![1.0, 1.0]);
    assert!(ExpiringHistograms::new(opts, &["x"], Limits::gauges(1)).is_err());
    assert!(ExpiringGauges::new(&[Opts::new("a", "b")], &["no-dash"], Limits::gauges(1)).is_err());
    let gauges = ExpiringGauges::new(&[Opts::new("a", "b")], &["x"], Limits::gauges(1)).unwrap();
    let registry = Registry::new();
    gauges.register(&registry).unwrap();
    assert!(gauges.register(&registry).is_err());
}
