//! Which GPUs this worker may use: NVIDIA_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES, by index or UUID.
//!
//! Indices are those of NVML, which counts in the order of PCI addresses (CUDA does too under
//! CUDA_DEVICE_ORDER=PCI_BUS_ID).

use super::NvmlState;

/// What the environment allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visible {
    /// NVIDIA_VISIBLE_DEVICES, as it is written.
    pub nvidia: Option<String>,
    /// CUDA_VISIBLE_DEVICES, as it is written.
    pub cuda: Option<String>,
}

/// A GPU as the two variables may name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate<'a> {
    /// NVML's index; of a MIG slice that of its GPU.
    pub(super) index: u32,
    /// Its UUID.
    pub(super) uuid: &'a str,
    /// UUID of the GPU that it is a slice of.
    pub(super) parent: Option<&'a str>,
}

impl Candidate<'_> {
    fn is_called(&self, name: &str) -> bool {
        match name.parse::<u32>() {
            Ok(index) => index == self.index,
            // CUDA takes the beginning of a UUID too.
            Err(_) => {
                let begins = |uuid: &str| name.len() >= 8 && uuid.starts_with(name);
                begins(self.uuid) || self.parent.is_some_and(begins)
            }
        }
    }
}

impl Visible {
    /// Whether GPUs are hidden in a way that only NVML can tell which these are.
    pub(super) fn hides(&self, state: NvmlState) -> bool {
        let nvidia = self.nvidia.as_deref().map(str::trim);
        // A list for a container without NVML was applied by its runtime.
        let listed = state != NvmlState::Absent && !matches!(nvidia, None | Some("all" | ""));
        listed || self.cuda.is_some()
    }

    /// For each of `all`, whether it may be used. NVML counts `count` GPUs, of which some may never have answered.
    pub(super) fn select(&self, all: &[Candidate<'_>], count: u32) -> Vec<bool> {
        let nvidia = self.nvidia.as_deref().map(str::trim);
        let by_nvidia = |candidate: &Candidate<'_>| match nvidia {
            None | Some("all" | "") => true,
            Some("none" | "void") => false,
            Some(list) => {
                let names: Vec<&str> = list.split(',').map(str::trim).collect();
                // Where the container runtime has applied the list already, no more than these are there, and their
                // indices are counted anew.
                names.len() as u64 >= count.into() || names.iter().any(|name| candidate.is_called(name))
            }
        };
        let by_cuda = |candidate: &Candidate<'_>| match self.cuda.as_deref() {
            None => true,
            // As CUDA does: whatever follows a name that means nothing is not visible.
            Some(list) => list
                .split(',')
                .map(str::trim)
                .take_while(|name| all.iter().any(|candidate| candidate.is_called(name)))
                .any(|name| candidate.is_called(name)),
        };
        all.iter().map(|candidate| by_nvidia(candidate) && by_cuda(candidate)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUIDS: [&str; 3] = ["GPU-aaaaaaaa-1", "GPU-bbbbbbbb-2", "GPU-cccccccc-3"];

    fn select(nvidia: Option<&str>, cuda: Option<&str>) -> Vec<bool> {
        let all: Vec<_> =
            (0..).zip(UUIDS).map(|(index, uuid)| Candidate { index, uuid, parent: None }).collect();
        let visible = Visible { nvidia: nvidia.map(str::to_owned), cuda: cuda.map(str::to_owned) };
        visible.select(&all, 3)
    }

    #[test]
    fn a_gpu_that_never_answered_counts_and_is_not_replaced_by_another() {
        let first = Candidate { index: 0, uuid: UUIDS[0], parent: None };
        let visible = Visible { nvidia: Some("1".to_owned()), cuda: None };
        assert_eq!(visible.select(&[first], 2), [false]);
        assert_eq!(visible.select(&[first], 1), [true], "the container runtime has applied it");
    }

    #[test]
    fn what_hides_gpus_does_so_while_nvml_tells_nothing() {
        let visible = |nvidia: Option<&str>, cuda: Option<&str>| Visible {
            nvidia: nvidia.map(str::to_owned),
            cuda: cuda.map(str::to_owned),
        };
        for (visible, failed, absent) in [
            (visible(None, None), false, false),
            (visible(Some("all"), None), false, false),
            (visible(Some("1"), None), true, false),
            (visible(Some("all"), Some("1")), true, true),
            (visible(None, Some("")), true, true),
        ] {
            assert_eq!(visible.hides(NvmlState::Failed), failed, "{visible:?}");
            assert_eq!(visible.hides(NvmlState::Absent), absent, "{visible:?}");
        }
    }

    #[test]
    fn both_variables_take_indices_and_uuids() {
        for (nvidia, cuda, expected) in [
            (None, None, [true, true, true]),
            (Some("all"), None, [true, true, true]),
            (Some("none"), None, [false, false, false]),
            (Some("1"), None, [false, true, false]),
            (Some("GPU-cccccccc-3, 0"), None, [true, false, true]),
            (None, Some("2,0"), [true, false, true]),
            (None, Some("GPU-bbbbbbbb"), [false, true, false]),
            (None, Some("-1"), [false, false, false]),
            (None, Some(""), [false, false, false]),
            (None, Some("0,7,1"), [true, false, false]),
            (Some("0,1"), Some("1,2"), [false, true, false]),
            // The container runtime left three, whatever their indices were on the host.
            (Some("4,5,6"), None, [true, true, true]),
        ] {
            assert_eq!(select(nvidia, cuda), expected, "{nvidia:?} {cuda:?}");
        }
    }

    #[test]
    fn a_slice_is_called_by_its_own_name_or_by_its_gpu() {
        let slice = Candidate { index: 0, uuid: "MIG-dddddddd-4", parent: Some("GPU-aaaaaaaa-1") };
        for (name, is) in
            [("MIG-dddddddd-4", true), ("GPU-aaaaaaaa-1", true), ("0", true), ("MIG-eeeeeeee", false)]
        {
            assert_eq!(slice.is_called(name), is, "{name}");
        }
    }
}
