# SPDX-License-Identifier: Apache-2.0
"""The `caisson` command as a user types it."""
import json
import re
import subprocess

import pytest
from harness.daemon import BIN, cli
from harness.images import Image


def ok(daemon, *args, **kw):
    done = cli(daemon, *args, **kw)
    assert done.returncode == 0, (args, done.stdout, done.stderr)
    return done.stdout


def test_run_prints_output_and_passes_the_exit_code(daemon):
    done = cli(daemon, "run", "--rm", daemon.image, "sh", "-c", "echo hello; echo oops >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello\n", "oops\n")
    assert json.loads(ok(daemon, "pods", "-o", "json")) in ([], {"items": []})


def test_run_pulls_a_missing_image(daemon, registry):
    ref = registry.push(Image(config={"Cmd": ["echo", "from the image"]}), "cli/pulled")
    assert cli(daemon, "run", "--rm", ref).stdout == "from the image\n"
    assert ref in ok(daemon, "images")
    ok(daemon, "rmi", ref)
    assert ref not in ok(daemon, "images")


def test_detached_life(daemon):
    pod = ok(daemon, "run", "-d", "--name", "cli-life", daemon.image, "sh", "-c", "echo up; sleep 1000").split()[-1]
    containers = json.loads(ok(daemon, "ps", "-o", "json"))
    containers = containers if isinstance(containers, list) else containers["containers"]
    container = [c for c in containers if pod.startswith(c["podSandboxId"][:12]) or c["podSandboxId"].startswith(pod[:12])
                 or c["id"].startswith(pod[:12])][0]["id"]
    assert "cli-life" in ok(daemon, "pods")
    assert ok(daemon, "exec", container, "echo", "inside") == "inside\n"
    assert cli(daemon, "exec", container, "sh", "-c", "exit 4").returncode == 4
    assert ok(daemon, "logs", container) == "up\n"
    assert json.loads(ok(daemon, "inspect", container))
    assert container[:12] in ok(daemon, "stats")
    explained = ok(daemon, "explain", "cli-life")
    assert "cni" in explained.lower() and re.search(r"\d ms", explained)
    ok(daemon, "stop", "cli-life")
    ok(daemon, "rm", "cli-life")
    assert "cli-life" not in ok(daemon, "pods")


def test_explain_draws(daemon, folder):
    ok(daemon, "run", "-d", "--name", "drawn", daemon.image, "sleep", "1000")
    ok(daemon, "explain", "drawn", "--svg", f"{folder}/pod.svg")
    assert open(f"{folder}/pod.svg").read().lstrip().startswith(("<svg", "<?xml"))
    ok(daemon, "explain", "drawn", "--trace", f"{folder}/pod.json")
    with open(f"{folder}/pod.json") as f:
        events = json.load(f)["traceEvents"]
    assert {"run_pod_sandbox", "cni_add", "task_start"} <= {e["name"] for e in events if e["ph"] == "X" and e["dur"] >= 0}
    ok(daemon, "rm", "-f", "drawn")


@pytest.mark.parametrize("kind", ["oci-layout", "oci-archive", "docker-archive"])
def test_import(daemon, folder, kind):
    image = Image(config={"Cmd": ["echo", kind]})
    path = f"{folder}/{kind}"
    if kind == "docker-archive":
        layers = []
        import gzip
        import os
        os.makedirs(f"{folder}/d")
        for layer in json.loads(image.manifest)["layers"]:
            name = layer["digest"][7:] + ".tar"
            open(f"{folder}/d/{name}", "wb").write(gzip.decompress(image.blobs[layer["digest"]]))
            layers.append(name)
        open(f"{folder}/d/config.json", "wb").write(image.blobs[image.id])
        json.dump([{"Config": "config.json", "RepoTags": [f"imported/{kind}:1"], "Layers": layers}],
                  open(f"{folder}/d/manifest.json", "w"))
        subprocess.run(["tar", "-C", f"{folder}/d", "-cf", path, "."], check=True)
    else:
        image.write_layout(f"{folder}/layout", f"imported/{kind}:1")
        path = f"{folder}/layout"
        if kind == "oci-archive":
            path = f"{folder}/a.tar"
            subprocess.run(["tar", "-C", f"{folder}/layout", "-cf", path, "."], check=True)
    assert f"imported/{kind}:1" in ok(daemon, "import", path)
    assert cli(daemon, "run", "--rm", f"docker.io/imported/{kind}:1").stdout == f"{kind}\n"


def test_doctor_needs_no_daemon():
    done = subprocess.run([f"{BIN}/caisson", "--socket", "/no/such.sock", "doctor"], stdout=subprocess.PIPE, text=True)
    assert "kernel" in done.stdout.lower() and "cgroup" in done.stdout.lower() and done.returncode in (0, 1)


def test_errors_say_what_to_do(daemon):
    done = subprocess.run([f"{BIN}/caisson", "--socket", "/no/such.sock", "ps"], stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0 and "/no/such.sock" in done.stderr and "caissond" in done.stderr
    done = cli(daemon, "logs", "no-such-container")
    assert done.returncode != 0 and "no-such-container" in done.stderr


def test_help_and_completion():
    for args in (["--help"], ["run", "--help"], ["completion", "bash"], ["version"]):
        done = subprocess.run([f"{BIN}/caisson", *args], stdout=subprocess.PIPE, text=True)
        assert len(done.stdout) > 20, args


def test_check_config(folder):
    path = f"{folder}/c.toml"
    open(path, "w").write("rooot = \"/x\"\n")
    done = subprocess.run([f"{BIN}/caissond", "--check-config", "--config", path], stderr=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True)
    assert done.returncode != 0 and "rooot" in done.stderr + done.stdout
    open(path, "w").write("")
    assert subprocess.run([f"{BIN}/caissond", "--check-config", "--config", path], stdout=subprocess.PIPE).returncode == 0
