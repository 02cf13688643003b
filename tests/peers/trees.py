"""Tree models against XGBoost and scikit-learn, on the same rows.

Usage: trees.py WORKER DATA_FOLDER CHECK, where CHECK is one of the functions below. Trains with the worker's `train`,
the peer on the very same rows, and prints one JSON object of means over seeds.
"""

import csv
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow
import pyarrow.parquet
import xgboost
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.tree import DecisionTreeClassifier

SEEDS = range(5)
DATA_SETS = ["digits", "breast_cancer", "wine", "iris"]
# A probability of nothing has no logarithm: both sides count it as this much.
LEAST_SHARE = 2.0**-23


def train(worker, dataset, out, model, epochs, seed, settings=(), root="."):
    """Runs `train`; gives the validation rows, predictions (or probabilities) and the model's path."""
    command = [worker, "train", "--backend", "cpu", "--model-type", model, "--dataset", dataset]
    command += ["--epochs", str(epochs), "--seed", str(seed), "--out", str(out), "--json", "--data-root", str(root)]
    for setting in settings:
        command += ["--set", setting]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with open(pathlib.Path(out) / "predictions.csv", newline="") as file:
        header, *lines = list(csv.reader(file))
    rows = np.array([int(line[0]) for line in lines])
    said = np.array([line[2] for line in lines])
    shares = np.array([[float(cell) for cell in line[3:]] for line in lines]) if len(header) > 3 else None
    return rows, said, shares, pathlib.Path(out) / "model.json"


def table(path):
    """Features and class ids of a CSV file whose last column is the target, ids in the worker's order of labels."""
    with open(path, newline="") as file:
        _, *lines = list(csv.reader(file))
    features = np.array([[float(cell) if cell else np.nan for cell in line[:-1]] for line in lines], dtype=np.float32)
    labels = [line[-1] for line in lines]
    order = sorted(set(labels), key=lambda label: (0, float(label)) if is_number(label) else (1, label))
    return features, np.array([order.index(label) for label in labels]), order


def is_number(text):
    try:
        float(text)
        return True
    except ValueError:
        return False


def quality(shares, ids):
    """Accuracy and log loss."""
    classes = np.arange(shares.shape[1])
    clipped = np.clip(shares, LEAST_SHARE, 1.0)
    clipped = clipped / clipped.sum(axis=1, keepdims=True)
    return float((shares.argmax(axis=1) == ids).mean()), float(log_loss(ids, clipped, labels=classes))


def compare(worker, data, model, epochs, settings, peer, of_few=SEEDS):
    """Means over seeds of (accuracy, log loss), ours and the peer's, on each data set.

    The peer gets features and classes to train on, features to predict, the seed, and the classes of those. `of_few` are
    the seeds for data sets of less than 500 rows, where a single row that is held out is 3 % of the figures.
    """
    result = {}
    for name in DATA_SETS:
        features, ids, _ = table(pathlib.Path(data) / f"{name}.csv")
        figures = []
        for seed in SEEDS if len(ids) >= 500 else of_few:
            with tempfile.TemporaryDirectory() as out:
                rows, _, shares, _ = train(worker, f"builtin:{name}", out, model, epochs, seed, settings)
            held_out = np.zeros(len(ids), dtype=bool)
            held_out[rows] = True
            theirs = peer(features[~held_out], ids[~held_out], features[held_out], seed, ids[held_out])
            figures.append([*quality(shares, ids[rows]), *np.mean([quality(t, ids[held_out]) for t in theirs], axis=0)])
        means = np.mean(figures, axis=0)
        names = ["accuracy", "log_loss", "peer_accuracy", "peer_log_loss"]
        result[name] = dict(zip(names, means.round(6).tolist()))
    return result


def hist(features, ids, held_out, seed, _=None, threads=1, weights=None):
    """What XGBoost's hist says of the held-out rows after 50 rounds, eta 0.3, depth 6."""
    booster = xgboost.train(parameters(ids, seed, threads), xgboost.DMatrix(features, label=ids, weight=weights), 50)
    return by_class(booster.predict(xgboost.DMatrix(held_out)))


def parameters(ids, seed, threads=1):
    """XGBoost's hist, eta 0.3, depth 6, for these classes."""
    classes = int(ids.max()) + 1
    common = {"tree_method": "hist", "eta": 0.3, "max_depth": 6, "seed": seed, "nthread": threads}
    if classes == 2:
        return common | {"objective": "binary:logistic", "eval_metric": "logloss"}
    return common | {"objective": "multi:softprob", "num_class": classes, "eval_metric": "mlogloss"}


def by_class(shares):
    """Probabilities of all classes, also where XGBoost gives those of the second of two."""
    return np.column_stack([1 - shares, shares]) if shares.ndim == 1 else shares


def boosting(worker, data):
    """50 rounds, eta 0.3, depth 6, against XGBoost's hist."""
    return compare(worker, data, "xgboost", 5, ["eta=0.3", "max_depth=6"], lambda *rows: [hist(*rows)])


def large(worker, _):
    """The same on made-up rows by the ten thousand, as Parquet; one seed, since chance has little say in so many."""
    result = {}
    for rows, width, classes in [(100_000, 28, 2), (50_000, 54, 7)]:
        features, ids = make_classification(rows, width, n_informative=width // 2, n_classes=classes, random_state=0)
        features = features.astype(np.float32)
        with tempfile.TemporaryDirectory() as root:
            columns = {f"f{place}": features[:, place] for place in range(width)} | {"target": ids}
            pyarrow.parquet.write_table(pyarrow.table(columns), f"{root}/large.parquet")
            settings = ["eta=0.3", "max_depth=6"]
            held_out, _, shares, _ = train(worker, "large.parquet", f"{root}/out", "xgboost", 5, 0, settings, root)
        trained = np.setdiff1d(np.arange(rows), held_out)
        assert len(np.unique(held_out)) == len(held_out) == rows // 5, "a fifth is held out"
        theirs = hist(features[trained], ids[trained], features[held_out], 0, threads=2)
        figures = [*quality(shares, ids[held_out]), *quality(theirs, ids[held_out])]
        names = ["accuracy", "log_loss", "peer_accuracy", "peer_log_loss"]
        result[f"{rows} x {width}, {classes} classes"] = dict(zip(names, np.round(figures, 6).tolist()))
    return result


def forest(worker, data):
    """100 trees against scikit-learn's."""

    def peer(features, ids, held_out, seed, _):
        fitted = RandomForestClassifier(n_estimators=100, random_state=seed).fit(features, ids)
        return [fitted.predict_proba(held_out)]

    return compare(worker, data, "random_forest", 10, ["n_estimators=100"], peer)


def decision_tree(worker, data):
    """One tree against scikit-learn's. Ties make its trees differ by random_state, so a few of them are averaged."""

    def peer(features, ids, held_out, seed, _):
        trees = [DecisionTreeClassifier(random_state=state).fit(features, ids) for state in range(10)]
        return [tree.predict_proba(held_out) for tree in trees]

    return compare(worker, data, "decision_tree", 1, [], peer)


def balanced_boosting(worker, data):
    """As boosting, with class_weight=balanced and XGBoost's weights of rows."""

    def peer(features, ids, held_out, seed, _):
        return [hist(features, ids, held_out, seed, weights=compute_sample_weight("balanced", ids))]

    return compare(worker, data, "xgboost", 5, ["class_weight=balanced"], peer)


def balanced_forests(worker, data):
    """Forest and single tree, with class_weight=balanced on both sides."""

    def forest(features, ids, held_out, seed, _):
        fitted = RandomForestClassifier(n_estimators=100, random_state=seed, class_weight="balanced")
        return [fitted.fit(features, ids).predict_proba(held_out)]

    def tree(features, ids, held_out, seed, _):
        trees = [DecisionTreeClassifier(random_state=state, class_weight="balanced") for state in range(10)]
        return [tree.fit(features, ids).predict_proba(held_out) for tree in trees]

    result = {}
    # A single tree is sure of all it says, so that its log loss counts nothing but the rows where it is wrong.
    for model, epochs, peer, of_few in [("random_forest", 10, forest, range(25)), ("decision_tree", 1, tree, range(40))]:
        found = compare(worker, data, model, epochs, ["class_weight=balanced"], peer, of_few)
        result |= {f"{model} {name}": figures for name, figures in found.items()}
    return result


def early(worker, data):
    """Up to 200 rounds, 10 without a better log loss of the held-out rows end them: the model of the best round."""

    def peer(features, ids, held_out, seed, truth):
        train, test = xgboost.DMatrix(features, label=ids), xgboost.DMatrix(held_out, label=truth)
        booster = xgboost.train(
            parameters(ids, seed), train, 200, evals=[(test, "held_out")], early_stopping_rounds=10, verbose_eval=False
        )
        return [by_class(booster.predict(test, iteration_range=(0, booster.best_iteration + 1)))]

    return compare(worker, data, "xgboost", 20, ["early_stopping_rounds=10"], peer)


def export(worker, data):
    """XGBoost's predictions with our model.json: the greatest difference to ours, by model and data set."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        cases = [(f"builtin:{name}", pathlib.Path(data) / f"{name}.csv", ()) for name in DATA_SETS]
        for name, write in [("missing", with_missing), ("number", with_number)]:
            write(root / f"{name}.csv")
            cases.append((f"{name}.csv", root / f"{name}.csv", ("task=regression",) if name == "number" else ()))
        for dataset, path, settings in cases:
            features, _, _ = table(path)
            for model, epochs, more in [
                ("xgboost", 2, ()),
                ("xgboost", 2, ("subsample=0.7", "colsample_bytree=0.6", "reg_alpha=0.1", "gamma=0.05", "max_depth=0")),
                ("random_forest", 2, ()),
                ("decision_tree", 1, ()),
            ]:
                rows, said, shares, file = train(worker, dataset, root / "out", model, epochs, 1, settings + more, root)
                booster = xgboost.Booster(model_file=str(file))
                theirs = booster.predict(xgboost.DMatrix(features[rows]))
                if shares is None:
                    ours = said.astype(float)
                    scale = max(1.0, np.abs(ours).max())
                else:
                    ours, scale = (shares[:, 1] if theirs.ndim == 1 else shares), 1.0
                difference = float(np.abs(ours - theirs).max() / scale)
                key = " ".join([model, dataset, *more])
                result[key] = max(result.get(key, 0.0), difference)
                assert json.loads(booster.attr("features")), "features have their names"
    return result


def with_missing(path):
    """Two classes that hang on where a number is missing, and on words."""
    random = np.random.default_rng(0)
    numbers = random.normal(size=(800, 4))
    holes = random.random(numbers.shape) < 0.25
    target = (numbers[:, 0] > 0.3) ^ holes[:, 1] ^ (random.random(800) < 0.05)
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["a", "b", "c", "d", "y"])
        for line, hole, y in zip(numbers, holes, target):
            out.writerow([*("" if h else f"{v:.6g}" for v, h in zip(line, hole)), int(y)])


def with_number(path):
    """A number far from 0."""
    random = np.random.default_rng(1)
    numbers = random.normal(size=(800, 5))
    target = 5000 + 300 * numbers[:, 0] * numbers[:, 1] + 90 * np.abs(numbers[:, 2]) + random.normal(size=800)
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["a", "b", "c", "d", "e", "y"])
        for line, y in zip(numbers, target):
            out.writerow([*(f"{v:.6g}" for v in line), f"{y:.3f}"])


if __name__ == "__main__":
    worker, data, check = sys.argv[1:]
    print(json.dumps(globals()[check](worker, data)))
