//! What tells one set of hyperparameters from another, in words that later versions of this program use as well.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Hyperparameters;

impl Hyperparameters {
    /// The settings in one line each: every field whose value is not its default, sorted, and the names that were given,
    /// since some mean more when they are. Aliases and the order make no difference, and a hyperparameter that a later
    /// version adds makes none either until it is used.
    pub fn identity(&self) -> String {
        let defaults = fields(&Self::default());
        let mut pairs = fields(self);
        pairs.retain(|name, value| defaults.get(name) != Some(value));
        let mut text: String = pairs.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        for name in &self.given {
            text.push_str(&format!("given {name}\n"));
        }
        text
    }
}

/// Every field with its value as JSON, those of trees beside the others.
fn fields(hyperparameters: &Hyperparameters) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    // Maps with names for keys are always JSON.
    add(&mut found, "", serde_json::to_value(hyperparameters).unwrap_or_default());
    found.remove("given");
    found
}

fn add(found: &mut BTreeMap<String, Value>, name: &str, value: Value) {
    match value {
        Value::Object(inner) if name.is_empty() || name == "trees" => {
            for (inner_name, value) in inner {
                let name = if name.is_empty() { inner_name } else { format!("{name}.{inner_name}") };
                add(found, &name, value);
            }
        }
        value => drop(found.insert(name.to_owned(), value)),
    }
}
