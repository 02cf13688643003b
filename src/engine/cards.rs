//! The GPUs that sessions are placed on, and what of their memory is given away.
//!
//! ```text
//! adapters of wgpu --PCI address--> GpuState (who watches GPUs) --> Card --choose--> device, reservation
//! ```
//!
//! A session keeps its GPU, known by its UUID, and its reservation until its thread ends. Where nobody watches the GPUs
//! (no NVML, another maker) each counts as healthy and of unknown size.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::device::{Adapter, ComputeDevice};
use super::placement::cards::{Card, Choice, choose, estimate};
use super::search::Search;
use super::session::SessionPlan;
use crate::domain::{Backend, ErrorCode, PciAddress, TaskError};

/// For how long a GPU gets nothing after its driver told a trainer that it is lost, whatever NVML says: that one takes a
/// while to notice.
const SUSPICION: Duration = Duration::from_secs(10);

/// Whether a GPU can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuCondition {
    /// It answers.
    Healthy,
    /// Its driver does not answer now: it gets nothing new, and what runs on it goes on.
    Silent,
    /// It is lost, and what ran on it with it.
    Lost,
}

/// A GPU as whoever watches it sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuState {
    /// Its UUID.
    pub uuid: String,
    /// Where it is.
    pub address: PciAddress,
    /// Whether it can be used.
    pub condition: GpuCondition,
    /// Its video memory in bytes; None where it has none of its own, or its driver does not tell.
    pub memory_bytes: Option<u64>,
    /// What other processes use of it, in bytes.
    pub others_bytes: u64,
}

/// Watches GPUs. Answers at once.
pub trait GpuWatch: Send + Sync + 'static {
    /// The GPUs that may be used, as they are now; None where GPUs are not watched.
    fn gpus(&self) -> Option<Vec<GpuState>>;

    /// Whether nothing may be placed on the GPU at `address`.
    fn forbids(&self, _address: Option<PciAddress>) -> bool {
        false
    }
}

/// Why a session has no GPU.
#[derive(Debug)]
pub(crate) enum NotPlaced {
    /// It may get one later.
    Wait,
    /// It will not.
    Never(TaskError),
}

#[derive(Debug, Clone, Copy)]
struct Held {
    adapter: usize,
    bytes: u64,
}

#[derive(Default)]
struct State {
    next: u64,
    held: BTreeMap<u64, Held>,
    suspects: BTreeMap<usize, Instant>,
    /// Those that this process cannot open any more.
    dead: BTreeSet<usize>,
}

/// All GPUs.
pub(crate) struct Cards {
    search: Search,
    watch: Option<Arc<dyn GpuWatch>>,
    state: Mutex<State>,
}

impl Cards {
    pub(crate) fn new(search: Search, watch: Option<Arc<dyn GpuWatch>>) -> Self {
        Self { search, watch, state: Mutex::default() }
    }

    /// Whether a session on `device` has to have a real GPU.
    pub(crate) fn are_needed_by(&self, device: &ComputeDevice) -> bool {
        device.backend == Backend::Wgpu
            && self.search.so_far().is_some_and(|devices| devices.gpus().next().is_some())
    }

    /// A GPU with room for a session of `plan`, and the room.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        plan: &SessionPlan,
    ) -> Result<(ComputeDevice, Reservation), NotPlaced> {
        let need_bytes = estimate(plan.entry, &plan.hyperparameters);
        let adapters = self.adapters();
        let states = self.states();
        let state_of = |adapter: &Adapter| {
            let states = states.as_ref()?;
            Some(states.iter().find(|state| Some(state.address) == adapter.address))
        };
        let mut state = self.lock();
        if !adapters.is_empty() && state.dead.len() == adapters.len() {
            let message = "no GPU can be opened any more by this process, which has lost them; restart the worker, or set \
                           TASK_ISOLATION=process, which opens them anew";
            return Err(NotPlaced::Never(TaskError::new(ErrorCode::Unavailable, message)));
        }
        let cards: Vec<Card> = adapters
            .iter()
            .enumerate()
            .map(|(position, adapter)| {
                let mine = || state.held.values().filter(|held| held.adapter == position);
                let suspect = state.is_suspect(position) || self.forbids(adapter);
                let seen = state_of(adapter);
                // Where GPUs are watched, one that is not among them is not ours to use.
                let condition = match &seen {
                    None => GpuCondition::Healthy,
                    Some(state) => state.map_or(GpuCondition::Lost, |state| state.condition),
                };
                Card {
                    healthy: condition == GpuCondition::Healthy && !suspect,
                    total_bytes: seen.flatten().and_then(|state| state.memory_bytes),
                    others_bytes: seen.flatten().map_or(0, |state| state.others_bytes),
                    reserved_bytes: mine().map(|held| held.bytes).sum(),
                    sessions: mine().count(),
                }
            })
            .collect();
        match choose(&cards, need_bytes) {
            Choice::Wait => Err(NotPlaced::Wait),
            Choice::TooBig { most_bytes } => {
                let mib = |bytes: u64| bytes >> 20;
                let message = format!(
                    "{} with batch_size {} needs about {} MiB of video memory, and the largest GPU has {} MiB; allowed: {}, \
                     or hyperparameter backend=cpu",
                    plan.entry.name,
                    plan.hyperparameters.batch_size,
                    mib(need_bytes),
                    mib(most_bytes),
                    plan.entry.lighter()
                );
                Err(NotPlaced::Never(TaskError::new(ErrorCode::ResourceExhausted, message)))
            }
            Choice::Card(position) => {
                state.next += 1;
                let number = state.next;
                state.held.insert(number, Held { adapter: position, bytes: need_bytes });
                drop(state);
                let adapter = &adapters[position];
                let gpu = state_of(adapter).flatten().map(|state| state.uuid.clone());
                let device = ComputeDevice { gpu, ..adapter.device.clone() };
                let reservation =
                    Reservation { cards: Arc::clone(self), number, position, address: adapter.address };
                Ok((device, reservation))
            }
        }
    }

    /// Why no session gets a GPU now, where there are some and not one of them can be used.
    pub(crate) fn trouble(&self) -> Option<String> {
        let adapters = self.adapters();
        if !adapters.is_empty() && adapters.iter().all(|adapter| self.forbids(adapter)) {
            let why = "CUDA_VISIBLE_DEVICES or NVIDIA_VISIBLE_DEVICES hides them all, or NVML has not told yet which";
            return Some(format!("no GPU can be used: {why}"));
        }
        let states = self.states()?;
        let mut told = Vec::new();
        for adapter in &adapters {
            let state = states.iter().find(|state| Some(state.address) == adapter.address);
            let condition = state.map_or(GpuCondition::Lost, |state| state.condition);
            let what = match condition {
                GpuCondition::Healthy => return None,
                GpuCondition::Silent => "does not answer",
                GpuCondition::Lost => "is lost",
            };
            let uuid = state.map(|state| format!(" ({})", state.uuid)).unwrap_or_default();
            told.push(format!("{}{uuid} {what}", adapter.device.name));
        }
        Some(format!("no GPU can be used: {}", told.join(", ")))
    }

    /// How many there are.
    #[cfg(target_os = "linux")]
    pub(crate) fn count(&self) -> usize {
        self.adapters().len()
    }

    /// Numbers of the GPUs that are lost, as whoever watches them says.
    pub(crate) fn lost(&self) -> Vec<usize> {
        let states = self.states().unwrap_or_default();
        let is_lost = |adapter: &Adapter| {
            states
                .iter()
                .any(|state| Some(state.address) == adapter.address && state.condition == GpuCondition::Lost)
        };
        self.adapters().iter().enumerate().filter(|(_, adapter)| is_lost(adapter)).map(|(at, _)| at).collect()
    }

    /// Looks for adapters again where healthy GPUs have none yet.
    pub(crate) fn look_again(&self) {
        let Some(watch) = &self.watch else { return };
        let states = watch.gpus().unwrap_or_default();
        let healthy = states.iter().filter(|state| state.condition == GpuCondition::Healthy);
        let wanted: Vec<PciAddress> =
            healthy.map(|state| state.address).filter(|address| !watch.forbids(Some(*address))).collect();
        self.search.look_again_for(&wanted);
    }

    /// Whether nothing may be placed on `adapter`, as far as it is known by now.
    fn forbids(&self, adapter: &Adapter) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.forbids(adapter.address))
    }

    fn adapters(&self) -> Vec<Adapter> {
        let devices = self.search.so_far();
        devices.map(|devices| devices.gpus().cloned().collect()).unwrap_or_default()
    }

    /// What is known of GPUs; None where nothing that an adapter matches is watched.
    fn states(&self) -> Option<Vec<GpuState>> {
        let states = self.watch.as_ref()?.gpus()?;
        let matches = |adapter: &Adapter| states.iter().any(|state| Some(state.address) == adapter.address);
        self.adapters().iter().any(matches).then_some(states)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a trainer has seen it lost a moment ago, or for ever.
    fn is_suspect(&self, position: usize) -> bool {
        self.dead.contains(&position)
            || self.suspects.get(&position).is_some_and(|since| since.elapsed() < SUSPICION)
    }
}

impl fmt::Debug for Cards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cards").field("held", &self.lock().held).finish_non_exhaustive()
    }
}

/// Room on a GPU, given back when it is dropped.
pub(crate) struct Reservation {
    cards: Arc<Cards>,
    number: u64,
    position: usize,
    address: Option<PciAddress>,
}

impl Reservation {
    /// Number of the adapter among all.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Where it is.
    pub(crate) fn address(&self) -> Option<PciAddress> {
        self.address
    }

    /// Whether the GPU is gone.
    pub(crate) fn is_lost(&self) -> bool {
        if self.cards.lock().is_suspect(self.position) {
            return true;
        }
        let states = self.cards.watch.as_ref().and_then(|watch| watch.gpus()).unwrap_or_default();
        let mine = states.iter().find(|state| Some(state.address) == self.address);
        mine.is_some_and(|state| state.condition == GpuCondition::Lost)
    }

    /// A trainer was told that the GPU is lost.
    pub(crate) fn suspect(&self) {
        self.cards.lock().suspects.insert(self.position, Instant::now());
    }

    /// This process has lost the GPU, and what it has loaded of the driver does not open it anew.
    pub(crate) fn give_up(&self) {
        self.cards.lock().dead.insert(self.position);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.cards.lock().held.remove(&self.number);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::Hyperparameters;
    use crate::engine::device::{Devices, Handle};
    use crate::engine::trainer::MODELS;

    /// GPUs as the test says; those that are not among them are forbidden.
    #[derive(Default)]
    pub(in crate::engine) struct Told(pub(in crate::engine) Mutex<Vec<GpuState>>);

    impl GpuWatch for Told {
        fn gpus(&self) -> Option<Vec<GpuState>> {
            Some(self.0.lock().unwrap().clone()).filter(|gpus| !gpus.is_empty())
        }

        fn forbids(&self, address: Option<PciAddress>) -> bool {
            !self.0.lock().unwrap().iter().any(|gpu| Some(gpu.address) == address)
        }
    }

    /// `count` cards of wgpu that train on the CPU, and NVML's view of them with `memory_bytes` each.
    pub(in crate::engine) fn machine(count: usize, memory_bytes: u64) -> (Search, Arc<Told>) {
        let address = |index: usize| format!("0000:{:02x}:00.0", index + 1).parse().unwrap();
        let adapter = |index: usize| Adapter {
            device: ComputeDevice {
                backend: Backend::Wgpu,
                name: format!("card {index}"),
                ..ComputeDevice::cpu()
            },
            handle: Handle::Discrete(index),
            address: Some(address(index)),
        };
        let state = |index: usize| GpuState {
            uuid: format!("GPU-{index}"),
            address: address(index),
            condition: GpuCondition::Healthy,
            memory_bytes: Some(memory_bytes),
            others_bytes: 0,
        };
        let devices =
            Devices { adapters: (0..count).map(adapter).collect(), found: "found: cards".to_owned() };
        (Search::known(devices), Arc::new(Told(Mutex::new((0..count).map(state).collect()))))
    }

    pub(in crate::engine) fn plan() -> SessionPlan {
        SessionPlan {
            entry: &MODELS[0],
            dataset_path: "builtin:iris".to_owned(),
            hyperparameters: Hyperparameters::default(),
            seed: 1,
            device: ComputeDevice { backend: Backend::Wgpu, ..ComputeDevice::cpu() },
        }
    }

    #[test]
    fn a_reservation_is_given_back_and_an_unhealthy_card_gets_none() {
        let room_for_one = estimate(&MODELS[0], &Hyperparameters::default()) + 1;
        let (search, told) = machine(2, room_for_one);
        let cards = Arc::new(Cards::new(search, Some(Arc::clone(&told) as Arc<dyn GpuWatch>)));
        told.0.lock().unwrap()[0].condition = GpuCondition::Silent;
        let (device, first) = cards.reserve(&plan()).unwrap();
        assert_eq!((device.gpu.as_deref(), device.name.as_str()), (Some("GPU-1"), "card 1"));
        assert!(matches!(cards.reserve(&plan()), Err(NotPlaced::Wait)), "one is silent, one is full");
        told.0.lock().unwrap()[0].condition = GpuCondition::Healthy;
        let (device, _second) = cards.reserve(&plan()).unwrap();
        assert_eq!(device.gpu.as_deref(), Some("GPU-0"));
        drop(first);
        assert_eq!(cards.reserve(&plan()).unwrap().0.gpu.as_deref(), Some("GPU-1"));
        told.0.lock().unwrap().iter_mut().for_each(|state| state.memory_bytes = Some(1 << 20));
        let Err(NotPlaced::Never(error)) = cards.reserve(&plan()) else { panic!("it never fits") };
        assert_eq!(error.code, ErrorCode::ResourceExhausted);
        assert!(error.message.contains("batch_size 32") && error.message.contains("1 MiB"), "{error}");
    }

    #[test]
    fn a_lost_card_is_known_by_its_watcher_or_by_its_trainer() {
        let (search, told) = machine(1, 8 << 30);
        let cards = Arc::new(Cards::new(search, Some(Arc::clone(&told) as Arc<dyn GpuWatch>)));
        let (_, reservation) = cards.reserve(&plan()).unwrap();
        assert!(!reservation.is_lost());
        told.0.lock().unwrap()[0].condition = GpuCondition::Silent;
        assert!(!reservation.is_lost(), "what runs goes on while NVML is silent");
        told.0.lock().unwrap()[0].condition = GpuCondition::Lost;
        assert!(reservation.is_lost());
        told.0.lock().unwrap()[0].condition = GpuCondition::Healthy;
        reservation.suspect();
        assert!(reservation.is_lost() && matches!(cards.reserve(&plan()), Err(NotPlaced::Wait)));
    }

    #[test]
    fn it_is_trouble_when_no_card_can_be_used() {
        let (search, told) = machine(2, 8 << 30);
        let cards = Cards::new(search.clone(), Some(Arc::clone(&told) as Arc<dyn GpuWatch>));
        told.0.lock().unwrap()[0].condition = GpuCondition::Lost;
        assert_eq!(cards.trouble(), None, "one is left");
        told.0.lock().unwrap()[1].condition = GpuCondition::Silent;
        let trouble = "no GPU can be used: card 0 (GPU-0) is lost, card 1 (GPU-1) does not answer";
        assert_eq!(cards.trouble().as_deref(), Some(trouble));
        assert_eq!(Cards::new(search, None).trouble(), None, "nobody watches them");
        let (none, told) = machine(0, 0);
        assert_eq!(Cards::new(none, Some(told)).trouble(), None);
    }

    #[test]
    fn memory_that_nobody_tells_is_no_limit() {
        let (search, told) = machine(1, 0);
        told.0.lock().unwrap()[0].memory_bytes = None;
        let cards = Arc::new(Cards::new(search, Some(Arc::clone(&told) as Arc<dyn GpuWatch>)));
        assert_eq!(cards.reserve(&plan()).unwrap().0.gpu.as_deref(), Some("GPU-0"));
    }

    #[test]
    fn nothing_is_placed_where_it_is_forbidden_whatever_is_known_of_the_gpus() {
        let (search, told) = machine(2, 8 << 30);
        let cards = Arc::new(Cards::new(search, Some(Arc::clone(&told) as Arc<dyn GpuWatch>)));
        let all = std::mem::take(&mut *told.0.lock().unwrap());
        assert!(matches!(cards.reserve(&plan()), Err(NotPlaced::Wait)), "NVML has told nothing yet");
        told.0.lock().unwrap().push(all[1].clone());
        assert_eq!(cards.reserve(&plan()).unwrap().0.gpu.as_deref(), Some("GPU-1"));
    }

    #[test]
    fn what_this_process_cannot_open_any_more_is_given_to_nobody() {
        let (search, told) = machine(2, 8 << 30);
        let cards = Arc::new(Cards::new(search, Some(Arc::clone(&told) as Arc<dyn GpuWatch>)));
        for expected in ["GPU-0", "GPU-1"] {
            let (device, reservation) = cards.reserve(&plan()).unwrap();
            assert_eq!(device.gpu.as_deref(), Some(expected));
            reservation.give_up();
            assert!(reservation.is_lost());
        }
        let Err(NotPlaced::Never(error)) = cards.reserve(&plan()) else { panic!("none can be opened") };
        assert!(error.code == ErrorCode::Unavailable && error.message.contains("restart"), "{error}");
    }

    #[test]
    fn cards_that_nobody_watches_are_healthy_and_shared_evenly() {
        let (search, _) = machine(2, 0);
        let cards = Arc::new(Cards::new(search, None));
        let given: Vec<_> = (0..4).map(|_| cards.reserve(&plan()).unwrap()).collect();
        let names: Vec<_> = given.iter().map(|(device, _)| device.name.as_str()).collect();
        assert_eq!(names, ["card 0", "card 1", "card 0", "card 1"]);
        assert!(given.iter().all(|(device, _)| device.gpu.is_none()));
    }
}
