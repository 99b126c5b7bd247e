# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed at random moments while many pods come and go. Whatever it was at: the next one finds all of
it, can remove all of it, and nothing of it is left. CAISSON_KILL_SEED repeats a run, CAISSON_KILLS makes it longer."""
import os
import random
import threading
import time

import grpc
from harness.pods import Pods
from harness.registry import wait_for

KILLS = int(os.environ.get("CAISSON_KILLS", "6"))
WORKERS = 6
PODS = 30


def life(daemon, client, number, config, dice):
    """A pod from RunPodSandbox to RemovePodSandbox, all at once or with a container; the daemon may die at any point."""
    pods = Pods(daemon)
    pods.client = client
    pod = pods.run_pod(config)
    for name in range(dice.randrange(3)):
        container = pods.create(pod, ["sh", "-c", "echo started; sleep 4711"], name=f"c{name}")
        client.StartContainer(container_id=container)
        if dice.random() < 0.3:
            client.StopContainer(container_id=container, timeout=0)
        if dice.random() < 0.3:
            client.RemoveContainer(container_id=container)
    if dice.random() < 0.7:
        client.StopPodSandbox(pod_sandbox_id=pod[0])
    if dice.random() < 0.9:
        client.RemovePodSandbox(pod_sandbox_id=pod[0])


class Load:
    """Workers that make and remove pods until the daemon is gone. Errors other than its death are kept."""

    def __init__(self, daemon, seed):
        self.daemon, self.client = daemon, daemon.client
        self.numbers, self.lock, self.errors, self.killed = list(range(PODS)), threading.Lock(), [], False
        self.threads = [threading.Thread(target=self.work, args=(random.Random(seed * 100 + i),)) for i in range(WORKERS)]
        for thread in self.threads:
            thread.start()

    def work(self, dice):
        while not self.killed:
            with self.lock:
                if not self.numbers:
                    return
                number = self.numbers.pop()
            try:
                life(self.daemon, self.client, number, Pods(self.daemon).pod_config(), dice)
            except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed with the daemon
                if self.killed:
                    return
                code = error.code() if isinstance(error, grpc.RpcError) else None
                if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    self.errors.append(error.details() if code else repr(error))

    def join(self):
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


def test_killed_at_random_moments(make_daemon, registry):
    seed = int(os.environ.get("CAISSON_KILL_SEED", time.time_ns() % 1_000_000))
    print(f"CAISSON_KILL_SEED={seed}")
    dice = random.Random(seed)
    daemon = make_daemon()
    daemon.pull_busybox(registry)
    for turn in range(KILLS):
        load = Load(daemon, seed + turn)
        load.threads[0].join(dice.uniform(0.005, 1.0))
        load.killed = True
        daemon.kill()
        load.join()
        assert load.errors == [], load.errors
        daemon.start()
        known = {pod.id: pod.state for pod in daemon.client.ListPodSandbox().items}
        owners = {container.pod_sandbox_id for container in daemon.client.ListContainers().containers}
        assert owners <= set(known)
        if turn % 2:
            expect_nothing_left(daemon)
    expect_nothing_left(daemon)


def expect_nothing_left(daemon):
    """Of the pods that are known and of those whose creation was cut short."""
    daemon.remove_all()
    try:
        wait_for("nothing is left", lambda: not daemon.leaks_of_pods(), 20)
    except TimeoutError:
        raise AssertionError(daemon.leaks_of_pods()) from None


def test_containers_made_while_their_pod_is_removed(daemon, pods):
    """Whoever comes first: nothing stays behind that belongs to no pod."""
    for _ in range(8):
        pod = pods.run_pod(host_network=True)
        made = []

        def make(worker):
            for number in range(50):
                try:
                    made.append(pods.create(pod, ["true"], name=f"c{worker}-{number}"))
                except grpc.RpcError:
                    return
        makers = [threading.Thread(target=make, args=(worker,)) for worker in range(4)]
        for maker in makers:
            maker.start()
        wait_for("a first container", lambda: made)
        daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
        daemon.client.RemovePodSandbox(pod_sandbox_id=pod[0])
        for maker in makers:
            maker.join()
        pods.made.clear()
        assert len(daemon.client.ListContainers().containers) == 0
    assert daemon.leaks_of_pods() == []
