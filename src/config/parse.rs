//! Text to values. Each function answers None for what it does not take; the table says what it would.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Longest duration that any variable takes; keeps sums of them far from overflow.
const LONGEST: Duration = Duration::from_secs(400 * 86_400);

/// Units of durations, longest spelling first where one is the beginning of another.
const UNITS: &[(&str, f64)] = &[
    ("ms", 1e-3),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ns", 1e-9),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
    ("d", 86_400.0),
];

/// `30s`, `5m`, `1h30m`, `500ms`, `1.5s`, or `0`: numbers with units, each unit at most once, largest first.
pub(crate) fn duration(raw: &str) -> Option<Duration> {
    let raw = raw.trim();
    if raw == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = raw;
    let mut seconds = 0.0;
    let mut last_unit = f64::INFINITY;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let number: f64 = number.parse().ok()?;
        let (name, unit) = UNITS.iter().find(|(name, _)| tail.starts_with(name))?;
        if *unit >= last_unit {
            return None;
        }
        last_unit = *unit;
        seconds += number * unit;
        rest = tail.strip_prefix(name)?;
    }
    let whole_nanoseconds = !raw.is_empty() && seconds <= LONGEST.as_secs_f64();
    whole_nanoseconds.then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

/// A duration inside of `range`.
pub(super) fn duration_in(raw: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
    duration(raw).filter(|duration| range.contains(duration))
}

/// `200ms..500ms`, one duration, or `0`; no end above `most`.
pub(super) fn delay(raw: &str, most: Duration) -> Option<RangeInclusive<Duration>> {
    let (from, to) = raw.split_once("..").unwrap_or((raw, raw));
    let (from, to) = (duration(from)?, duration(to)?);
    (from <= to && to <= most).then_some(from..=to)
}

/// A whole number inside of `range`.
pub(super) fn whole(raw: &str, range: RangeInclusive<u32>) -> Option<u32> {
    raw.trim().parse().ok().filter(|number| range.contains(number))
}

/// Units of sizes.
const SIZES: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// `512MiB`, `2GiB`, `4GB`: a whole number with a unit; or a plain number of bytes.
pub(super) fn bytes(raw: &str) -> Option<u64> {
    let raw = raw.trim();
    let unit = SIZES.iter().find_map(|(name, unit)| Some((raw.strip_suffix(name)?, *unit)));
    let (number, unit) = unit.unwrap_or((raw, 1));
    number.trim_end().parse::<u64>().ok()?.checked_mul(unit)
}

/// A port on all IPv4 addresses of the machine.
pub(super) fn listen(raw: &str) -> Option<SocketAddr> {
    raw.trim().parse().ok().map(|port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
}

/// `true`, `false`, `1` or `0`, in any case.
pub(super) fn boolean(raw: &str) -> Option<bool> {
    match raw.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// A path that is not empty.
pub(super) fn path(raw: &str) -> Option<PathBuf> {
    (!raw.trim().is_empty() && !raw.contains('\0')).then(|| PathBuf::from(raw))
}
