//! Every GPU that was seen since the start, and what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::driver::{Sample, Sampled};
use super::events::Xid;
use super::snapshot::{GpuDevice, GpuHealth, GpuReadings, ThrottleReason};
use super::visible::{Candidate, Visible};
use super::{NvmlState, Purpose};
use crate::domain::{HiddenGpus, PciAddress};

/// Longest time between two samples of which the later one still tells what was in between.
pub(super) const LONGEST_GAP: Duration = Duration::from_secs(3);

/// What to do where NVML sees GPUs and Vulkan none.
const NO_ADAPTER: &str = "has no Vulkan adapter, so that nothing can be trained on it: in a container set \
     NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics and see that the driver's ICD file (nvidia_icd.json) and the \
     Vulkan loader (libvulkan1) are there";

/// Something that an operator should read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Lost(String),
    Back(String),
}

impl Change {
    pub(super) fn log(&self) {
        match self {
            Self::Lost(uuid) => tracing::error!(gpu = uuid, "a GPU is lost"),
            Self::Back(uuid) => tracing::info!(gpu = uuid, "a GPU is back"),
        }
    }
}

struct Known {
    device: GpuDevice,
    parent: Option<String>,
    sampled: Instant,
}

/// The GPUs.
pub(super) struct Inventory {
    visible: Visible,
    purpose: Purpose,
    known: Vec<Known>,
    /// The most GPUs that NVML has counted.
    count: u32,
    /// How many of those that NVML counts did not answer last.
    silent: usize,
    warned: BTreeSet<String>,
}

impl Inventory {
    pub(super) fn new(visible: Visible, purpose: Purpose) -> Self {
        Self { visible, purpose, known: Vec::new(), count: 0, silent: 0, warned: BTreeSet::new() }
    }

    /// Takes over a sample; GPUs that it does not have are lost, and slices of GPUs that it has are there no more.
    pub(super) fn update(&mut self, sample: Sample) -> Vec<Change> {
        let mut changes = Vec::new();
        self.count = self.count.max(sample.count);
        let whole = sample.devices.iter().filter(|sampled| sampled.parent.is_none()).count();
        self.silent = (sample.count as usize).saturating_sub(whole);
        let answered: BTreeSet<String> =
            sample.devices.iter().map(|sampled| sampled.info.uuid.clone()).collect();
        self.known.retain(|known| {
            answered.contains(&known.device.info.uuid)
                || !known.parent.as_ref().is_some_and(|parent| answered.contains(parent))
        });
        for known in &mut self.known {
            let device = &mut known.device;
            if !answered.contains(&device.info.uuid) && device.health != GpuHealth::Lost {
                device.health = GpuHealth::Lost;
                device.readings = GpuReadings::default();
                changes.push(Change::Lost(device.info.uuid.clone()));
            }
        }
        for sampled in sample.devices {
            match self.known.iter_mut().find(|known| known.device.info.uuid == sampled.info.uuid) {
                Some(known) => changes.extend(known.take(sampled)),
                None => self.known.push(Known::new(sampled)),
            }
        }
        self.known.sort_by_key(|known| (known.device.info.index, known.device.info.mig));
        changes
    }

    /// Nothing is known of any GPU now.
    pub(super) fn withdraw(&mut self) {
        for known in &mut self.known {
            known.device.readings = GpuReadings::default();
            if known.device.health == GpuHealth::Healthy {
                known.device.health = GpuHealth::Unknown;
            }
        }
    }

    pub(super) fn xid(&mut self, xid: &Xid) {
        if let Some(known) = self.known.iter_mut().find(|known| known.device.info.uuid == xid.uuid) {
            *known.device.xid_errors.entry(xid.number).or_default() += 1;
        }
    }

    /// Whether a GPU is lost, be it one that has never answered.
    pub(super) fn has_lost(&self) -> bool {
        self.silent > 0 || self.known.iter().any(|known| known.device.health == GpuHealth::Lost)
    }

    /// Whether GPUs are hidden and nobody knows which, in `state` of NVML.
    fn is_blind(&self, state: NvmlState) -> bool {
        self.count == 0 && state != NvmlState::Running && self.visible.hides(state)
    }

    /// For each GPU, whether this worker may use it.
    fn visible(&self) -> Vec<bool> {
        let candidates: Vec<Candidate<'_>> = self
            .known
            .iter()
            .map(|known| Candidate {
                index: known.device.info.index,
                uuid: &known.device.info.uuid,
                parent: known.parent.as_deref(),
            })
            .collect();
        self.visible.select(&candidates, self.count)
    }

    /// Where those are that it may not use, neither as a whole nor in slices, while NVML is in `state`.
    pub(super) fn hidden(&self, state: NvmlState) -> HiddenGpus {
        if self.is_blind(state) {
            return HiddenGpus::Unknown;
        }
        let address = |known: &Known| known.device.info.pci_bus_id.parse::<PciAddress>().ok();
        let visible = self.visible();
        let of = |wanted: bool| self.known.iter().zip(&visible).filter(move |(_, is)| **is == wanted);
        let used: Vec<_> = of(true).filter_map(|(known, _)| address(known)).collect();
        let mut hidden: Vec<_> = of(false).filter_map(|(known, _)| address(known)).collect();
        hidden.retain(|address| !used.contains(address));
        HiddenGpus::At(hidden)
    }

    /// The GPUs that this worker may use, with the adapters at `adapters` where these are known.
    pub(super) fn devices(&self, adapters: Option<&[PciAddress]>) -> Vec<GpuDevice> {
        let visible = self.visible();
        let visible = self.known.iter().zip(visible).filter(|(_, visible)| *visible);
        visible
            .map(|(known, _)| {
                let mut device = known.device.clone();
                let address = device.info.pci_bus_id.parse::<PciAddress>().ok();
                let is_there =
                    |adapters: &[PciAddress]| address.is_some_and(|address| adapters.contains(&address));
                // Vulkan knows nothing of slices.
                let in_slices = device.info.mig || device.partitioned;
                device.adapter_matched = adapters.filter(|_| !in_slices).map(is_there);
                device
            })
            .collect()
    }

    /// What an operator has to mend, while NVML is in `state`.
    pub(super) fn warnings(&self, devices: &[GpuDevice], state: NvmlState) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.purpose == Purpose::Training && state != NvmlState::Starting && self.is_blind(state) {
            warnings.push(format!("{}; {}", HiddenGpus::UNKNOWN, HiddenGpus::REPAIR));
        }
        for device in devices {
            let name = format!("GPU {} ({})", device.info.index, device.info.uuid);
            if device.health == GpuHealth::Lost {
                warnings.push(format!(
                    "{name} is lost: look for its Xid errors in the kernel's log; it has to be reset (`nvidia-smi -r`) or \
                     the machine restarted"
                ));
            } else if self.purpose == Purpose::Training
                && device.is_usable()
                && device.adapter_matched == Some(false)
            {
                warnings.push(format!("{name} {NO_ADAPTER}"));
            }
        }
        warnings
    }

    /// Those of `warnings` that were not there before.
    pub(super) fn news(&mut self, warnings: &[String]) -> Vec<String> {
        let now: BTreeSet<String> = warnings.iter().cloned().collect();
        let news = now.difference(&self.warned).cloned().collect();
        self.warned = now;
        news
    }
}

impl Known {
    fn new(sampled: Sampled) -> Self {
        let Sampled { info, parent, partitioned, readings, at } = sampled;
        let device = GpuDevice {
            info,
            health: GpuHealth::Healthy,
            partitioned,
            adapter_matched: None,
            readings,
            xid_errors: BTreeMap::new(),
            throttled: ThrottleReason::ALL.map(|reason| (reason, Duration::ZERO)).into(),
        };
        Self { device, parent, sampled: at }
    }

    fn take(&mut self, sampled: Sampled) -> Option<Change> {
        let Sampled { info, partitioned, readings, at, .. } = sampled;
        let passed = at.saturating_duration_since(self.sampled);
        if passed <= LONGEST_GAP {
            for reason in readings.throttle_reasons.iter().flatten() {
                *self.device.throttled.entry(*reason).or_default() += passed;
            }
        }
        let back = self.device.health == GpuHealth::Lost;
        let uuid = info.uuid.clone();
        (self.device.info, self.device.partitioned) = (info, partitioned);
        (self.device.readings, self.device.health, self.sampled) = (readings, GpuHealth::Healthy, at);
        back.then_some(Change::Back(uuid))
    }
}
