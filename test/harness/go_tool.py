# SPDX-License-Identifier: Apache-2.0
"""Programs that are built from Go modules: a folder's go.mod names them as its tools and pins what they need."""
import os
import shutil
import subprocess


class Unavailable(Exception):
    """Go or the modules are not to be had on this machine; the text says which and why."""


# Not inlined and without DWARF, which nobody reads here, a build takes a third less.
QUICK = ["-gcflags=all=-dwarf=false -l", "-ldflags", "-s -w"]


def build(package, module, path, verb=("build",), env=None, seconds=600):
    """`path`: the program of the package, built by the go.mod in the folder `module` unless it is there already."""
    if os.path.exists(path):
        return path
    name = os.path.basename(path)
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if not go:
        raise Unavailable(f"{name} cannot be built: no Go toolchain here")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        done = subprocess.run(["nice", go, *verb, *QUICK, "-o", path, package], cwd=module, env={**os.environ, **(env or {})},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{name} cannot be built here: its modules did not come within {seconds} s") from None
    if done.returncode != 0:
        raise Unavailable(f"{name} cannot be built here:\n{done.stdout[-2000:]}")
    return path
