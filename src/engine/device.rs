//! The devices that train: the CPU always, a GPU through wgpu where there is one.
//!
//! ```text
//! probe --own thread, 20 s--> adapters of wgpu --> hardware?  discrete, integrated, virtual: a GPU
//!                                               --> software?  only with ALLOW_SOFTWARE_ADAPTER, never a GPU
//! ```
//!
//! The probe loads the system's graphics drivers, which may hang or panic: it runs on a thread of its own and is
//! given up after a while; the worker then goes on as on a machine without a GPU.

use burn::tensor::Device;

use crate::domain::Backend;

/// Something that trains.
#[derive(Debug, Clone)]
pub struct ComputeDevice {
    /// The backend it stands for.
    pub backend: Backend,
    /// Its name, as results carry it.
    pub name: String,
    /// Burn's handle, without differentiation.
    pub device: Device,
}

impl ComputeDevice {
    /// The CPU.
    pub(crate) fn cpu() -> Self {
        Self { backend: Backend::Cpu, name: "cpu".to_owned(), device: Device::flex() }
    }
}

/// Whether an adapter is a real GPU.
#[cfg_attr(not(feature = "wgpu"), allow(dead_code, reason = "a build without GPUs never finds one"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdapterKind {
    /// A GPU.
    Hardware,
    /// A driver that computes on the CPU.
    Software,
}

/// The devices of this machine beside its CPU.
#[derive(Debug, Clone)]
pub(crate) struct Devices {
    /// The adapter that may be used, if any.
    pub(crate) adapter: Option<(ComputeDevice, AdapterKind)>,
    /// What the search for adapters found, for messages.
    pub(crate) found: String,
}

impl Devices {
    /// A machine on which no GPU was looked for.
    pub(crate) fn not_looked_for() -> Self {
        Self { adapter: None, found: "none was looked for".to_owned() }
    }

    /// Looks for adapters. Takes up to 20 seconds where a driver hangs.
    #[cfg(feature = "wgpu")]
    pub(crate) fn probe(software: SoftwareAdapters) -> Self {
        match adapter::probe(software) {
            Ok((device, kind)) => {
                let found = format!("{} was found", device.name);
                Self { adapter: Some((device, kind)), found }
            }
            Err(error) => Self { found: error.to_string(), adapter: None },
        }
    }

    /// This build has no GPU backend, so that there is nothing to look for.
    #[cfg(not(feature = "wgpu"))]
    pub(crate) fn probe(_: SoftwareAdapters) -> Self {
        Self { found: "this build has none (cargo feature `wgpu`)".to_owned(), adapter: None }
    }

    /// The adapter, if it is a real GPU.
    pub(crate) fn gpu(&self) -> Option<&ComputeDevice> {
        self.adapter.as_ref().filter(|(_, kind)| *kind == AdapterKind::Hardware).map(|(device, _)| device)
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

    use burn::tensor::{Device, DeviceKind, DeviceType};

    use super::{AdapterKind, ComputeDevice, SoftwareAdapters};
    use crate::domain::Backend;

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

    pub(super) fn probe(software: SoftwareAdapters) -> Result<(ComputeDevice, AdapterKind), ProbeError> {
        let (sender, receiver) = mpsc::channel();
        let ask = move || {
            let found = catch_unwind(AssertUnwindSafe(|| choose(software)));
            // Nobody listens any more when the search took too long.
            let _ = sender.send(found.unwrap_or(Err(ProbeError::Panicked)));
        };
        thread::Builder::new().name("adapter-probe".to_owned()).spawn(ask).map_err(|_| ProbeError::Hung)?;
        receiver.recv_timeout(PATIENCE).unwrap_or(Err(ProbeError::Hung))
    }

    fn choose(software: SoftwareAdapters) -> Result<(ComputeDevice, AdapterKind), ProbeError> {
        // Lists adapters without opening one of them.
        let adapters = Device::enumerate(DeviceType::Wgpu);
        let has = |kind: DeviceKind| adapters.iter().any(|device| *device == Device::wgpu(kind.clone()));
        let hardware = (0..INDICES)
            .map(DeviceKind::DiscreteGpu)
            .chain((0..INDICES).map(DeviceKind::IntegratedGpu))
            .chain((0..INDICES).map(DeviceKind::VirtualGpu))
            .find(|kind| has(kind.clone()));
        match (hardware, software) {
            (Some(kind), _) => Ok((open(kind), AdapterKind::Hardware)),
            (None, SoftwareAdapters::Allowed) if has(DeviceKind::Cpu) => {
                Ok((open(DeviceKind::Cpu), AdapterKind::Software))
            }
            (None, _) if has(DeviceKind::Cpu) => Err(ProbeError::OnlySoftware),
            (None, _) => Err(ProbeError::Nothing),
        }
    }

    fn open(kind: DeviceKind) -> ComputeDevice {
        let device = Device::wgpu(kind);
        let name = device.identity().map_or_else(|| "gpu".to_owned(), |identity| identity.name);
        ComputeDevice { backend: Backend::Wgpu, name, device }
    }
}
