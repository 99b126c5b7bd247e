# SPDX-License-Identifier: Apache-2.0
"""The images of the benchmark: a small one, the peers' sandbox image, and a big one of this host's /usr."""
import gzip
import os
import tarfile
import io

from harness.daemon import BIN
from harness.images import Image, busybox_layer, directory, entry, tar_layer

LAYERS, LAYER_BYTES = 5, 636_000_000 // 5
USR = ("/usr/lib", "/usr/share", "/usr/bin", "/usr/sbin", "/usr/include")


def payload():
    with open(f"{BIN}/bench_payload", "rb") as f:
        return f.read()


def small():
    return Image(layers=[busybox_layer([entry("bin/payload", data=payload())])])


def pause():
    return Image(layers=[tar_layer([directory("dev"), directory("proc"), directory("sys"), directory("etc"),
                                    entry("pause", data=payload())])], config={"Entrypoint": ["/pause"], "Cmd": None})


def _files():
    for top in USR:
        for folder, names, files in os.walk(top):
            names.sort()
            for name in sorted(files):
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    yield path


def big():
    """About 636 MB in five layers of real files, gzip'ed as `docker build` does (level 6)."""
    layers, used, out, tar = [], 0, None, None
    files = _files()
    for path in files:
        if out is None:
            out = io.BytesIO()
            tar = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)
        try:
            tar.add(path, path.lstrip("/"), recursive=False)
        except OSError:
            continue
        if out.tell() >= LAYER_BYTES:
            tar.close()
            layers.append(out.getvalue())
            used += len(layers[-1])
            out = None
            if len(layers) == LAYERS:
                break
    if out is not None:
        tar.close()
        layers.append(out.getvalue())
        used += len(layers[-1])
    compressed = {}

    class Big(Image):
        @staticmethod
        def _compress(layer, compression, docker):
            data = gzip.compress(layer, 6, mtime=0)
            compressed[len(compressed)] = len(data)
            return data, "application/vnd.oci.image.layer.v1.tar+gzip"

    image = Big(layers=layers)
    return image, len(layers), used, sum(compressed.values())
