"""The dashboard `GPU`: what the GPUs do, what they cost, and how healthy they are."""

import panels
from panels import BLUE, GREEN, ORANGE, RED, bars, lines, now, query, stat, states, steps, timeline

G = '{w, uuid=~"$gpu"}'
ONE = "{{instance}} GPU {{gpu}}"
# Whether a worker holds a task. Its label `state` must not take part in the match.
BUSY = 'on (job, instance) sum by (job, instance) (worker_slots{w, state="busy"}) > 0'


def overview():
    return "Now", [
        stat(
            "Healthy GPUs",
            "GPUs that answer, of all workers.",
            [now("sum(worker_gpus{w})")],
            unit="none",
            thresholds=steps(RED, (1, GREEN)),
        ),
        stat(
            "Lost GPUs",
            "GPUs that were seen since the start of their worker and no longer answer.",
            [now(f"sum(1 - worker_gpu_healthy{G})")],
            unit="none",
            graph="none",
            thresholds=steps(GREEN, (1, RED)),
        ),
        stat(
            "Utilisation",
            "Share of time in which a kernel ran, mean over the GPUs.",
            [query(f"avg(worker_gpu_utilization_ratio{G})")],
            unit="percentunit",
            min=0,
            max=1,
            thresholds=steps(BLUE),
        ),
        stat(
            "Memory in use",
            "Of the video memory of all GPUs together.",
            [query(f"sum(worker_gpu_memory_used_bytes{G}) / sum(worker_gpu_memory_total_bytes{G})")],
            unit="percentunit",
            min=0,
            max=1,
            thresholds=steps(GREEN, (0.85, ORANGE), (0.95, RED)),
        ),
        stat(
            "Total power",
            "Drawn by all boards together.",
            [query(f"sum(worker_gpu_power_watts{G})")],
            unit="watt",
            thresholds=steps(BLUE),
        ),
        stat(
            "Energy",
            "Used by all GPUs in the time shown, idle or not.",
            [now(f"sum(increase(worker_gpu_energy_joules_total{G}[$__range]))")],
            unit="joule",
            graph="none",
            thresholds=steps(BLUE),
        ),
        stat(
            "Hottest",
            "The highest temperature of a chip.",
            [query(f"max(worker_gpu_temperature_celsius{G})")],
            unit="celsius",
            thresholds=steps(GREEN, (80, ORANGE), (90, RED)),
        ),
        stat(
            "Xid errors so far",
            "Errors that the driver reported since the workers started.",
            [now(f"sum(worker_gpu_xid_errors_total{G}) or vector(0)")],
            unit="none",
            graph="none",
            thresholds=steps(GREEN, (1, RED)),
        ),
    ]


def inventory():
    columns = {
        "instance": "Worker",
        "gpu": "GPU",
        "name": "Name",
        "uuid": "UUID",
        "pci_bus_id": "PCI address",
        "driver": "Driver",
        "Value #B": "Healthy",
        "Value #C": "Utilisation",
        "Value #D": "Memory used",
        "Value #E": "Memory",
        "Value #F": "Temperature",
        "Value #G": "Power",
    }
    readings = [
        "worker_gpu_utilization_ratio",
        "worker_gpu_memory_used_bytes",
        "worker_gpu_memory_total_bytes",
        "worker_gpu_temperature_celsius",
        "worker_gpu_power_watts",
    ]
    return "Inventory", [
        panels.table(
            "GPUs",
            "Every GPU that a worker has seen since its start. A lost one stays listed, without readings.",
            [now(f"worker_gpu_info{G}"), now(f"worker_gpu_healthy{G}"), *(now(name + G) for name in readings)],
            hidden=["Value #A", "job"],
            names=columns,
            overrides=[
                panels.override("^Healthy$", mappings=states((0, "lost", RED), (1, "yes", GREEN)), unit="none"),
                panels.override("^Utilisation$", unit="percentunit", decimals=0),
                panels.override("^Memory", unit="bytes"),
                panels.override("^Temperature$", unit="celsius"),
                panels.override("^Power$", unit="watt"),
            ],
        )
    ]


def work():
    busy = panels.override("tasks$", unit="none", custom__axisPlacement="right", custom__fillOpacity=0)
    return "Work", [
        lines(
            "Utilisation and tasks",
            "Share of time in which a kernel ran, and on the right how many slots of the worker held a task: an idle GPU "
            "beside many tasks waits for data or for the CPU.",
            [
                query(f"worker_gpu_utilization_ratio{G}", ONE),
                query('worker_slots{w, state="busy"} and on (job, instance) worker_gpu_info' + G, "{{instance}} tasks"),
            ],
            width=16,
            height=9,
            unit="percentunit",
            min=0,
            overrides=[busy],
        ),
        lines(
            "Memory interface",
            "Share of time in which video memory was read or written.",
            [query(f"worker_gpu_memory_utilization_ratio{G}", ONE)],
            height=9,
            unit="percentunit",
            min=0,
            max=1,
        ),
        lines(
            "Video memory in use",
            "By all processes, of all users.",
            [query(f"worker_gpu_memory_used_bytes{G}", ONE)],
            unit="bytes",
        ),
        lines(
            "Video memory in use, share",
            "Above 95 % tasks wait or are given back, and there is an alert.",
            [query(f"worker_gpu_memory_used_bytes{G} / worker_gpu_memory_total_bytes{G}", ONE)],
            unit="percentunit",
            min=0,
            max=1,
            thresholds=steps(GREEN, (0.95, RED)),
            threshold_style="dashed",
        ),
        bars(
            "Peak video memory by task",
            "The most that was in use while a task ran, of the tasks shown.",
            [now("topk(10, worker_task_gpu_memory_peak_bytes{w})", "{{task_id}}")],
            unit="bytes",
            thresholds=steps(BLUE),
        ),
    ]


def energy():
    of_tasks = "worker_task_gpu_energy_joules_total{w}"
    return "Energy", [
        lines(
            "Power",
            "Drawn by the whole board; dashed is the limit at which the driver holds clocks down.",
            [query(f"worker_gpu_power_watts{G}", ONE), query(f"worker_gpu_power_limit_watts{G}", ONE + " limit")],
            unit="watt",
            overrides=[dashed("limit$")],
        ),
        lines(
            "Power by task's model type",
            "Energy that was attributed to tasks, a second. exclusive: the task had the GPU alone. shared: others used it "
            "too, so that the share is an estimate.",
            [
                query(
                    f"sum by (model_type, attribution) (rate({of_tasks}[$__rate_interval]))",
                    "{{model_type}} {{attribution}}",
                )
            ],
            unit="watt",
            stack="normal",
        ),
        lines(
            "Joules per sample",
            "Energy on the GPU for one row that goes through a model in training.",
            [
                query(
                    f"sum by (model_type) (rate({of_tasks}[$__rate_interval])) / "
                    '(sum by (model_type) (rate(worker_training_samples_total{w, backend="wgpu"}[$__rate_interval])) > 0)',
                    "{{model_type}}",
                )
            ],
            unit="joule",
        ),
        bars(
            "Energy by model type",
            "Attributed to tasks in the time shown.",
            [now(f"sum by (model_type) (increase({of_tasks}[$__range]))", "{{model_type}}")],
            unit="joule",
            thresholds=steps(BLUE),
        ),
        lines(
            "Energy counter by GPU",
            "Mean power by the board's own energy counter: it misses nothing between two readings.",
            [query(f"rate(worker_gpu_energy_joules_total{G}[$__rate_interval])", ONE)],
            unit="watt",
        ),
        stat(
            "Energy in tasks",
            "Share of the GPUs' energy in the time shown that was attributed to a task; the rest was idling or others.",
            [
                now(
                    f"sum(increase({of_tasks}[$__range])) / "
                    "sum(increase(worker_gpu_energy_joules_total{w}[$__range]))"
                )
            ],
            width=8,
            height=8,
            unit="percentunit",
            graph="none",
            thresholds=steps(BLUE),
        ),
    ]


def clock(title, description, name):
    return lines(
        title,
        description,
        [
            query(f"worker_gpu_{name}_clock_hertz{G}", ONE),
            query(f"worker_gpu_{name}_clock_max_hertz{G}", ONE + " highest"),
        ],
        unit="hertz",
        overrides=[dashed("highest$")],
    )


def dashed(names):
    return panels.override(names, custom__lineStyle={"fill": "dash", "dash": [8, 8]}, custom__fillOpacity=0)


def speed():
    seconds = f"rate(worker_gpu_throttle_seconds_total{G}[$__rate_interval])"
    return "Speed", [
        lines(
            "Temperature",
            "Of the chip.",
            [query(f"worker_gpu_temperature_celsius{G}", ONE)],
            unit="celsius",
            thresholds=steps(GREEN, (90, RED)),
            threshold_style="dashed",
        ),
        clock("Clock of the multiprocessors", "Falls when a GPU is slowed down; dashed is the highest.", "sm"),
        clock("Clock of the memory", "Falls when a GPU saves power; dashed is the highest.", "memory"),
        clock("Clock of the graphics units", "That of the multiprocessors, on most GPUs; dashed is the highest.", "graphics"),
        lines(
            "Performance state",
            "0 is the fastest, 15 the slowest. An idle GPU is slow to save power.",
            [query(f"worker_gpu_performance_state{G}", ONE)],
            unit="none",
            min=0,
        ),
        lines(
            "Fans",
            "Speed of the fastest fan, as a share of its highest. Absent where the machine cools the GPU.",
            [query(f"worker_gpu_fan_speed_ratio{G}", ONE)],
            unit="percentunit",
            min=0,
        ),
        lines(
            "Video encoder and decoder",
            "Share of time in which they worked: no training does that.",
            [
                query(f"worker_gpu_encoder_utilization_ratio{G}", ONE + " encoder"),
                query(f"worker_gpu_decoder_utilization_ratio{G}", ONE + " decoder"),
            ],
            unit="percentunit",
            min=0,
            max=1,
        ),
        timeline(
            "Compute mode",
            "Who may compute on the GPU. In exclusive_process it is one process, in prohibited nobody.",
            [query(f"worker_gpu_compute_mode{G} == 1", ONE + " {{mode}}")],
            unit="none",
            mappings=states((1, "now", BLUE)),
            width=8,
        ),
        timeline(
            "Slowed down now",
            "Why clocks are held down, for reasons that cost training time.",
            [query(f"max by (instance, gpu, reason) (worker_gpu_throttled{G})", ONE + " {{reason}}")],
            unit="none",
            mappings=states((0, "no", GREEN), (1, "yes", RED)),
            width=8,
        ),
        lines(
            "Time slowed down",
            "Share of time, by reason.",
            [query(f"sum by (reason) ({seconds}) / scalar(count(worker_gpu_info{G}))", "{{reason}}")],
            height=7,
            unit="percentunit",
        ),
        lines(
            "Time slowed down while tasks ran",
            "Share of time, by reason, only where the worker held a task: what throttling costs in training.",
            [query(f"sum by (instance, reason) ({seconds} and {BUSY})", "{{instance}} {{reason}}")],
            height=7,
            unit="percentunit",
        ),
        lines(
            "PCIe, sent",
            "From the GPU. Measured only where the worker is told to, since it takes 20 ms a reading.",
            [query(f"worker_gpu_pcie_tx_bytes_per_second{G}", ONE)],
            width=12,
            unit="Bps",
        ),
        lines(
            "PCIe, received",
            "By the GPU. Measured only where the worker is told to, since it takes 20 ms a reading.",
            [query(f"worker_gpu_pcie_rx_bytes_per_second{G}", ONE)],
            width=12,
            unit="Bps",
        ),
    ]


def health():
    return "Health", [
        timeline(
            "Health of the GPUs",
            "Lost: the GPU fell off the bus or the driver no longer lists it.",
            [query(f"worker_gpu_healthy{G}", ONE)],
            unit="none",
            mappings=states((0, "lost", RED), (1, "healthy", GREEN)),
            width=8,
        ),
        timeline(
            "State of NVML",
            "NVML is the driver's library that all readings come from. absent: no NVIDIA driver on this machine.",
            [query("worker_nvml_state{w} == 1", "{{instance}} {{state}}")],
            unit="none",
            mappings=states((1, "now", BLUE)),
            width=8,
        ),
        timeline(
            "Vulkan adapter",
            "Whether the GPU can train: a Vulkan adapter has its PCI address.",
            [query(f"worker_gpu_adapter_matched{G}", ONE)],
            unit="none",
            mappings=states((0, "missing", RED), (1, "matched", GREEN)),
            width=8,
        ),
        lines(
            "Memory errors",
            "Counted by ECC since the driver was loaded. Uncorrected ones make results worthless.",
            [query(f"worker_gpu_ecc_errors_total{G}", ONE + " {{type}}")],
            unit="none",
        ),
        lines(
            "Xid errors",
            "Reported by the driver since the start of the worker, by number; NVIDIA's Xid catalogue explains them.",
            [query(f"sum by (instance, gpu, xid) (worker_gpu_xid_errors_total{G})", ONE + " Xid {{xid}}")],
            unit="none",
            noValue="none",
        ),
        lines(
            "Errors of NVML",
            "Calls that failed a minute, by kind.",
            [query("60 * sum by (kind) (rate(worker_nvml_errors_total{w}[$__rate_interval]))", "{{kind}}")],
            unit="opm",
        ),
        lines(
            "Time of a sample (p95)",
            "How long the driver takes to answer all questions of one second.",
            [
                query(
                    "histogram_quantile(0.95, sum by (le, instance) (rate(worker_nvml_sample_duration_seconds_bucket{w}"
                    "[$__rate_interval])))",
                    "{{instance}}",
                )
            ],
            unit="s",
        ),
        stat(
            "NVML answers",
            "Workers whose NVML answers, of those that have one.",
            [now("sum(worker_nvml_up{w})")],
            width=8,
            height=8,
            unit="none",
            thresholds=steps(RED, (1, GREEN)),
        ),
    ]


def dashboard():
    chosen = '{job=~"$job", instance=~"$instance"}'
    return panels.dashboard(
        uid="tensorfleet-gpu",
        title="GPU",
        description="GPUs of all TensorFleet workers: work, energy, speed and health.",
        rows=[overview(), inventory(), work(), energy(), speed(), health()],
        variables=[
            panels.variable("job", "Scrape job", "label_values(worker_gpus, job)", "How Prometheus calls the group of workers."),
            panels.variable("instance", "Worker", 'label_values(worker_gpus{job=~"$job"}, instance)', "Address of a worker."),
            panels.variable("gpu", "GPU", f"label_values(worker_gpu_info{chosen}, uuid)", "UUID of a GPU."),
        ],
        link=panels.link_to("Worker fleet", "tensorfleet-workers"),
    )
