# SPDX-License-Identifier: Apache-2.0
"""GetContainerEvents, and the lists that come in parts."""
import json
import os
import signal
import threading

import grpc
import pytest
from harness.pods import Pods

CREATED, STARTED, STOPPED, DELETED = range(4)


class Listener:
    """A client of GetContainerEvents with all that it was told."""

    def __init__(self, daemon):
        self.events, self.error = [], None
        self._changed = threading.Condition()
        self._call = daemon.client.GetContainerEvents(deadline=600)
        self._call.initial_metadata()  # it listens now
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        try:
            for event in self._call:
                with self._changed:
                    self.events.append(event)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            self.error = error

    def wait(self, kind, object_id):
        with self._changed:
            assert self._changed.wait_for(lambda: (kind, object_id) in self.kinds(), 20), self.kinds()

    def kinds(self, object_id=None):
        all_of = [(e.container_event_type, e.container_id) for e in self.events]
        return all_of if object_id is None else [kind for kind, of in all_of if of == object_id]

    def end(self):
        self._call.cancel()
        self.join()

    def join(self):
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_a_pods_life(alone):
    pods = Pods(alone)
    listener, other = Listener(alone), Listener(alone)
    pod = pods.run_pod()
    ended = pods.start(pod, ["sh", "-c", "exit 3"])
    pods.wait_exit(ended)
    unstarted = pods.create(pod, ["true"])
    alone.client.RemoveContainer(container_id=ended)
    alone.client.RemoveContainer(container_id=unstarted)
    alone.client.StopPodSandbox(pod_sandbox_id=pod[0])
    alone.client.RemovePodSandbox(pod_sandbox_id=pod[0])
    for heard in (listener, other):
        heard.wait(DELETED, pod[0])
        assert heard.kinds(ended) == [CREATED, STARTED, STOPPED, DELETED]
        assert heard.kinds(unstarted) == [CREATED, STOPPED, DELETED]  # it ended without a start
        assert heard.kinds(pod[0]) == [CREATED, STARTED, STOPPED, DELETED]
        times = [e.created_at for e in heard.events]
        assert times == sorted(times)
        stopped = next(e for e in heard.events if (e.container_event_type, e.container_id) == (STOPPED, ended))
        assert stopped.pod_sandbox_status.id == pod[0]
        assert [(s.id, s.exit_code, s.state) for s in stopped.containers_statuses] == [(ended, 3, 2)]
        heard.end()


@pytest.mark.native("it kills a container by its pid, which is the guest's")
def test_nothing_is_lost_or_told_twice_across_a_restart(alone):
    pods = Pods(alone)
    listener = Listener(alone)
    pod = pods.run_pod()
    first = pods.start(pod, ["sh", "-c", "while :; do usleep 10000; done"])
    second = pods.start(pod, ["sleep", "1000"])
    listener.wait(STARTED, second)
    info = alone.client.ContainerStatus(container_id=first, verbose=True).info["info"]
    pid = json.loads(info)["pid"]
    alone.kill()
    os.kill(pid, signal.SIGKILL)
    alone.start()
    pods = Pods(alone)
    pods.wait_exit(first)
    back = Listener(alone)
    back.wait(STOPPED, first)
    alone.client.StopContainer(container_id=second, timeout=0)
    back.wait(STOPPED, second)
    assert back.kinds() == [(STOPPED, first), (STOPPED, second)]
    back.end()


def test_the_daemon_ends_beside_a_listener(alone):
    listener = Listener(alone)
    alone.process.terminate()
    alone.process.wait(30)
    listener.join()
    assert listener.error is not None and listener.error.code() == grpc.StatusCode.UNAVAILABLE
    alone.stop()
    alone.start()


def test_lists_in_parts(alone):
    pods = Pods(alone)
    pod = pods.run_pod(labels={"in": "parts"})
    big = "x" * 200_000
    made = [pods.create(pod, ["true"], annotations={"big": big}) for _ in range(12)]
    running = pods.start(pod, ["sleep", "1000"])
    client = alone.client
    parts = list(client.StreamContainers(filter={"pod_sandbox_id": pod[0]}))
    assert len(parts) > 1 and all(part.ByteSize() < 2 << 20 for part in parts)
    listed = [c for part in parts for c in part.containers]
    assert listed == list(client.ListContainers(filter={"pod_sandbox_id": pod[0]}).containers)
    assert [c.id for c in listed] == [*made, running]
    assert [p.id for part in client.StreamPodSandboxes(filter={"label_selector": {"in": "parts"}}) for p in part.pod_sandboxes] == [pod[0]]
    assert [i.id for part in client.StreamImages() for i in part.images] == [i.id for i in client.ListImages().images]
    assert [s.attributes.id for part in client.StreamContainerStats() for s in part.container_stats] == [running]
    assert [s.attributes.id for part in client.StreamPodSandboxStats() for s in part.pod_sandbox_stats] == [pod[0]]
    assert list(client.StreamContainers(filter={"id": "0" * 64})) == []
