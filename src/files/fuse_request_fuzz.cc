// SPDX-License-Identifier: Apache-2.0
// A guest's stream: cut into requests in two pieces, and each served, from an empty folder that is read-only.
#include <fcntl.h>

#include <cstdlib>

#include "base/check.h"
#include "files/file_server.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace caisson::files;
  static const char* folder = [] {
    static char name[] = "/tmp/caisson-fuzz-XXXXXX";
    CHECK(mkdtemp(name) != nullptr);
    atexit([] { rmdir(name); });
    return name;
  }();
  FileServer server(caisson::UniqueFd(open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC)), {{4, 64}, 16});
  CHECK(server.AddVolume("v", caisson::UniqueFd(open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC)), false));
  FuseReader reader;
  const size_t half = size / 2;
  for (auto [begin, count] : {std::pair<size_t, size_t>(0, half), {half, size - half}}) {
    if (count > 0) std::memcpy(reader.Room(count), data + begin, count);
    reader.Added(count);
    for (;;) {
      auto next = reader.Next();
      if (!next) return 0;
      if (!*next) break;
      std::string_view answer = server.Handle(**next);
      fuse_out_header header{};
      if (answer.empty()) continue;
      CHECK(answer.size() >= sizeof header);
      std::memcpy(&header, answer.data(), sizeof header);
      CHECK(header.len == answer.size());
      CHECK(header.unique == (*next)->header.unique);
    }
  }
  return 0;
}
