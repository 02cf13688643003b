//! Which models an engine can train: those of this crate, and those that are added to them.

use super::trainer::{MODELS, ModelEntry};
use crate::domain::{InvalidField, ModelType};

/// The models of one engine.
#[derive(Debug, Clone)]
pub struct ModelRegistry {
    models: Vec<&'static ModelEntry>,
}

impl Default for ModelRegistry {
    fn default() -> Self {
        Self { models: MODELS.iter().collect() }
    }
}

impl ModelRegistry {
    /// These models and `model`.
    ///
    /// # Errors
    /// [`InvalidField`] for `model_type`: a name of `model` is none, or means another one already.
    pub fn with(mut self, model: &'static ModelEntry) -> Result<Self, InvalidField> {
        for name in std::iter::once(&model.name).chain(model.aliases) {
            let checked = ModelType::parse(name)?;
            if let Some(other) = self.of(&checked) {
                let allowed = format!("a name that does not mean {} already", other.name);
                return Err(InvalidField::new("model_type", *name, allowed));
            }
        }
        self.models.push(model);
        Ok(self)
    }

    /// Whether there are others than those of this crate.
    pub fn has_others(&self) -> bool {
        self.models.len() > MODELS.len()
    }

    /// The entry of `model`, by name or alias.
    pub(super) fn of(&self, model: &ModelType) -> Option<&'static ModelEntry> {
        self.models.iter().find(|entry| entry.is_called(model.as_str())).copied()
    }

    /// Names without aliases.
    pub(super) fn names(&self) -> Vec<String> {
        self.models.iter().map(|entry| entry.name.to_owned()).collect()
    }

    /// All that can be trained, for messages.
    pub(super) fn list(&self) -> String {
        self.models.iter().map(|entry| entry.names()).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TAKEN: ModelEntry = ModelEntry { name: "perceptron", aliases: &["mlp"], ..MODELS[0] };
    static WRONG: ModelEntry = ModelEntry { name: "a name", aliases: &[], ..MODELS[0] };
    static NEW: ModelEntry = ModelEntry { name: "perceptron", aliases: &["one_layer"], ..MODELS[0] };

    #[test]
    fn a_new_model_is_found_beside_the_others_and_no_name_means_two() {
        let models = ModelRegistry::default().with(&NEW).unwrap();
        for name in ["perceptron", "one_layer", "neural_network"] {
            assert!(models.of(&ModelType::parse(name).unwrap()).is_some(), "{name}");
        }
        assert!(models.list().ends_with("perceptron (one_layer)"));
        assert!(models.with(&NEW).is_err());
        let taken = ModelRegistry::default().with(&TAKEN).unwrap_err();
        assert!(taken.to_string().contains("neural_network"), "{taken}");
        assert!(ModelRegistry::default().with(&WRONG).is_err());
    }
}
