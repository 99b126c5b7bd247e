# SPDX-License-Identifier: Apache-2.0
"""Pulls through the CRI from a registry that refuses, hangs or lies: the error says what it did, and nothing stays."""
import os
import subprocess
import sys
import time

import grpc
import pytest

CODE = grpc.StatusCode
SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "registry_fault.py")


@pytest.fixture(scope="module")
def faulty():
    """host:port of the registry that misbehaves."""
    server = subprocess.Popen([sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield f"127.0.0.1:{server.stdout.readline().strip()}"
    server.stdin.close()
    server.wait(10)


@pytest.fixture(scope="module")
def patient(make_module_daemon):
    return make_module_daemon()


@pytest.fixture(scope="module")
def impatient(make_module_daemon):
    """A daemon that waits for no byte longer than a second."""
    return make_module_daemon(config="[images]\nstall_timeout_seconds = 1\n")


# Repository (the fault's name), code, words of the error.
FAULTS = [
    ("forbidden", (CODE.PERMISSION_DENIED, CODE.UNAUTHENTICATED), ["denied"]),
    ("token-refused", (CODE.UNAUTHENTICATED, CODE.PERMISSION_DENIED), []),
    ("busy-for-hours", (CODE.UNAVAILABLE, CODE.RESOURCE_EXHAUSTED), ["429"]),
    ("down", CODE.UNAVAILABLE, ["500"]),
    ("loop", CODE.FAILED_PRECONDITION, ["redirects"]),
    ("lying-header", CODE.DATA_LOSS, ["sha256:"]),
    ("short", (CODE.DATA_LOSS, CODE.UNAVAILABLE), ["sha256:"]),
    ("long", (CODE.DATA_LOSS, CODE.RESOURCE_EXHAUSTED), ["sha256:"]),
    ("altered", CODE.DATA_LOSS, ["sha256:", "digest"]),
    ("schema1", (CODE.UNIMPLEMENTED, CODE.INVALID_ARGUMENT), ["schema"]),
    ("huge", (CODE.RESOURCE_EXHAUSTED, CODE.INVALID_ARGUMENT), []),
]


def left(daemon):
    root = f"{daemon.root}/images"
    return [name for folder in ("ingest", "s") for name in os.listdir(f"{root}/{folder}")] + sorted(
        set(os.listdir(f"{root}/l")) - {"empty"})


def fails(daemon, reference):
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.PullImage(image={"image": reference}, auth={"username": "user", "password": "s3cr3t-word"}, deadline=60)
    text = error.value.details()
    assert reference in text, text
    assert "s3cr3t-word" not in text + daemon.log_text()
    assert len(daemon.client.ListImages().images) == 0
    return error.value.code(), text


@pytest.mark.parametrize("repository, codes, words", FAULTS, ids=[fault[0] for fault in FAULTS])
def test_fault(patient, faulty, repository, codes, words):
    code, text = fails(patient, f"{faulty}/{repository}:latest")
    assert code in (codes if isinstance(codes, tuple) else (codes,)), (code, text)
    for word in [faulty, *words]:
        assert word in text, text
    assert left(patient) == []


def test_other_bytes_under_a_digest(patient, faulty):
    """The manifest has a digest that is not the one asked for."""
    code, text = fails(patient, f"{faulty}/other-bytes@sha256:{'ab' * 32}")
    assert code == CODE.DATA_LOSS and "ab" * 32 in text, (code, text)
    assert left(patient) == []


@pytest.mark.parametrize("repository", ["silent", "drip-layer"])
def test_slow(impatient, faulty, repository):
    """One says nothing at all, one a byte now and then: neither holds a pull for ever. Nothing of the second is believed."""
    begin = time.monotonic()
    code, text = fails(impatient, f"{faulty}/{repository}:latest")
    assert code in (CODE.UNAVAILABLE, CODE.DEADLINE_EXCEEDED), text
    assert "stalled" in text and time.monotonic() - begin < 59
