//! A path under DATA_ROOT to an open file.
//!
//! A file is opened once: its canonical path is checked against DATA_ROOT, then opened beneath DATA_ROOT in a way
//! that follows no link at all, so that nobody can swap one in between.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::{DataError, shown};

/// What is tried after the name itself where that has no ending.
const ENDINGS: [&str; 4] = ["csv", "parquet", "csv.gz", "csv.zst"];

/// Opens the regular file that is meant by `relative`, beneath `root`; `path` is how it was asked for.
///
/// # Errors
/// There is no such regular file, it lies outside of `root`, or it cannot be read.
pub(super) fn open(path: &str, relative: &Path, root: &Path) -> Result<File, DataError> {
    let root = fs::canonicalize(root)
        .map_err(|source| DataError::Root { root: root.to_string_lossy().into_owned(), source })?;
    let found = find(path, relative, &root)?;
    open_regular(path, &found, &root)
}

/// `path` relative to `root`, without `.` and empty parts. An absolute path that is not inside of `root` is taken as
/// if `root` were `/`. `None` where `..` would climb above `root`.
pub(super) fn beneath(path: &Path, root: &Path) -> Option<PathBuf> {
    let inside = if path.is_absolute() {
        let canonical = fs::canonicalize(root).ok();
        let absolute = std::path::absolute(root).ok();
        let roots = [Some(root.to_owned()), absolute, canonical];
        roots.into_iter().flatten().find_map(|root| path.strip_prefix(root).ok().map(Path::to_owned))
    } else {
        None
    };
    let mut depth = 0_usize;
    let mut relative = PathBuf::new();
    for part in inside.as_deref().unwrap_or(path).components() {
        match part {
            Component::Normal(name) => {
                depth += 1;
                relative.push(name);
            }
            Component::ParentDir => {
                depth = depth.checked_sub(1)?;
                // Kept as it is: what `..` means after a link is for the file system to say.
                relative.push("..");
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(relative)
}

/// The canonical path of the file that is meant: `relative`, or with one of [`ENDINGS`] where it has none.
fn find(path: &str, relative: &Path, root: &Path) -> Result<PathBuf, DataError> {
    let mut candidates = vec![relative.to_owned()];
    if relative.extension().is_none() && relative.file_name().is_some() {
        candidates.extend(ENDINGS.map(|ending| relative.with_extension(ending)));
    }
    let mut other = None;
    for candidate in &candidates {
        let canonical = match fs::canonicalize(root.join(candidate)) {
            Ok(canonical) => canonical,
            Err(error) if is_absent(&error) => continue,
            Err(source) => return Err(unreadable(path, source)),
        };
        if !canonical.starts_with(root) {
            return Err(DataError::OutsideRoot { path: path.to_owned() });
        }
        let metadata = fs::metadata(&canonical).map_err(|source| unreadable(path, source))?;
        match other_kind(&metadata) {
            None => return Ok(canonical),
            Some(kind) => other = other.or(Some(kind)),
        }
    }
    Err(match other {
        Some(kind) => DataError::NotAFile { path: path.to_owned(), kind },
        None => DataError::NotFound {
            path: path.to_owned(),
            tried: candidates
                .iter()
                .map(|name| shown(&name.to_string_lossy()))
                .collect::<Vec<_>>()
                .join(", "),
        },
    })
}

/// Opens `canonical`, which has no links and lies inside of `root`, and makes sure that it still is that.
fn open_regular(path: &str, canonical: &Path, root: &Path) -> Result<File, DataError> {
    let outside = || DataError::OutsideRoot { path: path.to_owned() };
    let relative = canonical.strip_prefix(root).map_err(|_| outside())?;
    let file = open_beneath(root, relative).map_err(|source| {
        match Errno::from_io_error(&source) {
            // A link where there was none a moment ago.
            Some(Errno::LOOP | Errno::XDEV) => outside(),
            _ => unreadable(path, source),
        }
    })?;
    let metadata = file.metadata().map_err(|source| unreadable(path, source))?;
    match other_kind(&metadata) {
        None => Ok(file),
        Some(kind) => Err(DataError::NotAFile { path: path.to_owned(), kind }),
    }
}

/// Without NONBLOCK the opening of a FIFO would wait for somebody to write.
fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW
}

#[cfg(target_os = "linux")]
fn open_beneath(root: &Path, relative: &Path) -> io::Result<File> {
    use rustix::fs::ResolveFlags;

    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&folder, relative, flags(), Mode::empty(), resolve) {
        Ok(file) => Ok(File::from(file)),
        // Kernels before 5.6, and sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_and_compare(root, relative),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn open_beneath(root: &Path, relative: &Path) -> io::Result<File> {
    open_and_compare(root, relative)
}

/// The way without openat2: open, then ask whether the path without links still leads to what was opened.
fn open_and_compare(root: &Path, relative: &Path) -> io::Result<File> {
    let path = root.join(relative);
    let file = File::from(rustix::fs::open(&path, flags(), Mode::empty())?);
    let (opened, named) = (file.metadata()?, fs::symlink_metadata(&path)?);
    if fs::canonicalize(&path)? == path && (opened.dev(), opened.ino()) == (named.dev(), named.ino()) {
        Ok(file)
    } else {
        Err(Errno::LOOP.into())
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || matches!(Errno::from_io_error(error), Some(Errno::NAMETOOLONG | Errno::LOOP))
}

fn unreadable(path: &str, source: io::Error) -> DataError {
    DataError::Unreadable { path: path.to_owned(), source }
}

/// What it is, unless it is a regular file.
fn other_kind(metadata: &fs::Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("folder")
    } else if kind.is_fifo() {
        Some("named pipe")
    } else if kind.is_socket() {
        Some("socket")
    } else {
        Some("device")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_without_openat2_opens_files_and_refuses_links() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::write(root.join("a.csv"), "x,y\n").unwrap();
        std::os::unix::fs::symlink("a.csv", root.join("b.csv")).unwrap();
        assert!(open_and_compare(&root, Path::new("a.csv")).is_ok());
        let refused = open_and_compare(&root, Path::new("b.csv")).unwrap_err();
        assert_eq!(Errno::from_io_error(&refused), Some(Errno::LOOP));
    }

    #[test]
    fn a_link_put_in_place_after_the_check_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("late.csv")).unwrap();
        let refused = open_regular("late.csv", &root.join("late.csv"), &root).unwrap_err();
        assert!(matches!(refused, DataError::OutsideRoot { .. }), "{refused}");
    }

    #[test]
    fn absolute_paths_are_taken_relative_to_the_root() {
        let root = Path::new("/srv/data");
        assert_eq!(beneath(Path::new("/srv/data/a.csv"), root), Some("a.csv".into()));
        assert_eq!(beneath(Path::new("/data/mnist"), root), Some("data/mnist".into()));
        assert_eq!(beneath(Path::new("/srv/data/../b"), root), None);
        assert_eq!(beneath(Path::new("a/../b"), root), Some("a/../b".into()));
        assert_eq!(beneath(Path::new("a/../../b"), root), None);
    }
}
