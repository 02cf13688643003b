//! The one error of everything that is parsed: which field, which value, what would be right.

/// A field that was given a value outside of what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: \"{value}\" is not allowed; allowed: {allowed}")]
pub struct InvalidField {
    /// Name of the field, as its sender knows it.
    pub field: String,
    /// The value as it came, shortened where it is long.
    pub value: String,
    /// What would have been accepted.
    pub allowed: String,
}

/// Longest part of a bad value that is repeated in an error, in characters.
const SHOWN_CHARS: usize = 120;

impl InvalidField {
    /// Builds the error; `value` is shortened and stripped of control characters, since it comes from outside
    /// and goes into logs. So is `field`, which may be the name of a hyperparameter.
    pub fn new(field: impl AsRef<str>, value: impl AsRef<str>, allowed: impl Into<String>) -> Self {
        Self {
            field: printable(field.as_ref(), SHOWN_CHARS),
            value: printable(value.as_ref(), SHOWN_CHARS),
            allowed: allowed.into(),
        }
    }
}

/// `text` without control characters, cut to `chars` characters.
pub(crate) fn printable(text: &str, chars: usize) -> String {
    let mut shown: String =
        text.chars().take(chars).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(chars).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_and_control_characters_replaced() {
        let error = InvalidField::new("task_id", "a\nb".repeat(100), "letters");
        assert_eq!(error.value.chars().count(), SHOWN_CHARS + 1);
        assert!(!error.to_string().contains('\n'));
        assert!(error.to_string().starts_with("task_id: \"a\u{fffd}b"));
    }
}
