# SPDX-License-Identifier: Apache-2.0
"""A program on a terminal of its own, as a user sits before it."""
import fcntl
import os
import pty
import select
import struct
import termios
import time


def set_size(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, command, rows=31, columns=111):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            set_size(0, rows, columns)  # before the command looks
            os.execv(command[0], command)
        self.seen = b""

    def resize(self, rows, columns):
        set_size(self.master, rows, columns)

    def until(self, text):
        end = time.monotonic() + 30
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], f"no {text!r}: {self.seen!r}"
            try:
                self.seen += os.read(self.master, 4096)
            except OSError:  # EIO: the other side has closed
                assert text in self.seen, self.seen

    def write(self, data):
        os.write(self.master, data)

    def finish(self):
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.master)
        return os.waitstatus_to_exitcode(status)
