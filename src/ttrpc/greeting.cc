// SPDX-License-Identifier: Apache-2.0
#include "ttrpc/greeting.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <utility>

#include "base/id.h"

namespace caisson::ttrpc {
namespace {

constexpr std::string_view kHello = "CAISSON HELLO ", kReady = "CAISSON READY ", kGo = "CAISSON GO ", kBegin = "CAISSON BEGIN ";
constexpr size_t kNonceBytes = 32;
constexpr int64_t kRepeatMillis = 100;

class GreetingImpl : public Greeting {
 public:
  GreetingImpl(sys::EventLoop* loop, UniqueFd stream, Done done, bool is_client)
      : loop_(loop), stream_(std::move(stream)), done_(std::move(done)), is_client_(is_client) {}
  ~GreetingImpl() override { Stop(); }

  void Start(int64_t deadline_millis) {
    auto watched = loop_->Watch(stream_.get(), EPOLLIN, [this](uint32_t) { OnReadable(); });
    if (!watched) {
      failed_ = std::move(watched.error());
      timer_ = loop_->After(0, [this] { timer_ = 0, Finish(MakeError(Code::kInternal, "{}", failed_.message)); });
      return;
    }
    if (!is_client_) return;
    nonce_ = NewId().substr(0, kNonceBytes);
    deadline_timer_ = loop_->After(deadline_millis, [this, deadline_millis] {
      deadline_timer_ = 0;
      Finish(MakeError(Code::kDeadlineExceeded, "the guest's agent has not answered within {} ms", deadline_millis));
    });
    SayHello();
  }

 private:
  void SayHello() {
    Say(kHello);
    timer_ = loop_->After(kRepeatMillis, [this] { SayHello(); });
  }

  // Not all of it written: whoever listens drops the piece and hears the next.
  void Say(std::string_view word) {
    std::string line = std::string(word) + nonce_ + "\n";
    (void)!write(stream_.get(), line.data(), line.size());
  }

  void OnReadable() {
    // One byte at a time: what follows "BEGIN" or "GO" is not ours.
    char c;
    for (int i = 0; i < 4096; ++i) {
      ssize_t got = read(stream_.get(), &c, 1);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno == EAGAIN) return;
      if (got <= 0) return OnEnd();
      if (c != '\n') {
        if (line_.size() < kHello.size() + kNonceBytes + 1) line_ += c;
        continue;
      }
      if (OnLine(std::exchange(line_, {}))) return;
    }
  }

  // A port of a virtio console reads as ended while nobody is at its other side.
  void OnEnd() {
    if (is_client_) return Finish(MakeError(Code::kUnavailable, "the channel to the guest's agent was closed"));
    loop_->Unwatch(stream_.get());
    timer_ = loop_->After(kRepeatMillis / 10, [this] {
      timer_ = 0;
      auto watched = loop_->Watch(stream_.get(), EPOLLIN, [this](uint32_t) { OnReadable(); });
      if (!watched) Finish(std::move(watched.error()));
    });
  }

  // True when all is said.
  bool OnLine(const std::string& line) {
    auto is = [&](std::string_view word) {
      return line.size() == word.size() + kNonceBytes && line.starts_with(word);
    };
    if (is_client_) {
      if (!line.ends_with(nonce_)) return false;
      if (is(kReady) && !going_) {
        going_ = true;
        loop_->CancelTimer(std::exchange(timer_, 0));
        Say(kGo);
      }
      if (!is(kBegin)) return false;
      Finish({});
      return true;
    }
    if (is(kHello)) {
      nonce_ = line.substr(kHello.size());
      Say(kReady);
    } else if (is(kGo) && line.ends_with(nonce_)) {
      Say(kBegin);
      Finish({});
      return true;
    }
    return false;
  }

  void Stop() {
    loop_->CancelTimer(std::exchange(timer_, 0));
    loop_->CancelTimer(std::exchange(deadline_timer_, 0));
    if (stream_) loop_->Unwatch(stream_.get());
  }

  void Finish(Result<> result) {
    Stop();
    // The last thing: `done` may destroy us.
    Done done = std::move(done_);
    if (!result) return done(std::move(result.error()));
    done(std::move(stream_));
  }

  sys::EventLoop* loop_;
  UniqueFd stream_;
  Done done_;
  const bool is_client_;
  std::string nonce_, line_;
  bool going_ = false;
  Error failed_;
  sys::EventLoop::TimerId timer_ = 0, deadline_timer_ = 0;
};

}  // namespace

std::unique_ptr<Greeting> Greeting::AsClient(sys::EventLoop* loop, UniqueFd stream, int64_t deadline_millis, Done done) {
  auto greeting = std::make_unique<GreetingImpl>(loop, std::move(stream), std::move(done), true);
  greeting->Start(deadline_millis);
  return greeting;
}

std::unique_ptr<Greeting> Greeting::AsServer(sys::EventLoop* loop, UniqueFd stream, Done done) {
  auto greeting = std::make_unique<GreetingImpl>(loop, std::move(stream), std::move(done), false);
  greeting->Start(0);
  return greeting;
}

}  // namespace caisson::ttrpc
