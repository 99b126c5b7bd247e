// SPDX-License-Identifier: Apache-2.0
#include "sys/disk_reserve.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/unique_fd.h"

namespace caisson::sys {

void DiskReserve::Fill() {
  if (filled_ || impossible_) return;
  struct stat info {};
  if (lstat(path_.c_str(), &info) == 0 && S_ISREG(info.st_mode) && info.st_blocks > 0) {
    filled_ = true;
    return;
  }
  UniqueFd file(open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return;
  for (size_t bytes = bytes_; !filled_ && bytes >= bytes_ / 8 && bytes > 0; bytes /= 2) {
    // fallocate(2), not posix_fallocate(3): glibc's writes one byte per block, which takes room but may take it slowly.
    filled_ = fallocate(file.get(), 0, 0, static_cast<off_t>(bytes)) == 0;
    if (!filled_ && errno != ENOSPC && errno != EDQUOT && errno != EINTR && errno != EFBIG) impossible_ = true;
  }
  // A try that failed may have left some blocks (ext4 does).
  if (!filled_) unlink(path_.c_str());
}

bool DiskReserve::Spend() {
  filled_ = false;
  return unlink(path_.c_str()) == 0;
}

}  // namespace caisson::sys
