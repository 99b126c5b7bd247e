# SPDX-License-Identifier: Apache-2.0
"""CDI devices: what a container gets that asks for one by name, and what asks in vain."""
import json
import os
import shutil

import grpc
import pytest
from harness.pods import Pods

YAML = """---
cdiVersion: 0.5.0
kind: yaml.example/thing
devices:
- name: "0"
  containerEdits:
    env: [FROM=yaml]
    deviceNodes:
    - {path: /dev/thing0, hostPath: /dev/zero, permissions: r}
containerEdits:
  env:
  - THING=all
"""


@pytest.fixture(scope="module")
def cdi(make_module_daemon, registry, folder_of_module):
    """A daemon with two folders of specifications."""
    dirs = [f"{folder_of_module}/etc", f"{folder_of_module}/run"]
    daemon = make_module_daemon(config=f"[containers]\ncdi_spec_dirs = {json.dumps(dirs)}\n")
    daemon.client.PullImage(image={"image": registry.busybox})
    daemon.image, daemon.cdi = registry.busybox, dirs
    return daemon


@pytest.fixture
def pods(cdi):
    for path in cdi.cdi:
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
    with Pods(cdi) as pods:
        yield pods


def write(pods, name, devices, kind="vendor.example/class", version="1.0.0", folder=0, **members):
    """devices: name to containerEdits."""
    document = {"cdiVersion": version, "kind": kind, **members,
                "devices": [{"name": device, "containerEdits": edits} for device, edits in devices.items()]}
    with open(f"{pods.daemon.cdi[folder]}/{name}", "w") as f:
        json.dump(document, f)


def asks(*names):
    return {"CDI_devices": [{"name": name} for name in names]}


def refusal(pods, pod, *names):
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pod, ["true"], **asks(*names))
    return error.value.code(), error.value.details()


def test_a_container_gets_all_that_a_device_has(pods):
    volume = f"{pods.daemon.folder}/library"
    os.makedirs(volume, exist_ok=True)
    with open(f"{volume}/lib.so", "w") as f:
        f.write("library\n")
    write(pods, "v.json", {"gpu0": {
        "env": ["GPU=0", "PATH=/vendor:/bin"],
        "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/zero"},
                        {"path": "/dev/ctl", "type": "c", "major": 1, "minor": 7, "fileMode": 0o600, "uid": 0, "gid": 0}],
        "mounts": [{"hostPath": volume, "containerPath": "/usr/vendor", "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]}],
        "additionalGids": [0, 4242]}}, containerEdits={"env": ["VENDOR=all"]})
    pod = pods.run_pod(host_network=True)
    script = ("echo $GPU $PATH $VENDOR; head -c 4 /dev/gpu0 | od -An -tx1; stat -c '%a %u %g %t:%T' /dev/gpu0 /dev/ctl; "
              "cat /usr/vendor/lib.so; touch /usr/vendor/x 2>&1 | grep -c Read-only; id -G")
    extra = {"linux": {"security_context": {"run_as_user": {"value": 1000}, "run_as_group": {"value": 1000}}}}
    out = pods.out(pod, ["sh", "-c", script], envs=[{"key": "GPU", "value": "pod"}], **extra, **asks("vendor.example/class=gpu0")).splitlines()
    assert out[0] == "0 /vendor:/bin all" and out[1].split() == ["00"] * 4
    assert out[2:4] == ["666 1000 1000 1:5", "600 0 0 1:7"]
    assert out[4:6] == ["library", "1"] and set(out[6].split()) >= {"1000", "4242"} and "0" not in out[6].split()


def test_the_cgroup_allows_what_was_named_and_no_more(pods):
    """A block device that nothing has a driver for: allowed is ENXIO, denied is EPERM."""
    nodes = [{"path": f"/dev/{access}", "type": "b", "major": 240, "minor": minor, "permissions": access}
             for minor, access in enumerate(("r", "w", "none"))]
    write(pods, "v.json", {"d": {"deviceNodes": nodes}})
    pod = pods.run_pod(host_network=True)
    script = "for d in r w none; do (: < /dev/$d) 2>&1; (: > /dev/$d) 2>&1; done; true"
    said = [("denied" if "not permitted" in line else "allowed") for line in
            pods.out(pod, ["sh", "-c", script], **asks("vendor.example/class=d")).splitlines()]
    assert said == ["allowed", "denied", "denied", "allowed", "denied", "denied"]


def test_groups_are_reported(pods):
    write(pods, "v.json", {"d": {"additionalGids": [4242]}})
    container = pods.create(pods.run_pod(host_network=True), ["true"], **asks("vendor.example/class=d"))
    assert 4242 in pods.status(container).user.linux.supplemental_groups


def test_hooks_run(pods):
    """In the order of the runtime-spec, with the container's state, those of createContainer in its mount namespace."""
    log, script = f"{pods.daemon.folder}/hooks.log", f"{pods.daemon.folder}/hook.sh"
    if os.path.exists(log):
        os.unlink(log)
    with open(script, "w") as f:
        f.write(f"#!/bin/sh\n[ $1 = createContainer ] && grep -c ' /data ' /proc/self/mountinfo >/dev/null; "
                f"echo \"$1 $MARK $(cat)\" >> {log}\n")
    os.chmod(script, 0o755)
    hooks = [{"hookName": name, "path": script, "args": ["hook", name], "env": ["MARK=here", "PATH=/usr/bin:/bin"], "timeout": 20}
             for name in ("poststop", "poststart", "createContainer", "createRuntime")]
    write(pods, "v.json", {"d": {"hooks": hooks}})
    pod = pods.run_pod(host_network=True)
    container = pods.start(pod, ["true"], **asks("vendor.example/class=d"))
    pods.wait_exit(container)
    pods.client.RemoveContainer(container_id=container)
    lines = [line.split(" ", 2) for line in open(log).read().splitlines()]
    assert [line[0] for line in lines] == ["createRuntime", "createContainer", "poststart", "poststop"]
    assert all(line[1] == "here" and json.loads(line[2])["id"] == container for line in lines)


def test_a_hook_that_fails_fails_the_container(pods):
    write(pods, "v.json", {"d": {"hooks": [{"hookName": "createRuntime", "path": "/bin/false"}]},
                           "gone": {"hooks": [{"hookName": "createContainer", "path": "/no/such/hook"}]}})
    pod = pods.run_pod(host_network=True)
    assert "'/bin/false' ended with 1" in refusal(pods, pod, "vendor.example/class=d")[1]
    assert "/no/such/hook" in refusal(pods, pod, "vendor.example/class=gone")[1]


def test_yaml_and_json_together(pods):
    with open(f"{pods.daemon.cdi[0]}/thing.yaml", "w") as f:
        f.write(YAML)
    write(pods, "v.json", {"d": {"env": ["D=1"]}})
    pod = pods.run_pod(host_network=True)
    out = pods.out(pod, ["sh", "-c", "echo $FROM $THING $D; test -c /dev/thing0 && echo node"],
                   **asks("yaml.example/thing=0", "vendor.example/class=d", "yaml.example/thing=0"))
    assert out == "yaml all 1\nnode\n"


def test_the_later_folder_counts_and_equals_conflict(pods):
    write(pods, "a.json", {"d": {"env": ["FROM=etc"]}, "e": {"env": ["FROM=etc"]}})
    write(pods, "a.json", {"d": {"env": ["FROM=run"]}}, folder=1)
    pod = pods.run_pod(host_network=True)
    for device, folder in (("d", "run"), ("e", "etc")):
        assert pods.out(pod, ["sh", "-c", "echo $FROM"], **asks(f"vendor.example/class={device}")) == f"{folder}\n"
    write(pods, "b.json", {"d": {"env": ["FROM=other"]}}, folder=1)
    code, text = refusal(pods, pod, "vendor.example/class=d")
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "a.json" in text and "b.json" in text


def test_an_unknown_device_is_named(pods):
    write(pods, "v.json", {"d": {"env": ["D=1"]}})
    with open(f"{pods.daemon.cdi[0]}/broken.json", "w") as f:
        f.write("{")
    pod = pods.run_pod(host_network=True)
    for name in ("vendor.example/class=other", "vendor.example/other=d", "nobody.example/class=d"):
        code, text = refusal(pods, pod, "vendor.example/class=d", name)
        assert code == grpc.StatusCode.NOT_FOUND and f"'{name}'" in text and "broken.json" in text


@pytest.mark.parametrize("name", ["", "d", "/dev/null", "vendor.example/class=../d", "vendor.example/class/sub=d",
                                  "../../etc/passwd=d", "vendor.example/class=d/e", "vendor.example/class=d=e"])
def test_a_name_that_cannot_be(pods, name):
    code, text = refusal(pods, pods.run_pod(host_network=True), name)
    assert code == grpc.StatusCode.INVALID_ARGUMENT and f"'{name}'" in text


def test_missing_resources_are_named(pods):
    write(pods, "v.json", {"node": {"deviceNodes": [{"path": "/dev/gone0"}]}, "rdt": {"intelRdt": {"closID": "x"}},
                           "mount": {"mounts": [{"hostPath": "/no/such/library", "containerPath": "/l", "options": ["bind"]}]}})
    pod = pods.run_pod(host_network=True)
    assert "/dev/gone0" in refusal(pods, pod, "vendor.example/class=node")[1]
    assert "/no/such/library" in refusal(pods, pod, "vendor.example/class=mount")[1]
    code, text = refusal(pods, pod, "vendor.example/class=rdt")
    assert code == grpc.StatusCode.UNIMPLEMENTED and "intelRdt is not supported" in text


def test_annotations_and_variables_ask_for_nothing(pods):
    """Only the pod's spec names devices: neither annotations nor an image's environment do (CVE-2026-53492)."""
    write(pods, "v.json", {"d": {"env": ["D=1"]}})
    annotations = {"cdi.k8s.io/gpu": "vendor.example/class=d"}
    pod = pods.run_pod(host_network=True, annotations=annotations)
    assert pods.out(pod, ["sh", "-c", "echo got $D"], annotations=annotations) == "got\n"


def test_verbose_status_tells_of_folders_and_devices(pods):
    etc, run = pods.daemon.cdi
    write(pods, "v.json", {"a": {"env": ["A=1"]}, "b": {"env": ["B=1"]}})
    write(pods, "w.json", {"b": {"env": ["B=2"]}, "c": {"env": ["C=2"]}}, folder=1)
    write(pods, "x.json", {"c": {"env": ["C=3"]}}, folder=1)
    with open(f"{etc}/broken.json", "w") as f:
        f.write("{")
    told = json.loads(pods.client.Status(verbose=True).info["cdi"])
    assert told["specDirs"] == [{"path": etc, "devices": ["vendor.example/class=a"], "error": None},
                                {"path": run, "devices": ["vendor.example/class=b", "vendor.example/class=c"], "error": None}]
    assert len(told["faults"]) == 2 and "broken.json" in told["faults"][0] and "w.json" in told["faults"][1]
    assert "cdi" not in pods.client.Status().info
    shutil.rmtree(etc)
    os.symlink("etc", etc)  # a loop: not a folder that is merely not there
    told = json.loads(pods.client.Status(verbose=True).info["cdi"])
    assert told["specDirs"][0]["error"].startswith(f"read '{etc}'")
    os.unlink(etc)
    os.mkdir(etc)
    pod = pods.run_pod(host_network=True)
    container = pods.create(pod, ["true"], **asks("vendor.example/class=b", "vendor.example/class=b"))
    info = json.loads(pods.client.ContainerStatus(container_id=container, verbose=True).info["info"])
    assert info["cdiDevices"] == ["vendor.example/class=b"]
    info = json.loads(pods.client.ContainerStatus(container_id=pods.create(pod, ["true"]), verbose=True).info["info"])
    assert info["cdiDevices"] == []
