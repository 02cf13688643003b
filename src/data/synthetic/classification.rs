//! Classes as clusters at the vertices of a hypercube.

use std::collections::HashSet;

use super::super::Check;
use super::super::decode::CELLS_PER_CHECK;
use super::super::error::DataError;
use super::super::table::{Values, WordsBuilder};
use super::super::target::MAX_CLASSES;
use super::random::Random;
use super::{Parameters, Recipe};
use crate::domain::InvalidField;

/// What may be asked for.
pub(super) const PARAMETERS: &[&str] = &[
    "rows",
    "features",
    "classes",
    "informative",
    "redundant",
    "clusters",
    "separation",
    "label_noise",
    "seed",
];

/// Most clusters of all classes together.
const MAX_CLUSTERS: usize = 2000;

/// What the classes look like.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    classes: usize,
    /// Of each class.
    clusters: usize,
    redundant: usize,
    /// Half a side of the hypercube.
    separation: f64,
    /// Share of the rows whose label is drawn anew.
    label_noise: f64,
}

impl Shape {
    /// All but the redundant features, whose number depends on that of the informative ones.
    pub(super) fn parse(parameters: &Parameters<'_>) -> Result<Self, InvalidField> {
        let classes = parameters.whole("classes", 2, 2, MAX_CLASSES as u64)? as usize;
        let most = (MAX_CLUSTERS / classes).max(1) as u64;
        Ok(Self {
            classes,
            clusters: parameters.whole("clusters", 2, 1, most)? as usize,
            redundant: 0,
            separation: parameters.number("separation", 1.0, 0.0, 1000.0)?,
            label_noise: parameters.number("label_noise", 0.01, 0.0, 1.0)?,
        })
    }

    /// Features that give every cluster a vertex of its own.
    pub(super) fn least_informative(&self) -> usize {
        (self.classes * self.clusters).next_power_of_two().trailing_zeros() as usize
    }

    /// With redundant features: as many as are asked for of the `left` ones, a fifth of them by default.
    pub(super) fn with_redundant(
        self,
        parameters: &Parameters<'_>,
        left: usize,
    ) -> Result<Self, InvalidField> {
        let redundant = parameters.whole("redundant", (left / 5) as u64, 0, left as u64)? as usize;
        Ok(Self { redundant, ..self })
    }
}

/// One cluster of a class.
struct Cluster {
    /// Of the informative features.
    center: Vec<f64>,
    /// Row-major, informative x informative: what shears it.
    shear: Vec<f64>,
}

/// The features by columns, and the labels.
pub(super) fn make(
    recipe: &Recipe,
    shape: &Shape,
    random: &mut Random,
    check: Check<'_>,
) -> Result<(Vec<Vec<f32>>, Values), DataError> {
    let informative = recipe.informative;
    let total = shape.classes * shape.clusters;
    let clusters: Vec<Cluster> = vertices(total, informative, random)
        .into_iter()
        .map(|vertex| Cluster {
            center: vertex.iter().map(|side| side * shape.separation).collect(),
            shear: (0..informative * informative).map(|_| 2.0 * random.uniform() - 1.0).collect(),
        })
        .collect();
    let combinations: Vec<f64> =
        (0..shape.redundant * informative).map(|_| 2.0 * random.uniform() - 1.0).collect();
    let places = random.order(recipe.features);
    // Clusters of equal size, give or take a row.
    let mut cluster_of: Vec<u32> = (0..recipe.rows).map(|row| row % total as u32).collect();
    random.shuffle(&mut cluster_of);

    let mut features = recipe.empty_features();
    let mut ids = Vec::with_capacity(recipe.rows as usize);
    let mut drawn = vec![0.0; informative];
    let mut row = vec![0.0; recipe.features];
    let mut unchecked = 0;
    for cluster in cluster_of {
        unchecked += recipe.features + informative * informative;
        if unchecked >= CELLS_PER_CHECK {
            unchecked = 0;
            check()?;
        }
        drawn.fill_with(|| random.normal());
        if let Some(Cluster { center, shear }) = clusters.get(cluster as usize) {
            for ((value, center), shear) in row.iter_mut().zip(center).zip(shear.chunks(informative)) {
                *value = center + dot(&drawn, shear);
            }
        }
        let (known, others) = row.split_at_mut(informative);
        for (value, weights) in others.iter_mut().zip(combinations.chunks(informative)) {
            *value = dot(known, weights);
        }
        others.iter_mut().skip(shape.redundant).for_each(|value| *value = random.normal());
        for (place, value) in places.iter().zip(&row) {
            if let Some(column) = features.get_mut(*place) {
                column.push(*value as f32);
            }
        }
        // Which is drawn in any case, so that the features are the same whatever the share.
        let (luck, other) = (random.uniform(), random.below(shape.classes) as u32);
        ids.push(if luck < shape.label_noise { other } else { cluster % shape.classes as u32 });
    }
    Ok((features, labels(&ids, shape.classes)))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `count` different vertices of the hypercube with sides from -1 to 1. There are at least as many.
fn vertices(count: usize, dimensions: usize, random: &mut Random) -> Vec<Vec<f64>> {
    let side = |vertex: u64, dimension: usize| if vertex >> dimension & 1 == 1 { 1.0 } else { -1.0 };
    let chosen: Vec<u64> = if dimensions <= 12 {
        let mut all = random.order(1 << dimensions);
        all.truncate(count);
        all.into_iter().map(|vertex| vertex as u64).collect()
    } else {
        // So many vertices that a draw seldom meets one twice.
        let mut seen = HashSet::new();
        let mut chosen = Vec::with_capacity(count);
        while chosen.len() < count {
            let vertex = (0..dimensions).fold(0, |bits, _| bits << 1 | random.below(2) as u64);
            if seen.insert(vertex) {
                chosen.push(vertex);
            }
        }
        chosen
    };
    chosen
        .into_iter()
        .map(|vertex| (0..dimensions).map(|dimension| side(vertex, dimension)).collect())
        .collect()
}

/// Labels as words, so that they are classes whatever their number; of equal width, so that they sort as numbers do.
fn labels(ids: &[u32], classes: usize) -> Values {
    let width = (classes - 1).to_string().len();
    let names: Vec<String> = (0..classes).map(|class| format!("{class:0width$}")).collect();
    let mut words = WordsBuilder::default();
    for name in ids.iter().filter_map(|id| names.get(*id as usize)) {
        words.push(name);
    }
    Values::Words(words.finish())
}
