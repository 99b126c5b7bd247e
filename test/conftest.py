# SPDX-License-Identifier: Apache-2.0
import os
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from harness.daemon import Daemon, remove_tree  # noqa: E402
from harness.handler import VMS, missing_for_vms  # noqa: E402
from harness.images import Image  # noqa: E402
from harness.leaks import Leaks  # noqa: E402
from harness.pods import Pods  # noqa: E402
from harness.registry import Registry  # noqa: E402

if os.getuid() != 0:
    pytest.exit("the system tests start containers: run them as root", 0)


def pytest_configure(config):
    config.addinivalue_line("markers", "native(reason): about what a pod that is a virtual machine does not have, or has otherwise")
    if VMS and missing_for_vms():
        pytest.exit(missing_for_vms(), 77)


def pytest_collection_modifyitems(items):
    for item in items:
        mark = item.get_closest_marker("native")
        if VMS and mark:
            item.add_marker(pytest.mark.skip(reason=mark.args[0]))


@pytest.fixture(scope="session")
def registry():
    folder = tempfile.mkdtemp(prefix="caisson-registry-")
    registry = Registry(folder)
    registry.busybox_image = Image()
    registry.busybox = registry.push(registry.busybox_image, "library/busybox", "1")
    yield registry
    registry.stop()
    remove_tree(folder)


@pytest.fixture
def folder():
    path = tempfile.mkdtemp(prefix="caisson-test-")
    yield path
    remove_tree(path)


@pytest.fixture
def make_daemon(registry):
    """make_daemon(config=…, cni=…, args=…) -> Daemon, destroyed and checked for leaks at the end of the test."""
    yield from _make_daemons()


@pytest.fixture
def alone(make_daemon, registry):
    """A daemon for one test, with busybox pulled."""
    daemon = make_daemon()
    daemon.pull_busybox(registry)
    return daemon


def _make_daemons():
    made = []

    def make(**options):
        path = tempfile.mkdtemp(prefix="caisson-test-")
        leaks = Leaks(os.path.basename(path))
        daemon = Daemon(path, **options)
        made.append((daemon, leaks, path))
        return daemon

    yield make
    for daemon, leaks, path in made:
        daemon.destroy()
        left = leaks.check() + sorted(daemon.links_left)
        remove_tree(path)
        assert not left, left


@pytest.fixture(scope="module")
def folder_of_module():
    path = tempfile.mkdtemp(prefix="caisson-test-")
    yield path
    remove_tree(path)


@pytest.fixture(scope="module")
def make_module_daemon(registry):
    """As make_daemon, for all tests of a file."""
    yield from _make_daemons()


@pytest.fixture(scope="module")
def daemon(registry):
    """One daemon for the tests of a file, with busybox pulled. At the end nothing may be left."""
    path = tempfile.mkdtemp(prefix="caisson-test-")
    leaks = Leaks(os.path.basename(path))
    daemon = Daemon(path)
    daemon.pull_busybox(registry)
    yield daemon
    daemon.destroy()
    left = leaks.check() + sorted(daemon.links_left)
    remove_tree(path)
    assert not left, left


@pytest.fixture
def pods(daemon):
    """Pods of one test on the module's daemon; removed when the test ends."""
    with Pods(daemon) as pods:
        yield pods
