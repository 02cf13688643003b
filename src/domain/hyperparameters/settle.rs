//! What values mean together: defaults that follow from others, and notes on what has no effect beside them.

use super::{Hyperparameters, Optimizer, Penalty, SetBy, Stopping};

impl Hyperparameters {
    /// Fills in what follows from what was given, and says what changes nothing.
    pub(super) fn settle(&mut self, set_by: &SetBy<'_>) -> Vec<String> {
        let optimizer = self.follow_optimizer(set_by);
        let stopping = self.follow_patience(set_by);
        optimizer.into_iter().chain(stopping).chain(self.idle(set_by)).collect()
    }

    /// Fills in what the optimizer decides where it was not given, and says what it makes no use of.
    fn follow_optimizer(&mut self, set_by: &SetBy<'_>) -> Option<String> {
        let given = |name| set_by.get(name).map(|(_, value)| *value);
        let named_momentum = given("optimizer").is_some_and(|raw| raw.eq_ignore_ascii_case("momentum"));
        if named_momentum && given("momentum").is_none() {
            self.momentum = 0.9;
        }
        if self.optimizer == Optimizer::AdamW && given("weight_decay").is_none() {
            self.weight_decay = 0.01;
        }
        let adaptive = matches!(self.optimizer, Optimizer::Adam | Optimizer::AdamW);
        (adaptive && self.momentum > 0.0).then(|| {
            format!(
                "momentum={} has no effect with optimizer={}, which has moments of its own; sgd and rmsprop take it",
                self.momentum,
                given("optimizer").unwrap_or("adam (the default)").to_ascii_lowercase()
            )
        })
    }

    /// Patience asks for early stopping, unless that was declined.
    fn follow_patience(&mut self, set_by: &SetBy<'_>) -> Option<String> {
        let patience = set_by.get("patience");
        if patience.is_some() && !set_by.contains_key("early_stopping") {
            self.stopping = Stopping::Early;
        }
        let declined = self.stopping == Stopping::Never;
        let idle = patience.or_else(|| set_by.get("min_delta")).filter(|_| declined);
        idle.map(|(name, value)| {
            format!("{name}={value} has no effect without early_stopping=true or a patience alone")
        })
    }

    /// Notes on what is understood and not done as it says.
    fn idle(&self, set_by: &SetBy<'_>) -> Vec<String> {
        let mut notes = Vec::new();
        for (canonical, (name, value)) in set_by {
            let why = match *canonical {
                "n_jobs" => "the worker decides on threads, and figures are the same on any number of them",
                "tree_method" if matches!(*value, "approx" | "exact") => "trees grow from histograms (hist)",
                "colsample_bylevel" | "colsample_bynode" if value.parse() != Ok(1.0) => {
                    "features are drawn for each tree alone (colsample_bytree)"
                }
                "C" if self.penalty == Penalty::None => "penalty is none",
                _ => continue,
            };
            notes.push(format!("{name}={value} has no effect: {why}"));
        }
        notes
    }
}
