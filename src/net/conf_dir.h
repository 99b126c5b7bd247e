// SPDX-License-Identifier: Apache-2.0
//
// The folder of CNI configurations. The first files in lexical order count (*.conflist, *.conf, *.json; hidden ones do
// not). Load looks at the folder each time, which costs microseconds, and reads files again only if they changed: so a
// file is picked up by the very next pod, without a thread or an inotify queue that can overflow. Thread-safe.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/conflist.h"

namespace caisson::net {

class ConfDir {
 public:
  using Conflists = std::shared_ptr<const std::vector<Conflist>>;

  // `max_files`: how many of the files are networks of every pod.
  ConfDir(std::string path, int max_files) : path_(std::move(path)), max_files_(max_files) {}

  // At least one network. Errors: kFailedPrecondition when there is none; kInvalidArgument naming file and field. A
  // broken file is not skipped: the next one could be a network that the pods must not be in.
  Result<Conflists> Load();

 private:
  Result<std::vector<std::string>> FileNames(int dir) const;
  Result<Conflists> Read(int dir, const std::vector<std::string>& names) const;

  const std::string path_;
  const int max_files_;
  std::mutex mutex_;
  std::string signature_;  // names, inodes, sizes and times of what `loaded_` was made from
  Result<Conflists> loaded_ = Conflists();
};

}  // namespace caisson::net
