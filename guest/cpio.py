# SPDX-License-Identifier: Apache-2.0
class Cpio:
    """A "newc" archive, as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self):
        self.out, self.inode = bytearray(), 0

    def add(self, name, mode, data=b"", device=(0, 0)):
        self.inode += 1
        name = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        self._padded(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
        self._padded(data)

    def _padded(self, data):
        self.out += data
        self.out += b"\0" * (-len(self.out) % 4)

    def end(self):
        self.add("TRAILER!!!", 0)
        return bytes(self.out)
