//! What is allowed, what is heard, and how it looks.

use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing::subscriber::with_default;

use super::*;
use crate::domain::{Strictness, WorkerId};
use crate::telemetry::traces::Arrival;
use crate::wire::task_from_request;
use crate::wire::worker_pb::TaskRequest;

/// Keeps what was written.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn objects(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Paper {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn filter(raw: &str) -> Filter {
    raw.parse().unwrap()
}

#[test]
fn levels_and_filters_are_allowed_and_nothing_else() {
    for good in ["info", "TRACE", "off", "warn,h2=trace", "tensorfleet_worker[task{task_id=t1}]=debug,info"] {
        assert_eq!(filter(good).to_string(), good);
    }
    for bad in ["", " ", ",", "inof", "loud", "5", "info,loud", "a=loud", "info=debug=trace"] {
        let error = bad.parse::<Filter>().unwrap_err();
        assert!(error.to_string().contains("trace"), "{bad}");
    }
    assert_eq!("json".parse(), Ok(LogFormat::Json));
    assert!("JSON!".parse::<LogFormat>().unwrap_err().to_string().contains("pretty"));
}

#[test]
fn a_line_is_one_flat_object() {
    let paper = Paper::default();
    with_default(json(&filter("info"), Traces::default(), paper.clone()), || {
        let job = tracing::info_span!("job", job_id = "j1", level = "mine");
        let _job = job.enter();
        let task = tracing::info_span!("task", task_id = %"t\"1", attempt = tracing::field::Empty);
        let _task = task.enter();
        task.record("attempt", 3);
        tracing::warn!(loss = 0.5, simulated = true, job_id = "inner", "it is\nslow");
        tracing::debug!("not heard");
    });
    let lines = paper.objects();
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["target"], "tensorfleet_worker::telemetry::logs::tests");
    assert_eq!(line["message"], "it is\nslow");
    assert_eq!(line["loss"], 0.5);
    assert_eq!(line["simulated"], true);
    assert_eq!(line["task_id"], "t\"1");
    assert_eq!(line["attempt"], 3);
    assert_eq!(line["job_id"], "inner");
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    assert!(line.as_object().unwrap().values().all(|value| !value.is_object() && !value.is_array()));
}

#[test]
fn names_are_there_once_and_values_are_those_of_json() {
    let paper = Paper::default();
    with_default(json(&filter("info"), Traces::default(), paper.clone()), || {
        let outer = tracing::info_span!("outer", task_id = "outer", epoch = 1);
        let _outer = outer.entered();
        let inner = tracing::info_span!("inner", task_id = "inner", message = "of the span", target = "mine");
        let _inner = inner.entered();
        let path = std::path::Path::new("a \"b\"\\\u{1}ö");
        tracing::info!(epoch = 2, loss = f64::NAN, ?path, none = None::<u32>, "said {}", "so");
        tracing::info!(only = -1);
    });
    let text = paper.text();
    for line in text.lines() {
        for name in ["timestamp", "level", "target", "message", "task_id", "epoch"] {
            assert_eq!(line.matches(&format!("\"{name}\":")).count(), 1, "{name}: {line}");
        }
    }
    let lines = paper.objects();
    assert_eq!((&lines[0]["task_id"], &lines[0]["epoch"]), (&"inner".into(), &2.into()));
    assert_eq!((&lines[0]["message"], &lines[0]["loss"]), (&"said so".into(), &Value::Null));
    assert_eq!(lines[0]["path"], format!("{:?}", "a \"b\"\\\u{1}ö"));
    assert_eq!(lines[0].get("none"), None);
    assert_eq!((&lines[1]["message"], &lines[1]["only"]), (&"".into(), &Value::from(-1)));
    assert_eq!(
        (&lines[1]["epoch"], &lines[1]["target"]),
        (&1.into(), &"tensorfleet_worker::telemetry::logs::tests".into())
    );
}

#[test]
fn dependencies_are_heard_from_warn_on_unless_named() {
    let heard = |raw: &str| {
        let paper = Paper::default();
        with_default(json(&filter(raw), Traces::default(), paper.clone()), || {
            tracing::info!(target: "h2::codec", "h2 info");
            tracing::warn!(target: "wgpu_core::device", "wgpu warn");
            tracing::debug!(target: "burn_fusion", "burn debug");
            tracing::info!(target: "tensorfleet_worker::app", "own info");
        });
        paper.objects().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(heard("info"), ["wgpu warn", "own info"]);
    assert_eq!(heard("info,h2=info"), ["h2 info", "wgpu warn", "own info"]);
    assert_eq!(heard("trace,burn=debug"), ["wgpu warn", "burn debug", "own info"]);
    assert_eq!(heard("error"), [""; 0]);
    assert_eq!(heard("off"), [""; 0]);
}

#[test]
fn lines_for_people_have_colours_only_where_wanted() {
    let line = |paint| {
        let paper = Paper::default();
        with_default(pretty(&Filter::default(), paint, paper.clone()), || {
            tracing::info!(task_id = "t1", "begun")
        });
        paper.text()
    };
    let plain = line(Paint::Plain);
    assert!(plain.contains("INFO") && plain.contains("begun") && plain.contains("task_id=\"t1\""), "{plain}");
    assert!(!plain.contains('\u{1b}'));
    assert!(line(Paint::Ansi).contains('\u{1b}'));
}

#[tokio::test]
async fn lines_about_a_task_name_it_and_its_trace_in_both_formats() {
    let traces = Traces::default();
    let nobody = SpanExporter::builder().with_tonic().with_endpoint("http://127.0.0.1:9").build().unwrap();
    traces.start(nobody, &WorkerId::parse("w").unwrap());
    let request = TaskRequest {
        task_id: "t1".into(),
        job_id: "j1".into(),
        model_type: "test".into(),
        batch_end: 1,
        ..Default::default()
    };
    let task = task_from_request(request, Strictness::Warn).unwrap();
    traces.begin(&task, Arrival { since: std::time::SystemTime::now(), parent: None });
    let trace_id = traces.trace_id("t1").unwrap();
    let say = || traces.span(&task.identity).in_scope(|| tracing::info!("begun"));
    let [json_paper, pretty_paper] = [(); 2].map(|()| Paper::default());
    with_default(json(&Filter::default(), traces.clone(), json_paper.clone()), say);
    with_default(pretty(&Filter::default(), Paint::Plain, pretty_paper.clone()), say);
    let line = &json_paper.objects()[0];
    assert_eq!((&line["task_id"], &line["job_id"]), (&"t1".into(), &"j1".into()));
    assert_eq!((&line["attempt"], &line["trace_id"]), (&0.into(), &trace_id.as_str().into()));
    let text = pretty_paper.text();
    for part in ["task_id=t1", "job_id=j1", "attempt=0", &format!("trace_id=\"{trace_id}\""), "begun"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
