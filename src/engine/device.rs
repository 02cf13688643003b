//! The devices that train: the CPU always, a GPU through wgpu where there is one.
//!
//! ```text
//! probe --own thread, 20 s--> adapters of wgpu --> hardware?  discrete, integrated, virtual: a GPU
//!                                               --> software?  only with ALLOW_SOFTWARE_ADAPTER, never a GPU
//! ```
//!
//! The probe loads the system's graphics drivers, which may hang or panic: it runs on a thread of its own and is
//! given up after a while; the worker then goes on as on a machine without a GPU. Where tasks are trained in processes of
//! their own, so is the probe ([`super::probe`]).

use burn::tensor::Device;
#[cfg(feature = "wgpu")]
use burn::tensor::DeviceKind;
use serde::{Deserialize, Serialize};

use crate::domain::{Backend, PciAddress};

/// Something that trains.
#[derive(Debug, Clone)]
pub struct ComputeDevice {
    /// The backend it stands for.
    pub backend: Backend,
    /// Its name, as results carry it.
    pub name: String,
    /// Burn's handle, without differentiation.
    pub device: Device,
    /// UUID of the GPU, where it is watched.
    pub(crate) gpu: Option<String>,
}

impl ComputeDevice {
    /// The CPU.
    pub(crate) fn cpu() -> Self {
        Self { backend: Backend::Cpu, name: "cpu".to_owned(), device: Device::flex(), gpu: None }
    }
}

/// Which adapter of wgpu, in the order of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Handle {
    /// A card of its own.
    Discrete(usize),
    /// One beside the CPU.
    Integrated(usize),
    /// A part of one, in a virtual machine.
    Virtual(usize),
    /// The driver that computes on the CPU.
    Software,
}

impl Handle {
    /// Burn's handle, which opens nothing yet.
    #[cfg(feature = "wgpu")]
    pub(crate) fn device(self) -> Device {
        Device::wgpu(match self {
            Self::Discrete(index) => DeviceKind::DiscreteGpu(index),
            Self::Integrated(index) => DeviceKind::IntegratedGpu(index),
            Self::Virtual(index) => DeviceKind::VirtualGpu(index),
            Self::Software => DeviceKind::Cpu,
        })
    }

    /// This build has no GPU backend and finds no adapter.
    #[cfg(not(feature = "wgpu"))]
    pub(crate) fn device(self) -> Device {
        Device::flex()
    }
}

/// An adapter of wgpu that may be used.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    /// What trains on it.
    pub(crate) device: ComputeDevice,
    /// Which one it is.
    pub(crate) handle: Handle,
    /// Where it is, if its driver tells.
    pub(crate) address: Option<PciAddress>,
}

impl Adapter {
    /// The adapter `handle`, not opened yet.
    #[cfg_attr(not(feature = "wgpu"), allow(dead_code, reason = "a build without GPUs never finds one"))]
    pub(crate) fn new(handle: Handle, name: String, address: Option<PciAddress>) -> Self {
        let device = ComputeDevice { backend: Backend::Wgpu, name, device: handle.device(), gpu: None };
        Self { device, handle, address }
    }
}

/// The devices of this machine beside its CPU.
#[derive(Debug, Clone)]
pub(crate) struct Devices {
    /// The adapters that may be used: all real GPUs, or else the software adapter where that is allowed.
    pub(crate) adapters: Vec<Adapter>,
    /// What the search for adapters found, for messages.
    pub(crate) found: String,
}

impl Devices {
    /// A machine on which no GPU was looked for.
    pub(crate) fn not_looked_for() -> Self {
        Self { adapters: Vec::new(), found: "none was looked for".to_owned() }
    }

    /// Looks for adapters. Takes up to 20 seconds where a driver hangs.
    #[cfg(feature = "wgpu")]
    pub(crate) fn probe(software: SoftwareAdapters) -> Self {
        match adapter::probe(software) {
            Ok(adapters) => {
                let names: Vec<&str> = adapters.iter().map(|adapter| adapter.device.name.as_str()).collect();
                Self { found: format!("found: {}", names.join(", ")), adapters }
            }
            Err(error) => Self { found: error.to_string(), adapters: Vec::new() },
        }
    }

    /// This build has no GPU backend, so that there is nothing to look for.
    #[cfg(not(feature = "wgpu"))]
    pub(crate) fn probe(_: SoftwareAdapters) -> Self {
        Self { found: "this build has none (cargo feature `wgpu`)".to_owned(), adapters: Vec::new() }
    }

    /// Keeps the adapters that `may` be used.
    pub(crate) fn keep(&mut self, may: impl Fn(&Adapter) -> bool) {
        let before = self.adapters.len();
        self.adapters.retain(may);
        if self.adapters.len() < before {
            self.found = format!("{}, of which {} may be used", self.found, self.adapters.len());
        }
    }

    /// These, and after them the GPUs of `later` that are new; None where there are none.
    pub(crate) fn joined_by(&self, later: Self) -> Option<Self> {
        let known = |adapter: &Adapter| self.gpus().any(|known| known.address == adapter.address);
        let new: Vec<Adapter> = later.gpus().filter(|adapter| !known(adapter)).cloned().collect();
        let adapters = || self.gpus().cloned().chain(new.iter().cloned()).collect();
        (!new.is_empty()).then(|| Self { adapters: adapters(), found: later.found })
    }

    /// The first adapter, which stands for all.
    pub(crate) fn adapter(&self) -> Option<&ComputeDevice> {
        self.adapters.first().map(|adapter| &adapter.device)
    }

    /// The first real GPU.
    pub(crate) fn gpu(&self) -> Option<&ComputeDevice> {
        self.gpus().next().map(|adapter| &adapter.device)
    }

    /// All real GPUs.
    pub(crate) fn gpus(&self) -> impl Iterator<Item = &Adapter> {
        self.adapters.iter().filter(|adapter| adapter.handle != Handle::Software)
    }
}

/// ALLOW_SOFTWARE_ADAPTER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SoftwareAdapters {
    /// Taken where there is no GPU, for tests.
    Allowed,
    /// Not looked at.
    Ignored,
}

#[cfg(feature = "wgpu")]
mod adapter {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use burn::tensor::{Device, DeviceType};

    use futures_util::FutureExt as _;

    use super::{Adapter, Handle, SoftwareAdapters};

    /// How long drivers may take to load and answer.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Devices of one kind that are looked at.
    const INDICES: usize = 16;

    #[derive(Debug, thiserror::Error)]
    pub(super) enum ProbeError {
        #[error("no adapter was found")]
        Nothing,
        #[error("only a software adapter was found")]
        OnlySoftware,
        #[error("the graphics driver failed while it was asked for its adapters")]
        Panicked,
        #[error("the graphics driver did not answer within {} seconds", PATIENCE.as_secs())]
        Hung,
    }

    pub(super) fn probe(software: SoftwareAdapters) -> Result<Vec<Adapter>, ProbeError> {
        let (sender, receiver) = mpsc::channel();
        let ask = move || {
            let found = catch_unwind(AssertUnwindSafe(|| choose(software)));
            // Nobody listens any more when the search took too long.
            let _ = sender.send(found.unwrap_or(Err(ProbeError::Panicked)));
        };
        thread::Builder::new().name("adapter-probe".to_owned()).spawn(ask).map_err(|_| ProbeError::Hung)?;
        receiver.recv_timeout(PATIENCE).unwrap_or(Err(ProbeError::Hung))
    }

    /// The adapter of a kind at an index.
    type Numbered = fn(usize) -> Handle;

    fn choose(software: SoftwareAdapters) -> Result<Vec<Adapter>, ProbeError> {
        // Lists adapters without opening one of them.
        let adapters = Device::enumerate(DeviceType::Wgpu);
        let has = |handle: Handle| adapters.contains(&handle.device());
        // Burn counts each kind in the order in which Vulkan lists its adapters.
        let listed = listed();
        let info = |kind: wgpu::DeviceType, index: usize| {
            listed.iter().filter(|info| info.device_type == kind).nth(index)
        };
        let kinds: [(wgpu::DeviceType, Numbered); 3] = [
            (wgpu::DeviceType::DiscreteGpu, Handle::Discrete),
            (wgpu::DeviceType::IntegratedGpu, Handle::Integrated),
            (wgpu::DeviceType::VirtualGpu, Handle::Virtual),
        ];
        let of_kind = |(listed_as, kind): (wgpu::DeviceType, Numbered)| {
            (0..INDICES)
                .filter(move |index| has(kind(*index)))
                .map(move |index| adapter(kind(index), info(listed_as, index)))
        };
        let hardware: Vec<Adapter> = kinds.into_iter().flat_map(of_kind).collect();
        let software_info = info(wgpu::DeviceType::Cpu, 0);
        match (hardware.is_empty(), software) {
            (false, _) => Ok(hardware),
            (true, SoftwareAdapters::Allowed) if has(Handle::Software) => {
                Ok(vec![adapter(Handle::Software, software_info)])
            }
            (true, _) if has(Handle::Software) => Err(ProbeError::OnlySoftware),
            (true, _) => Err(ProbeError::Nothing),
        }
    }

    /// What Vulkan says of its adapters; empty where there is no Vulkan.
    fn listed() -> Vec<wgpu::AdapterInfo> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::VULKAN,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        // Natively the answer is there at once.
        let adapters = instance.enumerate_adapters(wgpu::Backends::VULKAN).now_or_never().unwrap_or_default();
        adapters.iter().map(wgpu::Adapter::get_info).collect()
    }

    /// Not opened yet, unless nothing else tells its name.
    fn adapter(handle: Handle, info: Option<&wgpu::AdapterInfo>) -> Adapter {
        let name = match info {
            Some(info) => info.name.clone(),
            None => handle.device().identity().map_or_else(|| "gpu".to_owned(), |identity| identity.name),
        };
        let address = info.and_then(|info| info.device_pci_bus_id.parse().ok());
        Adapter::new(handle, name, address)
    }
}
