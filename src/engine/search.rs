//! The search for devices, made once and only when somebody has to know.
//!
//! ```text
//! wait --begins it, or waits for the one under way--> Devices
//! now  --begins it on a thread of its own-----------> Devices, or None while it goes on
//! ```
//!
//! It loads the system's graphics drivers, which take up to 20 seconds where one hangs: whoever trains on the CPU never
//! waits for them.

use std::sync::{Arc, Once, OnceLock};
use std::thread;

use super::Config;
use super::device::{ComputeDevice, Devices, SoftwareAdapters};
use crate::domain::DevicePolicy;

/// The devices of this machine, as far as they are known.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    cpu: ComputeDevice,
    gpus: Arc<Gpus>,
}

type Look = Box<dyn Fn() -> Devices + Send + Sync>;

struct Gpus {
    found: OnceLock<Devices>,
    begun: Once,
    look: Look,
}

impl Search {
    /// A search as far as `config` allows one; nothing is looked for yet.
    pub(crate) fn new(config: &Config) -> Self {
        Self::by(config, Devices::probe)
    }

    /// As [`Self::new`], in a process of its own: `program`, which knows `adapters`.
    #[cfg(target_os = "linux")]
    pub(crate) fn apart(config: &Config, program: std::path::PathBuf) -> Self {
        // Without a GPU backend there is nothing that a process could find.
        if cfg!(feature = "wgpu") {
            Self::by(config, move |software| super::probe::ask(&program, software))
        } else {
            Self::new(config)
        }
    }

    fn by(config: &Config, probe: impl Fn(SoftwareAdapters) -> Devices + Send + Sync + 'static) -> Self {
        if config.device_policy == DevicePolicy::Cpu {
            return Self::known(Devices::not_looked_for());
        }
        let software =
            if config.allow_software_adapter { SoftwareAdapters::Allowed } else { SoftwareAdapters::Ignored };
        let (only, hidden) = (config.gpu, config.hidden_gpus.clone());
        Self::with(Box::new(move || {
            let mut devices = probe(software);
            devices.keep(|address| only.is_none_or(|only| address == Some(only)));
            devices.keep(|address| address.is_none_or(|address| !hidden.contains(&address)));
            devices
        }))
    }

    /// A search that found `devices`.
    pub(crate) fn known(devices: Devices) -> Self {
        let search = Self::with(Box::new(move || devices.clone()));
        search.wait();
        search
    }

    fn with(look: Look) -> Self {
        let gpus = Gpus { found: OnceLock::new(), begun: Once::new(), look };
        Self { cpu: ComputeDevice::cpu(), gpus: Arc::new(gpus) }
    }

    /// The CPU, which needs no search.
    pub(crate) fn cpu(&self) -> &ComputeDevice {
        &self.cpu
    }

    /// The devices; waits for them.
    pub(crate) fn wait(&self) -> &Devices {
        self.gpus.find()
    }

    /// The devices, if somebody had to know them already; begins no search.
    pub(crate) fn so_far(&self) -> Option<&Devices> {
        self.gpus.found.get()
    }

    /// The devices, if they are known by now; never waits.
    pub(crate) fn now(&self) -> Option<&Devices> {
        if self.gpus.found.get().is_none() {
            self.gpus.begun.call_once(|| {
                let gpus = Arc::clone(&self.gpus);
                let look = move || {
                    gpus.find();
                };
                if let Err(error) = thread::Builder::new().name("device-search".to_owned()).spawn(look) {
                    tracing::warn!(%error, "no thread could be started to look for GPUs");
                }
            });
        }
        self.gpus.found.get()
    }
}

impl Gpus {
    fn find(&self) -> &Devices {
        self.found.get_or_init(&self.look)
    }
}

impl std::fmt::Debug for Gpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpus").field("found", &self.found).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{self, Sender};

    use super::*;

    /// A search that goes on until what comes with it is dropped.
    pub(in crate::engine) fn hung() -> (Search, Sender<()>) {
        let (sender, receiver) = mpsc::channel();
        let receiver = Mutex::new(receiver);
        let look = move || {
            // Ends with an error when the sender is dropped.
            let _ = receiver.lock().unwrap().recv();
            Devices::not_looked_for()
        };
        (Search::with(Box::new(look)), sender)
    }

    #[test]
    fn nobody_waits_who_does_not_have_to() {
        let (search, hold) = hung();
        assert!(search.now().is_none() && search.now().is_none());
        assert_eq!(search.cpu().name, "cpu");
        drop(hold);
        assert_eq!(search.wait().found, "none was looked for");
        assert!(search.now().is_some());
    }
}
