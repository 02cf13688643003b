//! Why an engine cannot start.

/// The machine or the configuration does not allow what was asked for. Each message ends with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// DEVICE_POLICY=require on a machine without a hardware GPU.
    #[error(
        "DEVICE_POLICY: \"require\" needs a hardware GPU, but {found}; install the GPU's Vulkan driver (see \
         `vulkaninfo --summary`), or set DEVICE_POLICY=prefer"
    )]
    GpuRequired {
        /// What was found instead.
        found: String,
    },
    /// TRAINING_BACKEND=wgpu on a machine without an adapter that may be used.
    #[error(
        "TRAINING_BACKEND: \"wgpu\" needs a GPU, but {found}; install the GPU's Vulkan driver, or set \
         TRAINING_BACKEND=cpu, which trains for real on the CPU"
    )]
    NoAdapter {
        /// What was found instead.
        found: String,
    },
    /// TRAINING_BACKEND=wgpu together with DEVICE_POLICY=cpu.
    #[error(
        "TRAINING_BACKEND: \"wgpu\" contradicts DEVICE_POLICY=cpu, which never uses a GPU; set \
         TRAINING_BACKEND=cpu or DEVICE_POLICY=prefer"
    )]
    GpuForbidden,
}
