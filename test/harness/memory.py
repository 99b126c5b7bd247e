# SPDX-License-Identifier: Apache-2.0
"""What a process holds in memory."""
import os
import re

from .handler import BUILD


def anonymous(pid):
    """Bytes of its own: no file's, no other process's."""
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"RssAnon:\s+(\d+)", f.read()).group(1)) << 10


def kept_when_freed():
    """Bytes that the address sanitizer keeps of what was freed, at most: quarantine_size_mb's default and what each thread has of it."""
    with open(os.path.join(BUILD, "CMakeCache.txt")) as cache:  # of a daemon of clang's, which links the sanitizer statically, nothing else says it
        return (320 << 20) if re.search(r"^CAISSON_SANITIZE:\w+=address$", cache.read(), re.M) else 0
