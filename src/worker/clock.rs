//! The clock of leases: monotonic, and it goes on while the machine is suspended.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment on that clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Moment(Duration);

impl Moment {
    /// Before everything.
    pub(super) const LONG_AGO: Self = Self(Duration::ZERO);

    /// `duration` later.
    pub(super) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// From `earlier` to here; zero when that is later.
    pub(super) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Tells the time.
#[derive(Debug, Clone)]
pub(super) enum Clock {
    /// The machine's: CLOCK_BOOTTIME, which no change of the wall clock moves and which counts a suspend.
    Boot,
    /// The runtime's, for tests in virtual time.
    #[cfg(test)]
    Virtual(std::sync::Arc<standstill::VirtualClock>),
}

#[cfg(test)]
pub(super) mod standstill;

impl Clock {
    /// Now.
    pub(super) fn now(&self) -> Moment {
        match self {
            Self::Boot => {
                let time = clock_gettime(ClockId::Boottime);
                let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
                Moment(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default()))
            }
            #[cfg(test)]
            Self::Virtual(clock) => Moment(clock.elapsed() + Duration::from_secs(1_000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_on_and_never_back() {
        let mut last = Clock::Boot.now();
        assert!(last > Moment::LONG_AGO);
        for _ in 0..1_000 {
            let now = Clock::Boot.now();
            assert!(now >= last);
            last = now;
        }
        assert_eq!(last.after(Duration::from_secs(2)).since(last), Duration::from_secs(2));
        assert_eq!(last.since(last.after(Duration::from_secs(2))), Duration::ZERO);
    }
}
