# SPDX-License-Identifier: Apache-2.0
"""CNI: networks that come, change, fail and hang."""
import json
import os
import socket
import subprocess
import time

import grpc
import pytest
from harness.daemon import bridge_conflist
from harness.pods import Pods


def plugin(daemon, name, script):
    path = f"{daemon.folder}/{name}"
    with open(path, "w") as f:
        f.write("#!/bin/sh\n" + script)
    os.chmod(path, 0o755)
    return path


def custom(make_daemon, registry, script, deadline=None):
    config = '[cni]\nconf_dir = "{d}/cni"\nbin_dirs = ["{d}"]\n'
    daemon = make_daemon(start=False, cni={"cniVersion": "1.0.0", "name": "t", "plugins": [{"type": "t"}]})
    text = config.format(d=daemon.folder) + (f"add_timeout_seconds = {deadline}\ndel_timeout_seconds = {deadline}\n" if deadline else "")
    with open(daemon.config, "w") as f:
        f.write(text)
    plugin(daemon, "t", script)
    daemon.start()
    daemon.image = registry.busybox
    return daemon


def test_no_network_then_one_appears(make_daemon, registry):
    daemon = make_daemon()
    os.unlink(f"{daemon.cni_dir}/10-test.conflist")
    ready = {c.type: c for c in daemon.client.Status().status.conditions}["NetworkReady"]
    assert not ready.status and daemon.cni_dir in ready.message
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=Pods(daemon).pod_config())
    assert daemon.cni_dir in error.value.details()
    daemon.write_cni(bridge_conflist(daemon.folder, daemon.bridge, daemon.subnet))
    assert {c.type: c for c in daemon.client.Status().status.conditions}["NetworkReady"].status
    Pods(daemon).run_pod()


def test_failing_plugin(make_daemon, registry):
    daemon = custom(make_daemon, registry, 'test "$CNI_COMMAND" = DEL && exit 0\n'
                    'echo \'{"cniVersion":"1.0.0","code":42,"msg":"no more addresses today"}\'; exit 1\n')
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=Pods(daemon).pod_config())
    assert "no more addresses today" in error.value.details()
    assert len(daemon.client.ListPodSandbox().items) == 0


def test_missing_plugin(make_daemon):
    daemon = make_daemon(cni={"cniVersion": "1.0.0", "name": "t", "plugins": [{"type": "nowhere-to-be-found"}]})
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=Pods(daemon).pod_config())
    assert "nowhere-to-be-found" in error.value.details()


def test_hanging_plugin(make_daemon, registry):
    daemon = custom(make_daemon, registry, 'test "$CNI_COMMAND" = DEL && exit 0\nsleep 7654321 & sleep 7654321\n', deadline=1)
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=Pods(daemon).pod_config())
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert subprocess.run(["pgrep", "-f", "sleep 7654321"], stdout=subprocess.PIPE).stdout == b""


def test_garbage_and_endless_output(make_daemon, registry):
    daemon = custom(make_daemon, registry, 'test "$CNI_COMMAND" = DEL && exit 0\nyes\n', deadline=20)
    with pytest.raises(grpc.RpcError):
        daemon.client.RunPodSandbox(config=Pods(daemon).pod_config())


def test_failing_del_keeps_the_record_and_is_repeated(make_daemon, registry):
    daemon = custom(make_daemon, registry, f'''
if [ "$CNI_COMMAND" = DEL ]; then test -e $(dirname $0)/broken && exit 1; exit 0; fi
echo '{{"cniVersion":"1.0.0","ips":[{{"address":"10.99.0.5/24"}}]}}'
''')
    pods = Pods(daemon)
    pod = pods.run_pod()
    open(f"{daemon.folder}/broken", "w").close()
    with pytest.raises(grpc.RpcError):
        daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    os.unlink(f"{daemon.folder}/broken")
    daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])


def test_dual_stack(make_daemon, registry):
    conflist = bridge_conflist("", "", "")
    daemon = make_daemon(start=False)
    conflist = bridge_conflist(daemon.folder, daemon.bridge, daemon.subnet)
    conflist["plugins"][0]["ipam"]["ranges"].append([{"subnet": "fd00:10:77::/64"}])
    daemon.write_cni(conflist)
    daemon.start()
    status = daemon.client.PodSandboxStatus(pod_sandbox_id=Pods(daemon).run_pod()[0]).status
    assert status.network.ip.startswith("10.") and [ip.ip[:4] for ip in status.network.additional_ips] == ["fd00"]


def test_host_port(daemon, pods):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    pod = pods.run_pod(port_mappings=[{"protocol": 0, "container_port": 8080, "host_port": port}])
    pods.start(pod, ["sh", "-c", "while :; do echo ported | nc -l -p 8080; done"])
    address = daemon.subnet.rsplit(".", 1)[0] + ".1"
    end = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection((address, port), timeout=2) as s:
                assert s.makefile().readline() == "ported\n"
            return
        except OSError:
            assert time.monotonic() < end


def test_netns_deleted_underneath(make_daemon, registry):
    daemon = make_daemon()
    pods = Pods(daemon, registry.busybox)
    pod = pods.run_pod()
    info = json.loads(daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])
    netns = info["netns"] if "netns" in info else info["netnsPath"]
    subprocess.run(["umount", "-l", netns], check=True)
    os.unlink(netns)
    daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    daemon.client.RemovePodSandbox(pod_sandbox_id=pod[0])
    assert daemon.leases() == []


def test_dns(pods):
    pod = pods.run_pod(dns_config={"servers": ["10.1.2.3"], "searches": ["a.example"], "options": ["ndots:5"]})
    assert pods.out(pod, ["cat", "/etc/resolv.conf"]).split("\n")[:3] == [
        "search a.example", "nameserver 10.1.2.3", "options ndots:5"]
