// SPDX-License-Identifier: Apache-2.0
#include "sys/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/unique_fd.h"

namespace caisson::sys {
namespace {

class EpollLoop : public EventLoop {
 public:
  EpollLoop(UniqueFd epoll, UniqueFd wake) : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
  // What a task owns may ask for another task as it goes, a client that closes its connection for one.
  ~EpollLoop() override {
    for (;;) {
      auto watches = std::exchange(watches_, {});
      auto timers = std::exchange(timers_, {});
      std::vector<Task> posted;
      {
        std::lock_guard lock(mutex_);
        posted.swap(posted_);
      }
      if (watches.empty() && timers.empty() && posted.empty()) return;
    }
  }

  Result<> Watch(int fd, uint32_t events, FdCallback callback) override {
    // The generation tells an event of an earlier watch of the same descriptor number from one of this watch.
    uint32_t generation = ++last_generation_;
    epoll_event event{};
    event.events = events;
    event.data.u64 = Key(fd, generation);
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return ErrnoError("watch descriptor {}", fd);
    watches_[fd] = {generation, std::make_shared<FdCallback>(std::move(callback))};
    return {};
  }

  Result<> Modify(int fd, uint32_t events) override {
    auto found = watches_.find(fd);
    if (found == watches_.end()) return MakeError(Code::kNotFound, "descriptor {} is not watched", fd);
    epoll_event event{};
    event.events = events;
    event.data.u64 = Key(fd, found->second.generation);
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) return ErrnoError("change watch of descriptor {}", fd);
    return {};
  }

  void Unwatch(int fd) override {
    if (watches_.erase(fd) > 0) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  }

  TimerId After(int64_t millis, Task task) override {
    TimerId id = ++last_timer_;
    int64_t at = MonotonicNanos() + std::max<int64_t>(0, millis) * kNanosPerMilli;
    timers_.emplace(std::pair(at, id), std::move(task));
    timer_times_[id] = at;
    return id;
  }

  void CancelTimer(TimerId id) override {
    auto found = timer_times_.find(id);
    if (found == timer_times_.end()) return;
    timers_.erase({found->second, id});
    timer_times_.erase(found);
  }

  void Post(Task task) override {
    {
      std::lock_guard lock(mutex_);
      posted_.push_back(std::move(task));
    }
    Wake();
  }

  Result<> Run() override {
    while (!stopped_) TRY(Turn());
    stopped_ = false;
    return {};
  }

  void Stop() override {
    stopped_ = true;
    Wake();
  }

 private:
  struct WatchEntry {
    uint32_t generation = 0;
    std::shared_ptr<FdCallback> callback;  // shared: it may unwatch itself while it runs
  };

  static uint64_t Key(int fd, uint32_t generation) {
    return uint64_t{generation} << 32 | static_cast<uint32_t>(fd);
  }

  void Wake() {
    uint64_t one = 1;
    // Full (EAGAIN) means that a wake-up is pending already.
    [[maybe_unused]] ssize_t written = write(wake_.get(), &one, sizeof one);
  }

  int WaitMillis() {
    {
      std::lock_guard lock(mutex_);
      if (!posted_.empty()) return 0;
    }
    if (timers_.empty()) return -1;
    int64_t left = timers_.begin()->first.first - MonotonicNanos();
    if (left <= 0) return 0;
    return static_cast<int>(std::min<int64_t>((left + kNanosPerMilli - 1) / kNanosPerMilli, 1 << 30));
  }

  Result<> Turn() {
    epoll_event events[64];
    int count = epoll_wait(epoll_.get(), events, 64, WaitMillis());
    if (count < 0 && errno != EINTR) return ErrnoError("epoll_wait");
    for (int i = 0; i < count && !stopped_; ++i) Dispatch(events[i]);
    RunTimers();
    RunPosted();
    return {};
  }

  void Dispatch(const epoll_event& event) {
    int fd = static_cast<int>(event.data.u64 & 0xffffffff);
    uint32_t generation = static_cast<uint32_t>(event.data.u64 >> 32);
    if (generation == 0) {  // the wake-up descriptor
      uint64_t count;
      [[maybe_unused]] ssize_t got = read(wake_.get(), &count, sizeof count);
      return;
    }
    auto found = watches_.find(fd);
    if (found == watches_.end() || found->second.generation != generation) return;
    auto callback = found->second.callback;
    (*callback)(event.events);
  }

  void RunTimers() {
    int64_t now = MonotonicNanos();
    while (!timers_.empty() && timers_.begin()->first.first <= now && !stopped_) {
      auto node = timers_.extract(timers_.begin());
      timer_times_.erase(node.key().second);
      node.mapped()();
    }
  }

  void RunPosted() {
    std::vector<Task> tasks;
    {
      std::lock_guard lock(mutex_);
      tasks.swap(posted_);
    }
    for (auto& task : tasks) task();
  }

  UniqueFd epoll_, wake_;
  std::unordered_map<int, WatchEntry> watches_;
  uint32_t last_generation_ = 0;
  std::map<std::pair<int64_t, TimerId>, Task> timers_;
  std::unordered_map<TimerId, int64_t> timer_times_;
  TimerId last_timer_ = 0;
  std::mutex mutex_;
  std::vector<Task> posted_;
  std::atomic<bool> stopped_ = false;
};

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::Create() {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return ErrnoError("epoll_create1");
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return ErrnoError("eventfd");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 0;
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0) return ErrnoError("watch the wake-up eventfd");
  return std::unique_ptr<EventLoop>(new EpollLoop(std::move(epoll), std::move(wake)));
}

}  // namespace caisson::sys
