//! Everything that can be wrong with a data set, in words that help whoever sent it.

use std::io;

#[cfg(any(test, not(feature = "remote")))]
use crate::domain::masked_path;
use crate::domain::{ErrorCode, InvalidField, TaskError};

/// What is read here.
#[cfg(feature = "parquet")]
const FORMATS: &str = "CSV in UTF-8 with a header (plain, gzip or zstd), or Parquet";
#[cfg(not(feature = "parquet"))]
const FORMATS: &str = "CSV in UTF-8 with a header (plain, gzip or zstd)";

/// In which files.
#[cfg(feature = "parquet")]
const FILES: &str = "a regular CSV or Parquet file";
#[cfg(not(feature = "parquet"))]
const FILES: &str = "a regular CSV file";

/// Why a data set cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A field of the request is wrong.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The path leads out of DATA_ROOT.
    #[error("dataset_path: {} leads out of DATA_ROOT; allowed: a path inside of it", shown(.path))]
    OutsideRoot {
        /// As it was given.
        path: String,
    },
    /// There is no such file.
    #[error(
        "dataset_path: {} does not exist under DATA_ROOT (looked for {tried}); allowed: the path of a file there, \
         or builtin:NAME",
        shown(.path)
    )]
    NotFound {
        /// As it was given.
        path: String,
        /// The names that were looked for, relative to DATA_ROOT.
        tried: String,
    },
    /// DATA_ROOT itself cannot be used.
    #[error("DATA_ROOT: {} is not a folder that can be read: {source}", shown(.root))]
    Root {
        /// The folder.
        root: String,
        /// What the system said.
        source: io::Error,
    },
    /// The path names something that is no regular file.
    #[error("dataset_path: {} is a {kind}; allowed: {FILES}", shown(.path))]
    NotAFile {
        /// As it was given.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// The file may not or cannot be read.
    #[error("dataset_path: {} cannot be read: {source}", shown(.path))]
    Unreadable {
        /// As it was given.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file became another one between two looks at it.
    #[error("dataset_path: {} changed while it was read", shown(.path))]
    Changed {
        /// As it was given.
        path: String,
    },
    /// Not CSV at all.
    #[error("dataset_path: {} is {looks_like}; allowed: {FORMATS}", shown(.path))]
    NotCsv {
        /// As it was given.
        path: String,
        /// What its first bytes say it is.
        looks_like: &'static str,
    },
    /// What it is made of does not hold together.
    #[error("dataset_path: {} is damaged or not whole: {}", shown(.path), shown(.what))]
    Damaged {
        /// As it was given.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A column of it is not read.
    #[error("dataset_path: {}, column {}: {problem}", shown(.path), shown(.column))]
    Column {
        /// As it was given.
        path: String,
        /// Its name.
        column: String,
        /// What is wrong with it, and what is allowed.
        problem: String,
    },
    /// Another machine does not give it.
    #[error("dataset_path: {} {problem}", shown(.path))]
    Remote {
        /// As it was given, without what may be secret.
        path: String,
        /// Why.
        problem: RemoteProblem,
    },
    /// This program was built without what it takes.
    #[error(
        "dataset_path: {} is {what}, which this program was built without; allowed: other data, or a program built \
         with `--features {feature}`",
        shown(.path)
    )]
    NotInThisBuild {
        /// As it was given.
        path: String,
        /// What it is.
        what: &'static str,
        /// The cargo feature.
        feature: &'static str,
    },
    /// Nothing in it.
    #[error("dataset_path: {} is empty; allowed: CSV with a header and at least one row", shown(.path))]
    Empty {
        /// As it was given.
        path: String,
    },
    /// A header and nothing below.
    #[error("dataset_path: {} has a header but no rows; allowed: at least one row below the header", shown(.path))]
    HeaderOnly {
        /// As it was given.
        path: String,
    },
    /// A line that is wrong.
    #[error("dataset_path: {}, line {line}: {problem}", shown(.path))]
    Line {
        /// As it was given.
        path: String,
        /// Counted from 1, header included.
        line: u64,
        /// What is wrong with it.
        problem: Malformed,
    },
    /// A limit of this worker was passed.
    #[error("dataset_path: {} has more than {limit} {unit}, the limit of this worker", shown(.path))]
    TooLarge {
        /// As it was given.
        path: String,
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// More memory than this worker may spend on one data set.
    #[error(
        "dataset_path: {} takes more than {limit_bytes} bytes of memory once it is read and encoded, the limit of this \
         worker",
        shown(.path)
    )]
    TooMuchMemory {
        /// As it was given.
        path: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// No row has a target.
    #[error("hyperparameters.target: no row of column {} has a value; allowed: a column with values", shown(.column))]
    NoTarget {
        /// The target column.
        column: String,
    },
    /// The target never changes.
    #[error(
        "hyperparameters.target: every row of column {} has the same value, {}, so that there is nothing to learn; \
         allowed: a column with at least two different values",
        shown(.column),
        shown(.value)
    )]
    OneValue {
        /// The target column.
        column: String,
        /// That value.
        value: String,
    },
    /// More classes than a classifier takes.
    #[error(
        "hyperparameters.target: column {} has more than {limit} different values to take as classes; allowed: at \
         most {limit}, or numbers with hyperparameter task=regression",
        shown(.column)
    )]
    TooManyClasses {
        /// The target column.
        column: String,
        /// Most classes.
        limit: usize,
    },
    /// A word in the target of a regression.
    #[error(
        "hyperparameters.target: line {line} of column {} has {}; allowed with task=regression: a column of numbers; \
         task=classification takes words",
        shown(.column),
        shown(.word)
    )]
    TargetNotNumeric {
        /// The target column.
        column: String,
        /// The first line with a word, header included.
        line: u64,
        /// That word.
        word: String,
    },
    /// A number was needed and there was a word.
    #[error(
        "column {}: line {line} has {}; allowed: numbers, as in the data set that the features were fitted on",
        shown(.column),
        shown(.word)
    )]
    NotNumeric {
        /// The column.
        column: String,
        /// The first line with a word, header included.
        line: u64,
        /// That word.
        word: String,
    },
    /// Nothing to learn from.
    #[error("dataset_path: {} has no column to learn from beside the target {}{why}", shown(.path), shown(.target))]
    NoFeatures {
        /// As it was given.
        path: String,
        /// The target column.
        target: String,
        /// Which columns were left out and why; empty where there was none.
        why: String,
    },
    /// A column that the preprocessor was fitted with is not there.
    #[error("column {} is missing; the model was trained with it", shown(.column))]
    MissingColumn {
        /// Its name.
        column: String,
    },
    /// A column that was fitted as words holds free text now.
    #[error("column {}: more than {limit} different words", shown(.column))]
    TooManyWords {
        /// Its name.
        column: String,
        /// Most different words.
        limit: usize,
    },
    /// Somebody asked to stop.
    #[error(transparent)]
    Stopped(#[from] TaskError),
}

/// What can be wrong with one line of a CSV file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// More or fewer fields than the header.
    #[error("{found} fields, but the header has {expected}")]
    Ragged {
        /// Fields of this line.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
    /// Not UTF-8.
    #[error("field {field} is not UTF-8; save the file in UTF-8")]
    NotUtf8 {
        /// Which field, from 1.
        field: usize,
    },
    /// A NUL byte: binary content.
    #[error("a NUL byte, so the file is not text")]
    NulByte,
    /// A quoted field that does not end, most likely.
    #[error("a row of more than {limit_bytes} bytes; is a quote left open?")]
    LongRow {
        /// Longest row, in bytes.
        limit_bytes: u64,
    },
    /// Two columns of one name.
    #[error("columns {first} and {second} are both called {}; does the file lack a header?", shown(.name))]
    DuplicateColumn {
        /// The name.
        name: String,
        /// The first of them, from 1.
        first: usize,
        /// The other.
        second: usize,
    },
}

/// Why another machine does not give a data set.
#[derive(Debug, thiserror::Error)]
pub enum RemoteProblem {
    /// The configuration does not allow the host.
    #[error("names the host {}, which is not allowed here; allowed: the hosts in DATA_ALLOWED_HOSTS", shown(.host))]
    HostNotAllowed {
        /// The host, with its port where that is not the usual one.
        host: String,
    },
    /// The host is at an address that jobs may not reach.
    #[error(
        "leads to {address}, {kind}; allowed: public addresses, or with DATA_ALLOW_LOCAL_ADDRESSES=true those of \
         this machine and of private networks too"
    )]
    Address {
        /// The address.
        address: std::net::IpAddr,
        /// What it is.
        kind: &'static str,
    },
    /// The configuration does not say where S3 is.
    #[error("needs AWS_REGION or S3_ENDPOINT in the configuration of this worker")]
    S3NotConfigured,
    /// The host sends one elsewhere.
    #[error(
        "is answered with a redirect (HTTP status {status}), which is not followed; allowed: the URL that it leads to"
    )]
    Redirect {
        /// The status of HTTP.
        status: u16,
    },
    /// The host refuses.
    #[error("is answered with HTTP status {status}")]
    Status {
        /// The status of HTTP.
        status: u16,
    },
    /// There is no such host.
    #[error("names a host that cannot be found")]
    HostNotFound,
    /// The host is silent.
    #[error("is not answered in time")]
    TimedOut,
    /// The connection failed.
    #[error("cannot be fetched: {0}")]
    Failed(String),
    /// The folder for what was fetched cannot be used.
    #[error("cannot be kept in the cache under STATE_DIR: {0}")]
    Cache(io::Error),
}

impl RemoteProblem {
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::HostNotAllowed { .. } | Self::Address { .. } => ErrorCode::PermissionDenied,
            Self::S3NotConfigured | Self::Redirect { .. } => ErrorCode::InvalidArgument,
            Self::Status { status: 401 | 403 } => ErrorCode::PermissionDenied,
            Self::Status { status: 404 | 410 } => ErrorCode::NotFound,
            Self::Status { status: 408 | 425 | 429 | 500.. } => ErrorCode::Unavailable,
            Self::Status { .. } => ErrorCode::InvalidArgument,
            Self::HostNotFound | Self::TimedOut | Self::Failed(_) | Self::Cache(_) => ErrorCode::Unavailable,
        }
    }
}

impl DataError {
    /// Of a Parquet file in a program built without them.
    #[cfg(any(test, not(feature = "parquet")))]
    pub(super) fn without_parquet(path: &str) -> Self {
        Self::NotInThisBuild { path: path.to_owned(), what: "a Parquet file", feature: "parquet" }
    }

    /// Of a URL in a program built without them.
    #[cfg(any(test, not(feature = "remote")))]
    pub(super) fn without_remote(path: &str) -> Self {
        let path = masked_path(path).into_owned();
        Self::NotInThisBuild { path, what: "data on another machine", feature: "remote" }
    }

    /// The kind of failure, as a task reports it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { .. } | Self::Root { .. } => ErrorCode::NotFound,
            Self::Unreadable { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => ErrorCode::PermissionDenied,
                _ => ErrorCode::Unavailable,
            },
            Self::Changed { .. } => ErrorCode::Unavailable,
            Self::TooLarge { .. } | Self::TooMuchMemory { .. } => ErrorCode::ResourceExhausted,
            Self::Remote { problem, .. } => problem.code(),
            Self::Stopped(reason) => reason.code,
            Self::Invalid(_)
            | Self::OutsideRoot { .. }
            | Self::NotAFile { .. }
            | Self::NotCsv { .. }
            | Self::Damaged { .. }
            | Self::Column { .. }
            | Self::NotInThisBuild { .. }
            | Self::Empty { .. }
            | Self::HeaderOnly { .. }
            | Self::Line { .. }
            | Self::NoTarget { .. }
            | Self::OneValue { .. }
            | Self::TooManyClasses { .. }
            | Self::TargetNotNumeric { .. }
            | Self::NotNumeric { .. }
            | Self::NoFeatures { .. }
            | Self::MissingColumn { .. }
            | Self::TooManyWords { .. } => ErrorCode::InvalidArgument,
        }
    }
}

impl From<DataError> for TaskError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Stopped(reason) => reason,
            other => Self::new(other.code(), other.to_string()),
        }
    }
}

/// Longest part of a foreign text that is repeated, in characters.
const SHOWN_CHARS: usize = 80;

/// `text` in quotes, shortened, without control characters: it comes from outside and goes into logs.
pub(super) fn shown(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN_CHARS).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", cut.escape_debug().to_string().replace("\\'", "'"))
}
