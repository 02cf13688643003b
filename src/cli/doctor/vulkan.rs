//! Whether the files that name Vulkan drivers lead to drivers. Nothing is loaded: a driver may crash whoever does.

use std::fs;
use std::path::{Path, PathBuf};

use super::Finding;
use super::gpu::CAPABILITIES;
use crate::config::Environment;

const CHECK: &str = "gpu.vulkan_driver";

/// Where the Vulkan loader looks for drivers.
const MANIFEST_FOLDERS: &[&str] = &["/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d"];

/// Where the dynamic linker looks, beside its cache and LD_LIBRARY_PATH.
const LIBRARY_FOLDERS: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
];

/// The linker's list of libraries; their names are readable in it.
const LINKER_CACHE: &str = "/etc/ld.so.cache";

/// What the files name that the operator, or else the system, has.
pub(super) fn examine(environment: &Environment) -> Finding {
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]
        .iter()
        .find_map(|name| environment.get(*name).filter(|list| !list.is_empty()).map(|list| (*name, list)));
    if let Some((variable, list)) = named {
        let broken: Vec<_> = std::env::split_paths(list)
            .filter_map(|manifest| driver_of(&manifest, environment).err())
            .collect();
        return if broken.is_empty() {
            Finding::ok(CHECK, format!("Vulkan drivers are those of {variable}={list}"))
        } else {
            let message = format!("{variable}={list}: {}", broken.join("; "));
            let repair = format!(
                "unset {variable}, or name files of drivers that are there; in a container: {CAPABILITIES}"
            );
            Finding::warning(CHECK, message, repair)
        };
    }
    let entries = MANIFEST_FOLDERS.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let is_nvidia = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().contains("nvidia"))
    };
    let manifests: Vec<_> = entries.map(|entry| entry.path()).filter(is_nvidia).collect();
    let drivers: Vec<_> = manifests.iter().map(|manifest| driver_of(manifest, environment)).collect();
    if let Some(driver) = drivers.iter().find_map(|driver| driver.as_ref().ok()) {
        return Finding::ok(CHECK, format!("NVIDIA's Vulkan driver is {driver}"));
    }
    let why: Vec<_> = drivers.into_iter().filter_map(Result::err).collect();
    let message = if why.is_empty() {
        "no file names NVIDIA's Vulkan driver (nvidia_icd.json), so that wgpu finds no GPU".to_owned()
    } else {
        format!("{}, so that wgpu finds no GPU", why.join("; "))
    };
    let repair = format!("in a container: {CAPABILITIES}; else install the driver's Vulkan part");
    Finding::warning(CHECK, message, repair)
}

/// The library that `manifest` names, where both are there; else what is not.
fn driver_of(manifest: &Path, environment: &Environment) -> Result<String, String> {
    let shown = manifest.display();
    let text = fs::read(manifest).map_err(|error| format!("{shown} cannot be read ({error})"))?;
    let named = serde_json::from_slice::<serde_json::Value>(&text).ok();
    let library = named.as_ref().and_then(|text| text.get("ICD")?.get("library_path")?.as_str());
    let library = library.ok_or_else(|| format!("{shown} names no library (ICD.library_path)"))?;
    let is_there = if library.contains('/') {
        manifest.parent().unwrap_or(Path::new("/")).join(library).exists()
    } else {
        is_known_to_the_linker(library, environment)
    };
    if is_there {
        Ok(library.to_owned())
    } else {
        Err(format!("{shown} names {library}, which is not there"))
    }
}

fn is_known_to_the_linker(library: &str, environment: &Environment) -> bool {
    let own = environment.get("LD_LIBRARY_PATH").map(String::as_str).unwrap_or_default();
    let mut folders = std::env::split_paths(own).chain(LIBRARY_FOLDERS.iter().map(PathBuf::from));
    let name = [b"/", library.as_bytes(), b"\0"].concat();
    folders.any(|folder| folder.join(library).exists())
        || fs::read(LINKER_CACHE).is_ok_and(|cache| cache.windows(name.len()).any(|part| part == name))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn of(manifest: &Path, more: &[(&str, &str)]) -> Finding {
        let named = ("VK_DRIVER_FILES".to_owned(), manifest.to_str().unwrap().to_owned());
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        examine(&std::iter::once(named).chain(more).collect())
    }

    #[test]
    fn a_named_driver_has_to_be_there_with_its_library() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("nvidia_icd.json");
        let missing = of(&manifest, &[]);
        assert!(missing.level == Level::Warning && missing.message.contains("cannot be read"));
        fs::write(&manifest, "{}").unwrap();
        assert!(of(&manifest, &[]).message.contains("names no library"));
        for library in ["./libdriver.so", "libdriver.so"] {
            fs::write(&manifest, format!(r#"{{"ICD": {{"library_path": "{library}"}}}}"#)).unwrap();
            let finding = of(&manifest, &[]);
            assert!(
                finding.level == Level::Warning && finding.message.contains("is not there"),
                "{finding:?}"
            );
            assert!(finding.repair.unwrap().contains(CAPABILITIES));
        }
        fs::write(folder.path().join("libdriver.so"), "").unwrap();
        let found = of(&manifest, &[("LD_LIBRARY_PATH", folder.path().to_str().unwrap())]);
        assert_eq!(found.level, Level::Ok, "{found:?}");
    }
}
