//! A worker on a machine with GPUs: software drivers that pass themselves off as graphics cards, and a fake NVML.

use std::path::PathBuf;
use std::sync::Arc;

use fake_nvml::{Control, Installed};
use fake_vulkan::Card;
use tensorfleet_worker::wire::pb;
use tokio::task::JoinHandle;

use super::listener::{Heard, listen};
use super::*;

/// A machine with cards that both Vulkan and NVML see.
pub struct Machine {
    pub fake: Installed,
    library: String,
    /// List of Vulkan drivers.
    pub drivers: String,
    pub folder: tempfile::TempDir,
}

impl Machine {
    /// Vulkan sees the first `cards` GPUs of `control`.
    pub fn new(control: Control, cards: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifest = |number: usize| {
            let folder = folder.path().join(format!("card-{number}"));
            std::fs::create_dir(&folder).unwrap();
            let (domain, bus, device) = control.gpus[number].pci;
            let card = Card { name: format!("Fake card {number}"), pci: (domain, bus, device, 0) };
            fake_vulkan::install(&folder, &card).unwrap()
        };
        let manifests: Vec<PathBuf> = (0..cards).map(manifest).collect();
        let drivers = std::env::join_paths(&manifests).unwrap().into_string().unwrap();
        // An empty list would be no list.
        let drivers = if drivers.is_empty() { "/nowhere/icd.json".to_owned() } else { drivers };
        let fake = Installed::new(folder.path(), control).unwrap();
        let library = fake.library().into_os_string().into_string().unwrap();
        Self { fake, library, drivers, folder }
    }

    /// The environment of a program on this machine.
    pub fn environment(&self) -> [(&str, &str); 3] {
        let drivers = self.drivers.as_str();
        // Loaders before 1.3.234 know the list by its second name only.
        [("NVML_LIBRARY", &self.library), ("VK_DRIVER_FILES", drivers), ("VK_ICD_FILENAMES", drivers)]
    }
}

/// A worker on such a machine.
pub struct Node {
    pub worker: WorkerProcess,
    pub machine: Machine,
    pub heard: Arc<Heard>,
    pub server: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Node {
    pub async fn start(control: Control, cards: usize, settings: &[(&str, &str)]) -> Self {
        let machine = Machine::new(control, cards);
        let (orchestrator, heard, server) = listen().await;
        let worker = WorkerProcess::start(orchestrator, &[&machine.environment(), settings].concat());
        Self { worker, machine, heard, server }
    }

    /// Hands out a task of `job`.
    pub fn give(&self, job: &str, number: i32) {
        let hyperparameters = [("hidden_layers", "16"), ("learning_rate", "0.01")];
        self.give_of("neural_network", &hyperparameters, (job, number));
    }

    /// Hands out a task of a job of `model`.
    pub fn give_of(&self, model: &str, hyperparameters: &[(&str, &str)], (job, number): (&str, i32)) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.heard.tasks.lock().unwrap().push_back(pb::AssignTaskResponse {
            task_id: format!("{job}-{number}"),
            job_id: job.to_owned(),
            model_type: model.to_owned(),
            dataset_path: "builtin:iris".to_owned(),
            hyperparameters: hyperparameters.iter().map(owned).collect(),
            batch_start: 60 * number,
            batch_end: 60 * (number + 1),
            attempt: 1,
            ..Default::default()
        });
    }

    /// The report of a task.
    pub fn report(&self, task: &str) -> pb::TaskCompletionRequest {
        let find =
            || self.heard.completions.lock().unwrap().iter().find(|done| done.task_id == task).cloned();
        eventually(&format!("{task} is reported"), || find().is_some());
        find().unwrap()
    }

    pub fn metrics(&self) -> String {
        self.worker.get("/metrics").1
    }
}
