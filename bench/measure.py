# SPDX-License-Identifier: Apache-2.0
"""The measurements. Every round visits each runtime in turn, so that a noisy minute hits all of them."""
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time

import images
from harness.registry import Registry
from peers import BIN, CNI_BIN, Caisson, Containerd, cgroup_processes, kill_all, remove_cgroups, settle

PODS_A_ROUND = 3
STREAMS_A_ROUND = 5
FILL = 50
LOG_FILE, LOG_TIMES = 64 << 20, 4


class Results:
    """Samples by row and runtime; facts are notes that go below the table."""

    def __init__(self):
        self.samples, self.facts, self.versions, self.load = {}, [], {}, 0.0

    def add(self, row, name, value):
        self.samples.setdefault(row, {}).setdefault(name, []).append(value)

    def median(self, row, name):
        values = self.samples.get(row, {}).get(name)
        return statistics.median(values) if values else None


def pss(pid):
    """Proportional set size in KiB; 0 for a process that is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            for line in f:
                if line.startswith("Pss:"):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


def run(names, rows, rounds, done):
    """Measures and calls done(results) before all is taken away, which on a slow disk takes minutes."""
    folder = tempfile.mkdtemp(prefix="caisson-bench-")
    registry, runtimes, results = None, [], Results()
    results.load = os.getloadavg()[0]
    try:
        registry = Registry(f"{folder}/registry")
        small = registry.push(images.small(), "bench/small", "1")
        pause = registry.push(images.pause(), "bench/pause", "1")
        for name in names:
            runtime = Caisson(folder, registry, pause) if name == "caisson" else Containerd(folder, name, registry, pause)
            runtimes.append(runtime)
            runtime.start()
            runtime.bench("pull", image=small)
            runtime.bench("pods", 1, "pod", image=small)  # the first pulls the sandbox image, fills caches
            results.versions[name] = runtime.version()
        for row, measure in (("pods", pods), ("parallel", parallel), ("memory", memory), ("streams", streams), ("log", log),
                             ("pull", pull)):
            if row in rows or (row == "memory" and "stats" in rows):
                print(f"measuring: {row}", flush=True)
                measure(runtimes, results, rounds, dict(small=small, registry=registry, folder=folder))
        if "pods" in rows:
            cni_floor(folder, results)
        if "launcher" in rows:
            print("measuring: launcher", flush=True)
            launcher(names, results, folder, rounds)
        done(results)
    finally:
        with contextlib.ExitStack() as undo:  # each is done, whatever another throws
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            if registry:
                undo.callback(registry.stop)
            for runtime in runtimes:
                undo.callback(runtime.destroy)


def pods(runtimes, results, rounds, env):
    for number in range(rounds):
        for network in ("pod", "node"):
            for runtime in runtimes:
                for sample in runtime.bench("pods", PODS_A_ROUND, network, image=env["small"]):
                    results.add(f"start {network}", runtime.name, sample["start"])
                    results.add(f"teardown {network}", runtime.name, sample["teardown"])
                    for step in ("run", "create", "start_container"):
                        results.add(f"{step} {network}", runtime.name, sample[step])
                    results.add("exec", runtime.name, sample["exec"])
                    results.add("stop", runtime.name, sample["stop"])
        print(f"  round {number + 1} of {rounds}", flush=True)


def parallel(runtimes, results, rounds, env):
    for _ in range(max(3, rounds // 2)):
        for runtime in runtimes:
            results.add("parallel", runtime.name, runtime.bench("parallel", 20, image=env["small"])[0]["parallel"])


def streams(runtimes, results, rounds, env):
    for _ in range(max(3, rounds)):
        for runtime in runtimes:
            for sample in runtime.bench("streams", STREAMS_A_ROUND, image=env["small"]):
                for row, value in sample.items():
                    results.add(row, runtime.name, value)


def log(runtimes, results, rounds, env):
    path = f"{env['folder']}/log-payload"
    line = b"".join(bytes([97 + i % 26]) for i in range(99)) + b"\n"
    with open(path, "wb") as f:
        f.write(line * (LOG_FILE // len(line)))
    size = os.path.getsize(path) * LOG_TIMES
    for _ in range(max(3, rounds // 2)):
        for runtime in runtimes:
            results.add("log", runtime.name, runtime.bench("log", path, LOG_TIMES, size, image=env["small"])[0]["log"])
    os.unlink(path)


def pull(runtimes, results, rounds, env):
    """Each round pulls an image of its own and keeps it. Nothing is removed in between: ext4 goes around inodes that were
    deleted within the last minutes, one by one, which makes a pull after a removal many times slower for any runtime."""
    print("  making the layers", flush=True)
    layers = images.Layers()
    for number in range(3):
        image, raw, packed = layers.image(number)
        reference = env["registry"].push(image, f"bench/big{number}", "1")
        for runtime in runtimes:
            settle()
            results.add("pull", runtime.name, runtime.bench("pull", image=reference)[0]["pull"])
        results.add("pull", "floor", gunzip(image, env["folder"]))
    results.facts.append(f"The pulled image has {images.LAYERS} layers of files from /usr, {packed / 1e6:.0f} MB in gzip, "
                         f"{raw / 1e6:.0f} MB unpacked. Its floor is `gzip -dc` of them, one after the other.")


def gunzip(image, folder):
    """Seconds that gzip needs for all layers."""
    took = 0.0
    for layer in json.loads(image.manifest)["layers"]:
        path = f"{folder}/blob"
        with open(path, "wb") as f:
            f.write(image.blobs[layer["digest"]])
        started = time.monotonic()
        subprocess.run(["gzip", "-dc", path], stdout=subprocess.DEVNULL, check=True)
        took += time.monotonic() - started
        os.unlink(path)
    return took


def memory(runtimes, results, rounds, env):
    """A fresh daemon, idle; then with 50 pods: the daemon, and everything beside the containers' own process. One runtime
    at a time: processes of one program share its pages, and each would count only a part of them."""
    for runtime in runtimes:
        runtime.terminate()
    for runtime in runtimes:
        alone(runtime, results)
        runtime.start()
        settle(3)
        before = {pid: pss(pid) for pid in runtime.processes() | {runtime.daemon_pid()}}
        results.add("idle", runtime.name, pss(runtime.daemon_pid()) / 1024)
        runtime.bench("fill", FILL, "pod", image=env["small"])
        settle(3)
        results.add("daemon 50", runtime.name, pss(runtime.daemon_pid()) / 1024)
        total, counts = 0, {}
        for pid in runtime.processes() | {runtime.daemon_pid()}:
            if not is_container(pid, runtime.mark):
                total += pss(pid)
                counts[command(pid)] = counts.get(command(pid), 0) + 1
        results.add("growth", runtime.name, (total - sum(before.values())) / FILL)
        results.facts.append(f"Processes of {runtime.name} with {FILL} pods, beside the containers': " +
                             ", ".join(f"{n} {c}" for c, n in sorted(counts.items())) + ".")
        runtime.bench("stats", 2, image=env["small"])
        for sample in one_by_one(runtime, "stats", 20, 0.6, env):
            for row, count in (("stats", "containers"), ("pod stats", "pods")):
                results.add(row, runtime.name, sample[row])
                if sample[count] < FILL:
                    raise RuntimeError(f"{runtime.name}: {row} of {sample[count]} {count}, not {FILL}")
        if runtime.name == "caisson":
            for sample in one_by_one(runtime, "metrics", 20, 0.6, env):
                results.add("metrics", runtime.name, sample["metrics"])
        # As a kubelet asks, whose next question comes after some seconds.
        for sample in one_by_one(runtime, "stats", 6, 7, env)[1:]:
            results.add("stats seldom", runtime.name, sample["stats"])
            results.add("pod stats seldom", runtime.name, sample["pod stats"])
        if runtime.name == "caisson":
            for sample in one_by_one(runtime, "metrics", 6, 7, env)[1:]:
                results.add("metrics seldom", runtime.name, sample["metrics"])
        runtime.bench("clean")
        runtime.terminate()
    for runtime in runtimes:
        runtime.start()


def one_by_one(runtime, what, count, seconds, env):
    """`count` questions, `seconds` apart: caissond gives one sample out for half a second, and takes the next ahead every 5 s."""
    samples = []
    for _ in range(count):
        samples += runtime.bench(what, 1, image=env["small"])
        time.sleep(seconds)
    return samples


def alone(runtime, results):
    """Notes when a stranger's daemon runs the same program: then the figures of memory are too small."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and command(entry) == os.path.basename(runtime.program):
            results.facts.append(f"Another {runtime.program} ran on this host during the rows of memory, which are too small.")
            return


def is_container(pid, mark):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            words = f.read().split(b"\0")
    except OSError:
        return True
    return words[:2] == [b"/bin/payload", mark.encode()]


def command(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return "?"


def cni_floor(folder, results):
    """ADD and DEL of bridge and portmap alone, by hand, as a runtime must wait for them."""
    name = f"cb{os.getpid() % 10000}-floor"[:15]
    netns = f"caisson-bench-{os.getpid()}"
    base = {"cniVersion": "1.0.0", "name": f"{name}-net"}
    bridge = {**base, "type": "bridge", "bridge": name, "isGateway": True, "ipMasq": True,
              "ipam": {"type": "host-local", "dataDir": f"{folder}/floor-ipam", "ranges": [[{"subnet": "10.189.77.0/24"}]]}}
    portmap = {**base, "type": "portmap", "capabilities": {"portMappings": True}}
    try:
        for number in range(8):
            cni_once(number, bridge, portmap, netns, results)
    finally:
        subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL)


def cni_once(number, bridge, portmap, netns, results):
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        env = {"CNI_CONTAINERID": f"floor{number}", "CNI_NETNS": f"/run/netns/{netns}", "CNI_IFNAME": "eth0",
               "CNI_PATH": CNI_BIN, "PATH": os.environ["PATH"]}
        started = time.monotonic()
        added = cni(bridge, {**env, "CNI_COMMAND": "ADD"})
        cni({**portmap, "prevResult": added}, {**env, "CNI_COMMAND": "ADD"})
        if number > 0:
            results.add("start pod", "floor", (time.monotonic() - started) * 1e3)
        started = time.monotonic()
        cni({**portmap, "prevResult": added}, {**env, "CNI_COMMAND": "DEL"})
        cni({**bridge, "prevResult": added}, {**env, "CNI_COMMAND": "DEL"})
        if number > 0:
            results.add("teardown pod", "floor", (time.monotonic() - started) * 1e3)
    finally:
        subprocess.run(["ip", "netns", "del", netns], check=True)


def cni(config, env):
    done = subprocess.run([f"{CNI_BIN}/{config['type']}"], input=json.dumps(config), stdout=subprocess.PIPE, text=True,
                          env=env, check=True)
    return json.loads(done.stdout) if done.stdout.strip() else {}


def bundle(folder, low):
    """An OCI bundle that `runc spec` made, with the payload in it and the default limits of the other rows."""
    path = f"{folder}/bundle"
    if os.path.isdir(path):
        return path
    os.makedirs(f"{path}/rootfs/bin")
    for name in ("payload", "true"):
        shutil.copy(f"{BIN}/bench_payload", f"{path}/rootfs/bin/{name}")
    subprocess.run([low, "spec", "-b", path], check=True)
    with open(f"{path}/config.json") as f:
        config = json.load(f)
    config["process"].update(terminal=False, args=["/bin/payload"])
    config["linux"]["cgroupsPath"] = f"/caisson-bench-{os.getpid()}-launcher/ctr"
    config["linux"].setdefault("resources", {})["memory"] = {"limit": 256 << 20}
    with open(f"{path}/config.json", "w") as f:
        json.dump(config, f)
    return path


def launcher(names, results, folder, rounds):
    path = bundle(folder, "runc" if shutil.which("runc") or os.path.exists("/usr/sbin/runc") else "crun")
    results.facts.append("The launcher row runs one bundle without a seccomp profile; runc and crun as commands, Caisson's "
                         "launcher in process, as its companion uses it.")
    try:
        for _ in range(rounds):
            for name in names:
                if name == "caisson":
                    in_process_launcher(path, results)
                else:
                    command_line_launcher(name, path, results)
    finally:
        kill_all(lambda: cgroup_processes(f"/caisson-bench-{os.getpid()}-launcher"))
        remove_cgroups(f"/caisson-bench-{os.getpid()}-launcher")


def in_process_launcher(path, results):
    done = subprocess.run([f"{BIN}/launcher_bench", path, "5"], stdout=subprocess.PIPE, check=True, text=True)
    for line in done.stdout.splitlines():
        for key, value in json.loads(line).items():
            results.add(f"launcher {key}", "caisson", value)


def command_line_launcher(low, path, results):
    hidden = ["unshare", "-m", "--propagation", "private", "sh", "-c",
              'mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec "$@"', "sh"]
    script = f'''
import subprocess, sys, time, json, os
low, root, name = {low!r}, {path + "/" + low + "-root"!r}, "bench-{os.getpid()}"
def run(*words):
    subprocess.run([low, "--root", root, *words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
for i in range(5):
    at = time.monotonic(); run("create", "-b", {path!r}, name); run("start", name); start = time.monotonic() - at
    at = time.monotonic(); run("exec", name, "/bin/true"); ran = time.monotonic() - at
    run("kill", name, "KILL")
    state = json.loads(subprocess.run([low, "--root", root, "state", name], stdout=subprocess.PIPE).stdout)
    while state["status"] != "stopped":
        time.sleep(0.002)
        state = json.loads(subprocess.run([low, "--root", root, "state", name], stdout=subprocess.PIPE).stdout)
    at = time.monotonic(); run("delete", name)
    print(json.dumps(dict(create_start=start * 1e3, exec=ran * 1e3, delete=(time.monotonic() - at) * 1e3)))
'''
    done = subprocess.run([*hidden, "/usr/bin/python3", "-c", script], stdout=subprocess.PIPE, check=True, text=True)
    for line in done.stdout.splitlines():
        for key, value in json.loads(line).items():
            results.add(f"launcher {key}", low, value)
