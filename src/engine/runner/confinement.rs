//! What a runner may not do, given up by itself at its start and tried at once.
//!
//! ```text
//! files     DATA_ROOT read; STATE_DIR/checkpoints and STATE_DIR/models read and written; nothing else, and no program
//!           is started (Landlock). A runner with a GPU also reads system libraries and uses the GPU's device nodes.
//! network   no TCP (Landlock, since Linux 6.7)     signals   none to processes outside (Landlock, since Linux 6.12)
//! memory    RLIMIT_DATA     rights   no_new_privs     kernel short of memory: ended first
//! its own memory             in no core dump, out of reach of debuggers of the same user
//! ```
//!
//! Where data sets of other machines may be fetched, the network stays open and the cache is written too.
//!
//! All of it is inherited by the threads that begin later, so that it comes before the first of them. What the kernel
//! does not know is not enforced, and said.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, set_dumpable_behavior, setrlimit,
};
use serde::{Deserialize, Serialize};

use super::messages::Setup;
use crate::data::Remote;
use crate::domain::Backend;
use crate::engine::priority;

/// How much rather than another process a runner is ended when the kernel has no memory left, -1000 to 1000.
const OOM_SCORE_ADJUSTMENT: &str = "500";

/// What an attempt at something forbidden met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tried {
    /// It was denied.
    Denied,
    /// It went through.
    Allowed,
    /// There was nothing to try it on.
    NotTried,
}

impl Tried {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Allowed => "allowed",
            Self::NotTried => "not tried",
        }
    }
}

/// What a runner gave up, and what came of trying it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Version of Landlock that the kernel and this program know; 0 where there is none.
    pub landlock_abi: u32,
    /// Whether it can gain no rights by starting a program.
    pub no_new_privs: bool,
    /// Whether its memory gets into no core dump and is kept from debuggers of the same user.
    pub undumpable: bool,
    /// Most memory it may take, in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// A look at a folder outside of what it needs.
    pub read_outside: Tried,
    /// A file made in DATA_ROOT.
    pub write_to_data: Tried,
    /// A TCP connection.
    pub connect: Tried,
    /// What could not be had, in words; empty when all is well.
    pub missing: Vec<String>,
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory =
            self.memory_limit_bytes.map_or("no limit".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
        write!(
            f,
            "Landlock ABI {}; reading outside {}, writing to DATA_ROOT {}, TCP {}; no_new_privs {}; core dumps {}; \
             memory {memory}",
            self.landlock_abi,
            self.read_outside.name(),
            self.write_to_data.name(),
            self.connect.name(),
            if self.no_new_privs { "set" } else { "not set" },
            if self.undumpable { "off" } else { "possible" },
        )?;
        for missing in &self.missing {
            write!(f, "; {missing}")?;
        }
        Ok(())
    }
}

/// Gives up what the runner of `setup` does not need. Must be called while the process has one thread.
pub(super) fn confine(setup: &Setup) -> Confinement {
    let mut missing = Vec::new();
    let mut note = |what: &str, error: &dyn fmt::Display| missing.push(format!("{what}: {error}"));
    priority::lower_this_thread();
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUSTMENT) {
        note("the kernel may end others first when memory is short", &error);
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // The credentials of data sets are in its memory. A handler of dumps that is a program (core_pattern with |) is called
    // whatever the limit; the flag stops it. It comes after the write above, which it would forbid: what is under
    // /proc/self belongs to root from here on.
    for refused in [setrlimit(Resource::Core, none), set_dumpable_behavior(DumpableBehavior::NotDumpable)] {
        if let Err(error) = refused {
            note("a crash may leave secrets in a core dump", &error);
        }
    }
    if let Some(bytes) = setup.memory_limit_bytes {
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        if let Err(error) = setrlimit(Resource::Data, limit) {
            note("memory has no limit", &error);
        }
    }
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        note("no_new_privs is not set", &error);
    }
    for folder in written(setup) {
        if let Err(error) = fs::create_dir_all(&folder) {
            note(&format!("{} cannot be made", folder.display()), &error);
        }
    }
    // Made before, to be tried after.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok();
    let landlock_abi = match restrict(setup) {
        Ok(LandlockStatus::Available { effective_abi, .. }) => effective_abi as u32,
        Ok(LandlockStatus::NotEnabled) => {
            note("files and network are open", &"Landlock is not enabled in this kernel (lsm=landlock)");
            0
        }
        Ok(LandlockStatus::NotImplemented) => {
            note("files and network are open", &"this kernel has no Landlock (Linux 5.13 has)");
            0
        }
        Err(error) => {
            note("files and network are open", &error);
            0
        }
    };
    if (1..4).contains(&landlock_abi) {
        note("the network is open", &"this kernel's Landlock has no rules for TCP (Linux 6.7 has)");
    }
    let confinement = Confinement {
        landlock_abi,
        no_new_privs: rustix::thread::no_new_privs().unwrap_or(false),
        undumpable: dumpable_behavior().is_ok_and(|behavior| behavior == DumpableBehavior::NotDumpable),
        memory_limit_bytes: rustix::process::getrlimit(Resource::Data).maximum,
        read_outside: read_outside(setup),
        write_to_data: write_to_data(&setup.data.root),
        connect: listener.and_then(|listener| listener.local_addr().ok()).map_or(Tried::NotTried, connect),
        missing,
    };
    confinement.with_what_went_through(if fetches(setup) { Network::Needed } else { Network::Closed })
}

/// Whether a runner is meant to reach other machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Needed,
    Closed,
}

impl Confinement {
    /// Adds what the rules of the kernel should have denied, and did not. Where it has none, that is said already.
    fn with_what_went_through(mut self, network: Network) -> Self {
        let tried = [
            ("files outside of what it needs can be read", self.read_outside, self.landlock_abi >= 1),
            ("DATA_ROOT can be written to", self.write_to_data, self.landlock_abi >= 1),
            (
                "TCP connections are let through",
                self.connect,
                self.landlock_abi >= 4 && network == Network::Closed,
            ),
        ];
        let through =
            tried.into_iter().filter(|(_, tried, forbidden)| *forbidden && *tried == Tried::Allowed);
        self.missing.extend(through.map(|(what, ..)| format!("{what}, although Landlock should deny it")));
        self
    }
}

/// The folders that a runner writes.
fn written(setup: &Setup) -> Vec<PathBuf> {
    let under = |name: &str| setup.state_dir.as_ref().map(|state_dir| state_dir.join(name));
    let own = ["checkpoints", "models"].into_iter().filter_map(under);
    own.chain(fetches(setup).then(|| setup.data.cache.folder.clone())).collect()
}

/// Whether data sets of other machines may be asked for: then the runner fetches them itself.
fn fetches(setup: &Setup) -> bool {
    let Remote { allowed_hosts, s3, .. } = &setup.data.remote;
    !allowed_hosts.is_empty() || s3.endpoint.is_some() || s3.region.is_some()
}

/// What finding a host and trusting its certificate reads.
const NETWORK_FILES: &[&str] = &[
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/pki",
    "/etc/resolv.conf",
    "/etc/ssl",
    "/lib",
    "/lib64",
    "/run/systemd/resolve",
    "/usr/lib",
    "/usr/share/ca-certificates",
];

fn restrict(setup: &Setup) -> Result<LandlockStatus, RulesetError> {
    let all: BitFlags<AccessFs> = AccessFs::from_all(ABI::V7);
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let (mut readable, mut devices) =
        (vec![PathBuf::from("/proc/self"), setup.data.root.clone()], Vec::new());
    // How many processors there are, and this program, for the lines of a backtrace.
    readable.extend(["/sys/devices/system/cpu", "/sys/fs/cgroup", "/proc/cpuinfo"].map(PathBuf::from));
    readable.extend(std::env::current_exe());
    if setup.backend == Backend::Wgpu {
        let system = ["/etc", "/lib", "/lib64", "/opt", "/proc", "/run", "/sys", "/usr"];
        readable.extend(system.map(PathBuf::from));
        readable.extend(vulkan_drivers());
        devices = gpu_devices();
    }
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?;
    if fetches(setup) {
        readable.extend(NETWORK_FILES.iter().map(PathBuf::from));
    } else {
        ruleset = ruleset.handle_access(AccessNet::from_all(ABI::V4))?;
    }
    let ruleset = ruleset
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .add_rules(path_beneath_rules(readable, read))?
        .add_rules(path_beneath_rules(written(setup), write))?
        .add_rules(path_beneath_rules(
            ["/dev/null", "/dev/urandom"],
            AccessFs::ReadFile | AccessFs::WriteFile,
        ))?
        .add_rules(path_beneath_rules(devices, read | AccessFs::WriteFile | AccessFs::IoctlDev))?;
    Ok(ruleset.restrict_self()?.landlock)
}

/// The folders of drivers that the operator named.
fn vulkan_drivers() -> Vec<PathBuf> {
    let named = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].into_iter().filter_map(std::env::var_os);
    let manifests = named.flat_map(|list| std::env::split_paths(&list).collect::<Vec<_>>());
    manifests.filter_map(|manifest| manifest.parent().map(PathBuf::from)).collect()
}

/// Device nodes that GPU drivers open.
fn gpu_devices() -> Vec<PathBuf> {
    let nodes = fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path());
    let of_gpu = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        ["nvidia", "dri", "kfd", "dxg", "shm"].iter().any(|prefix| name.starts_with(prefix))
    };
    nodes.filter(of_gpu).collect()
}

fn denied<T>(attempt: std::io::Result<T>) -> Tried {
    match attempt {
        Ok(_) => Tried::Allowed,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Tried::Denied,
        Err(_) => Tried::NotTried,
    }
}

/// Looks at the root of all, unless the data is there.
fn read_outside(setup: &Setup) -> Tried {
    if setup.data.root == Path::new("/") {
        return Tried::NotTried;
    }
    denied(fs::read_dir("/"))
}

fn write_to_data(root: &Path) -> Tried {
    let path = root.join(format!(".tensorfleet-worker-{}", std::process::id()));
    let tried = denied(OpenOptions::new().write(true).create_new(true).open(&path));
    if tried == Tried::Allowed {
        // What may make a file may remove it.
        let _ = fs::remove_file(&path);
    }
    tried
}

/// Connects to a listener of this very process, so that nobody else hears of it.
fn connect(address: SocketAddr) -> Tried {
    match denied(TcpStream::connect_timeout(&address, Duration::from_millis(200))) {
        // Whatever came back came over the network.
        Tried::NotTried => Tried::Allowed,
        tried => tried,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_through_although_it_is_forbidden_is_told() {
        let found = |landlock_abi, tried, network| {
            let confinement = Confinement {
                landlock_abi,
                no_new_privs: true,
                undumpable: true,
                memory_limit_bytes: None,
                read_outside: tried,
                write_to_data: tried,
                connect: tried,
                missing: Vec::new(),
            };
            confinement.with_what_went_through(network).missing.len()
        };
        assert_eq!(found(7, Tried::Allowed, Network::Closed), 3);
        assert_eq!(found(7, Tried::Allowed, Network::Needed), 2);
        assert_eq!(
            found(3, Tried::Allowed, Network::Closed),
            2,
            "it knows nothing of TCP, which is said elsewhere"
        );
        assert_eq!(
            found(0, Tried::Allowed, Network::Closed),
            0,
            "it does not exist, which is said elsewhere"
        );
        for tried in [Tried::Denied, Tried::NotTried] {
            assert_eq!(found(7, tried, Network::Closed), 0);
        }
    }
}
