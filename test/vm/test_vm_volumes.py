# SPDX-License-Identifier: Apache-2.0
"""Volumes of pods that are virtual machines: folders of the host that are shared, copies, images."""
import hashlib
import json
import os
import signal
import socket
import stat
import time

import grpc
import pytest

from harness.daemon import BUILD
from harness.registry import wait_for
from harness.vm import BOOT_SECONDS, await_template


@pytest.fixture
def folder(tmp_path):
    os.chmod(tmp_path, 0o755)
    path = tmp_path / "shared"
    path.mkdir()
    return str(path)


def mount(path, at="/data", **options):
    return {"container_path": at, "host_path": path, **options}


def read(path):
    with open(path) as f:
        return f.read()


def children(pid):
    """Those of a process, by name."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = read(f"/proc/{entry}/stat")
        except OSError:
            continue
        name, rest = fields[fields.index("(") + 1:fields.rindex(")")], fields[fields.rindex(")") + 2:].split()
        if int(rest[1]) == pid:
            found[name] = int(entry)
    return found


def pod_info(vm_daemon, pod):
    return json.loads(vm_daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])


def file_server(vm_daemon, pod):
    """The pid of the pod's file server."""
    return children(pod_info(vm_daemon, pod)["companionPid"]).get("caisson-files")


def test_a_folder_is_written_from_both_sides(vm_daemon, vm_pods, folder):
    with open(f"{folder}/host", "w") as f:
        f.write("from the host\n")
    os.symlink("/etc/hostname", f"{folder}/link")
    pod = vm_pods.run_pod()
    assert file_server(vm_daemon, pod) is None
    first = vm_pods.start(pod, ["sleep", "1000"], mounts=[mount(folder)])
    second = vm_pods.start(pod, ["sleep", "1000"], mounts=[mount(folder, "/other"), mount(folder, "/fixed", readonly=True)])

    def run(container, script):
        code, out, err = vm_pods.exec(container, ["sh", "-c", script])
        assert code == 0, err
        return out

    assert run(first, "cat /data/host") == "from the host\n"
    run(first, "echo from the guest > /data/guest; chmod 640 /data/guest; chown 1000:1001 /data/guest; mkfifo /data/fifo; ln -s /nowhere /data/s")
    assert read(f"{folder}/guest") == "from the guest\n"
    info = os.stat(f"{folder}/guest")
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (1000, 1001, 0o640)
    assert os.readlink(f"{folder}/s") == "/nowhere" and stat.S_ISFIFO(os.stat(f"{folder}/fifo").st_mode)
    # The other container, and what the host changes, at once.
    assert run(second, "cat /other/guest /fixed/guest") == "from the guest\n" * 2
    for number in range(3):
        with open(f"{folder}/host", "w") as f:
            f.write(f"again {number}\n")
        assert run(second, "cat /fixed/host") == f"again {number}\n"
    os.rename(f"{folder}/host", f"{folder}/renamed")
    assert run(first, "ls /data").split() == ["fifo", "guest", "link", "renamed", "s"]
    run(second, "mkdir /other/d; mv /other/renamed /other/d/x; rm /other/fifo; echo more >> /other/guest; sync")
    assert sorted(os.listdir(folder)) == ["d", "guest", "link", "s"] and read(f"{folder}/guest") == "from the guest\nmore\n"
    code, _, err = vm_pods.exec(second, ["sh", "-c", "echo x > /fixed/new"])
    assert code != 0 and "Read-only file system" in err
    # A user that may not, may not in there either.
    status, lines = vm_pods.run(pod, ["cat", "/data/guest"], mounts=[mount(folder)], linux={"security_context": {"run_as_user": {"value": 1234}}})
    assert status.exit_code == 1 and "Permission denied" in lines[0].text


def test_what_is_only_read_is_not_changed(vm_daemon, vm_pods, folder):
    with open(f"{folder}/file", "w") as f:
        f.write("x")
    pod = vm_pods.run_pod()
    status, lines = vm_pods.run(pod, ["sh", "-c", "cat /data/file; echo y > /data/file; rm /data/file; touch /data/new"],
                                mounts=[mount(folder, readonly=True)])
    assert status.exit_code != 0 and sum("Read-only file system" in line.text for line in lines) == 3
    assert read(f"{folder}/file") == "x" and os.listdir(folder) == ["file"]
    assert file_server(vm_daemon, pod) is not None


def test_links_lead_nowhere_but_into_the_container(vm_pods, folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    pod = vm_pods.run_pod()
    container = vm_pods.start(pod, ["sleep", "1000"], mounts=[mount(folder)])
    script = (f"cd /data; ln -s {tmp_path}/secret a; ln -s ../secret b; ln -s {tmp_path} c; ln -s / d; "
              f"cat a b c/secret; echo changed > b; echo changed > a; ls d/etc/alpine-release d/bin/busybox; cat d/etc/hostname; ls .. | grep -c shared")
    _, out, err = vm_pods.exec(container, ["sh", "-c", script])
    assert "secret" not in out and (tmp_path / "secret").read_text() == "secret"
    assert sorted(os.listdir(tmp_path)) == ["secret", "shared"]
    assert err.count("No such file or directory") + err.count("nonexistent directory") >= 4, err


def test_a_sub_path_and_what_is_mounted_below(vm_pods, folder):
    os.makedirs(f"{folder}/a/b")
    os.makedirs(f"{folder}/a/mounted")
    pod = vm_pods.run_pod()
    assert os.system(f"mount -t tmpfs none {folder}/a/mounted") == 0
    try:
        with open(f"{folder}/a/mounted/below", "w") as f:
            f.write("below\n")
        part = vm_pods.start(pod, ["sleep", "1000"], mounts=[mount(f"{folder}/a/b")])
        whole = vm_pods.start(pod, ["sleep", "1000"], mounts=[mount(folder, "/whole")])
        assert vm_pods.exec(part, ["sh", "-c", "echo part > /data/file; ls /data/.. | grep -c mounted"])[1] == "0\n"
        assert vm_pods.exec(whole, ["cat", "/whole/a/b/file", "/whole/a/mounted/below"])[1] == "part\nbelow\n"
        assert vm_pods.exec(whole, ["sh", "-c", "ls -i /whole/a/b/file"])[1].split()[0] == vm_pods.exec(part, ["ls", "-i", "/data/file"])[1].split()[0]
    finally:
        os.system(f"umount {folder}/a/mounted")


def test_large_files_and_many(vm_pods, folder):
    content = hashlib.sha256(b"seed").digest() * (20 << 15)
    with open(f"{folder}/large", "wb") as f:
        f.write(content)
    pod = vm_pods.run_pod()
    script = ("cd /data; cp large copy; sha256sum < large; sha256sum < copy; mkdir many; "
              "i=0; while [ $i -lt 500 ]; do echo $i > many/$i; i=$((i+1)); done; ls many | wc -l; cat many/* | wc -c")
    container = vm_pods.start(pod, ["sh", "-c", script], mounts=[mount(folder)])
    status = vm_pods.wait_exit(container, 5 * BOOT_SECONDS)
    assert status.exit_code == 0
    out = "".join(line.text + "\n" for line in vm_pods.log(status.log_path))
    digest = hashlib.sha256(content).hexdigest()
    assert out.split() == [digest, "-", digest, "-", "500", str(sum(len(str(i)) + 1 for i in range(500)))]
    with open(f"{folder}/copy", "rb") as f:
        assert f.read() == content
    assert sorted(os.listdir(f"{folder}/many"), key=int) == [str(i) for i in range(500)]


def test_it_outlives_a_container_and_goes_with_the_pod(vm_daemon, vm_pods, folder):
    pod = vm_pods.run_pod()
    assert vm_pods.out(pod, ["sh", "-c", "echo one > /data/file; cat /data/file"], mounts=[mount(folder)]) == "one\n"
    server = file_server(vm_daemon, pod)
    assert vm_pods.out(pod, ["sh", "-c", "echo two >> /data/file; cat /data/file"], mounts=[mount(folder)]) == "one\ntwo\n"
    assert file_server(vm_daemon, pod) == server
    # Confined: nothing of the host is there, and no right that it does not need.
    assert os.listdir(f"/proc/{server}/root") == []
    state = dict(line.split(":\t", 1) for line in read(f"/proc/{server}/status").splitlines() if ":\t" in line)
    assert state["Seccomp"] == "2" and state["NoNewPrivs"] == "1"
    assert int(state["CapEff"], 16) == int(state["CapPrm"], 16) == sum(1 << bit for bit in (0, 1, 3, 4, 6, 7)) and int(state["CapBnd"], 16) == 0
    for space in ("net", "pid", "mnt", "ipc", "uts"):
        assert os.readlink(f"/proc/{server}/ns/{space}") != os.readlink(f"/proc/self/ns/{space}")
    vm_pods.remove_all()
    assert not os.path.exists(f"/proc/{server}")
    os.rename(folder, folder + ".moved")


def test_a_clone_of_a_template_shares_folders_too(vm_daemon, vm_pods, folder):
    vm_pods.run_pod()
    await_template(vm_daemon)
    pods = [vm_pods.run_pod() for _ in range(2)]
    assert [pod_info(vm_daemon, pod)["vm"]["start"] for pod in pods] == ["clone", "clone"]
    for number, pod in enumerate(pods):
        assert vm_pods.out(pod, ["sh", "-c", f"echo {number} >> /data/file; cat /data/file"], mounts=[mount(folder)]).split()[-1] == str(number)
    assert read(f"{folder}/file") == "0\n1\n"


def test_the_pod_ends_with_its_file_server_and_says_so(vm_daemon, vm_pods, folder):
    pod = vm_pods.run_pod()
    container = vm_pods.start(pod, ["sleep", "1000"], mounts=[mount(folder)])
    os.kill(file_server(vm_daemon, pod), signal.SIGKILL)
    status = vm_pods.wait_exit(container, BOOT_SECONDS)
    assert status.exit_code == 137 and status.reason == "FileServerDied"
    assert "server of the pod's shared folders ended: killed by signal 9" in status.message
    wait_for("the pod is not ready", lambda: vm_daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == 1, BOOT_SECONDS)
    assert status.message in pod_info(vm_daemon, pod)["reason"]


def test_the_kubelets_volumes_stay_copies(vm_daemon, vm_pods, folder):
    def publish(number):
        os.makedirs(f"{folder}/..{number}")
        with open(f"{folder}/..{number}/key", "w") as f:
            f.write(f"{number}\n")
        os.symlink(f"..{number}", f"{folder}/..new")
        os.rename(f"{folder}/..new", f"{folder}/..data")

    publish(1)
    os.symlink("..data/key", f"{folder}/key")
    pod = vm_pods.run_pod()
    container = vm_pods.start(pod, ["/watch", "/data"], mounts=[mount(folder, readonly=True), mount(f"{BUILD}/test/watch-folder", "/watch", readonly=True)])
    assert vm_pods.exec(container, ["cat", "/data/key"])[1] == "1\n"
    vm_pods.wait_line(container, "watching", BOOT_SECONDS)
    publish(2)
    vm_pods.wait_line(container, "..data", BOOT_SECONDS)
    assert vm_pods.exec(container, ["cat", "/data/key"])[1] == "2\n"
    assert file_server(vm_daemon, pod) is None


def test_a_single_file_is_as_it_is_when_a_container_is_created(vm_daemon, vm_pods, folder):
    """A Secret's key by subPath: the container that is started again has the new one. What containers write comes back, if it is not too much."""
    def publish(text):
        with open(f"{folder}/.new", "w") as f:
            f.write(text)
        os.rename(f"{folder}/.new", f"{folder}/key")

    publish("one\n")
    pod = vm_pods.run_pod()
    key = mount(f"{folder}/key", "/key", readonly=True)
    assert vm_pods.out(pod, ["cat", "/key"], mounts=[key]) == "one\n"
    publish("two\n")
    assert vm_pods.out(pod, ["cat", "/key"], mounts=[key]) == "two\n"
    for name, text in (("hosts", "as it was\n"), ("log", "")):
        with open(f"{folder}/{name}", "w") as f:
            f.write(text)
    files = [mount(f"{folder}/hosts", "/hosts"), mount(f"{folder}/log", "/dev/termination-log")]
    # One writes more than can be brought back into the one file, and something into the other.
    container = vm_pods.start(pod, ["sh", "-c", "dd if=/dev/zero of=/hosts bs=1k count=65 2>/dev/null; echo why > /dev/termination-log; echo done; exec sleep 1000"], mounts=files)
    vm_pods.wait_line(container, "done", BOOT_SECONDS)
    assert vm_pods.out(pod, ["sh", "-c", "wc -c < /hosts; cat /dev/termination-log"], mounts=files).split() == [str(65 << 10), "why"]
    vm_daemon.client.StopContainer(container_id=container, timeout=0)
    assert (read(f"{folder}/hosts"), read(f"{folder}/log")) == ("as it was\n", "why\n")


def test_an_empty_dir_in_memory_is_the_guests(vm_daemon, vm_pods, folder):
    """As the kubelet makes it: a tmpfs with its limit; a sub path is a mount of a folder in it."""
    whole, part = f"{folder}/volumes/kubernetes.io~empty-dir/cache", f"{folder}/volume-subpaths/cache/c/0"
    for path in (whole, part):
        os.makedirs(path)
    assert os.system(f"mount -t tmpfs -o size=4m,mode=1777 none {whole} && mkdir -p '{whole}/a b/sub' && chmod 750 '{whole}/a b/sub' "
                     f"&& chown 7:8 '{whole}/a b/sub' && mount --bind '{whole}/a b/sub' {part}") == 0
    try:
        pod = vm_pods.run_pod()
        first = vm_pods.start(pod, ["sleep", "1000"], mounts=[mount(whole, "/cache")])
        second = vm_pods.start(pod, ["sleep", "1000"], mounts=[mount(part, "/sub"), mount(whole, "/cache", readonly=True)])
        run = lambda container, script: vm_pods.exec(container, ["sh", "-c", script])
        assert run(first, "stat -c %a /cache; echo one > '/cache/a b/sub/file'; df -k /cache | tail -1 | awk '{print $2}'")[1] == "1777\n4096\n"
        assert run(second, "cat /sub/file; stat -c '%a %u %g' /sub; grep -c ' /sub tmpfs ' /proc/mounts; touch /cache/x")[1:] == (
            "one\n750 7 8\n1\n", "touch: /cache/x: Read-only file system\n")
        code, _, err = run(first, "dd if=/dev/zero of=/cache/large bs=1M count=5; code=$?; rm /cache/large; exit $code")
        assert code != 0 and "No space left" in err
        # It outlives containers, and its content is nobody's but the guest's.
        for container in (first, second):
            vm_daemon.client.RemoveContainer(container_id=container)
        assert vm_pods.out(pod, ["cat", "/sub/file"], mounts=[mount(part, "/sub")]) == "one\n"
        assert [name for _, _, names in os.walk(whole) for name in names] == [] and file_server(vm_daemon, pod) is None
        # A link in a sub path's place leads nowhere.
        vm_pods.out(pod, ["sh", "-c", "cd '/cache/a b'; mv sub old; ln -s / sub"], mounts=[mount(whole, "/cache")])
        with pytest.raises(grpc.RpcError) as error:
            vm_pods.create(pod, ["true"], mounts=[mount(part, "/sub")])
        assert part in error.value.details()
    finally:
        os.system(f"umount {part}; umount {whole}")


def test_what_cannot_be_copied_is_refused(vm_daemon, vm_pods, folder):
    os.mkfifo(f"{folder}/fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{folder}/socket")
    with open(f"{folder}/large", "wb") as f:
        f.truncate((3 << 20) + 1)
    pod = vm_pods.run_pod()
    for name, words in {"fifo": "neither a file nor a folder", "socket": "neither a file nor a folder", "large": "more than 3145728 bytes"}.items():
        with pytest.raises(grpc.RpcError) as error:
            vm_pods.create(pod, ["true"], mounts=[mount(f"{folder}/{name}", "/x")])
        assert words in error.value.details() and f"{folder}/{name}" in error.value.details()
    assert not vm_daemon.client.ListContainers().containers


def test_an_image_as_a_volume(vm_daemon, vm_pods):
    pod = vm_pods.run_pod()
    image = {"image": {"image": vm_daemon.image}, "readonly": True}
    out = vm_pods.out(pod, ["sh", "-c", "/image/bin/busybox true 2>&1; ls -d /image/bin/busybox /part/busybox; touch /image/x 2>&1; grep -c ' /image .*nosuid,nodev,noexec' /proc/mounts"],
                      mounts=[{"container_path": "/image", **image}, {"container_path": "/part", "image_sub_path": "bin", **image}])
    assert "Permission denied" in out and "/image/bin/busybox\n/part/busybox\n" in out and "Read-only file system" in out
    assert out.endswith("1\n")


def test_throughput(vm_pods, folder):
    """Not a limit: figures for docs/vm.md, with `pytest -s`."""
    pod = vm_pods.run_pod()
    container = vm_pods.start(pod, ["sleep", "1000"], mounts=[mount(folder)])
    for name, script in {"write 64 MiB": "dd if=/dev/zero of=/data/f bs=1M count=64 conv=fsync",
                         "read 64 MiB": "echo 3 > /proc/sys/vm/drop_caches 2>/dev/null; dd if=/data/f of=/dev/null bs=1M",
                         "1000 small files": "mkdir /data/d; cd /data/d; i=0; while [ $i -lt 1000 ]; do echo $i > $i; i=$((i+1)); done",
                         "1000 small reads": "cd /data/d; i=0; while [ $i -lt 1000 ]; do read x < $i; i=$((i+1)); done"}.items():
        began = time.monotonic()
        code, _, err = vm_pods.exec(container, ["sh", "-c", script])
        print(f"{name}: {time.monotonic() - began:.2f} s", err.strip().splitlines()[-1:] if "dd" in script else "")
        assert code == 0, err
