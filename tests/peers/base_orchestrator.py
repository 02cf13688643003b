"""An orchestrator of the base contract, in another language and from a protocol file of its own.

Hands out the tasks of one job, prints one JSON line when it listens and one when all tasks were reported, with how
often each was handed out and reported, and how often a method was called that it does not have.
"""

import collections
import json
import queue
import sys
import tempfile
import threading
from concurrent import futures
from pathlib import Path

import grpc
from grpc_tools import protoc

LONG_POLL_SECONDS = 0.5


def compile_protocol() -> None:
    here = Path(__file__).parent
    out = tempfile.mkdtemp()
    arguments = ["protoc", f"-I{here}", f"--python_out={out}", f"--grpc_python_out={out}", "base.proto"]
    if protoc.main(arguments) != 0:
        sys.exit("base.proto does not compile")
    sys.path.insert(0, out)


compile_protocol()
import base_pb2  # noqa: E402
import base_pb2_grpc  # noqa: E402


class CountUnknown(grpc.ServerInterceptor):
    """Counts calls of methods that the base contract does not have; grpc answers them UNIMPLEMENTED."""

    def __init__(self) -> None:
        self.methods = collections.Counter()

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        if handler is None:
            self.methods[details.method.rsplit("/", 1)[1]] += 1
        return handler


class Orchestrator(base_pb2_grpc.OrchestratorServiceServicer):
    def __init__(self, epochs: int) -> None:
        self.tasks = queue.Queue()
        self.handed_out = collections.Counter()
        self.reported = collections.Counter()
        self.failures = []
        self.empty_polls = 0
        self.losses = []
        self.total = epochs * 10
        self.done = threading.Event()
        self.lock = threading.Lock()
        for epoch in range(epochs):
            for b in range(10):
                self.tasks.put((f"job-1-epoch-{epoch}-batch-{b}", epoch, b))

    def AssignTask(self, request, context):
        try:
            task_id, epoch, b = self.tasks.get(timeout=LONG_POLL_SECONDS)
        except queue.Empty:
            with self.lock:
                self.empty_polls += 1
            context.abort(grpc.StatusCode.UNKNOWN, "no tasks available")
        with self.lock:
            self.handed_out[task_id] += 1
        return base_pb2.AssignTaskResponse(
            task_id=task_id,
            job_id="job-1",
            model_type="neural_network",
            dataset_path="builtin:iris",
            hyperparameters={"backend": "cpu", "hidden_layers": "8"},
            epoch=epoch,
            batch_start=100 * b,
            batch_end=100 * (b + 1),
        )

    def ReportTaskCompletion(self, request, context):
        with self.lock:
            if request.success:
                self.reported[request.task_id] += 1
                self.losses.append(request.loss)
            else:
                self.failures.append(request.error_message)
            if sum(self.reported.values()) + len(self.failures) >= self.total:
                self.done.set()
        return base_pb2.TaskCompletionResponse(acknowledged=True)

    def GetJobStatus(self, request, context):
        return base_pb2.GetJobStatusResponse(job_id=request.job_id, status="RUNNING", total_tasks=self.total)

    def UpdateJobMetrics(self, request, context):
        return base_pb2.JobMetricsResponse(success=True)


def main() -> None:
    epochs = int(sys.argv[1])
    unknown = CountUnknown()
    orchestrator = Orchestrator(epochs)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), interceptors=[unknown])
    base_pb2_grpc.add_OrchestratorServiceServicer_to_server(orchestrator, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"port": port}), flush=True)
    completed = orchestrator.done.wait(timeout=300)
    # One more long poll for each slot, so that an empty queue was seen as well.
    while completed and orchestrator.empty_polls < 2:
        threading.Event().wait(0.1)
    with orchestrator.lock:
        report = {
            "completed": completed,
            "handed_out": list(orchestrator.handed_out.values()),
            "reported": list(orchestrator.reported.values()),
            "failures": orchestrator.failures,
            "unknown_methods": unknown.methods,
            "last_loss": orchestrator.losses[-1] if orchestrator.losses else None,
        }
    print(json.dumps(report), flush=True)
    sys.stdin.readline()
    server.stop(grace=None)


if __name__ == "__main__":
    main()
