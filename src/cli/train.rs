//! `train`: one training here, without an orchestrator.
//!
//! ```text
//! execute --thread--> training: open, epoch after epoch --> metrics, model, predictions --> files of --out
//!    |                    |
//!    +--signal--> Control +--> bars, or lines
//! ```

mod artifacts;
mod curve;
mod predictions;
mod training;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;

use super::job::{self, Setting, Settings};
use super::signals::Signals;
use super::{Exit, Failure, Metrics, ui};
use crate::config::{Config, ConfigErrors, Environment, Layers};
use crate::domain::{BackendChoice, ErrorCode, ModelType, TaskError};
use crate::engine;
use artifacts::Folder;
use training::{Order, Trained};

/// Arguments of `train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is trained
    #[arg(long, value_name = "TYPE", default_value = "neural_network", value_parser = job::model_type)]
    pub model_type: ModelType,
    /// On what: builtin:NAME, or the path of a CSV file with a header
    #[arg(long, value_name = "PATH", default_value = "builtin:digits")]
    pub dataset: String,
    /// How many epochs
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = job::epochs())]
    pub epochs: u32,
    /// A hyperparameter, as learning_rate=0.01; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub settings: Vec<Setting>,
    /// auto (the GPU where there is one, else the CPU), wgpu, cpu, or analytic, which trains nothing [default: auto]
    #[arg(long, value_name = "BACKEND", value_parser = job::backend)]
    pub backend: Option<BackendChoice>,
    /// Seed of split, initial weights and order [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Folder for model, metrics.json, curve.svg and predictions.csv; made where it is missing
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Folder inside of which local data sets must lie; a path outside of it needs it named here
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub data_root: PathBuf,
    /// Print one JSON object, that of metrics.json
    #[arg(long)]
    pub json: bool,
}

/// Trains.
///
/// # Errors
/// Something asked for is wrong, the training fails, or its files cannot be written.
pub async fn execute(args: Args, environment: &Environment) -> Result<Exit, Failure> {
    super::start_logs(environment, "warn")?;
    let order = order(&args, environment)?;
    // Before hours of training, not after.
    let folder = args.out.as_deref().map(Folder::open).transpose()?;
    let mut signals = Signals::listen()?;
    let trained = match follow(order, &mut signals).await? {
        Ok(trained) => trained,
        Err(error) if error.code == ErrorCode::Cancelled => return Ok(Exit::Interrupted),
        Err(error) if error.code == ErrorCode::PermissionDenied => {
            let hint = format!("{}; --data-root names that folder", error.message);
            return Err(TaskError::new(error.code, hint).into());
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(folder) = &folder {
        write(folder, &trained)?;
    }
    if args.json {
        ui::say_json(&trained.metrics)?;
    } else {
        ui::say(&ui::epochs(&trained.metrics.epochs, trained.quality))?;
        ui::say(&last_line(&trained))?;
        if let Some(out) = &args.out {
            ui::say(&format!("written to {}", out.display()))?;
        }
    }
    Ok(Exit::Done)
}

/// What is to be trained, all of it checked.
fn order(args: &Args, environment: &Environment) -> Result<Order, Failure> {
    let mut settings = args.settings.clone();
    // As hyperparameters, so that a flag and a setting that contradict each other are noticed.
    settings.extend(args.seed.map(|seed| Setting { name: "seed".to_owned(), value: seed.to_string() }));
    settings.extend(
        args.backend.map(|backend| Setting { name: "backend".to_owned(), value: backend.to_string() }),
    );
    let settings = Settings::check(settings)?;
    for note in &settings.notes {
        ui::tell(&format!("note: {note}"));
    }
    let mut config = engine_config(environment)?;
    config.data.root.clone_from(&args.data_root);
    Ok(Order {
        model: args.model_type.clone(),
        dataset: args.dataset.clone(),
        epochs: args.epochs,
        hyperparameters: settings.checked,
        config,
    })
}

/// Of the environment only what says how to train here.
fn engine_config(environment: &Environment) -> Result<engine::Config, ConfigErrors> {
    let mut environment = environment.clone();
    environment.retain(|name, _| name.starts_with("ANALYTIC_") || name == "ALLOW_SOFTWARE_ADAPTER");
    Ok(Config::resolve(&Layers { environment, ..Layers::default() })?.config.engine)
}

/// Trains on a thread of its own; the first signal stops at the next batch, the second one at once.
async fn follow(order: Order, signals: &mut Signals) -> Result<Result<Trained, TaskError>, Failure> {
    let (ended, mut end) = oneshot::channel();
    let watcher = training::Watcher::new(&order);
    let control = Arc::new(engine::Control::new(watcher.clone()));
    let trainer = {
        let (control, watcher) = (Arc::clone(&control), watcher.clone());
        // Nobody listens any more after a second signal.
        move || drop(ended.send(training::train(&order, &watcher, &control)))
    };
    thread::Builder::new()
        .name("train".to_owned())
        .spawn(trainer)
        .map_err(|source| Failure::System { doing: "start a thread", source })?;
    let mut stopping = false;
    loop {
        tokio::select! {
            outcome = &mut end => {
                let panicked = |_| Failure::System {
                    doing: "train",
                    source: io::Error::other("the trainer panicked"),
                };
                return outcome.map_err(panicked);
            }
            _ = signals.next() => {
                if stopping {
                    return Err(Failure::Interrupted);
                }
                stopping = true;
                watcher.note("interrupted; stopping at the next batch");
                control.stop(TaskError::new(ErrorCode::Cancelled, "interrupted"));
            }
        }
    }
}

fn write(folder: &Folder<'_>, trained: &Trained) -> Result<(), Failure> {
    if let Some((name, weights)) = &trained.model {
        folder.write(name, weights)?;
    }
    if let Some(predictions) = &trained.predictions {
        folder.write("predictions.csv", &predictions::csv(predictions)?)?;
    }
    folder.write("metrics.json", &metrics_json(&trained.metrics)?)?;
    folder.write("curve.svg", curve::svg(&trained.metrics, trained.quality)?.as_bytes())
}

fn metrics_json(metrics: &Metrics) -> Result<Vec<u8>, Failure> {
    let mut text = serde_json::to_vec_pretty(metrics)
        .map_err(|error| Failure::System { doing: "write JSON", source: error.into() })?;
    text.push(b'\n');
    Ok(text)
}

fn last_line(trained: &Trained) -> String {
    let metrics = &trained.metrics;
    let quality = trained.quality.name();
    let figures = metrics.last.as_ref().map(|last| {
        let held_out = last.validation_loss.zip(last.validation_accuracy);
        let held_out = held_out.map(|(loss, accuracy)| {
            format!(", validation loss {loss:.4}, validation {quality} {accuracy:.4}")
        });
        format!(": loss {:.4}, {quality} {:.4}{}", last.loss, last.accuracy, held_out.unwrap_or_default())
    });
    format!(
        "{}{} on {}, {}, {} epochs in {:.1} s, {:.0} samples/s{}",
        if metrics.simulated { "SIMULATED, nothing was trained: " } else { "" },
        metrics.model_type,
        metrics.dataset,
        metrics.backend,
        metrics.epochs.len(),
        metrics.seconds,
        metrics.samples_per_second,
        figures.unwrap_or_default()
    )
}
