//! A configuration as people and scripts may see it.

use super::problem::MASK;
use super::{Source, VARIABLES, Values, Variable};

/// One variable as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Its value, masked when secret; None when it is not set.
    pub value: Option<String>,
    /// Where the value came from.
    pub source: Source,
}

pub(super) fn rows(values: &Values) -> Vec<Row> {
    let row = |variable: &'static Variable| {
        let value = values.of(variable);
        let shown = value.text.as_deref().map(|text| shown(variable, text));
        Row { name: variable.name, value: shown, source: value.source }
    };
    VARIABLES.iter().map(row).collect()
}

/// `value` as it may be shown: nothing of a secret, and no credentials of a URL.
pub(super) fn shown(variable: &Variable, value: &str) -> String {
    if variable.secret {
        return MASK.to_owned();
    }
    let scheme_end = value.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = value.split_at_checked(scheme_end).unwrap_or(("", value));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    match authority.rfind('@') {
        Some(at) => format!("{scheme}{MASK}{}", rest.get(at..).unwrap_or_default()),
        None => value.to_owned(),
    }
}
