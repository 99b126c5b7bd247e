# SPDX-License-Identifier: Apache-2.0
"""The handler that the tests' pods are of unless they name one: CAISSON_TEST_HANDLER, else the default one. With "caisson-vm"
each is a virtual machine of this build's guest image; tests of what only pods of processes have are marked `native`."""
import os
import shutil

BUILD = os.environ.get("CAISSON_BUILD", os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))), "build", "release"))
GUEST = os.environ.get("CAISSON_GUEST_IMAGE", os.path.join(os.path.dirname(BUILD), "guest-image"))
VM_CONFIG = f"""
[handlers.caisson-vm]
kernel = "{GUEST}/kernel"
initrd = "{GUEST}/initramfs"
"""
# Handlers whose containers programs of Debian's make, each by its table.
FOREIGN = {
    "runc": 'runtime = "/usr/sbin/runc"\n',
    "crun": 'runtime = "/usr/bin/crun"\n',
    "runsc": 'runtime = "/usr/bin/runsc"\nruntime_args = ["--platform=ptrace", "--network=host", "--oci-seccomp"]\n',
    "runc-shim": 'runtime_type = "io.containerd.runc.v2"\n',
}
# gVisor's own shim, which is not in Debian, where an operator has installed it as its documentation says.
GVISOR_CONFIG = "/etc/containerd/runsc.toml"
if shutil.which("containerd-shim-runsc-v1") and os.path.exists(GVISOR_CONFIG):
    FOREIGN["gvisor"] = f'''runtime_type = "io.containerd.runsc.v1"
runtime_options = {{ TypeUrl = "io.containerd.runsc.v1.options", ConfigPath = "{GVISOR_CONFIG}" }}
'''
DEFAULT = os.environ.get("CAISSON_TEST_HANDLER", "")
FOREIGN_CONFIG = f"\n[handlers.{DEFAULT}]\n{FOREIGN[DEFAULT]}" if DEFAULT in FOREIGN else ""
VMS = DEFAULT == "caisson-vm"
# How many machines wait for pods where a test does not say: nobody's, so none, unless all of the tests are to run with them.
WARM = int(os.environ.get("CAISSON_TEST_WARM", "0"))


def missing_for_vms():
    """What keeps VM pods from running here, in words; empty: nothing."""
    for name in ("kernel", "initramfs"):
        if not os.path.exists(f"{GUEST}/{name}"):
            return f"no {name} in {GUEST}: run tools/build-guest"
    for program in ("qemu-system-x86_64", "mkfs.erofs"):
        if not shutil.which(program):
            return f"{program} is not installed"
    return ""
