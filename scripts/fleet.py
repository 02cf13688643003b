"""Workers as real processes on one development orchestrator: throughput, fairness, and what SIGKILL costs.

First part: analytic tasks without a delay, and real jobs, with all workers. Second part: the same once more; when a fifth
of it is counted, a third of the workers is killed with SIGKILL. The exit code is 1 when a task is lost or counted twice.
All counts are the orchestrator's own; what the workers say is only put beside them.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from fleet_grpc import fields, unary
from fleet_network import HUB, address, libc, make_hub, plug_in

START_SECONDS = 90
GLANCE_SECONDS = 0.1
KILL_AT = 0.2
TASKS_PER_EPOCH = 10
MOST_WORKERS = 64
PR_SET_PDEATHSIG = 1


class Trouble(Exception):
    """Something that ends the run, in words."""


# --- the command line


def whole(least, most):
    def parse(text):
        if re.fullmatch(r"[0-9]{1,9}", text) and least <= int(text) <= most:
            return int(text)
        allowed = f"a whole number from {least} to {most}"
        raise argparse.ArgumentTypeError(f'"{text}" is not allowed; allowed: {allowed}')

    return parse


def one_of(*words):
    def parse(text):
        if text in words:
            return text
        raise argparse.ArgumentTypeError(f'"{text}" is not allowed; allowed: {", ".join(words)}')

    return parse


class Parser(argparse.ArgumentParser):
    def error(self, message):
        message = message.removeprefix("argument ")
        message = message.replace("expected one argument", '"" is not allowed; allowed: a value')
        self.exit(2, f"error: {message}\n")


def arguments():
    parser = Parser(prog="scripts/fleet", description=__doc__.split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--workers", type=whole(1, MOST_WORKERS), default=4, help="how many, 1 to 64 (4)")
    add("--slots", type=whole(1, 64), default=4, help="tasks at once in each (4)")
    add("--tasks", type=whole(10, 1_000_000), default=4000, help="analytic tasks of each part, in tens (4000)")
    add("--real", type=whole(0, 20), default=2, help="jobs of each part that really train, 20 tasks each (2)")
    add("--lease", type=whole(1, 60), default=3, help="seconds after which a dead worker's tasks go to others (3)")
    add("--network", type=one_of("auto", "namespaces", "loopback"), default="auto",
        help="namespaces: one network namespace for each worker, as root; loopback: ports of 127.0.0.1 (auto)")
    add("--seed", type=whole(0, 999_999_999), default=1, help="chooses whom to kill (1)")
    add("--timeout", type=whole(1, 3600), default=300, help="seconds that each part may take (300)")
    add("--restart", action="store_true",
        help="start killed workers again on their state folders; always so with --workers 1")
    add("--json", action="store_true", help="print the figures as one JSON object too, as the last line")
    options, unknown = parser.parse_known_args()
    if unknown:
        flags = ", ".join("--" + name for name in vars(options))
        parser.error(f'"{unknown[0]}" is not a flag; allowed: {flags}')
    return options


def find_program():
    program = os.environ.get("TENSORFLEET_WORKER")
    if not program:
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        build = ["cargo", "build", "--locked", "--quiet", "--bin", "tensorfleet-worker"]
        if subprocess.run(build, cwd=root).returncode != 0:
            raise Trouble("the build failed")
        target = os.path.join(root, os.environ.get("CARGO_TARGET_DIR", "target"))
        program = os.path.join(target, "debug", "tensorfleet-worker")
    program = os.path.abspath(program)
    if not (os.path.isfile(program) and os.access(program, os.X_OK)):
        raise Trouble(f'TENSORFLEET_WORKER: "{program}" is not allowed; allowed: the path of a program')
    return program


# --- processes


def die_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def cpu_seconds(pid):
    """User and system time of a process so far."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Process:
    """One of ours, with its log."""

    def __init__(self, fleet, name, command, settings, number=None):
        self.fleet, self.name, self.command, self.settings, self.number = fleet, name, command, settings, number
        self.log = os.path.join(fleet.folder, f"{name}.log")
        self.start()

    def start(self):
        command, waits = self.command, self.fleet.namespaces and self.number is not None
        if waits:
            command = ["unshare", "--net", "sh", "-c", 'read -r _ && exec "$0" "$@"', *command]
        with open(self.log, "ab") as log:
            self.offset = log.tell()
            self.process = subprocess.Popen(
                command, env={"PATH": os.environ.get("PATH", ""), "LOG_FORMAT": "json", **self.settings},
                stdin=subprocess.PIPE if waits else subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=die_with_parent, start_new_session=True,
            )  # fmt: skip
        self.fleet.processes.append(self.process)
        if waits:
            plug_in(self.process, self.number)
            self.process.stdin.write(b"\n")
            self.process.stdin.close()

    def await_line(self, pattern):
        end = time.monotonic() + START_SECONDS
        while True:
            ended = self.process.poll()
            with open(self.log, "rb") as text:
                text.seek(self.offset)
                said = text.read().decode(errors="replace")
            found = re.search(pattern, said)
            if found:
                return found.group(1)
            if ended is not None or time.monotonic() > end:
                how = f"ended with {ended}" if ended is not None else f"did not get ready in {START_SECONDS} s"
                raise Trouble(f"{self.name} {how}; the end of what it said:\n{said[-1500:].strip() or '(nothing)'}")
            time.sleep(0.02)

    def ready(self):
        self.http = self.await_line(r'"http":"([0-9.:]+)"')

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            return answer.read().decode()


class Fleet:
    def __init__(self, options, program):
        self.options, self.program, self.processes, self.namespaces = options, program, [], False
        self.folder = tempfile.mkdtemp(prefix="fleet-")
        self.jobs, self.sent = [], 0
        if options.network != "loopback":
            try:
                make_hub()
                self.namespaces = True
            except OSError as error:
                if options.network == "namespaces":
                    said = f'--network: "namespaces" is not possible here ({error}); allowed: loopback'
                    raise Trouble(said) from error
                self.why_not = error

    def start(self):
        host = HUB if self.namespaces else "127.0.0.1"
        lease = f"{self.options.lease}s"
        command = [self.program, "orchestrator", "--listen", f"{host}:0", "--lease", lease]
        self.orchestrator = Process(self, "orchestrator", command, {"LOG_LEVEL": "info"})
        self.address = self.orchestrator.await_line(r"listens on ([0-9.:]+)")
        self.workers = [self.start_worker(number) for number in range(1, self.options.workers + 1)]
        for worker in self.workers:
            worker.ready()

    def start_worker(self, number):
        settings = {
            "ORCHESTRATOR_ADDRESS": self.address,
            "WORKER_ID": f"worker-{number:02}",
            "LISTEN_ADDRESS": "0.0.0.0" if self.namespaces else "127.0.0.1",
            "WORKER_PORT": "0",
            "METRICS_PORT": "0",
            "STATE_DIR": os.path.join(self.folder, f"worker-{number:02}"),
            "LOG_LEVEL": "info",
            "TRAINING_BACKEND": "analytic",
            "DEVICE_POLICY": "cpu",
            "ANALYTIC_EPOCH_DELAY": "0",
            "MAX_CONCURRENT_TASKS": str(self.options.slots),
            "DRAIN_TIMEOUT": "1s",
        }
        worker = Process(self, f"worker-{number:02}", [self.program, "run"], settings, number)
        # In a namespace of its own it listens on all addresses; this is the one on the bridge.
        listens = worker.ready

        def ready():
            listens()
            worker.http = worker.http.replace("0.0.0.0", address(number))

        worker.ready = ready
        return worker

    def submit(self, kind, jobs):
        """Sends jobs of these many epochs at once, and returns their ids."""
        sent = []
        for epochs in jobs:
            self.sent += 1
            job_id = f"{kind}-{self.sent}"
            command = [self.program, "submit", "--orchestrator", self.address, "--dataset", "builtin:iris"]
            command += ["--job-id", job_id, "--epochs", str(epochs), "--set", f"backend={kind}"]
            environment = {"PATH": os.environ.get("PATH", ""), "LOG_LEVEL": "error"}
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                text=True, preexec_fn=die_with_parent,
            )  # fmt: skip
            self.processes.append(process)
            sent.append((job_id, process))
        for job_id, process in sent:
            said = process.communicate(timeout=60)[1]
            if process.returncode != 0:
                raise Trouble(f"submit ended with {process.returncode}: {said.strip()}")
            self.jobs.append(job_id)
        return [job_id for job_id, _ in sent]

    def submit_part(self):
        """Returns the ids of the analytic jobs and of the real ones."""
        epochs = -(-self.options.tasks // TASKS_PER_EPOCH)
        shares = [epochs // 4 + (n < epochs % 4) for n in range(4)]
        # The real ones first, so that they are under way at the kill.
        real = self.submit("cpu", [2] * self.options.real)
        began = time.monotonic()
        return self.submit("analytic", [share for share in shares if share]), real, began

    def call(self, method, message=b""):
        host, port = self.address.rsplit(":", 1)
        return fields(unary(host, int(port), f"/orchestrator.OrchestratorService/{method}", message))

    def job(self, job_id):
        answer = self.call("GetJobStatus", b"\x0a" + bytes([len(job_id)]) + job_id.encode())
        one = {number: value for number, value in answer}
        return one.get(2, b"").decode(), one.get(4, 0), one.get(5, 0)

    def counted(self):
        """Tasks that the orchestrator counted for each worker."""
        found = {}
        for _, text in self.call("GetWorkerActivity"):
            if isinstance(text, bytes):
                one = {number: value for number, value in fields(text)}
                found[one[1].decode()] = one.get(5, 0)
        return found

    def follow(self, jobs, until, began):
        """Waits until `until` tasks of the jobs are counted, or all jobs have ended; returns how many are."""
        while True:
            states = [self.job(job) for job in jobs]
            done = sum(completed for _, completed, _ in states)
            if done >= until or all(status in ("COMPLETED", "FAILED", "CANCELLED") for status, _, _ in states):
                return done
            if time.monotonic() - began > self.options.timeout:
                wanted = sum(total for _, _, total in states)
                raise Trouble(f"only {done} of {wanted} tasks were counted within --timeout {self.options.timeout} s")
            if self.orchestrator.process.poll() is not None:
                raise Trouble(f"the orchestrator ended with {self.orchestrator.process.returncode}")
            time.sleep(GLANCE_SECONDS)

    def logged(self):
        """From the logs: task ids that completed, how many ends there were, and how often a lease ended."""
        ends, given_anew = [], 0
        for worker in self.workers:
            with open(worker.log, "rb") as text:
                ends += re.findall(rb'"message":"task completed".*?"task_id":"([^"]+)"', text.read())
        with open(self.orchestrator.log, "rb") as text:
            given_anew = sum(int(lost) for lost in re.findall(rb'"?lost"?[:=](\d+)', text.read()))
        return len(set(ends)), len(ends), given_anew

    def end(self, keep):
        for stop in (signal.SIGTERM, signal.SIGKILL):
            left = [process for process in self.processes if process.poll() is None]
            for process in left:
                process.send_signal(stop)
            end = time.monotonic() + (10 if stop == signal.SIGTERM else 5)
            for process in left:
                try:
                    process.wait(max(0.01, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    pass
        if keep:
            print(f"logs are in {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


# --- the run


def fairness(counts):
    """Jain's index: 1 when all have the same, 1/n when one has everything."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 0.0


def rpcs(workers):
    """Calls of these workers so far by method."""
    found = {}
    series = re.compile(r'^worker_orchestrator_rpc_seconds_count\{.*?method="(\w+)".*?\} (\d+)', re.M)
    for worker in workers:
        for method, count in series.findall(worker.metrics()):
            found[method] = found.get(method, 0) + int(count)
    return found


def counts(calls):
    return ", ".join(f"{method} {number}" for method, number in sorted(calls.items()))


def run(fleet):
    options, chance = fleet.options, random.Random(fleet.options.seed)
    count = options.workers
    where = "a network namespace each" if fleet.namespaces else "loopback, ports of their own"
    if options.network == "auto" and not fleet.namespaces:
        where += f" (no namespaces: {fleet.why_not})"
    began = time.monotonic()
    fleet.start()
    ready = time.monotonic() - began
    print(f"{count} workers, {options.slots} slots each; network: {where}; ready after {ready:.1f} s", flush=True)
    figures = {"workers": count, "slots": options.slots, "network": "namespaces" if fleet.namespaces else "loopback"}

    ours = [fleet.orchestrator, *fleet.workers]
    cpu = [cpu_seconds(one.process.pid) for one in ours]
    analytic, real, began = fleet.submit_part()
    done = fleet.follow(analytic, sys.maxsize, began)
    took = time.monotonic() - began
    print(f"throughput: {done} analytic tasks in {took:.2f} s, {done / took:.0f} tasks/s", flush=True)
    figures |= {"tasks": done, "seconds": took, "tasks_per_second": done / took}
    done += fleet.follow(real, sys.maxsize, began)
    cpu = [cpu_seconds(one.process.pid) - before for one, before in zip(ours, cpu)]
    calls = rpcs(fleet.workers)
    shares = fleet.counted()
    shares = sorted(shares.get(worker.name, 0) for worker in fleet.workers)
    spread = f"min {shares[0]}, median {statistics.median(shares):.0f}, max {shares[-1]}"
    print(f"fairness: tasks per worker {spread}; Jain's index {fairness(shares):.3f}")
    micros = [1e6 * cpu[0] / done, 1e6 * sum(cpu[1:]) / done]
    each = f"{micros[0]:.0f} us CPU of the orchestrator, {micros[1]:.0f} us of the workers"
    print(f"a task: {each}, {sum(calls.values()) / done:.2f} calls ({counts(calls)})", flush=True)
    figures |= {"jain": fairness(shares), "tasks_per_worker": shares, "calls": calls}
    figures |= {"orchestrator_cpu_us": micros[0], "workers_cpu_us": micros[1]}

    again = options.restart or count == 1
    doomed = chance.sample(fleet.workers, max(1, count // 3))
    analytic, real, began = fleet.submit_part()
    second = analytic + real
    wanted = sum(total for _, _, total in map(fleet.job, second))
    at = fleet.follow(second, int(wanted * KILL_AT), began)
    for worker in doomed:
        worker.process.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    for worker in doomed:
        worker.process.wait()
    names = " ".join(sorted(worker.name for worker in doomed))
    print(f"killed at {at} of {wanted} tasks{', then started again' if again else ''}: {names}", flush=True)
    if at == wanted:
        raise Trouble(f"--tasks: {options.tasks} is too few to kill somebody meanwhile; allowed here: more than that")
    if again:
        for worker in doomed:
            worker.start()
    fleet.follow(second, sys.maxsize, began)
    recovery = time.monotonic() - killed

    states = [fleet.job(job) for job in fleet.jobs]
    total = sum(total for _, _, total in states)
    completed = sum(min(done, total) for _, done, total in states)
    counted = sum(fleet.counted().values())
    lost, twice = total - completed, counted - completed
    distinct, ends, anew = fleet.logged()
    unfinished = sorted({status for status, _, _ in states} - {"COMPLETED"})
    rest = (wanted - at) / figures["tasks_per_second"]
    usual = f"all workers would take {rest:.2f} s, a lease lasts {options.lease} s"
    print(f"recovery: all {wanted - at} tasks left were counted {recovery:.2f} s after the kill; {usual}")
    print(f"count: {completed} of {total} tasks completed, {counted} counted for workers: {lost} lost, {twice} twice")
    print(f"redone: {anew} attempts handed out anew after their leases; workers' logs: {ends} ends of {distinct} tasks")
    figures |= {"killed": len(doomed), "recovery_seconds": recovery, "total": total, "lost": lost, "twice": twice}
    figures |= {"handed_out_anew": anew, "ends": ends, "ended_tasks": distinct}
    if options.json:
        print(json.dumps(figures))
    if unfinished or lost or twice:
        raise Trouble(f"the count is wrong: {lost} lost, {twice} twice, jobs {', '.join(unfinished) or 'COMPLETED'}")


def main():
    options = arguments()
    stop = lambda number, _: sys.exit(128 + number)  # noqa: E731
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    fleet, keep = None, True
    try:
        fleet = Fleet(options, find_program())
        run(fleet)
        keep = False
    except (Trouble, OSError, subprocess.SubprocessError) as trouble:
        print(f"error: {trouble}", file=sys.stderr)
        return 1
    except SystemExit:
        keep = False
        print("interrupted; all processes are being ended", file=sys.stderr)
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if fleet:
            fleet.end(keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
