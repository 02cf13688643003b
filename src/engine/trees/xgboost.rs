//! Trees as XGBoost's own JSON model, which XGBoost loads and predicts alike.
//!
//! | model | booster | objective | what `predict` gives |
//! |-|-|-|-|
//! | boosting, two classes | gbtree | binary:logistic | probability of class 1 |
//! | boosting, more classes | gbtree | multi:softprob | probability of each class |
//! | boosting, a number | gbtree | reg:squarederror | the number, in units of the target |
//! | forest, two classes | dart | reg:squarederror | probability of class 1 |
//! | forest, more classes | dart | reg:squarederror, one target a class | probability of each class |
//! | forest, a number | dart | reg:squarederror | the number, in units of the target |
//!
//! A forest is the mean of its trees: their leaves are shares of rows (or values), and booster dart has a weight a
//! tree, 1 / trees. So no tree is written anew when the next one changes the weights. Classes and features have their
//! names in the model's attributes (`Booster.attr("classes")`, `Booster.attr("features")`, JSON lists); they are not
//! XGBoost's feature_names, which would refuse plain arrays.

use std::io::Write as _;

use rayon::prelude::*;
use serde_json::json;
use tensorfleet_kernels::trees::{Side, TreeNode};

use super::ensemble::{Ensemble, Tree};
use super::numbers;
use super::output::Output;
use crate::data::{Dataset, TargetKind};
use crate::domain::{ErrorCode, TaskError};

/// What stands for no parent.
const NO_PARENT: i32 = i32::MAX;

/// From standardised values to units of the target: times `std`, plus `mean`. For classes 1 and 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Units {
    pub(super) mean: f64,
    pub(super) std: f64,
}

impl Units {
    /// Those of `target`.
    pub(super) fn of(target: &TargetKind) -> Self {
        match target {
            TargetKind::Value { mean, std } => Self { mean: *mean, std: *std },
            TargetKind::Classes { .. } => Self { mean: 0.0, std: 1.0 },
        }
    }
}

/// Name of the objective of `output`.
pub(super) fn objective(output: Output) -> &'static str {
    match output {
        Output::LogOdds => "binary:logistic",
        Output::Logits { .. } => "multi:softprob",
        Output::Value | Output::Shares { .. } | Output::MeanValue => "reg:squarederror",
    }
}

/// Name of the booster of `output`.
pub(super) fn booster(output: Output) -> &'static str {
    match output {
        Output::LogOdds | Output::Logits { .. } | Output::Value => "gbtree",
        Output::Shares { .. } | Output::MeanValue => "dart",
    }
}

/// The model file.
///
/// # Errors
/// Defects of ours alone.
pub(super) fn write(ensemble: &Ensemble, output: Output, data: &Dataset) -> Result<Vec<u8>, TaskError> {
    write_model(ensemble, output, data).map_err(|error| {
        TaskError::new(ErrorCode::Internal, format!("the model could not be written: {error}"))
    })
}

fn write_model(ensemble: &Ensemble, output: Output, data: &Dataset) -> std::io::Result<Vec<u8>> {
    let units = Units::of(&data.target);
    let outputs = ensemble.bases.len();
    let trees = ensemble.trees.len();
    let dart = booster(output) == "dart";
    let mut attributes = serde_json::Map::new();
    attributes.insert("features".to_owned(), serde_json::to_string(&data.feature_names)?.into());
    attributes.insert("target".to_owned(), data.target_name.clone().into());
    if let TargetKind::Classes { labels } = &data.target {
        attributes.insert("classes".to_owned(), serde_json::to_string(labels)?.into());
    }
    let texts: Vec<&[u8]> =
        ensemble.trees.par_iter().map(|tree| text(tree, data.width(), units)).collect::<Result<_, _>>()?;
    let length = texts.iter().map(|text| text.len()).sum::<usize>();
    let mut out = Vec::with_capacity(length + 32 * trees + 4096);
    out.extend_from_slice(b"{\"learner\":{\"attributes\":");
    serde_json::to_writer(&mut out, &attributes)?;
    out.extend_from_slice(b",\"feature_names\":[],\"feature_types\":[],\"gradient_booster\":{");
    if dart {
        out.extend_from_slice(b"\"gbtree\":{");
    }
    write!(
        out,
        "\"model\":{{\"gbtree_model_param\":{{\"num_parallel_tree\":\"1\",\"num_trees\":\"{trees}\"}},\"iteration_indptr\":["
    )?;
    list(&mut out, 0..=ensemble.rounds(), |out, round| write!(out, "{}", round as usize * outputs))?;
    out.extend_from_slice(b"],\"tree_info\":[");
    list(&mut out, 0..trees, |out, tree| write!(out, "{}", tree % outputs.max(1)))?;
    out.extend_from_slice(b"],\"trees\":[");
    list(&mut out, texts.iter().enumerate(), |out, (id, text)| {
        write!(out, "{{\"id\":{id},")?;
        out.extend_from_slice(text);
        Ok(())
    })?;
    out.extend_from_slice(b"]},\"name\":\"gbtree\"}");
    if dart {
        let weight = 1.0 / ensemble.rounds().max(1) as f32;
        out.extend_from_slice(b",\"name\":\"dart\",\"weight_drop\":[");
        list(&mut out, 0..trees, |out, _| Ok(serde_json::to_writer(out, &weight)?))?;
        out.extend_from_slice(b"]}");
    }
    let classes = if let Output::Logits { classes } = output { classes } else { 0 };
    let parameters = json!({
        "base_score": base_score(&ensemble.bases, output, units),
        "boost_from_average": "0",
        "num_class": classes.to_string(),
        "num_feature": data.width().to_string(),
        "num_target": if classes == 0 { outputs.to_string() } else { "1".to_owned() },
    });
    let name = objective(output);
    let objective = if classes == 0 {
        json!({"name": name, "reg_loss_param": {"scale_pos_weight": "1"}})
    } else {
        json!({"name": name, "softmax_multiclass_param": {"num_class": classes.to_string()}})
    };
    write!(out, ",\"learner_model_param\":{parameters},\"objective\":{objective}}},\"version\":[2,1,0]}}")?;
    Ok(out)
}

/// What XGBoost calls base_score: a probability for log odds. One number where all outputs have the same, which every
/// version reads; else a list.
fn base_score(bases: &[f32], output: Output, units: Units) -> String {
    let score = |base: &f32| match output {
        Output::LogOdds => 1.0 / (1.0 + (-f64::from(*base)).exp()),
        _ => f64::from(*base) * units.std + units.mean,
    };
    let scores: Vec<String> = bases.iter().map(|base| format!("{:E}", score(base) as f32)).collect();
    match scores.split_first() {
        Some((first, rest)) if rest.iter().all(|other| other == first) => first.clone(),
        _ => format!("[{}]", scores.join(",")),
    }
}

/// A tree from its second field on, which is written once.
fn text(tree: &Tree, width: usize, units: Units) -> std::io::Result<&[u8]> {
    if let Some(written) = tree.written.get() {
        return Ok(written);
    }
    let text = write_tree(tree, width, units)?;
    Ok(tree.written.get_or_init(|| text))
}

/// A tree from its second field on.
fn write_tree(tree: &Tree, width: usize, units: Units) -> std::io::Result<Vec<u8>> {
    let nodes = &tree.nodes;
    let scale = |value: f32| (f64::from(value) * units.std) as f32;
    let mut parents = vec![NO_PARENT; nodes.len()];
    for (parent, node) in nodes.iter().enumerate().filter(|(_, node)| !node.is_leaf()) {
        for child in [node.left, node.right] {
            if let Some(place) = parents.get_mut(child as usize) {
                *place = parent as i32;
            }
        }
    }
    let mut out = Vec::with_capacity(nodes.len() * 96 + 256);
    let child = |out: &mut Vec<u8>, node: &TreeNode, child: u32| {
        numbers::integer(out, if node.is_leaf() { -1 } else { i64::from(child) });
        Ok(())
    };
    let of = |values: &[f32], at: usize| values.get(at).copied().unwrap_or_default();
    let squared = (units.std * units.std) as f32;
    field(&mut out, "base_weights", nodes, |out, _, node| numbers::float(out, scale(node.value)))?;
    field(&mut out, "default_left", nodes, |out, _, node| {
        out.push(if node.default == Side::Left && !node.is_leaf() { b'1' } else { b'0' });
        Ok(())
    })?;
    field(&mut out, "left_children", nodes, |out, _, node| child(out, node, node.left))?;
    field(&mut out, "loss_changes", nodes, |out, at, _| {
        numbers::float(out, (of(&tree.gains, at) * squared).clamp(f32::MIN, f32::MAX))
    })?;
    field(&mut out, "parents", nodes, |out, at, _| {
        numbers::integer(out, parents.get(at).copied().unwrap_or(NO_PARENT));
        Ok(())
    })?;
    field(&mut out, "right_children", nodes, |out, _, node| child(out, node, node.right))?;
    field(&mut out, "split_conditions", nodes, |out, _, node| {
        numbers::float(out, if node.is_leaf() { scale(node.value) } else { node.threshold })
    })?;
    field(&mut out, "split_indices", nodes, |out, _, node| {
        numbers::integer(out, node.feature);
        Ok(())
    })?;
    field(&mut out, "split_type", nodes, |out, _, _| {
        out.push(b'0');
        Ok(())
    })?;
    field(&mut out, "sum_hessian", nodes, |out, at, _| numbers::float(out, of(&tree.covers, at)))?;
    write!(
        out,
        "\"categories\":[],\"categories_nodes\":[],\"categories_segments\":[],\"categories_sizes\":[],\
         \"tree_param\":{{\"num_deleted\":\"0\",\"num_feature\":\"{width}\",\"num_nodes\":\"{}\",\
         \"size_leaf_vector\":\"1\"}}}}",
        nodes.len()
    )?;
    Ok(out)
}

/// The list called `name`, with a value a node.
fn field(
    out: &mut Vec<u8>,
    name: &str,
    nodes: &[TreeNode],
    write_one: impl Fn(&mut Vec<u8>, usize, &TreeNode) -> std::io::Result<()>,
) -> std::io::Result<()> {
    write!(out, "\"{name}\":[")?;
    list(out, nodes.iter().enumerate(), |out, (at, node)| write_one(out, at, node))?;
    out.extend_from_slice(b"],");
    Ok(())
}

/// Items with commas between them.
fn list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write_one: impl FnMut(&mut Vec<u8>, T) -> std::io::Result<()>,
) -> std::io::Result<()> {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_one(out, item)?;
    }
    Ok(())
}
