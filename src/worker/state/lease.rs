//! For how long a task is ours.
//!
//! ```text
//! request sent --length--> the orchestrator may give the task away
//!              --length - margin--> here the worker stops it by itself
//! ```
//!
//! A lease counts from the moment at which the request was sent that was answered with it: the orchestrator cannot have
//! begun it earlier. What was asked for so long ago that nothing of the lease is left (a long poll, a restart)
//! waits for a first renewal before it runs.

use std::time::Duration;

use crate::worker::clock::Moment;

/// Part of a lease after whose begin nothing is done any more: time to stop, and for clocks that differ in pace.
const MARGIN_DIVISOR: u32 = 10;

/// Longest margin.
const MOST_MARGIN: Duration = Duration::from_secs(5);

/// The lease of one held attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::worker) struct Lease {
    length: Duration,
    /// When the worker stops by itself.
    ends: Moment,
    /// Nothing of it was left when it came: until when a renewal is waited for.
    unconfirmed_until: Option<Moment>,
    /// When the last request left that was answered with it.
    asked: Moment,
}

impl Lease {
    /// One of `length` that was asked for at `asked` and came `now`.
    pub(super) fn new(length: Duration, asked: Moment, now: Moment) -> Self {
        let ends = asked.after(length - margin(length));
        let unconfirmed_until = (now >= ends).then(|| now.after(length));
        Self { length, ends, unconfirmed_until, asked }
    }

    /// A renewal that was asked for at `asked` was acknowledged.
    pub(super) fn renew(&mut self, asked: Moment) {
        self.ends = self.ends.max(asked.after(self.length - margin(self.length)));
        self.asked = self.asked.max(asked);
        self.unconfirmed_until = None;
    }

    /// Whether the task may run and end.
    pub(super) fn holds(&self, now: Moment) -> bool {
        now < self.ends
    }

    /// Whether there is no hope left for it.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        !self.holds(now) && self.unconfirmed_until.is_none_or(|until| now >= until)
    }

    /// When that has to be looked at again; None once it is over.
    pub(super) fn next_look(&self, now: Moment) -> Option<Moment> {
        let next = if self.holds(now) { Some(self.ends) } else { self.unconfirmed_until };
        next.filter(|next| *next > now)
    }

    /// When the worker stops by itself.
    pub(in crate::worker) fn ends(&self) -> Moment {
        self.ends
    }

    /// Its length, as the orchestrator said.
    pub(in crate::worker) fn length(&self) -> Duration {
        self.length
    }

    /// When the next renewal should be asked for: after a third, so that two may be lost.
    pub(in crate::worker) fn renewal_due(&self) -> Moment {
        self.asked.after(self.length / RENEWALS_PER_LEASE)
    }
}

/// Renewals asked for in one lease.
pub(in crate::worker) const RENEWALS_PER_LEASE: u32 = 3;

/// What is kept back of a lease of `length`.
fn margin(length: Duration) -> Duration {
    (length / MARGIN_DIVISOR).min(MOST_MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(30);

    #[test]
    fn it_counts_from_the_request_and_ends_before_it_can_be_given_away() {
        let asked = Moment::LONG_AGO.after(Duration::from_secs(100));
        let came = asked.after(Duration::from_secs(5));
        let mut lease = Lease::new(LENGTH, asked, came);
        assert!(lease.holds(asked.after(Duration::from_secs(26))));
        assert!(lease.is_over(asked.after(Duration::from_secs(27))), "three seconds early");
        lease.renew(asked.after(Duration::from_secs(10)));
        assert!(lease.holds(asked.after(Duration::from_secs(36))));
        lease.renew(asked);
        assert!(lease.holds(asked.after(Duration::from_secs(36))), "a late answer shortens nothing");
        assert!(lease.is_over(asked.after(Duration::from_secs(37))));
    }

    #[test]
    fn what_came_too_late_waits_for_a_renewal() {
        let came = Moment::LONG_AGO.after(Duration::from_secs(1_000));
        let mut lease = Lease::new(LENGTH, Moment::LONG_AGO, came);
        assert!(!lease.holds(came) && !lease.is_over(came));
        assert_eq!(lease.next_look(came), Some(came.after(LENGTH)));
        assert!(lease.is_over(came.after(LENGTH)));
        assert_eq!(lease.next_look(came.after(LENGTH)), None, "there is nothing left to see");
        lease.renew(came);
        assert!(lease.holds(came.after(Duration::from_secs(20))));
    }
}
