# SPDX-License-Identifier: Apache-2.0
"""Medians and ratios as markdown."""
import os
import platform
import time

# row key, title, unit, target: ratio to the best peer, larger is better
ROWS = [
    ("start pod", "pod start (Run+Create+Start), bridge CNI", "ms", 0.35, False),
    ("start node", "pod start, host network", "ms", 0.2, False),
    ("exec", "ExecSync(true)", "ms", 0.2, False),
    ("stop", "StopContainer (exits on SIGTERM)", "ms", 0.2, False),
    ("teardown pod", "teardown (StopPod+RemovePod), bridge", "ms", 0.75, False),
    ("teardown node", "teardown, host network", "ms", 0.2, False),
    ("parallel", "20 pods started in parallel, wall", "ms", 0.4, False),
    ("idle", "daemon idle, PSS", "MiB", 0.3, False),
    ("daemon 50", "daemon with 50 pods, PSS", "MiB", 0.25, False),
    ("growth", "growth per pod of everything but the container, PSS", "KiB", 0.6, False),
    ("stats", "ListContainerStats with 50 pods", "ms", 0.1, False),
    ("pod stats", "ListPodSandboxStats with 50 pods", "ms", 0.1, False),
    ("metrics", "ListPodSandboxMetrics with 50 pods", "ms", None, False),
    ("stats seldom", "ListContainerStats with 50 pods, asked every 7 s", "ms", None, False),
    ("pod stats seldom", "ListPodSandboxStats with 50 pods, asked every 7 s", "ms", None, False),
    ("metrics seldom", "ListPodSandboxMetrics with 50 pods, asked every 7 s", "ms", None, False),
    ("pull", "PullImage, local registry", "s", 0.35, False),
    ("log", "container stdout to log file", "MB/s", 3, True),
    ("stream_exec_first", "Exec: first byte of stdout", "ms", 1, False),
    ("stream_exec_whole", "Exec: exit code", "ms", 1, False),
    ("stream_attach_first", "Attach: first byte, echoed", "ms", 1, False),
    ("stream_forward_first", "PortForward: first byte", "ms", 1, False),
    ("stream_exec_out", "Exec: stdout", "MB/s", 1, True),
    ("stream_exec_in", "Exec: stdin", "MB/s", 1, True),
    ("stream_forward_down", "PortForward: from the pod", "MB/s", 1, True),
    ("stream_forward_up", "PortForward: to the pod", "MB/s", 1, True),
    ("launcher create_start", "launcher alone: create + start", "ms", 0.4, False),
    ("launcher exec", "launcher alone: exec", "ms", 0.4, False),
    ("launcher delete", "launcher alone: delete", "ms", 0.4, False),
]
STEPS = [("run pod", "RunPodSandbox, bridge"), ("create pod", "CreateContainer, bridge"),
         ("start_container pod", "StartContainer, bridge"), ("run node", "RunPodSandbox, host network"),
         ("create node", "CreateContainer, host network"), ("start_container node", "StartContainer, host network")]


def number(value):
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def markdown(results, names, command):
    peers = [name for name in names if name != "caisson"]
    columns = (["caisson"] if "caisson" in names else []) + peers
    lines = [f"Measured with `{command}` on {time.strftime('%Y-%m-%d')}: {os.cpu_count()} CPUs, Linux {platform.release().split('-')[0]}. "
             f"Load before it: {results.load:.1f}. Medians of interleaved rounds; only ratios carry over to another machine.", ""]
    lines += [f"- {name}: {results.versions.get(name, '?')}" for name in columns] + [""]
    lines += ["| row | unit | " + " | ".join(columns) + " | floor | ratio to the best peer | target | met |",
              "|---|---|" + "---|" * (len(columns) + 4)]
    for key, title, unit, target, larger in ROWS:
        if key not in results.samples:
            continue
        values = [results.median(key, name) for name in columns]
        best = [results.median(key, name) for name in peers if results.median(key, name)]
        own = results.median(key, "caisson")
        ratio = own / (max(best) if larger else min(best)) if own and best else None
        met = "-" if ratio is None or target is None else "yes" if (ratio >= target if larger else ratio <= target) else "no"
        limit = "-" if target is None else f"{'>=' if larger else '<='} {target}"
        lines.append(f"| {title} | {unit} | " + " | ".join(number(v) for v in values) +
                     f" | {number(results.median(key, 'floor'))} | {number(ratio)} | {limit} | {met} |")
    steps = [(key, title) for key, title in STEPS if key in results.samples]
    if steps:
        lines += ["", "The steps of a pod's start, ms:", "", "| step | " + " | ".join(columns) + " |",
                  "|---|" + "---|" * len(columns)]
        for key, title in steps:
            limit = "-" if target is None else f"{'>=' if larger else '<='} {target}"
        lines.append(f"| {title} | " + " | ".join(number(results.median(key, name)) for name in columns) + " |")
    if results.facts:
        lines += [""] + [f"- {fact}" for fact in results.facts]
    return "\n".join(lines) + "\n"
