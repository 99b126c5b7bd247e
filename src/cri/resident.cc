// SPDX-License-Identifier: Apache-2.0
#include "cri/resident.h"

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>

namespace caisson::cri {
namespace {

// One mapping of /proc/self/smaps (proc(5)).
struct Mapping {
  uintptr_t begin = 0, end = 0;
  bool candidate = false;  // a file, mapped privately, that this process may not write
  size_t rss_kib = 0, anonymous_kib = 0;
};

// "begin-end perms offset dev inode path": false for the lines with the figures of a mapping.
bool ParseHead(const char* line, Mapping* out) {
  char permissions[5] = {};
  unsigned long begin = 0, end = 0, inode = 0;
  int path = 0;
  if (sscanf(line, "%lx-%lx %4s %*x %*s %lu %n", &begin, &end, permissions, &inode, &path) != 4) return false;
  bool file = inode != 0 && line[path] == '/';
  *out = {begin, end, file && permissions[0] == 'r' && permissions[1] == '-' && permissions[3] == 'p', 0, 0};
  return true;
}

// madvise(2): MADV_DONTNEED of a private file mapping forgets what was written to it, and a page of a read-only mapping
// may have been written before it became read-only (relocations). Such a page is anonymous: one of them and the mapping
// stays as it is.
size_t Release(const Mapping& mapping, const std::vector<AddressRange>& ranges) {
  if (!mapping.candidate || mapping.rss_kib == 0 || mapping.anonymous_kib != 0) return 0;
  auto holds = [&](const AddressRange& range) { return range.begin <= mapping.begin && mapping.end <= range.end; };
  if (std::none_of(ranges.begin(), ranges.end(), holds)) return 0;
  void* at = reinterpret_cast<void*>(mapping.begin);
  return madvise(at, mapping.end - mapping.begin, MADV_DONTNEED) == 0 ? mapping.rss_kib * 1024 : 0;
}

// Called for each object; `data` is the vector.
int AddReadOnly(dl_phdr_info* info, size_t, void* data) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
    uintptr_t begin = info->dlpi_addr + segment.p_vaddr, end = begin + segment.p_memsz;
    static_cast<std::vector<AddressRange>*>(data)->push_back({begin / page * page, (end + page - 1) / page * page});
  }
  return 0;
}

}  // namespace

std::vector<AddressRange> LoadedReadOnly() {
  std::vector<AddressRange> ranges;
  dl_iterate_phdr(&AddReadOnly, &ranges);
  return ranges;
}

size_t ReleaseUnused(const std::vector<AddressRange>& ranges) {
  malloc_trim(0);
  std::unique_ptr<FILE, int (*)(FILE*)> file(fopen("/proc/self/smaps", "re"), fclose);
  if (!file) return 0;
  char line[4096 + 256];  // a path and what stands before it; the rest of a longer line is no head and no figure
  Mapping mapping;
  size_t released = 0;
  while (fgets(line, sizeof line, file.get())) {
    Mapping next;
    if (ParseHead(line, &next)) {
      released += Release(mapping, ranges);
      mapping = next;
    } else if (strncmp(line, "Rss:", 4) == 0) {
      sscanf(line + 4, "%zu", &mapping.rss_kib);
    } else if (strncmp(line, "Anonymous:", 10) == 0) {
      sscanf(line + 10, "%zu", &mapping.anonymous_kib);
    }
  }
  return released + Release(mapping, ranges);
}

}  // namespace caisson::cri
