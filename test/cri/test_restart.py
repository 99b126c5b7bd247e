# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed, its pods are not; and the other way round."""
import os
import signal
import subprocess
import threading
import time

import grpc
import pytest
from harness.pods import Pods
from harness.registry import wait_for
from test_network import custom


def restart(daemon):
    daemon.kill()
    daemon.start()
    return Pods(daemon)


def test_sigkill_finds_everything_again(alone):
    pods = Pods(alone)
    pod = pods.run_pod(labels={"l": "1"})
    running = pods.start(pod, ["sh", "-c", "echo before; while :; do echo tick; usleep 50000; done"])
    ended = pods.start(pod, ["sh", "-c", "exit 9"])
    ended_status = pods.wait_exit(ended)
    created = pods.create(pod, ["true"])
    sandbox = alone.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status
    before = pods.status(running)
    pods = restart(alone)
    assert alone.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status == sandbox
    assert pods.status(running) == before and pods.status(ended) == ended_status
    assert pods.status(created).state == 0
    assert pods.exec(running, ["echo", "alive"])[1] == "alive\n"
    alone.client.StartContainer(container_id=created)
    assert pods.wait_exit(created).exit_code == 0


def test_exit_and_logs_while_the_daemon_is_down(alone):
    pods = Pods(alone)
    pod = pods.run_pod()
    flag = f"{alone.folder}/go"
    os.makedirs(flag)
    container = pods.start(pod, ["sh", "-c", "until test -e /flag/now; do usleep 10000; done; echo while-down; exit 6"],
                           mounts=[{"container_path": "/flag", "host_path": flag}])
    path = pods.status(container).log_path
    alone.kill()
    down = time.time_ns()
    open(f"{flag}/now", "w").close()
    wait_for("the log line", lambda: "while-down" in open(path).read())
    alone.start()
    pods = Pods(alone)
    status = pods.wait_exit(container)
    assert status.exit_code == 6 and status.finished_at > down
    assert [line.text for line in pods.log(path)] == ["while-down"]


def test_companion_killed(alone):
    pods = Pods(alone)
    pod = pods.run_pod()
    container = pods.start(pod, ["sleep", "31337"])
    companions = subprocess.run(["pgrep", "-f", f"containerd-shim-caisson-v2.*{pod[0]}"], stdout=subprocess.PIPE,
                                text=True).stdout.split()
    assert companions
    for pid in companions:
        os.kill(int(pid), signal.SIGKILL)
    status = pods.wait_exit(container)
    assert status.exit_code != 0 and "companion" in (status.reason + status.message).lower()
    wait_for("the pod is not ready",
             lambda: alone.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == 1)
    assert subprocess.run(["pgrep", "-f", "sleep 31337"], stdout=subprocess.PIPE).stdout == b""
    alone.client.RemovePodSandbox(pod_sandbox_id=pod[0])
    assert alone.leaks_of_pods() == []


def test_two_daemons_on_one_root(alone):
    command = alone.command()
    command[command.index("--socket") + 1] = f"{alone.folder}/other.sock"
    other = subprocess.run(command, stderr=subprocess.PIPE,
                           stdout=subprocess.PIPE, text=True, timeout=30)
    assert other.returncode != 0 and alone.root in other.stderr + other.stdout


def test_stop_while_the_daemon_was_down(alone):
    pods = Pods(alone)
    pod = pods.run_pod()
    pods.start(pod, ["sleep", "1000"])
    pods = restart(alone)
    alone.client.StopPodSandbox(pod_sandbox_id=pod[0])
    alone.client.RemovePodSandbox(pod_sandbox_id=pod[0])
    assert len(alone.client.ListPodSandbox().items) == 0


def test_reboot_leaves_stale_state_that_is_cleaned(alone):
    """A reboot as the daemon sees it: processes, namespaces and mounts gone, files and records there."""
    pods = Pods(alone)
    pod = pods.run_pod()
    container = pods.start(pod, ["sleep", "1000"])
    alone.kill()
    for pid in subprocess.run(["pgrep", "-f", f"containerd-shim-caisson-v2.*{pod[0]}"], stdout=subprocess.PIPE,
                              text=True).stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    alone.start()
    pods = Pods(alone)
    assert alone.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == 1
    assert pods.status(container).state == 2
    alone.client.StopPodSandbox(pod_sandbox_id=pod[0])
    alone.client.RemovePodSandbox(pod_sandbox_id=pod[0])
    assert alone.leaks_of_pods() == []


def test_broken_index_is_an_error_not_a_loss(alone):
    alone.stop()
    databases = [os.path.join(base, leaf) for base, _, leaves in os.walk(alone.root) for leaf in leaves
                 if leaf.endswith(".db") and "image" not in base]
    assert databases
    for path in databases:
        with open(path, "wb") as f:
            f.write(b"not a database at all, but long enough to look at" * 100)
    with pytest.raises(RuntimeError) as error:
        alone.start()
    assert ".db" in str(error.value)
    for path in databases:
        os.unlink(path)
    alone.start()


@pytest.mark.native("the plugin makes no interface, which a machine needs")
def test_killed_while_a_plugin_gives_out_an_address(make_daemon, registry):
    """The plugin lives on without its daemon. Its lease comes after the new daemon has begun to undo, and still goes."""
    script = """
d=$(dirname "$0")
case "$CNI_COMMAND" in
ADD) touch "$d/adding"; until test -e "$d/go"; do sleep 0.02; done
  touch "$d/lease-$CNI_CONTAINERID" "$d/added"; echo '{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.5/24"}]}';;
DEL) rm -f "$d/lease-$CNI_CONTAINERID";;
esac
exit 0
"""
    daemon = custom(make_daemon, registry, script)
    config = Pods(daemon).pod_config()
    call = threading.Thread(target=lambda: pytest.raises(grpc.RpcError, daemon.client.RunPodSandbox, config=config))
    call.start()
    wait_for("ADD", lambda: os.path.exists(f"{daemon.folder}/adding"))
    daemon.kill()
    call.join()

    def let_it_go():
        wait_for("undo", lambda: "undo the unfinished" in daemon.log_text())
        open(f"{daemon.folder}/go", "w").close()

    healer = threading.Thread(target=let_it_go)
    healer.start()
    daemon.start()
    healer.join()
    wait_for("the end of ADD", lambda: os.path.exists(f"{daemon.folder}/added"))
    # On a slow machine the undo goes on after the daemon has begun to serve.
    wait_for("the lease's end", lambda: not any(name.startswith("lease-") for name in os.listdir(daemon.folder)))
    wait_for("nothing is left", lambda: not daemon.leaks_of_pods())
    Pods(daemon).run_pod(config)


def test_not_as_root(make_daemon):
    daemon = make_daemon(start=False)
    # Readable and writable for it: the refusal must be about root and nothing else.
    os.chmod(daemon.folder, 0o777)
    ended = subprocess.run(daemon.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, user=65534,
                           group=65534, extra_groups=[], timeout=30)
    assert ended.returncode != 0 and "root" in ended.stderr and not os.path.exists(daemon.socket)


@pytest.mark.parametrize("text, word", [("root = ", "config.toml:1"), ("rooot = '/x'", "rooot"), ("shim_path = 'x/y'", "absolute"),
                                        ("[cni]\nadd_timeout_seconds = 0", "add_timeout_seconds"),
                                        ("max_threads = 'many'", "max_threads")])
def test_bad_configuration_is_refused_and_named(make_daemon, text, word):
    daemon = make_daemon(start=False, config=text)
    with open(daemon.config, "w") as f:
        f.write(text)
    ended = subprocess.run(daemon.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30)
    assert ended.returncode != 0 and word in ended.stderr and not os.path.exists(daemon.socket)


def test_a_path_that_is_no_socket_of_ours_is_not_taken(alone):
    """A second daemon with a root of its own on the same socket: the first stays what it is."""
    command = alone.command()
    for flag in ("--root", "--state"):
        command[command.index(flag) + 1] = f"{alone.folder}/other{flag}"
    other = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, timeout=30)
    assert other.returncode != 0 and alone.socket in other.stderr + other.stdout
    assert alone.client.Version().runtime_name


def test_addresses_stay_taken_over_a_restart(alone):
    first = Pods(alone).run_pod()
    before = alone.leases()
    pods = restart(alone)
    second = pods.run_pod()
    ips = {alone.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.network.ip for pod in (first, second)}
    assert len(ips) == 2 and set(before) < ips == set(alone.leases())
