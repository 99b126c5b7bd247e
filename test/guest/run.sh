#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs in the guest, as PID 1 or as a service of systemd: each line of /caisson/tests is a name, a tab and a command. Says
# "GUEST-START name", "GUEST-RESULT name status seconds" for each and "GUEST-DONE" at the end, then switches the guest off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TMPDIR=/scratch/tmp
# Where the build was made, for tests that know their binaries by that path.
export CAISSON_BUILD PYTHONPATH=/caisson/repo/test
CAISSON_BUILD=$(cat /caisson/build_dir)

finish() {
  echo "GUEST-DONE"
  sync
  # QEMU ends at a reset (-no-reboot); with PID 1 being this shell there is nobody to ask.
  echo b >/proc/sysrq-trigger
  sleep 60
}
trap finish EXIT

if [ $$ = 1 ]; then
  exec </dev/console >/dev/console 2>&1
  mount -t proc proc /proc
  mount -t sysfs sysfs /sys
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir -p /dev/pts /dev/shm /dev/mqueue
  mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
  mount -t tmpfs tmpfs /dev/shm
  mount -t tmpfs tmpfs /tmp
  mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
  mount --make-rshared /
  hostname guest
fi
ip link set lo up
mkdir -p /scratch/tmp "$(dirname "$CAISSON_BUILD")"
# A program on a read-only disk counts as sealed (sys/sealed_program.h), which is not how it is installed.
cp -r /caisson/build /scratch/build
ln -sfn /scratch/build "$CAISSON_BUILD"
cd /caisson/repo || exit 1
while IFS=$'\t' read -r name command <&9; do
  started=$SECONDS
  echo "GUEST-START $name"
  bash -c "$command" </dev/null 2>&1
  echo "GUEST-RESULT $name $? $((SECONDS - started))"
done 9</caisson/tests
