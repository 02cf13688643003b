//! Jobs that benches train: by the same code as a task, on rows that are loaded once.
#![allow(dead_code, unreachable_pub, reason = "each bench uses a part of it")]

use std::sync::Arc;

use tensorfleet_worker::config::{Config, FlagValues, Layers};
use tensorfleet_worker::data::Dataset;
use tensorfleet_worker::domain::{Backend, Hyperparameters, ModelType, Progress, Strictness, TaskResult};
use tensorfleet_worker::engine::{self, Control, LocalTraining, Observer, Step};

/// What is trained.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// The id of its bench.
    pub id: &'static str,
    /// model_type.
    pub model: &'static str,
    /// Hyperparameters, `NAME=VALUE`.
    pub set: &'static [&'static str],
    /// Rows, features and classes of the data set; digits where absent.
    pub shape: Option<(u32, u32, u32)>,
}

/// Whether benches are only tried out, each once: as with the tests, or by `--test`.
pub fn is_trial() -> bool {
    let given = |name| std::env::args().any(|argument| argument == name);
    given("--test") || !given("--bench")
}

const BINARY: (u32, u32, u32) = (100_000, 28, 2);
const SEVEN: (u32, u32, u32) = (50_000, 54, 7);
const BOOSTED: &[&str] = &["rounds_per_task=5", "max_depth=6", "eta=0.3"];
// Steps of seven classes as long as those of LightGBM with eta 0.3: its second derivatives of K classes are
// K / (K - 1) p (1 - p), ours as XGBoost's 2 p (1 - p).
const LONG: &[&str] = &["rounds_per_task=5", "max_depth=6", "eta=0.5143"];
const GROWN: &[&str] = &["trees_per_task=10"];

/// Steps of gradient descent; an epoch is one pass over the rows.
pub const STEPS: &[Work] = &[
    step("mlp_small_adam", "neural_network", &["hidden_layers=128,64", ROWS, NONE, ADAM], 64),
    step("mlp_small_sgd", "neural_network", &["hidden_layers=128,64", ROWS, NONE, SGD], 64),
    step("mlp_784_adam", "neural_network", &["hidden_layers=256,128", ROWS, NONE, ADAM], 784),
    step("mlp_784_sgd", "neural_network", &["hidden_layers=256,128", ROWS, NONE, SGD], 784),
    step("cnn_adam", "cnn", &["batch_size=64", NONE, ADAM], 784),
    step("logistic_sgd", "logistic_regression", &[ROWS, NONE, SGD], 64),
];

/// Boosting: an epoch is a whole fit of 50 rounds.
pub const BOOSTING: &[Work] = &[
    Work { id: "binary_100k_28", model: "xgboost", set: BOOSTED, shape: Some(BINARY) },
    Work { id: "multi_50k_54", model: "xgboost", set: BOOSTED, shape: Some(SEVEN) },
    Work { id: "multi_50k_54_long_steps", model: "xgboost", set: LONG, shape: Some(SEVEN) },
    Work { id: "digits", model: "xgboost", set: BOOSTED, shape: None },
];

/// Forests: an epoch is a whole fit of 100 trees.
pub const FOREST: &[Work] = &[
    Work { id: "binary_100k_28", model: "random_forest", set: GROWN, shape: Some(BINARY) },
    Work { id: "multi_50k_54", model: "random_forest", set: GROWN, shape: Some(SEVEN) },
    Work { id: "digits", model: "random_forest", set: GROWN, shape: None },
];

const ROWS: &str = "batch_size=128";
const NONE: &str = "validation_split=0";
const ADAM: &str = "optimizer=adam";
const SGD: &str = "optimizer=sgd";

const fn step(id: &'static str, model: &'static str, set: &'static [&'static str], features: u32) -> Work {
    Work { id, model, set, shape: Some((6_400, features, 10)) }
}

/// Work with its rows loaded.
pub struct Prepared {
    model: ModelType,
    hyperparameters: Hyperparameters,
    config: engine::Config,
    data: Arc<Dataset>,
}

impl Work {
    /// Its own data set, as a dataset_path.
    pub fn dataset(&self) -> String {
        self.dataset_of(u32::MAX)
    }

    /// The same with `most` rows at most.
    pub fn dataset_of(&self, most: u32) -> String {
        match self.shape {
            None => "builtin:digits".to_owned(),
            Some((rows, features, classes)) => {
                let rows = rows.min(most);
                let informative = features.min(64).div_ceil(2);
                format!(
                    "synthetic:classification?rows={rows}&features={features}&classes={classes}\
                     &informative={informative}&seed=0"
                )
            }
        }
    }

    /// Loads `dataset`, below `root` where it is a file.
    ///
    /// # Panics
    /// When that fails: a bench has nobody to tell.
    pub fn prepare(&self, dataset: &str, root: &str) -> Prepared {
        self.prepare_seeded(dataset, root, 0)
    }

    /// As [`Self::prepare`], with another seed.
    ///
    /// # Panics
    /// As [`Self::prepare`].
    pub fn prepare_seeded(&self, dataset: &str, root: &str, seed: u64) -> Prepared {
        let model = ModelType::parse(self.model).unwrap();
        let pairs = self.set.iter().map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        });
        let pairs = pairs.chain([("seed".to_owned(), seed.to_string())]);
        let (hyperparameters, notes) = Hyperparameters::parse(&pairs.collect(), Strictness::Reject).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        let flags: FlagValues =
            [("TRAINING_BACKEND", "cpu".to_owned()), ("DATA_ROOT", root.to_owned())].into();
        let mut config = Config::resolve(&Layers { flags, ..Layers::default() }).unwrap().config.engine;
        config.state_dir = None;
        let data = LocalTraining::load(&model, dataset, &hyperparameters, &config).unwrap();
        Prepared { model, hyperparameters, config, data }
    }
}

impl Prepared {
    /// A fresh model.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn model(&self) -> LocalTraining {
        LocalTraining::on(&self.model, Arc::clone(&self.data), &self.hyperparameters, &self.config).unwrap()
    }
}

/// Trains one epoch.
///
/// # Panics
/// When that fails.
pub fn epoch(training: &mut LocalTraining, number: u32) -> TaskResult {
    struct Deaf;

    impl Observer for Deaf {
        fn started(&self, _: Backend) {}
        fn stepped(&self, _: &Progress, _: Step) {}
    }

    training.run_epoch(number, &Control::new(Deaf)).unwrap()
}
