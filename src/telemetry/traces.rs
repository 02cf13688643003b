//! Traces: what each task went through, from the claim to the report, sent by OTLP.
//!
//! ```text
//! task                      <- traceparent of the orchestrator's answer, or of ExecuteTask
//! |- claim                  the poll that brought it
//! |- train                  in the engine, waiting for its turn included; its traceparent goes to the runner
//! |  `- run                 at work
//! |- report                 each try; its traceparent goes with the call
//! ```
//!
//! A table of the tasks in hand, which whoever has a part in a task tells of it; what was told of ends up in the log
//! too, since lines that name a task get its trace_id. Without OTEL_EXPORTER_OTLP_ENDPOINT all of this does nothing.
//!
//! Deliberately absent: spans of steps and batches, of which there are thousands a second.

mod exporter;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use self::exporter::Told;
use crate::domain::{TaskId, TaskIdentity, TaskOutcome, TaskSpec, WorkerId};

/// Name of the header, and of the gRPC metadata, of W3C Trace Context.
pub const TRACEPARENT: &str = "traceparent";

/// Tasks that are followed at once; more are not traced. Far above what a worker holds.
const MOST_OPEN: usize = 20_000;

/// How long the collector may take for a batch, and the last one at the end.
pub const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Configuration of the traces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// OTEL_EXPORTER_OTLP_ENDPOINT, `http://host:port` or `https://host:port`; None = no traces.
    pub endpoint: Option<String>,
    /// OTEL_EXPORTER_OTLP_CERTIFICATE: PEM file with the authorities to trust for `https://`; None = those of this
    /// machine.
    pub ca_file: Option<PathBuf>,
}

/// The tasks in hand. Clones share them; does nothing before [`Traces::start`].
#[derive(Clone, Default)]
pub struct Traces(Arc<OnceLock<Inner>>);

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Traces(on)" } else { "Traces(off)" })
    }
}

struct Inner {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    open: Mutex<HashMap<TaskId, Open>>,
}

/// A task in hand, under the latest attempt at it.
struct Open {
    attempt: u32,
    task: Context,
    stage: Option<Context>,
    /// Within the stage, from when the engine has begun.
    run: Option<Context>,
}

/// How a task came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// When it was asked for.
    pub since: SystemTime,
    /// The traceparent that came with it.
    pub parent: Option<&'a str>,
}

/// Whether a task came into hand by what began it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Now: whoever began it sees to its end.
    Now,
    /// It was in hand before, and its trace goes on.
    Before,
}

/// A part of a task's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In the engine.
    Train,
    /// A call to the orchestrator.
    Report,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Report => "report",
        }
    }

    const fn kind(self) -> SpanKind {
        match self {
            Self::Train => SpanKind::Internal,
            Self::Report => SpanKind::Client,
        }
    }
}

impl Traces {
    /// Sends from now on through `exporter`.
    pub fn start(&self, exporter: SpanExporter, worker: &WorkerId) {
        let resource = Resource::builder_empty()
            .with_service_name("tensorfleet-worker")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", worker.to_string()))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Told::new(exporter))
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("tensorfleet_worker");
        // A second start of the same worker changes nothing.
        let _ = self.0.set(Inner { provider, tracer, open: Mutex::default() });
    }

    /// Whether tasks are followed.
    pub fn are_on(&self) -> bool {
        self.0.get().is_some()
    }

    /// `task` is in hand from now on.
    pub fn begin(&self, task: &TaskSpec, arrival: Arrival<'_>) -> Begun {
        let Some(inner) = self.0.get() else { return Begun::Now };
        let held = |open: &Open| open.attempt >= task.identity.attempt;
        if inner.lock().get(&task.identity.task_id).is_some_and(held) {
            // It came twice, and is followed already.
            return Begun::Before;
        }
        let header = arrival.parent.map(|parent| (TRACEPARENT.to_owned(), parent.to_owned()));
        let headers: HashMap<String, String> = header.into_iter().collect();
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
        let identity = &task.identity;
        let root = inner
            .tracer
            .span_builder("task")
            .with_kind(SpanKind::Consumer)
            .with_start_time(arrival.since)
            .with_attributes([
                KeyValue::new("task_id", identity.task_id.to_string()),
                KeyValue::new("job_id", identity.job_id.to_string()),
                KeyValue::new("attempt", i64::from(identity.attempt)),
                KeyValue::new("model_type", task.model.to_string()),
                KeyValue::new("epoch", i64::from(task.epoch)),
            ])
            .start_with_context(&inner.tracer, &parent);
        let context = parent.with_span(root);
        let claim = inner.tracer.span_builder("claim").with_kind(SpanKind::Client);
        drop(claim.with_start_time(arrival.since).start_with_context(&inner.tracer, &context));
        let mut open = inner.lock();
        if open.len() < MOST_OPEN {
            let entry = Open { attempt: identity.attempt, task: context, stage: None, run: None };
            open.insert(identity.task_id.clone(), entry);
        }
        Begun::Now
    }

    /// The task is in `stage` from now on.
    pub fn enter(&self, task: &TaskIdentity, stage: Stage) {
        let Some(inner) = self.0.get() else { return };
        if let Some(open) = inner.lock().get_mut(&task.task_id).filter(|open| open.attempt == task.attempt) {
            let span = inner.tracer.span_builder(stage.name()).with_kind(stage.kind());
            let span = span.start_with_context(&inner.tracer, &open.task);
            end_span(open.run.take(), None);
            let left = open.stage.replace(open.task.with_span(span));
            end_span(left, None);
        }
    }

    /// The engine has begun with the task.
    pub fn run(&self, task: &TaskIdentity) {
        let Some(inner) = self.0.get() else { return };
        if let Some(open) = inner.lock().get_mut(&task.task_id).filter(|open| open.attempt == task.attempt)
            && let Some(stage) = &open.stage
        {
            let span = inner.tracer.span_builder("run").start_with_context(&inner.tracer, stage);
            end_span(open.run.replace(stage.with_span(span)), None);
        }
    }

    /// The stage has ended, with an error or without.
    pub fn leave(&self, task: &TaskIdentity, error: Option<String>) {
        let Some(inner) = self.0.get() else { return };
        if let Some(open) = inner.lock().get_mut(&task.task_id).filter(|open| open.attempt == task.attempt) {
            end_span(open.run.take(), error.clone());
            end_span(open.stage.take(), error);
        }
    }

    /// The outcome of a task was taken: it is not in hand any more.
    pub fn end(&self, outcome: &TaskOutcome) {
        let status = outcome.status().name();
        let error = outcome.ending.as_ref().err().map(|error| error.message.clone());
        self.close(&outcome.identity, status, error);
    }

    /// A task was given up for another reason than its outcome.
    pub fn close(&self, task: &TaskIdentity, status: &'static str, error: Option<String>) {
        let Some(inner) = self.0.get() else { return };
        let mut table = inner.lock();
        if table.get(&task.task_id).is_some_and(|open| open.attempt == task.attempt)
            && let Some(open) = table.remove(&task.task_id)
        {
            drop(table);
            end_span(open.run, None);
            end_span(open.stage, None);
            open.task.span().set_attribute(KeyValue::new("status", status));
            end_span(Some(open.task), error);
        }
    }

    /// The traceparent for a call about `task`: of the stage that it is in.
    pub fn traceparent(&self, task: &TaskIdentity) -> Option<String> {
        let inner = self.0.get()?;
        let table = inner.lock();
        let open = table.get(&task.task_id).filter(|open| open.attempt == task.attempt)?;
        let mut headers = HashMap::new();
        TraceContextPropagator::new().inject_context(open.stage.as_ref().unwrap_or(&open.task), &mut headers);
        headers.remove(TRACEPARENT)
    }

    /// The trace that a task in hand belongs to, as 32 hexadecimal digits.
    pub fn trace_id(&self, task_id: &str) -> Option<String> {
        let inner = self.0.get()?;
        let task_id = TaskId::parse(task_id).ok()?;
        let table = inner.lock();
        table.get(&task_id).map(|open| open.task.span().span_context().trace_id().to_string())
    }

    /// What is logged inside of it names the task and its trace, whatever the level.
    pub fn span(&self, task: &TaskIdentity) -> tracing::Span {
        let TaskIdentity { task_id, job_id, attempt } = task;
        tracing::error_span!("task", %task_id, %job_id, attempt, trace_id = self.trace_id(task_id.as_str()))
    }

    /// Sends what is left; waits a few seconds at most. Blocks.
    pub fn shutdown(&self) {
        let Some(inner) = self.0.get() else { return };
        // What is still in hand ends here, as far as this worker goes.
        drop(std::mem::take(&mut *inner.lock()));
        if let Err(error) = inner.provider.shutdown_with_timeout(EXPORT_TIMEOUT) {
            tracing::warn!(%error, "some traces could not be sent");
        }
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end_span(context: Option<Context>, error: Option<String>) {
    if let Some(context) = context {
        if let Some(error) = error {
            context.span().set_status(Status::error(error));
        }
        context.span().end();
    }
}
