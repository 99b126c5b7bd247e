# SPDX-License-Identifier: Apache-2.0
"""The tests that docs/attacks.md names are there."""
import glob
import os
import re

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def existing():
    names = set()
    for path in glob.glob(f"{REPO}/src/**/*_test.cc", recursive=True):
        names |= {f"{suite}.{name}" for suite, name in re.findall(r"^TEST(?:_F|_P)?\((\w+),\s*(\w+)\)", read(path), re.M)}
    for path in glob.glob(f"{REPO}/test/*/test_*.py"):
        stem = os.path.basename(path)[len("test_"):-len(".py")]
        names |= {f"{stem}::{name}" for name in re.findall(r"^def test_(\w+)", read(path), re.M)}
    return names


def test_each_named_test_exists():
    named = re.findall(r"`(\w+(?:\.|::)\w+)`", "".join(
        line for line in read(f"{REPO}/docs/attacks.md").splitlines() if line.startswith("| ") and not line.startswith("|---")))
    assert len(named) > 100
    missing = set(named) - existing()
    assert not missing
