//! Ports, folders, kernel, limits and clock of this machine.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::config::Config;

/// Less free space than this is worth a warning: checkpoints and models go there.
const LITTLE_SPACE_BYTES: u64 = 1 << 30;

/// Below this the worker cannot even write outcomes for long.
const NO_SPACE_BYTES: u64 = 16 << 20;

/// Open files below which many slots and connections do not fit.
const FEW_FILES: u64 = 1024;

/// A clock before this is wrong: 2025-01-01.
const TOO_EARLY: Duration = Duration::from_secs(1_735_689_600);

/// Whether the ports are free.
pub(super) fn ports(config: &Config) -> [Finding; 2] {
    [
        port("port.grpc", "WORKER_PORT", config.grpc_listen),
        port("port.http", "METRICS_PORT", config.http_listen),
    ]
}

fn port(check: &'static str, variable: &str, listen: SocketAddr) -> Finding {
    match TcpListener::bind(listen) {
        Ok(_) if listen.port() == 0 => Finding::ok(check, format!("{variable}=0: any free port")),
        Ok(_) => Finding::ok(check, format!("{listen} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::error(
            check,
            format!("{listen} is in use, perhaps by a worker that runs already"),
            format!(
                "{variable}=0 takes any free port; `ss -ltnp 'sport = :{}'` says who has it",
                listen.port()
            ),
        ),
        Err(error) => Finding::error(
            check,
            format!("{listen} is not to be had: {error}"),
            format!("set {variable} to a port from 1024 on"),
        ),
    }
}

/// Whether the folders can be used, and have room.
pub(super) fn folders(config: &Config) -> Vec<Finding> {
    let state = &config.worker.state_dir;
    let root = &config.engine.data.root;
    let mut findings = Vec::new();
    match nearest(state) {
        Some(there) if access(&there, Access::WRITE_OK | Access::EXEC_OK).is_ok() => {
            findings.push(Finding::ok("state_dir", format!("STATE_DIR {} can be written", state.display())));
            findings.extend(space(&there));
        }
        _ => findings.push(Finding::error(
            "state_dir",
            format!("STATE_DIR {} cannot be written by this user", state.display()),
            format!(
                "mkdir -p {0} && chown $(id -u) {0}, or set STATE_DIR to another folder",
                state.display()
            ),
        )),
    }
    findings.push(match fs::read_dir(root) {
        Ok(_) => Finding::ok("data_root", format!("DATA_ROOT {} can be read", root.display())),
        Err(error) => Finding::warning(
            "data_root",
            format!(
                "DATA_ROOT {} cannot be read ({error}); only builtin: and synthetic: data can be trained on",
                root.display()
            ),
            format!("mkdir -p {}, or set DATA_ROOT to the folder with the data sets", root.display()),
        ),
    });
    findings
}

/// `folder`, or of those above it the first that is there.
fn nearest(folder: &Path) -> Option<PathBuf> {
    let folder = std::path::absolute(folder).ok()?;
    folder.ancestors().find(|folder| folder.is_dir()).map(Path::to_path_buf)
}

fn space(folder: &Path) -> Option<Finding> {
    let stat = statvfs(folder).ok()?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let message = format!("{} MiB are free for STATE_DIR", free >> 20);
    let repair = "free some space, or set STATE_DIR to a larger file system";
    Some(if free < NO_SPACE_BYTES {
        Finding::error("disk", message, repair)
    } else if free < LITTLE_SPACE_BYTES {
        Finding::warning("disk", message, repair)
    } else {
        Finding::ok("disk", message)
    })
}

/// What the kernel has to confine tasks with.
pub(super) fn kernel() -> Vec<Finding> {
    let mut findings = Vec::new();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let modules = fs::read_to_string("/sys/kernel/security/lsm").ok();
    let has_landlock =
        modules.as_deref().map(|modules| modules.trim().split(',').any(|name| name == "landlock"));
    findings.push(match (has_landlock, is_at_least(release, (5, 13))) {
        (Some(true), _) => Finding::ok("kernel.landlock", format!("Linux {release} has Landlock")),
        (Some(false), true) => Finding::warning(
            "kernel.landlock",
            format!("Linux {release} runs without Landlock, so that tasks are not kept to their files"),
            "add landlock to lsm= of the kernel's command line",
        ),
        (None, true) => Finding::ok(
            "kernel.landlock",
            format!(
                "Linux {release} is new enough for Landlock (its list of security modules is not shown here)"
            ),
        ),
        (_, false) => Finding::warning(
            "kernel.landlock",
            format!("Linux {release} is too old for Landlock, so that tasks are not kept to their files"),
            "a kernel from 5.13 on",
        ),
    });
    let cgroup = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    findings.push(match cgroup {
        Ok(controllers) if controllers.split_whitespace().any(|name| name == "memory") => {
            Finding::ok("kernel.cgroup", "cgroup v2 with the memory controller")
        }
        _ => Finding::ok(
            "kernel.cgroup",
            "no cgroup v2 with a memory controller here: limits of memory come from rlimits alone",
        ),
    });
    findings
}

/// Whether a release such as `6.1.0-18-amd64` is at least `version`.
fn is_at_least(release: &str, version: (u32, u32)) -> bool {
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= version
}

/// What this user may use.
pub(super) fn limits() -> Vec<Finding> {
    let files = getrlimit(Resource::Nofile).current;
    let finding = match files {
        Some(files) if files < FEW_FILES => Finding::warning(
            "limits.files",
            format!("this user may open {files} files at once"),
            format!("ulimit -n {FEW_FILES}, or LimitNOFILE= of the service"),
        ),
        Some(files) => Finding::ok("limits.files", format!("{files} files may be open at once")),
        None => Finding::ok("limits.files", "any number of files may be open at once"),
    };
    vec![finding]
}

/// Whether the clock can be right.
pub(super) fn clock() -> Finding {
    let now = SystemTime::now();
    let shown = crate::domain::rfc3339(now);
    if now.duration_since(UNIX_EPOCH).is_ok_and(|since| since >= TOO_EARLY) {
        Finding::ok("clock", shown.to_string())
    } else {
        Finding::error(
            "clock",
            format!("{shown} cannot be now; certificates will seem invalid"),
            "timedatectl set-ntp true",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_taken_port_is_said_with_who_may_have_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let finding = port("port.grpc", "WORKER_PORT", taken.local_addr().unwrap());
        assert_eq!(finding.level, Level::Error);
        assert!(finding.repair.unwrap().contains("WORKER_PORT=0"));
    }

    #[test]
    fn releases_compare_by_number() {
        assert!(is_at_least("5.13.0", (5, 13)) && is_at_least("6.1.0-18-amd64", (5, 13)));
        assert!(!is_at_least("5.4.0", (5, 13)) && !is_at_least("", (5, 13)));
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(nearest(&folder.path().join("a/b")).unwrap(), folder.path());
    }
}
