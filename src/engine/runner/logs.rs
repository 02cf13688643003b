//! What runners write to standard error, passed on as logs of the worker.

use serde_json::{Map, Value};

/// Who was at work when a line came.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Context<'a> {
    pub(super) runner: u32,
    pub(super) job_id: Option<&'a str>,
    pub(super) task_id: Option<&'a str>,
}

/// Logs `line`. Returns whether it was no log of a runner but something else that ended up there, such as the last
/// words of an allocator.
pub(super) fn pass_on(line: &str, context: Context<'_>) -> Stray {
    let Context { runner, job_id, task_id } = context;
    let Ok(Value::Object(mut entry)) = serde_json::from_str(line) else {
        tracing::warn!(runner, job_id, task_id, "{line}");
        return Stray::Yes;
    };
    let message = text(&mut entry, "message").unwrap_or_default();
    let level = text(&mut entry, "level").unwrap_or_default();
    let (own_job, own_task) = (text(&mut entry, "job_id"), text(&mut entry, "task_id"));
    let (job_id, task_id) = (own_job.as_deref().or(job_id), own_task.as_deref().or(task_id));
    let trace_id = text(&mut entry, "trace_id");
    let trace_id = trace_id.as_deref();
    let attempt = entry.remove("attempt").and_then(|attempt| attempt.as_u64());
    let target = text(&mut entry, "target");
    let target = target.as_deref();
    entry.remove("timestamp");
    let rest: Vec<String> = entry.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let detail = (!rest.is_empty()).then(|| rest.join(" "));
    let detail = detail.as_deref();
    match level.to_ascii_uppercase().as_str() {
        "ERROR" => {
            tracing::error!(runner, job_id, task_id, attempt, trace_id, detail, source = target, "{message}")
        }
        "WARN" => {
            tracing::warn!(runner, job_id, task_id, attempt, trace_id, detail, source = target, "{message}")
        }
        "DEBUG" => {
            tracing::debug!(runner, job_id, task_id, attempt, trace_id, detail, source = target, "{message}")
        }
        "TRACE" => {
            tracing::trace!(runner, job_id, task_id, attempt, trace_id, detail, source = target, "{message}")
        }
        _ => tracing::info!(runner, job_id, task_id, attempt, trace_id, detail, source = target, "{message}"),
    }
    Stray::No
}

/// Whether a line was none of the runner's own logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stray {
    Yes,
    No,
}

fn text(entry: &mut Map<String, Value>, name: &str) -> Option<String> {
    match entry.remove(name)? {
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}
