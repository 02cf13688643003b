//! What nvml-wrapper does not offer, two functions of old drivers above all: the one place of this crate with `unsafe`.
#![allow(unsafe_code, reason = "raw NVML symbols that nvml-wrapper lacks")]

use nvml_wrapper::error::{NvmlError, nvml_try};
use nvml_wrapper::{Device, Nvml};

/// Total and used video memory in bytes by the first version of nvmlDeviceGetMemoryInfo, which drivers before R510
/// have alone. Its `used` includes what the driver keeps for itself.
///
/// # Errors
/// What NVML says.
pub(super) fn memory(device: &Device<'_>) -> Result<(u64, u64), NvmlError> {
    let symbol = device.nvml().lib().nvmlDeviceGetMemoryInfo.as_ref();
    let call = symbol.map_err(|error| NvmlError::FailedToLoadSymbol(error.to_string()))?;
    // SAFETY: the structure is three integers, for which all zeros are a value.
    let mut info = unsafe { std::mem::zeroed() };
    // SAFETY: the handle is that of a device of this library, and `info` is a structure of the type that the
    // function's own signature names.
    nvml_try(unsafe { call(device.handle(), &mut info) })?;
    Ok((info.total, info.used))
}

/// Version of CUDA that the driver supports, such as 12040 for 12.4. Unlike its second version it does not need
/// libcuda.so.1, which a container without the compute capability lacks.
///
/// # Errors
/// What NVML says.
pub(super) fn cuda_version(nvml: &Nvml) -> Result<i32, NvmlError> {
    let symbol = nvml.lib().nvmlSystemGetCudaDriverVersion.as_ref();
    let call = symbol.map_err(|error| NvmlError::FailedToLoadSymbol(error.to_string()))?;
    let mut version = 0;
    // SAFETY: the library is initialised, and `version` is an integer of the type that the signature names.
    nvml_try(unsafe { call(&mut version) })?;
    Ok(version)
}

/// A number that tells the devices of one library apart.
pub(super) fn handle(device: &Device<'_>) -> usize {
    // SAFETY: the handle is only looked at, never used.
    (unsafe { device.handle() }) as usize
}
