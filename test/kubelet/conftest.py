# SPDX-License-Identifier: Apache-2.0
import contextlib
import os
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import node as nodes  # noqa: E402
from harness.daemon import remove_tree  # noqa: E402
from harness.go_tool import Unavailable  # noqa: E402
from harness.leaks import Leaks  # noqa: E402


@pytest.fixture(scope="session")
def kubelet_program():
    missing = nodes.missing_controllers()
    if missing:
        pytest.skip(f"a kubelet needs the controllers {missing} in /sys/fs/cgroup/cgroup.subtree_control")
    try:
        return nodes.build()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def make_node(kubelet_program, registry):
    """make_node(features) is a context of a node; at its end nothing may be left."""
    @contextlib.contextmanager
    def make(features=None, **config):
        path = tempfile.mkdtemp(prefix="caisson-kubelet-")
        leaks = Leaks(os.path.basename(path))
        node = nodes.Node(kubelet_program, path, registry.busybox, features, **config)
        try:
            yield node
        finally:
            left = node.close()
            left += leaks.check() + sorted(node.daemon.links_left)
            remove_tree(path)
        assert not left, left

    return make
