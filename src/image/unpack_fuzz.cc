// SPDX-License-Identifier: Apache-2.0
//
// A layer's bytes, packed or not, into a folder; what it asks of layers below; and the folder's removal. Best on a tmpfs
// (TMPDIR), and as root, where devices and whiteouts are made.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/unique_fd.h"
#include "image/below.h"
#include "image/decompress.h"
#include "image/remove_tree.h"
#include "image/unpack.h"

using caisson::Result;

namespace {

// A sentinel lies next to the layer's folder: nothing that is unpacked may touch it.
struct Ground {
  Ground() {
    const char* base = getenv("TMPDIR");
    path = std::string(base != nullptr ? base : "/tmp") + "/caisson-unpack-fuzz-XXXXXX";
    CHECK(mkdtemp(path.data()) != nullptr);
    caisson::UniqueFd file(open((path + "/sentinel").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    CHECK(file && fstat(file.get(), &before) == 0);
    CHECK(mkdir((path + "/below").c_str(), 0755) == 0 && mkdir((path + "/below/d").c_str(), 0755) == 0);
    caisson::UniqueFd target(open((path + "/below/d/f").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    CHECK(target);
  }
  ~Ground() { (void)caisson::image::RemoveTree(path); }
  void Check() const {
    struct stat now {};
    CHECK(stat((path + "/sentinel").c_str(), &now) == 0);
    CHECK(now.st_ino == before.st_ino && now.st_size == 0 && now.st_nlink == 1 && now.st_mode == before.st_mode && now.st_uid == before.st_uid);
  }
  std::string path;
  struct stat before {};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Ground ground;
  std::string layer = ground.path + "/layer";
  CHECK(mkdir(layer.c_str(), 0755) == 0);
  {
    caisson::UniqueFd root(open(layer.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    size_t at = 0;
    caisson::image::Decompressor decompressor([&]() -> Result<std::string> {
      std::string piece(reinterpret_cast<const char*>(data) + at, std::min<size_t>(size - at, 777));
      at += piece.size();
      return piece;
    });
    uint64_t made = 0;
    auto unpacked = caisson::image::UnpackTar(root.get(), [&]() -> Result<std::string_view> {
      auto bytes = decompressor.Next();
      if (bytes) made += bytes->size();
      // Bombs are other tests' matter: here they would only take time.
      if (made > (16 << 20)) return caisson::MakeError(caisson::Code::kResourceExhausted, "enough");
      return bytes;
    });
    if (unpacked) (void)caisson::image::CompleteFromBelow(root.get(), &*unpacked, {ground.path + "/below"});
  }
  ground.Check();
  auto removed = caisson::image::RemoveTree(layer);
  CHECK(removed.has_value());
  return 0;
}
