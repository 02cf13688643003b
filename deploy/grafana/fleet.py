"""The dashboard `Worker fleet`: tasks, slots, training, the link to the orchestrator, the machines."""

import panels
from panels import BLUE, GREEN, GREY, ORANGE, RED, lines, now, query, stat, states, steps, timeline

UP = states((0, "down", RED), (1, "up", GREEN))
WRITABLE = states((0, "full or silent", RED), (1, "writable", GREEN))
CHOSEN = '{w, job_id=~"$training_job"}'
# Has the labels of every other series of a task.
SIMULATED = "worker_task_simulated{w} == 1"
DASHED = panels.override(r"\(simulated\)$", custom__lineStyle={"fill": "dash", "dash": [8, 8]})


def p(quantile, metric, by="", more=""):
    """A quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({quantile}, sum by ({labels}) (rate({metric}_bucket{{w{more}}}[$__rate_interval])))"


def overview():
    return "Now", [
        stat("Workers", "Workers that answer Prometheus.", [now("sum(up{w})")], unit="none", thresholds=steps(RED, (1, GREEN))),
        stat(
            "Without orchestrator",
            "Workers whose last call to the orchestrator was not answered.",
            [now("sum(1 - worker_orchestrator_up{w})")],
            unit="none",
            thresholds=steps(GREEN, (1, RED)),
        ),
        stat(
            "Slots busy",
            "Share of all slots that hold a task. At 100 % every further task waits.",
            [query('sum(worker_slots{w, state="busy"}) / sum(worker_slots{w})')],
            unit="percentunit",
            min=0,
            max=1,
            thresholds=steps(GREEN, (0.8, ORANGE), (0.95, RED)),
        ),
        stat(
            "Tasks per minute",
            "Tasks that ended, whatever their end.",
            [query("60 * sum(rate(worker_tasks_completed_total{w}[$__rate_interval]))")],
            unit="none",
            decimals=1,
            thresholds=steps(BLUE),
        ),
        stat(
            "Tasks failed",
            "Tasks that failed or ran too long, in the time shown. Cancelled ones do not count.",
            [now("sum(increase(worker_tasks_failed_total{w}[$__range]))")],
            unit="none",
            decimals=0,
            graph="none",
            thresholds=steps(GREEN, (1, ORANGE)),
        ),
        stat(
            "All samples per second",
            "Rows that go through models in training, all workers together, without those of simulated tasks.",
            [query('sum(rate(worker_training_samples_total{w, backend!="analytic"}[$__rate_interval]))')],
            unit="cps",
            thresholds=steps(BLUE),
        ),
        stat(
            "Results not yet acknowledged",
            "Outcomes that wait on the workers' disks until the orchestrator has them.",
            [query("sum(worker_outbox_pending{w})")],
            unit="none",
            thresholds=steps(GREEN, (10, ORANGE), (100, RED)),
        ),
        stat(
            "Simulated tasks",
            "Tasks shown whose figures come from a curve: nothing is trained for them.",
            [now("sum(worker_task_simulated{w})")],
            unit="none",
            graph="none",
            thresholds=steps(GREEN, (1, ORANGE)),
            noValue="0",
        ),
    ]


def tasks():
    return "Tasks", [
        lines(
            "Tasks ended by status",
            "How many tasks ended a minute, and how.",
            [query("60 * sum by (status) (rate(worker_tasks_completed_total{w}[$__rate_interval]))", "{{status}}")],
            unit="opm",
            stack="normal",
            overrides=[
                panels.override("^failed$", color={"mode": "fixed", "fixedColor": RED}),
                panels.override("^timed_out$", color={"mode": "fixed", "fixedColor": ORANGE}),
                panels.override("^completed$", color={"mode": "fixed", "fixedColor": GREEN}),
            ],
        ),
        lines(
            "Tasks ended by model type",
            "How many tasks ended a minute, by what they trained.",
            [query("60 * sum by (model_type) (rate(worker_tasks_completed_total{w}[$__rate_interval]))", "{{model_type}}")],
            unit="opm",
            stack="normal",
        ),
        lines(
            "Share of tasks that fail",
            "Of the tasks that ended and were not cancelled, by worker. Above 10 % for a while there is an alert.",
            [
                query(
                    "sum by (instance) (rate(worker_tasks_failed_total{w}[$__rate_interval])) / "
                    '(sum by (instance) (rate(worker_tasks_completed_total{w, status!="cancelled"}[$__rate_interval])) > 0)',
                    "{{instance}}",
                )
            ],
            unit="percentunit",
            min=0,
            max=1,
            thresholds=steps(GREEN, (0.1, RED)),
            threshold_style="dashed",
        ),
        panels.heatmap(
            "Task duration",
            "Time from the start of a task to its end: how many tasks fell into each class.",
            [query("sum by (le) (increase(worker_task_duration_seconds_bucket{w}[$__rate_interval]))", "{{le}}")],
        ),
        lines(
            "Task duration by model type",
            "Half of the tasks were shorter than p50, all but one of twenty than p95. Simulated ones count, too.",
            [
                query(p(0.5, "worker_task_duration_seconds", "model_type"), "{{model_type}} p50"),
                query(p(0.95, "worker_task_duration_seconds", "model_type"), "{{model_type}} p95"),
            ],
            unit="s",
        ),
        lines(
            "Wait in the engine",
            "Time a claimed task waits before it starts: tasks of one job run one after the other.",
            [query(p(quantile, "worker_task_queue_seconds"), f"p{quantile * 100:.0f}") for quantile in (0.5, 0.95, 0.99)],
            unit="s",
        ),
    ]


def slots():
    return "Slots", [
        lines(
            "Slots by state",
            "busy: holds a task. polling: waits for one at the orchestrator. idle: neither, as after an outage.",
            [query("sum by (state) (worker_slots{w})", "{{state}}")],
            width=12,
            unit="none",
            stack="normal",
        ),
        lines(
            "Tasks at once by worker",
            "Tasks held whose outcome is not in yet.",
            [query("worker_concurrent_tasks{w}", "{{instance}}")],
            width=12,
            unit="none",
        ),
    ]


def training():
    def trained(metric):
        return query(f"avg by (job_id) ({metric}{CHOSEN} unless {SIMULATED})", "{{job_id}}")

    def simulated(metric):
        return query(f"avg by (job_id) ({metric}{CHOSEN} and {SIMULATED})", "{{job_id}} (simulated)")

    def by_job(title, description, *queries):
        return lines(title, description, list(queries), width=6, overrides=[DASHED])

    return "Training", [
        by_job(
            "Training loss by job",
            "Mean over the tasks of a job that are shown. Simulated figures come from a curve: nothing is trained for them.",
            trained("worker_training_loss"),
            simulated("worker_training_loss"),
        ),
        by_job(
            "Training accuracy by job",
            "Share of rows that were right. Of regression: root of the mean squared error. Simulated figures come from a curve.",
            trained("worker_training_accuracy"),
            simulated("worker_training_accuracy"),
        ),
        by_job(
            "Validation loss by job",
            "On rows that were held out. Simulated tasks have none.",
            trained("worker_validation_loss"),
        ),
        by_job(
            "Validation accuracy by job",
            "On rows that were held out. Of regression: root of the mean squared error. Simulated tasks have none.",
            trained("worker_validation_accuracy"),
        ),
        lines(
            "Samples per second",
            "Rows that go through a model, by model type and by what trains it; analytic: simulated.",
            [
                query(
                    "sum by (model_type, backend) (rate(worker_training_samples_total{w}[$__rate_interval]))",
                    "{{model_type}} {{backend}}",
                )
            ],
            unit="cps",
        ),
        lines(
            "Steps per second",
            "Minibatches, rounds or trees, by model type and by what trains it; analytic: simulated.",
            [
                query(
                    "sum by (model_type, backend) (rate(worker_training_batches_total{w}[$__rate_interval]))",
                    "{{model_type}} {{backend}}",
                )
            ],
            unit="ops",
        ),
        lines(
            "Time of a step",
            "Half of the steps were shorter than p50, all but one of twenty than p95; analytic: simulated.",
            [
                query(p(0.5, "worker_training_step_seconds", "model_type, backend"), "{{model_type}} {{backend}} p50"),
                query(p(0.95, "worker_training_step_seconds", "model_type, backend"), "{{model_type}} {{backend}} p95"),
            ],
            unit="s",
        ),
    ]


def orchestrator():
    polls = ', method!="AssignTask"'
    return "Orchestrator", [
        timeline(
            "Link to the orchestrator",
            "Whether the last call of each worker was answered.",
            [query("worker_orchestrator_up{w}", "{{instance}}")],
            mappings=UP,
            unit="none",
        ),
        lines(
            "Calls by result",
            "Calls to the orchestrator a second by gRPC code. NO_TASK is a poll that ended without a task: no error.",
            [query("sum by (code) (rate(worker_orchestrator_rpc_seconds_count{w}[$__rate_interval]))", "{{code}}")],
            width=12,
            height=7,
            unit="reqps",
            stack="normal",
        ),
        lines(
            "Time of calls (p95)",
            "By method, without AssignTask, which waits for work on purpose.",
            [query(p(0.95, "worker_orchestrator_rpc_seconds", "method", polls), "{{method}}")],
            unit="s",
        ),
        lines(
            "Heartbeats",
            "Sent a minute, by whether they were answered.",
            [query("60 * sum by (result) (rate(worker_heartbeats_total{w}[$__rate_interval]))", "{{result}}")],
            unit="opm",
            overrides=[panels.override("^error$", color={"mode": "fixed", "fixedColor": RED})],
        ),
        lines(
            "Results not acknowledged by worker",
            "They are on disk and are sent again until the orchestrator has them.",
            [query("worker_outbox_pending{w}", "{{instance}}")],
            unit="none",
        ),
    ]


def machines():
    return "Machines", [
        timeline(
            "Disk of STATE_DIR",
            "Whether each worker can write what has to outlive it. One that cannot takes no task until it can.",
            [query("worker_state_dir_writable{w}", "{{instance}}")],
            mappings=WRITABLE,
            unit="none",
            width=8,
            height=8,
        ),
        lines(
            "CPU",
            "Use of the whole machine, in percent of all its cores.",
            [query("worker_cpu_usage_percent{w}", "{{instance}}")],
            unit="percent",
            min=0,
            max=100,
        ),
        lines(
            "Memory",
            "Resident memory of the worker's process.",
            [query("worker_memory_usage_bytes{w}", "{{instance}}")],
            unit="bytes",
        ),
        lines(
            "Processor time of the worker",
            "Cores that the worker's process keeps busy.",
            [query("rate(process_cpu_seconds_total{w}[$__rate_interval])", "{{instance}}")],
            unit="none",
        ),
        lines(
            "Open files",
            "Share of the file descriptors that the system allows the process.",
            [query("process_open_fds{w} / process_max_fds{w}", "{{instance}}")],
            unit="percentunit",
        ),
        panels.table(
            "Builds",
            "Version and build of each worker, and when its process started.",
            [now("worker_build_info{w}"), now("process_start_time_seconds{w} * 1000"), now("worker_gpus{w}")],
            hidden=["Value #A", "__name__"],
            names={
                "instance": "Worker",
                "job": "Job",
                "version": "Version",
                "features": "Backends",
                "Value #B": "Started",
                "Value #C": "GPUs",
            },
            width=16,
            overrides=[panels.override("^Started$", unit="dateTimeAsIso")],
            color={"mode": "fixed", "fixedColor": GREY},
        ),
    ]


def dashboard():
    return panels.dashboard(
        uid="tensorfleet-workers",
        title="Worker fleet",
        description="Tasks, slots, training and machines of all TensorFleet workers.",
        rows=[overview(), tasks(), slots(), training(), orchestrator(), machines()],
        variables=[
            panels.variable("job", "Scrape job", "label_values(worker_slots, job)", "How Prometheus calls the group of workers."),
            panels.variable("instance", "Worker", 'label_values(worker_slots{job=~"$job"}, instance)', "Address of a worker."),
            panels.variable(
                "training_job",
                "Training job",
                'label_values(worker_training_loss{job=~"$job", instance=~"$instance"}, job_id)',
                "Jobs that trained lately.",
            ),
        ],
        link=panels.link_to("GPU", "tensorfleet-gpu"),
    )
