//! Where the CPU goes: `go tool pprof http://HOST:2112/debug/pprof/profile?seconds=10`.
//!
//! A timer signal samples whichever thread is running; the request only sleeps meanwhile. Building a profiler and a
//! report reads debug information, so both happen on a blocking thread. Samples inside of libc are left out, since
//! unwinding from there may wait for a lock that the interrupted thread holds.
//!
//! Deliberately absent: the heap profile, which needs an allocator that counts.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use pprof::protos::Message as _;
use pprof::{Frames, ProfilerGuard, ProfilerGuardBuilder, Symbol};
use tokio::task::{self, JoinError};
use tokio::time;

use super::Shared;
use super::problem::Problem;
use crate::domain::InvalidField;

const BUSY: &str = "this process is being profiled already; ask again when that has ended";

/// What /debug/pprof/ says.
pub(super) const INDEX: &str = "\
/debug/pprof/profile?seconds=N&frequency=HZ

CPU profile in pprof's protobuf format, over N seconds (1 to 300, default 30) with HZ samples a second of CPU time
(1 to 1000, default 99). Look at it with:

    go tool pprof http://HOST:PORT/debug/pprof/profile?seconds=10
";

/// What is asked of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    seconds: u16,
    frequency_hertz: u16,
}

impl Request {
    fn parse(query: &str) -> Result<Self, InvalidField> {
        let mut request = Self { seconds: 30, frequency_hertz: 99 };
        for pair in query.split('&') {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("seconds", value) => request.seconds = number("seconds", value, 300)?,
                ("frequency", value) => request.frequency_hertz = number("frequency", value, 1000)?,
                _ => {}
            }
        }
        Ok(request)
    }
}

fn number(field: &str, value: &str, most: u16) -> Result<u16, InvalidField> {
    value
        .parse()
        .ok()
        .filter(|number| (1..=most).contains(number))
        .ok_or_else(|| InvalidField::new(field, value, format!("a whole number from 1 to {most}")))
}

/// `GET /debug/pprof/profile`.
pub(super) async fn profile(
    State(shared): State<Shared>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let request = Request::parse(query.as_deref().unwrap_or_default())?;
    let permit = Arc::clone(&shared.profiles).try_acquire_owned().map_err(|_| Problem::conflict(BUSY))?;
    let guard = task::spawn_blocking(move || begin(request)).await.map_err(died)??;
    time::sleep(Duration::from_secs(request.seconds.into())).await;
    let profile = task::spawn_blocking(move || {
        let profile = report(guard);
        drop(permit);
        profile
    });
    let profile = profile.await.map_err(died)??;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"profile.pb\""),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, profile).into_response())
}

fn begin(request: Request) -> Result<ProfilerGuard<'static>, Problem> {
    ProfilerGuardBuilder::default()
        .frequency(request.frequency_hertz.into())
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()
        .map_err(|error| match error {
            // Another server of the same process.
            pprof::Error::Running => Problem::conflict(BUSY),
            other => Problem::internal(format!("the profiler cannot start: {other}")),
        })
}

fn report(guard: ProfilerGuard<'static>) -> Result<Vec<u8>, Problem> {
    let failed = |error: pprof::Error| Problem::internal(format!("the profile cannot be built: {error}"));
    let report = guard.report().frames_post_processor(cut_sampler).build().map_err(failed)?;
    drop(guard);
    Ok(report.pprof().map_err(failed)?.encode_to_vec())
}

/// Removes the sampler's own frames from the top of a stack: where they are not inlined into the signal handler, all
/// time would seem to be spent in them.
fn cut_sampler(stack: &mut Frames) {
    let own = |name: &str| name.starts_with("backtrace::") || name.contains("pprof::backtrace");
    let sampling = |frame: &&Vec<Symbol>| frame.iter().any(|symbol| own(&symbol.name()));
    let count = stack.frames.iter().take_while(sampling).count();
    stack.frames.drain(..count);
}

fn died(error: JoinError) -> Problem {
    Problem::internal(format!("the profiler ended early: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_has_defaults_and_limits() {
        assert_eq!(Request::parse("").unwrap(), Request { seconds: 30, frequency_hertz: 99 });
        let request = Request::parse("seconds=300&other=x&frequency=1000").unwrap();
        assert_eq!(request, Request { seconds: 300, frequency_hertz: 1000 });
        for (query, field, value) in [
            ("seconds=0", "seconds", "0"),
            ("seconds=301", "seconds", "301"),
            ("seconds=-1", "seconds", "-1"),
            ("seconds=1.5", "seconds", "1.5"),
            ("seconds", "seconds", ""),
            ("seconds=5&frequency=1001", "frequency", "1001"),
        ] {
            let error = Request::parse(query).unwrap_err();
            assert_eq!((error.field.as_str(), error.value.as_str()), (field, value));
            assert!(error.allowed.contains("1 to"));
        }
    }
}
