//! `explain TASK`: why a task failed, waits, or is not here.

use serde_json::json;

use super::status::{ended_object, held_object};
use super::worker::{RemoteWorker, Target};
use super::{Exit, Failure, ui};
use crate::config::Environment;
use crate::domain::{ErrorCode, TaskId};
use crate::wire::worker_pb::{EndedTask, GetStatusResponse, HeldTask};

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the task
    #[arg(value_name = "TASK")]
    pub task: String,
    /// Which worker.
    #[command(flatten)]
    pub target: Target,
    /// Print one JSON object, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// What is known of a task.
struct Explanation {
    /// As a word: that of its phase or outcome, or unknown.
    state: String,
    /// What happened, in sentences.
    why: Vec<String>,
    /// What can be done about it; nothing where nothing has to be.
    repair: Option<String>,
    details: serde_json::Value,
}

/// Explains it.
///
/// # Errors
/// The worker does not answer.
pub async fn execute(args: Args, environment: &Environment) -> Result<Exit, Failure> {
    let task = TaskId::parse(&args.task)?;
    let status = RemoteWorker::new(&args.target, environment)?.status().await?;
    let explanation = explain(task.as_str(), &status);
    let exit = if explanation.state == UNKNOWN { Exit::Failed } else { Exit::Done };
    if args.json {
        ui::say_json(&json!({
            "task_id": task.as_str(),
            "worker_id": status.worker_id,
            "state": explanation.state,
            "why": explanation.why,
            "repair": explanation.repair,
            "details": explanation.details,
        }))?;
    } else {
        ui::say(&format!("{task}: {}", explanation.state))?;
        for line in &explanation.why {
            ui::say(&format!("  {line}"))?;
        }
        if let Some(repair) = &explanation.repair {
            ui::say(&format!("  to mend it: {repair}"))?;
        }
    }
    Ok(exit)
}

const UNKNOWN: &str = "unknown";

/// A held task says more than an outcome of an attempt before it.
fn explain(task: &str, status: &GetStatusResponse) -> Explanation {
    if let Some(held) = status.tasks.iter().find(|held| held.task_id == task) {
        return of_held(held, status);
    }
    if let Some(ended) = status.recent.iter().rev().find(|ended| ended.task_id == task) {
        return of_ended(ended);
    }
    let recent = status.recent.len();
    let mut why = vec![format!(
        "{} neither holds this task nor ended it among its latest {recent} tasks",
        status.worker_id
    )];
    why.extend(
        status.unready_reasons.iter().map(|reason| format!("this worker takes no tasks now: {reason}")),
    );
    if status.ready && status.slots_busy >= status.slots_total {
        why.push(format!(
            "all of its {} slots are busy, so that others may wait in the queue",
            status.slots_total
        ));
    }
    Explanation {
        state: UNKNOWN.into(),
        why,
        repair: Some("ask the orchestrator which worker has it, or another worker with --worker".into()),
        details: serde_json::Value::Null,
    }
}

fn of_held(task: &HeldTask, status: &GetStatusResponse) -> Explanation {
    let mut why = Vec::new();
    let mut repair = None;
    match (task.phase.as_str(), task.total_steps) {
        ("waiting", _) if task.retries > 0 => {
            why.push(format!("it failed in passing {} times and waits for its next try", task.retries));
        }
        ("waiting", _) => {
            why.push("it was taken and waits for word on its job, or for a slot to train in".to_owned());
            if status.orchestrator_connection != "connected" {
                why.push(format!("the link to the orchestrator is {}", status.orchestrator_connection));
                repair = Some("tensorfleet-worker doctor tells what is wrong with the link".to_owned());
            }
        }
        ("running", 0) => {
            let ahead = |other: &&HeldTask| other.job_id == task.job_id && other.task_id != task.task_id;
            let others: Vec<&str> = status
                .tasks
                .iter()
                .take_while(|other| other.task_id != task.task_id)
                .filter(ahead)
                .map(|other| other.task_id.as_str())
                .collect();
            if others.is_empty() {
                why.push("it is about to begin: its data set is being read and its model made".to_owned());
            } else {
                why.push(format!("tasks of one job train one at a time; before it: {}", others.join(", ")));
            }
        }
        ("running", total) => {
            why.push(format!("it trains: step {} of {total}, loss {:.4}", task.step, task.loss))
        }
        ("stopping", _) => why.push("it was told to stop and will at its next batch".to_owned()),
        _ => why
            .push("it ended; its outcome is on its way to the disk, or the task on its way back".to_owned()),
    }
    if task.simulated {
        why.push(SIMULATED.to_owned());
    }
    Explanation { state: task.phase.clone(), why, repair, details: held_object(task) }
}

const SIMULATED: &str = "its figures are simulated: they come from a curve, and nothing is trained";

fn of_ended(task: &EndedTask) -> Explanation {
    let mut why = Vec::new();
    let mut repair = None;
    if let Some(code) = ErrorCode::from_name(&task.error_code) {
        let (meaning, remedy) = meaning(code);
        why.push(format!("{code}: {meaning}"));
        if code.is_retryable() {
            why.push("the worker tried it again by itself, as often as MAX_TASK_RETRIES says".to_owned());
        }
        repair = Some(remedy.to_owned());
    }
    if !task.message.is_empty() {
        why.push(task.message.clone());
    }
    if task.simulated {
        why.push(SIMULATED.to_owned());
    }
    if why.is_empty() {
        why.push(format!("it trained for {:.1} s without anything to note", task.duration_seconds));
    }
    Explanation { state: task.status.clone(), why, repair, details: ended_object(task) }
}

/// What a failure of this kind means, and what mends it.
fn meaning(code: ErrorCode) -> (&'static str, &'static str) {
    match code {
        ErrorCode::InvalidArgument => (
            "the request itself is wrong, and every worker would refuse it",
            "send the job again with the field below as is allowed",
        ),
        ErrorCode::NotFound => (
            "the data set is not there",
            "put it below DATA_ROOT of every worker, or correct dataset_path; builtin:digits is always there",
        ),
        ErrorCode::PermissionDenied => (
            "the request asks for what it may not have",
            "move the data below DATA_ROOT and make it readable",
        ),
        ErrorCode::ResourceExhausted | ErrorCode::OutOfMemory => (
            "a limit was passed, or memory ran out",
            "a smaller batch_size or model, fewer rows, or a worker with more memory",
        ),
        ErrorCode::Diverged => (
            "the loss became infinite or no number",
            "a smaller learning_rate; look for infinite values in the data",
        ),
        ErrorCode::Cancelled => {
            ("somebody cancelled it", "nothing, unless it was not meant: send the job again")
        }
        ErrorCode::TimedOut => (
            "it ran longer than it may",
            "a longer TASK_TIMEOUT, or less work a task (batch_size, rounds_per_task)",
        ),
        ErrorCode::Interrupted => (
            "the worker went away before it ended",
            "nothing: the orchestrator hands it out again where it can",
        ),
        ErrorCode::DeviceLost => {
            ("the device was lost", "tensorfleet-worker doctor; look for Xid errors in dmesg")
        }
        ErrorCode::Unavailable => (
            "the data source or the disk failed for now",
            "look at the data source and at free space of STATE_DIR",
        ),
        _ => (
            "the trainer failed in a way it should not",
            "report it with the worker's log of this task; another worker may do better",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(task: &str, phase: &str, total_steps: u64) -> HeldTask {
        HeldTask {
            task_id: task.into(),
            job_id: "j".into(),
            phase: phase.into(),
            total_steps,
            ..HeldTask::default()
        }
    }

    fn status() -> GetStatusResponse {
        GetStatusResponse {
            worker_id: "w".into(),
            tasks: vec![held("a", "running", 100), held("b", "running", 0), held("c", "waiting", 0)],
            recent: vec![EndedTask {
                task_id: "d".into(),
                status: "failed".into(),
                error_code: "DIVERGED".into(),
                message: "NaN at step 3".into(),
                ..EndedTask::default()
            }],
            orchestrator_connection: "disconnected".into(),
            unready_reasons: vec!["draining".into()],
            ..GetStatusResponse::default()
        }
    }

    #[test]
    fn each_reason_to_wait_is_told_apart() {
        let why = |task: &str| explain(task, &status()).why.join(" ");
        assert!(why("a").contains("it trains"));
        assert!(why("b").contains("before it: a"), "{}", why("b"));
        assert!(why("c").contains("link to the orchestrator is disconnected"));
    }

    #[test]
    fn a_failure_says_what_mends_it_and_an_unknown_task_whom_to_ask() {
        let failed = explain("d", &status());
        assert_eq!(failed.state, "failed");
        assert!(failed.why.iter().any(|line| line.contains("NaN at step 3")));
        assert!(failed.repair.unwrap().contains("learning_rate"));
        let unknown = explain("e", &status());
        assert_eq!(unknown.state, UNKNOWN);
        assert!(unknown.why.join(" ").contains("draining") && unknown.repair.is_some());
    }

    #[test]
    fn every_code_has_a_meaning_and_a_remedy() {
        for code in ErrorCode::ALL {
            let (what, remedy) = meaning(code);
            assert!(what.len() > 10 && remedy.len() > 10, "{code}");
        }
    }
}
