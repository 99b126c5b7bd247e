# SPDX-License-Identifier: Apache-2.0
"""The images of the benchmark: a small one, the peers' sandbox image, and a big one of this host's /usr."""
import concurrent.futures
import gzip
import io
import os
import tarfile

from harness.images import OCI_LAYER, Image, busybox_layer, digest, directory, entry, tar_layer
from peers import BIN

LAYERS, LAYER_BYTES = 5, 636_000_000 // 5
LARGEST = 8_000_000  # a larger file would make a layer much larger than the others
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
                if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) <= LARGEST:
                    yield path


class Layers:
    """About 636 MB of real files in five tar archives, of which any number of images without a common layer are made."""

    def __init__(self):
        self.tars, out, tar = [], None, None
        for path in _files():
            if out is None:
                out = io.BytesIO()
                tar = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)
            try:
                tar.add(path, path.lstrip("/"), recursive=False)
            except OSError:
                continue
            if out.tell() >= LAYER_BYTES:
                tar.close()
                self.tars.append(out.getvalue())
                out = None
                if len(self.tars) == LAYERS:
                    break

    def image(self, number):
        """Image `number`: gzip'ed as `docker build` does (level 6), each layer with one file that no other image has."""
        mark = [_one_file(f"bench-{number}-{i}") for i in range(LAYERS)]
        layers = [mark[i] + data for i, data in enumerate(self.tars)]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            packed = {digest(layer): data for layer, data in
                      zip(layers, pool.map(lambda layer: gzip.compress(layer, 6, mtime=0), layers))}

        class Packed(Image):
            @staticmethod
            def _compress(layer, compression, docker):
                return packed[digest(layer)], OCI_LAYER + "+gzip"

        return Packed(layers=layers), sum(map(len, layers)), sum(map(len, packed.values()))


def _one_file(name):
    """A tar archive of one empty file, without the end mark, so that another may follow."""
    return tarfile.TarInfo(name).tobuf(tarfile.PAX_FORMAT)
