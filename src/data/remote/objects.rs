//! The names of buckets, and the place in S3 that the configuration may name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest beginning of keys, in bytes: what follows it, a job's name and a digest, has room in the 1024 of a key.
const MAX_PREFIX_BYTES: usize = 512;

/// Whether S3 allows a bucket of this name.
pub(super) fn is_bucket(name: &str) -> bool {
    (3..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
        && !name.starts_with(['-', '.'])
        && !name.contains("..")
}

/// A bucket, and what the keys of all objects begin with that are put there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectFolder {
    bucket: String,
    /// Without slashes at its ends; may be empty.
    prefix: String,
}

impl ObjectFolder {
    /// What [`Self::parse`] takes.
    pub const ALLOWED: &'static str = "s3://BUCKET or s3://BUCKET/PREFIX, the prefix of letters, digits and - _ . = / without the parts . and ..";

    /// Reads `s3://BUCKET/PREFIX`.
    pub fn parse(raw: &str) -> Option<Self> {
        let rest = raw.trim().strip_prefix("s3://")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
        let part = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(plain);
        let is_prefix =
            prefix.is_empty() || (prefix.len() <= MAX_PREFIX_BYTES && prefix.split('/').all(part));
        (is_bucket(bucket) && is_prefix)
            .then(|| Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }

    /// The URL of the object `name` in it.
    pub fn object(&self, name: &str) -> String {
        format!("{self}/{name}")
    }
}

impl fmt::Display for ObjectFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_a_bucket_and_a_plain_prefix() {
        let object = |raw: &str| ObjectFolder::parse(raw).unwrap_or_else(|| panic!("{raw}")).object("m");
        assert_eq!(object("s3://my-bucket"), "s3://my-bucket/m");
        assert_eq!(object("s3://my-bucket/"), "s3://my-bucket/m");
        assert_eq!(object(" s3://my.bucket/models/day=1/ "), "s3://my.bucket/models/day=1/m");
        let long = format!("s3://bucket/{}", "x".repeat(513));
        for bad in [
            "",
            "bucket/models",
            "S3://bucket",
            "https://bucket/models",
            "s3://",
            "s3://My_Bucket",
            "s3://bucket//models",
            "s3://bucket/a//b",
            "s3://bucket/../other",
            "s3://bucket/a/./b",
            "s3://bucket/a?b",
            "s3://bucket/a b",
            "s3://id:key@bucket/a",
            &long,
        ] {
            assert_eq!(ObjectFolder::parse(bad), None, "{bad}");
        }
    }
}
