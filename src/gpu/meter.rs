//! What a task took of its GPU: energy, most memory, time with clocks held down.
//!
//! ```text
//! samples of energy    E0 ---------------------- E1 ------------ E2
//! tasks                     begin A     begin B        end A
//! shares                    |--- all A ---|- half each -|- all B
//! ```
//!
//! Between two samples energy is taken to grow evenly, so that begin and end of a task each ask for a sample of their
//! own. While several tasks run on a GPU each gets the same share.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::GpuProbe as _;
use super::driver::{Sample, Sampled};
use super::inventory::LONGEST_GAP;
use super::sampler::SampledGpus;
use super::snapshot::ThrottleReason;

/// Longest wait for the sample that ends a task's account; then the rest is reckoned from the latest power.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether a GPU was a task's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attribution {
    /// No other task of this worker and no other process computed on it meanwhile.
    #[default]
    Exclusive,
    /// It was shared at least for a while; the energy is a share of the GPU's.
    Shared,
}

impl Attribution {
    /// Lower-case name, as in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "shared",
        }
    }
}

/// What a task took of its GPU.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GpuShare {
    /// Energy; absent where the GPU tells neither energy nor power.
    pub energy_joules: Option<f64>,
    /// Whether it had the GPU alone.
    pub attribution: Attribution,
    /// Most video memory in use on the GPU meanwhile, by whomever, in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// For how long clocks were held down, by reason; empty where they were not.
    pub throttled: BTreeMap<ThrottleReason, Duration>,
}

impl GpuShare {
    /// What the owner of a task that took `duration` should know: that it was slowed down.
    pub fn note(&self, duration: Duration) -> Option<String> {
        let seconds = |time: &Duration| format!("{:.1} s", time.as_secs_f64());
        let reasons: Vec<String> = self
            .throttled
            .iter()
            .map(|(reason, time)| format!("{} {}", reason.name(), seconds(time)))
            .collect();
        (!reasons.is_empty()).then(|| {
            format!(
                "clocks of the GPU were held down during this task of {}: {}",
                seconds(&duration),
                reasons.join(", ")
            )
        })
    }
}

struct Task {
    began: Instant,
    ended: Option<Instant>,
    /// Whether its account was closed with an estimate: it only keeps its place beside the others until the next sample.
    closed: bool,
    share: GpuShare,
}

impl Task {
    /// The part of `from..to` in which it ran.
    fn within(&self, from: Instant, to: Instant) -> Option<(Instant, Instant)> {
        let (from, to) = (from.max(self.began), to.min(self.ended.unwrap_or(to)));
        (from < to).then_some((from, to))
    }
}

#[derive(Debug, Clone, Copy)]
struct Point {
    at: Instant,
    energy_joules: Option<f64>,
    power_watts: Option<f64>,
}

impl Point {
    /// Energy from here to `next` in joules: by the counter, or by power.
    fn energy_to(&self, next: &Self) -> Option<f64> {
        match (self.energy_joules, next.energy_joules) {
            // A counter that went back began anew with its driver.
            (Some(before), Some(after)) => (after >= before).then_some(after - before),
            _ => Some((self.power_watts? + next.power_watts?) / 2.0 * (next.at - self.at).as_secs_f64()),
        }
    }
}

#[derive(Default)]
struct Gpu {
    last: Option<Point>,
    tasks: BTreeMap<u64, Task>,
}

impl Gpu {
    fn sampled(&mut self, sampled: &Sampled) {
        let readings = &sampled.readings;
        let point = Point {
            at: sampled.at,
            energy_joules: readings.energy_joules,
            power_watts: readings.power_watts,
        };
        let others = readings.has_strangers();
        for task in self.tasks.values_mut().filter(|task| task.ended.is_none_or(|ended| ended >= point.at)) {
            if others {
                task.share.attribution = Attribution::Shared;
            }
            task.share.memory_peak_bytes = task.share.memory_peak_bytes.max(readings.memory_used_bytes);
        }
        if let Some(last) = self.last.filter(|last| last.at < point.at) {
            self.account(&last, &point);
            // What held clocks down while nobody looked is not known.
            let known = point.at - last.at <= LONGEST_GAP;
            for reason in readings.throttle_reasons.iter().flatten().filter(|_| known) {
                for task in self.tasks.values_mut() {
                    if let Some((from, to)) = task.within(last.at, point.at) {
                        *task.share.throttled.entry(*reason).or_default() += to - from;
                    }
                }
            }
        }
        self.last = Some(point);
        self.tasks.retain(|_, task| !task.closed);
    }

    /// Shares out the energy between two samples.
    fn account(&mut self, last: &Point, next: &Point) {
        let Some(energy) = last.energy_to(next) else { return };
        let watts = energy / (next.at - last.at).as_secs_f64();
        let mut edges = vec![last.at, next.at];
        for (from, to) in self.tasks.values().filter_map(|task| task.within(last.at, next.at)) {
            edges.extend([from, to]);
        }
        edges.sort_unstable();
        edges.dedup();
        for pair in edges.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let mut sharing: Vec<_> =
                self.tasks.values_mut().filter(|task| task.within(from, to) == Some((from, to))).collect();
            let share = watts * (to - from).as_secs_f64() / sharing.len().max(1) as f64;
            let several = sharing.len() > 1;
            for task in &mut sharing {
                *task.share.energy_joules.get_or_insert(0.0) += share;
                if several {
                    task.share.attribution = Attribution::Shared;
                }
            }
        }
    }

    /// The account of a task that ended is complete once a later sample is there.
    fn is_complete(&self, id: u64) -> bool {
        let ended = self.tasks.get(&id).and_then(|task| task.ended);
        ended.zip(self.last).is_some_and(|(ended, last)| last.at >= ended)
    }

    fn take(&mut self, id: u64) -> Option<GpuShare> {
        if self.is_complete(id) || self.tasks.get(&id)?.ended.is_none() {
            return self.tasks.remove(&id).map(|task| task.share);
        }
        let rest = self.estimate(id);
        let task = self.tasks.get_mut(&id).filter(|task| !task.closed)?;
        task.closed = true;
        let mut share = std::mem::take(&mut task.share);
        if let Some(rest) = rest {
            *share.energy_joules.get_or_insert(0.0) += rest;
        }
        Some(share)
    }

    /// Energy of task `id` since the last sample in joules, from the power at that sample. The others' shares are left
    /// to the next sample, which knows better.
    fn estimate(&self, id: u64) -> Option<f64> {
        let (task, last) = (self.tasks.get(&id)?, self.last?);
        let ended = task.ended?;
        let (from, to) = task.within(last.at, ended).filter(|_| ended - last.at <= 4 * PATIENCE)?;
        let mut edges: Vec<Instant> = self
            .tasks
            .values()
            .filter_map(|other| other.within(from, to))
            .flat_map(|(from, to)| [from, to])
            .collect();
        edges.sort_unstable();
        let share = |pair: &[Instant]| {
            let sharing =
                self.tasks.values().filter(|other| other.within(pair[0], pair[1]).is_some()).count();
            (pair[1] - pair[0]).as_secs_f64() / sharing.max(1) as f64
        };
        Some(last.power_watts? * edges.windows(2).map(share).sum::<f64>())
    }
}

/// The accounts of all tasks that run on GPUs.
#[derive(Default)]
pub(super) struct Meters {
    gpus: BTreeMap<String, Gpu>,
    next: u64,
}

impl Meters {
    fn begin(&mut self, uuid: &str, at: Instant) -> u64 {
        self.next += 1;
        let task = Task { began: at, ended: None, closed: false, share: GpuShare::default() };
        self.gpus.entry(uuid.to_owned()).or_default().tasks.insert(self.next, task);
        self.next
    }

    fn end(&mut self, uuid: &str, id: u64, at: Instant) {
        if let Some(task) = self.gpus.get_mut(uuid).and_then(|gpu| gpu.tasks.get_mut(&id)) {
            task.ended = Some(at);
        }
    }

    pub(super) fn sampled(&mut self, sample: &Sample) {
        for sampled in &sample.devices {
            self.gpus.entry(sampled.info.uuid.clone()).or_default().sampled(sampled);
        }
    }

    /// No sample came in time: what is between the last and the next one is not known.
    pub(super) fn withdrawn(&mut self) {
        for gpu in self.gpus.values_mut() {
            if gpu.last.is_some_and(|last| last.energy_joules.is_none()) {
                gpu.last = None;
            }
        }
    }
}

/// The account of one task, from now on.
pub struct TaskMeter {
    gpus: SampledGpus,
    uuid: String,
    id: u64,
}

impl TaskMeter {
    pub(super) fn begin(gpus: SampledGpus, uuid: &str) -> Self {
        let id = gpus.meters().begin(uuid, Instant::now());
        gpus.nudge();
        Self { gpus, uuid: uuid.to_owned(), id }
    }

    /// The task ended now, whenever what is returned is waited for: that waits for the sample after it, for half a second at
    /// most.
    pub fn end(self) -> impl Future<Output = GpuShare> + Send {
        self.gpus.meters().end(&self.uuid, self.id, Instant::now());
        let mut snapshots = self.gpus.watch();
        snapshots.mark_unchanged();
        self.gpus.nudge();
        async move {
            let complete = async { while !self.is_complete() && snapshots.changed().await.is_ok() {} };
            // What is missing then is reckoned.
            let _ = tokio::time::timeout(PATIENCE, complete).await;
            self.take().unwrap_or_default()
        }
    }

    fn is_complete(&self) -> bool {
        self.gpus.meters().gpus.get(&self.uuid).is_none_or(|gpu| gpu.is_complete(self.id))
    }

    fn take(&self) -> Option<GpuShare> {
        self.gpus.meters().gpus.get_mut(&self.uuid)?.take(self.id)
    }
}

impl Drop for TaskMeter {
    fn drop(&mut self) {
        // Already taken where the task ended in order.
        let _ = self.take();
    }
}

impl std::fmt::Debug for TaskMeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskMeter").field("uuid", &self.uuid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{GpuProcess, GpuReadings, Owner};
    use super::*;
    use crate::domain::GpuInfo;

    const UUID: &str = "GPU-1";

    fn sample(at: Instant, readings: GpuReadings) -> Sample {
        let info = GpuInfo {
            index: 0,
            uuid: UUID.to_owned(),
            name: String::new(),
            memory_bytes: None,
            pci_bus_id: String::new(),
            compute_capability: String::new(),
            driver_version: String::new(),
            mig: false,
        };
        let sampled = Sampled { info, parent: None, partitioned: false, readings, at };
        Sample { devices: vec![sampled], count: 1, errors: Vec::new(), took: Duration::ZERO }
    }

    fn process(pid: u32, owner: Owner) -> GpuProcess {
        GpuProcess { pid, memory_bytes: None, owner }
    }

    fn counter(joules: f64) -> GpuReadings {
        GpuReadings { energy_joules: Some(joules), ..GpuReadings::default() }
    }

    #[test]
    fn tasks_share_the_energy_of_the_time_that_they_share() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut meters = Meters::default();
        meters.sampled(&sample(at(0.0), counter(1000.0)));
        let a = meters.begin(UUID, at(1.0));
        let b = meters.begin(UUID, at(3.0));
        meters.sampled(&sample(at(4.0), counter(1400.0)));
        meters.end(UUID, a, at(5.0));
        let gpu = |meters: &Meters, id| meters.gpus[UUID].is_complete(id);
        assert!(!gpu(&meters, a));
        meters.sampled(&sample(at(6.0), counter(1600.0)));
        assert!(gpu(&meters, a));
        // 100 W: alone for 2 s, by halves for 2 s.
        let share = meters.gpus.get_mut(UUID).unwrap().take(a).unwrap();
        assert!((share.energy_joules.unwrap() - 300.0).abs() < 1e-6, "{share:?}");
        assert_eq!(share.attribution, Attribution::Shared);
        meters.end(UUID, b, at(7.0));
        meters.sampled(&sample(at(7.0), counter(1700.0)));
        let share = meters.gpus.get_mut(UUID).unwrap().take(b).unwrap();
        assert!((share.energy_joules.unwrap() - (100.0 + 200.0)).abs() < 1e-6, "{share:?}");
    }

    #[test]
    fn without_a_counter_power_is_integrated_and_the_end_is_reckoned() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let watts = |watts: f64| GpuReadings {
            power_watts: Some(watts),
            memory_used_bytes: Some(watts as u64),
            throttle_reasons: Some(vec![ThrottleReason::PowerCap]),
            processes: Some(vec![process(1, Owner::Unknown)]),
            ..GpuReadings::default()
        };
        let mut meters = Meters::default();
        let a = meters.begin(UUID, at(0.0));
        meters.sampled(&sample(at(0.0), watts(100.0)));
        meters.sampled(&sample(at(2.0), watts(300.0)));
        meters.end(UUID, a, at(3.0));
        let share = meters.gpus.get_mut(UUID).unwrap().take(a).unwrap();
        assert!((share.energy_joules.unwrap() - 700.0).abs() < 1e-6, "{share:?}");
        assert_eq!((share.attribution, share.memory_peak_bytes), (Attribution::Exclusive, Some(300)));
        assert_eq!(share.throttled, BTreeMap::from([(ThrottleReason::PowerCap, Duration::from_secs(2))]));
    }

    #[test]
    fn nothing_known_is_no_energy_and_a_foreign_process_makes_it_shared() {
        let start = Instant::now();
        let mut meters = Meters::default();
        let a = meters.begin(UUID, start);
        let readings =
            GpuReadings { processes: Some(vec![process(1, Owner::Others)]), ..GpuReadings::default() };
        meters.sampled(&sample(start + Duration::from_secs(1), readings));
        meters.end(UUID, a, start + Duration::from_secs(1));
        let share = meters.gpus.get_mut(UUID).unwrap().take(a).unwrap();
        assert_eq!((share.energy_joules, share.attribution), (None, Attribution::Shared));
    }

    #[test]
    fn an_estimate_that_was_too_high_takes_nothing_from_the_others() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let readings = |joules| GpuReadings { power_watts: Some(500.0), ..counter(joules) };
        let mut meters = Meters::default();
        meters.sampled(&sample(at(0.0), readings(1000.0)));
        let a = meters.begin(UUID, at(0.0));
        let b = meters.begin(UUID, at(0.0));
        meters.end(UUID, a, at(1.0));
        let share = meters.gpus.get_mut(UUID).unwrap().take(a).unwrap();
        assert!((share.energy_joules.unwrap() - 250.0).abs() < 1e-6, "{share:?}");
        assert!(meters.gpus.get_mut(UUID).unwrap().take(a).is_none(), "it is taken once");
        // 100 W were drawn: by halves for 1 s, then by the second one alone.
        meters.sampled(&sample(at(2.0), readings(1200.0)));
        meters.end(UUID, b, at(2.0));
        let share = meters.gpus.get_mut(UUID).unwrap().take(b).unwrap();
        assert!((share.energy_joules.unwrap() - 150.0).abs() < 1e-6, "{share:?}");
        assert!(meters.gpus[UUID].tasks.is_empty());
    }

    #[test]
    fn of_a_time_in_which_nobody_looked_no_throttling_is_told() {
        let start = Instant::now();
        let held_down =
            || GpuReadings { throttle_reasons: Some(vec![ThrottleReason::Thermal]), ..counter(0.0) };
        let mut meters = Meters::default();
        let a = meters.begin(UUID, start);
        for seconds in [0, 1, 31] {
            meters.sampled(&sample(start + Duration::from_secs(seconds), held_down()));
        }
        meters.end(UUID, a, start + Duration::from_secs(31));
        let share = meters.gpus.get_mut(UUID).unwrap().take(a).unwrap();
        assert_eq!(share.throttled, BTreeMap::from([(ThrottleReason::Thermal, Duration::from_secs(1))]));
    }

    #[test]
    fn a_process_that_cannot_be_told_apart_may_be_ours_and_a_second_one_is_not() {
        use Owner::{Others, Ours, Unknown};
        for (owners, strangers) in [
            (&[][..], false),
            (&[Ours], false),
            (&[Ours, Ours], false),
            (&[Unknown], false),
            (&[Unknown, Unknown], true),
            (&[Ours, Unknown], true),
            (&[Others], true),
        ] {
            let processes = owners.iter().map(|owner| process(1, *owner)).collect();
            let readings = GpuReadings { processes: Some(processes), ..GpuReadings::default() };
            assert_eq!(readings.has_strangers(), strangers, "{owners:?}");
        }
    }
}
