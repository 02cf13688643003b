//! One flat JSON object a line: timestamp, level, target, message, then the fields of the event and of the spans
//! around it.
//!
//! Flat, so that a log store finds `task_id` at the top wherever it was said; of equal names the innermost wins, and
//! the four fixed names are never replaced. Written as it comes, without a copy of the fields in between.

use std::borrow::Cow;
use std::fmt;
use std::io;

use serde::Serialize;
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
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, "\",\"level\":\"{}\",\"target\":", event.metadata().level())?;
        write_json(&mut writer, event.metadata().target())?;
        writer.write_str(",\"message\":")?;
        let mut message = Message(String::new());
        event.record(&mut message);
        write_json(&mut writer, message.0.as_str())?;

        let follow = self.traces.are_on();
        let names = Vec::with_capacity(event.metadata().fields().len());
        let mut line = Line { writer, names, task: None, follow, result: Ok(()) };
        event.record(&mut line);
        // From the inside out, so that of equal names the innermost is there first.
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let said = extensions.get::<FormattedFields<JsonFields>>();
            let said = said.and_then(|said| serde_json::from_str::<Map<String, Value>>(said).ok());
            for (name, value) in said.unwrap_or_default() {
                if let Value::String(text) = &value {
                    line.notice(&name, text);
                }
                line.field(name.into(), &value);
            }
        }
        if let Some(trace_id) = line.task.take().and_then(|task| self.traces.trace_id(&task)) {
            line.field("trace_id".into(), trace_id.as_str());
        }
        line.result?;
        writeln!(line.writer, "}}")
    }
}

/// A line that is being written.
struct Line<'writer> {
    writer: Writer<'writer>,
    /// Of the fields so far.
    names: Vec<Cow<'static, str>>,
    /// The task that the line is about, where tasks are followed.
    task: Option<String>,
    follow: bool,
    result: fmt::Result,
}

impl Line<'_> {
    /// Writes a field, unless there is one of that name.
    fn field(&mut self, name: Cow<'static, str>, value: &(impl Serialize + ?Sized)) {
        if self.result.is_ok() && !FIXED.contains(&&*name) && !self.names.contains(&name) {
            self.result = self.write(&name, value);
            self.names.push(name);
        }
    }

    fn write(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> fmt::Result {
        self.writer.write_char(',')?;
        write_json(&mut self.writer, name)?;
        self.writer.write_char(':')?;
        write_json(&mut self.writer, value)
    }

    fn notice(&mut self, name: &str, text: &str) {
        if self.follow && name == "task_id" && self.task.is_none() {
            self.task = Some(text.to_owned());
        }
    }
}

impl Visit for Line<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field.name().into(), &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field.name().into(), &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field.name().into(), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field.name().into(), &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.notice(field.name(), value);
        self.field(field.name().into(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // The message has its own place.
        if field.name() != "message" {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

/// The message of an event.
struct Message(String);

impl Visit for Message {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

/// Writes `value` as JSON.
fn write_json(writer: &mut Writer<'_>, value: &(impl Serialize + ?Sized)) -> fmt::Result {
    serde_json::to_writer(Text(writer), value).map_err(|_| fmt::Error)
}

/// Takes the bytes of JSON for a writer of text.
struct Text<'a, 'writer>(&'a mut Writer<'writer>);

impl io::Write for Text<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // JSON is cut only beside characters of ASCII, so that each piece is text.
        let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
        self.0.write_str(text).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
