//! One flat JSON object a line: timestamp, level, target, message, then the fields of the event and of the spans
//! around it.
//!
//! Flat, so that a log store finds `task_id` at the top wherever it was said; of equal names the innermost wins, and
//! the four fixed names are never replaced.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::telemetry::traces::Traces;

/// Names that fields cannot replace.
const FIXED: [&str; 4] = ["timestamp", "level", "target", "message"];

/// The format.
pub(super) struct Flat {
    /// Which trace a task belongs to.
    pub(super) traces: Traces,
}

impl<S> FormatEvent<S, JsonFields> for Flat
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut fields = Fields::default();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let said = extensions.get::<FormattedFields<JsonFields>>();
            if let Some(Ok(Value::Object(said))) = said.map(|said| serde_json::from_str(said)) {
                fields.rest.extend(said);
            }
        }
        event.record(&mut fields);
        let task = fields.rest.get("task_id").and_then(Value::as_str);
        if let Some(trace_id) = task.and_then(|task| self.traces.trace_id(task)) {
            fields.rest.insert("trace_id".to_owned(), trace_id.into());
        }
        write!(
            writer,
            "{{\"timestamp\":{},\"level\":\"{}\",\"target\":{},\"message\":{}",
            Value::from(timestamp),
            event.metadata().level(),
            Value::from(event.metadata().target()),
            Value::from(fields.message)
        )?;
        for (name, value) in fields.rest.iter().filter(|(name, _)| !FIXED.contains(&name.as_str())) {
            write!(writer, ",{}:{value}", Value::from(name.as_str()))?;
        }
        writeln!(writer, "}}")
    }
}

/// Gathers the fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.rest.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.insert(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
