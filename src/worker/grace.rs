//! How long the end may take: one time for all of it, which its phases share.
//!
//! ```text
//! DRAIN_TIMEOUT, or told to stop --10 s--> what did not stop is left behind --12 s--> so is what was not given back
//!     --14 s--> outbox flushed --16 s--> servers closed, traces sent --20 s--> engine closed, process gone
//! ```
//!
//! Each phase ends as soon as it can. None of them has a time of its own only, since those would add up to more than
//! whoever ends the process grants.

use std::time::Duration;

use tokio::time::Instant;

/// Until when what was told to stop, and polls that are out, are waited for.
const STOPPED: Duration = Duration::from_secs(10);

/// Until when the orchestrator may say that it took tasks back.
const GIVEN_BACK: Duration = Duration::from_secs(12);

/// Until when it may take the last outcomes.
const FLUSHED: Duration = Duration::from_secs(14);

/// Until when servers may answer the last calls, and traces may be sent. The engine has the rest.
const CLOSED: Duration = Duration::from_secs(16);

/// When the phases of the end are over at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    begins: Instant,
}

impl Grace {
    /// One that begins when running tasks are told to stop.
    pub(super) fn from(begins: Instant) -> Self {
        Self { begins }
    }

    /// When what has not stopped is left behind.
    pub(super) fn stopped_by(self) -> Instant {
        self.begins + STOPPED
    }

    /// When what was not given back is left behind.
    pub(super) fn given_back_by(self) -> Instant {
        self.begins + GIVEN_BACK
    }

    /// When outcomes that were not acknowledged stay on disk.
    pub(super) fn flushed_by(self) -> Instant {
        self.begins + FLUSHED
    }

    /// When servers and traces are cut short.
    pub fn closed_by(self) -> Instant {
        self.begins + CLOSED
    }
}
