# SPDX-License-Identifier: Apache-2.0
"""supplementalGroupsPolicy (KEP-3619): which groups a container's processes have, and that its status says the same."""
import grpc
import pytest

MERGE, STRICT = 0, 1
# What is asked; uid, gid and the groups it comes to. The image's /etc/group has web (1000) in 2000 and 2001.
CASES = {
    "merge by name": ({"run_as_username": "web"}, MERGE, 1000, 1000, {1000, 2000, 2001}),
    "merge by number": ({"run_as_user": {"value": 1000}}, MERGE, 1000, 1000, {1000, 2000, 2001}),
    "merge with more": ({"run_as_user": {"value": 1000}, "supplemental_groups": [3000, 2000]}, MERGE, 1000, 1000, {1000, 2000, 2001, 3000}),
    "merge with a group": ({"run_as_user": {"value": 1000}, "run_as_group": {"value": 4000}}, MERGE, 1000, 4000, {4000, 2000, 2001}),
    "merge without an entry": ({"run_as_user": {"value": 7777}, "supplemental_groups": [3000]}, MERGE, 7777, 0, {0, 3000}),
    "strict by name": ({"run_as_username": "web"}, STRICT, 1000, 1000, {1000}),
    "strict by number": ({"run_as_user": {"value": 1000}, "supplemental_groups": [3000]}, STRICT, 1000, 1000, {1000, 3000}),
    "strict with a group": ({"run_as_user": {"value": 1000}, "run_as_group": {"value": 4000}, "supplemental_groups": [2001]}, STRICT, 1000, 4000, {4000, 2001}),
}


def security(fields, policy):
    return {"linux": {"security_context": {**fields, "supplemental_groups_policy": policy}}}


def identity(text):
    lines = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return int(lines["Uid"].split()[0]), int(lines["Gid"].split()[0]), {int(group) for group in lines["Groups"].split()}


@pytest.mark.parametrize("case", CASES)
def test_groups(pods, case):
    """The program's, those of what is executed in its container, and those of the status are the same."""
    fields, policy, uid, gid, groups = CASES[case]
    pod = pods.run_pod(host_network=True)
    container = pods.start(pod, ["sleep", "1000"], **security(fields, policy))
    for pid in ("1", "self"):
        assert identity(pods.exec(container, ["cat", f"/proc/{pid}/status"])[1]) == (uid, gid, groups)
    user = pods.status(container).user.linux
    assert (user.uid, user.gid, set(user.supplemental_groups)) == (uid, gid, groups)
    assert len(user.supplemental_groups) == len(groups)


def test_an_unknown_policy_is_refused(pods):
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pods.run_pod(host_network=True), ["true"], **security({"run_as_username": "web"}, 2))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "supplemental_groups_policy 2" in error.value.details()


def test_the_feature_is_reported(daemon):
    assert daemon.client.Status().features.supplemental_groups_policy
