//! Identifiers: checked for length and alphabet before they become labels, file names or log fields.

use std::fmt;
use std::sync::Arc;

use super::InvalidField;
use super::invalid::printable;

/// Longest id in bytes.
const MAX_ID_BYTES: usize = 256;

/// Longest model type in bytes.
const MAX_MODEL_BYTES: usize = 64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = concat!("Checks `raw`: 1 to 256 printable ASCII characters without spaces.\n\n# Errors\n[`InvalidField`] for `", $field, "`.")]
            pub fn parse(raw: &str) -> Result<Self, InvalidField> {
                let fits = (1..=MAX_ID_BYTES).contains(&raw.len());
                if fits && raw.bytes().all(|b| b.is_ascii_graphic()) {
                    Ok(Self(raw.into()))
                } else {
                    Err(InvalidField::new(
                        $field,
                        raw,
                        "1 to 256 printable ASCII characters without spaces",
                    ))
                }
            }

            /// The nearest valid id to `raw`: what a bad id is called where its refusal has to be reported.
            pub fn lossy(raw: &str) -> Self {
                let clean: String = printable(raw, MAX_ID_BYTES - 1)
                    .chars()
                    .map(|c| if c.is_ascii_graphic() { c } else { '?' })
                    .collect();
                Self(if clean.is_empty() { "?".into() } else { clean.into() })
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

id!(
    /// Identifies this worker at its orchestrator.
    WorkerId,
    "worker_id"
);
id!(
    /// Identifies one task.
    TaskId,
    "task_id"
);
id!(
    /// Identifies the job that a task belongs to.
    JobId,
    "job_id"
);

/// What a job asks to be trained, such as `neural_network`: any identifier of `[A-Za-z0-9_.-]{1,64}`.
///
/// Whether it can be trained for real is the engine's to say; the analytic engine takes every one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelType(Arc<str>);

impl ModelType {
    /// Checks `raw` against the alphabet above.
    ///
    /// # Errors
    /// [`InvalidField`] for `model_type`.
    pub fn parse(raw: &str) -> Result<Self, InvalidField> {
        let fits = (1..=MAX_MODEL_BYTES).contains(&raw.len());
        let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if fits && raw.bytes().all(alphabet) {
            Ok(Self(raw.into()))
        } else {
            Err(InvalidField::new("model_type", raw, "1 to 64 characters of A-Z a-z 0-9 _ . -"))
        }
    }

    /// What a type that cannot be read is called where its refusal has to be reported.
    pub fn unknown() -> Self {
        Self("unknown".into())
    }

    /// The type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ModelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelType({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_printable_ascii_only() {
        assert!(TaskId::parse("job-1/epoch:3#7").is_ok());
        for bad in ["", "a b", "a\n", "é", &"x".repeat(257)] {
            let error = TaskId::parse(bad).unwrap_err();
            assert_eq!(error.field, "task_id");
        }
    }

    #[test]
    fn a_lossy_id_is_always_a_valid_one() {
        for raw in ["", "a b\nc", "é", &"x".repeat(1000), "fine"] {
            let id = JobId::lossy(raw);
            assert_eq!(JobId::parse(id.as_str()).unwrap(), id);
        }
        assert_eq!(JobId::lossy("fine").as_str(), "fine");
    }

    #[test]
    fn model_types_keep_to_their_alphabet() {
        assert!(ModelType::parse("gpt2_medium.v1-b").is_ok());
        for bad in ["", "a/b", "a b", &"x".repeat(65)] {
            assert!(ModelType::parse(bad).is_err(), "{bad}");
        }
    }
}
