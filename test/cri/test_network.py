# SPDX-License-Identifier: Apache-2.0
"""CNI: networks that come, change, fail and hang."""
import ipaddress
import json
import os
import socket
import subprocess
import time

import grpc
import pytest
from harness.cni import calls
from harness.daemon import CNI_BIN, HAS_CLI, bridge_conflist, cli
from harness.pods import Pods
from harness.registry import wait_for


NO_INTERFACE = pytest.mark.native("the plugin makes no interface, which a machine needs")


def plugin(daemon, name, script):
    path = f"{daemon.folder}/{name}"
    with open(path, "w") as f:
        f.write("#!/bin/sh\n" + script)
    os.chmod(path, 0o755)
    return path


def custom(make_daemon, registry, script, deadline=None, add=None, delete=None, **conflist):
    """A daemon whose network is one shell script. `conflist` changes the configuration."""
    network = {"cniVersion": "1.0.0", "name": "t", "plugins": [{"type": "t"}], **conflist}
    daemon = make_daemon(start=False, cni=network)
    text = f'[cni]\nconf_dir = "{daemon.cni_dir}"\nbin_dirs = ["{daemon.folder}"]\n'
    for key, seconds in (("add", add or deadline), ("del", delete or deadline)):
        text += f"{key}_timeout_seconds = {seconds}\n" if seconds else ""
    with open(daemon.config, "w") as f:
        f.write(text)
    plugin(daemon, "t", script)
    daemon.start()
    daemon.image = registry.busybox
    return daemon


# Writes each call's command, environment and input to a file of its own beside the plugin; ADD answers with an address.
RECORDER = """
d=$(dirname "$0"); n=$(ls "$d" | grep -c '^call-')
{ echo "$CNI_COMMAND"; echo "$CNI_NETNS"; cat; } > "$d/.new.$$"; mv "$d/.new.$$" "$d/call-$n"
test "$CNI_COMMAND" = ADD && echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],
  "ips":[{"address":"10.99.0.5/24","interface":0}]}'
exit 0
"""


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


def test_a_configuration_of_the_pod_cidr(make_daemon, registry):
    daemon = make_daemon(start=False)
    template = f"{daemon.folder}/template"
    os.rename(f"{daemon.cni_dir}/10-test.conflist", template)
    with open(template) as f:
        network = json.load(f)
    network["plugins"][0]["ipam"] = {"type": "host-local", "dataDir": f"{daemon.folder}/ipam", "ranges": "@POD_CIDR_RANGES@"}
    network["plugins"][0]["forceAddress"] = True
    with open(template, "w") as f:
        json.dump(network, f)
    with open(daemon.config, "a") as f:
        f.write(f'conf_template = "{template}"\n')
    daemon.start()

    def say(cidr):
        daemon.client.UpdateRuntimeConfig(runtime_config={"network_config": {"pod_cidr": cidr}})

    say("")
    assert os.listdir(daemon.cni_dir) == []
    with pytest.raises(grpc.RpcError) as error:
        say("10.0.0.0/77")
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and os.listdir(daemon.cni_dir) == []
    for third in (7, 8):  # another one takes the place of the first
        cidr = daemon.subnet.replace(".0/24", f".{16 * third}/28")
        say(cidr)
        assert os.listdir(daemon.cni_dir) == ["10-caisson.conflist"]
        pod = Pods(daemon).run_pod()
        ip = daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.network.ip
        assert ipaddress.ip_address(ip) in ipaddress.ip_network(cidr)


def test_failing_plugin(make_daemon, registry):
    daemon = custom(make_daemon, registry, 'test "$CNI_COMMAND" = DEL && exit 0\n'
                    'echo \'{"cniVersion":"1.0.0","code":42,"msg":"no more addresses today"}\'; exit 1\n')
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=Pods(daemon).pod_config())
    assert "no more addresses today" in error.value.details()
    assert len(daemon.client.ListPodSandbox().items) == 0 and daemon.leaks_of_pods() == []


def test_missing_plugin(make_daemon):
    daemon = make_daemon(cni={"cniVersion": "1.0.0", "name": "t", "plugins": [{"type": "nowhere-to-be-found"}]})
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=Pods(daemon).pod_config())
    assert "nowhere-to-be-found" in error.value.details() and daemon.leaks_of_pods() == []


def test_hanging_plugin(make_daemon, registry):
    daemon = custom(make_daemon, registry, 'test "$CNI_COMMAND" = DEL && exit 0\nsleep 7654321 & sleep 7654321\n', deadline=1)
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=Pods(daemon).pod_config())
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert subprocess.run(["pgrep", "-f", "sleep 7654321"], stdout=subprocess.PIPE).stdout == b""
    assert daemon.leaks_of_pods() == []


def test_garbage_and_endless_output(make_daemon, registry):
    daemon = custom(make_daemon, registry, 'test "$CNI_COMMAND" = DEL && exit 0\nyes\n', deadline=20)
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=Pods(daemon).pod_config())
    assert "'t'" in error.value.details() and daemon.leaks_of_pods() == [], error.value.details()


@NO_INTERFACE
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


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_versions_with_real_plugins(make_daemon, version):
    daemon = make_daemon(start=False)
    daemon.write_cni(bridge_conflist(daemon.folder, daemon.bridge, daemon.subnet, cni_version=version))
    daemon.start()
    pod = Pods(daemon).run_pod()
    ip = daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.network.ip
    assert daemon.leases() == [ip]
    daemon.remove_all()
    assert daemon.leaks_of_pods() == []


@NO_INTERFACE
def test_two_versions_offered_the_newest_is_used(make_daemon, registry):
    daemon = custom(make_daemon, registry, RECORDER, cniVersion="0.4.0", cniVersions=["0.4.0", "1.0.0", "1.1.0", "9.0.0"])
    Pods(daemon).run_pod()
    assert calls(daemon, "ADD")[0][1]["cniVersion"] == "1.1.0"


@NO_INTERFACE
def test_what_a_plugin_is_told(make_daemon, registry):
    able = {"portMappings": True, "bandwidth": True, "dns": True}
    daemon = custom(make_daemon, registry, RECORDER, plugins=[{"type": "t", "capabilities": able}])
    pods = Pods(daemon)
    pods.run_pod(port_mappings=[{"protocol": 1, "container_port": 53, "host_port": 5353, "host_ip": "127.0.0.1"},
                                {"protocol": 0, "container_port": 80}],
                 annotations={"kubernetes.io/ingress-bandwidth": "1M", "kubernetes.io/egress-bandwidth": "2M"},
                 dns_config={"servers": ["10.1.2.3"], "searches": ["a.example"], "options": ["ndots:5"]})
    told = calls(daemon, "ADD")[0][1]["runtimeConfig"]
    assert [(m["hostPort"], m["containerPort"], m["protocol"], m["hostIP"]) for m in told["portMappings"]] == [
        (5353, 53, "udp", "127.0.0.1")]
    assert told["bandwidth"]["ingressRate"] == 1_000_000 and told["bandwidth"]["egressRate"] == 2_000_000
    assert told["dns"] == {"servers": ["10.1.2.3"], "searches": ["a.example"], "options": ["ndots:5"]}


def test_a_bandwidth_that_is_none(pods):
    with pytest.raises(grpc.RpcError) as error:
        pods.run_pod(annotations={"kubernetes.io/ingress-bandwidth": "fast"})
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "fast" in error.value.details()


@NO_INTERFACE
def test_del_has_what_add_returned_although_all_has_changed(make_daemon, registry):
    """The daemon was killed, the configuration replaced, the namespace is gone: DEL is still that of the pod's own ADD."""
    daemon = custom(make_daemon, registry, RECORDER)
    pod = Pods(daemon).run_pod()
    info = json.loads(daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])
    netns = info["netns"] if "netns" in info else info["netnsPath"]
    assert calls(daemon, "ADD")[0][0] == netns
    daemon.kill()
    daemon.write_cni({"cniVersion": "1.0.0", "name": "another", "plugins": [{"type": "not-there"}]})
    subprocess.run(["umount", "-l", netns], check=True)
    daemon.start()
    daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    (told_netns, told), = calls(daemon, "DEL")
    assert told_netns == "" and told["name"] == "t" and told["prevResult"]["ips"][0]["address"] == "10.99.0.5/24"


@NO_INTERFACE
def test_a_configuration_that_comes_first_is_the_next_pods(make_daemon, registry):
    daemon = custom(make_daemon, registry, RECORDER)
    old = Pods(daemon).run_pod()
    daemon.write_cni({"cniVersion": "1.0.0", "name": "newer", "plugins": [{"type": "t"}]}, "00-first.conflist")
    new = Pods(daemon).run_pod()
    assert [told["name"] for _, told in calls(daemon, "ADD")] == ["t", "newer"]
    for pod in (old, new):
        daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    assert [told["name"] for _, told in calls(daemon, "DEL")] == ["t", "newer"]


def test_a_broken_configuration_is_named(make_daemon):
    daemon = make_daemon()
    daemon.write_cni('{"cniVersion": "1.0.0", "name": "x", "plugins": [', "00-broken.conflist")
    ready = {c.type: c for c in daemon.client.Status().status.conditions}["NetworkReady"]
    assert not ready.status and "00-broken.conflist" in ready.message
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=Pods(daemon).pod_config())
    assert "00-broken.conflist" in error.value.details() and daemon.leaks_of_pods() == []


@NO_INTERFACE
def test_hanging_del_has_a_deadline_of_its_own(make_daemon, registry):
    script = RECORDER.replace("exit 0", 'test "$CNI_COMMAND" = DEL && ! test -e "$d/healed" && exec sleep 7654322\nexit 0')
    daemon = custom(make_daemon, registry, script, add=600, delete=1)
    pod = Pods(daemon).run_pod()
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED and "DEL" in error.value.details()
    assert subprocess.run(["pgrep", "-f", "sleep 7654322"], stdout=subprocess.PIPE).stdout == b""
    open(f"{daemon.folder}/healed", "w").close()
    daemon.client.RemovePodSandbox(pod_sandbox_id=pod[0])
    assert daemon.leaks_of_pods() == []


def test_status_of_cni_1_1_is_the_nodes(make_daemon, registry):
    script = RECORDER.replace("exit 0", 'test "$CNI_COMMAND" = STATUS && test -e "$d/ill" && '
                              'echo \'{"code":50,"msg":"the uplink is down"}\' && exit 1\nexit 0')
    daemon = custom(make_daemon, registry, script, cniVersion="1.1.0")

    def ready():
        return {c.type: c for c in daemon.client.Status().status.conditions}["NetworkReady"]
    assert ready().status
    open(f"{daemon.folder}/ill", "w").close()
    assert not ready().status and "the uplink is down" in ready().message


@NO_INTERFACE
def test_gc_of_cni_1_1_names_the_pods_that_live(make_daemon, registry):
    daemon = custom(make_daemon, registry, RECORDER, cniVersion="1.1.0")
    pods = Pods(daemon)
    lives, stopped = pods.run_pod(), pods.run_pod()
    daemon.client.StopPodSandbox(pod_sandbox_id=stopped[0])
    daemon.kill()
    daemon.start()
    told = calls(daemon, "GC")[-1][1]
    assert told["cni.dev/valid-attachments"] == [{"containerID": lives[0], "ifname": "eth0"}]


def network_info(daemon, pod):
    return json.loads(daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])


def checked(daemon, pod):
    """What CHECK said of the pod at the daemon's last start."""
    wait_for("CHECK", lambda: network_info(daemon, pod)["cniCheck"])
    return network_info(daemon, pod)["cniCheck"]["error"]


def in_netns(daemon, pod, *command):
    return subprocess.run(["nsenter", f"--net={network_info(daemon, pod)['netns']}", *command], check=True,
                          stdout=subprocess.PIPE, text=True).stdout


def test_check_of_real_plugins_after_a_restart(make_daemon, registry):
    """An interface that somebody has taken away is told of, and nothing else is done about it."""
    daemon = make_daemon()
    pods = Pods(daemon, registry.busybox)
    whole, broken = pods.run_pod(), pods.run_pod()
    assert network_info(daemon, whole)["cniCheck"] is None
    in_netns(daemon, broken, "ip", "link", "del", "eth0")
    daemon.kill()
    daemon.start()
    assert checked(daemon, whole) == ""
    assert "eth0" in checked(daemon, broken)
    assert f"the network of pod {broken[0]} is not as it was made" in daemon.log_text()
    assert f"the network of pod {whole[0]}" not in daemon.log_text()
    assert all(pod.state == 0 for pod in daemon.client.ListPodSandbox().items)
    if HAS_CLI:
        assert "eth0" in cli(daemon, "inspect", broken[0]).stdout
    daemon.remove_all()
    assert daemon.leaks_of_pods() == []


@NO_INTERFACE
def test_a_hanging_check_delays_nobody_for_long(make_daemon, registry):
    script = RECORDER.replace("exit 0", 'test "$CNI_COMMAND" = CHECK && exec sleep 7654323\nexit 0')
    daemon = custom(make_daemon, registry, script, add=1)
    pods = [Pods(daemon).run_pod() for _ in range(3)]
    daemon.kill()
    daemon.start()
    assert "CHECK" in checked(daemon, pods[0])
    daemon.remove_all()
    # With the first it was clear that it hangs.
    assert len(calls(daemon, "CHECK")) == 1
    assert subprocess.run(["pgrep", "-f", "sleep 7654323"], stdout=subprocess.PIPE).stdout == b""


def shaped_network(daemon):
    shaper = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    return bridge_conflist(daemon.folder, daemon.bridge, daemon.subnet, plugins=("portmap", shaper))


def kernel_shapes():
    """Whether the kernel has what the bandwidth plugin needs: ifb links and the tbf qdisc."""
    name = f"cst{os.getpid() % 100000}"
    made = subprocess.run(["ip", "link", "add", name, "type", "ifb"], stderr=subprocess.DEVNULL).returncode == 0
    tbf = made and subprocess.run(["tc", "qdisc", "add", "dev", name, "root", "tbf", "rate", "1mbit", "burst", "10k",
                                   "latency", "25ms"], stderr=subprocess.DEVNULL).returncode == 0
    subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL)
    return tbf


@pytest.mark.skipif(not os.path.exists(f"{CNI_BIN}/bandwidth"), reason="the bandwidth plugin is not installed")
def test_bandwidth_of_the_real_plugin(make_daemon, registry):
    if not kernel_shapes():
        pytest.skip("the kernel has no ifb links or no tbf qdisc")
    daemon = make_daemon(start=False)
    daemon.write_cni(shaped_network(daemon))
    daemon.start()
    limits = {"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "16M"}
    pods = Pods(daemon, registry.busybox)
    shaped, free = pods.run_pod(annotations=limits), pods.run_pod()
    rates = sorted(rate for rate in qdisc_rates())
    assert rates == [8_000_000, 16_000_000], rates
    daemon.kill()
    daemon.start()
    assert checked(daemon, shaped) == "" and checked(daemon, free) == ""
    daemon.remove_all()
    assert qdisc_rates() == [] and daemon.leaks_of_pods() == []


def qdisc_rates():
    """Bits per second of all token bucket filters of the host."""
    text = subprocess.run(["tc", "-j", "qdisc", "show"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [qdisc["options"]["rate"] * 8 for qdisc in json.loads(text) if qdisc["kind"] == "tbf"]
