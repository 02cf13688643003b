//! `status`: how a worker is, from afar.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time;

use super::signals::Signals;
use super::worker::{RemoteWorker, Target};
use super::{Exit, Failure, ui};
use crate::config::Environment;
use crate::wire::worker_pb::{EndedTask, GetStatusResponse, HeldTask};

/// Outcomes that are shown to people.
const SHOWN_OUTCOMES: usize = 5;

/// Characters of a bar.
const BAR_WIDTH: usize = 20;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which worker.
    #[command(flatten)]
    pub target: Target,
    /// Ask again and again until interrupted; on a terminal the view stays in place
    #[arg(long)]
    pub watch: bool,
    /// Time between two questions with --watch
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Print one JSON object (with --watch one a line), and nothing else
    #[arg(long)]
    pub json: bool,
}

fn interval(raw: &str) -> Result<Duration, String> {
    let duration = crate::config::duration(raw).filter(|interval| *interval >= Duration::from_millis(100));
    duration.ok_or_else(|| "allowed: a duration of at least 100ms, such as 1s".to_owned())
}

/// Prints it, once or until a signal.
///
/// # Errors
/// The worker does not answer (with `--watch` that is shown, and asked again).
pub async fn execute(args: Args, environment: &Environment) -> Result<Exit, Failure> {
    let mut worker = RemoteWorker::new(&args.target, environment)?;
    if !args.watch {
        let status = worker.status().await?;
        if args.json {
            ui::say_json(&object(&status))?
        } else {
            ui::say(&view(&status))?
        }
        return Ok(Exit::Done);
    }
    let mut signals = Signals::listen()?;
    let in_place = !args.json && io::stdout().is_terminal();
    loop {
        let asked = tokio::select! {
            status = worker.status() => status,
            _ = signals.next() => return Ok(Exit::Interrupted),
        };
        match asked {
            Ok(status) if args.json => ui::say_json(&object(&status))?,
            Ok(status) => show(&view(&status), in_place)?,
            Err(away @ Failure::WorkerAway { .. }) if args.json => {
                ui::say_json(&json!({"worker": worker.address(), "error": away.to_string()}))?;
            }
            Err(away @ Failure::WorkerAway { .. }) => show(&format!("{away}; asking again"), in_place)?,
            Err(other) => return Err(other),
        }
        tokio::select! {
            () = time::sleep(args.interval) => {}
            _ = signals.next() => return Ok(Exit::Interrupted),
        }
    }
}

/// Over what was there, where that is a terminal.
fn show(text: &str, in_place: bool) -> Result<(), Failure> {
    if in_place {
        // To the top; each line is cleared to its end, and what is below as well, so that nothing flickers.
        ui::say(&format!("\x1b[H{}\x1b[K\x1b[J", text.replace('\n', "\x1b[K\n")))
    } else {
        ui::say(&format!("{text}\n"))
    }
}

/// For people.
fn view(status: &GetStatusResponse) -> String {
    let heard = if status.last_heartbeat.is_empty() { "never heard" } else { &status.last_heartbeat };
    let mut lines = vec![
        format!("{}  {}  up {}  version {}", status.worker_id, status.status, status.uptime, status.version),
        format!("orchestrator  {} ({heard})", status.orchestrator_connection),
        format!(
            "slots         {} of {} busy, {} polling; {} outcomes to report",
            status.slots_busy, status.slots_total, status.slots_polling, status.outbox_pending
        ),
        format!(
            "tasks         {} completed, {} failed; trains by default on {}",
            status.completed_tasks, status.failed_tasks, status.backend
        ),
        format!(
            "machine       CPU {:.0} %, {} MiB resident, {} GPUs",
            status.cpu_usage,
            status.memory_usage >> 20,
            status.gpus
        ),
    ];
    lines.extend(status.reasons.iter().chain(&status.unready_reasons).map(|reason| format!("! {reason}")));
    if !status.tasks.is_empty() {
        let header = ["task", "model", "epoch", "phase", "progress", "loss", "accuracy"];
        lines.push(String::new());
        lines.push(ui::pairs(header, status.tasks.iter().map(held_row)));
    }
    if !status.recent.is_empty() {
        let header = ["ended", "model", "epoch", "outcome", "seconds", "loss", "accuracy"];
        lines.push(String::new());
        lines.push(ui::pairs(header, status.recent.iter().rev().take(SHOWN_OUTCOMES).map(ended_row)));
    }
    lines.join("\n")
}

fn held_row(task: &HeldTask) -> [String; 7] {
    let known = task.step > 0;
    let simulated = if task.simulated { " (simulated)" } else { "" };
    [
        task.task_id.clone(),
        format!("{}{simulated}", task.model_type),
        task.epoch.to_string(),
        if task.phase == "running" && task.total_steps == 0 {
            "in line".to_owned()
        } else {
            task.phase.clone()
        },
        bar(task.step, task.total_steps),
        ui::number(known.then_some(task.loss)),
        ui::number(known.then_some(task.accuracy)),
    ]
}

fn ended_row(task: &EndedTask) -> [String; 7] {
    let simulated = if task.simulated { " (simulated)" } else { "" };
    let outcome = if task.error_code.is_empty() { task.status.clone() } else { task.error_code.clone() };
    [
        task.task_id.clone(),
        format!("{}{simulated}", task.model_type),
        task.epoch.to_string(),
        outcome,
        format!("{:.1}", task.duration_seconds),
        ui::number(task.loss),
        ui::number(task.accuracy),
    ]
}

/// `##########.......... 50 %`.
fn bar(step: u64, total: u64) -> String {
    if total == 0 {
        return String::new();
    }
    let share = (step as f64 / total as f64).min(1.0);
    let full = (share * BAR_WIDTH as f64) as usize;
    format!("{}{} {:3.0} %", "#".repeat(full), ".".repeat(BAR_WIDTH - full), share * 100.0)
}

/// For programs: the names of GET /health, and what is beside them at /api/v1/status.
fn object(status: &GetStatusResponse) -> Value {
    json!({
        "worker_id": status.worker_id,
        "status": status.status,
        "uptime": status.uptime,
        "active_tasks": status.active_tasks,
        "completed_tasks": status.completed_tasks,
        "failed_tasks": status.failed_tasks,
        "cpu_usage": status.cpu_usage,
        "memory_usage": status.memory_usage,
        "last_heartbeat": (!status.last_heartbeat.is_empty()).then_some(&status.last_heartbeat),
        "orchestrator_connection": status.orchestrator_connection,
        "gpus": status.gpus,
        "backend": status.backend,
        "reasons": status.reasons,
        "version": status.version,
        "ready": status.ready,
        "unready_reasons": status.unready_reasons,
        "slots": {"total": status.slots_total, "busy": status.slots_busy, "polling": status.slots_polling},
        "outbox_pending": status.outbox_pending,
        "tasks": status.tasks.iter().map(held_object).collect::<Vec<_>>(),
        "recent": status.recent.iter().map(ended_object).collect::<Vec<_>>(),
    })
}

pub(super) fn held_object(task: &HeldTask) -> Value {
    json!({
        "task_id": task.task_id,
        "job_id": task.job_id,
        "attempt": task.attempt,
        "model_type": task.model_type,
        "epoch": task.epoch,
        "phase": task.phase,
        "step": task.step,
        "total_steps": task.total_steps,
        "loss": task.loss,
        "accuracy": task.accuracy,
        "samples_per_second": task.samples_per_second,
        "simulated": task.simulated,
        "retries": task.retries,
        "claimed_at": task.claimed_at,
    })
}

pub(super) fn ended_object(task: &EndedTask) -> Value {
    json!({
        "task_id": task.task_id,
        "job_id": task.job_id,
        "attempt": task.attempt,
        "model_type": task.model_type,
        "epoch": task.epoch,
        "status": task.status,
        "error_code": (!task.error_code.is_empty()).then_some(&task.error_code),
        "message": task.message,
        "loss": task.loss,
        "accuracy": task.accuracy,
        "validation_loss": task.validation_loss,
        "validation_accuracy": task.validation_accuracy,
        "backend": (!task.backend.is_empty()).then_some(&task.backend),
        "simulated": task.simulated,
        "duration_seconds": task.duration_seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_the_share_that_is_done() {
        assert_eq!(bar(0, 0), "");
        assert_eq!(bar(5, 10), "##########..........  50 %");
        assert_eq!(bar(12, 10), "#################### 100 %");
    }

    #[test]
    fn the_view_says_what_keeps_the_worker_from_its_work() {
        let status = GetStatusResponse {
            worker_id: "w-1".into(),
            status: "BUSY".into(),
            unready_reasons: vec!["not registered with the orchestrator (disconnected)".into()],
            tasks: vec![HeldTask { task_id: "t-1".into(), phase: "running".into(), ..HeldTask::default() }],
            ..GetStatusResponse::default()
        };
        let text = view(&status);
        for part in ["w-1  BUSY", "! not registered", "t-1", "in line", "never heard"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert_eq!(object(&status)["last_heartbeat"], Value::Null);
    }
}
