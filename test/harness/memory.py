# SPDX-License-Identifier: Apache-2.0
"""What a process holds in memory."""
import os
import re

from .handler import BUILD


def anonymous(pid):
    """Bytes of its own: no file's, no other process's."""
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"RssAnon:\s+(\d+)", f.read()).group(1)) << 10


# The address sanitizer keeps what was freed: quarantine_size_mb's default and what each thread has of it. The thread sanitizer has
# four bytes of its own for each that was ever touched, and traces of threads that have ended.
OF_SANITIZERS = {"address": 320 << 20, "thread": 64 << 20}


def kept_when_freed():
    """Bytes that this build's sanitizer has beside the daemon's own, at most."""
    with open(os.path.join(BUILD, "CMakeCache.txt")) as cache:  # of clang's, which is linked statically, nothing else says it
        found = re.search(r"^CAISSON_SANITIZE:\w+=(\w+)$", cache.read(), re.M)
    return OF_SANITIZERS[found.group(1)] if found else 0
