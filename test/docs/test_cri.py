# SPDX-License-Identifier: Apache-2.0
"""docs/cri.md is true: it has a row for each verb of the .proto, and says `not yet` of those, and only those, that a daemon
answers with UNIMPLEMENTED. When a verb begins to be served, its row changes with it."""
import os
import re

import grpc
import pytest
from harness.cri import api

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
with open(f"{ROOT}/docs/cri.md") as page:
    SECTIONS = dict(part.split("\n", 1) for part in page.read().split("\n## ")[1:])


def rows(section):
    """{verb: state} of a section's table."""
    found = re.findall(r"^\| (\w+) \| (served|not yet) \|", SECTIONS[section], re.MULTILINE)
    assert len(found) == len(dict(found)), "a verb has two rows"
    return dict(found)


STREAMS = {method.name for methods in api().services.values() for method in methods if method.server_streaming}
VERBS = [(service, method.name) for service in ("RuntimeService", "ImageService") for method in api().services[service]]


@pytest.mark.parametrize("service", ["RuntimeService", "ImageService"])
def test_a_row_for_each_verb_of_the_proto(service):
    assert set(rows(service)) == {method.name for method in api().services[service]}


def answer(daemon, verb):
    """The status code of an empty request; OK of a stream that gives nothing for a second."""
    try:
        reply = getattr(daemon.client, verb)(deadline=1 if verb in STREAMS else 30)
        for _ in reply if verb in STREAMS else ():
            break
        return grpc.StatusCode.OK, ""
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and verb in STREAMS:
            return grpc.StatusCode.OK, ""
        return error.code(), error.details()


@pytest.mark.parametrize("service, verb", VERBS, ids=[verb for _, verb in VERBS])
def test_state(daemon, service, verb):
    code, text = answer(daemon, verb)
    assert (code == grpc.StatusCode.UNIMPLEMENTED) == (rows(service)[verb] == "not yet"), (
        f"{verb} answers {code} ({text}); docs/cri.md says: {rows(service)[verb]}")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        assert verb in text


# A request with each field of the page's last table: of the pod's configuration, of the container's.
FIELDS = {
    "user namespaces": ({"linux": {"security_context": {"namespace_options": {
        "userns_options": {"mode": 0, "uids": [{"host_id": 100000, "container_id": 0, "length": 65536}],
                           "gids": [{"host_id": 100000, "container_id": 0, "length": 65536}]}}}}}, {}),
    "image volumes": ({}, {"mounts": [{"container_path": "/x", "image": {"image": "127.0.0.1:1/x:1"}}]}),
    "id-mapped image volumes": ({}, {"mounts": [{"container_path": "/x", "image": {"image": "127.0.0.1:1/x:1"},
                                                 "uidMappings": [{"host_id": 1000, "container_id": 0, "length": 1}]}]}),
    "id-mapped mounts": ({}, {"mounts": [{"container_path": "/x", "host_path": "/etc",
                                          "uidMappings": [{"host_id": 1000, "container_id": 0, "length": 1}],
                                          "gidMappings": [{"host_id": 1000, "container_id": 0, "length": 1}]}]}),
    "CDI devices": ({}, {"CDI_devices": [{"name": "vendor.example/class=device"}]}),
}


def test_a_request_for_each_refused_field():
    named = re.findall(r"^\| ([\w -]+) \(`.*not yet \|$", SECTIONS["What of a request is refused"], re.MULTILINE)
    assert set(named) <= set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_refused_field(pods, field):
    """What the page names is refused with that code; what it no longer names is not."""
    pod_part, container_part = FIELDS[field]
    named = f"| {field} (" in SECTIONS["What of a request is refused"]
    try:
        pods.create(pods.run_pod(host_network=True, **pod_part), ["true"], **container_part)
        code, text = grpc.StatusCode.OK, ""
    except grpc.RpcError as error:
        code, text = error.code(), error.details()
    assert (code == grpc.StatusCode.UNIMPLEMENTED) == named, (field, code, text)
    assert not named or "not supported" in text
