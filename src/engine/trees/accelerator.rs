//! Boosting with the sums by bin in the memory of a GPU.
//!
//! ```text
//! session  bins of all rows, in groups of features ------------------------> device
//! tree     packed derivatives of all rows, features that may be split by --> device
//! node     its rows --> sums by bin --> (there) those of its sibling by subtraction
//!                                   --> (there) features that may have the best split
//!                                   --> their sums come back, and the host decides by its own rule
//! ```
//!
//! Sums are integers and the rule is the host's, so that a tree is the same to the last bit wherever it is grown.
//!
//! Rows are parted, derived and scored by the host. All is given to the device by the thread of the session: a failure is
//! a panic there, as tensors fail, and whoever runs the session tells what it was.

use super::growth::{Derived, Grown, Growth, Parted};
use super::store::Store;
use crate::domain::TaskError;
use crate::engine::device::ComputeDevice;

#[cfg(feature = "wgpu")]
pub(super) use self::gpu::Accelerator;

/// There is none in this build.
#[cfg(not(feature = "wgpu"))]
#[derive(Debug)]
pub(super) enum Accelerator {}

#[cfg(not(feature = "wgpu"))]
impl Accelerator {
    /// `None`: the host does all.
    ///
    /// # Errors
    /// None in this build.
    pub(super) fn of(_: &ComputeDevice, _: &Store) -> Result<Option<Self>, TaskError> {
        Ok(None)
    }

    /// As [`Growth::grow`].
    ///
    /// # Errors
    /// As [`Growth::grow`].
    pub(super) fn grow(&self, _: Growth<'_>, _: Derived<'_>, _: Parted<'_>) -> Result<Grown, TaskError> {
        match *self {}
    }
}

#[cfg(feature = "wgpu")]
mod gpu {
    use std::fmt;
    use std::panic::panic_any;

    use burn::backend::DispatchDevice;
    use tensorfleet_kernels::gpu::{
        self, Client, Feature, Features, GpuBins, ScanLimits, ServerError, Values,
    };
    use tensorfleet_kernels::trees::Split;

    use super::super::histograms::Histograms;
    use super::{ComputeDevice, Derived, Grown, Growth, Parted, Store, TaskError};
    use crate::domain::ErrorCode;

    /// The bins of a session's rows on a GPU.
    pub(in super::super) struct Accelerator {
        client: Client,
        bins: GpuBins,
    }

    impl fmt::Debug for Accelerator {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Accelerator").finish_non_exhaustive()
        }
    }

    impl Accelerator {
        /// The bins of `store` on `device`; `None` where that is the host, or there is nothing to split by.
        ///
        /// # Errors
        /// `ResourceExhausted`: they are more than the device takes at once.
        pub(in super::super) fn of(device: &ComputeDevice, store: &Store) -> Result<Option<Self>, TaskError> {
            let DispatchDevice::Cube(cube) = device.device.as_dispatch() else { return Ok(None) };
            if store.features().is_empty() {
                return Ok(None);
            }
            let client = cube.client();
            let most = client.properties().memory.max_page_size;
            let bins = GpuBins::bytes_of(store.rows(), store.groups().map(|features| features.len()));
            // Derivatives and histograms are as much in one piece.
            let derivatives = size_of::<i64>() as u64 * store.rows() as u64;
            let histogram = (size_of::<i64>() * store.histogram_len()) as u64;
            within(bins.max(derivatives).max(histogram), most, &device.name)?;
            let groups = store.groups().map(|features| store.lines_and_offsets(features));
            let bins = GpuBins::upload(&client, store.rows(), groups);
            Ok(Some(Self { client, bins }))
        }

        /// As [`Growth::grow`].
        ///
        /// # Errors
        /// As [`Growth::grow`].
        pub(in super::super) fn grow(
            &self,
            growth: Growth<'_>,
            derived: Derived<'_>,
            parted: Parted<'_>,
        ) -> Result<Grown, TaskError> {
            let feature = |index: &usize| {
                let binned = growth.store.features().get(*index)?;
                Some(Feature {
                    slot: growth.store.slots_of(*index).start as u32,
                    value_bins: binned.cuts.value_bins() as u32,
                    missing: binned.missing_bin().is_some(),
                })
            };
            let features: Vec<Feature> = growth.features.iter().filter_map(feature).collect();
            let histograms = OnDevice {
                growth,
                accelerator: self,
                packed: Values::upload(&self.client, derived.1),
                features: Features::upload(&self.client, &features),
            };
            growth.grow(&histograms, derived, parted)
        }
    }

    /// The histograms of a tree on a GPU.
    struct OnDevice<'a> {
        growth: Growth<'a>,
        accelerator: &'a Accelerator,
        packed: Values,
        features: Features,
    }

    impl Histograms for OnDevice<'_> {
        type Sums = Values;

        const SIDE_BY_SIDE: bool = false;

        fn build(&self, rows: &[u32]) -> Result<Values, TaskError> {
            let Accelerator { client, bins } = self.accelerator;
            self.growth.control.check()?;
            Ok(gpu::accumulate(client, bins, &Values::upload(client, rows), &self.packed))
        }

        fn rest(&self, parent: Values, child: &Values) -> Values {
            gpu::subtract(&self.accelerator.client, &parent, child)
        }

        fn best(&self, sums: &Values, total: i64) -> Option<(usize, Split)> {
            let client = &self.accelerator.client;
            let Growth { store, features, rules, quantum, .. } = self.growth;
            let limits =
                ScanLimits { total, quantum: *quantum, penalties: rules.penalties, least: rules.gamma };
            let found = there(gpu::contenders(client, sums, &self.features, &limits));
            let contenders: Vec<usize> =
                found.into_iter().filter_map(|position| features.get(position).copied()).collect();
            if contenders.is_empty() {
                return None;
            }
            let part = |index: &usize| {
                let slots = store.slots_of(*index);
                2 * slots.start..2 * slots.end
            };
            let parts: Vec<_> = contenders.iter().map(part).collect();
            let of_contenders: Vec<Vec<i64>> = there(sums.read_parts(client, &parts));
            let candidates = contenders.into_iter().zip(of_contenders.iter().map(Vec::as_slice));
            self.growth.best(candidates, total)
        }

        fn give_back(&self, _: Values) {}
    }

    /// Whether so many bytes are no more than `most`, those that the GPU `name` takes in one piece.
    fn within(need: u64, most: u64, name: &str) -> Result<(), TaskError> {
        if need <= most {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let message = format!(
            "the training rows need {} MiB in one piece, and the GPU {name} takes {} MiB; allowed: fewer rows or features, or \
             hyperparameter backend=cpu",
            mib(need),
            mib(most)
        );
        Err(TaskError::new(ErrorCode::ResourceExhausted, message))
    }

    /// What the device gave. A failure ends the session, as one of a tensor does.
    fn there<T>(given: Result<T, ServerError>) -> T {
        given.unwrap_or_else(|error| panic_any(error.to_string()))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn more_than_the_device_takes_at_once_is_refused_with_what_helps() {
            assert_eq!(within(128 << 20, 128 << 20, "card"), Ok(()));
            let error = within((128 << 20) + 1, 128 << 20, "card").unwrap_err();
            assert_eq!(error.code, ErrorCode::ResourceExhausted);
            assert!(
                error.message.contains("need 129 MiB") && error.message.contains("card takes 128 MiB"),
                "{error}"
            );
            assert!(error.message.contains("hyperparameter backend=cpu"), "{error}");
        }
    }
}
