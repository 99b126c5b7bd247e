# SPDX-License-Identifier: Apache-2.0
"""Builds the kubelet for the tests. Exit status 77: Go or its modules are not to be had here (said on stderr)."""
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]

import node  # noqa: E402
from harness.go_tool import Unavailable  # noqa: E402

began = time.monotonic()
try:
    print(f"{node.build()}: {time.monotonic() - began:.0f} s")
except Unavailable as reason:
    print(f"kubelet: {reason}", file=sys.stderr)
    sys.exit(77)
