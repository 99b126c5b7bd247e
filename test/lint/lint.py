#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the tree against the rules that a compiler cannot: module arrows, sizes, licence lines, wire contracts.

Usage: lint.py [ROOT]     prints one line per breach and exits 1 if there is any.
       lint.py --self-test   proves on made-up trees that each rule can fail.
"""
import os
import re
import subprocess
import sys
import tempfile

# Who may include whom (docs/architecture.md). The key's own folder and base are always allowed.
ARROWS = {
    "base": set(),
    "sys": set(),
    "ttrpc": {"sys", "proto-lite"},
    "oci": {"sys"},
    "task": {"sys", "oci", "ttrpc", "proto-lite"},
    "vmm": {"sys"},
    "net": {"sys"},
    "files": {"sys"},
    "image": {"sys"},
    "stream": {"sys"},
    "shim": {"sys", "ttrpc", "oci", "task", "vmm", "net", "files", "proto-lite"},
    "agent": {"sys", "ttrpc", "oci", "task", "proto-lite"},
    "cri": {"sys", "ttrpc", "image", "net", "stream", "proto-lite", "proto-cri", "grpc"},
    "ocicli": {"sys", "oci"},
    "cli": {"sys", "ttrpc", "oci", "proto-lite", "proto-cri", "grpc"},
}
# Of net the companion may use only these.
SHIM_NET = {"net/any_port.h", "net/tap.h", "net/tc.h"}
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^">]+)[">]')
MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 70
SOURCE = (".h", ".cc", ".py", ".proto", ".cmake", ".sh")


def files(root, *folders):
    for folder in folders:
        for path, names, leaves in os.walk(os.path.join(root, folder)):
            names[:] = [n for n in names if not n.startswith((".", "__"))]
            for leaf in sorted(leaves):
                yield os.path.relpath(os.path.join(path, leaf), root)


def read(root, name):
    with open(os.path.join(root, name), encoding="utf-8", errors="replace") as f:
        return f.read().split("\n")


def target_of(include):
    """The module or library family that an include names, or None for what anyone may use."""
    head = include.split("/")[0]
    if include.startswith(("grpc/", "grpcpp/")):
        return "grpc"
    if include.endswith(".pb.h"):
        return "proto-cri" if head in ("cri",) or include.startswith("caisson/control/") else "proto-lite"
    if include.startswith("google/protobuf/"):
        return "proto-lite"
    return head if head in ARROWS and "/" in include else None


def arrows(root):
    for name in files(root, "src"):
        if not name.endswith((".h", ".cc")):
            continue
        module = name.split("/")[1]
        if module not in ARROWS:
            yield f"{name}: module '{module}' is not in the table of modules"
            continue
        for number, line in enumerate(read(root, name), 1):
            found = INCLUDE.match(line)
            if not found:
                continue
            include = found.group(2)
            # <sys/…> and <net/…> are the C library's, "sys/…" and "net/…" are ours.
            target = None if found.group(1) == "<" and include.startswith(("sys/", "net/")) else target_of(include)
            if target in (None, module, "base") or target in ARROWS[module]:
                if module == "shim" and target == "net" and include not in SHIM_NET:
                    yield f"{name}:{number}: shim may use only {sorted(SHIM_NET)} of net, not {include}"
                continue
            yield f"{name}:{number}: {module} may not use {target} ({include})"


def sizes(root):
    for name in files(root, "src", "test", "bench", "tools"):
        if not name.endswith((".h", ".cc", ".py")):
            continue
        lines = read(root, name)
        if len(lines) - 1 > MAX_FILE_LINES:
            yield f"{name}: {len(lines) - 1} lines, at most {MAX_FILE_LINES}"
        if name.endswith(".cc"):
            yield from functions(name, lines)


def functions(name, lines):
    """A function body at file scope starts at a line in column 0 that ends in '{' and ends at a '}' in column 0."""
    start = None
    for number, line in enumerate(lines, 1):
        if start is None and re.match(r"[A-Za-z~].*\)[^;]*\{$", line) and not line.startswith("namespace"):
            start = number
        elif start is None and re.match(r"[A-Za-z].*\($|[A-Za-z].*,$", line):
            continue
        elif start is not None and line.startswith("}"):
            if number - start + 1 > MAX_FUNCTION_LINES:
                yield f"{name}:{start}: function of {number - start + 1} lines, at most {MAX_FUNCTION_LINES}"
            start = None


def licences(root):
    for name in files(root, "src", "test", "bench", "tools", "proto", "cmake", "guest", "share"):
        leaf = os.path.basename(name)
        script = "." not in leaf and read(root, name)[0].startswith("#!")
        if not (name.endswith(SOURCE) or leaf == "CMakeLists.txt" or script):
            continue
        if not any("SPDX-License-Identifier: Apache-2.0" in line for line in read(root, name)[:3]):
            yield f"{name}: no SPDX line at the top"


FORBIDDEN = [
    (re.compile(r"^\s*goto\s"), "goto"),
    (re.compile(r"\bstd::regex\b"), "std::regex (unbounded recursion on foreign input)"),
    (re.compile(r"^\s*using namespace std"), "using namespace std"),
    (re.compile(r"\b(?:std::)?system\(|\bpopen\("), "a shell"),
    (re.compile(r"\b(?:strcpy|strcat|sprintf|gets|tmpnam|mktemp)\("), "an unbounded C string function"),
]


def words(root):
    for name in files(root, "src"):
        if not name.endswith((".h", ".cc")):
            continue
        for number, line in enumerate(read(root, name), 1):
            code = line.split("//")[0]
            for pattern, what in FORBIDDEN:
                if pattern.search(code):
                    yield f"{name}:{number}: {what}"


def no_cloexec(root):
    """Descriptors are O_CLOEXEC from birth."""
    opens = re.compile(r"(?<![A-Za-z_.>:])(?:::)?(?:open|openat|pipe2|socket|accept4|epoll_create1|eventfd|memfd_create|timerfd_create|signalfd|inotify_init1)\(")
    for name in files(root, "src"):
        if not name.endswith(".cc") or name.endswith(("_test.cc", "_fuzz.cc")):
            continue
        lines = read(root, name)
        for number, line in enumerate(lines, 1):
            code = line.split("//")[0]
            if opens.search(code):
                call = " ".join(lines[number - 1:number + 3])
                if "CLOEXEC" not in call and "how" not in call and "flags" not in call:
                    yield f"{name}:{number}: a descriptor without CLOEXEC"


def limits(root):
    """docs/limits.md lists each constant of base/limits.h with its value."""
    header, page = "src/base/limits.h", "docs/limits.md"
    if not os.path.exists(os.path.join(root, header)):
        return
    text = "\n".join(read(root, page))
    for line in read(root, header):
        found = re.match(r"inline constexpr \S+ (k\w+) = (.+?);", line)
        if found and f"| {found.group(1)} | `{found.group(2)}` |" not in text:
            yield f"{page}: no row for {found.group(1)} = {found.group(2)}"


RULES = [limits, arrows, sizes, licences, words, no_cloexec]


def check(root):
    return [breach for rule in RULES for breach in rule(root)]


def self_test():
    cases = {
        "src/base/a.cc": "// SPDX-License-Identifier: Apache-2.0\n#include \"sys/path.h\"\n",
        "src/oci/b.cc": "// SPDX-License-Identifier: Apache-2.0\n#include <google/protobuf/message.h>\n",
        "src/task/c.cc": "// SPDX-License-Identifier: Apache-2.0\n#include \"image/image_store.h\"\n",
        "src/shim/d.cc": "// SPDX-License-Identifier: Apache-2.0\n#include \"net/cni.h\"\n",
        "src/sys/e.cc": "int main() {}\n",
        "src/sys/f.cc": "// SPDX-License-Identifier: Apache-2.0\n" + "//\n" * 800,
        "src/sys/g.cc": "// SPDX-License-Identifier: Apache-2.0\nint F() {\n" + "  ;\n" * 70 + "}\n",
        "src/sys/h.cc": "// SPDX-License-Identifier: Apache-2.0\n  system(\"x\");\n",
        "src/sys/i.cc": "// SPDX-License-Identifier: Apache-2.0\n  int fd = open(p, O_RDONLY);\n",
        "src/wrong/j.cc": "// SPDX-License-Identifier: Apache-2.0\n",
    }
    good = {
        "src/cri/k.cc": "// SPDX-License-Identifier: Apache-2.0\n#include \"net/cni.h\"\n#include <grpcpp/grpcpp.h>\n",
        "src/sys/l.cc": "// SPDX-License-Identifier: Apache-2.0\nint F() {\n" + "  ;\n" * 60 + "}\n",
    }
    failed = 0
    for name, text in list(cases.items()) + list(good.items()):
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, os.path.dirname(name)))
            with open(os.path.join(root, name), "w") as f:
                f.write(text)
            if bool(check(root)) != (name in cases):
                print(f"self-test: {name}: {check(root) or 'no breach found'}")
                failed = 1
    return failed


def main(argv):
    if argv[1:] == ["--self-test"]:
        return self_test()
    root = argv[1] if len(argv) > 1 else os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    breaches = check(root)
    for breach in breaches:
        print(breach)
    print(f"lint: {len(breaches)} breaches")
    return 1 if breaches else 0


sys.exit(main(sys.argv))
