# SPDX-License-Identifier: Apache-2.0
"""What a container may do: users, capabilities, seccomp, mounts, masks, devices; and hostile configurations."""
import os
import stat
import tarfile

import grpc
import pytest
from harness.images import Image, busybox_layer, directory, entry, tar_layer


def security(**fields):
    return {"linux": {"security_context": fields}}


def proc_status(pods, pod, **extra):
    text = pods.out(pod, ["cat", "/proc/self/status"], **extra)
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_default_capabilities_and_seccomp(pods):
    pod = pods.run_pod()
    status = proc_status(pods, pod)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0xa80425fb
    assert status["CapInh"].strip("0") == "" and status["CapAmb"].strip("0") == ""
    assert status["Seccomp"] == "0"
    runtime_default = {"seccomp": {"profile_type": 0}}
    assert proc_status(pods, pod, **security(**runtime_default))["Seccomp"] == "2"


def test_seccomp_default_blocks_and_localhost_applies(pods, daemon):
    pod = pods.run_pod()
    status, log = pods.run(pod, ["unshare" if False else "sh", "-c", "mount -t tmpfs none /tmp"],
                           **security(seccomp={"profile_type": 0}))
    assert status.exit_code != 0
    profile = f"{daemon.folder}/deny-mkdir.json"
    with open(profile, "w") as f:
        f.write('{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}')
    status, log = pods.run(pod, ["mkdir", "/new"], **security(seccomp={"profile_type": 2, "localhost_ref": profile}))
    assert status.exit_code == 1 and "not permitted" in log[0].text
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pod, ["true"], **security(seccomp={"profile_type": 2, "localhost_ref": "/no/such.json"}))
    assert "/no/such.json" in error.value.details()


def test_capabilities_add_and_drop(pods):
    pod = pods.run_pod()
    all_dropped = proc_status(pods, pod, **security(capabilities={"drop_capabilities": ["ALL"]}))
    assert int(all_dropped["CapEff"], 16) == 0
    one = proc_status(pods, pod, **security(capabilities={"drop_capabilities": ["ALL"],
                                                          "add_capabilities": ["NET_BIND_SERVICE"]}))
    assert int(one["CapEff"], 16) == 1 << 10
    ambient = proc_status(pods, pod, **security(run_as_user={"value": 1000}, capabilities={
        "add_ambient_capabilities": ["NET_BIND_SERVICE"], "add_capabilities": ["NET_BIND_SERVICE"]}))
    assert int(ambient["CapAmb"], 16) == 1 << 10 and int(ambient["CapEff"], 16) == 1 << 10
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pod, ["true"], **security(capabilities={"add_capabilities": ["FLY"]}))
    assert "FLY" in error.value.details()


@pytest.mark.native("a machine's privileges are the guest's")
def test_privileged_has_what_the_daemon_has(pods):
    pod = pods.run_pod(linux={"security_context": {"privileged": True}})
    with open("/proc/self/status") as f:
        bounding = next(line.split()[1] for line in f if line.startswith("CapBnd"))
    status = proc_status(pods, pod, **security(privileged=True))
    assert status["CapEff"] == bounding and status["Seccomp"] == "0"
    assert "vda" in pods.out(pod, ["ls", "/dev"], **security(privileged=True)) or os.path.exists("/dev/vda") is False
    plain = pods.run_pod()
    with pytest.raises(grpc.RpcError):
        pods.create(plain, ["true"], **security(privileged=True))


def test_users_and_groups(pods):
    pod = pods.run_pod()
    assert pods.out(pod, ["id"], **security(run_as_user={"value": 1000})) == "uid=1000(web) gid=1000(web) groups=1000(web),2000(extra),2001(more)\n"
    out = pods.out(pod, ["id", "-u"], **security(run_as_username="web"))
    assert out == "1000\n"
    assert pods.out(pod, ["id", "-g"], **security(run_as_user={"value": 1000}, run_as_group={"value": 2000})) == "2000\n"
    groups = pods.out(pod, ["id", "-G"], **security(run_as_username="web", supplemental_groups=[3000])).split()
    assert {"1000", "2000", "2001", "3000"} <= set(groups)
    strict = pods.out(pod, ["id", "-G"], **security(run_as_username="web", supplemental_groups=[3000],
                                                    supplemental_groups_policy=1)).split()
    assert set(strict) == {"1000", "3000"}
    for fields, word in (({"run_as_username": "nobody-here"}, "nobody-here"), ({"run_as_group": {"value": 5}}, "group")):
        with pytest.raises(grpc.RpcError) as error:
            container = pods.create(pod, ["true"], **security(**fields))
            pods.client.StartContainer(container_id=container)
        assert word in error.value.details()


OTHER_PASSWD = b"other:x:1234:1234::/:/bin/sh\n"
# Layers above busybox's, whose /etc/passwd has "web"; the user asked for; what it is.
USER_LAYERS = {
    "an opaque folder hides the file below": ([entry("etc/.wh..wh..opq", data=b"")], "web", None),
    "an opaque folder with a file of its own": (
        [directory("etc"), entry("etc/.wh..wh..opq", data=b""), entry("etc/passwd", mode=0o644, data=OTHER_PASSWD)], "other", "1234"),
    "a hidden file": ([entry("etc/.wh.passwd", data=b"")], "web", None),
    "a link to a file of a lower layer": (
        [directory("usr/share"), entry("etc/group", mode=0o644, data=b""), entry("usr/share/link", tarfile.SYMTYPE, link="../../etc/passwd")],
        "web", "1000"),
    "a link in place of the file": (
        [directory("nix"), entry("nix/passwd", mode=0o644, data=OTHER_PASSWD), entry("etc/passwd", tarfile.SYMTYPE, link="/nix/passwd")],
        "other", "1234"),
    "a link that leads to itself": ([entry("etc/passwd", tarfile.SYMTYPE, link="passwd")], "web", None),
    "a link out of the image": ([entry("etc/passwd", tarfile.SYMTYPE, link="../../../../../../etc/passwd")], "daemon", None),
    "a folder in place of the file": ([directory("etc/passwd")], "web", None),
}


@pytest.mark.parametrize("what", USER_LAYERS)
def test_user_is_looked_up_as_the_overlay_shows_it(pods, registry, daemon, what):
    layer, user, uid = USER_LAYERS[what]
    image = registry.push(Image([busybox_layer(), tar_layer(layer)]), "user/layers", f"u{list(USER_LAYERS).index(what)}")
    daemon.client.PullImage(image={"image": image})
    pod = pods.run_pod(host_network=True)
    if uid:
        assert pods.out(pod, ["id", "-u"], image=image, **security(run_as_username=user)) == uid + "\n"
        return
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pod, ["id"], image=image, **security(run_as_username=user))
    assert user in error.value.details()


@pytest.mark.parametrize("user", ["4294967296", "-1", "0x0", "99999999999:0"])
def test_hostile_image_user_is_refused(pods, registry, user):
    image = registry.push(Image(config={"User": user}), "hostile/user", f"u{abs(hash(user)) % 10**8}")
    pod = pods.run_pod()
    with pytest.raises(grpc.RpcError) as error:
        pods.client.PullImage(image={"image": image})
        container = pods.create(pod, ["id"], image=image)
        pods.client.StartContainer(container_id=container)
    assert user.split(":")[0] in error.value.details()


def test_no_new_privs(pods):
    pod = pods.run_pod()
    assert proc_status(pods, pod, **security(no_new_privs=True))["NoNewPrivs"] == "1"
    assert proc_status(pods, pod)["NoNewPrivs"] == "0"


def test_readonly_rootfs(pods):
    pod = pods.run_pod()
    status, log = pods.run(pod, ["touch", "/x"], **security(readonly_rootfs=True))
    assert status.exit_code != 0 and "Read-only" in log[0].text


def test_masked_and_readonly_paths(pods):
    pod = pods.run_pod()
    paths = {"masked_paths": ["/proc/kcore", "/sys/firmware", "/proc/timer_list"], "readonly_paths": ["/proc/sys"]}
    assert pods.out(pod, ["sh", "-c", "cat /proc/timer_list | wc -c; ls /sys/firmware | wc -l"], **security(**paths)) \
        == "0\n0\n"
    status, _ = pods.run(pod, ["sh", "-c", "echo x > /proc/sys/kernel/hostname"], **security(**paths))
    assert status.exit_code != 0


def test_mounts(pods, daemon):
    pod = pods.run_pod()
    source = f"{daemon.folder}/volume"
    os.makedirs(source, exist_ok=True)
    with open(f"{source}/f", "w") as f:
        f.write("volume\n")
    mounts = [{"container_path": "/data", "host_path": source},
              {"container_path": "/ro", "host_path": source, "readonly": True},
              {"container_path": "/etc/one-file", "host_path": f"{source}/f"}]
    assert pods.out(pod, ["sh", "-c", "cat /data/f /etc/one-file; echo new > /data/g; ! touch /ro/h"],
                    mounts=mounts) == "volume\nvolume\n"
    assert os.path.exists(f"{source}/g") and not os.path.exists(f"{source}/h")
    with pytest.raises(grpc.RpcError) as error:
        container = pods.create(pod, ["true"], mounts=[{"container_path": "/m", "host_path": "/etc/passwd/below"}])
        pods.client.StartContainer(container_id=container)
    assert "/etc/passwd/below" in error.value.details()


def test_mount_target_through_a_symlink_stays_inside(pods, registry, daemon):
    layer = busybox_layer([entry("evil", kind=b"2", link="../../../../../../../../tmp")])
    image = registry.push(Image([layer]), "hostile/link")
    pods.client.PullImage(image={"image": image})
    source = f"{daemon.folder}/victim"
    os.makedirs(source, exist_ok=True)
    pod = pods.run_pod()
    pods.out(pod, ["touch", "/evil/sub/mine"], image=image, mounts=[{"container_path": "/evil/sub", "host_path": source}])
    assert os.path.exists(f"{source}/mine") and not os.path.exists("/tmp/sub")


@pytest.mark.parametrize("path", ["etc/mtab", "etc/hostname", "etc/resolv.conf", "dev", "proc", "sys"])
def test_image_with_system_paths_as_symlinks(pods, registry, daemon, path):
    """CVE-2024-5154 and its kin: a link in the image must not lead a mount or a write to the host."""
    victim = f"{daemon.folder}/victim-{path.replace('/', '-')}"
    os.makedirs(victim, exist_ok=True)
    base = [e for e in (busybox_layer(),)]
    white = path.rsplit("/", 1)
    name = (white[0] + "/" if len(white) > 1 else "") + ".wh." + white[-1]
    from harness.images import tar_layer
    layers = base + [tar_layer([entry(name, data=b"")]), tar_layer([entry(path, kind=b"2", link=victim)])]
    image = registry.push(Image(layers), "hostile/system", path.replace("/", "-"))
    pods.client.PullImage(image={"image": image})
    pod = pods.run_pod()
    try:
        pods.run(pod, ["true"], image=image)
    except grpc.RpcError:
        pass  # refused is as good as kept inside
    assert os.listdir(victim) == []


@pytest.mark.native("devices of the host are not a machine's")
def test_devices(pods):
    pod = pods.run_pod()
    out = pods.out(pod, ["sh", "-c", "for d in null zero full random urandom tty; do test -c /dev/$d && echo $d; done"])
    assert out.split() == ["null", "zero", "full", "random", "urandom", "tty"]
    status, _ = pods.run(pod, ["sh", "-c", "mknod /d b 254 0 && dd if=/d of=/dev/null count=1"])
    assert status.exit_code != 0
    assert pods.out(pod, ["sh", "-c", "test -c /dev/here && echo yes"], devices=[
        {"host_path": "/dev/null", "container_path": "/dev/here", "permissions": "rwm"}]) == "yes\n"


@pytest.mark.native("the host's network is not a machine's")
def test_sysctls(pods, daemon):
    pod = pods.run_pod(linux={"sysctls": {"net.ipv4.ip_local_port_range": "1024 65000", "kernel.shm_rmid_forced": "1"}})
    assert pods.out(pod, ["cat", "/proc/sys/net/ipv4/ip_local_port_range"]).split() == ["1024", "65000"]
    assert pods.out(pod, ["cat", "/proc/sys/kernel/shm_rmid_forced"]) == "1\n"
    for name, value in (("kernel.hostname+x", "1"), ("vm.swappiness", "10"), ("kernel/../x", "1"),
                        ("net.core.somaxconn", "1\nkernel.core_pattern=|/x")):
        with pytest.raises(grpc.RpcError):
            daemon.client.RunPodSandbox(config=pods.pod_config(linux={"sysctls": {name: value}}))
    with pytest.raises(grpc.RpcError):
        daemon.client.RunPodSandbox(config=pods.pod_config(host_network=True,
                                                           linux={"sysctls": {"net.core.somaxconn": "1"}}))


def test_oom_score_and_rlimits(pods):
    pod = pods.run_pod()
    assert pods.out(pod, ["cat", "/proc/self/oom_score_adj"],
                    linux={"resources": {"oom_score_adj": 500}}) == "500\n"


def test_resource_limits_reach_the_cgroup(pods):
    pod = pods.run_pod()
    resources = {"cpu_period": 100000, "cpu_quota": 50000, "cpu_shares": 512, "memory_limit_in_bytes": 128 << 20}
    out = pods.out(pod, ["sh", "-c", "cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us cpu/cpu.shares "
                         "memory/memory.limit_in_bytes || cat cpu.max memory.max"],
                   linux={"resources": resources}).split()
    assert out == ["50000", "512", str(128 << 20)] or out == ["50000", "100000", str(128 << 20)]


def test_exec_cwd_and_fds_do_not_leak(pods):
    """CVE-2024-21626: no descriptor of the runtime, no working directory outside."""
    pod = pods.run_pod()
    with pytest.raises(grpc.RpcError):
        container = pods.create(pod, ["pwd"], working_dir="/proc/self/fd/7")
        pods.client.StartContainer(container_id=container)
        raise AssertionError(pods.log(pods.wait_exit(container).log_path))
    assert pods.out(pod, ["sh", "-c", "ls /proc/self/fd | wc -l"]).strip() == "4"
    container = pods.start(pod, ["sleep", "1000"])
    assert pods.exec(container, ["sh", "-c", "ls /proc/self/fd | wc -l"])[1].strip() == "4"


@pytest.mark.parametrize("log", ["../../escape.log", "/etc/cron.d/x"])
def test_log_path_stays_in_the_log_directory(pods, log):
    pod = pods.run_pod()
    with pytest.raises(grpc.RpcError):
        container = pods.create(pod, ["echo", "x"], log_path=log)
        pods.client.StartContainer(container_id=container)
        path = pods.wait_exit(container).log_path
        assert path.startswith(pod[1]["log_directory"]) and ".." not in path
        raise grpc.RpcError("kept inside")


def test_log_file_that_is_a_symlink_is_refused(pods, daemon):
    pod = pods.run_pod()
    victim = f"{daemon.folder}/log-victim"
    os.makedirs(pod[1]["log_directory"], exist_ok=True)
    os.symlink(victim, pod[1]["log_directory"] + "/evil.log")
    with pytest.raises(grpc.RpcError):
        container = pods.create(pod, ["echo", "x"], log_path="evil.log")
        pods.client.StartContainer(container_id=container)
    assert not os.path.exists(victim)


def test_run_directories_are_private(daemon):
    for path in (daemon.root, daemon.state):
        assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0 or stat.S_IMODE(os.stat(path).st_mode) == 0o711
    assert "@" not in "".join(line.split()[-1][:1] for line in open("/proc/net/unix") if daemon.marker in line)


def test_cgroup_parent_with_dots_is_refused(daemon, pods):
    with pytest.raises(grpc.RpcError):
        daemon.client.RunPodSandbox(config=pods.pod_config(linux={"cgroup_parent": "/a/../../b"}))
