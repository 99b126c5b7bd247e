# SPDX-License-Identifier: Apache-2.0
"""Runs the CRI's own conformance suite (critest) against a caissond of its own.

  run.py [--handler H | --containerd TYPE | --crio RUNTIME] [--focus REGEX] [--skip REGEX] [--parallel N [N...]]    one run for each N, of N specs at a time

With --containerd the suite is run against a containerd, whose default runtime is TYPE: io.containerd.caisson.v2, io.containerd.caisson-vm.v2,
io.containerd.runc.v2. With --crio against the CRI-O that CAISSON_TEST_CRIO names (harness/crio.py) and one of its runtimes: caisson, caisson-vm, caisson-oci, runc.

Exit status: 0 all that ran passed; 1 something failed; 77 Go or its modules are not to be had here (said on stderr).
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from xml.etree import ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]

import images  # noqa: E402
import tools  # noqa: E402
from harness.containerd import Containerd  # noqa: E402
from harness.crio import Crio  # noqa: E402
from harness.daemon import Daemon, remove_tree  # noqa: E402
from harness.handler import BUILD, FOREIGN, GUEST, VM_CONFIG, missing_for_vms  # noqa: E402
from harness.leaks import Leaks  # noqa: E402
from harness.registry import Registry, wait_for  # noqa: E402

# What the suite pulls one image by: the digest of a manifest that nobody can make again. In the copy of it that runs the
# digest is that of our image.
SUITES_DIGEST = b"sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"

# Specs that are left out for pods that are VMs, by name, each with the reason (docs/vm.md).
EXCLUDED_IN_VMS = {
    "runtime should support HostPID": "the host's PID namespace",
    "runtime should support HostIpc is true": "the host's IPC namespace",
    "runtime should support HostNetwork is true": "the host's network",
    "runtime should support portforward in host network": "the host's network",
    "mount with 'rshared' should support propagation": "a mount made in the guest is not one of the host's",
    "should support non-recursive readonly mounts": "all of a shared folder is one file system in the guest: read-only is all of it",
    "mount with 'rslave' should support propagation": "a mount that the host makes later is not one of the guest's",
}
# The same for Debian 12's gVisor with --platform=ptrace, --network=host and --oci-seccomp (docs/handlers.md).
EXCLUDED_IN_GVISOR = {
    "should support safe sysctls": "its kernel has no such sysctls",
    "should support unsafe sysctls": "its kernel has no such sysctls",
    "mount with 'rshared' should support propagation": "runsc refuses such a mount",
    "should support non-recursive readonly mounts": "a volume is one file system in the sandbox: read-only is all of it",
    "should terminate with exitCode 137 and reason OOMKilled": "limits of single containers are not enforced",
    "runtime should support HostIpc is true": "the host's IPC namespace",
    "runtime should support HostNetwork is true": "its list of sockets has the sandbox's own alone",
    "should allow privilege escalation when false": "set-user-ID programs keep the caller's id",
    "should support seccomp localhost profile on the container": "profiles hold for a container's init, not for what is exec'd",
    "should support seccomp default on the container": "the same",
    "profile that blocks setting hostname with SYS_ADMIN": "the same",
    "runtime should support MaskedPaths": "its /proc is its own",
    "runtime should support ReadonlyPaths": "its /proc is its own",
    "runtime should support Privileged is true": "its network has no bridges, which the spec makes",
    "runtime should support adding capability": "the same",
    "runtime should support dropping capability": "no raw sockets on the host's network, whatever the capabilities: another error",
}
EXCLUDED = {"caisson-vm": EXCLUDED_IN_VMS, "runsc": EXCLUDED_IN_GVISOR}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--handler", default="")
    parser.add_argument("--containerd", metavar="TYPE")
    parser.add_argument("--crio", metavar="RUNTIME")
    parser.add_argument("--focus", default="")
    parser.add_argument("--skip", default="")
    parser.add_argument("--parallel", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    try:
        critest = tools.build("critest", BUILD)
        if max(args.parallel) > 1:  # critest starts itself with it
            os.environ["PATH"] = os.path.dirname(tools.build("ginkgo", BUILD)) + ":" + os.environ["PATH"]
    except tools.Unavailable as reason:
        print(f"conformance: {reason}", file=sys.stderr)
        sys.exit(77)
    args.handler = args.crio or args.handler
    vms = args.handler == "caisson-vm" or "-vm." in (args.containerd or "")
    if vms and missing_for_vms():
        print(f"conformance: {missing_for_vms()}", file=sys.stderr)
        sys.exit(77)
    folder = tempfile.mkdtemp(prefix="caisson-critest-")
    leaks = Leaks(os.path.basename(folder))
    registry = Registry(f"{folder}/registry")
    daemon = None
    try:
        critest = with_digest(critest, images.push_all(registry, folder), folder)
        images.write_mirrors(registry, f"{folder}/certs.d")
        if args.crio:
            daemon = Crio(folder, registry, mirrored=images.REGISTRIES)
        elif args.containerd:
            with open(f"{folder}/shim.json", "w") as f:
                json.dump({"kernel": f"{GUEST}/kernel", "initrd": f"{GUEST}/initramfs"}, f)
            daemon = Containerd(folder, cri=True, runtimes={"caisson": args.containerd}, environment={"CAISSON_SHIM_CONFIG": f"{folder}/shim.json"},
                                config=f'[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "{folder}/certs.d"\n')
        else:
            foreign = f"\n[handlers.{args.handler}]\n{FOREIGN[args.handler]}" if args.handler in FOREIGN else ""
            daemon = Daemon(folder, config=f'[images]\ncerts_dir = "{folder}/certs.d"\n' + (VM_CONFIG if vms else foreign))
            wait_for(f"handler '{args.handler}' is ready",
                     lambda: args.handler in [handler.name for handler in daemon.client.Status().runtime_handlers], 60)
        options = ["--runtime-endpoint", f"unix://{daemon.socket}", "--runtime-handler", args.handler,
                   "--ginkgo.no-color", "--ginkgo.timeout", "40m"]
        if args.focus:
            options += ["--ginkgo.focus", args.focus]
        for skipped in [*EXCLUDED.get("caisson-vm" if vms else args.handler, ()), *filter(None, [args.skip])]:
            options += ["--ginkgo.skip", skipped]
        passed = all([run([critest, *options], count, folder, daemon) for count in args.parallel])
    finally:
        if daemon:
            daemon.destroy()
        registry.stop()
        left = leaks.check()
        remove_tree(folder)
    if left:
        print("left behind:", *left, sep="\n  ", file=sys.stderr)
    sys.exit(0 if passed and not left else 1)


def with_digest(critest, digest, folder):
    with open(critest, "rb") as f:
        program = f.read()
    assert program.count(SUITES_DIGEST) > 0 and len(digest) == len(SUITES_DIGEST), digest
    path = f"{folder}/critest"
    with open(path, "wb") as f:
        f.write(program.replace(SUITES_DIGEST, digest.encode()))
    os.chmod(path, 0o755)
    return path


def run(command, count, folder, daemon):
    """One run, `count` specs at a time. Whether all passed; if not, which did not comes first, and then all that may say why."""
    print(f"critest, {count} at a time", flush=True)
    report = f"{folder}/report-{count}.xml"
    command += ["--ginkgo.junit-report", report] + (["--parallel", str(count)] if count > 1 else [])
    shown = None if sys.stdout.isatty() else subprocess.PIPE
    done = subprocess.run(command, stdout=shown, stderr=shown and subprocess.STDOUT, text=True, errors="replace", timeout=3000)
    output = done.stdout or ""
    print(*[line for line in output.splitlines() if re.match(r"(Ran \d+ of|SUCCESS|FAIL!)", line)], sep="\n")
    if done.returncode == 0:
        return True
    for case in ElementTree.parse(report).iter("testcase") if os.path.exists(report) else []:
        for failure in [*case.iter("failure"), *case.iter("error")]:
            print(f"{case.get('name')}: {failure.get('message')}\n{(failure.text or '')[:600]}\n")
    for asked in (["ip", "-4", "addr"], ["ip", "-4", "route"]):
        subprocess.run(asked, check=False)
    print(daemon.log_text()[-4000:], output[-8000:], sep="\n")
    return False


main()
