//! Series whose label sets end: what a task or a job leaves in /metrics goes away after it.
//!
//! ```text
//! set, observe --> live ----end----> finished --keep passed--> gone
//!                   ^                   |
//!                   +---- set, observe -+           more than `most`: the oldest finished goes first,
//!                                                   then the one that was touched longest ago
//! ```
//!
//! Invariants: a family never shows more than [`Limits::most`] label sets; a finished one is gone at the first scrape
//! or insertion after [`Limits::keep`]; every operation is O(log n) beside the label sets it removes.
//!
//! Budget: all families with job or task ids together stay under 1,000 series. A gauge is one series a label set, a
//! histogram of b buckets b + 3 (its buckets, +Inf, sum and count); [`Limits::histograms`] does that division.

mod table;

use std::fmt;
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
struct Family<V> {
    desc: Desc,
    clock: Clock,
    table: Mutex<Table<V>>,
}

impl<V> Family<V> {
    fn new(
        opts: &Opts,
        labels: &[&str],
        limits: Limits,
        clock: Clock,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        let desc = Desc::new(opts.fq_name(), opts.help.clone(), labels, opts.const_labels.clone())?;
        Ok(Arc::new(Self { desc, clock, table: Mutex::new(Table::new(limits)) }))
    }

    fn table(&self) -> MutexGuard<'_, Table<V>> {
        // A panic while it was held cannot leave a half-made label set that would matter to a reader.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, labels: &[&str], make: impl FnOnce() -> V, change: impl FnOnce(&mut V)) {
        debug_assert_eq!(labels.len(), self.desc.variable_labels.len(), "labels of {}", self.desc.fq_name);
        let now = (self.clock)();
        self.table().update(labels, now, make, change);
    }

    fn end(&self, labels: &[&str]) {
        let now = (self.clock)();
        self.table().end(labels, now);
    }

    fn collect(
        &self,
        kind: proto::MetricType,
        fill: impl Fn(&mut proto::Metric, &V),
    ) -> Vec<proto::MetricFamily> {
        let now = (self.clock)();
        let mut table = self.table();
        table.sweep(now);
        let metrics = table.iter().map(|(values, value)| {
            let mut metric = proto::Metric::from_label(self.label_pairs(values));
            fill(&mut metric, value);
            metric
        });
        let mut family = proto::MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(kind);
        family.set_metric(metrics.collect());
        vec![family]
    }

    fn label_pairs(&self, values: &[Box<str>]) -> Vec<proto::LabelPair> {
        let pairs = self.desc.variable_labels.iter().zip(values).map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name(name.clone());
            pair.set_value(value.to_string());
            pair
        });
        pairs.chain(self.desc.const_label_pairs.iter().cloned()).collect()
    }
}

/// Gauges of label sets that end. Clones share their values.
#[derive(Clone)]
pub struct ExpiringGauges {
    family: Arc<Family<f64>>,
}

impl ExpiringGauges {
    /// A family named and described by `opts`, with `labels` shown in this order.
    ///
    /// # Errors
    /// A name, a help text or a label that Prometheus does not allow.
    pub fn new(opts: Opts, labels: &[&str], limits: Limits) -> Result<Self, prometheus::Error> {
        Self::with_clock(opts, labels, limits, system_clock())
    }

    /// As [`Self::new`], with the time told by `clock`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_clock(
        opts: Opts,
        labels: &[&str],
        limits: Limits,
        clock: Clock,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self { family: Family::new(&opts, labels, limits, clock)? })
    }

    /// Shows the family in `registry`.
    ///
    /// # Errors
    /// Another family of that name is there already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.clone()))
    }

    /// Sets the gauge of `values`, one value a label in the order of the labels; a finished one is live again.
    pub fn set(&self, values: &[&str], value: f64) {
        self.family.update(values, || value, |shown| *shown = value);
    }

    /// Marks `values` as finished; nothing happens where there are none.
    pub fn end(&self, values: &[&str]) {
        self.family.end(values);
    }

    /// Label sets there are now.
    pub fn label_sets(&self) -> usize {
        self.family.table().len()
    }
}

impl Collector for ExpiringGauges {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.family.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        self.family.collect(proto::MetricType::GAUGE, |metric, &value| {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        })
    }
}

impl fmt::Debug for ExpiringGauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExpiringGauges({})", self.family.desc.fq_name)
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
    family: Arc<Family<Observations>>,
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
        let family = Family::new(&opts.common_opts, labels, limits, clock)?;
        Ok(Self { family, bounds: opts.buckets.into() })
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
        self.family.update(values, make, |observations| observations.add(bounds, observed));
    }

    /// Marks `values` as finished; nothing happens where there are none.
    pub fn end(&self, values: &[&str]) {
        self.family.end(values);
    }

    /// Label sets there are now.
    pub fn label_sets(&self) -> usize {
        self.family.table().len()
    }
}

impl Collector for ExpiringHistograms {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.family.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        self.family.collect(proto::MetricType::HISTOGRAM, |metric, observations| {
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
            metric.set_histogram(histogram);
        })
    }
}

impl fmt::Debug for ExpiringHistograms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExpiringHistograms({})", self.family.desc.fq_name)
    }
}

#[cfg(test)]
mod tests;
