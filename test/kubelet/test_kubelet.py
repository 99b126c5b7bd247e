# SPDX-License-Identifier: Apache-2.0
"""A kubelet in standalone mode runs static pods on caissond: each case asks at the kubelet's own doors."""
import json
import os
import re
import signal
import time
import urllib.parse
import urllib.request

import pytest

from harness.handler import VMS
from harness.registry import free_port, wait_for
from harness.streams import Forward, Session

CONFIGURATIONS = {
    "generic PLEG": {},
    "evented PLEG, statistics from the CRI": {"EventedPLEG": True, "PodAndContainerStatsFromCRI": True},
}


# For what neither PLEG nor statistics have a part in: once is enough.
once = pytest.mark.parametrize("node", ["generic PLEG"], indirect=True)


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def node(request, make_node):
    with make_node(CONFIGURATIONS[request.param]) as node:
        node.from_cri = "PodAndContainerStatsFromCRI" in CONFIGURATIONS[request.param]
        yield node


@pytest.fixture
def pods(node):
    """pods(name, [container], **spec): a static pod for one test; its end begins with the test's, the node's waits for it."""
    names = []

    def put(name, containers, **spec):
        names.append(name)
        return node.put(name, containers, **spec)

    yield put
    for name in names:
        node.remove(name)


def wait_gone(node, name):
    wait_for(f"pod {name} is gone", lambda: node.pod(name) is None and not ready_sandboxes(node, name), 120)


def ready_sandboxes(node, name):
    return [s for s in node.sandboxes(name) if s.state == node.daemon.client.api.enum("PodSandboxState")["SANDBOX_READY"]]


# What a pod's containers must be allowed for a machine to boot, where the RuntimeClass adds nothing (docs/vm.md).
LEAST_MEMORY = "256Mi" if VMS else ""


def shell(script):
    return ["sh", "-c", script]


# As PID 1 a shell ignores SIGTERM: this ends at once.
IDLE = shell("trap 'exit 0' TERM; sleep 100000 & wait")


@once
def test_two_containers(node, pods):
    pods("pair", [{"name": "web", "command": shell("mkdir /www; echo hello > /www/x; exec httpd -f -p 8080 -h /www")},
                  {"name": "client", "command": IDLE}])
    node.wait_ready("pair")
    assert node.run("pair", "client", "wget", "-qO-", "http://127.0.0.1:8080/x") == "hello\n"
    assert node.pod("pair")["status"]["podIP"] in node.run("pair", "client", "ip", "addr")
    assert node.run("pair", "web", "hostname").strip() == "pair-node"


def probes(**of):
    """The three probes, quick ones."""
    return {f"{kind}Probe": {"periodSeconds": 1, "failureThreshold": 100 if kind == "startup" else 1, **probe}
            for kind, probe in of.items()}


# A container whose probes see what is done to it: the files /www/{started,ready,healthy}, or listeners on 9001 to 9003.
PROBED = {
    "exec": probes(startup={"exec": {"command": ["test", "-e", "/www/started"]}},
                   readiness={"exec": {"command": ["test", "-e", "/www/ready"]}},
                   liveness={"exec": {"command": ["test", "-e", "/www/healthy"]}}),
    "http": probes(startup={"httpGet": {"port": 8080, "path": "/started"}}, readiness={"httpGet": {"port": 8080, "path": "/ready"}},
                   liveness={"httpGet": {"port": 8080, "path": "/healthy"}}),
    "tcp": probes(startup={"tcpSocket": {"port": 9001}}, readiness={"tcpSocket": {"port": 9002}},
                  liveness={"tcpSocket": {"port": 9003}}),
}
PROBED_SCRIPT = ("mkdir -p /www; touch /www/healthy; httpd -p 8080 -h /www; httpd -f -p 9003 & echo $! >/www/pid; "
                 "trap 'exit 0' TERM; sleep 100000 & wait $!")


@pytest.mark.parametrize("kind", PROBED)
def test_probes(node, pods, kind):
    name = f"probed-{kind}"
    pods(name, [{"name": "c", "command": shell(PROBED_SCRIPT), **PROBED[kind]}])
    status = lambda: node.containers(name)["c"]  # noqa: E731
    node.wait_status(name, "runs", lambda c: "running" in c.get("c", {}).get("state", {}))
    wait_for("its folder is there", lambda: node.run(name, "c", "sh", "-c", "test${IFS}-e${IFS}/www/healthy&&echo${IFS}there||true") == "there\n", 60)
    assert not status()["started"] and not status()["ready"]
    node.run(name, "c", "touch", "/www/started")
    node.run(name, "c", "httpd", "-p", "9001")
    node.wait_status(name, "has started", lambda c: c["c"]["started"])
    assert not status()["ready"] and not node.ready(name)
    node.run(name, "c", "touch", "/www/ready")
    node.run(name, "c", "httpd", "-p", "9002")
    node.wait_ready(name)
    assert status()["restartCount"] == 0
    pid = node.run(name, "c", "cat", "/www/pid").strip()
    node.run(name, "c", "rm", "/www/healthy")
    node.run(name, "c", "kill", pid)
    node.wait_status(name, "is restarted", lambda c: c["c"]["restartCount"] == 1 and "running" in c["c"]["state"])
    # A new container: it has to start and get ready anew.
    node.wait_status(name, "has not started", lambda c: not c["c"]["started"] and not c["c"]["ready"])
    assert not node.ready(name)


@once
def test_an_exec_probe_that_hangs(node, pods):
    """A probe that does not end within its time fails, and its process is gone."""
    probe = {"exec": {"command": shell("echo $$ >> /tried; exec sleep 100000")}, "periodSeconds": 1, "timeoutSeconds": 1,
             "failureThreshold": 100}
    pods("hang", [{"name": "c", "command": IDLE, "readinessProbe": probe}])
    node.wait_status("hang", "runs", lambda c: "running" in c.get("c", {}).get("state", {}))
    wait_for("the probe is tried three times",
             lambda: node.run("hang", "c", "sh", "-c", "wc${IFS}-l</tried||true").strip() not in ("", "0", "1", "2"), 60)
    assert not node.ready("hang")
    # The container's own, and the probe's that is on now.
    wait_for("earlier probes' processes are gone", lambda: len(node.run("hang", "c", "pidof", "sleep").split()) <= 2, 10)


@once
def test_host_port(node, pods):
    port = free_port()
    pods("hp", [{"name": "web", "command": shell("mkdir /www; echo from the pod > /www/x; exec httpd -f -p 8080 -h /www"),
                 "ports": [{"containerPort": 8080, "hostPort": port}],
                 "readinessProbe": {"httpGet": {"port": 8080, "path": "/x"}, "periodSeconds": 1}}])
    node.wait_ready("hp")
    gateway = node.daemon.subnet.replace(".0/24", ".1")
    for host in ("127.0.0.1", gateway):
        with urllib.request.urlopen(f"http://{host}:{port}/x", timeout=10) as reply:
            assert reply.read() == b"from the pod\n"
    node.remove("hp")
    wait_gone(node, "hp")
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/x", timeout=3)


def test_init_and_sidecar_containers(node, pods):
    """One after the other; the sidecar is ready before what follows starts, and ends after the pod's own containers."""
    trace = f"{node.folder}/trace"
    os.makedirs(trace)
    mount = [{"name": "trace", "mountPath": "/t"}]
    # A sidecar ends when it is told, and not before: it says so.
    ends = lambda name: (f"trap 'echo {name} ends >> /t/order; exit 0' TERM; echo {name} >> /t/order; "  # noqa: E731
                         "sleep 100000 & wait $!")
    pods("ordered", [{"name": "main", "command": shell(ends("main")), "volumeMounts": mount}],
         initContainers=[
             {"name": "first", "command": shell("echo first >> /t/order"), "volumeMounts": mount},
             {"name": "sidecar", "restartPolicy": "Always", "volumeMounts": mount,
              "command": shell("sleep 1; touch /up; " + ends("sidecar")),
              "startupProbe": {"exec": {"command": ["test", "-e", "/up"]}, "periodSeconds": 1, "failureThreshold": 100}},
             {"name": "last", "command": shell("echo last >> /t/order"), "volumeMounts": mount}],
         volumes=[{"name": "trace", "hostPath": {"path": trace}}])
    node.wait_ready("ordered")
    read = lambda: open(f"{trace}/order").read().split("\n")[:-1]  # noqa: E731
    wait_for("main has begun", lambda: "main" in read())
    assert read() == ["first", "sidecar", "last", "main"]
    status = node.containers("ordered")
    assert status["first"]["state"]["terminated"]["exitCode"] == 0 and "running" in status["sidecar"]["state"]
    node.remove("ordered")
    wait_gone(node, "ordered")
    assert read()[4:] == ["main ends", "sidecar ends"]


def test_a_sidecar_is_restarted(node, pods):
    pods("side", [{"name": "main", "command": IDLE}],
         initContainers=[{"name": "sidecar", "restartPolicy": "Always", "command": IDLE}])
    node.wait_ready("side")
    node.end("side", "sidecar")
    node.wait_status("side", "the sidecar is restarted",
                     lambda c: c["sidecar"]["restartCount"] == 1 and "running" in c["sidecar"]["state"])
    assert node.containers("side")["main"]["restartCount"] == 0


def test_an_init_container_that_fails_is_tried_again(node, pods):
    pods("retry", [{"name": "main", "command": IDLE}],
         initContainers=[{"name": "init", "command": shell("test -e /d/x || { touch /d/x; exit 7; }"),
                          "volumeMounts": [{"name": "d", "mountPath": "/d"}]}],
         volumes=[{"name": "d", "emptyDir": {}}])
    node.wait_ready("retry")
    init = node.containers("retry")["init"]
    assert init["restartCount"] == 1 and init["state"]["terminated"]["exitCode"] == 0, init


@once
def test_volumes(node, pods):
    """What stands in for a ConfigMap without an API server: the downward API's files, written in the same way."""
    host = f"{node.folder}/host-volume"
    os.makedirs(host)
    with open(f"{host}/key", "w") as f:
        f.write("value\n")
    labels = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    one = {"name": "one", "command": IDLE, "volumeMounts": [
        {"name": "config", "mountPath": "/config", "readOnly": True}, {"name": "disk", "mountPath": "/disk"},
        {"name": "memory", "mountPath": "/memory"}, {"name": "host", "mountPath": "/key", "subPath": "key", "readOnly": True},
        {"name": "disk", "mountPath": "/part", "subPathExpr": "$(POD)"}],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}
    two = {"name": "two", "command": IDLE, "volumeMounts": [{"name": "disk", "mountPath": "/disk"},
                                                            {"name": "memory", "mountPath": "/memory", "readOnly": True}]}
    pods("vol", [one, two], annotations={"note": "of the pod"}, volumes=[
        {"name": "config", "downwardAPI": {"items": [labels, {
            "path": "deep/note", "mode": 0o400, "fieldRef": {"fieldPath": "metadata.annotations['note']"}}]}},
        {"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}},
        {"name": "host", "hostPath": {"path": host, "type": "Directory"}}])
    node.wait_ready("vol")
    run = lambda c, *command: node.run("vol", c, *command)  # noqa: E731
    assert run("one", "cat", "/config/labels") == 'app="vol"'
    assert run("one", "cat", "/config/deep/note") == "of the pod"
    assert run("one", "stat", "-Lc", "%a", "/config/deep/note") == "400\n"
    assert "..data" in run("one", "readlink", "/config/labels")
    assert run("one", "cat", "/key") == "value\n"
    run("one", "cp", "/key", "/disk/a")
    run("one", "cp", "/key", "/memory/b")
    run("one", "cp", "/key", "/part/c")
    assert run("two", "cat", "/disk/a", "/memory/b", "/disk/vol-node/c") == "value\n" * 3
    memory = [line for line in run("one", "cat", "/proc/mounts").split("\n") if " /memory " in line][0]
    assert memory.split()[2] == "tmpfs" and "size=4096k" in memory
    for container, path in (("one", "/config/x"), ("one", "/key"), ("two", "/memory/x")):
        status, text = node.kubelet.request("POST", f"/run/default/vol-node/{container}?cmd=touch%20{path}", b"")
        assert status == 500 and "Read-only file system" in text, text
    # What is in them outlives a container, not the pod.
    node.end("vol", "one")
    node.wait_status("vol", "restarted", lambda c: c["one"]["restartCount"] == 1 and "running" in c["one"]["state"])
    assert run("one", "cat", "/disk/a", "/memory/b") == "value\n" * 2
    uid = node.pod("vol")["metadata"]["uid"]
    node.remove("vol")
    wait_gone(node, "vol")
    wait_for("the volumes are gone", lambda: not os.path.exists(f"{node.kubelet.root}/pods/{uid}"), 60)


@once
@pytest.mark.native("what is mounted in a VM cannot propagate to the host")
def test_mount_propagation(node, pods):
    """A privileged container's mount reaches the host and another container."""
    shared = f"{node.folder}/shared"
    os.makedirs(f"{shared}/m")
    pods("spread", [
        {"name": "from", "command": IDLE, "securityContext": {"privileged": True},
         "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]},
        {"name": "to", "command": IDLE, "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "HostToContainer"}]},
        {"name": "apart", "command": IDLE, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        volumes=[{"name": "v", "hostPath": {"path": shared}}])
    node.wait_ready("spread")
    node.run("spread", "from", "mount", "-t", "tmpfs", "none", "/v/m")
    node.run("spread", "from", "touch", "/v/m/x")
    try:
        assert node.run("spread", "to", "ls", "/v/m") == "x\n"
        assert node.run("spread", "apart", "ls", "/v/m") == ""
        assert f"{shared}/m" in node.namespace.mounts()
    finally:
        node.run("spread", "from", "umount", "/v/m")
    assert f"{shared}/m" not in node.namespace.mounts()


@once
def test_logs(node, pods):
    pods("log", [{"name": "c", "command": shell("echo err >&2; echo out; echo last; trap 'exit 0' TERM; sleep 100000 & wait")}])
    node.wait_ready("log")
    wait_for("all is logged", lambda: len(node.logs("log", "c").split()) == 3)
    # Of the two streams' lines the order is not known.
    logged = node.logs("log", "c").split()
    assert sorted(logged) == ["err", "last", "out"] and logged.index("out") < logged.index("last")
    [line] = node.logs("log", "c", tailLines=1, timestamps="true").splitlines()
    assert line.split(" ")[1] == logged[-1] and re.match(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d+Z$", line.split(" ")[0]), line
    node.end("log", "c")
    node.wait_status("log", "restarted", lambda c: c["c"]["restartCount"] == 1 and "running" in c["c"]["state"])
    assert "out" in node.logs("log", "c", previous="true")


@once
def test_log_rotation(node, pods):
    """What is written while the kubelet moves the file away is in one of the files."""
    pods("rotated", [{"name": "c", "command": shell(
        "i=0; while [ $i -lt 2000 ]; do echo line $i of a container that writes much; i=$((i+1)); usleep 4000; done; "
        "echo done; trap 'exit 0' TERM; sleep 100000 & wait")}])
    node.wait_ready("rotated")
    uid = node.pod("rotated")["metadata"]["annotations"]["kubernetes.io/config.hash"]
    folder = f"{node.kubelet.logs}/default_rotated-node_{uid}/c"
    seen = set()

    def look():
        # The kubelet keeps few: read them while they are there. What is still being written is looked at again.
        for name in os.listdir(folder):
            if name == "0.log" or not name.endswith((".gz", ".tmp")):
                with open(f"{folder}/{name}") as f:
                    seen.update(line.split(" ", 3)[3] for line in f.read().split("\n")[:-1])
        return "done" in seen

    def look_safely():
        try:
            return look()
        except FileNotFoundError:  # moved away between the two calls
            return False

    wait_for("all is written", look_safely, 120)
    assert seen == {"done", *(f"line {i} of a container that writes much" for i in range(2000))}
    wait_for("it was rotated", lambda: len(os.listdir(folder)) > 1, 30)
    assert len(os.listdir(folder)) <= 4
    assert node.logs("rotated", "c", tailLines=1) == "done\n"


def stream(node, kind, name, container, **query):
    query = urllib.parse.urlencode(query, doseq=True)
    return f"https://127.0.0.1:{node.kubelet.port}/{kind}/default/{name}-node/{container}?{query}"


@once
def test_exec_attach_and_port_forward(node, pods):
    """The kubelet passes them on to the daemon's streaming server."""
    pods("streams", [{"name": "c", "stdin": True, "command": shell("httpd -p 8080 -h /etc; while read x; do echo got $x; done")}])
    node.wait_ready("streams")
    session = Session(stream(node, "exec", "streams", "c", command=["sh", "-c", "cat; echo no >&2; exit 3"], input=1, output=1,
                             error=1))
    session.write(b"through the kubelet\n")
    session.end_input()
    assert session.finish() == (3, b"through the kubelet\n", b"no\n")
    session = Session(stream(node, "exec", "streams", "c", command=["sh"], input=1, output=1, tty=1))
    session.resize(71, 23)
    session.write(b"until stty size | grep 71; do :; done\r")
    session.until(b"23 71")
    session.write(b"exit\r")
    assert session.finish()[0] == 0
    session = Session(stream(node, "attach", "streams", "c", input=1, output=1, error=1))
    session.write(b"this\n")
    session.until(b"got this")
    session.vanish()
    forward = Forward(f"https://127.0.0.1:{node.kubelet.port}/portForward/default/streams-node?port=8080")
    forward.write(b"GET /group HTTP/1.0\r\n\r\n")
    forward.until(lambda f: b"nogroup" in f.got[0])
    forward.vanish()


def container_id(status):
    return status["containerID"].removeprefix("caisson://")


def host_pid(node, container):
    info = node.daemon.client.ContainerStatus(container_id=container, verbose=True).info
    return int(json.loads(info["info"])["pid"])


@pytest.mark.native("its process is none of the host's")
def test_a_killed_container_is_restarted(node, pods):
    pods("killed", [{"name": "c", "command": IDLE}, {"name": "other", "command": IDLE}])
    node.wait_ready("killed")
    before = node.containers("killed")
    sandbox = [s.id for s in node.sandboxes("killed")]
    os.kill(host_pid(node, container_id(before["c"])), signal.SIGKILL)
    node.wait_status("killed", "is restarted", lambda c: c["c"]["restartCount"] == 1 and "running" in c["c"]["state"])
    after = node.containers("killed")
    ended = after["c"]["lastState"]["terminated"]
    assert ended["exitCode"] == 137 and ended["reason"] == "Error", ended
    assert ended["containerID"] == before["c"]["containerID"] != after["c"]["containerID"]
    assert after["other"]["containerID"] == before["other"]["containerID"]
    assert [s.id for s in node.sandboxes("killed")] == sandbox


def test_a_killed_sandbox_is_made_anew(node, pods):
    pods("lost", [{"name": "c", "command": IDLE}])
    node.wait_ready("lost")
    [sandbox] = node.sandboxes("lost")
    info = json.loads(node.daemon.client.PodSandboxStatus(pod_sandbox_id=sandbox.id, verbose=True).info["info"])
    os.kill(int(info["companionPid" if VMS else "pid"]), signal.SIGKILL)
    wait_for("there is another", lambda: [s.id for s in ready_sandboxes(node, "lost")] not in ([], [sandbox.id]), 60)
    node.wait_status("lost", "runs again", lambda c: c["c"]["restartCount"] >= 1 and "running" in c["c"]["state"])
    node.wait_ready("lost")


@pytest.mark.native("such limits are too small for a machine; test_vm_failures looks at a container's, the guest's and the host's")
def test_out_of_memory(node, pods):
    pods("oom", [{"name": "c", "command": shell("x=a; while :; do x=$x$x; done"), "resources": {"limits": {"memory": "16Mi"}}}],
         restartPolicy="Never")
    node.wait_status("oom", "has ended", lambda c: "terminated" in c.get("c", {}).get("state", {}))
    ended = node.containers("oom")["c"]["state"]["terminated"]
    assert ended["reason"] == "OOMKilled" and ended["exitCode"] == 137, ended
    wait_for("the pod has failed", lambda: node.pod("oom")["status"]["phase"] == "Failed")


def test_a_pod_that_completes(node, pods):
    pods("once", [{"name": "c", "command": shell("echo the end > /dev/termination-log")}], restartPolicy="Never")
    wait_for("it has succeeded", lambda: (node.pod("once") or {}).get("status", {}).get("phase") == "Succeeded", 60)
    ended = node.containers("once")["c"]["state"]["terminated"]
    assert ended["exitCode"] == 0 and ended["reason"] == "Completed" and ended["message"] == "the end\n", ended


def test_a_command_that_is_not_there(node, pods):
    pods("none", [{"name": "c", "command": ["/no/such/command"]}])
    node.wait_status("none", "cannot start",
                     lambda c: "/no/such/command" in c.get("c", {}).get("lastState", {}).get("terminated", {}).get("message", ""))
    ended = node.containers("none")["c"]["lastState"]["terminated"]
    assert ended["exitCode"] in (127, 128) and ended["reason"] == "StartError", ended


@once
def test_an_image_that_is_not_there(node, pods):
    pods("absent", [{"name": "c", "image": node.image.replace("busybox", "no-such"), "command": IDLE}])
    node.wait_status("absent", "the image cannot be pulled", lambda c: c.get("c", {}).get("state", {}).get("waiting", {}).get(
        "reason") in ("ErrImagePull", "ImagePullBackOff"))


def test_graceful_deletion(node, pods):
    """preStop, SIGTERM, the grace period; then SIGKILL for who does not listen; and nothing is left."""
    trace = f"{node.folder}/deleted"
    os.makedirs(trace)
    mounts = {"volumeMounts": [{"name": "trace", "mountPath": "/t"}]}
    pods("end", [
        {"name": "polite", "command": shell("trap 'echo term >> /t/polite; sleep 1; echo bye >> /t/polite; exit 0' TERM; "
                                            "sleep 100000 & wait"),
         "lifecycle": {"postStart": {"exec": {"command": shell("echo post >> /t/polite")}},
                       "preStop": {"exec": {"command": shell("echo pre >> /t/polite")}}}, **mounts},
        {"name": "deaf", "command": shell("trap '' TERM; while :; do sleep 1; date +%s > /t/deaf; done"), **mounts}],
         terminationGracePeriodSeconds=3, volumes=[{"name": "trace", "hostPath": {"path": trace}}])
    node.wait_ready("end")
    uid = node.pod("end")["metadata"]["uid"]
    pid = None if VMS else host_pid(node, container_id(node.containers("end")["deaf"]))
    node.remove("end")
    began = time.monotonic()
    wait_gone(node, "end")
    assert time.monotonic() - began >= 3  # it had its time
    assert open(f"{trace}/polite").read().split() == ["post", "pre", "term", "bye"]
    assert VMS or not os.path.exists(f"/proc/{pid}")
    found = lambda: [path for path in node.cgroups() if uid in path]  # noqa: E731
    wait_for("the pod's cgroups are gone", lambda: not found(), 60)
    wait_for("its folder is gone", lambda: not os.path.exists(f"{node.kubelet.root}/pods/{uid}"), 60)


@once
@pytest.mark.native("the containers' groups are the guest's; test_vm_pod looks at both")
def test_resources(node, pods):
    """Guaranteed and burstable pods: what the kernel's files say."""
    pods("burst", [{"name": "c", "command": IDLE, "resources": {"requests": {"cpu": "100m", "memory": "16Mi"},
                                                                 "limits": {"cpu": "500m", "memory": "64Mi"}}}])
    node.wait_ready("burst")
    uid = node.pod("burst")["metadata"]["uid"]
    status = node.containers("burst")["c"]
    pod_groups = [p for p in node.cgroups() if p.endswith(f"kubepods/burstable/pod{uid}")]
    own_groups = [p for p in node.cgroups() if f"pod{uid}/" in p and container_id(status) in p]
    assert pod_groups and own_groups

    def value(groups, *names):
        """Of the first file that this version of cgroups has."""
        for path in (f"{group}/{name}" for group in groups for name in names):
            if os.path.exists(path):
                return open(path).read().split()[0]
        raise AssertionError((groups, names))

    for groups in (pod_groups, own_groups):
        assert int(value(groups, "memory.limit_in_bytes", "memory.max")) == 64 << 20
        assert int(value(groups, "cpu.cfs_quota_us", "cpu.max")) == 50000
    assert status["resources"]["limits"] == {"cpu": "500m", "memory": "64Mi"}, status["resources"]


@once
def test_security_context(node, pods):
    pods("secure", [{"name": "c", "command": IDLE, "securityContext": {
        "runAsUser": 1000, "runAsGroup": 2000, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}}],
         securityContext={"fsGroup": 2001, "runAsNonRoot": True, "sysctls": [{"name": "net.ipv4.ip_local_port_range",
                                                                              "value": "40000 41000"}]})
    node.wait_ready("secure")
    run = lambda *command: node.run("secure", "c", *command)  # noqa: E731
    assert run("id", "-u") == "1000\n" and run("id", "-g") == "2000\n" and "2001" in run("id", "-G").split()
    status = dict(re.findall(r"^(\w+):\s+(.*)$", run("cat", "/proc/1/status"), re.M))
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2" and int(status["CapBnd"], 16) == 0
    assert run("cat", "/proc/sys/net/ipv4/ip_local_port_range").split() == ["40000", "41000"]


@once
@pytest.mark.native("a VM has no user namespace of the host")
def test_user_namespace(node, pods):
    pods("userns", [{"name": "c", "command": shell("echo x > /d/x; " + IDLE[2]),
                     "volumeMounts": [{"name": "d", "mountPath": "/d"}]}],
         hostUsers=False, volumes=[{"name": "d", "emptyDir": {}}])
    node.wait_ready("userns")
    inside, outside, count = node.run("userns", "c", "cat", "/proc/self/uid_map").split()
    assert inside == "0" and int(outside) >= 65536 and count == "65536"
    assert node.run("userns", "c", "stat", "-c", "%u", "/d/x") == "0\n"


@once
@pytest.mark.native("a VM has no network namespace of the host")
def test_host_network(node, pods):
    port = free_port()
    pods("hostnet", [{"name": "c", "command": shell(f"exec httpd -f -p 127.0.0.1:{port} -h /etc"),
                      "readinessProbe": {"tcpSocket": {"port": port, "host": "127.0.0.1"}, "periodSeconds": 1}}], hostNetwork=True)
    node.wait_ready("hostnet")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/passwd", timeout=10) as reply:
        assert reply.read().startswith(b"root:")


@once
def test_an_image_as_a_volume(node, pods):
    pods("imagevol", [{"name": "c", "command": IDLE, "volumeMounts": [{"name": "i", "mountPath": "/i"}]}],
         volumes=[{"name": "i", "image": {"reference": node.image, "pullPolicy": "IfNotPresent"}}])
    node.wait_ready("imagevol")
    assert node.run("imagevol", "c", "ls", "/i/etc") == "group\npasswd\n"


def test_statistics(node, pods):
    pods("stats", [{"name": "busy", "command": shell("dd if=/dev/zero of=/f bs=1M count=3; while :; do :; done"),
                    "resources": {"limits": {"memory": LEAST_MEMORY or "64Mi", "cpu": "200m"}}},
                   {"name": "idle", "command": IDLE, "volumeMounts": [{"name": "d", "mountPath": "/d"}]}],
         volumes=[{"name": "d", "emptyDir": {}}])
    node.wait_ready("stats")

    def pod():
        for pod in node.kubelet.get_json("/stats/summary")["pods"]:
            if pod["podRef"]["name"] == "stats-node" and len(pod.get("containers") or []) == 2:
                return pod
        return {}

    def complete():
        found = pod()
        return (found.get("cpu", {}).get("usageNanoCores") and found.get("memory", {}).get("workingSetBytes")
                and found.get("volume") and all(c.get("rootfs", {}).get("usedBytes") is not None
                                                and c.get("cpu", {}).get("usageNanoCores") is not None
                                                for c in found["containers"])
                and {c["name"]: c for c in found["containers"]}["busy"]["rootfs"]["usedBytes"] >= 3 << 20)

    try:
        wait_for("the summary has all", complete, 90)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {json.dumps(pod(), indent=1)}") from None
    found = pod()
    by_name = {c["name"]: c for c in found["containers"]}
    assert by_name["busy"]["cpu"]["usageNanoCores"] > by_name["idle"]["cpu"]["usageNanoCores"]
    assert by_name["busy"]["memory"]["workingSetBytes"] > 0
    assert by_name["busy"]["rootfs"]["usedBytes"] >= 3 << 20 > by_name["idle"]["rootfs"]["usedBytes"]
    assert found["cpu"]["usageCoreNanoSeconds"] > 0 and found["memory"]["workingSetBytes"] > 0
    if node.from_cri:  # else they are cAdvisor's, which takes these of containerd and CRI-O only
        assert found["network"]["rxBytes"] is not None and found["process_stats"]["process_count"] >= 2
    assert [v["name"] for v in found["volume"] if v["name"] == "d"]
    image_fs = node.kubelet.get_json("/stats/summary")["node"]["runtime"]["imageFs"]
    assert image_fs["usedBytes"] > 0 and image_fs["capacityBytes"] > 0


def test_memory_of_no_container(node, pods):
    """What an ended container has left in an emptyDir in memory is the pod's."""
    pods("kept", [{"name": "c", "command": IDLE, "volumeMounts": [{"name": "m", "mountPath": "/m"}]}],
         volumes=[{"name": "m", "emptyDir": {"medium": "Memory"}}])
    node.wait_ready("kept")
    node.run("kept", "c", "dd", "if=/dev/zero", "of=/m/f", "bs=1M", "count=8")
    node.end("kept", "c")
    node.wait_status("kept", "restarted", lambda c: c["c"]["restartCount"] == 1 and "running" in c["c"]["state"])

    def usage():
        [pod] = [p for p in node.kubelet.get_json("/stats/summary")["pods"] if p["podRef"]["name"] == "kept-node"]
        return (pod.get("memory", {}).get("usageBytes", 0),
                sum(c.get("memory", {}).get("usageBytes", 0) for c in pod.get("containers") or []))

    wait_for("the pod has it, no container has", lambda: usage()[0] >= 8 << 20 > usage()[1] > 0, 60)


def test_metrics(node, pods):
    pods("metrics", [{"name": "c", "command": IDLE}])
    node.wait_ready("metrics")

    def samples():
        text = node.kubelet.get("/metrics/cadvisor")
        return {name: labels for name, labels in re.findall(r"^(container_\w+)\{(.*)\} ", text, re.M)
                if 'pod="metrics-node"' in labels and 'container="c"' in labels}

    if node.from_cri:
        wait_for("the container's metrics are there", samples, 60)
        found = samples()
        for name in ("container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_fs_usage_bytes"):
            assert name in found, sorted(found)
        assert 'namespace="default"' in found["container_cpu_usage_seconds_total"]
    resource = node.kubelet.get("/metrics/resource")
    assert 'container_cpu_usage_seconds_total{container="c",namespace="default",pod="metrics-node"}' in resource, resource
    operations = node.kubelet.get("/metrics")
    assert "kubelet_runtime_operations_total" in operations
    assert (node.from_cri == bool(re.search(r"^kubelet_evented_pleg_connection_success_count [1-9]", operations, re.M)))


def identity(node, name):
    return {c: (s["containerID"], s["restartCount"], s["state"]) for c, s in node.containers(name).items()}


def test_the_kubelet_starts_anew(node, pods):
    pods("stay", [{"name": "a", "command": IDLE}, {"name": "b", "command": IDLE}])
    node.wait_ready("stay")
    before = identity(node, "stay")
    node.kubelet.stop()
    node.kubelet.start()
    node.wait_ready("stay")
    assert identity(node, "stay") == before
    pods("after", [{"name": "c", "command": IDLE}])
    node.wait_ready("after")
    assert identity(node, "stay") == before


@pytest.mark.native("its containers' processes are none of the host's")
def test_the_daemon_is_killed(node, pods):
    """Pods live on; what ended meanwhile is found and restarted, what is asked for meanwhile happens later."""
    pods("live", [{"name": "a", "command": IDLE}, {"name": "b", "command": IDLE}])
    node.wait_ready("live")
    before = identity(node, "live")
    pid = host_pid(node, before["b"][0].removeprefix("caisson://"))
    node.daemon.kill()
    os.kill(pid, signal.SIGKILL)
    pods("later", [{"name": "c", "command": IDLE}])
    node.daemon.start()
    node.wait_ready("later")
    node.wait_status("live", "b is restarted", lambda c: c["b"]["restartCount"] == 1 and "running" in c["b"]["state"])
    node.wait_ready("live")
    assert identity(node, "live")["a"] == before["a"]
    assert node.run("live", "a", "echo", "alive") == "alive\n"
    assert node.containers("live")["b"]["lastState"]["terminated"]["exitCode"] == 137
