#!/usr/bin/env python3
"""The peer's side of a comparison: trains when it is asked to, and says what that took and gave.

Usage: benches/peers/peer.py PEER GROUP/ID THREADS
       benches/peers/peer.py peaks THREADS

Runs in the environment that compare.py makes. A line in is a seed, a line out one JSON object with `wall` and `cpu` seconds,
`units`, loss and accuracy; before them comes a line with the numbers of the rows that are held out. `peaks` prints what
the machine does at best, and versions.
"""

import json
import sys
import time

from works import EPOCHS, HOME, ROOT, USUAL_EPOCHS, WORKS


def rows_of(dataset):
    import numpy as np

    if dataset == "digits":
        table = np.loadtxt(ROOT / "data" / "digits.csv", delimiter=",", skiprows=1, dtype=np.float32)
    else:
        table = np.load(HOME / f"{dataset}.npy")
    return np.ascontiguousarray(table[:, :-1]), table[:, -1].astype(np.int64)


def standardised(features):
    deviation = features.std(axis=0)
    deviation[deviation == 0] = 1
    return ((features - features.mean(axis=0)) / deviation).astype("float32")


def network(name, threads):
    """A function that trains all epochs from a seed and gives (steps, loss, accuracy), as one of PyTorch 2 would."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    features, targets = rows_of(WORKS[f"train_step/{name}"][0])
    x, y = torch.from_numpy(standardised(features)), torch.from_numpy(targets)
    batch = 64 if name == "cnn_adam" else 128
    epochs = EPOCHS.get(f"train_step/{name}", USUAL_EPOCHS)
    if name == "cnn_adam":
        x = x.reshape(-1, 1, 28, 28)

    def build():
        if name.startswith("mlp_small"):
            layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)]
        elif name.startswith("mlp_784"):
            layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)]
        elif name == "cnn_adam":
            layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            layers += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            layers += [nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10)]
        else:
            layers = [nn.Linear(64, 10)]
        return nn.Sequential(*layers)

    def fit(seed):
        torch.manual_seed(seed)
        model = build()
        if name.endswith("adam"):
            optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
        criterion = nn.CrossEntropyLoss()
        steps = 0
        for _ in range(epochs):
            # Sums stay tensors: nothing waits for them within an epoch.
            loss_sum, hits = torch.zeros(()), torch.zeros((), dtype=torch.int64)
            for rows in torch.randperm(len(y)).split(batch):
                optimizer.zero_grad(set_to_none=True)
                inputs, labels = x[rows], y[rows]
                outputs = model(inputs)
                loss = criterion(outputs, labels)
                loss.backward()
                optimizer.step()
                loss_sum += loss.detach() * len(rows)
                hits += (outputs.detach().argmax(1) == labels).sum()
                steps += 1
        return steps, float(loss_sum) / len(y), float(hits) / len(y)

    return fit


def trees(peer, dataset, threads, held_out, layout=None):
    """A function that fits once, and one that gives (1, loss, accuracy) of that on the held-out rows."""
    import numpy as np
    from sklearn.metrics import log_loss

    features, targets = rows_of(dataset)
    mask = np.zeros(len(targets), dtype=bool)
    mask[held_out] = True
    classes = len(np.unique(targets))
    train, labels, others, answers = features[~mask], targets[~mask], features[mask], targets[mask]

    # We say the loss of the training rows and score the held-out ones after each round, and so do they.
    def fit_xgboost(_):
        import xgboost

        settings = {"tree_method": "hist", "max_depth": 6, "eta": 0.3, "nthread": threads, "verbosity": 0}
        many = {"objective": "multi:softprob", "num_class": classes, "eval_metric": "mlogloss"}
        settings |= many if classes > 2 else {"objective": "binary:logistic", "eval_metric": "logloss"}
        rows = xgboost.QuantileDMatrix(train, labels, nthread=threads)
        held = xgboost.QuantileDMatrix(others, answers, ref=rows, nthread=threads)
        evals = [(rows, "train"), (held, "held_out")]
        booster = xgboost.train(settings, rows, 50, evals=evals, verbose_eval=False)
        return lambda: booster.predict(held)

    def fit_lightgbm(_):
        import lightgbm

        settings = {"num_leaves": 31, "learning_rate": 0.3, "num_threads": threads, "verbosity": -1, layout: True}
        if peer.endswith("depth-6"):
            # Leaves and limits as XGBoost reckons them: its second derivatives of several classes are 2 p (1 - p), those
            # of LightGBM K / (K - 1) p (1 - p).
            share = classes / (classes - 1) / 2 if classes > 2 else 1
            settings |= {"num_leaves": 64, "max_depth": 6, "learning_rate": 0.3 * share, "lambda_l2": share}
            settings |= {"min_sum_hessian_in_leaf": share, "min_data_in_leaf": 1}
        many = {"objective": "multiclass", "num_class": classes, "metric": "multi_logloss"}
        settings |= many if classes > 2 else {"objective": "binary", "metric": "binary_logloss"}
        rows = lightgbm.Dataset(train, labels)
        held = lightgbm.Dataset(others, answers, reference=rows)
        booster = lightgbm.train(settings, rows, 50, valid_sets=[rows, held])
        return lambda: booster.predict(others)

    def fit_forest(seed):
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(n_estimators=100, n_jobs=threads, random_state=seed).fit(train, labels)
        return lambda: forest.predict_proba(others)

    fits = {"xgboost": fit_xgboost, "lightgbm": fit_lightgbm, "scikit-learn": fit_forest}
    fit = fits[peer.removesuffix("-depth-6")]

    def judge(predict):
        shares = predict()
        if shares.ndim == 1:
            shares = np.stack([1 - shares, shares], axis=1)
        clipped = np.clip(shares, 1e-7, 1)
        loss = log_loss(answers, clipped / clipped.sum(axis=1, keepdims=True), labels=np.arange(classes))
        return 1, float(loss), float((shares.argmax(1) == answers).mean())

    return fit, judge


def serve(peer, work, threads):
    """Answers each line of standard input, a seed, with one fit from it."""
    group, name = work.split("/")
    held_out = json.loads(sys.stdin.readline())
    dataset, note = WORKS[work][0], ""
    if peer == "pytorch":
        fit, judge = network(name, threads), lambda done: done
    elif peer.startswith("lightgbm"):
        # Which of both layouts is faster LightGBM would try out within the time that is measured.
        taken = {}
        for layout in ["force_col_wise", "force_row_wise"]:
            fit, judge = trees(peer, dataset, threads, held_out, layout)
            fit(0)
            wall = time.perf_counter()
            fit(0)
            taken[layout] = time.perf_counter() - wall, fit, judge
        note = min(taken, key=lambda layout: taken[layout][0])
        _, fit, judge = taken[note]
    else:
        fit, judge = trees(peer, dataset, threads, held_out)
    print(json.dumps({"note": note}), flush=True)
    for seed in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        done = fit(int(seed))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        units, loss, accuracy = judge(done)
        answer = {"wall": wall, "cpu": cpu, "units": units, "loss": loss, "accuracy": accuracy}
        print(json.dumps(answer), flush=True)


def peaks(threads):
    """GFLOP/s of a product of matrices, and bytes a second that are read."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    left, right = torch.rand(1024, 1024), torch.rand(1024, 1024)
    values = np.ones(1 << 26, dtype=np.float32)

    def best(work):
        work()
        taken = []
        for _ in range(10):
            wall = time.perf_counter()
            work()
            taken.append(time.perf_counter() - wall)
        return min(taken)

    versions = {}
    for name in ["torch", "xgboost", "lightgbm", "sklearn", "numpy"]:
        versions[name] = __import__(name).__version__
    gflops = 2 * 1024**3 / best(lambda: left @ right) / 1e9
    answer = {"gflops": gflops, "bytes": values.nbytes / best(values.sum), "versions": versions}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "peaks":
        peaks(int(sys.argv[2]))
    else:
        serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
