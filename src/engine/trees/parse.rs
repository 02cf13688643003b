//! An XGBoost JSON model back to trees, everything checked: no file, whatever it holds, is a panic or an endless walk.

use serde::Deserialize;
use std::sync::Arc;

use tensorfleet_kernels::trees::{Side, TreeNode};

use super::boosting::log_odds;
use super::ensemble::{Ensemble, Tree, leaf};
use super::output::Output;
use super::xgboost::{Units, booster, objective};
use crate::domain::{InvalidField, TaskError};

/// What a model must fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Features of a row.
    pub(super) width: usize,
    /// What its outputs are.
    pub(super) output: Output,
    /// Units of the target.
    pub(super) units: Units,
}

#[derive(Deserialize)]
struct File {
    learner: Learner,
}

#[derive(Deserialize)]
struct Learner {
    gradient_booster: Booster,
    learner_model_param: Parameters,
    objective: Objective,
}

#[derive(Deserialize)]
struct Booster {
    name: String,
    model: Option<Model>,
    gbtree: Option<Inner>,
    weight_drop: Option<Vec<f32>>,
}

#[derive(Deserialize)]
struct Inner {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    tree_info: Vec<u32>,
    trees: Vec<WrittenTree>,
}

#[derive(Deserialize)]
struct Parameters {
    base_score: String,
    num_feature: String,
}

#[derive(Deserialize)]
struct Objective {
    name: String,
}

#[derive(Deserialize)]
struct WrittenTree {
    base_weights: Vec<f32>,
    default_left: Vec<u8>,
    left_children: Vec<i64>,
    loss_changes: Vec<f32>,
    right_children: Vec<i64>,
    split_conditions: Vec<f32>,
    split_indices: Vec<u32>,
    #[serde(default)]
    split_type: Vec<u8>,
    sum_hessian: Vec<f32>,
}

/// The trees in `bytes`, which must fit `shape`.
///
/// # Errors
/// `InvalidArgument` that says what is wrong.
pub(super) fn read(bytes: &[u8], shape: &Shape) -> Result<Ensemble, TaskError> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| {
        invalid(format!("{} bytes", bytes.len()), format!("an XGBoost JSON model ({error})"))
    })?;
    let Learner { gradient_booster, learner_model_param: parameters, objective: written } = file.learner;
    let expected = |what: &str, value: &str, allowed: &str| {
        if value == allowed {
            Ok(())
        } else {
            Err(invalid(format!("{what} {value}"), format!("{what} {allowed}")))
        }
    };
    expected("objective", &written.name, objective(shape.output))?;
    expected("booster", &gradient_booster.name, booster(shape.output))?;
    expected("num_feature", &parameters.num_feature, &shape.width.to_string())?;
    let model = gradient_booster.model.or(gradient_booster.gbtree.map(|inner| inner.model));
    let Some(Model { tree_info, trees }) = model else {
        return Err(invalid("no model".to_owned(), "a model of trees".to_owned()));
    };
    let outputs = shape.output.count();
    let in_turn = tree_info.iter().enumerate().all(|(tree, output)| tree % outputs == *output as usize);
    if !in_turn || tree_info.len() != trees.len() || trees.len() % outputs != 0 {
        let value = format!("{} trees with tree_info of {}", trees.len(), tree_info.len());
        return Err(invalid(value, format!("{outputs} trees a round, one an output, in turn")));
    }
    if let Some(weights) = gradient_booster.weight_drop {
        let weight = outputs as f32 / trees.len().max(1) as f32;
        let alike = weights.iter().all(|other| (other - weight).abs() <= 1e-6 * weight);
        if !alike || weights.len() != trees.len() {
            let value = format!("{} weights", weights.len());
            return Err(invalid(value, "one weight a tree, all 1 / trees".to_owned()));
        }
    }
    let trees = trees
        .iter()
        .enumerate()
        .map(|(index, tree)| {
            read_tree(tree, shape).map(Arc::new).map_err(|what| {
                invalid(format!("tree {index} with {what}"), "a binary tree of numbers".to_owned())
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Ensemble { bases: bases(&parameters.base_score, shape)?, trees })
}

/// One base an output.
fn bases(written: &str, shape: &Shape) -> Result<Vec<f32>, TaskError> {
    let wrong = || invalid(format!("base_score {written}"), "one finite number, or one an output".to_owned());
    let inner = written.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(written);
    let scores: Vec<f64> =
        inner.split(',').map(|score| score.trim().parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    let base = |score: &f64| match shape.output {
        Output::LogOdds => log_odds(*score as f32),
        _ => ((score - shape.units.mean) / shape.units.std) as f32,
    };
    let mut bases: Vec<f32> = scores.iter().map(base).collect();
    if let [base] = *bases.as_slice() {
        bases = vec![base; shape.output.count()];
    }
    if bases.len() != shape.output.count() || bases.iter().any(|base| !base.is_finite()) {
        return Err(wrong());
    }
    Ok(bases)
}

fn read_tree(tree: &WrittenTree, shape: &Shape) -> Result<Tree, String> {
    let count = tree.left_children.len();
    let lengths = [
        tree.base_weights.len(),
        tree.default_left.len(),
        tree.loss_changes.len(),
        tree.right_children.len(),
        tree.split_conditions.len(),
        tree.split_indices.len(),
        tree.sum_hessian.len(),
    ];
    if count == 0 || lengths.iter().any(|length| *length != count) {
        return Err(format!("{count} left_children and other lists of {lengths:?}"));
    }
    if tree.split_type.iter().any(|kind| *kind != 0) {
        return Err("categorical splits".to_owned());
    }
    let (mut nodes, mut gains, mut covers) = (Vec::<TreeNode>::new(), Vec::new(), Vec::new());
    let mut visited = vec![false; count];
    // From the root on, so that children come after their parents, side by side; what is out of reach is left out.
    let mut open = vec![(0, 0)];
    nodes.push(leaf(0.0));
    while let Some((from, at)) = open.pop() {
        match visited.get_mut(from) {
            Some(visited) if !*visited => *visited = true,
            _ => return Err(format!("node {from} twice")),
        }
        let get = |values: &[f32]| {
            values.get(from).copied().filter(|value| value.is_finite()).ok_or("a value that is no number")
        };
        for (values, written) in [(&mut gains, &tree.loss_changes), (&mut covers, &tree.sum_hessian)] {
            values.resize(nodes.len(), 0.0);
            if let Some(value) = values.get_mut(at) {
                *value = get(written)?;
            }
        }
        let condition = get(&tree.split_conditions)?;
        let unscale = |value: f32| (f64::from(value) / shape.units.std) as f32;
        let sides = [&tree.left_children, &tree.right_children];
        let children = sides.map(|side| side.get(from).copied().unwrap_or(-1));
        let node = if children == [-1, -1] {
            leaf(unscale(condition))
        } else {
            let [left, right] =
                children.map(|child| usize::try_from(child).ok().filter(|child| *child < count));
            let (Some(left), Some(right)) = (left, right) else {
                return Err(format!("children {children:?} of {count} nodes"));
            };
            let feature = tree.split_indices.get(from).copied().unwrap_or(u32::MAX);
            if feature as usize >= shape.width {
                return Err(format!("feature {feature} of {}", shape.width));
            }
            let default = if tree.default_left.get(from) == Some(&1) { Side::Left } else { Side::Right };
            let value = unscale(get(&tree.base_weights)?);
            let first = nodes.len();
            nodes.extend([leaf(0.0); 2]);
            open.extend([(right, first + 1), (left, first)]);
            let (left, right) = (first as u32, first as u32 + 1);
            TreeNode { feature, threshold: condition, default, left, right, value }
        };
        if let Some(place) = nodes.get_mut(at) {
            *place = node;
        }
    }
    gains.resize(nodes.len(), 0.0);
    covers.resize(nodes.len(), 0.0);
    Tree::new(nodes, gains, covers).map_err(|error| error.message)
}

fn invalid(value: String, allowed: String) -> TaskError {
    InvalidField::new("model_weights", value, allowed).into()
}
