//! `train`: one training here, without an orchestrator.
//!
//! ```text
//! execute --thread--> training: open, epoch after epoch --> metrics, model, predictions --> files of --out
//!    |                    |
//!    +--signal--> Control +--> bars, or lines
//! ```

mod artifacts;
mod compare;
mod curve;
mod epochs;
mod explain;
mod predictions;
mod training;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;

use super::job::{self, Setting, Settings};
use super::signals::Signals;
use super::{Exit, Failure, Metrics, ui};
use crate::config::{Config, ConfigErrors, Environment, Layers};
use crate::domain::{Backend, BackendChoice, DevicePolicy, ErrorCode, HiddenGpus, ModelType, TaskError};
use crate::engine::{self, OpenError};
use crate::gpu;
use artifacts::Folder;
use explain::Explain;
use training::{Order, Trained};

/// Arguments of `train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model type: neural_network (or mlp, dnn), cnn, logistic_regression, svm, xgboost, random_forest, decision_tree;
    /// others only with --backend analytic
    #[arg(long, value_name = "TYPE", default_value = "neural_network", value_parser = job::model_type)]
    pub model_type: ModelType,
    /// Train each of these model types on the same rows and print a table; with --out each gets a folder of its name
    #[arg(
        long,
        value_name = "TYPE,TYPE",
        value_delimiter = ',',
        value_parser = job::model_type,
        conflicts_with = "model_type"
    )]
    pub compare: Vec<ModelType>,
    /// Data set: builtin:digits, builtin:iris, builtin:wine, builtin:breast_cancer, synthetic:..., the path of a CSV
    /// file with a header or of a Parquet file, below --data-root, http(s)://... of a host in DATA_ALLOWED_HOSTS, or
    /// s3://BUCKET/KEY
    #[arg(long, value_name = "PATH", default_value = "builtin:digits")]
    pub dataset: String,
    /// Passes over the data [default: 10, or what --set total_epochs or --set n_estimators ask for]
    #[arg(long, value_name = "N", value_parser = job::epochs())]
    pub epochs: Option<u32>,
    /// Hyperparameter, such as hidden_layers=64,32 or learning_rate=0.01 or target=COLUMN; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub settings: Vec<Setting>,
    /// What trains: wgpu (the GPU), cpu, analytic (simulated curves, nothing is trained), or auto: the GPU where
    /// there is one and DEVICE_POLICY allows it, else the CPU [default: auto]
    #[arg(long, value_name = "BACKEND", value_parser = job::backend)]
    pub backend: Option<BackendChoice>,
    /// Seed of split, first weights and order; the same seed gives the same model [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Folder for model.safetensors (of trees model.json), metrics.json, curve.svg and predictions.csv; made where it is missing
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Folder with the local data sets; nothing outside of it is read [env: DATA_ROOT] [default: .]
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// Print one JSON object, that of metrics.json, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Trains.
///
/// # Errors
/// Something asked for is wrong, the training fails, or its files cannot be written.
pub async fn execute(args: Args, environment: &Environment) -> Result<Exit, Failure> {
    let board = ui::Board::new();
    super::start_logs(environment, "warn", board.clone())?;
    let mut signals = Signals::listen()?;
    let models = if args.compare.is_empty() { std::slice::from_ref(&args.model_type) } else { &args.compare };
    compare::differ(models)?;
    let (mut order, gpus) = order(&args, environment)?;
    if order.config.device_policy != DevicePolicy::Cpu {
        let looked = gpu::look(gpus).await;
        order.config.hidden_gpus = looked.map(|snapshot| snapshot.hidden.clone()).unwrap_or_else(|error| {
            ui::tell(&format!("note: {error}; every adapter may be used"));
            HiddenGpus::default()
        });
    }
    let out = |model: &ModelType| {
        let below =
            |out: &PathBuf| if args.compare.is_empty() { out.clone() } else { out.join(model.as_str()) };
        args.out.as_ref().map(below)
    };
    // Before hours of training, not after.
    let folders =
        models.iter().map(|model| out(model).map(Folder::open).transpose()).collect::<Result<Vec<_>, _>>()?;
    let mut all = Vec::with_capacity(models.len());
    for (model, folder) in models.iter().zip(&folders) {
        order.model.clone_from(model);
        let (epochs, note) = epochs::of(model, args.epochs, &order.hyperparameters)?;
        order.epochs = epochs;
        if let Some(note) = note {
            ui::tell(&format!("note: {note}"));
        }
        let Some(trained) = train(&order, board.clone(), &mut signals).await? else {
            return Ok(Exit::Interrupted);
        };
        if let Some(folder) = folder {
            write(folder, &trained)?;
        }
        all.push(trained);
    }
    match all.as_slice() {
        [trained] if args.compare.is_empty() => say(trained, args.json)?,
        trained => compare::say(trained, args.json)?,
    }
    if let Some(out) = args.out.as_ref().filter(|_| !args.json) {
        ui::say(&format!("written to {}", out.display()))?;
    }
    Ok(Exit::Done)
}

fn say(trained: &Trained, json: bool) -> Result<(), Failure> {
    if json {
        return ui::say_json(&trained.metrics);
    }
    ui::say(&ui::epochs(&trained.metrics.epochs, trained.quality))?;
    ui::say(&last_line(trained))
}

/// One training from beginning to end; `None` where it was interrupted.
async fn train(order: &Order, board: ui::Board, signals: &mut Signals) -> Result<Option<Trained>, Failure> {
    let explain = Explain::of(order);
    let watcher = training::Watcher::new(order, board);
    let work = {
        let (order, watcher) = (order.clone(), watcher.clone());
        move |control: &Arc<engine::Control>| training::train(&order, &watcher, control)
    };
    match follow(work, watcher, signals).await? {
        Ok(trained) => Ok(Some(trained)),
        Err(OpenError::Task(error)) if error.code == ErrorCode::Cancelled => Ok(None),
        Err(error) => Err(explain.failure(error)),
    }
}

/// What is to be trained, all of it checked, and which GPUs may be used for it.
fn order(args: &Args, environment: &Environment) -> Result<(Order, gpu::Config), Failure> {
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
    let (mut config, gpus) = engine_config(environment)?;
    if let Some(root) = &args.data_root {
        config.data.root.clone_from(root);
    }
    if let Some(BackendChoice::Only(Backend::Cpu | Backend::Analytic)) = settings.checked.backend {
        // Asked for by name, so it is no fallback, and no GPU has to be looked for.
        config.device_policy = DevicePolicy::Cpu;
    }
    let order = Order {
        model: args.model_type.clone(),
        dataset: args.dataset.clone(),
        epochs: epochs::of(&args.model_type, args.epochs, &settings.checked)?.0,
        hyperparameters: settings.checked,
        config,
    };
    Ok((order, gpus))
}

/// Of the environment only what says how to train here.
fn engine_config(environment: &Environment) -> Result<(engine::Config, gpu::Config), ConfigErrors> {
    let concerns = [
        "ALLOW_SOFTWARE_ADAPTER",
        "CUDA_VISIBLE_DEVICES",
        "DEVICE_POLICY",
        "NVIDIA_VISIBLE_DEVICES",
        "NVML_LIBRARY",
        "STATE_DIR",
    ];
    let groups = ["ANALYTIC_", "AWS_", "DATA_", "S3_"];
    let mut environment = environment.clone();
    environment.retain(|name, text| {
        let concerns_it =
            concerns.contains(&name.as_str()) || groups.iter().any(|group| name.starts_with(group));
        !text.trim().is_empty() && concerns_it
    });
    environment.entry("DATA_ROOT".to_owned()).or_insert_with(|| ".".to_owned());
    let config = Config::resolve(&Layers { environment, ..Layers::default() })?.config;
    Ok((config.engine, config.gpu))
}

/// Trains on a thread of its own; the first signal stops at the next batch, the second one at once.
async fn follow(
    work: impl FnOnce(&Arc<engine::Control>) -> Result<Trained, OpenError> + Send + 'static,
    watcher: training::Watcher,
    signals: &mut Signals,
) -> Result<Result<Trained, OpenError>, Failure> {
    let (ended, mut end) = oneshot::channel();
    let control = Arc::new(engine::Control::new(watcher.clone()));
    let trainer = {
        let control = Arc::clone(&control);
        // Nobody listens any more after a second signal.
        move || drop(ended.send(work(&control)))
    };
    thread::Builder::new()
        .name("train".to_owned())
        .spawn(trainer)
        .map_err(|source| Failure::System { doing: "start a thread", source })?;
    let mut stopping = false;
    loop {
        tokio::select! {
            outcome = &mut end => {
                let panicked = |_| {
                    watcher.end();
                    Err(TaskError::new(ErrorCode::Panic, "the trainer panicked, which is a defect of this program").into())
                };
                return Ok(outcome.unwrap_or_else(panicked));
            }
            _ = signals.next() => {
                if stopping {
                    return Err(Failure::Interrupted);
                }
                stopping = true;
                watcher.interrupted();
                ui::tell("interrupted; stopping at the next batch (once more: at once)");
                control.stop(TaskError::new(ErrorCode::Cancelled, "interrupted"));
            }
        }
    }
}

fn write(folder: &Folder, trained: &Trained) -> Result<(), Failure> {
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
        "{}{} on {}, {}, {} in {:.1} s, {:.0} samples/s{}",
        if metrics.simulated { "SIMULATED, nothing was trained: " } else { "" },
        metrics.model_type,
        metrics.dataset,
        metrics.backend,
        match metrics.epochs.len() {
            1 => "1 epoch".to_owned(),
            epochs => format!("{epochs} epochs"),
        },
        metrics.seconds,
        metrics.samples_per_second,
        figures.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests;
