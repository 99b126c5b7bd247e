# SPDX-License-Identifier: Apache-2.0
"""The examples of the documentation work as they stand.

Each fenced block ```sh is run as one script against a daemon of the test's own, with a registry that stands for docker.io. Of
```sh norun blocks (what installs, builds or takes long) and of commands in running text, the programs, subcommands, flags,
make targets, presets and files are checked to exist.
"""
import glob
import json
import os
import re
import shlex
import subprocess

import pytest
from harness.daemon import BIN, BUILD

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGES = sorted(["README.md", "CONTRIBUTING.md", *(os.path.relpath(p, ROOT) for p in glob.glob(f"{ROOT}/docs/**/*.md", recursive=True))])
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HIDDEN = ("--fault", "--list-faults")  # for tests only: not in --help
PROGRAMS = ("caisson", "caissond", "caisson-oci")
# What the examples ask of the machine beyond what they name themselves.
KNOWN = {"cmake", "ctr", "ninja", "ctest", "make", "systemctl", "crictl", "source", "cd", "export", "apt-get", "dpkg", "python3", "journalctl"}


def read(page):
    with open(f"{ROOT}/{page}") as f:
        return f.read()


def blocks():
    """(id, info after the language, text) of every shell block."""
    for page in PAGES:
        for number, found in enumerate(FENCE.finditer(read(page))):
            if found[1] in ("sh", "bash", "console", "shell"):
                assert found[1] == "sh" and found[2].strip() in ("", "norun"), f"{page}: ```{found[1]}{found[2]}: sh or sh norun"
                yield f"{page}-{number}", found[2].strip(), found[3]


RUN = [(name, text) for name, info, text in blocks() if info == ""]
NORUN = [(name, text) for name, info, text in blocks() if info == "norun"]


def inline_commands():
    """(page, command) of `caisson …` and `caissond …` in running text."""
    for page in PAGES:
        text = FENCE.sub("", read(page))
        for span in re.findall(r"`([^`\n]+)`", text):
            if re.match(r"(caisson|caissond|caisson-oci) +[a-z-]", span):
                yield page, span


@pytest.fixture(scope="module")
def shell(registry, folder_of_module, make_module_daemon):
    """Runs a script as a user of the installed package would: programs in PATH, the daemon on its default socket."""
    certs = f"{folder_of_module}/certs.d/docker.io"
    os.makedirs(certs)
    with open(f"{certs}/hosts.toml", "w") as f:
        f.write(f'[host."http://{registry.host}"]\ncapabilities = ["pull", "resolve"]\n')
    registry.push(registry.busybox_image, "library/busybox", "1.36")
    daemon = make_module_daemon(config=f'[images]\ncerts_dir = "{folder_of_module}/certs.d"\n')
    work = f"{folder_of_module}/work"
    os.makedirs(work)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "CAISSON_SOCKET": daemon.socket}

    def run(script):
        script = script.replace("/run/caisson/caisson.sock", daemon.socket)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=work, env=environment, timeout=120, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout
    run.daemon = daemon
    return run


def test_there_are_examples_of_both_kinds():
    assert len(RUN) > 3 and len(NORUN) > 3 and len(list(inline_commands())) > 1


@pytest.mark.parametrize("text", [text for _, text in RUN], ids=[name for name, _ in RUN])
def test_block_runs(shell, text):
    out = shell(text)
    if "echo hello" in text:
        assert "hello\n" in out
    # An example leaves no pods to the reader.
    assert len(shell.daemon.client.ListPodSandbox().items) == 0


@pytest.mark.parametrize("text", [text for _, text in NORUN], ids=[name for name, _ in NORUN])
def test_block_names_what_exists(text):
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if words:
            check(words)


def test_running_text_names_what_exists():
    for _, command in inline_commands():
        check(shlex.split(command))


def check(words):
    program, arguments = os.path.basename(words[0]), words[1:]
    if program in PROGRAMS:
        return check_program(program, arguments)
    if "/" in words[0] and not words[0].startswith("/usr/"):
        assert os.access(f"{ROOT}/{words[0]}", os.X_OK), words
        script = read(words[0])
        for flag in (a for a in arguments if a.startswith("--") and a != "--"):
            helpers = "".join(read(os.path.relpath(path, ROOT)) for path in glob.glob(f"{ROOT}/{os.path.dirname(words[0])}/*.py"))
            assert flag.split("=")[0] in script + helpers, (words, flag)
        return None
    assert program in KNOWN, f"{words}: add {program} to KNOWN if every reader has it"
    checker = globals().get(f"check_{program}")
    return checker(arguments) if checker else None


def check_program(program, arguments):
    command = [f"{BIN}/{program}"]
    if program in ("caisson", "caisson-oci") and arguments and not arguments[0].startswith("-"):
        command.append(arguments.pop(0))
    done = subprocess.run([*command, "--help"], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, command
    words = 0
    for argument in arguments:
        # What follows is the container's command.
        words += not argument.startswith("-")
        if argument == "--" or (command[-1] in ("exec", "run") and words == 2):
            return
        if argument.startswith("-") and argument not in HIDDEN:
            for flag in flags(argument):
                assert re.search(rf"(^|[ ,]){re.escape(flag)}\b", done.stdout, re.MULTILINE), (command, flag)


def flags(argument):
    """"-it" is "-i" and "-t"."""
    if argument.startswith("--"):
        return [argument.split("=")[0]]
    return ["-" + letter for letter in argument[1:]]


def check_make(arguments):
    with open(f"{ROOT}/Makefile") as f:
        targets = re.findall(r"^([a-z-]+):", f.read(), re.MULTILINE)
    for target in (a for a in arguments if "=" not in a):
        assert target in targets, target


def check_cmake(arguments):
    if "--preset" in arguments:
        with open(f"{ROOT}/CMakePresets.json") as f:
            presets = [p["name"] for p in json.load(f)["configurePresets"]]
        assert arguments[arguments.index("--preset") + 1] in presets


def check_ctest(arguments):
    """A label or a test's name that some test has."""
    with open(f"{ROOT}/CMakePresets.json") as f:
        presets = json.load(f)
    if "--test-dir" in arguments:
        folder = arguments[arguments.index("--test-dir") + 1]
        assert folder.rpartition("/")[2] in [p["name"] for p in presets["configurePresets"]] or folder == "build", folder
    tests = subprocess.run(["ctest", "--show-only=json-v1"], cwd=BUILD, stdout=subprocess.PIPE, text=True)
    tests = json.loads(tests.stdout)["tests"]
    if not tests:
        return  # binaries without a build around them
    labels = {label for test in tests for p in test["properties"] if p["name"] == "LABELS" for label in p["value"]}
    if "-L" in arguments:
        only_in_release = {"vm", "lint", "conformance", "kubelet", "packaging"}
        assert arguments[arguments.index("-L") + 1] in labels | only_in_release
    if "-R" in arguments:
        assert any(re.search(arguments[arguments.index("-R") + 1], test["name"]) for test in tests)


def check_python3(arguments):
    for argument in arguments:
        assert not argument.endswith(".py") or os.path.exists(f"{ROOT}/{argument}"), argument


def check_systemctl(arguments):
    assert os.path.exists(f"{ROOT}/share/systemd/{arguments[-1].removesuffix('.service')}.service")
