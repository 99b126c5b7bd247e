# SPDX-License-Identifier: Apache-2.0
import pytest

from harness.vm import VmPods, need_guest, vm_daemon_of


@pytest.fixture(scope="module")
def vm_daemon(make_module_daemon, registry):
    """One daemon for the tests of a file, whose handler caisson-vm boots this build's guest."""
    need_guest()
    return vm_daemon_of(make_module_daemon, registry)


@pytest.fixture
def vm_pods(vm_daemon):
    """Pods of one test, removed when it ends."""
    pods = VmPods(vm_daemon)
    yield pods
    pods.remove_all()
