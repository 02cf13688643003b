//! Every private call: credentials, then how often.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use prometheus::IntCounter;

use super::metrics::Refusals;
use super::{Demand, Peer, TokenFile};

/// Peers that a limit of rates remembers before it forgets those who came long ago.
const MOST_PEERS: usize = 4096;

/// Why a call is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No client certificate where one is demanded.
    #[error(
        "this call needs a client certificate that TLS_CLIENT_CA certifies, over TLS; set METRICS_TLS and TLS_CERT \
         where the port speaks plain text"
    )]
    Certificate,
    /// No token, or none that is known.
    #[error("this call needs the token of AUTH_TOKEN_FILE, as in \"authorization: Bearer TOKEN\"")]
    Token,
    /// More calls than a peer may make.
    #[error("too many calls from this address; come again in {} s", after.as_secs_f32().ceil())]
    TooOften {
        /// After how long the next is let in.
        after: Duration,
    },
}

/// How often a peer may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    burst: NonZeroU32,
    /// After which one more is let in.
    every: Duration,
}

impl Rate {
    /// Calls that start or stop tasks: far above what tasks can be trained, far below what hurts.
    pub const CALLS: Self = Self::new(2_000, Duration::from_millis(1));
    /// Profiles, each of which slows the process.
    pub const PROFILES: Self = Self::new(12, Duration::from_secs(5));
    /// Lines in the log about calls without credentials.
    const COMPLAINTS: Self = Self::new(5, Duration::from_secs(10));

    /// `burst` at once, and one more after each `every`.
    pub const fn new(burst: u32, every: Duration) -> Self {
        let burst = match NonZeroU32::new(burst) {
            Some(burst) => burst,
            None => NonZeroU32::MIN,
        };
        Self { burst, every }
    }
}

/// A limit of rates for each peer.
struct Pace {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
}

impl Pace {
    fn new(rate: Rate) -> Self {
        let quota = Quota::with_period(rate.every).unwrap_or_else(|| Quota::per_second(rate.burst));
        Self { limiter: RateLimiter::keyed(quota.allow_burst(rate.burst)) }
    }

    fn check(&self, who: IpAddr) -> Result<(), Duration> {
        let who = network(who);
        if self.limiter.len() > MOST_PEERS {
            self.limiter.retain_recent();
        }
        let clock = DefaultClock::default();
        self.limiter.check_key(&who).map_err(|early| early.wait_time_from(clock.now()))
    }
}

/// What counts as one peer: an IPv4 address, or the /64 of an IPv6 one, all of which one machine can have.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// The gate of one server.
pub struct Gate {
    token: Option<Arc<TokenFile>>,
    certificates: Demand,
    work: Pace,
    complaints: Pace,
    refused: Option<Refusals>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

impl Gate {
    /// Asks for a client certificate and for the token, as far as they are demanded, and limits [`Self::pace`] to
    /// `rate`.
    pub(super) fn new(
        token: Option<Arc<TokenFile>>,
        certificates: Demand,
        rate: Rate,
        refused: Option<Refusals>,
    ) -> Self {
        Self { token, certificates, work: Pace::new(rate), complaints: Pace::new(Rate::COMPLAINTS), refused }
    }

    /// Asks for nothing.
    pub(super) fn none() -> Self {
        Self::new(None, Demand::Open, Rate::CALLS, None)
    }

    /// Whether anything is asked for, so that a caller who was let in is known.
    pub fn asks_for_credentials(&self) -> bool {
        self.token.is_some() || self.certificates == Demand::Private
    }

    /// Lets a private call of `peer` in; `authorization` is the value of its header of that name.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, peer: Option<&Peer>, authorization: Option<&[u8]>) -> Result<(), Refusal> {
        let certified = || peer.is_some_and(Peer::is_certified);
        let known = |token: &Arc<TokenFile>| authorization.is_some_and(|presented| token.takes(presented));
        let refusal = if self.certificates == Demand::Private && !certified() {
            self.count(|refused| &refused.certificate);
            Refusal::Certificate
        } else if self.token.as_ref().is_some_and(|token| !known(token)) {
            self.count(|refused| &refused.token);
            Refusal::Token
        } else {
            return Ok(());
        };
        let who = peer.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), Peer::ip);
        if self.complaints.check(who).is_ok() {
            tracing::warn!(peer = %who, %refusal, "a call was refused");
        }
        Err(refusal)
    }

    /// Counts a call of `peer` that makes work.
    ///
    /// # Errors
    /// [`Refusal::TooOften`].
    pub fn pace(&self, peer: Option<&Peer>) -> Result<(), Refusal> {
        let who = peer.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), Peer::ip);
        self.work.check(who).map_err(|after| {
            self.count(|refused| &refused.rate);
            Refusal::TooOften { after }
        })
    }

    fn count(&self, reason: fn(&Refusals) -> &IntCounter) {
        if let Some(refused) = &self.refused {
            reason(refused).inc();
        }
    }

    #[cfg(test)]
    pub(super) fn remembered_peers(&self) -> usize {
        self.work.limiter.len()
    }
}
