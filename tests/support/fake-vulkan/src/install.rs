//! Puts a copy of the driver with its manifest into a folder.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// File with what the card says of itself.
pub(crate) const CARD: &str = "card.json";

/// File name of the driver.
const LIBRARY: &str = "libvulkan_fake.so";

/// What a card says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Product name.
    pub name: String,
    /// domain, bus, device, function.
    pub pci: (u32, u32, u32, u32),
}

/// Installs `card` into `folder`, which must exist, and returns the manifest, one path of VK_DRIVER_FILES.
///
/// # Errors
/// What the file system says; NotFound when cargo did not build the library beside the running program.
pub fn install(folder: &Path, card: &Card) -> io::Result<PathBuf> {
    let library = folder.join(LIBRARY);
    fs::copy(built()?, &library)?;
    fs::write(folder.join(CARD), serde_json::to_vec(card)?)?;
    let manifest = serde_json::json!({
        "file_format_version": "1.0.0",
        "ICD": { "library_path": library, "api_version": "1.1.230" },
    });
    let path = folder.join("fake_icd.json");
    fs::write(&path, serde_json::to_vec(&manifest)?)?;
    Ok(path)
}

/// The library where cargo puts it: beside test programs, or one folder further for others.
fn built() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().unwrap_or(Path::new("."));
    let candidates = [folder.join("libfake_vulkan.so"), folder.join("deps/libfake_vulkan.so")];
    candidates.into_iter().find(|path| path.exists()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("no libfake_vulkan.so in {}", folder.display()))
    })
}

/// The software driver of this machine, by its manifest.
pub(crate) fn software_driver() -> Option<PathBuf> {
    let manifests = fs::read_dir("/usr/share/vulkan/icd.d").ok()?;
    let of_software = manifests
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lvp_icd")))?;
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(of_software).ok()?).ok()?;
    Some(PathBuf::from(manifest["ICD"]["library_path"].as_str()?))
}
