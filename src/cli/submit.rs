//! `submit`: sends a job to an orchestrator and, if asked to, follows it to its end.

use serde::Serialize;
use uuid::Uuid;

use super::job::{self, Setting, Settings};
use super::remote::Remote;
use super::signals::Signals;
use super::{Exit, Failure, ui};
use crate::config::{Config, ConfigErrors, Environment, Layers};
use crate::domain::{JobId, ModelType};
use crate::orchestrator;
use crate::wire::pb;

/// Arguments of `submit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the orchestrator listens: host:port, http://host:port or https://host:port
    /// [env: ORCHESTRATOR_ADDRESS] [default: localhost:50051]
    #[arg(long, visible_alias = "orchestrator-address", alias = "orchestrator-addr", value_name = "ADDRESS")]
    pub orchestrator: Option<String>,
    /// Model type; which ones can be trained depends on the workers
    #[arg(long, value_name = "TYPE", default_value = "neural_network", value_parser = job::model_type)]
    pub model_type: ModelType,
    /// Data set: builtin:digits, builtin:iris, builtin:wine, builtin:breast_cancer, or a path below the DATA_ROOT of
    /// the workers
    #[arg(long, value_name = "PATH", default_value = "builtin:digits")]
    pub dataset: String,
    /// Passes over the data; each is ten tasks
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = job::epochs())]
    pub epochs: u32,
    /// Hyperparameter, such as learning_rate=0.01; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub settings: Vec<Setting>,
    /// Id of the job; without one, a new id is made
    #[arg(long, value_name = "ID")]
    pub job_id: Option<String>,
    /// Id of the user whom the job is for
    #[arg(long, value_name = "ID", default_value = "cli")]
    pub user_id: String,
    /// How many workers should share it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub workers: u32,
    /// Follow the job to its end; the exit code is then 0 only when it completed
    #[arg(long)]
    pub wait: bool,
    /// Print one JSON object about the job, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// The object of `--json`.
#[derive(Debug, Serialize)]
struct Summary {
    job_id: String,
    status: String,
    total_tasks: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_tasks: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
    message: String,
}

/// Sends the job.
///
/// # Errors
/// A flag is wrong, the orchestrator does not answer, or it refuses the job.
pub async fn execute(args: Args, environment: &Environment) -> Result<Exit, Failure> {
    let config = orchestrator(args.orchestrator, environment)?;
    let settings = Settings::check(args.settings)?;
    for note in &settings.notes {
        ui::tell(&format!("note: {note}"));
    }
    let job_id = match &args.job_id {
        Some(id) => JobId::parse(id)?.to_string(),
        None => format!("job-{}", Uuid::new_v4()),
    };
    let request = pb::TrainingJobRequest {
        job_id,
        user_id: args.user_id,
        model_type: args.model_type.to_string(),
        dataset_path: args.dataset,
        hyperparameters: settings.raw,
        num_workers: crate::wire::saturated(args.workers.into()),
        epochs: crate::wire::saturated(args.epochs.into()),
    };
    let mut remote = Remote::new(&config)?;
    let created = remote.create(request).await?;
    if !args.json {
        ui::say(&format!(
            "{}: {} ({} tasks){}{}",
            created.job_id,
            created.status,
            created.num_tasks,
            if created.message.is_empty() { "" } else { ": " },
            created.message
        ))?;
    }
    if !args.wait {
        if args.json {
            ui::say_json(&Summary {
                job_id: created.job_id,
                status: created.status,
                total_tasks: created.num_tasks,
                completed_tasks: None,
                loss: None,
                accuracy: None,
                message: created.message,
            })?;
        }
        return Ok(Exit::Done);
    }
    let mut signals = Signals::listen()?;
    let board = ui::Board::new();
    let ended = tokio::select! {
        ended = remote.follow(&created.job_id, &board) => ended?,
        _ = signals.next() => {
            board.leave();
            ui::tell(&format!("no longer following {}; the job itself goes on", created.job_id));
            return Ok(Exit::Interrupted);
        }
    };
    finish(created.job_id, ended, args.json)
}

fn finish(job_id: String, ended: pb::GetJobStatusResponse, json: bool) -> Result<Exit, Failure> {
    let exit = if ended.status == "COMPLETED" { Exit::Done } else { Exit::Failed };
    if json {
        ui::say_json(&Summary {
            job_id,
            status: ended.status,
            total_tasks: ended.total_tasks,
            completed_tasks: Some(ended.completed_tasks),
            loss: Some(ended.current_loss),
            accuracy: Some(ended.current_accuracy),
            message: ended.message,
        })?;
    } else {
        ui::say(&format!(
            "{job_id}: {} with {} of {} tasks, {}{}{}",
            ended.status,
            ended.completed_tasks,
            ended.total_tasks,
            ui::figures(ended.current_loss, ui::Quality::Accuracy, ended.current_accuracy),
            if ended.message.is_empty() { "" } else { "; " },
            ended.message
        ))?;
    }
    Ok(exit)
}

/// Flag over environment over default; of the environment only what concerns the orchestrator.
fn orchestrator(
    flag: Option<String>,
    environment: &Environment,
) -> Result<orchestrator::Config, ConfigErrors> {
    let flags = flag.map(|address| ("ORCHESTRATOR_ADDRESS", address)).into_iter().collect();
    let mut environment = environment.clone();
    environment.retain(|name, _| name.starts_with("ORCHESTRATOR_") || name == "AUTH_TOKEN_FILE");
    Ok(Config::resolve(&Layers { flags, environment, file: None })?.config.orchestrator)
}
