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
use super::ui::{self, Board, Quality};
use super::{Epoch, Exit, Failure};
use crate::config::{Config, ConfigErrors, Environment, Layers};
use crate::data;
use crate::dev::JobSummary;
use crate::domain::{JobId, ModelType};
use crate::wire::pb;
use cluster::{Cluster, Wishes};
use watch::{Ending, Picture};

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub workers: u32,
    /// Model type: neural_network (or mlp, dnn), cnn, logistic_regression, svm, xgboost, random_forest, decision_tree
    #[arg(long, value_name = "TYPE", default_value = "neural_network", value_parser = job::model_type)]
    pub model_type: ModelType,
    /// Data set: builtin:digits, builtin:iris, builtin:wine, builtin:breast_cancer, or the path of a CSV file with
    /// a header, below --data-root
    #[arg(long, value_name = "PATH", default_value = "builtin:digits")]
    pub dataset: String,
    /// Passes over the data; each is ten tasks
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = job::epochs())]
    pub epochs: u32,
    /// Folder with the local data sets; nothing outside of it is read [env: DATA_ROOT] [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// After the job, keep orchestrator and workers running until Ctrl-C, to be looked at
    #[arg(long)]
    pub keep: bool,
    /// Print one JSON object about the job, and nothing else
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
    let board = Board::new();
    super::start_logs(environment, "warn", board.clone())?;
    let mut signals = Signals::listen()?;
    let wishes = Wishes { workers: args.workers, data: data_config(&args, environment)? };
    let start = async {
        let quality = quality(&args.dataset, &wishes.data).await;
        Cluster::start(&wishes).await.map(|cluster| (cluster, quality))
    };
    let (mut cluster, quality) = tokio::select! {
        started = start => started?,
        _ = signals.next() => return Ok(Exit::Interrupted),
    };
    let ended = run(&args, &mut cluster, Picture::new(board, quality), &mut signals).await;
    cluster.stop(&mut signals).await;
    ended
}

/// Of the environment only where the data is: a demonstration is the same everywhere.
fn data_config(args: &Args, environment: &Environment) -> Result<data::Config, ConfigErrors> {
    let mut environment = environment.clone();
    environment.retain(|name, _| name == "DATA_ROOT");
    let mut data = Config::resolve(&Layers { environment, ..Layers::default() })?.config.engine.data;
    if let Some(root) = &args.data_root {
        data.root.clone_from(root);
    }
    Ok(data)
}

/// What the job is measured by. The wire does not say, so the data set is looked at here too.
async fn quality(dataset: &str, config: &data::Config) -> Quality {
    let (dataset, config) = (dataset.to_owned(), config.clone());
    let load = move || data::load(&dataset, &data::LoadOptions::default(), &config, &|| Ok(()));
    // What is wrong with it the workers will say.
    match tokio::task::spawn_blocking(load).await {
        Ok(Ok(dataset)) => Quality::of(&dataset),
        Ok(Err(_)) | Err(_) => Quality::Accuracy,
    }
}

async fn run(
    args: &Args,
    cluster: &mut Cluster,
    mut picture: Picture,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    let started = Instant::now();
    let job_id = submit(args, cluster).await?;
    let ended = watch::until_end(cluster, &job_id, &mut picture, signals).await?;
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
        say_job(&summary, started)?;
        say_epochs(&epochs(&summary), picture.quality)?;
        match (keep, exit) {
            (Keep::UntilInterrupted, _) => ui::say(&cluster.addresses())?,
            (Keep::No, Exit::Done) => {
                ui::say(&cluster.addresses())?;
                ui::say("all of these end now; with --keep they stay, to be looked at")?;
            }
            // Addresses of what ends anyway would bury why it failed.
            (Keep::No, _) => {}
        }
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

fn say_job(job: &JobSummary, started: Instant) -> Result<(), Failure> {
    ui::say(&format!(
        "job {} {}: {} of {} tasks in {:.1} s{}{}",
        job.job_id,
        job.status.name(),
        job.completed,
        job.total,
        started.elapsed().as_secs_f64(),
        if job.message.is_empty() { "" } else { "; " },
        job.message
    ))
}

fn say_epochs(epochs: &[Epoch], quality: Quality) -> Result<(), Failure> {
    if epochs.is_empty() {
        return Ok(());
    }
    ui::say(&ui::epochs(epochs, quality))?;
    let losses: Vec<_> = epochs.iter().map(|row| (row.epoch, row.loss)).collect();
    let qualities: Vec<_> =
        epochs.iter().filter_map(|row| Some((row.epoch, row.validation_accuracy?))).collect();
    let held_out = format!("validation {}", quality.name());
    for (title, points) in [("loss", losses), (held_out.as_str(), qualities)] {
        if let Some(curve) = ui::curve(title, &points) {
            ui::say(&curve)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Cli, Command};
    use super::*;

    fn args(line: &str) -> Args {
        let words = ["tensorfleet-worker", "demo"].into_iter().chain(line.split_whitespace());
        let Ok(Cli { command: Command::Demo(args) }) = Cli::parse_arguments(words.map(Into::into)) else {
            panic!("{line} is no demo")
        };
        args
    }

    #[test]
    fn the_data_root_is_the_flag_then_the_environment_then_the_default() {
        let root = |line: &str, text: &str| {
            let environment = [("DATA_ROOT", text), ("WORKER_PORT", "x")]
                .map(|(name, text)| (name.into(), text.into()))
                .into();
            data_config(&args(line), &environment).unwrap().root
        };
        assert_eq!(root("", ""), Path::new("./data"));
        assert_eq!(root("", "/srv"), Path::new("/srv"));
        assert_eq!(root("--data-root /other", "/srv"), Path::new("/other"));
    }

    #[tokio::test]
    async fn numbers_are_measured_by_their_error_and_classes_by_accuracy() {
        let folder = tempfile::tempdir().unwrap();
        let lines: String = (0..40).map(|n| format!("{n},{}.5\n", n * 3)).collect();
        std::fs::write(folder.path().join("line.csv"), format!("x,y\n{lines}")).unwrap();
        let config = data::Config::new(folder.path());
        assert_eq!(quality("line.csv", &config).await, Quality::Rmse);
        assert_eq!(quality("builtin:iris", &config).await, Quality::Accuracy);
        assert_eq!(quality("missing.csv", &config).await, Quality::Accuracy);
    }
}
