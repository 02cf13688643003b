//! The entry points of the driver, by version 5 of the interface between loader and driver.
#![allow(non_snake_case, reason = "named by Vulkan")]

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::{LazyLock, OnceLock};

use ash::vk;

use crate::install::{CARD, Card, software_driver};

type GetProcAddr = unsafe extern "system" fn(vk::Instance, *const c_char) -> vk::PFN_vkVoidFunction;

/// The software driver; never unloaded.
struct Software {
    _library: libloading::Library,
    get: GetProcAddr,
    negotiate: unsafe extern "system" fn(*mut u32) -> vk::Result,
}

static SOFTWARE: LazyLock<Option<Software>> = LazyLock::new(|| {
    // SAFETY: the system's own driver, which the loader would load just so; the symbols have the types that the
    // interface between loader and driver gives them.
    unsafe {
        let library = libloading::Library::new(software_driver()?).ok()?;
        let get = *library.get::<GetProcAddr>(b"vk_icdGetInstanceProcAddr\0").ok()?;
        let negotiate = *library.get(b"vk_icdNegotiateLoaderICDInterfaceVersion\0").ok()?;
        Some(Software { _library: library, get, negotiate })
    }
});

static CARD_HERE: LazyLock<Option<Card>> = LazyLock::new(|| {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is one of this very library, and `info` is a place for the answer.
    if unsafe { libc::dladdr(here as *const c_void, info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: dladdr succeeded, so the name is a C string that lives as long as the library.
    let name = unsafe { CStr::from_ptr(info.assume_init().dli_fname) };
    let library = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    serde_json::from_slice(&std::fs::read(library.parent()?.join(CARD)).ok()?).ok()
});

extern "C" fn here() {}

/// The functions of the software driver that are wrapped, looked up with the first instance.
struct Wrapped {
    properties: vk::PFN_vkGetPhysicalDeviceProperties,
    properties2: vk::PFN_vkGetPhysicalDeviceProperties2,
    extensions: vk::PFN_vkEnumerateDeviceExtensionProperties,
}

static WRAPPED: OnceLock<Wrapped> = OnceLock::new();

/// Negotiates as the software driver does, up to version 5: later ones look for physical devices in another way.
///
/// # Safety
/// `version` is a valid pointer.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vk_icdNegotiateLoaderICDInterfaceVersion(version: *mut u32) -> vk::Result {
    let Some(software) = &*SOFTWARE else { return vk::Result::ERROR_INCOMPATIBLE_DRIVER };
    // SAFETY: the caller's pointer.
    unsafe {
        *version = (*version).min(5);
        (software.negotiate)(version)
    }
}

/// The software driver's functions, three of them wrapped.
///
/// # Safety
/// As vkGetInstanceProcAddr.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vk_icdGetInstanceProcAddr(
    instance: vk::Instance,
    name: *const c_char,
) -> vk::PFN_vkVoidFunction {
    let software = SOFTWARE.as_ref()?;
    // SAFETY: what the caller gave, and functions of the types that Vulkan gives them.
    unsafe {
        let theirs = (software.get)(instance, name)?;
        let wrapped = || {
            Some(WRAPPED.get_or_init(|| Wrapped {
                properties: std::mem::transmute::<
                    vk::PFN_vkVoidFunction,
                    vk::PFN_vkGetPhysicalDeviceProperties,
                >((software.get)(
                    instance,
                    c"vkGetPhysicalDeviceProperties".as_ptr(),
                )),
                properties2: std::mem::transmute::<
                    vk::PFN_vkVoidFunction,
                    vk::PFN_vkGetPhysicalDeviceProperties2,
                >((software.get)(
                    instance,
                    c"vkGetPhysicalDeviceProperties2".as_ptr(),
                )),
                extensions: std::mem::transmute::<
                    vk::PFN_vkVoidFunction,
                    vk::PFN_vkEnumerateDeviceExtensionProperties,
                >((software.get)(
                    instance,
                    c"vkEnumerateDeviceExtensionProperties".as_ptr(),
                )),
            }))
        };
        match CStr::from_ptr(name).to_bytes() {
            b"vkGetPhysicalDeviceProperties" => {
                wrapped()?;
                let ours: vk::PFN_vkGetPhysicalDeviceProperties = properties;
                std::mem::transmute::<vk::PFN_vkGetPhysicalDeviceProperties, vk::PFN_vkVoidFunction>(ours)
            }
            b"vkGetPhysicalDeviceProperties2" | b"vkGetPhysicalDeviceProperties2KHR" => {
                wrapped()?;
                let ours: vk::PFN_vkGetPhysicalDeviceProperties2 = properties2;
                std::mem::transmute::<vk::PFN_vkGetPhysicalDeviceProperties2, vk::PFN_vkVoidFunction>(ours)
            }
            b"vkEnumerateDeviceExtensionProperties" => {
                wrapped()?;
                let ours: vk::PFN_vkEnumerateDeviceExtensionProperties = extensions;
                std::mem::transmute::<vk::PFN_vkEnumerateDeviceExtensionProperties, vk::PFN_vkVoidFunction>(
                    ours,
                )
            }
            _ => Some(theirs),
        }
    }
}

/// As the interface asks for: physical devices have no functions beyond Vulkan's own.
///
/// # Safety
/// As vk_icdGetInstanceProcAddr.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vk_icdGetPhysicalDeviceProcAddr(
    _: vk::Instance,
    _: *const c_char,
) -> vk::PFN_vkVoidFunction {
    None
}

/// Makes a card of what the software driver says.
fn pass_off(properties: &mut vk::PhysicalDeviceProperties) {
    let Some(card) = &*CARD_HERE else { return };
    properties.device_type = vk::PhysicalDeviceType::DISCRETE_GPU;
    properties.device_name = [0; vk::MAX_PHYSICAL_DEVICE_NAME_SIZE];
    let places = properties.device_name.iter_mut().take(vk::MAX_PHYSICAL_DEVICE_NAME_SIZE - 1);
    for (place, byte) in places.zip(card.name.bytes()) {
        *place = byte as c_char;
    }
}

unsafe extern "system" fn properties(device: vk::PhysicalDevice, answer: *mut vk::PhysicalDeviceProperties) {
    let Some(wrapped) = WRAPPED.get() else { return };
    // SAFETY: what the caller gave.
    unsafe {
        (wrapped.properties)(device, answer);
        pass_off(&mut *answer);
    }
}

unsafe extern "system" fn properties2(
    device: vk::PhysicalDevice,
    answer: *mut vk::PhysicalDeviceProperties2<'_>,
) {
    let Some(wrapped) = WRAPPED.get() else { return };
    // SAFETY: what the caller gave; every structure of the chain begins as `BaseOutStructure`.
    unsafe {
        (wrapped.properties2)(device, answer);
        pass_off(&mut (*answer).properties);
        let mut next = (*answer).p_next.cast::<vk::BaseOutStructure<'_>>();
        while !next.is_null() {
            if (*next).s_type == vk::StructureType::PHYSICAL_DEVICE_PCI_BUS_INFO_PROPERTIES_EXT
                && let Some(card) = &*CARD_HERE
            {
                let pci = &mut *next.cast::<vk::PhysicalDevicePCIBusInfoPropertiesEXT<'_>>();
                (pci.pci_domain, pci.pci_bus, pci.pci_device, pci.pci_function) = card.pci;
            }
            next = (*next).p_next;
        }
    }
}

unsafe extern "system" fn extensions(
    device: vk::PhysicalDevice,
    layer: *const c_char,
    count: *mut u32,
    places: *mut vk::ExtensionProperties,
) -> vk::Result {
    let Some(wrapped) = WRAPPED.get() else { return vk::Result::ERROR_INITIALIZATION_FAILED };
    // SAFETY: what the caller gave: `count` places, or none where only their number is asked for.
    unsafe {
        let room = *count;
        let result = (wrapped.extensions)(device, layer, count, places);
        if result.as_raw() < 0 || !layer.is_null() {
            return result;
        }
        if places.is_null() {
            *count += 1;
            return result;
        }
        if *count >= room {
            return vk::Result::INCOMPLETE;
        }
        let mut ours = vk::ExtensionProperties { spec_version: 2, ..Default::default() };
        for (place, byte) in ours.extension_name.iter_mut().zip(ash::ext::pci_bus_info::NAME.to_bytes()) {
            *place = *byte as c_char;
        }
        places.add(*count as usize).write(ours);
        *count += 1;
        result
    }
}
