"""Judges models of the train command with scikit-learn: figures of predictions.csv, and its own linear models.

Usage: networks.py DATA.csv PEER FOLDER...   (PEER: logistic_regression, svm or none)
Prints one JSON object a folder. Rows of predictions.csv are held out, all others train the peer.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, root_mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

PEERS = {
    "logistic_regression": lambda: LogisticRegression(C=1.0, max_iter=10_000),
    "svm": lambda: LinearSVC(C=1.0, max_iter=100_000),
}


def table(path):
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    return rows[0], rows[1:]


def main():
    data, peer, *folders = sys.argv[1:]
    _, rows = table(data)
    features = np.array([[float(cell) for cell in row[:-1]] for row in rows])
    targets = np.array([row[-1] for row in rows])
    for folder in folders:
        header, predictions = table(Path(folder) / "predictions.csv")
        held_out = np.array([int(row[0]) for row in predictions])
        if len(header) == 3:
            truth, said = targets[held_out].astype(float), [float(row[2]) for row in predictions]
            assert np.allclose(truth, [float(row[1]) for row in predictions]), "the targets are those of the file"
            print(json.dumps({"rmse": root_mean_squared_error(truth, said)}))
            continue
        labels = [name.removeprefix("probability_") for name in header[3:]]
        # scikit-learn wants its labels sorted as it sorts them.
        order = sorted(range(len(labels)), key=lambda label: labels[label])
        probabilities = np.array([[float(cell) for cell in row[3:]] for row in predictions])[:, order]
        # Sums of single precision are off by more than scikit-learn lets pass without a warning.
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        labels = [labels[label] for label in order]
        truth = targets[held_out]
        assert list(truth) == [row[1] for row in predictions], "the targets are those of the file"
        report = {
            "accuracy": accuracy_score(truth, [row[2] for row in predictions]),
            "log_loss": log_loss(truth, probabilities, labels=labels),
            "argmax_accuracy": accuracy_score(truth, np.array(labels)[probabilities.argmax(axis=1)]),
        }
        if peer in PEERS:
            train = np.setdiff1d(np.arange(len(rows)), held_out)
            model = make_pipeline(StandardScaler(), PEERS[peer]()).fit(features[train], targets[train])
            report["peer_accuracy"] = model.score(features[held_out], truth)
            if peer == "logistic_regression":
                report["peer_log_loss"] = log_loss(truth, model.predict_proba(features[held_out]))
        print(json.dumps(report))


main()
