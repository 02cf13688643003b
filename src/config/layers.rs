//! Flags over environment over file over defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use super::{Problem, VARIABLES, Variable};
use crate::domain::printable;

/// Variables of the environment by name.
pub type Environment = BTreeMap<String, String>;

/// Values of flags by the name of their variable.
pub type FlagValues = BTreeMap<&'static str, String>;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The table.
    Default,
    /// The file given by `--config`.
    File(PathBuf),
    /// The environment, under this name.
    Environment(String),
    /// A flag, under this name.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// What was given, not yet looked at.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// Flags.
    pub flags: FlagValues,
    /// The environment; names that are no variables are passed over, empty values are unset.
    pub environment: Environment,
    /// The file, if one was named.
    pub file: Option<PathBuf>,
}

/// The text of one variable and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) text: Option<String>,
    pub(super) source: Source,
}

/// The text of every variable.
#[derive(Debug, Clone)]
pub struct Values(BTreeMap<&'static str, Value>);

impl Values {
    /// Text and source of `variable`.
    pub(super) fn of(&self, variable: &Variable) -> Value {
        let default = || Value { text: variable.default.map(str::to_owned), source: Source::Default };
        self.0.get(variable.name).cloned().unwrap_or_else(default)
    }
}

impl Layers {
    /// Takes the topmost value of each variable; what is wrong with the file comes beside it.
    pub(super) fn values(&self) -> (Values, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut values = self.file.as_deref().map(|file| read_file(file, &mut problems)).unwrap_or_default();
        for variable in VARIABLES {
            let set = variable.names().find_map(|name| {
                self.environment.get_key_value(name).filter(|(_, text)| !text.trim().is_empty())
            });
            if let Some((name, text)) = set {
                let value = Value { text: Some(text.clone()), source: Source::Environment(name.clone()) };
                values.insert(variable.name, value);
            }
            if let Some(text) = self.flags.get(variable.name) {
                let value = Value { text: Some(text.clone()), source: Source::Flag(variable.flag()) };
                values.insert(variable.name, value);
            }
        }
        (Values(values), problems)
    }
}

fn read_file(file: &Path, problems: &mut Vec<Problem>) -> BTreeMap<&'static str, Value> {
    let mut values = BTreeMap::new();
    let unreadable = |reason: String| Problem::File { file: file.to_owned(), reason };
    let table = match fs::read_to_string(file) {
        Ok(text) => match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                problems.push(unreadable(complaint(&text, &error)));
                return values;
            }
        },
        Err(error) => {
            problems.push(unreadable(error.to_string()));
            return values;
        }
    };
    let mut set_by: BTreeMap<&'static str, String> = BTreeMap::new();
    for (key, value) in table {
        let Some(variable) = by_key(&key) else {
            let key = printable(&key, 100);
            problems.push(Problem::UnknownKey { key, file: file.to_owned() });
            continue;
        };
        let source = Source::File(file.to_owned());
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(truth) => truth.to_string(),
            other => {
                let kind = format!("({})", other.type_str());
                problems.push(Problem::invalid(variable, &kind, &source));
                continue;
            }
        };
        if let Some(other) = set_by.insert(variable.name, key.clone()) {
            problems.push(Problem::Repeated { key, other, file: file.to_owned() });
            continue;
        }
        values.insert(variable.name, Value { text: Some(text), source });
    }
    values
}

/// Where and what, without the text there, which may be a secret.
fn complaint(text: &str, error: &toml::de::Error) -> String {
    let message = printable(error.message(), 200);
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}

/// Keys are written in upper or in lower snake case, not in a mixture of both.
fn by_key(key: &str) -> Option<&'static Variable> {
    let upper = key.to_ascii_uppercase();
    let one_case = key == upper || key == key.to_ascii_lowercase();
    if one_case { Variable::find(&upper) } else { None }
}
