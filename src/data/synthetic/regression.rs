//! A number as a linear combination of features, and noise.

use super::super::Check;
use super::super::decode::CELLS_PER_CHECK;
use super::super::error::DataError;
use super::super::table::Values;
use super::Recipe;
use super::random::Random;

/// What may be asked for.
pub(super) const PARAMETERS: &[&str] = &["rows", "features", "informative", "noise", "seed"];

/// Coefficients are below this.
const LARGEST_COEFFICIENT: f64 = 100.0;

/// The features by columns, and the target; `noise` is the standard deviation of what is added to it.
pub(super) fn make(
    recipe: &Recipe,
    noise: f64,
    random: &mut Random,
    check: Check<'_>,
) -> Result<(Vec<Vec<f32>>, Values), DataError> {
    let mut coefficients: Vec<f64> = (0..recipe.features)
        .map(|index| if index < recipe.informative { LARGEST_COEFFICIENT * random.uniform() } else { 0.0 })
        .collect();
    random.shuffle(&mut coefficients);
    let mut features = recipe.empty_features();
    let mut target = Vec::with_capacity(recipe.rows as usize);
    let mut unchecked = 0;
    for _ in 0..recipe.rows {
        unchecked += recipe.features;
        if unchecked >= CELLS_PER_CHECK {
            unchecked = 0;
            check()?;
        }
        let mut sum = 0.0;
        for (column, coefficient) in features.iter_mut().zip(&coefficients) {
            // The target is that of the feature as it is kept.
            let value = random.normal() as f32;
            column.push(value);
            sum += coefficient * f64::from(value);
        }
        target.push(sum + noise * random.normal());
    }
    Ok((features, Values::Double(target.into_iter().collect())))
}
