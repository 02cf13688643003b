//! Early stopping of boosting: the model of the best round, whatever the slices and interruptions.

use super::*;
use crate::domain::Stopping;

fn patient(patience: u32) -> Hyperparameters {
    Hyperparameters { stopping: Stopping::Early, patience: Some(patience), ..random() }
}

/// A model without early stopping, its validation losses and files after each round.
fn free(data: &Arc<Dataset>, rounds: u32) -> (Vec<f64>, Vec<Vec<u8>>) {
    let mut free = model("xgboost", data, &random());
    let one = |round| {
        train(&mut *free, round..round + 1);
        (held_out(&*free, data).loss, free.weights().unwrap())
    };
    (0..rounds).map(one).unzip()
}

fn best(losses: &[f64]) -> usize {
    (0..losses.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).unwrap()
}

#[test]
fn boosting_ends_when_patience_does_and_is_cut_back_to_its_best_round() {
    for path in ["builtin:breast_cancer", "builtin:wine"] {
        let data = load(path, Problem::Auto);
        let (losses, models) = free(&data, 80);
        let patience = 6;
        // The first round after which so many bring nothing better.
        let end = (0..80).find(|round| best(&losses[..=*round]) + patience as usize == *round);
        let end = end.unwrap_or_else(|| panic!("it never gets worse: {losses:?}")) as u32;
        let best = best(&losses[..=end as usize]);
        let mut early = model("xgboost", &data, &patient(patience));
        train(&mut *early, 0..end);
        assert!(early.take_notes().is_empty());
        let last = train(&mut *early, end..end + 3);
        assert_eq!(last.steps, 1, "{path}");
        let notes = early.take_notes();
        let said = format!("training stopped early: {patience} rounds without a better validation loss");
        assert!(notes[0].starts_with(&said), "{notes:?}");
        assert!(notes[0].contains(&format!("the end of round {}", best + 1)), "{notes:?}");
        assert!(early.weights().unwrap() == models[best], "{path}");
        assert_eq!(held_out(&*early, &data).loss, losses[best]);
        // Later tasks end at once, in a model that comes back and whatever they bring too.
        let mut restored = model("xgboost", &data, &patient(patience));
        restored.restore(&early.state().unwrap()).unwrap();
        for mut stopped in [early, restored] {
            stopped.load_weights(&models[end as usize]).unwrap();
            let after = train(&mut *stopped, end + 3..end + 5);
            assert_eq!((after.steps, after.samples, after.metrics), (0, 0, last.metrics));
            assert!(stopped.take_notes()[0].starts_with(&said));
            assert!(stopped.weights().unwrap() == models[best]);
        }
    }
}

#[test]
fn slices_interruptions_and_restarts_do_not_move_the_end() {
    let data = load("builtin:breast_cancer", Problem::Auto);
    let h = patient(4);
    let mut whole = model("xgboost", &data, &h);
    train(&mut *whole, 0..90);
    let mut parts = model("xgboost", &data, &h);
    for task in 0..90 {
        parts.mark();
        // The last of what this one sees never was.
        let _ = parts.train(&tasks(task..task + 3), &stopped_after(2));
        parts.roll_back();
        train(&mut *parts, task..task + 1);
        let mut next = model("xgboost", &data, &h);
        next.restore(&parts.state().unwrap()).unwrap();
        parts = next;
    }
    assert!(train(&mut *parts, 90..91).steps == 0, "it has stopped");
    assert_eq!(everything(&*parts), everything(&*whole));
}

#[test]
fn the_last_epoch_leaves_the_best_model_where_patience_lasts() {
    let data = load("builtin:breast_cancer", Problem::Auto);
    let (losses, models) = free(&data, 80);
    let best = best(&losses);
    assert!(best < 79);
    let mut early = model("xgboost", &data, &patient(1000));
    early.follow(Course { total_epochs: Some(2), batches_per_epoch: 4000 });
    train(&mut *early, 0..40);
    assert_eq!(early.epoch_ended(0, None), Verdict::Unchanged);
    train(&mut *early, 40..80);
    assert_eq!(early.epoch_ended(1, None), Verdict::Replaced);
    assert!(early.weights().unwrap() == models[best]);
    assert!(early.take_notes()[0].starts_with("early_stopping: the model is that of the end of round"));
}

#[test]
fn without_held_out_rows_there_is_nothing_to_stop_by() {
    let options = LoadOptions { validation_split: 0.0, features: FeatureForm::Raw, ..LoadOptions::default() };
    let data = Arc::new(data::load("builtin:iris", &options, &config().data, &|| Ok(())).unwrap());
    let mut model = model("xgboost", &data, &patient(1));
    assert_eq!(train(&mut *model, 0..20).steps, 20);
    assert!(model.take_notes()[0].contains("no row is held out"));
}
