// SPDX-License-Identifier: Apache-2.0
//
// An archive of images, as somebody hands it to `caisson image import`. The store is made once and emptied after each.
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/unique_fd.h"
#include "image/image_store.h"
#include "image/remove_tree.h"

namespace {

struct Ground {
  Ground() {
    const char* base = getenv("TMPDIR");
    path = std::string(base != nullptr ? base : "/tmp") + "/caisson-import-fuzz-XXXXXX";
    CHECK(mkdtemp(path.data()) != nullptr);
    caisson::image::Options options;
    options.root = path + "/store";
    auto opened = caisson::image::ImageStore::Open(options);
    CHECK(opened.has_value());
    store = std::move(*opened);
  }
  ~Ground() {
    store.reset();
    (void)caisson::image::RemoveTree(path);
  }
  std::string path;
  std::unique_ptr<caisson::image::ImageStore> store;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Ground ground;
  std::string archive = ground.path + "/archive";
  caisson::UniqueFd file(open(archive.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
  CHECK(file && write(file.get(), data, size) == static_cast<ssize_t>(size));
  (void)ground.store->Import(archive, size % 2 == 0 ? "" : "fuzz.io/x:1");
  for (const auto& image : ground.store->List()) CHECK(ground.store->Remove(image.id).has_value());
  CHECK(ground.store->List().empty());
  return 0;
}
