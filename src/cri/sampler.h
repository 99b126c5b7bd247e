// SPDX-License-Identifier: Apache-2.0
//
// Sampler: what the lists of statistics are answered from. A kubelet asks for all pods again and again; reading them when asked
// makes it wait for some fifty files of each. So while somebody asks now and then, a sample is taken every few seconds ahead of
// the question. One sample is given out for half a second only: who asks twice compares the answers (crictl stats), and two
// of one moment would say nothing.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "caisson/pod/v1/pod.pb.h"
#include "net/netns.h"

namespace caisson::cri {

using FiguresById = std::map<std::string, pod::v1::ContainerStats>;              // of containers and of pods
using InterfacesOfPods = std::map<std::string, std::vector<net::InterfaceStats>>;  // by pod

// What is read: of containers; with everything that metrics are made of; of pods as well.
enum class Ask { kUsage, kDetail, kPods };
inline constexpr size_t kAsks = 3;

struct StatsSample {
  int64_t at_nanos = 0;  // CLOCK_REALTIME, before the first was read
  FiguresById figures;
  InterfacesOfPods interfaces;  // not with Ask::kUsage
};

// Thread-safe.
class Sampler {
 public:
  using Take = std::function<StatsSample(Ask)>;      // of all pods; blocks at most as long as companions may take (figures.h)
  using Clock = std::function<int64_t()>;       // monotonic nanoseconds
  using Given = std::shared_ptr<const StatsSample>;  // never null

  // `seconds` between two samples while somebody asks; 0: none is taken ahead, each question is one. The thread that takes them
  // is started by the first question, and rests from the time on when nobody has asked for a minute.
  Sampler(int64_t seconds, Take take) : Sampler(seconds, std::move(take), nullptr) {}
  // For tests: without a thread.
  Sampler(int64_t seconds, Take take, Clock clock);
  ~Sampler();  // waits for a sample that is being taken

  // The sample to answer with: one that was taken ahead, or a new one if that was given out before, is too old, or there was
  // an Outdate since. Several who ask at once wait for one.
  Given Get(Ask ask);
  // Something has been started or changed: answers that begin from now on show it.
  void Outdate();
  // Takes what is due by now and returns nanoseconds until something will be; -1: nothing will. What the thread does.
  int64_t TakeDue();

 private:
  struct Kind {
    Given sample;
    int64_t taken_at = 0;  // monotonic, as the following
    int64_t given_at = 0;  // for the first time; 0: not yet
    int64_t asked_at = 0;  // 0: never
    bool taking = false;
    uint64_t changes = 0;  // as changes_ was when the sample was begun
  };

  Given TakeNow(Ask ask, std::unique_lock<std::mutex>& lock);
  void Loop();

  const int64_t interval_nanos_;
  const Take take_;
  const Clock clock_;
  const bool threaded_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::array<Kind, kAsks> kinds_;
  uint64_t changes_ = 0;  // calls of Outdate
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace caisson::cri
