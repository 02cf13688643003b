//! What the machine uses, and what the worker does with its runners, sampled each second by a thread of its own.
//!
//! ```text
//! thread: sysinfo, 1/s --> latest --> HostProbe::usage (heartbeats, /health, gRPC)
//!                            +------> worker_cpu_usage_percent, worker_memory_usage_bytes
//! ```
//!
//! Reading never waits for a measurement: the lock is held for one copy. Where the process lives in a control group
//! with a memory limit, that limit is the machine.

use std::fs;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::{Gauge, Registry, proto};
use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::domain::HostUsage;

/// Time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// Why sampling could not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system tells nothing of itself.
    #[error("cannot read the use of CPU and memory of this machine: {0}")]
    System(String),
    /// No thread could be started.
    #[error("cannot start the thread that samples the machine: {0}")]
    Thread(#[from] io::Error),
}

/// What the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Logical processors this process may use: affinity and CPU quota of its control group are respected.
    pub cpu_cores: u32,
    /// Memory in bytes this process may use: the limit of its control group is respected.
    pub memory_bytes: u64,
}

/// What the machine has, as far as it tells; 1 core and 0 bytes where it does not.
pub fn machine() -> Machine {
    let cpu_cores =
        thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    let memory_bytes = Sampler::new().map_or(0, |sampler| sampler.memory().total_bytes);
    Machine { cpu_cores, memory_bytes }
}

/// The sampling thread; it ends with this value.
#[derive(Debug)]
pub struct HostSampler {
    probe: HostProbe,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stop {
    asked: Mutex<bool>,
    told: Condvar,
}

impl Stop {
    /// Waits for `time`; true when the thread is to end.
    fn wait(&self, time: Duration) -> bool {
        let asked = locked(&self.asked);
        let waited = self.told.wait_timeout_while(asked, time, |asked| !*asked);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl HostSampler {
    /// Takes a first reading of memory and starts the thread; CPU use is known a moment later.
    ///
    /// # Errors
    /// [`Error`] where the system tells nothing or no thread can be started.
    pub fn start() -> Result<Self, Error> {
        let mut sampler = Sampler::new()?;
        let probe = HostProbe::fixed(sampler.sample());
        let stop = Arc::new(Stop::default());
        let run = {
            let (probe, stop) = (probe.clone(), Arc::clone(&stop));
            move || {
                let mut pause = MINIMUM_CPU_UPDATE_INTERVAL;
                while !stop.wait(pause) {
                    *locked(&probe.latest) = sampler.sample();
                    pause = INTERVAL;
                }
            }
        };
        let thread = thread::Builder::new().name("host-sampler".to_owned()).spawn(run)?;
        Ok(Self { probe, stop, thread: Some(thread) })
    }

    /// What reads the samples.
    pub fn probe(&self) -> HostProbe {
        self.probe.clone()
    }
}

impl Drop for HostSampler {
    fn drop(&mut self) {
        *locked(&self.stop.asked) = true;
        self.stop.told.notify_all();
        if let Some(thread) = self.thread.take() {
            // A sampler that panicked has nothing more to say; the last sample stays.
            let _ = thread.join();
        }
    }
}

/// Reads the latest sample; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct HostProbe {
    latest: Arc<Mutex<HostUsage>>,
}

impl HostProbe {
    /// A probe that always says `usage`.
    pub fn fixed(usage: HostUsage) -> Self {
        Self { latest: Arc::new(Mutex::new(usage)) }
    }

    /// The latest sample. Never waits for one.
    pub fn usage(&self) -> HostUsage {
        *locked(&self.latest)
    }

    /// Shows worker_cpu_usage_percent and worker_memory_usage_bytes in `registry`.
    ///
    /// # Errors
    /// They are there already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let cpu =
            Gauge::new("worker_cpu_usage_percent", "CPU use of the machine in percent of all its cores.")?;
        let help = "Resident memory of the worker and its runners in bytes.";
        let memory = Gauge::new("worker_memory_usage_bytes", help)?;
        registry.register(Box::new(HostCollector { probe: self.clone(), cpu, memory }))
    }
}

/// Sets the gauges when they are read.
struct HostCollector {
    probe: HostProbe,
    cpu: Gauge,
    memory: Gauge,
}

impl Collector for HostCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.cpu.desc().into_iter().chain(self.memory.desc()).collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let usage = self.probe.usage();
        self.cpu.set(usage.cpu_percent);
        self.memory.set(usage.memory_bytes as f64);
        self.cpu.collect().into_iter().chain(self.memory.collect()).collect()
    }
}

/// Asks the system.
struct Sampler {
    system: System,
    pid: Option<Pid>,
}

struct Memory {
    total_bytes: u64,
    used_percent: f64,
}

impl Sampler {
    fn new() -> Result<Self, Error> {
        let mut system = System::new().map_err(|error| Error::System(error.to_string()))?;
        system.refresh_memory();
        let mut sampler = Self { system, pid: sysinfo::get_current_pid().ok() };
        sampler.refresh_process();
        Ok(sampler)
    }

    fn refresh_process(&mut self) {
        if let Some(pid) = self.pid {
            let only_memory = ProcessRefreshKind::nothing().with_memory().without_tasks();
            self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, only_memory);
        }
    }

    fn sample(&mut self) -> HostUsage {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        self.refresh_process();
        let process = self.pid.and_then(|pid| self.system.process(pid));
        HostUsage {
            cpu_percent: f64::from(self.system.global_cpu_usage()).clamp(0.0, 100.0),
            memory_bytes: process.map_or(0, sysinfo::Process::memory) + of_children(),
            memory_percent: self.memory().used_percent,
        }
    }

    /// The machine's memory, or the part of it that the control group leaves.
    fn memory(&self) -> Memory {
        let total = self.system.total_memory();
        let process = self.pid.and_then(|pid| self.system.process(pid));
        let limits =
            process.and_then(sysinfo::Process::cgroup_limits).into_iter().chain(self.system.cgroup_limits());
        let tightest = limits
            .filter(|limit| limit.total_memory > 0 && limit.total_memory < total)
            .min_by_key(|limit| limit.total_memory);
        match tightest {
            Some(limit) => Memory {
                total_bytes: limit.total_memory,
                used_percent: percent(
                    limit.total_memory.saturating_sub(limit.free_memory),
                    limit.total_memory,
                ),
            },
            None => Memory { total_bytes: total, used_percent: percent(self.system.used_memory(), total) },
        }
    }
}

/// Resident memory of the processes that this one has started, in bytes; 0 where the system does not tell which those are.
fn of_children() -> u64 {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    children.map(|pids| pids.split_ascii_whitespace().map(resident_bytes).sum::<u64>()).sum()
}

/// Resident memory of a process in bytes; 0 when it has ended meanwhile.
fn resident_bytes(pid: &str) -> u64 {
    let read = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = read.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only whole values are written, so that a panic elsewhere leaves nothing half-made.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::telemetry::render;

    #[test]
    fn the_machine_has_something() {
        let machine = machine();
        assert!(machine.cpu_cores >= 1);
        assert!(machine.memory_bytes > 64 << 20, "{machine:?}");
    }

    #[test]
    fn memory_is_known_at_once_and_cpu_soon() {
        let sampler = HostSampler::start().unwrap();
        let probe = sampler.probe();
        assert!(probe.usage().memory_bytes > 1 << 20);
        assert!((0.1..=100.0).contains(&probe.usage().memory_percent));
        let deadline = Instant::now() + Duration::from_secs(30);
        while probe.usage().cpu_percent == 0.0 {
            assert!(Instant::now() < deadline, "no CPU use was seen although this loop burns it");
            std::hint::spin_loop();
        }
        assert!(probe.usage().cpu_percent <= 100.0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_of_processes_that_were_started_counts() {
        use std::process::{Command, Stdio};
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let alone = resident_bytes(&std::process::id().to_string());
        let of_child = resident_bytes(&child.id().to_string());
        assert!(alone > 0 && of_child > 0);
        assert!(of_children() >= of_child);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(resident_bytes(&child.id().to_string()), 0);
    }

    #[test]
    fn it_stops_without_waiting_for_the_next_sample() {
        let sampler = HostSampler::start().unwrap();
        let start = Instant::now();
        drop(sampler);
        assert!(start.elapsed() < INTERVAL, "{:?}", start.elapsed());
    }

    #[test]
    fn the_gauges_say_what_the_probe_says() {
        let registry = Registry::new();
        let usage = HostUsage { cpu_percent: 12.5, memory_bytes: 4096, memory_percent: 1.0 };
        HostProbe::fixed(usage).register(&registry).unwrap();
        let text = String::from_utf8(render(&registry).unwrap()).unwrap();
        assert!(text.contains("worker_cpu_usage_percent 12.5\n"), "{text}");
        assert!(text.contains("worker_memory_usage_bytes 4096\n"), "{text}");
    }
}
