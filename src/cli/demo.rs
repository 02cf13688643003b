//! `demo`: a development orchestrator and workers in this process train one real job, for all to see.
//!
//! ```text
//! submit --gRPC--> development orchestrator <--gRPC-- worker 1 .. N   (as in production, on loopback)
//!                         |                             |
//!                         +--board--> watch <--status---+ --> bars, or lines
//! ```

mod cluster;
mod watch;

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::job;
use super::remote::Remote;
use super::signals::Signals;
use super::{Epoch, Exit, Failure, ui};
use crate::config::Environment;
use crate::dev::JobSummary;
use crate::domain::{JobId, ModelType};
use crate::wire::pb;
use cluster::{Cluster, Wishes};
use watch::Ending;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub workers: u32,
    /// What is trained
    #[arg(long, value_name = "TYPE", default_value = "neural_network", value_parser = job::model_type)]
    pub model_type: ModelType,
    /// On what: builtin:NAME, or a path inside of the data root
    #[arg(long, value_name = "PATH", default_value = "builtin:digits")]
    pub dataset: String,
    /// How many epochs
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = job::epochs())]
    pub epochs: u32,
    /// Folder inside of which local data sets must lie
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data_root: PathBuf,
    /// Keep orchestrator and workers running until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The object of `--json`.
#[derive(Debug, Serialize)]
struct Summary {
    job_id: String,
    status: &'static str,
    total_tasks: u32,
    completed_tasks: u32,
    epochs: Vec<Epoch>,
}

/// What becomes of orchestrator and workers after the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    No,
    UntilInterrupted,
}

/// Runs it. The exit code is 0 only when the job completed.
///
/// # Errors
/// Something cannot be started, or ends before the job does.
pub async fn execute(args: Args, environment: &Environment) -> Result<Exit, Failure> {
    super::start_logs(environment, "warn")?;
    let mut signals = Signals::listen()?;
    let wishes = Wishes { workers: args.workers, data_root: args.data_root.clone() };
    let mut cluster = tokio::select! {
        cluster = Cluster::start(&wishes) => cluster?,
        _ = signals.next() => return Ok(Exit::Interrupted),
    };
    let ended = run(&args, &mut cluster, &mut signals).await;
    cluster.stop(&mut signals).await;
    ended
}

async fn run(args: &Args, cluster: &mut Cluster, signals: &mut Signals) -> Result<Exit, Failure> {
    let started = Instant::now();
    let job_id = submit(args, cluster).await?;
    let ended = watch::until_end(cluster, &job_id, signals).await?;
    let summary = match ended {
        Ending::Job(summary) => summary,
        Ending::Interrupted => {
            ui::tell("interrupted; draining (once more: at once)");
            return Ok(Exit::Interrupted);
        }
    };
    let exit = if summary.status.name() == "COMPLETED" { Exit::Done } else { Exit::Failed };
    if args.json {
        ui::say_json(&Summary::from(&summary))?;
    } else {
        let keep = if args.keep { Keep::UntilInterrupted } else { Keep::No };
        show(&summary, started, cluster, keep)?;
    }
    if args.keep {
        ui::tell("orchestrator and workers stay until Ctrl-C");
        cluster.keep(signals).await?;
    }
    Ok(exit)
}

async fn submit(args: &Args, cluster: &Cluster) -> Result<JobId, Failure> {
    let request = pb::TrainingJobRequest {
        job_id: "demo".to_owned(),
        user_id: "demo".to_owned(),
        model_type: args.model_type.to_string(),
        dataset_path: args.dataset.clone(),
        hyperparameters: [("backend".to_owned(), "cpu".to_owned())].into(),
        num_workers: crate::wire::saturated(args.workers.into()),
        epochs: crate::wire::saturated(args.epochs.into()),
    };
    let created = Remote::new(&cluster.orchestrator_config()?)?.create(request).await?;
    Ok(JobId::parse(&created.job_id)?)
}

impl From<&JobSummary> for Summary {
    fn from(job: &JobSummary) -> Self {
        Self {
            job_id: job.job_id.to_string(),
            status: job.status.name(),
            total_tasks: job.total,
            completed_tasks: job.completed,
            epochs: epochs(job),
        }
    }
}

/// The epochs of `job`, counted from 1 for people.
fn epochs(job: &JobSummary) -> Vec<Epoch> {
    let row = |epoch: &crate::dev::EpochSummary| Epoch {
        epoch: epoch.epoch + 1,
        loss: epoch.loss,
        accuracy: epoch.accuracy,
        validation_loss: epoch.validation_loss,
        validation_accuracy: epoch.validation_accuracy,
    };
    job.epochs.iter().map(row).collect()
}

fn show(job: &JobSummary, started: Instant, cluster: &Cluster, keep: Keep) -> Result<(), Failure> {
    let epochs = epochs(job);
    ui::say(&format!(
        "job {} {}: {} of {} tasks in {:.1} s{}{}",
        job.job_id,
        job.status.name(),
        job.completed,
        job.total,
        started.elapsed().as_secs_f64(),
        if job.message.is_empty() { "" } else { "; " },
        job.message
    ))?;
    if !epochs.is_empty() {
        ui::say(&ui::epochs(&epochs, ui::Quality::Accuracy))?;
    }
    let losses: Vec<_> = epochs.iter().map(|row| (row.epoch, row.loss)).collect();
    let accuracies: Vec<_> =
        epochs.iter().filter_map(|row| Some((row.epoch, row.validation_accuracy?))).collect();
    for (title, points) in [("loss", losses), ("validation accuracy", accuracies)] {
        if let Some(curve) = ui::curve(title, &points) {
            ui::say(&curve)?;
        }
    }
    ui::say(&cluster.addresses())?;
    if keep == Keep::No {
        ui::say("all of these end now; with --keep they stay, to be looked at")?;
    }
    Ok(())
}
