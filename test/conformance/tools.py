# SPDX-License-Identifier: Apache-2.0
"""crictl and critest, built from their Go modules (go.mod) once per build folder."""
import os
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
VERBS = {"crictl": ["build"], "critest": ["test", "-c"]}


class Unavailable(Exception):
    """Go or the modules are not to be had on this machine; the text says which and why."""


def build(name, folder):
    """The path of `name`, built below `folder` if it is not there yet."""
    path = f"{folder}/conformance/{name}"
    if os.path.exists(path):
        return path
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if not go:
        raise Unavailable(f"{name} cannot be built: no Go toolchain here")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        done = subprocess.run([go, *VERBS[name], "-o", path, f"sigs.k8s.io/cri-tools/cmd/{name}"], cwd=HERE,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{name} cannot be built here: its modules did not come within 600 s") from None
    if done.returncode != 0:
        raise Unavailable(f"{name} cannot be built here:\n{done.stdout[-2000:]}")
    return path
