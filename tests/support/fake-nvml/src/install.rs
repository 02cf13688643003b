//! Puts a copy of the library and its control file into a folder, one of each for a test.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::Control;

/// File name of the library.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// File name of the control file.
pub(crate) const CONTROL: &str = "nvml.json";

/// A copy of the library with a control file of its own.
#[derive(Debug)]
pub struct Installed {
    folder: PathBuf,
    control: Control,
}

impl Installed {
    /// Copies the library into `folder`, which must exist.
    ///
    /// # Errors
    /// What the file system says; NotFound when cargo did not build the library beside the running program.
    pub fn new(folder: &Path, control: Control) -> io::Result<Self> {
        let built = built()?;
        fs::copy(built, folder.join(LIBRARY))?;
        let installed = Self { folder: folder.to_owned(), control };
        installed.write()?;
        Ok(installed)
    }

    /// Takes `symbols` out of the copy, as in an old driver that does not have them yet. Call it before the copy is
    /// loaded.
    ///
    /// # Errors
    /// What the file system says; InvalidInput for a symbol that is not in the library.
    pub fn without(self, symbols: &[&str]) -> io::Result<Self> {
        let path = self.library();
        let mut bytes = fs::read(&path)?;
        for symbol in symbols {
            let mut name = vec![0];
            name.extend_from_slice(symbol.as_bytes());
            name.push(0);
            let places: Vec<usize> =
                bytes.windows(name.len()).enumerate().filter(|(_, w)| *w == name).map(|(at, _)| at).collect();
            if places.is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no symbol {symbol}")));
            }
            for place in places {
                // Another name, whose hash the library's table does not have.
                bytes[place + 1] = b'X';
            }
        }
        fs::write(&path, bytes)?;
        Ok(self)
    }

    /// Path of the copy.
    pub fn library(&self) -> PathBuf {
        self.folder.join(LIBRARY)
    }

    /// What the control file says.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Changes the control file; who reads it sees the old one or the new one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set(&mut self, change: impl FnOnce(&mut Control)) -> io::Result<()> {
        change(&mut self.control);
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.control)?;
        let new = self.folder.join("nvml.json.new");
        fs::write(&new, text)?;
        fs::rename(new, self.folder.join(CONTROL))
    }
}

/// The library where cargo puts it: beside test programs, or one folder further for others.
fn built() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().unwrap_or(Path::new("."));
    let candidates = [folder.join("libfake_nvml.so"), folder.join("deps/libfake_nvml.so")];
    candidates.into_iter().find(|path| path.exists()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("no libfake_nvml.so in {}", folder.display()))
    })
}
