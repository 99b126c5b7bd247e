# SPDX-License-Identifier: Apache-2.0
"""An OCI runtime that fails at one of its commands, before or after it has done its work, or is killed in it: the client hears
why, and nothing stays. The runtime is Debian's runc behind a script; and what Status, metrics and `caisson doctor` say of runtimes
that do not work at all."""
import os
import re
import subprocess
import tempfile
import urllib.request

import grpc
import pytest

from harness.daemon import BIN, Daemon, remove_tree
from harness.leaks import Leaks
from harness.pods import Pods
from harness.registry import wait_for

# Its own last words, where the runtime's are expected (--log FILE --log-format json).
SCRIPT = """#!/bin/sh
for word; do
  case "$before" in --log) log=$word;; esac
  case "$word" in create | start | exec | delete) verb=${verb:-$word};; esac
  before=$word
done
read -r when at < FOLDER/fault
if [ "$verb" = "$at" ]; then
  [ "$when" = after ] && /usr/sbin/runc "$@"
  [ "$when" = killed ] && kill -9 $$
  echo '{"level":"error","msg":"made to fail"}' > "$log"
  exit 1
fi
exec /usr/sbin/runc "$@"
"""


@pytest.fixture(scope="module")
def daemon(registry):
    folder = tempfile.mkdtemp(prefix="caisson-test-")
    leaks = Leaks(os.path.basename(folder))
    for name, text in (("runtime", SCRIPT.replace("FOLDER", folder)), ("no-runtime", "#!/bin/sh\necho broken >&2\nexit 1\n")):
        with open(f"{folder}/{name}", "w") as f:
            f.write(text)
        os.chmod(f"{folder}/{name}", 0o755)
    with open(f"{folder}/fault", "w") as f:
        f.write("never never\n")
    made = Daemon(folder, config=f'[metrics]\naddress = "127.0.0.1:0"\n[handlers.script]\nruntime = "{folder}/runtime"\n'
                                 f'[handlers.broken]\nruntime = "{folder}/no-runtime"\n[handlers.absent]\nruntime = "{folder}/absent"\n')
    made.pull_busybox(registry)
    wait_for("the handlers are probed", lambda: "has not run yet" not in str(probes(made)) and probes(made)["script"] == "ok", 30)
    yield made
    made.destroy()
    assert leaks.check() == []
    remove_tree(folder)


def probes(daemon):
    info = dict(daemon.client.Status(verbose=True).info)
    return {key[len("probe/"):]: value for key, value in info.items() if key.startswith("probe/")}


@pytest.fixture
def fault(daemon):
    def write(when, verb):
        with open(f"{daemon.folder}/fault.new", "w") as f:
            f.write(f"{when} {verb}\n")
        os.rename(f"{daemon.folder}/fault.new", f"{daemon.folder}/fault")

    yield write
    write("never", "never")


@pytest.mark.parametrize("when", ["before", "after", "killed"])
@pytest.mark.parametrize("verb", ["create", "start"])
def test_a_container_that_cannot_be_made_leaves_nothing(daemon, fault, when, verb):
    with Pods(daemon) as pods:
        pod = pods.run_pod(handler="script")
        before = set(daemon.leaks_of_pods())
        fault(when, verb)
        container = ""
        with pytest.raises(grpc.RpcError) as failed:
            container = pods.create(pod, ["sleep", "1000"])
            pods.client.StartContainer(container_id=container)
        assert ("status 137" if when == "killed" else "made to fail") in failed.value.details()
        fault("never", "never")
        if container:
            pods.client.RemoveContainer(container_id=container)
        assert set(daemon.leaks_of_pods()) <= before
        assert pods.out(pod, ["echo", "works"]) == "works\n"
    assert daemon.leaks_of_pods() == []


@pytest.mark.parametrize("when", ["before", "killed"])
def test_an_exec_that_fails(daemon, fault, when):
    with Pods(daemon) as pods:
        pod = pods.run_pod(handler="script")
        container = pods.start(pod, ["sleep", "1000"])
        fault(when, "exec")
        with pytest.raises(grpc.RpcError) as failed:
            pods.exec(container, ["true"])
        assert ("status 137" if when == "killed" else "made to fail") in failed.value.details()
        fault("never", "never")
        assert pods.exec(container, ["echo", "works"])[1] == "works\n"
    assert daemon.leaks_of_pods() == []


def test_removal_does_not_need_the_runtime(daemon, fault):
    with Pods(daemon) as pods:
        pod = pods.run_pod(handler="script")
        container = pods.start(pod, ["sleep", "1000"])
        fault("before", "delete")
        pods.client.StopContainer(container_id=container, timeout=0)
        pods.client.RemoveContainer(container_id=container)
    assert daemon.leaks_of_pods() == []


def test_what_is_said_of_handlers(daemon):
    listed = [handler.name for handler in daemon.client.Status().runtime_handlers]
    assert "script" in listed and "broken" not in listed and "absent" not in listed
    said = probes(daemon)
    assert said["script"] == "ok" and "broken" in said["broken"] and "No such file" in said["absent"]
    with pytest.raises(grpc.RpcError) as refused:
        Pods(daemon).run_pod(handler="broken")
    assert "no-runtime --version' failed: broken" in refused.value.details()
    port = re.search(r"metrics are served on port (\d+)", daemon.log_text()).group(1)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/metrics") as page:
        lines = [line for line in page.read().decode().splitlines() if line.startswith("caisson_handler_ready")]
    assert any('handler="script"' in line and line.endswith(" 1") for line in lines)
    assert any('handler="broken"' in line and "failed: broken" in line and line.endswith(" 0") for line in lines)
    told = subprocess.run([f"{BIN}/caisson", "--socket", daemon.socket, "doctor"], stdout=subprocess.PIPE, text=True, check=False).stdout
    assert re.search(r"ok +handler script", told) and re.search(r"warn +handler absent.*No such file", told), told
