# SPDX-License-Identifier: Apache-2.0
"""hostPort through the portmap plugin: reached by curl on every address of a host that is a network namespace of the test's own."""
import os
import subprocess

import pytest
from harness.daemon import CNI_BIN
from harness.pods import Pods
from harness.registry import wait_for

# RFC 5737: the host's address on a wire, and that of another machine at its other end.
OUTSIDE, NEIGHBOUR = "192.0.2.77", "192.0.2.78"

pytestmark = pytest.mark.skipif(not os.path.exists(f"{CNI_BIN}/portmap"), reason="the portmap plugin is not installed")


@pytest.fixture(scope="module")
def host(make_module_daemon, registry):
    """A daemon whose host network is a namespace: rules and routes of portmap are of nobody else."""
    daemon = make_module_daemon()
    daemon.pull_busybox(registry)
    daemon.stop()
    names = [f"cst-{daemon.marker}-{what}" for what in ("host", "far")]
    inside, far = (["nsenter", f"--net=/run/netns/{name}"] for name in names)
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for where, command in ((inside, "ip link set lo up"), (inside, f"ip link add out type veth peer name far netns {names[1]}"),
                               (inside, f"ip addr add {OUTSIDE}/24 dev out"), (inside, "ip link set out up"),
                               (far, f"ip addr add {NEIGHBOUR}/24 dev far"), (far, "ip link set far up")):
            subprocess.run([*where, *command.split()], check=True)
        plain = daemon.command
        daemon.command = lambda *extra: [*inside, *plain(*extra)]
        daemon.inside, daemon.far = inside, far
        daemon.start()
        yield daemon
        daemon.remove_all()
        daemon.stop()
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def pods(host):
    pods = Pods(host)
    yield pods
    pods.remove_all()


def curl(host, address, port, where=None):
    """The page, or None where nobody answers."""
    done = subprocess.run([*(where or host.inside), "curl", "-sS", "--max-time", "5", f"http://{address}:{port}/"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout if done.returncode == 0 else None


def gateway(host):
    return host.subnet.replace(".0/24", ".1")


def serve(pods, page, *mappings):
    pod = pods.run_pod(port_mappings=list(mappings))
    container = pods.start(pod, ["sh", "-c", f"mkdir /w; echo {page} > /w/index.html; exec httpd -f -p 8080 -h /w"])
    wait_for("httpd listens", lambda: pods.exec(container, ["wget", "-qO-", "http://127.0.0.1:8080/"])[0] == 0)
    return pod


def test_every_address_of_the_host(pods, host):
    serve(pods, "page", {"protocol": 0, "container_port": 8080, "host_port": 18080})
    for address in ("127.0.0.1", "127.0.0.9", OUTSIDE, gateway(host)):
        assert curl(host, address, 18080) == "page\n", address
    assert curl(host, OUTSIDE, 18080, host.far) == "page\n"
    assert curl(host, OUTSIDE, 18081) is None


def test_loopback_needs_a_sysctl_that_portmap_sets_itself(pods, host):
    """Without route_localnet the kernel takes a packet from 127.0.0.1 on no other interface (ip-sysctl.rst)."""
    serve(pods, "page", {"protocol": 0, "container_port": 8080, "host_port": 18080})
    said = subprocess.run([*host.inside, "cat", f"/proc/sys/net/ipv4/conf/{host.bridge}/route_localnet"], check=True, stdout=subprocess.PIPE, text=True)
    assert said.stdout == "1\n"


def test_one_address_only(pods, host):
    serve(pods, "local", {"protocol": 0, "container_port": 8080, "host_port": 18080, "host_ip": "127.0.0.1"})
    serve(pods, "outer", {"protocol": 0, "container_port": 8080, "host_port": 18080, "host_ip": OUTSIDE})
    assert curl(host, "127.0.0.1", 18080) == "local\n" and curl(host, OUTSIDE, 18080) == "outer\n"
    assert curl(host, OUTSIDE, 18080, host.far) == "outer\n" and curl(host, gateway(host), 18080) is None


def test_another_pod_reaches_it(pods, host):
    serve(pods, "page", {"protocol": 0, "container_port": 8080, "host_port": 18080})
    other = pods.run_pod()
    out = pods.out(other, ["sh", "-c", f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {gateway(host)} 18080"])
    assert out.endswith("\npage\n"), out


def test_it_ends_with_the_pod_and_outlives_the_daemon(pods, host):
    pod = serve(pods, "page", {"protocol": 0, "container_port": 8080, "host_port": 18080})
    host.kill()
    host.start()
    pods.client = host.client
    assert curl(host, "127.0.0.1", 18080) == "page\n"
    pods.client.StopPodSandbox(pod_sandbox_id=pod[0])
    for address in ("127.0.0.1", OUTSIDE):
        assert curl(host, address, 18080) is None
    rules = subprocess.run([*host.inside, "iptables-save", "-t", "nat"], stdout=subprocess.PIPE, text=True).stdout
    assert pod[0] not in rules and "18080" not in rules

