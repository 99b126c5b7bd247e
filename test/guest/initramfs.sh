#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# /init of the guest's initramfs: the root disk under an overlay in memory, the tests' disk at /caisson, a writable one at
# /scratch (container file systems need one: an overlay cannot lie on an overlay), then the init named by `guest_init`.
set -e
PATH=/bin
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t tmpfs tmpfs /run
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod "/lib/$module"; done
disk() {
  for file in /sys/block/*/serial; do
    [ "$(/bin/busybox cat "$file")" != "$1" ] || { file=${file%/serial}; echo "/dev/${file##*/}"; }
  done
}
/bin/busybox mkdir -p /run/lower /run/upper/upper /run/upper/work
/bin/busybox mount -t erofs -o ro "$(disk disk0)" /run/lower
/bin/busybox mount -t overlay -o lowerdir=/run/lower,upperdir=/run/upper/upper,workdir=/run/upper/work overlay /mnt
/bin/busybox mount -t erofs -o ro "$(disk disk1)" /mnt/caisson
/bin/busybox mount -t ext4 "$(disk disk2)" /mnt/scratch
/bin/busybox cp /mnt/caisson/repo/test/guest/caisson-guest.service /mnt/etc/systemd/system/
/bin/busybox mount -o move /dev /mnt/dev
/bin/busybox umount /proc /sys
exec /bin/busybox switch_root /mnt "${guest_init:-/bin/sh}"
