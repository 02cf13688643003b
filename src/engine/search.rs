//! The search for devices, made only when somebody has to know, and again where a GPU appears that it did not find.
//!
//! ```text
//! wait --begins it, or waits for the one under way--> Devices
//! now  --begins it on a thread of its own-----------> Devices, or None while it goes on
//! look_again_for --a GPU without an adapter, 5 s, 10 s ... 15 min--> the adapters there were, and then the new ones
//! ```
//!
//! It loads the system's graphics drivers, which take up to 20 seconds where one hangs: whoever trains on the CPU never
//! waits for them. It is made again only where that is done in a process of its own: one that has loaded drivers once
//! sees what they saw then.
//!
//! Invariant: an adapter keeps its number, by which runners and reservations know it.

use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Config;
use super::device::{ComputeDevice, Devices, Handle, SoftwareAdapters};
use crate::domain::{DevicePolicy, HiddenGpus, PciAddress};

/// First and longest wait before the search is made again.
const WAITS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15 * 60));

/// The devices of this machine, as far as they are known.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    cpu: ComputeDevice,
    gpus: Arc<Gpus>,
}

type Look = Box<dyn Fn() -> Devices + Send + Sync>;

/// Whether a search can find more than the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Useful,
    Useless,
}

struct Gpus {
    first: OnceLock<Arc<Devices>>,
    begun: Once,
    look: Look,
    repeat: Repeat,
    later: Mutex<Later>,
}

/// Searches after the first one.
#[derive(Default)]
struct Later {
    found: Option<Arc<Devices>>,
    /// GPUs without an adapter.
    missing: Vec<PciAddress>,
    wait: Duration,
    due: Option<Instant>,
    under_way: bool,
}

impl Later {
    /// Whether to look again now for `missing`.
    fn is_due(&mut self, missing: &[PciAddress], now: Instant) -> bool {
        if missing.iter().any(|address| !self.missing.contains(address)) {
            (self.wait, self.due) = (WAITS.0, Some(now + WAITS.0));
        }
        self.missing = missing.to_vec();
        if missing.is_empty() || self.under_way || self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.wait = (self.wait * 2).min(WAITS.1);
        (self.due, self.under_way) = (Some(now + self.wait), true);
        true
    }
}

impl Search {
    /// A search as far as `config` allows one; nothing is looked for yet.
    pub(crate) fn new(config: &Config) -> Self {
        Self::by(config, Repeat::Useless, Devices::probe)
    }

    /// As [`Self::new`], in a process of its own: `program`, which knows `adapters`.
    #[cfg(target_os = "linux")]
    pub(crate) fn apart(config: &Config, program: std::path::PathBuf) -> Self {
        // Without a GPU backend there is nothing that a process could find.
        if cfg!(feature = "wgpu") {
            Self::by(config, Repeat::Useful, move |software| super::probe::ask(&program, software))
        } else {
            Self::new(config)
        }
    }

    fn by(
        config: &Config,
        repeat: Repeat,
        probe: impl Fn(SoftwareAdapters) -> Devices + Send + Sync + 'static,
    ) -> Self {
        if config.device_policy == DevicePolicy::Cpu {
            return Self::known(Devices::not_looked_for());
        }
        let software =
            if config.allow_software_adapter { SoftwareAdapters::Allowed } else { SoftwareAdapters::Ignored };
        let (only, hidden) = (config.gpu, config.hidden_gpus.clone());
        let look = move || {
            let mut devices = probe(software);
            devices.keep(|adapter| only.is_none_or(|only| adapter.address == Some(only)));
            let has_gpus = devices.gpus().next().is_some();
            // What computes on the CPU hides nothing.
            devices.keep(|adapter| adapter.handle == Handle::Software || !hidden.forbids(adapter.address));
            if has_gpus && hidden == HiddenGpus::Unknown {
                tracing::warn!("{}; {}", HiddenGpus::UNKNOWN, HiddenGpus::REPAIR);
                devices.found = format!("{} ({})", devices.found, HiddenGpus::UNKNOWN);
            }
            devices
        };
        Self::with(Box::new(look), repeat)
    }

    /// A search that found `devices`.
    pub(crate) fn known(devices: Devices) -> Self {
        let search = Self::with(Box::new(move || devices.clone()), Repeat::Useless);
        search.wait();
        search
    }

    fn with(look: Look, repeat: Repeat) -> Self {
        let gpus = Gpus { first: OnceLock::new(), begun: Once::new(), look, repeat, later: Mutex::default() };
        Self { cpu: ComputeDevice::cpu(), gpus: Arc::new(gpus) }
    }

    /// The CPU, which needs no search.
    pub(crate) fn cpu(&self) -> &ComputeDevice {
        &self.cpu
    }

    /// The devices; waits for them.
    pub(crate) fn wait(&self) -> Arc<Devices> {
        let first = self.gpus.find();
        self.gpus.later().found.clone().unwrap_or(first)
    }

    /// The devices, if somebody had to know them already; begins no search.
    pub(crate) fn so_far(&self) -> Option<Arc<Devices>> {
        let first = self.gpus.first.get()?;
        Some(self.gpus.later().found.as_ref().unwrap_or(first).clone())
    }

    /// The devices, if they are known by now; never waits.
    pub(crate) fn now(&self) -> Option<Arc<Devices>> {
        if self.gpus.first.get().is_none() {
            self.gpus.begun.call_once(|| {
                let gpus = Arc::clone(&self.gpus);
                start(move || drop(gpus.find()));
            });
        }
        self.so_far()
    }

    /// Looks again, ever more seldom, while there are GPUs at `seen` without an adapter: they came after the last search,
    /// or their driver did. Never waits; does nothing before the first search has ended.
    pub(crate) fn look_again_for(&self, seen: &[PciAddress]) {
        let Some(devices) = self.so_far().filter(|_| self.gpus.repeat == Repeat::Useful) else { return };
        let has = |address: &PciAddress| devices.gpus().any(|adapter| adapter.address == Some(*address));
        let missing: Vec<PciAddress> = seen.iter().filter(|address| !has(address)).copied().collect();
        if self.gpus.later().is_due(&missing, Instant::now()) {
            let gpus = Arc::clone(&self.gpus);
            start(move || gpus.find_again(&devices));
        }
    }
}

fn start(look: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name("device-search".to_owned()).spawn(look) {
        tracing::warn!(%error, "no thread could be started to look for GPUs");
    }
}

impl Gpus {
    fn find(&self) -> Arc<Devices> {
        Arc::clone(self.first.get_or_init(|| Arc::new((self.look)())))
    }

    fn find_again(&self, known: &Devices) {
        let found = (self.look)();
        tracing::debug!(found = found.found, "GPUs were looked for again");
        let mut later = self.later();
        later.under_way = false;
        if let Some(merged) = known.joined_by(found) {
            tracing::info!("there are more GPUs to train on than before: {}", merged.found);
            later.found = Some(Arc::new(merged));
        }
    }

    fn later(&self) -> MutexGuard<'_, Later> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Gpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpus").field("first", &self.first).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc::{self, Sender};

    use super::super::device::{Adapter, Handle};
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
        (Search::with(Box::new(look), Repeat::Useless), sender)
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

    fn at(bus: u32) -> PciAddress {
        format!("0000:{bus:02x}:00.0").parse().unwrap()
    }

    fn cards(buses: &[u32]) -> Devices {
        let adapter = |(index, bus): (usize, &u32)| {
            Adapter::new(Handle::Discrete(index), format!("card {bus}"), Some(at(*bus)))
        };
        let adapters = buses.iter().enumerate().map(adapter).collect();
        Devices { adapters, found: format!("found: {buses:?}") }
    }

    #[test]
    fn a_gpu_that_comes_later_is_found_and_the_others_keep_their_numbers() {
        let (sender, looks) = mpsc::channel();
        let looks = Mutex::new(looks);
        let look = move || looks.lock().unwrap().recv().unwrap();
        let search = Search::with(Box::new(look), Repeat::Useful);
        search.look_again_for(&[at(2)]);
        assert!(search.so_far().is_none(), "nobody had to know yet");
        sender.send(cards(&[2])).unwrap();
        search.wait();
        // The first GPU of the bus is back.
        search.gpus.later().due = Some(Instant::now());
        search.gpus.later().missing = vec![at(1)];
        search.look_again_for(&[at(1), at(2)]);
        sender.send(cards(&[1, 2])).unwrap();
        let limit = Instant::now() + Duration::from_secs(60);
        while search.wait().gpus().count() < 2 {
            assert!(Instant::now() < limit);
            thread::yield_now();
        }
        let names: Vec<_> =
            search.wait().adapters.iter().map(|adapter| adapter.device.name.clone()).collect();
        assert_eq!(names, ["card 2", "card 1"]);
        assert_eq!(search.so_far().unwrap().found, "found: [1, 2]");
        search.look_again_for(&[at(1), at(2)]);
        assert!(!search.gpus.later().under_way);
    }

    #[test]
    fn what_stays_away_is_looked_for_ever_more_seldom() {
        let mut later = Later::default();
        let mut now = Instant::now();
        assert!(!later.is_due(&[at(1)], now));
        let mut waits = Vec::new();
        for _ in 0..10 {
            let since = now;
            while !later.is_due(&[at(1)], now) {
                now += Duration::from_secs(1);
            }
            later.under_way = false;
            waits.push((now - since).as_secs());
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]);
        assert!(!later.is_due(&[at(1), at(2)], now + Duration::from_secs(899)));
        assert!(later.is_due(&[at(1), at(2)], now + Duration::from_secs(904)), "another one begins anew");
        later.under_way = false;
        assert!(!later.is_due(&[], now + Duration::from_secs(9999)));
    }
}
