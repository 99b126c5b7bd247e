# SPDX-License-Identifier: Apache-2.0
"""crictl, critest and ginkgo, built from their Go modules (go.mod) once per build folder."""
import os

from harness import go_tool
from harness.go_tool import Unavailable  # noqa: F401

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGES = {"crictl": "sigs.k8s.io/cri-tools/cmd/crictl", "critest": "sigs.k8s.io/cri-tools/cmd/critest",
            "ginkgo": "github.com/onsi/ginkgo/v2/ginkgo"}
VERBS = {"critest": ["test", "-c"]}


def build(name, folder):
    """The path of `name`, built below `folder` if it is not there yet."""
    return go_tool.build(PACKAGES[name], HERE, f"{folder}/conformance/{name}", VERBS.get(name, ["build"]))
