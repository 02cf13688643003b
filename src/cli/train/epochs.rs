//! How many epochs a training has: what the flag says, else what the hyperparameters ask for.

use crate::domain::{Hyperparameters, InvalidField, ModelType, TASKS_PER_EPOCH};
use crate::engine;

use super::job::MAX_EPOCHS;

/// Where nothing asks for another number.
const DEFAULT: u32 = 10;

/// The epochs of `model`, and what is worth knowing of them.
///
/// # Errors
/// Flag and hyperparameter contradict each other, or ask for too many.
pub(super) fn of(
    model: &ModelType,
    flag: Option<u32>,
    hyperparameters: &Hyperparameters,
) -> Result<(u32, Option<String>), InvalidField> {
    let asked = match (flag, hyperparameters.total_epochs) {
        (Some(flag), Some(total)) if flag != total => {
            let allowed = format!("{flag}, the number that --epochs gives, or one of the two alone");
            return Err(InvalidField::new("hyperparameters.total_epochs", total.to_string(), allowed));
        }
        (None, Some(total)) if total > MAX_EPOCHS => {
            let allowed = format!("a whole number from 1 to {MAX_EPOCHS} in a local training");
            return Err(InvalidField::new("hyperparameters.total_epochs", total.to_string(), allowed));
        }
        (flag, total) => flag.or(total),
    };
    let Some((wanted, an_epoch)) = estimators(model, hyperparameters) else {
        return Ok((asked.unwrap_or(DEFAULT), None));
    };
    let needed = wanted.div_ceil(an_epoch);
    let epochs = asked.unwrap_or(needed.min(MAX_EPOCHS));
    let made = epochs.saturating_mul(an_epoch);
    let note = (made < wanted).then(|| {
        format!("n_estimators={wanted} needs {needed} epochs: {epochs} make {made}, {an_epoch} each")
    });
    Ok((epochs, note))
}

/// How many rounds or trees `model` is to have, and how many an epoch makes, where it listens to that.
fn estimators(model: &ModelType, hyperparameters: &Hyperparameters) -> Option<(u32, u32)> {
    let hears = |name| engine::hears(model, name);
    let trees = &hyperparameters.trees;
    let wanted = trees.n_estimators.filter(|_| hears("n_estimators"))?;
    let a_task = if hears("rounds_per_task") { trees.rounds_per_task } else { trees.trees_per_task };
    Some((wanted, a_task.saturating_mul(TASKS_PER_EPOCH).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Strictness;

    fn of_(
        model: &str,
        flag: Option<u32>,
        set: &[(&str, &str)],
    ) -> Result<(u32, Option<String>), InvalidField> {
        let raw = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (hyperparameters, _) = Hyperparameters::parse(&raw, Strictness::Reject).unwrap();
        of(&ModelType::parse(model).unwrap(), flag, &hyperparameters)
    }

    #[test]
    fn trees_get_as_many_epochs_as_their_number_needs() {
        assert_eq!(of_("xgboost", None, &[]).unwrap(), (10, None));
        assert_eq!(of_("gradient_boosting", None, &[("n_estimators", "500")]).unwrap(), (50, None));
        let wider = [("n_estimators", "500"), ("rounds_per_task", "7")];
        assert_eq!(of_("xgboost", None, &wider).unwrap(), (8, None));
        let forest = [("n_estimators", "25"), ("trees_per_task", "2"), ("rounds_per_task", "9")];
        assert_eq!(of_("random_forest", None, &forest).unwrap(), (2, None));
        // Others do not listen to it.
        assert_eq!(of_("neural_network", None, &[("n_estimators", "500")]).unwrap(), (10, None));
        let (epochs, note) = of_("xgboost", Some(10), &[("n_estimators", "500")]).unwrap();
        assert_eq!(epochs, 10);
        assert_eq!(note.unwrap(), "n_estimators=500 needs 50 epochs: 10 make 100, 10 each");
        assert_eq!(of_("xgboost", Some(10), &[("n_estimators", "100")]).unwrap(), (10, None));
    }

    #[test]
    fn epochs_among_the_hyperparameters_are_those_of_the_training() {
        for name in ["total_epochs", "epochs", "max_iter"] {
            assert_eq!(of_("mlp", None, &[(name, "50")]).unwrap(), (50, None));
            assert_eq!(of_("mlp", Some(50), &[(name, "50")]).unwrap(), (50, None));
            let error = of_("mlp", Some(10), &[(name, "50")]).unwrap_err().to_string();
            assert!(error.contains("total_epochs") && error.contains("--epochs"), "{error}");
        }
        let error = of_("mlp", None, &[("max_iter", "1000000")]).unwrap_err().to_string();
        assert!(error.contains("1 to 100000"), "{error}");
    }
}
