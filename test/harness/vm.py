# SPDX-License-Identifier: Apache-2.0
"""Pods that are virtual machines. They need the guest image that tools/build-guest makes beside the build, QEMU and mkfs.erofs."""
import json

import pytest

from .daemon import cli
from .handler import GUEST, VM_CONFIG, VMS, missing_for_vms  # noqa: F401
from .pods import Pods
from .registry import wait_for

# Under emulation, on a busy host.
BOOT_SECONDS = 120
TEMPLATE_SECONDS = 3 * BOOT_SECONDS  # it gives way to the others


def need_guest():
    if missing_for_vms():
        pytest.skip(missing_for_vms())


def vm_daemon_of(make, registry, config="", tables=True):
    """A daemon whose handler caisson-vm boots this build's guest, with busybox pulled. Without `tables` the config has the handler's."""
    daemon = make(config=config + (VM_CONFIG if tables and not VMS else ""))
    daemon.pull_busybox(registry)
    return daemon


class VmPods(Pods):
    """As Pods, but each is a VM unless said otherwise."""

    def run_pod(self, config=None, handler="caisson-vm", **options):
        return super().run_pod(config, handler, **options)


def info_of(daemon, pod):
    """The verbose status of a pod."""
    return json.loads(daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])


def templates_of(daemon):
    done = cli(daemon, "template", "ls", "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout).get("templates", [])


def await_template(daemon, state="ready", count=1):
    """The templates, once there are so many in that state."""
    def there():
        found = [one for one in templates_of(daemon) if one["state"] == state]
        return found if len(found) == count else None
    return wait_for(f"{count} templates are {state}", there, TEMPLATE_SECONDS)


def warm_of(daemon):
    """How many machines wait for a pod."""
    return json.loads(cli(daemon, "template", "ls", "-o", "json").stdout).get("warm", 0)


def await_warm(daemon, count=1):
    wait_for(f"{count} machines wait for a pod", lambda: warm_of(daemon) == count, TEMPLATE_SECONDS)


def alive(pid):
    """Whether there is such a process that is no zombie and is not being reaped."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(child) for child in f.read().split()]


def vmm_of(daemon, pod):
    """The pid of a pod's VMM, the only child of its companion."""
    vmm, = children_of(info_of(daemon, pod)["companionPid"])
    return vmm
