// SPDX-License-Identifier: Apache-2.0
//
// DiskReserve: a file that keeps room on its file system, so that what frees room (an index that must write to forget
// something) still works when the disk is full. Spend gives the room back; Fill takes it again when there is some. The file
// is meant to outlive its owner and is of use to nobody else. Not thread-safe. Never an error: without a reserve the disk
// is as it would be.
#pragma once

#include <cstddef>
#include <string>

namespace caisson::sys {

class DiskReserve {
 public:
  // Nothing happens yet.
  DiskReserve(std::string path, size_t bytes) : path_(std::move(path)), bytes_(bytes) {}

  // Makes the file, or a smaller one (at least an eighth) where there is not so much room, unless it is there. Cheap to
  // call often: a file system that cannot do it is asked once.
  void Fill();
  // Removes the file; whether there was one.
  bool Spend();
  // As far as Fill and Spend know.
  bool filled() const { return filled_; }

 private:
  const std::string path_;
  const size_t bytes_;
  bool filled_ = false, impossible_ = false;
};

}  // namespace caisson::sys
