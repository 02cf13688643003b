//! What a gRPC status means.
//!
//! A status may come from the orchestrator or from our own end of the connection, with the same codes. They are told
//! apart by the source: a status that was made here of a broken connection carries it, and one that came over the
//! wire cannot.

use std::error::Error as _;
use std::fmt::Write as _;

use tonic::{Code, Status};

use super::OrchestratorError;
use crate::domain::printable;
use crate::wire::NO_TASKS_AVAILABLE;

/// How tonic begins the message of a status that it made of an HTTP answer without any gRPC in it.
const NOT_GRPC: &str = "grpc-status header missing";

/// How tonic begins the message of a status that it made of an answer that broke off.
const BROKE_OFF: &str = "protocol error: missing grpc-status trailer";

/// The error that stands for `status`.
pub(super) fn error(status: &Status) -> OrchestratorError {
    let text = describe(status);
    // What is not gRPC comes from something in between, such as a proxy whose backend is away.
    let not_the_orchestrator = [BROKE_OFF, NOT_GRPC].iter().any(|begin| status.message().starts_with(begin));
    if status.source().is_some() || not_the_orchestrator {
        return OrchestratorError::Unreachable(text);
    }
    if is_too_large(status) {
        return OrchestratorError::Rejected(text);
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => OrchestratorError::Unreachable(text),
        Code::Unauthenticated | Code::PermissionDenied => OrchestratorError::Refused(text),
        // The last three say something of whoever answers, which may be a proxy, or an orchestrator that is being replaced.
        Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unknown
        | Code::Ok
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::DataLoss => OrchestratorError::Busy(text),
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::OutOfRange => {
            OrchestratorError::Rejected(text)
        }
    }
}

/// Whether the orchestrator itself says that it does not have the method: neither a broken connection nor a web
/// server that happens to answer 404 says so.
pub(super) fn is_unimplemented(status: &Status) -> bool {
    status.code() == Code::Unimplemented
        && status.source().is_none()
        && !status.message().starts_with(NOT_GRPC)
}

/// Whether a poll ended without a task.
pub(super) fn is_empty_poll(status: &Status) -> bool {
    matches!(status.code(), Code::Unknown | Code::NotFound) && status.message().contains(NO_TASKS_AVAILABLE)
}

/// Whether the orchestrator does not know the job; a base one may say so in words only.
pub(super) fn is_unknown_job(status: &Status) -> bool {
    match status.code() {
        Code::NotFound => true,
        Code::Unknown => status.source().is_none() && status.message().contains("not found"),
        _ => false,
    }
}

/// Whether the message was larger than the other end takes; grpc-go and tonic say so with different codes.
pub(super) fn is_too_large(status: &Status) -> bool {
    match status.code() {
        Code::ResourceExhausted => status.message().contains("larger than max"),
        Code::OutOfRange => status.message().contains("message length too large"),
        _ => false,
    }
}

/// Longest text of the other side that is repeated, in characters: it goes into logs and outcomes.
const SHOWN_CHARS: usize = 1000;

/// Code, message and what lies under it, in one line without control characters.
fn describe(status: &Status) -> String {
    let mut text = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    let mut source = status.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    words(&text)
}

/// What the other side says, as it may go into a log.
pub(super) fn words(text: &str) -> String {
    printable(text, SHOWN_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_meaning() {
        let kind = |code: Code| match error(&Status::new(code, "x")) {
            OrchestratorError::Unreachable(_) => "unreachable",
            OrchestratorError::Busy(_) => "busy",
            OrchestratorError::Refused(_) => "refused",
            OrchestratorError::Rejected(_) => "rejected",
        };
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled] {
            assert_eq!(kind(code), "unreachable", "{code:?}");
        }
        for code in [
            Code::ResourceExhausted,
            Code::Aborted,
            Code::Internal,
            Code::Unknown,
            Code::FailedPrecondition,
            Code::Unimplemented,
            Code::DataLoss,
        ] {
            assert_eq!(kind(code), "busy", "{code:?}");
        }
        for code in [Code::Unauthenticated, Code::PermissionDenied] {
            assert_eq!(kind(code), "refused", "{code:?}");
        }
        for code in [Code::InvalidArgument, Code::NotFound, Code::AlreadyExists, Code::OutOfRange] {
            assert_eq!(kind(code), "rejected", "{code:?}");
        }
    }

    #[test]
    fn whatever_its_code_a_broken_connection_is_no_answer() {
        let broken = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        assert!(matches!(error(&broken), OrchestratorError::Unreachable(text) if text.contains("reset")));
        assert!(!is_unknown_job(&Status::from_error("host not found".into())));
    }

    #[test]
    fn what_the_other_side_says_is_one_line_of_bounded_length() {
        let status = Status::unavailable("a\n\u{1b}[2Jb".repeat(1000));
        let OrchestratorError::Unreachable(text) = error(&status) else { panic!("{status}") };
        assert!(!text.contains(char::is_control) && text.chars().count() <= SHOWN_CHARS + 1, "{text}");
    }

    #[test]
    fn what_is_too_large_now_is_too_large_later() {
        let go = "grpc: received message larger than max (5242966 vs. 4194304)";
        assert!(matches!(error(&Status::resource_exhausted(go)), OrchestratorError::Rejected(_)));
        assert!(matches!(error(&Status::resource_exhausted("busy")), OrchestratorError::Busy(_)));
    }

    #[test]
    fn an_empty_poll_is_told_by_its_words() {
        assert!(is_empty_poll(&Status::unknown("no tasks available")));
        assert!(is_empty_poll(&Status::not_found("no tasks available")));
        assert!(!is_empty_poll(&Status::unknown("out of memory")));
        assert!(!is_empty_poll(&Status::unavailable("no tasks available")));
    }
}
