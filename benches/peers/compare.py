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

from works import EPOCHS, HOME, ROOT, TABLES, USUAL_EPOCHS, WORKS

PEER = pathlib.Path(__file__).with_name("peer.py")
REQUIREMENTS = pathlib.Path(__file__).with_name("requirements.txt")
TOLERANCE = 0.005


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
    theirs = Side([python, PEER, peer, work, threads], threads)
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
    return peak | json.loads(said(python, PEER, "peaks", str(threads)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", default=f"1,{os.cpu_count()}")
    parser.add_argument("--only", default="", metavar="WORK[,WORK...]", help="some of: " + ", ".join(WORKS))
    parser.add_argument("--json")
    parser.add_argument("--markdown")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.only.split(",") if name and name not in WORKS]
    if unknown:
        parser.error(f"--only: {unknown[0]!r} is none of {', '.join(WORKS)}")
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
