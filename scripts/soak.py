"""Workers under random kills for some minutes: counts, and whether memory, files, threads and series stay flat.

Two workers train and are killed with SIGKILL at random moments and restarted on their state folders; a third one is left
alone and watched: medians of its last quarter may be at most 5 % above those of its second quarter.
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
NAMES = ["rss_bytes", "files", "threads", "series"]
# Series of ended tasks leave after 5 minutes, and the second quarter has to begin after that.
SHORTEST_MINUTES_TO_JUDGE = 20


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
        root = f"/proc/{self.process.pid}"
        with open(f"{root}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {
            "rss_bytes": int(fields["VmRSS"].split()[0]) * 1024,
            "files": len(os.listdir(f"{root}/fd")),
            "threads": int(fields["Threads"]),
            "series": sum(1 for line in lines if line and not line.startswith("#")),
        }


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
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    judged = options.minutes >= SHORTEST_MINUTES_TO_JUDGE
    if not judged:
        print(f"whether these are flat is judged from {SHORTEST_MINUTES_TO_JUDGE} minutes on")
    for name in NAMES:
        before, after = (statistics.median(sample[name] for sample in part) for part in (second, last))
        grew = judged and after > before * (1 + TOLERANCE)
        print(f"{name}: {before:.0f} in the second quarter, {after:.0f} in the last{'  NOT FLAT' if grew else ''}")
        if grew:
            bad.append(f"{name} grew from {before:.0f} to {after:.0f}")
    for line in bad:
        print(line, file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
