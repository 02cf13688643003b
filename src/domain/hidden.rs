//! GPUs that CUDA_VISIBLE_DEVICES and NVIDIA_VISIBLE_DEVICES keep from this worker.

use super::PciAddress;

/// The GPUs that are not to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HiddenGpus {
    /// Those at these places.
    At(Vec<PciAddress>),
    /// Some, and nobody knows yet which these are.
    Unknown,
}

impl HiddenGpus {
    /// What [`Self::Unknown`] means for an operator.
    pub const UNKNOWN: &str = "CUDA_VISIBLE_DEVICES or NVIDIA_VISIBLE_DEVICES hides GPUs, and NVML, which knows them by \
                               these names, has not answered yet: no GPU is used until it does";

    /// What mends [`Self::Unknown`].
    pub const REPAIR: &str = "unset the variable, or see that libnvidia-ml.so.1 is there and works";

    /// Whether a GPU at `address` is not to be used.
    pub fn forbids(&self, address: Option<PciAddress>) -> bool {
        match self {
            Self::At(hidden) => address.is_some_and(|address| hidden.contains(&address)),
            Self::Unknown => true,
        }
    }

    /// Those that are known: for whoever waits until the others are.
    pub fn known(&self) -> Self {
        match self {
            Self::At(_) => self.clone(),
            Self::Unknown => Self::default(),
        }
    }
}

impl Default for HiddenGpus {
    fn default() -> Self {
        Self::At(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_it_is_known_which_are_hidden_all_are() {
        let [first, second] = ["0000:01:00.0", "0000:02:00.0"].map(|text| text.parse().ok());
        let hidden = HiddenGpus::At(first.into_iter().collect());
        assert!(hidden.forbids(first) && !hidden.forbids(second) && !hidden.forbids(None));
        assert_eq!(hidden.known(), hidden);
        assert!(HiddenGpus::Unknown.forbids(first) && HiddenGpus::Unknown.forbids(None));
        assert!(!HiddenGpus::Unknown.known().forbids(first));
    }
}
