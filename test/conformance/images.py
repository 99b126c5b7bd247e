# SPDX-License-Identifier: Apache-2.0
"""The images that the CRI's conformance suite asks for, made of Debian's packages and pushed into a local registry.

The suite names them by registry.k8s.io and gcr.io; the daemon under test is given a certs.d that sends those there.
"""
import glob
import os
import subprocess
import tarfile

from harness.images import Image, directory, entry, tar_layer

PATH = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
SHELL = {"Env": PATH, "Cmd": ["sh"]}
TOOLS = "k8s-staging-cri-tools/"
REGISTRIES = ("registry.k8s.io", "k8s.gcr.io", "gcr.io")
PASSWD = ("root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n"
          "nobody:x:65534:65534:nobody:/home:/bin/false\n")
GROUP = "root:x:0:\ntty:x:5:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n"
PAUSE = r"""
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void ended(int s) { _exit(s == SIGTERM ? 0 : 1); }
static void child(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) { signal(SIGTERM, ended); signal(SIGINT, ended); signal(SIGCHLD, child); for (;;) pause(); }
"""
# The suite masks /bin/ls and wants what the shell of its own image says when it may not run that: the program is looked for
# in PATH. Debian's busybox runs the applet within its shell instead.
SHELL_OF_PROGRAMS = r"""
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
  if (argc == 3 && !strcmp(argv[1], "-c") && strspn(argv[2], "abcdefghijklmnopqrstuvwxyz") == strlen(argv[2])) {
    execlp(argv[2], argv[2], (char *)0);
    fprintf(stderr, "%s: %s: %s\n", argv[0], argv[2], strerror(errno));
    return errno == ENOENT ? 127 : 126;
  }
  execv("/bin/busybox", argv);
  return 127;
}
"""
WHO = r"""
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("Effective uid: %d\n", geteuid()); return 0; }
"""
NGINX = """user www-data; worker_processes 1; pid /run/nginx.pid; error_log /dev/stderr warn;
events {{ worker_connections 64; }}
http {{ default_type text/html; access_log /dev/stdout;
  server {{ listen {port}; location / {{ root /usr/share/nginx/html; index index.html; }} }} }}
"""


def compile_static(source, folder, name):
    with open(f"{folder}/{name}.c", "w") as f:
        f.write(source)
    subprocess.run(["cc", "-Os", "-static", "-o", f"{folder}/{name}", f"{folder}/{name}.c"], check=True)
    return read(f"{folder}/{name}")


def read(path):
    with open(path, "rb") as f:
        return f.read()


class Tree:
    """Entries of a layer, each parent folder once."""

    def __init__(self):
        self.entries, self.seen = [], set()

    def folder(self, name, mode=0o755, uid=0, gid=0):
        if name and name not in self.seen:
            self.folder(os.path.dirname(name))
            self.seen.add(name)
            self.entries.append(entry(name, tarfile.DIRTYPE, mode, uid=uid, gid=gid))
        return self

    def file(self, name, data, mode=0o644):
        self.folder(os.path.dirname(name))
        self.entries.append(entry(name, mode=mode, data=data.encode() if isinstance(data, str) else data))
        return self

    def link(self, name, target, kind=tarfile.SYMTYPE):
        self.folder(os.path.dirname(name))
        self.entries.append(entry(name, kind, 0o777, link=target))
        return self

    def program(self, path):
        """A program of the host with the libraries that it needs."""
        self.file(path.lstrip("/"), read(path), 0o755)
        for line in subprocess.run(["ldd", path], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines():
            for word in line.split():
                if word.startswith("/") and word not in self.seen:
                    self.seen.add(word)
                    self.file(word.lstrip("/"), read(word), 0o755)
        return self

    def layer(self):
        return tar_layer(self.entries)


def base_layer(folder):
    tree = Tree()
    for name in ("bin", "dev", "proc", "sys", "root", "home", "var/www", "run", "usr/sbin"):
        tree.folder(name)
    tree.folder("tmp", 0o1777).file("bin/busybox", read("/bin/busybox"), 0o755)
    applets = subprocess.run(["/bin/busybox", "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    for applet in applets:
        if applet not in ("busybox", "sh"):
            # Hard links: one spec masks /bin/ls and expects the other applets to live.
            tree.link(f"bin/{applet}", "bin/busybox", tarfile.LNKTYPE)
    tree.file("bin/sh", compile_static(SHELL_OF_PROGRAMS, folder, "sh"), 0o755)
    for path in ("/usr/bin/pgrep", "/usr/bin/ipcs"):  # not in Debian's busybox
        tree.program(path)
    tree.file("etc/passwd", PASSWD).file("etc/group", GROUP)
    return tree.layer()


def nginx_layer(folder):
    subprocess.run(["apt-get", "download", "nginx"], cwd=folder, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    subprocess.run(["dpkg", "-x", glob.glob(f"{folder}/nginx_*.deb")[0], f"{folder}/nginx"], check=True)
    tree = Tree()
    os.chmod(f"{folder}/nginx/usr/sbin/nginx", 0o755)
    tree.program(f"{folder}/nginx/usr/sbin/nginx")
    name = f"{folder}/nginx/usr/sbin/nginx".lstrip("/")
    tree.entries = [e for e in tree.entries if (e[0] if isinstance(e, tuple) else e).name != name]
    tree.file("usr/sbin/nginx", read(f"{folder}/nginx/usr/sbin/nginx"), 0o755)
    for path in ("var/log/nginx", "var/lib/nginx", "run"):
        tree.folder(path)
    tree.link("var/run", "../run")
    tree.file("usr/share/nginx/html/index.html", "<!DOCTYPE html><title>Welcome to nginx!</title>\n")
    return tree.layer()


def push_all(registry, folder):
    """Returns the digest of the image that the suite pulls by one."""
    base = base_layer(folder)

    def push(name, tags, layers, config):
        for tag in tags:
            registry.push(Image(layers, config, docker=True), name, tag)

    push("e2e-test-images/busybox", ["1.29-2", "1.29", "latest"], [base], SHELL)
    pinned = Image([base, Tree().file("test-image-digest", "").layer()], SHELL, docker=True)
    registry.push(pinned, TOOLS + "test-image-digest", "latest")
    for name in ("test-image-1", "test-image-2", "test-image-3", "test-image-latest"):
        push(TOOLS + name, ["latest"], [base, Tree().file(name, "").layer()], SHELL)
    push(TOOLS + "test-image-tags", ["1", "2", "3"], [base, Tree().file("same-image", "").layer()], SHELL)
    for tag in ("test", "all"):
        push(TOOLS + "test-image-tag", [tag], [base, Tree().file(tag, "").layer()], SHELL)
    for name, user in (("uid", "1002"), ("username", "www-data"), ("uid-group", "1003:1004"),
                       ("username-group", "www-data:1004")):
        push(TOOLS + "test-image-user-" + name, ["latest"], [base], {**SHELL, "User": user})
    groups = Tree().file("etc/passwd", PASSWD + "default-user:x:1000:1000::/home/default-user:/bin/sh\n")
    groups.file("etc/group", GROUP + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")
    groups.folder("home/default-user", 0o755, 1000, 1000)
    push(TOOLS + "test-image-predefined-group", ["latest"], [base, groups.layer()], {**SHELL, "User": "1000"})
    who = Tree().file("nnp", compile_static(WHO, folder, "nnp"), 0o4755).layer()
    push("e2e-test-images/nonewprivs", ["1.3"], [base, who], {"Env": PATH, "Entrypoint": ["/nnp"]})
    web = Tree().file("www/index.html", "<html><body>It works!</body></html>\n")
    web.file("usr/local/bin/httpd-foreground", "#!/bin/sh\necho 'httpd -D FOREGROUND (busybox httpd)' >&2\n"
             "exec /bin/httpd -f -vv -p 80 -h /www\n", 0o755)
    push("e2e-test-images/httpd", ["2.4.39-4"], [base, web.layer()], {"Env": PATH, "Cmd": ["httpd-foreground"]})
    nginx = nginx_layer(folder)
    for name, tag, port in (("e2e-test-images/nginx", "1.14-2", 80), (TOOLS + "hostnet-nginx-amd64", "latest", 12003)):
        config = Tree().file("etc/nginx/nginx.conf", NGINX.format(port=port)).layer()
        push(name, [tag], [base, nginx, config], {"Env": PATH, "Cmd": ["nginx", "-c", "/etc/nginx/nginx.conf", "-g",
                                                                       "daemon off;"]})
    pause = Tree().file("pause", compile_static(PAUSE, folder, "pause"), 0o755).layer()
    push("pause", ["3.9"], [pause], {"Env": PATH, "Entrypoint": ["/pause"], "User": "65535:65535", "Labels": {"v": "9"}})
    push("pause", ["3.10", "3.10.1", "latest"], [pause], {"Env": PATH, "Entrypoint": ["/pause"], "User": "65535:65535"})
    return pinned.digest


def write_mirrors(registry, certs):
    """containerd's certs.d layout: the public names answer from the local registry."""
    for name in REGISTRIES:
        os.makedirs(f"{certs}/{name}", exist_ok=True)
        with open(f"{certs}/{name}/hosts.toml", "w") as f:
            f.write(f'server = "http://{registry.host}"\n\n[host."http://{registry.host}"]\n'
                    'capabilities = ["pull", "resolve"]\n')
