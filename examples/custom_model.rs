//! A model type of your own: this file, and one line that hands it to the engine.
//!
//! cargo run --example custom_model
//!
//! The model is a nearest-centroid classifier: a class is the mean of its rows, and a row belongs to the nearest one.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use tensorfleet_worker::app::{App, Program, Shutdown};
use tensorfleet_worker::config::{Config, Layers};
use tensorfleet_worker::data::{Dataset, FeatureForm, Part, Targets};
use tensorfleet_worker::dev::{DevConfig, DevOrchestrator, JobSummary};
use tensorfleet_worker::domain::{ErrorCode, JobId, Metrics, Progress, TaskError};
use tensorfleet_worker::engine::{
    Blueprint, Control, ModelEntry, ModelRegistry, Slice, Step, Trained, Trainer, TrainsOn,
};
use tensorfleet_worker::telemetry::traces::Traces;
use tensorfleet_worker::wire::pb;
use tensorfleet_worker::wire::pb::orchestrator_service_client::OrchestratorServiceClient;

/// What the engine has to know of the model.
pub(crate) static NEAREST_CENTROID: ModelEntry = ModelEntry {
    name: "nearest_centroid",
    aliases: &["centroids"],
    weights_file_name: "centroids.json",
    listens_to: &[&["batch_size"]],
    features: FeatureForm::Standardised,
    trains_on: TrainsOn::Cpu,
    build: |blueprint| Ok(Box::new(NearestCentroid::new(blueprint)?)),
};

/// The model: for each class the sum of its rows, and how many there were.
struct NearestCentroid {
    data: Arc<Dataset>,
    batch_size: usize,
    centroids: Centroids,
    marked: Centroids,
}

#[derive(Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Centroids {
    sums: Vec<Vec<f64>>,
    counts: Vec<f64>,
}

impl NearestCentroid {
    fn new(blueprint: &Blueprint<'_>) -> Result<Self, TaskError> {
        let classes = blueprint.data.classes().ok_or_else(|| {
            TaskError::new(
                ErrorCode::InvalidArgument,
                "task: nearest_centroid tells classes apart, not numbers",
            )
        })?;
        let centroids =
            Centroids { sums: vec![vec![0.0; blueprint.data.width()]; classes], counts: vec![0.0; classes] };
        Ok(Self {
            data: Arc::clone(blueprint.data),
            batch_size: blueprint.hyperparameters.batch_size,
            marked: centroids.clone(),
            centroids,
        })
    }

    fn row<'a>(&self, part: &'a Part, row: usize) -> &'a [f32] {
        &part.features[row * self.data.width()..][..self.data.width()]
    }

    /// Squared distance to each centroid; a class without rows is infinitely far.
    fn distances(&self, row: &[f32]) -> Vec<f64> {
        let distance = |(sum, count): (&Vec<f64>, &f64)| {
            if *count == 0.0 {
                return f64::INFINITY;
            }
            sum.iter().zip(row).map(|(sum, value)| (sum / count - f64::from(*value)).powi(2)).sum()
        };
        self.centroids.sums.iter().zip(&self.centroids.counts).map(distance).collect()
    }

    /// Mean share of wrong rows (the loss) and of right ones, of `rows` of `part`.
    fn judge(&self, part: &Part, rows: impl Iterator<Item = usize>) -> Metrics {
        let (mut right, mut all) = (0.0, 0.0);
        for row in rows {
            let distances = self.distances(self.row(part, row));
            let nearest = (0..distances.len()).min_by(|a, b| distances[*a].total_cmp(&distances[*b]));
            right += f64::from(u8::from(nearest == Some(class(part, row))));
            all += 1.0;
        }
        let accuracy = if all == 0.0 { 0.0 } else { right / all };
        Metrics { loss: 1.0 - accuracy, accuracy }
    }
}

fn class(part: &Part, row: usize) -> usize {
    match &part.targets {
        Targets::Classes(ids) => ids[row] as usize,
        Targets::Values(_) => 0,
    }
}

impl Trainer for NearestCentroid {
    fn mark(&mut self) {
        self.marked = self.centroids.clone();
    }

    fn roll_back(&mut self) {
        self.centroids = self.marked.clone();
    }

    fn batches_per_epoch(&self) -> u32 {
        self.data.train.len().div_ceil(self.batch_size) as u32
    }

    fn train(&mut self, slice: &Slice, control: &Control) -> Result<Trained, TaskError> {
        let data = Arc::clone(&self.data);
        let (began, mut metrics, mut samples) = (Instant::now(), Metrics { loss: 0.0, accuracy: 0.0 }, 0);
        for (step, batch) in slice.batches.clone().enumerate() {
            // Every step looks whether it is still wanted, and says how far it is.
            control.check()?;
            let step_began = Instant::now();
            let start = (batch % self.batches_per_epoch()) as usize * self.batch_size;
            let rows = start..(start + self.batch_size).min(data.train.len());
            let seen = self.judge(&data.train, rows.clone());
            for row in rows.clone() {
                let class = class(&data.train, row);
                self.centroids.counts[class] += 1.0;
                let values = self.row(&data.train, row);
                self.centroids.sums[class]
                    .iter_mut()
                    .zip(values)
                    .for_each(|(sum, value)| *sum += f64::from(*value));
            }
            let share = 1.0 / (step + 1) as f64;
            metrics.loss += (seen.loss - metrics.loss) * share;
            metrics.accuracy += (seen.accuracy - metrics.accuracy) * share;
            samples += rows.len() as u64;
            let progress = Progress {
                step: step as u64 + 1,
                total_steps: slice.batches.len() as u64,
                loss: metrics.loss,
                accuracy: metrics.accuracy,
                samples_per_second: samples as f64 / began.elapsed().as_secs_f64().max(1e-9),
                simulated: false,
            };
            control.stepped(progress, Step { duration: step_began.elapsed(), samples: rows.len() as u64 });
        }
        Ok(Trained { metrics, samples, steps: slice.batches.len() as u64 })
    }

    fn evaluate(&self, rows: &[u32], control: &Control) -> Result<Metrics, TaskError> {
        control.check()?;
        Ok(self.judge(&self.data.validation, rows.iter().map(|row| *row as usize)))
    }

    /// Nearness as a probability.
    fn predict(&self) -> Vec<f32> {
        let rows = 0..self.data.validation.len();
        rows.flat_map(|row| {
            let near: Vec<f64> = self
                .distances(self.row(&self.data.validation, row))
                .iter()
                .map(|distance| (-distance).exp())
                .collect();
            let sum: f64 = near.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            near.into_iter().map(move |near| (near / sum) as f32).collect::<Vec<_>>()
        })
        .collect()
    }

    fn weights(&self) -> Result<Vec<u8>, TaskError> {
        self.state()
    }

    fn load_weights(&mut self, weights: &[u8]) -> Result<(), TaskError> {
        self.restore(weights)
    }

    fn state(&self) -> Result<Vec<u8>, TaskError> {
        serde_json::to_vec(&self.centroids)
            .map_err(|error| TaskError::new(ErrorCode::Internal, error.to_string()))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TaskError> {
        let wrong = |why: &str| TaskError::new(ErrorCode::InvalidArgument, format!("model_weights: {why}"));
        let centroids: Centroids =
            serde_json::from_slice(state).map_err(|error| wrong(&error.to_string()))?;
        let fits = centroids.counts.len() == self.centroids.counts.len()
            && centroids.sums.len() == self.centroids.sums.len()
            && centroids.sums.iter().all(|sum| sum.len() == self.data.width());
        if !fits {
            return Err(wrong("not of this shape"));
        }
        self.centroids = centroids;
        Ok(())
    }

    fn remedy(&self) -> String {
        "look for values that are no numbers in the data".to_owned()
    }

    fn memory_bytes(&self) -> u64 {
        2 * 8 * (self.centroids.counts.len() * (self.data.width() + 1)) as u64
    }
}

/// Trains a job of the model above with a whole worker that is part of `program`.
pub(crate) async fn run(program: Program) -> Result<JobSummary, Box<dyn Error + Send + Sync>> {
    let listen = "127.0.0.1:0".parse()?;
    let orchestrator = DevOrchestrator::start(DevConfig { listen, ..DevConfig::default() }).await?;
    let address = orchestrator.local_addr().to_string();
    let state = std::env::temp_dir().join(format!("custom-model-{}", std::process::id()));
    let settings = [
        ("ORCHESTRATOR_ADDRESS", address.clone()),
        ("WORKER_PORT", "0".to_owned()),
        ("METRICS_PORT", "0".to_owned()),
        ("TRAINING_BACKEND", "cpu".to_owned()),
        ("STATE_DIR", state.to_string_lossy().into_owned()),
    ];
    let environment = settings.map(|(name, value)| (name.to_owned(), value)).into();
    let config = Config::resolve(&Layers { environment, ..Layers::default() })?.config;
    let app = App::build_with(config, program, Traces::default()).await?;
    let shutdown = Shutdown::new();
    let working = async {
        let mut client = OrchestratorServiceClient::connect(format!("http://{address}")).await?;
        let job = pb::TrainingJobRequest {
            job_id: "centroids".to_owned(),
            model_type: "nearest_centroid".to_owned(),
            dataset_path: "builtin:iris".to_owned(),
            // That of `train` where none is given; a job without one takes its id.
            hyperparameters: [("seed".to_owned(), "0".to_owned())].into(),
            epochs: 2,
            ..pb::TrainingJobRequest::default()
        };
        let job = JobId::parse(&client.create_training_job(job).await?.into_inner().job_id)?;
        let board = orchestrator.board();
        let ended = board.wait_for(|board| board.job(&job).ok().filter(|job| job.status.is_final())).await;
        shutdown.drain();
        Ok::<_, Box<dyn Error + Send + Sync>>(ended)
    };
    let (ran, ended) = tokio::join!(app.run(shutdown.clone()), working);
    ran?;
    orchestrator.shutdown().await;
    std::fs::remove_dir_all(&state)?;
    ended
}

#[allow(dead_code, reason = "tests call run() alone")]
fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // The one line. It comes first, since runner processes are this program again and have to know the model, too.
    let program = Program::enter(ModelRegistry::default().with(&NEAREST_CENTROID)?);
    let job = tokio::runtime::Runtime::new()?.block_on(run(program))?;
    println!("{} of {} tasks, {:?}", job.completed, job.total, job.current);
    Ok(())
}
