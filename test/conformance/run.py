# SPDX-License-Identifier: Apache-2.0
"""Runs the CRI's own conformance suite (critest) against a caissond of its own.

  run.py [--handler H] [--focus REGEX] [--parallel N] [--report FILE]

Exit status: 0 all that ran passed; 1 something failed; 77 Go or its modules are not to be had here (said on stderr).
"""
import argparse
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]

import images  # noqa: E402
import tools  # noqa: E402
from harness.daemon import BUILD, Daemon, remove_tree  # noqa: E402
from harness.leaks import Leaks  # noqa: E402
from harness.registry import Registry  # noqa: E402

# Specs that are left out, by name, each with the reason.
EXCLUDED = {
    "public image with digest should be pulled and removed":
        "it asks for an image by the digest of its manifest, which nobody can make again; test/cri/test_images.py pulls by "
        "digest",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--handler", default="")
    parser.add_argument("--focus", default="")
    parser.add_argument("--skip", default="")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--report", default="")
    args = parser.parse_args()
    try:
        critest = tools.build("critest", BUILD)
    except tools.Unavailable as reason:
        print(f"conformance: {reason}", file=sys.stderr)
        sys.exit(77)
    folder = tempfile.mkdtemp(prefix="caisson-critest-")
    leaks = Leaks(os.path.basename(folder))
    registry = Registry(f"{folder}/registry")
    daemon = None
    try:
        images.push_all(registry, folder)
        images.write_mirrors(registry, f"{folder}/certs.d")
        daemon = Daemon(folder, config=f'[images]\ncerts_dir = "{folder}/certs.d"\n')
        command = [critest, "--runtime-endpoint", f"unix://{daemon.socket}", "--runtime-handler", args.handler,
                   "--ginkgo.no-color", "--ginkgo.timeout", "40m"]
        if args.focus:
            command += ["--ginkgo.focus", args.focus]
        for skipped in [*EXCLUDED, *filter(None, [args.skip])]:
            command += ["--ginkgo.skip", skipped]
        if args.report:
            command += ["--ginkgo.junit-report", args.report]
        if args.parallel > 1:
            command += ["--parallel", str(args.parallel)]
        status = subprocess.run(command, timeout=3000).returncode
        if status != 0:
            print(daemon.log_text()[-8000:], file=sys.stderr)
    finally:
        if daemon:
            daemon.destroy()
        registry.stop()
        left = leaks.check()
        remove_tree(folder)
    if left:
        print("left behind:", *left, sep="\n  ", file=sys.stderr)
    sys.exit(1 if status != 0 or left else 0)


main()
