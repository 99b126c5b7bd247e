# SPDX-License-Identifier: Apache-2.0
"""What a CNI plugin of a test's own was asked: each call in a file "call-N" beside it, the verb and the network namespace on
a line each, then its input."""
import json
import os


def calls(daemon, command):
    """[(netns, input)] of the recorder's calls of one command, oldest first."""
    found = []
    for name in sorted((n for n in os.listdir(daemon.folder) if n.startswith("call-")), key=lambda n: int(n[5:])):
        with open(f"{daemon.folder}/{name}") as f:
            verb, netns, text = f.read().split("\n", 2)
        if verb == command:
            found.append((netns, json.loads(text)))
    return found
