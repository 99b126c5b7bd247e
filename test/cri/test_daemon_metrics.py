# SPDX-License-Identifier: Apache-2.0
"""/metrics of the daemon itself, and the dashboard that is made for it."""
import json
import os
import re
import socket
import subprocess

import grpc
import pytest
from harness.daemon import BIN
from harness.metrics import METRICS, of, scrape
from harness.pods import Pods

DASHBOARD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "share", "grafana", "caisson.json")


def test_what_the_daemon_counts(make_daemon, registry):
    daemon = make_daemon(config=METRICS)
    daemon.pull_busybox(registry)
    pods = Pods(daemon)
    pod = pods.run_pod()
    container = pods.start(pod, ["sleep", "1000"])
    with pytest.raises(grpc.RpcError):
        daemon.client.ContainerStatus(container_id="missing")
    values = scrape(daemon)
    assert of(values, "caisson_rpc_seconds_count", verb="RunPodSandbox", code="OK") == 1
    assert of(values, "caisson_rpc_seconds_count", verb="ContainerStatus", code="NOT_FOUND") == 1
    assert of(values, "caisson_rpc_seconds_bucket", verb="RunPodSandbox", le="+Inf") == 1
    assert of(values, "caisson_step_seconds_count", operation="run_pod_sandbox", step="cni_add", result="ok") == 1
    assert of(values, "caisson_step_seconds_count", operation="pull_image", step="fetch", result="ok") == 1
    assert of(values, "caisson_pods", state="ready") == 1 and of(values, "caisson_pods", state="notready") == 0
    assert of(values, "caisson_containers", state="running") == 1
    assert of(values, "caisson_process_resident_memory_bytes") > 1 << 20 and of(values, "caisson_process_open_fds") > 5
    daemon.client.StopContainer(container_id=container, timeout=0)
    daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    values = scrape(daemon)
    assert of(values, "caisson_containers", state="exited") == 1 and of(values, "caisson_pods", state="notready") == 1
    # Each metric that the dashboard shows is there; of strays there are none yet, of VMs in test/vm/test_vm_debug.py.
    with open(DASHBOARD) as f:
        shown = set(re.findall(r"caisson_\w+", " ".join(t["expr"] for p in json.load(f)["panels"] for t in p["targets"])))
    names = {key.split("{")[0] for key in values}
    assert {name for name in shown - names if not name.startswith("caisson_vm_")} == {"caisson_strays_total"}


def test_an_address_that_is_taken(make_daemon):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = make_daemon(config=f'[metrics]\naddress = "{address}"\n', start=False)
        ended = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert f"cannot serve metrics on '{address}'" in ended.stderr and "metrics.address" in ended.stderr


def test_an_address_that_is_none(tmp_path):
    path = tmp_path / "config.toml"
    for address in ("9465", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ":9465"):
        path.write_text(f'[metrics]\naddress = "{address}"\n')
        checked = subprocess.run([f"{BIN}/caissond", "--check-config", "--config", path], capture_output=True, text=True, timeout=60)
        assert checked.returncode == 2 and f"'metrics.address' is '{address}'" in checked.stderr
