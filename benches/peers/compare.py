#!/usr/bin/env python3
"""Our training against PyTorch, XGBoost, LightGBM and scikit-learn: the same rows, in turn, pair by pair.

Usage: benches/peers/compare.py [--pairs 5] [--threads 1,2] [--only GROUP/ID,...] [--json FILE] [--markdown FILE]

Makes its own environment under target/peers on the first run (PyTorch is large), builds our side with
`cargo bench --no-run`, and prints ratios peer / ours: the median of the pairs, with least and greatest, of wall time
and of CPU time. Above 1 we are faster; who goes first alternates. A row counts only where our loss and our accuracy,
means over the pairs, are each at most 0.005 worse than the peer's; better is no fault. Networks start from another seed in
each pair. `floor` is how often our median wall time is what the machine would take at its peak: for networks the
multiplications of a step at the GFLOP/s of a product of matrices, for boosting the longer of reading and of adding, over
the rows that are trained on, for forests of adding the features that a node tries, over its rows.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOME = ROOT / "target" / "peers"
REQUIREMENTS = pathlib.Path(__file__).with_name("requirements.txt")

# Epochs of networks: as many as it takes until loss and accuracy tell more than where they began.
EPOCHS = {"train_step/cnn_adam": 5}
USUAL_EPOCHS = 20

# Shapes (rows, features, classes) of made-up tables.
TABLES = [(6400, 64, 10), (6400, 784, 10), (100_000, 28, 2), (50_000, 54, 7)]

# LightGBM as it is, 31 leaves of any depth, and with trees and steps of the size of XGBoost's, which are ours, too. The
# work of long steps is the other way round: ours are as long as those of LightGBM as it is.
BOOSTERS = ["xgboost", "lightgbm", "lightgbm-depth-6"]

# The data set, and which peers do the work.
WORKS = {
    "train_step/mlp_small_adam": ("r6400f64", ["pytorch"]),
    "train_step/mlp_small_sgd": ("r6400f64", ["pytorch"]),
    "train_step/mlp_784_adam": ("r6400f784", ["pytorch"]),
    "train_step/mlp_784_sgd": ("r6400f784", ["pytorch"]),
    "train_step/cnn_adam": ("images", ["pytorch"]),
    "train_step/logistic_sgd": ("r6400f64", ["pytorch"]),
    "boosting/binary_100k_28": ("r100000f28", BOOSTERS),
    "boosting/multi_50k_54": ("r50000f54", BOOSTERS),
    "boosting/multi_50k_54_long_steps": ("r50000f54", ["lightgbm"]),
    "boosting/digits": ("digits", BOOSTERS),
    "forest/binary_100k_28": ("r100000f28", ["scikit-learn"]),
    "forest/multi_50k_54": ("r50000f54", ["scikit-learn"]),
    "forest/digits": ("digits", ["scikit-learn"]),
}
TOLERANCE = 0.005


# ---- the peer's side: runs in the environment, answers lines as ours does ----


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


# ---- the driver ----


def environment():
    """The Python of the peers, made where it is missing."""
    python = HOME / "venv" / "bin" / "python"
    installed = HOME / "venv" / "installed.txt"
    if not installed.exists() or installed.read_text() != REQUIREMENTS.read_text():
        print("installing the peers (once; PyTorch is large)", file=sys.stderr)
        HOME.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", HOME / "venv"], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", REQUIREMENTS], check=True)
        installed.write_text(REQUIREMENTS.read_text())
    return python


def build():
    """The path of our side."""
    command = ["cargo", "bench", "--locked", "--bench", "peers_ours", "--no-run", "--message-format=json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    messages = [json.loads(line) for line in lines if line.startswith("{")]
    return next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "peers_ours")


def make_rows(python):
    """The made-up data sets: CSV for us, arrays for the peers. Tables are those of scikit-learn with seed 0. Images have
    28 x 28 points: digits at three times their size, moved and with noise, so that a convolution has something to find.
    """
    code = """
import json, sys, numpy as np
from sklearn.datasets import make_classification
home, digits, tables = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

def write(name, x, y):
    table = np.column_stack([x.astype(np.float32), y])
    np.save(f"{home}/{name}.npy", table.astype(np.float32))
    header = ",".join([f"f{i}" for i in range(x.shape[1])] + ["target"])
    np.savetxt(f"{home}/{name}.csv", table, delimiter=",", header=header, comments="", fmt=["%.9g"] * x.shape[1] + ["%d"])

for rows, features, classes in tables:
    informative = min(features // 2, 32)
    write(f"r{rows}f{features}", *make_classification(rows, features, n_informative=informative, n_classes=classes, random_state=0))
table = np.loadtxt(digits, delimiter=",", skiprows=1, dtype=np.float32)
random = np.random.default_rng(0)
chosen = random.integers(0, len(table), 6400)
images = np.zeros((6400, 28, 28), dtype=np.float32)
for image, row in zip(images, table[chosen]):
    down, right = random.integers(0, 5, 2)
    image[down : down + 24, right : right + 24] = np.kron(row[:-1].reshape(8, 8), np.ones((3, 3)))
images += random.normal(0, 2, images.shape)
write("images", images.reshape(6400, 784), table[chosen, -1])
"""
    if not (HOME / "images.csv").exists():
        digits = ROOT / "data" / "digits.csv"
        subprocess.run([python, "-c", code, HOME, digits, json.dumps(TABLES)], check=True)


def cores():
    """How much of two cores two spinning processes really get, 2 at best."""
    spin = "import time\nend = time.perf_counter() + 1\nwhile time.perf_counter() < end: pass\nprint(time.process_time())"
    both = [subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    return sum(float(one.communicate()[0]) for one in both)


class Side:
    """A process that answers lines."""

    def __init__(self, command, threads):
        names = ["OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
        environ = os.environ | dict.fromkeys(names, str(threads))
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def multiplications(work):
    """Multiplications of one step of a network: forward, by the weights, and by the inputs but of the first layer."""
    layers = {
        "mlp_small": (128, [64 * 128, 128 * 64, 64 * 10]),
        "mlp_784": (128, [784 * 256, 256 * 128, 128 * 10]),
        "cnn": (64, [784 * 9 * 16, 196 * 9 * 16 * 32, 1568 * 128, 128 * 10]),
        "logistic": (128, [64 * 10]),
    }
    batch, sizes = layers[work.split("/")[1].rsplit("_", 1)[0]]
    return batch * (3 * sum(sizes) - sizes[0])


def floor(work, threads, peak, rows):
    """Seconds of one unit of `work` at the machine's peak. `rows` are those that are trained on, of forests of all nodes."""
    group, _ = work.split("/")
    if group == "train_step":
        return 2 * multiplications(work) / (peak["gflops"] * 1e9)
    dataset, _ = WORKS[work]
    features, classes = {"r100000f28": (28, 1), "r50000f54": (54, 7), "digits": (64, 10)}[dataset]
    if group == "forest":
        # A row that was drawn more often is added once. Which features a node tries no other node needs to know.
        return rows * (1 - math.exp(-1)) * math.isqrt(features) * peak["update_seconds"] / threads
    # 50 rounds of trees of depth 6; below the root the smaller child is added up, and the other is what is left.
    passes = 50 * classes * (1 + 5 / 2)
    reading = passes * rows * (features + 8) / peak["bytes"]
    adding = passes * rows * features * peak["update_seconds"] / threads
    return max(reading, adding)


def compare(work, peer, threads, pairs, python, ours_path, peak):
    dataset, epochs = WORKS[work][0], 1
    if work.startswith("train_step/"):
        epochs = EPOCHS.get(work, USUAL_EPOCHS)
    dataset = "builtin:digits" if dataset == "digits" else f"{dataset}.csv"

    def order(pair):
        # A seed decides which rows of trees are held out, and the peer is told that once.
        return f"{work} {dataset} {epochs} {pair if work.startswith('train_step/') else 0}"

    ours = Side([ours_path, HOME], threads)
    # The first answer warms up, and tells which rows are held out.
    first = json.loads(ours.ask(order(0)))
    sizes = first["rows"]
    if work.startswith("forest/"):
        sizes = json.loads(ours.ask(f"sizes {order(0)}"))["rows"]
    theirs = Side([python, __file__, "--serve", peer, work, threads], threads)
    note = json.loads(theirs.ask(json.dumps(first["held_out"])))["note"]
    theirs.ask("0")
    rows = []
    for pair in range(pairs):
        sides = [lambda pair=pair: ours.ask(order(pair)), lambda pair=pair: theirs.ask(str(pair))]
        if pair % 2:
            answers = [sides[1](), sides[0]()][::-1]
        else:
            answers = [sides[0](), sides[1]()]
        rows.append(tuple(json.loads(answer) for answer in answers))
    ours.close()
    theirs.close()

    def spread(what):
        ratios = [(b[what] / b["units"]) / (a[what] / a["units"]) for a, b in rows]
        return [statistics.median(ratios), min(ratios), max(ratios)]

    def mean(side, what):
        return statistics.mean(row[side][what] for row in rows)

    unit = statistics.median(a["wall"] / a["units"] for a, _ in rows)
    figures = {"accuracy": mean(0, "accuracy"), "peer_accuracy": mean(1, "accuracy")}
    figures |= {"loss": mean(0, "loss"), "peer_loss": mean(1, "loss"), "seconds": unit}
    distance = unit / floor(work, threads, peak, sizes)
    figures |= {"floor": distance, "note": note, "counts": counts(figures)}
    return {"work": work, "peer": peer, "threads": threads, "wall": spread("wall"), "cpu": spread("cpu")} | figures


def counts(figures):
    """Whether neither loss nor accuracy is worse than the peer's by more than the tolerance."""
    accurate = figures["accuracy"] >= figures["peer_accuracy"] - TOLERANCE
    return accurate and figures["loss"] <= figures["peer_loss"] + TOLERANCE


def line(row):
    ratio = "{:.2f} ({:.2f} to {:.2f})"
    peer = f"{row['peer']} {row['note']}".strip()
    return (
        f"| {row['work']} | {peer} | {row['threads']} | {ratio.format(*row['wall'])} | "
        f"{ratio.format(*row['cpu'])} | {row['seconds'] * 1e3:.3f} | {row['floor']:.1f} | {row['accuracy']:.4f} / "
        f"{row['peer_accuracy']:.4f} | {row['loss']:.4f} / {row['peer_loss']:.4f} | {'yes' if row['counts'] else 'no'} |"
    )


def processor():
    """The model of the CPU."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU unknown")


def said(*command):
    """What a command prints."""
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def measure_peaks(python, ours_path, threads):
    """What the machine does at best with so many threads."""
    ours = Side([ours_path, HOME], 1)
    peak = json.loads(ours.ask("peak"))
    ours.close()
    return peak | json.loads(said(python, __file__, "--peaks", str(threads)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", default=f"1,{os.cpu_count()}")
    parser.add_argument("--only", default="", metavar="WORK[,WORK...]", help="some of: " + ", ".join(WORKS))
    parser.add_argument("--json")
    parser.add_argument("--markdown")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--peaks", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.only.split(",") if name and name not in WORKS]
    if unknown:
        parser.error(f"--only: {unknown[0]!r} is none of {', '.join(WORKS)}")
    if arguments.peaks:
        return peaks(arguments.peaks)
    if arguments.serve:
        peer, work, threads = arguments.serve
        return serve(peer, work, int(threads))
    python = environment()
    ours_path = build()
    make_rows(python)
    real = cores()
    all_threads = list(dict.fromkeys(int(number) for number in arguments.threads.split(",")))
    peak = {threads: measure_peaks(python, ours_path, threads) for threads in all_threads}
    versions = peak[all_threads[0]]["versions"]
    commit = said("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    head = [f"{processor()}, {os.cpu_count()} cores; two spinning processes got {real:.2f}."]
    head.append(f"{said('rustc', '--version')}, commit {commit}; Python {sys.version.split()[0]}, " + ", ".join(
        f"{name} {version}" for name, version in versions.items()) + ".")
    for threads, measured in peak.items():
        head.append(f"At best with {threads} threads: {measured['gflops']:.0f} GFLOP/s in products of matrices, "
                    f"{measured['bytes'] / 1e9:.1f} GB/s read; a histogram update takes "
                    f"{measured['update_seconds'] * 1e9:.2f} ns on one.")
    if real < 1.9:
        head.append("The machine does not give two whole cores: read the ratios of CPU time.")
    head += ["", "| work | peer | threads | wall, peer / ours | CPU, peer / ours | ours, ms | ours / floor | accuracy, "
             "ours / peer | loss, ours / peer | counts |"]
    head += ["|-|-|-|-|-|-|-|-|-|-|"]
    print("\n".join(head), flush=True)
    rows = []
    wanted = [name for name in arguments.only.split(",") if name] or list(WORKS)
    for work in wanted:
        for peer in WORKS[work][1]:
            for threads in all_threads:
                rows.append(compare(work, peer, threads, arguments.pairs, python, ours_path, peak[threads]))
                print(line(rows[-1]), flush=True)
    if arguments.json:
        machine = {"cores": real, "processor": processor(), "commit": commit, "peaks": peak}
        pathlib.Path(arguments.json).write_text(json.dumps(machine | {"rows": rows}, indent=1) + "\n")
    if arguments.markdown:
        pathlib.Path(arguments.markdown).write_text("\n".join([*head, *map(line, rows)]) + "\n")


if __name__ == "__main__":
    main()
