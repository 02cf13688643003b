//! Series whose label sets end: what a task or a job leaves in /metrics goes away after it.
//!
//! ```text
//! of, observe --> live ----end----> finished --keep passed--> gone
//!                  ^                   |
//!                  +---- of, observe --+            more than `most`: the oldest finished goes first,
//!                                                   then the one that was asked for longest ago
//! ```
//!
//! Families of gauges with the same label sets share one table: a task is looked up once, and what it sets then takes
//! neither a lock nor a look-up.
//!
//! Invariants: a family never shows more than [`Limits::most`] label sets; a finished one is gone at the first scrape
//! or insertion after [`Limits::keep`]; every operation is O(log n) beside the label sets it removes.
//!
//! Budget: all families with job or task ids together stay under 1,000 series. A gauge is one series a label set, a
//! histogram of b buckets b + 3 (its buckets, +Inf, sum and count); [`Limits::histograms`] does that division.

mod table;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto;
use prometheus::{HistogramOpts, Opts, Registry};

use table::Table;

/// How long a finished label set is shown.
pub const KEEP: Duration = Duration::from_secs(300);

/// Tells the time; injected in tests.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// The clock of the machine.
pub fn system_clock() -> Clock {
    Arc::new(Instant::now)
}

/// When label sets leave a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For how long a finished one stays.
    pub keep: Duration,
    /// How many there are at once, finished or not.
    pub most: usize,
}

impl Limits {
    /// For gauges: at most `most` series, finished ones for [`KEEP`].
    pub const fn gauges(most: usize) -> Self {
        Self { keep: KEEP, most }
    }

    /// For histograms of `buckets` buckets: as many as fit into `series` series, finished ones for [`KEEP`].
    pub const fn histograms(series: usize, buckets: usize) -> Self {
        Self { keep: KEEP, most: series / series_of_histogram(buckets) }
    }
}

/// Series that one label set of a histogram of `buckets` buckets takes.
pub const fn series_of_histogram(buckets: usize) -> usize {
    buckets + 3
}

/// What both kinds of family share: the names, the clock and the label sets.
struct Shared<V> {
    descs: Vec<Desc>,
    clock: Clock,
    table: Mutex<Table<V>>,
}

impl<V> Shared<V> {
    fn new(
        families: &[Opts],
        labels: &[&str],
        limits: Limits,
        clock: Clock,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let labels: Vec<_> = labels.iter().map(|&label| label.to_owned()).collect();
        let describe = |opts: &Opts| {
            Desc::new(opts.fq_name(), opts.help.clone(), labels.clone(), opts.const_labels.clone())
        };
        let descs = families.iter().map(describe).collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { descs, clock, table: Mutex::new(Table::new(limits)) }))
    }

    fn table(&self) -> MutexGuard<'_, Table<V>> {
        // A panic while it was held cannot leave a half-made label set that would matter to a reader.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update<R>(
        &self,
        labels: &[&str],
        make: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> Option<R> {
        let fits = |desc: &Desc| desc.variable_labels.len() == labels.len();
        debug_assert!(self.descs.iter().all(fits), "labels of {:?}", self.descs);
        let now = (self.clock)();
        self.table().update(labels, now, make, change)
    }

    fn end(&self, labels: &[&str]) {
        let now = (self.clock)();
        self.table().end(labels, now);
    }

    /// All families; `metric` makes what one shows of a value, if anything.
    fn collect(
        &self,
        kind: proto::MetricType,
        metric: impl Fn(usize, &V) -> Option<proto::Metric>,
    ) -> Vec<proto::MetricFamily> {
        let now = (self.clock)();
        let mut table = self.table();
        table.sweep(now);
        let family = |(number, desc): (usize, &Desc)| {
            let metrics = table.iter().filter_map(|(labels, value)| {
                let mut metric = metric(number, value)?;
                metric.set_label(label_pairs(desc, labels));
                Some(metric)
            });
            let mut family = proto::MetricFamily::default();
            family.set_name(desc.fq_name.clone());
            family.set_help(desc.help.clone());
            family.set_field_type(kind);
            family.set_metric(metrics.collect());
            family
        };
        self.descs.iter().enumerate().map(family).collect()
    }
}

fn label_pairs<'a>(desc: &Desc, values: impl Iterator<Item = &'a str>) -> Vec<proto::LabelPair> {
    let pairs = desc.variable_labels.iter().zip(values).map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name(name.clone());
        pair.set_value(value.to_owned());
        pair
    });
    pairs.chain(desc.const_label_pairs.iter().cloned()).collect()
}

/// Bits of a gauge that was never set: a NaN that no calculation gives.
const UNSET: u64 = u64::MAX;

/// The gauges of one label set, one a family. Clones share their values; setting takes no lock.
#[derive(Debug, Clone)]
pub struct Gauges(Arc<[AtomicU64]>);

impl Gauges {
    fn new(families: usize) -> Self {
        Self((0..families).map(|_| AtomicU64::new(UNSET)).collect())
    }

    /// Sets the gauge of the family with this number; nothing happens where there is none.
    pub fn set(&self, family: usize, value: f64) {
        if let Some(gauge) = self.0.get(family) {
            gauge.store(value.to_bits(), Ordering::Relaxed);
        }
    }

    fn get(&self, family: usize) -> Option<f64> {
        let bits = self.0.get(family)?.load(Ordering::Relaxed);
        (bits != UNSET).then(|| f64::from_bits(bits))
    }
}

/// Families of gauges over the same label sets, which end together. Clones share their values.
#[derive(Clone)]
pub struct ExpiringGauges {
    shared: Arc<Shared<Gauges>>,
}

impl ExpiringGauges {
    /// Families named and described by `families`, each with `labels` shown in this order.
    ///
    /// # Errors
    /// A name, a help text or a label that Prometheus does not allow.
    pub fn new(families: &[Opts], labels: &[&str], limits: Limits) -> Result<Self, prometheus::Error> {
        Self::with_clock(families, labels, limits, system_clock())
    }

    /// As [`Self::new`], with the time told by `clock`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_clock(
        families: &[Opts],
        labels: &[&str],
        limits: Limits,
        clock: Clock,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self { shared: Shared::new(families, labels, limits, clock)? })
    }

    /// Shows the families in `registry`.
    ///
    /// # Errors
    /// Another family of such a name is there already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.clone()))
    }

    /// The gauges of `values`, one value a label in the order of the labels; finished ones are live again. Whoever keeps
    /// them sets them without a look-up; what has left is set for nobody.
    pub fn of(&self, values: &[&str]) -> Gauges {
        let fresh = || Gauges::new(self.shared.descs.len());
        self.shared.update(values, fresh, |gauges| gauges.clone()).unwrap_or_else(fresh)
    }

    /// Marks `values` as finished; nothing happens where there are none.
    pub fn end(&self, values: &[&str]) {
        self.shared.end(values);
    }

    /// Label sets there are now.
    pub fn label_sets(&self) -> usize {
        self.shared.table().len()
    }
}

impl Collector for ExpiringGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.shared.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        self.shared.collect(proto::MetricType::GAUGE, |family, gauges| {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(gauges.get(family)?);
            let mut metric = proto::Metric::default();
            metric.set_gauge(gauge);
            Some(metric)
        })
    }
}

impl fmt::Debug for ExpiringGauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExpiringGauges").field(&self.shared.descs).finish()
    }
}

/// The observations of one label set.
struct Observations {
    /// One count a bucket, not cumulative; what lies above the last bound is only in `count`.
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Observations {
    fn add(&mut self, bounds: &[f64], value: f64) {
        let bucket = bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.count += 1;
        self.sum += value;
    }
}

/// Histograms of label sets that end. Clones share their values.
#[derive(Clone)]
pub struct ExpiringHistograms {
    shared: Arc<Shared<Observations>>,
    bounds: Arc<[f64]>,
}

impl ExpiringHistograms {
    /// A family named and described by `opts`, with its buckets, and with `labels` shown in this order.
    ///
    /// # Errors
    /// A name, a help text, a label or buckets that Prometheus does not allow.
    pub fn new(opts: HistogramOpts, labels: &[&str], limits: Limits) -> Result<Self, prometheus::Error> {
        Self::with_clock(opts, labels, limits, system_clock())
    }

    /// As [`Self::new`], with the time told by `clock`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_clock(
        opts: HistogramOpts,
        labels: &[&str],
        limits: Limits,
        clock: Clock,
    ) -> Result<Self, prometheus::Error> {
        let increasing = opts.buckets.windows(2).all(|pair| matches!(pair, [low, high] if low < high));
        if !increasing || opts.buckets.iter().any(|bound| !bound.is_finite()) {
            let message = format!("buckets of {} must be finite and increase", opts.common_opts.fq_name());
            return Err(prometheus::Error::Msg(message));
        }
        let shared = Shared::new(&[opts.common_opts], labels, limits, clock)?;
        Ok(Self { shared, bounds: opts.buckets.into() })
    }

    /// Shows the family in `registry`.
    ///
    /// # Errors
    /// Another family of that name is there already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.clone()))
    }

    /// Adds an observation to `values`, one value a label in the order of the labels; a finished one is live again.
    pub fn observe(&self, values: &[&str], observed: f64) {
        let bounds = &self.bounds;
        let make = || Observations { buckets: vec![0; bounds.len()], count: 0, sum: 0.0 };
        self.shared.update(values, make, |observations| observations.add(bounds, observed));
    }

    /// Marks `values` as finished; nothing happens where there are none.
    pub fn end(&self, values: &[&str]) {
        self.shared.end(values);
    }

    /// Label sets there are now.
    pub fn label_sets(&self) -> usize {
        self.shared.table().len()
    }
}

impl Collector for ExpiringHistograms {
    fn desc(&self) -> Vec<&Desc> {
        self.shared.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        self.shared.collect(proto::MetricType::HISTOGRAM, |_, observations| {
            let cumulative = observations.buckets.iter().scan(0, |sum, count| {
                *sum += count;
                Some(*sum)
            });
            let buckets = self.bounds.iter().zip(cumulative).map(|(&bound, count)| {
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                bucket
            });
            let mut histogram = proto::Histogram::default();
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_count(observations.count);
            histogram.set_sample_sum(observations.sum);
            let mut metric = proto::Metric::default();
            metric.set_histogram(histogram);
            Some(metric)
        })
    }
}

impl fmt::Debug for ExpiringHistograms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExpiringHistograms").field(&self.shared.descs).finish()
    }
}

#[cfg(test)]
mod tests;
