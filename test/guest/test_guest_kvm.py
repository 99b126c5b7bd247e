# SPDX-License-Identifier: Apache-2.0
"""VM pods with KVM: the guest's processor is an emulated one that can run guests itself (AMD's SVM), its kernel has KVM, so what is
run there is what runs on hardware, if slowly. Nobody has made /dev/kvm anybody's but root's in there. It has one processor: two
that run guests sometimes wait for each other for minutes (the emulation of QEMU 7.2)."""
from harness.daemon import BUILD
from suite import LONG, PYTEST, boot, build_guest

# Always what differs with KVM.
CONTRACT = "*" if LONG else "*RunsAGuest*:*IsConfined:*PciBus:*MemoryGoesAndComes:*PausesAndResumes:*IsSavedAndCloned:*IsSavedWithItsMemory:*KilledFromOutside:*GuestsPanic*"
PODS = "test/vm/test_vm_pod.py test/vm/test_vm_templates.py test/vm/test_vm_warm.py"
WANTED = "test_vm_pod or next_are_clones or machine_that_waited" if LONG else "kernel_of_its_own"
PREPARE = """set -e
dmesg -n 1
modprobe -a kvm_amd tun act_mirred cls_u32
ln -s /caisson/guest-image $(dirname $CAISSON_BUILD)/guest-image
$CAISSON_BUILD/bin/containerd-shim-caisson-v2 probe --accelerator kvm"""


def test_kvm(folder):
    images = {"guest-image": build_guest(f"{folder}/guest-image", f"{BUILD}/bin/caisson-agent"), "contract-image": build_guest(f"{folder}/contract-image", f"{BUILD}/test/echo-init")}
    boot(folder, "guest_init=/caisson/repo/test/guest/run.sh",
         [("kvm", PREPARE.replace("\n", " && ")),
          ("contract", f"CAISSON_CONTRACT_IMAGE=/caisson/contract-image $CAISSON_BUILD/bin/vmm_vm_test --gtest_color=no --gtest_filter='{CONTRACT}'"),
          ("pods", f"CAISSON_TEST_ACCELERATOR=kvm {PYTEST} {PODS} -k '{WANTED}'")], images, memory_mib=3072, cpus=1)
