//! Numbers and layouts of NVML's C interface, as `nvml.h` has them.
#![allow(missing_docs, reason = "named and described in nvml.h")]

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

pub const SUCCESS: u32 = 0;
pub const UNINITIALIZED: u32 = 1;
pub const INVALID_ARGUMENT: u32 = 2;
pub const NOT_SUPPORTED: u32 = 3;
pub const NOT_FOUND: u32 = 6;
pub const INSUFFICIENT_SIZE: u32 = 7;
pub const DRIVER_NOT_LOADED: u32 = 9;
pub const TIMEOUT: u32 = 10;
pub const LIBRARY_NOT_FOUND: u32 = 12;
pub const GPU_IS_LOST: u32 = 15;
pub const LIB_RM_VERSION_MISMATCH: u32 = 18;
pub const ARGUMENT_VERSION_MISMATCH: u32 = 25;
pub const UNKNOWN: u32 = 999;

pub const EVENT_XID: u64 = 8;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct PciInfo {
    pub bus_id_legacy: [c_char; 16],
    pub domain: c_uint,
    pub bus: c_uint,
    pub device: c_uint,
    pub pci_device_id: c_uint,
    pub pci_subsystem_id: c_uint,
    pub bus_id: [c_char; 32],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Utilization {
    pub gpu: c_uint,
    pub memory: c_uint,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memory {
    pub total: c_ulonglong,
    pub free: c_ulonglong,
    pub used: c_ulonglong,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemoryV2 {
    pub version: c_uint,
    pub total: c_ulonglong,
    pub reserved: c_ulonglong,
    pub free: c_ulonglong,
    pub used: c_ulonglong,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Temperature {
    pub version: c_uint,
    pub sensor_type: c_uint,
    pub temperature: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ViolationTime {
    pub reference_time: c_ulonglong,
    pub violation_time: c_ulonglong,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProcessInfo {
    pub pid: c_uint,
    pub used_gpu_memory: c_ulonglong,
    pub gpu_instance_id: c_uint,
    pub compute_instance_id: c_uint,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProcessUtilizationSample {
    pub pid: c_uint,
    pub time_stamp: c_ulonglong,
    pub sm_util: c_uint,
    pub mem_util: c_uint,
    pub enc_util: c_uint,
    pub dec_util: c_uint,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct DeviceAttributes {
    pub multiprocessor_count: c_uint,
    pub shared_copy_engine_count: c_uint,
    pub shared_decoder_count: c_uint,
    pub shared_encoder_count: c_uint,
    pub shared_jpeg_count: c_uint,
    pub shared_ofa_count: c_uint,
    pub gpu_instance_slice_count: c_uint,
    pub compute_instance_slice_count: c_uint,
    pub memory_size_mb: c_ulonglong,
}

/// An opaque handle.
pub type Device = *const std::ffi::c_void;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct EventData {
    pub device: Device,
    pub event_type: c_ulonglong,
    pub event_data: c_ulonglong,
    pub gpu_instance_id: c_uint,
    pub compute_instance_id: c_uint,
}

/// Size and offsets of each structure: (name in nvml.h, its size, (name of field in nvml.h, its offset)).
pub type Layout = (&'static str, usize, Vec<(&'static str, usize)>);

macro_rules! layout {
    ($ours:ty, $theirs:literal, $($field:ident = $name:literal),+) => {
        ($theirs, size_of::<$ours>(), vec![$(($name, std::mem::offset_of!($ours, $field))),+])
    };
}

/// All layouts, to be compared with those of a C compiler.
pub fn layouts() -> Vec<Layout> {
    vec![
        layout!(
            PciInfo,
            "nvmlPciInfo_t",
            bus_id_legacy = "busIdLegacy",
            domain = "domain",
            bus = "bus",
            device = "device",
            pci_device_id = "pciDeviceId",
            pci_subsystem_id = "pciSubSystemId",
            bus_id = "busId"
        ),
        layout!(Utilization, "nvmlUtilization_t", gpu = "gpu", memory = "memory"),
        layout!(Memory, "nvmlMemory_t", total = "total", free = "free", used = "used"),
        layout!(
            MemoryV2,
            "nvmlMemory_v2_t",
            version = "version",
            total = "total",
            reserved = "reserved",
            free = "free",
            used = "used"
        ),
        layout!(
            Temperature,
            "nvmlTemperature_t",
            version = "version",
            sensor_type = "sensorType",
            temperature = "temperature"
        ),
        layout!(
            ViolationTime,
            "nvmlViolationTime_t",
            reference_time = "referenceTime",
            violation_time = "violationTime"
        ),
        layout!(
            ProcessInfo,
            "nvmlProcessInfo_t",
            pid = "pid",
            used_gpu_memory = "usedGpuMemory",
            gpu_instance_id = "gpuInstanceId",
            compute_instance_id = "computeInstanceId"
        ),
        layout!(
            ProcessUtilizationSample,
            "nvmlProcessUtilizationSample_t",
            pid = "pid",
            time_stamp = "timeStamp",
            sm_util = "smUtil",
            mem_util = "memUtil",
            enc_util = "encUtil",
            dec_util = "decUtil"
        ),
        layout!(
            DeviceAttributes,
            "nvmlDeviceAttributes_t",
            multiprocessor_count = "multiprocessorCount",
            shared_copy_engine_count = "sharedCopyEngineCount",
            shared_decoder_count = "sharedDecoderCount",
            shared_encoder_count = "sharedEncoderCount",
            shared_jpeg_count = "sharedJpegCount",
            shared_ofa_count = "sharedOfaCount",
            gpu_instance_slice_count = "gpuInstanceSliceCount",
            compute_instance_slice_count = "computeInstanceSliceCount",
            memory_size_mb = "memorySizeMB"
        ),
        layout!(
            EventData,
            "nvmlEventData_t",
            device = "device",
            event_type = "eventType",
            event_data = "eventData",
            gpu_instance_id = "gpuInstanceId",
            compute_instance_id = "computeInstanceId"
        ),
    ]
}
