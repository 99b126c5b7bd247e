# SPDX-License-Identifier: Apache-2.0
"""What a process holds in memory."""
import re


def anonymous(pid):
    """Bytes of its own: no file's, no other process's."""
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"RssAnon:\s+(\d+)", f.read()).group(1)) << 10


def kept_when_freed(pid):
    """Bytes that the address sanitizer keeps of what was freed, at most: quarantine_size_mb's default and what each thread has of it."""
    with open(f"/proc/{pid}/maps") as maps:
        return (320 << 20) if "libasan" in maps.read() else 0
