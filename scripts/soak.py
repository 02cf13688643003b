"""Workers under random kills for some minutes: counts, and whether memory, files, threads, series and disk stay flat.

Two workers train and are killed with SIGKILL at random moments and restarted on their state folders; a third one is left
alone and watched, with its runner processes and its STATE_DIR: medians of its last quarter may be at most 5 % above those
of its second quarter. In a run of less than 20 minutes caches are still filling up, so that a fixed amount is allowed
beside the 5 %: enough for them, and too little for what is lost with each task.
"""

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

TOLERANCE = 0.05
SAMPLE_SECONDS = 1.0
# Series of ended tasks leave after 5 minutes, and the second quarter has to begin after that.
MINUTES_WITHOUT_SLACK = 20
MIB = 1 << 20
# What is measured, and how much it may grow beside the 5 % in a short run. What is said of runners is the mean of one.
SLACK = {
    "rss_bytes": 24 * MIB,
    "files": 8,
    "threads": 6,
    "runner_rss_bytes": 24 * MIB,
    "runner_files": 4,
    "runner_threads": 3,
    "state_bytes": 0,
    "state_files": 40,
    "series": 0,
}
# What goes up and down by itself, in a long run too: logs are written to their limit and then anew (outbox, held), and a
# call that ends in a new way has series of its own from then on.
SWING = {"state_bytes": 16 * MIB, "state_files": 10, "series": 60}
# What may grow up to a number that is written down: series with a job or a task (docs/metrics.md); warm runners
# (docs/isolation.md), of which two more may be at work and two about to leave.
MOST = {"series_of_jobs": 1000, "runners": 16 + 4}
# Pipes and the like that the worker holds of each runner.
FILES_OF_A_RUNNER = 4


def start(program, arguments, environment, log):
    return subprocess.Popen(
        [program, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
    )


class Worker:
    def __init__(self, program, orchestrator, folder, name):
        self.program, self.name = program, name
        self.log_path = os.path.join(folder, f"{name}.log")
        self.environment = {
            "ORCHESTRATOR_ADDRESS": orchestrator,
            "WORKER_PORT": "0",
            "METRICS_PORT": "0",
            "WORKER_ID": name,
            "STATE_DIR": os.path.join(folder, name),
            "LOG_FORMAT": "json",
            "TRAINING_BACKEND": "cpu",
            "MAX_CONCURRENT_TASKS": "2",
        }
        self.start()

    def start(self):
        log = open(self.log_path, "ab")
        offset = log.tell()
        self.process = start(self.program, ["run"], self.environment, log)
        log.close()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with open(self.log_path, "rb") as text:
                text.seek(offset)
                found = re.search(rb'"http":"[^"]*:(\d+)"', text.read())
            if found:
                self.port = int(found.group(1))
                return
            time.sleep(0.05)
        sys.exit(f"{self.name} did not start; see {self.log_path}")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def sample(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        series = [line for line in lines if line and not line.startswith("#")]
        of_jobs = sum(1 for line in series if re.search(r"[{,](job_id|task_id)=", line))
        # Without models/, which holds what was trained and is for people to fetch and to remove.
        state = [os.path.join(self.environment["STATE_DIR"], part) for part in ("outbox", "held", "checkpoints")]
        kept = [found for part in state for found in files_in(part)]
        own = usage(self.process.pid)
        runners = [found for found in map(usage, runners_of(self.process.pid)) if found]

        def of_runners(name):
            known = [runner[name] for runner in runners if runner[name] is not None]
            return statistics.mean(known) if known else None

        return {
            **own,
            "files": own["files"] - FILES_OF_A_RUNNER * len(runners),
            "runners": len(runners),
            "runner_rss_bytes": of_runners("rss_bytes"),
            "runner_files": of_runners("files"),
            "runner_threads": of_runners("threads"),
            "state_bytes": sum(size for _, size in kept),
            "state_files": len(kept),
            "series": len(series) - of_jobs,
            "series_of_jobs": of_jobs,
        }

    def refused(self):
        """Outcomes that the orchestrator did not take; here it knows every task."""
        return [path for path, _ in files_in(self.environment["STATE_DIR"]) if path.endswith(".refused")]


def usage(pid):
    """What a process takes; None where it has just ended."""
    try:
        with open(f"/proc/{pid}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        if "VmRSS" not in fields:
            return None
        try:
            files = len(os.listdir(f"/proc/{pid}/fd"))
        except PermissionError:
            # Runners let root alone look at their files.
            files = None
        return {
            "rss_bytes": int(fields["VmRSS"].split()[0]) * 1024,
            "files": files,
            "threads": int(fields["Threads"]),
        }
    except (FileNotFoundError, ProcessLookupError):
        return None


def runners_of(worker):
    runners = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/cmdline") as command:
                parent = int(stat.read().rsplit(")", 1)[1].split()[1])
                if parent == worker and command.read().split("\0")[1:2] == ["runner"]:
                    runners.append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return runners


def files_in(folder):
    """All files below a folder with their sizes; some go while one looks."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                yield path, os.stat(path).st_size
            except FileNotFoundError:
                pass


def judge(samples, minutes):
    """What is not flat, in words; prints all of it."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    short = minutes < MINUTES_WITHOUT_SLACK
    if short:
        print(f"beside 5 % a fixed amount may be added: this is a run of less than {MINUTES_WITHOUT_SLACK} minutes")
    bad = []
    for name, slack in SLACK.items():
        parts = ([sample[name] for sample in part if sample[name] is not None] for part in (second, last))
        second_values, last_values = parts
        if not second_values or not last_values:
            print(f"{name}: not measured")
            continue
        before, after = statistics.median(second_values), statistics.median(last_values)
        allowed = before * (1 + TOLERANCE) + SWING.get(name, 0) + (slack if short else 0)
        grew = after > allowed
        print(f"{name}: {before:.0f} in the second quarter, {after:.0f} in the last{'  NOT FLAT' if grew else ''}")
        if grew:
            bad.append(f"{name} grew from {before:.0f} to {after:.0f}; allowed: {allowed:.0f}")
    for name, allowed in MOST.items():
        most = max(sample[name] for sample in samples)
        print(f"{name}: {most} at most, {samples[-1][name]} in the end{'  TOO MANY' if most > allowed else ''}")
        if most > allowed:
            bad.append(f"{most} {name}; allowed: {allowed}")
    return bad


def submit(program, orchestrator, kind, number):
    arguments = ["submit", "--orchestrator", orchestrator, "--epochs", "2", "--wait", "--json"]
    if kind == "real":
        arguments += ["--model-type", "neural_network", "--dataset", "builtin:iris", "--set", "hidden_layers=16"]
    else:
        arguments += ["--model-type", "neural_network", "--dataset", "builtin:iris", "--set", "backend=analytic"]
    return start(program, arguments, {"LOG_LEVEL": "error"}, subprocess.DEVNULL), number


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = tempfile.mkdtemp(prefix="soak-")
    print(f"seed {options.seed}, folder {folder}", flush=True)
    orchestrator_process = start(
        options.program, ["orchestrator", "--listen", "127.0.0.1:0", "--lease", "6s"], {}, subprocess.DEVNULL
    )
    orchestrator = re.search(r"127\.0\.0\.1:\d+", orchestrator_process.stdout.readline()).group(0)
    watched = Worker(options.program, orchestrator, folder, "watched")
    doomed = [Worker(options.program, orchestrator, folder, f"doomed-{n}") for n in range(2)]
    began, kills, number, samples = time.monotonic(), 0, 0, []
    seconds = options.minutes * 60
    jobs, ended = [], []
    next_kill = began + chance.uniform(2, 10)
    while time.monotonic() - began < seconds:
        while len(jobs) < 3:
            number += 1
            jobs.append(submit(options.program, orchestrator, chance.choice(["real", "analytic"]), number))
        running = []
        for process, name in jobs:
            if process.poll() is None:
                running.append((process, name))
            else:
                ended.append((process.returncode, process.stdout.read()))
        jobs = running
        if time.monotonic() >= next_kill:
            worker = chance.choice(doomed)
            worker.kill()
            kills += 1
            time.sleep(chance.uniform(0, 3))
            worker.start()
            next_kill = time.monotonic() + chance.uniform(2, 15)
        samples.append(watched.sample())
        time.sleep(SAMPLE_SECONDS)
    for process, _ in jobs:
        process.wait(timeout=600)
        ended.append((process.returncode, process.stdout.read()))
    bad = []
    completed = tasks = 0
    for code, text in ended:
        last = json.loads(text.strip().splitlines()[-1]) if text.strip() else {}
        completed += last.get("completed_tasks", 0)
        tasks += last.get("total_tasks", 0)
        if code != 0 or last.get("completed_tasks") != last.get("total_tasks"):
            bad.append(f"a job ended with {code}: {last}")
    codes = [worker.stop() for worker in [watched, *doomed]]
    orchestrator_process.terminate()
    orchestrator_process.wait(timeout=30)
    if codes != [0, 0, 0]:
        bad.append(f"workers ended with {codes}")
    print(f"{len(ended)} jobs, {completed} of {tasks} tasks counted once, {kills} kills, {len(samples)} samples")
    bad += judge(samples, options.minutes)
    for worker in [watched, *doomed]:
        bad += [f"an outcome was refused: {path}" for path in worker.refused()]
    for line in bad:
        print(line, file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
