# SPDX-License-Identifier: Apache-2.0
"""Requests that cannot be met: the error has the right code and names object and reason, and nothing is left of the try."""
import os
import threading

import grpc
import pytest
from harness.pods import Pods

CODE = grpc.StatusCode
V1 = not os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def refused(call, code, *words):
    with pytest.raises(grpc.RpcError) as error:
        call()
    text = error.value.details()
    assert error.value.code() in (code if isinstance(code, tuple) else (code,)), (error.value.code(), text)
    for word in words:
        assert word.lower() in text.lower(), text
    return text


# cgroup_parent, code, words of the error. A file of the cgroup file system cannot have a cgroup below it.
PARENTS = [("/cgroup.procs/x", CODE.INVALID_ARGUMENT, ["cgroup.procs/x", "Not a directory"]),
           ("{parent}/cgroup.procs/x", CODE.INVALID_ARGUMENT, ["cgroup.procs/x", "Not a directory"]),
           ("/a/../../b", CODE.INVALID_ARGUMENT, ["cgroup_parent", ".."]),
           ("..", CODE.INVALID_ARGUMENT, ["cgroup_parent", ".."]),
           ("/x/./y", CODE.INVALID_ARGUMENT, ["cgroup_parent"]),
           ("/" + "n" * 300, CODE.INVALID_ARGUMENT, ["nnnn", "255"]),
           ("/a\nb", CODE.INVALID_ARGUMENT, ["cgroup"])]


@pytest.mark.parametrize("parent, code, words", PARENTS, ids=range(len(PARENTS)))
def test_cgroup_parent(daemon, pods, parent, code, words):
    before = daemon.leaks_of_pods()

    def run():
        config = pods.pod_config(host_network=True, linux={"cgroup_parent": parent.format(parent=daemon.cgroup_parent)})
        pod = pods.run_pod(config)
        try:
            pods.start(pod, ["true"])
        finally:
            pods.remove_all()
    refused(run, code, *words)
    assert daemon.leaks_of_pods() == before


# Resources that are refused, by the kernel where only it can know; what the error says.
LIMITS = [({"cpu_quota": 500, "cpu_period": 100_000}, ["500", "cfs_quota_us" if V1 else "cpu.max", "Invalid argument"]),
          ({"cpu_quota": 5000, "cpu_period": 10}, ["10", "Invalid argument"]),
          ({"cpuset_cpus": "4000"}, ["'4000'", "cpuset.cpus"]),
          ({"cpuset_cpus": "zero"}, ["cpuset_cpus", "'zero'"]),
          ({"cpuset_mems": "900"}, ["'900'", "cpuset.mems"]),
          ({"oom_score_adj": 5000}, ["5000", "oom_score_adj"])]


@pytest.mark.parametrize("resources, words", LIMITS, ids=[next(iter(resources)) + f"-{n}" for n, (resources, _) in enumerate(LIMITS)])
def test_limit(daemon, pods, resources, words):
    pod = pods.run_pod(host_network=True)
    before = daemon.leaks_of_pods()
    refused(lambda: pods.start(pod, ["true"], linux={"resources": resources}),
            (CODE.INVALID_ARGUMENT, CODE.OUT_OF_RANGE, CODE.FAILED_PRECONDITION), *words)
    assert daemon.leaks_of_pods() == before
    assert pods.out(pod, ["echo", "next"]) == "next\n"


def test_limits_that_are_refused_later_change_nothing(daemon, pods):
    container = pods.start(pods.run_pod(host_network=True), ["sleep", "1000"], linux={"resources": {"cpu_quota": 50_000, "cpu_period": 100_000}})
    refused(lambda: daemon.client.UpdateContainerResources(container_id=container, linux={"cpu_quota": 500, "cpu_period": 100_000}),
            CODE.INVALID_ARGUMENT, "500", container[:12])
    resources = daemon.client.ContainerStatus(container_id=container).status.resources.linux
    assert (resources.cpu_quota, resources.cpu_period) == (50_000, 100_000)


@pytest.mark.skipif(not V1 or not os.path.isdir("/sys/fs/cgroup/pids"), reason="needs the pids controller of cgroup v1")
def test_pids_limit_of_the_parent(daemon, pods):
    """The kernel moves a process into a full cgroup but lets none be forked there: the container runs, its forks fail."""
    full = f"{daemon.cgroup_parent}/full"
    os.makedirs(f"/sys/fs/cgroup/pids{full}")
    try:
        with open(f"/sys/fs/cgroup/pids{full}/pids.max", "w") as f:
            f.write("1")
        pod = pods.run_pod(host_network=True, linux={"cgroup_parent": full})
        status, log = pods.run(pod, ["sh", "-c", "sleep 1; echo unreachable"])
        assert status.exit_code != 0 and any("fork" in line.text for line in log), [line.text for line in log]
        pods.remove_all()
    finally:
        for controller in os.listdir("/sys/fs/cgroup"):
            if os.path.isdir(f"/sys/fs/cgroup/{controller}{full}"):
                os.rmdir(f"/sys/fs/cgroup/{controller}{full}")
    assert daemon.leaks_of_pods() == []


# What of the container's configuration cannot be; code; words.
CONTAINERS = {
    "missing image": ({"image": "127.0.0.1:1/none:1"}, CODE.NOT_FOUND, ["127.0.0.1:1/none:1"]),
    "no name": ({"metadata": {"name": ""}}, CODE.INVALID_ARGUMENT, ["name"]),
    # A source that is not there is made, a folder; this one cannot be.
    "mount source": ({"mounts": [{"container_path": "/x", "host_path": "/etc/passwd/sub"}]}, CODE.INVALID_ARGUMENT,
                     ["/etc/passwd/sub", "Not a directory"]),
    "relative mount source": ({"mounts": [{"container_path": "/x", "host_path": "etc"}]}, CODE.INVALID_ARGUMENT, ["'etc'"]),
    "no mount target": ({"mounts": [{"container_path": "", "host_path": "/etc"}]}, CODE.INVALID_ARGUMENT, ["destination ''"]),
    "folder on a file": ({"mounts": [{"container_path": "/etc/passwd", "host_path": "/etc"}]},
                         (CODE.INVALID_ARGUMENT, CODE.FAILED_PRECONDITION), ["/etc/passwd"]),
    "unknown user": ({"linux": {"security_context": {"run_as_username": "nobody-here"}}}, (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND),
                     ["nobody-here"]),
    "unknown capability": ({"linux": {"security_context": {"capabilities": {"add_capabilities": ["FLY"]}}}},
                           CODE.INVALID_ARGUMENT, ["FLY"]),
    "missing profile": ({"linux": {"security_context": {"seccomp": {"profile_type": 2, "localhost_ref": "/no/profile.json"}}}},
                        (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND), ["/no/profile.json"]),
    "device": ({"devices": [{"container_path": "/dev/x", "host_path": "/dev/no-such-device", "permissions": "r"}]},
               (CODE.INVALID_ARGUMENT, CODE.NOT_FOUND), ["/dev/no-such-device"]),
    "target of pid": ({"linux": {"security_context": {"namespace_options": {"pid": 3, "target_id": "feedbeef"}}}},
                      CODE.NOT_FOUND, ["feedbeef"]),
    "log path": ({"log_path": "../../x.log"}, CODE.INVALID_ARGUMENT, ["../../x.log"]),
}


@pytest.mark.parametrize("what", CONTAINERS)
def test_container(daemon, pods, what):
    extra, code, words = CONTAINERS[what]
    pod = pods.run_pod(host_network=True)
    before = daemon.leaks_of_pods()

    def run():
        container = pods.create(pod, ["true"], **extra)
        try:
            daemon.client.StartContainer(container_id=container)
        finally:
            daemon.client.RemoveContainer(container_id=container)
    refused(run, code, *words)
    assert daemon.leaks_of_pods() == before
    assert pods.out(pod, ["echo", "next"]) == "next\n"


def test_a_container_without_an_image(daemon, pods):
    pod, config = pods.run_pod(host_network=True)
    refused(lambda: daemon.client.CreateContainer(pod_sandbox_id=pod, sandbox_config=config, config={"metadata": {"name": "nameless"}}),
            CODE.INVALID_ARGUMENT, "nameless", "image")


def test_a_mount_source_that_leads_nowhere(daemon, pods, folder):
    os.symlink("/dangling/target", f"{folder}/link")
    pod = pods.run_pod(host_network=True)
    before = daemon.leaks_of_pods()
    refused(lambda: pods.create(pod, ["true"], mounts=[{"container_path": "/x", "host_path": f"{folder}/link"}]),
            (CODE.NOT_FOUND, CODE.INVALID_ARGUMENT, CODE.ALREADY_EXISTS), f"{folder}/link")
    assert daemon.leaks_of_pods() == before and not os.path.exists("/dangling")


def test_a_command_that_is_not_there(daemon, pods):
    """Known only once it is started: the container has ended, with the code and reason that a kubelet expects."""
    pod = pods.run_pod(host_network=True)
    container = pods.create(pod, ["/no/such/command"])
    refused(lambda: daemon.client.StartContainer(container_id=container), (CODE.NOT_FOUND, CODE.INVALID_ARGUMENT), "/no/such/command")
    status = pods.status(container)
    assert (status.state, status.exit_code, status.reason) == (2, 128, "StartError")


# What of the pod's configuration cannot be, its handler; code; words.
PODS = {
    "handler": ({}, "no-such", CODE.NOT_FOUND, ["no-such", "caisson"]),
    "no name": ({"metadata": {"name": "", "uid": "u", "namespace": "default"}}, "", CODE.INVALID_ARGUMENT, ["name"]),
    "no uid": ({"metadata": {"name": "n", "uid": "", "namespace": "default"}}, "", CODE.INVALID_ARGUMENT, ["uid"]),
    "hostname": ({"hostname": "x" * 65}, "", CODE.INVALID_ARGUMENT, ["hostname"]),
    "sysctl": ({"linux": {"sysctls": {"kernel.no_such": "1"}}}, "", (CODE.INVALID_ARGUMENT, CODE.FAILED_PRECONDITION),
               ["kernel.no_such"]),
}


@pytest.mark.parametrize("what", PODS)
def test_pod(daemon, pods, what):
    extra, handler, code, words = PODS[what]
    config = pods.pod_config()
    for key, value in extra.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    before = daemon.leaks_of_pods()
    refused(lambda: daemon.client.RunPodSandbox(config=config, runtime_handler=handler), code, *words)
    assert daemon.leaks_of_pods() == before and len(daemon.client.ListPodSandbox().items) == 0


def test_pod_names(daemon, pods):
    config = pods.pod_config(host_network=True)
    first, _ = pods.run_pod(config)
    for _ in range(2):
        assert daemon.client.RunPodSandbox(config=config).pod_sandbox_id == first
    other = {**config, "labels": {"other": "1"}}
    refused(lambda: daemon.client.RunPodSandbox(config=other), CODE.ALREADY_EXISTS, config["metadata"]["name"], first)
    daemon.client.StopPodSandbox(pod_sandbox_id=first)
    refused(lambda: daemon.client.RunPodSandbox(config=config), CODE.ALREADY_EXISTS, config["metadata"]["name"], first)
    # A new attempt of the same pod is another name.
    again = {**config, "metadata": {**config["metadata"], "attempt": 1}}
    assert pods.run_pod(again)[0] != first


def test_pods_of_one_name_at_once(daemon, pods):
    """Those who ask while the first is being made get its result."""
    config = pods.pod_config()
    results = []
    threads = [threading.Thread(target=lambda: results.append(daemon.client.RunPodSandbox(config=config).pod_sandbox_id))
               for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pods.made.append(results[0])
    assert len(results) == 8 and len(set(results)) == 1 and len(daemon.client.ListPodSandbox().items) == 1
    assert len(daemon.leases()) == 1


def test_container_names(daemon, pods):
    pod = pods.run_pod(host_network=True)
    first = pods.create(pod, ["sleep", "1000"], name="same")
    assert pods.create(pod, ["sleep", "1000"], name="same") == first
    refused(lambda: pods.create(pod, ["sleep", "1001"], name="same"), CODE.ALREADY_EXISTS, "same", first)
    daemon.client.StartContainer(container_id=first)
    refused(lambda: pods.create(pod, ["sleep", "1000"], name="same"), CODE.ALREADY_EXISTS, "same", first)
    # The same name in another pod is another name.
    assert pods.create(pods.run_pod(host_network=True), ["sleep", "1000"], name="same") != first


def test_ids_that_are_not_there(daemon):
    client, absent = daemon.client, "0123456789abcdef" * 4
    for call in (lambda: client.StartContainer(container_id=absent), lambda: client.ContainerStatus(container_id=absent),
                 lambda: client.ExecSync(container_id=absent, cmd=["true"]), lambda: client.ContainerStats(container_id=absent),
                 lambda: client.ReopenContainerLog(container_id=absent), lambda: client.PodSandboxStatus(pod_sandbox_id=absent),
                 lambda: client.UpdateContainerResources(container_id=absent, linux={}),
                 lambda: client.CreateContainer(pod_sandbox_id=absent, config={"metadata": {"name": "x"}, "image": {"image": "x"}})):
        refused(call, CODE.NOT_FOUND, absent)
    for call in (client.StopContainer, client.RemoveContainer):
        call(container_id=absent)
    for call in (client.StopPodSandbox, client.RemovePodSandbox):
        call(pod_sandbox_id=absent)


def test_a_container_for_a_pod_that_is_not_ready(daemon, pods):
    pod = pods.run_pod(host_network=True)
    daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    refused(lambda: pods.create(pod, ["true"]), CODE.FAILED_PRECONDITION, pod[0], "not ready")
