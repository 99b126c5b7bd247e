// SPDX-License-Identifier: Apache-2.0
//
// PodShm: the tmpfs that is /dev/shm in all containers of a pod. No one sees it but through fd(), the shm_fd of
// TasksOptions; before Linux 6.15, which cannot clone a detached mount, it is mounted on a folder instead. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::task {

class PodShm {
 public:
  static constexpr int64_t kDefaultBytes = 64 << 20;

  // `bytes` 0: kDefaultBytes. The root belongs to `uid` and `gid`. `folder`: made and mounted on where that is needed;
  // its parent exists.
  // `attached`: mounted there in any case, for whoever has to find it by its path.
  static Result<PodShm> Make(int64_t bytes, uint32_t uid, uint32_t gid, const std::string& folder, bool attached = false);
  PodShm() = default;
  PodShm(PodShm&& other) { *this = std::move(other); }
  PodShm& operator=(PodShm&& other);
  ~PodShm() { Remove(); }

  int fd() const { return mount_.get(); }
  // Idempotent.
  void Remove();
  // Where it is mounted it stays so when the object goes.
  void Leave() { attached_at_.clear(); }

 private:
  UniqueFd mount_;
  std::string attached_at_;  // empty: detached
};

}  // namespace caisson::task
