# SPDX-License-Identifier: Apache-2.0
"""The demo itself; tools/demo builds what it needs and starts it."""
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "test"))
os.environ.setdefault("CAISSON_BUILD", os.path.join(ROOT, "build", "release"))

from harness.daemon import BIN, Daemon, remove_tree  # noqa: E402
from harness.handler import GUEST, VM_CONFIG  # noqa: E402
from harness.images import Image  # noqa: E402
from harness.leaks import Leaks  # noqa: E402
from harness.pods import Pods  # noqa: E402
from harness.registry import Registry  # noqa: E402

STARTED = time.monotonic()


def say(text):
    print(f"\033[1m==> [{time.monotonic() - STARTED:5.2f}s] {text}\033[0m" if sys.stdout.isatty()
          else f"==> [{time.monotonic() - STARTED:5.2f}s] {text}", flush=True)


def caisson(daemon, *args, check=True):
    print(f"    $ caisson {' '.join(args)}", flush=True)
    done = subprocess.run([f"{BIN}/caisson", "--socket", daemon.socket, *args], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120)
    for line in done.stdout.rstrip().split("\n"):
        print(f"      {line}", flush=True)
    if check and done.returncode != 0:
        raise SystemExit(f"caisson {args[0]} failed with {done.returncode}")
    return done.stdout


def get_image(daemon, folder, use_registry):
    image = Image(config={"Cmd": ["sh"]})
    if not use_registry:
        say("importing a small image from an OCI layout")
        image.write_layout(f"{folder}/layout", "docker.io/demo/busybox:1")
        caisson(daemon, "import", f"{folder}/layout")
        return None, "docker.io/demo/busybox:1"
    say("starting a local registry and pushing a small image into it")
    registry = Registry(f"{folder}/registry")
    reference = registry.push(image, "demo/busybox", "1")
    say(f"pulling {reference} through the CRI")
    caisson(daemon, "pull", reference)
    return registry, reference


def show_pods(daemon, pods):
    say("running a pod with two containers on a CNI bridge network")
    web = pods.run_pod(name="web")
    server = pods.start(web, ["sh", "-c", "mkdir /www; echo \"hello from $(hostname)\" >/www/index.html; "
                              "echo serving; exec httpd -f -v -p 8080 -h /www"], name="server")
    sidecar = pods.start(web, ["sh", "-c", "until wget -q -O - http://127.0.0.1:8080/; do usleep 10000; done; "
                               "echo 'seen from the same pod'; sleep 1000"], name="sidecar")
    caisson(daemon, "pods")
    caisson(daemon, "ps")
    say("the pod's address, answering from another pod")
    ip = daemon.client.PodSandboxStatus(pod_sandbox_id=web[0]).status.network.ip
    client = pods.run_pod(name="client")
    print("      " + pods.out(client, ["wget", "-q", "-O", "-", f"http://{ip}:8080/"]).strip(), flush=True)
    say("logs, exec, stats")
    caisson(daemon, "logs", server)
    caisson(daemon, "logs", sidecar)
    caisson(daemon, "exec", server, "ps")
    caisson(daemon, "stats")
    say("where the time of that pod's start went")
    caisson(daemon, "explain", "web")


def build_guest():
    """Whether there is a guest image for VMs, and if not, why."""
    done = subprocess.run([f"{ROOT}/tools/build-guest", "--agent", f"{BIN}/caisson-agent", "--output", GUEST], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, timeout=600)
    return (done.stderr.strip().split("\n") or [""])[-1] if done.returncode else ""


def show_vm(daemon, reference):
    say("building the guest of VM pods")
    missing = build_guest()
    if missing:
        print(f"      no VM pod here: {missing}", flush=True)
        return
    say("a native pod's kernel is the host's, a VM pod's is its own")
    native = caisson(daemon, "run", "--rm", reference, "uname", "-r")
    guest = caisson(daemon, "run", "--rm", "--handler", "caisson-vm", reference, "uname", "-r")
    if native == guest:
        raise SystemExit("the VM pod has the host's kernel")


def main():
    use_registry = "--no-registry" not in sys.argv
    folder = tempfile.mkdtemp(prefix="caisson-demo-")
    leaks = Leaks(os.path.basename(folder))
    registry = daemon = None
    try:
        say("starting caissond on a private root and socket")
        daemon = Daemon(folder, config=VM_CONFIG)
        registry, reference = get_image(daemon, folder, use_registry)
        pods = Pods(daemon, reference)
        show_pods(daemon, pods)
        show_vm(daemon, reference)
        say("stopping and removing everything")
        pods.remove_all()
    finally:
        if daemon:
            daemon.destroy()
        if registry:
            registry.stop()
        left = leaks.check()
        remove_tree(folder)
    if left:
        raise SystemExit(f"left behind: {json.dumps(left, indent=2)}")
    say("done; nothing is left behind")


main()
