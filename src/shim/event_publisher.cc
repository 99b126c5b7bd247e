// SPDX-License-Identifier: Apache-2.0
#include "shim/event_publisher.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "containerd/ttrpc_events.pb.h"
#include "sys/socket.h"
#include "task/timestamp.h"

namespace caisson::shim {
namespace {
constexpr int64_t kFirstRetryMillis = 50, kLastRetryMillis = 2'000;
}  // namespace

EventPublisher::EventPublisher(sys::EventLoop* loop, std::string address, std::string containerd_namespace)
    : loop_(loop), address_(std::move(address)), namespace_(std::move(containerd_namespace)), alive_(std::make_shared<bool>(true)) {}

EventPublisher::~EventPublisher() {
  *alive_ = false;
  if (retry_ != 0) loop_->CancelTimer(retry_);
  if (flush_ != 0) loop_->CancelTimer(flush_);
}

void EventPublisher::Publish(const task::Event& event) {
  containerd::services::events::ttrpc::v1::ForwardRequest request;
  auto* envelope = request.mutable_envelope();
  int64_t now = NowNanos();
  task::SetTime(now, envelope->mutable_timestamp());
  envelope->set_namespace_(namespace_);
  envelope->set_topic(event.topic);
  envelope->mutable_event()->set_type_url(event.type_url);
  envelope->mutable_event()->set_value(event.payload);
  if (waiting_.size() >= kMaxEvents) {
    if (dropped_++ == 0) log::Warn("containerd at '{}' does not take events: the oldest are dropped", address_);
    waiting_.erase(waiting_.begin() + (sending_ ? 1 : 0));
  }
  waiting_.push_back(request.SerializeAsString());
  SendNext();
}

void EventPublisher::SendNext() {
  if (sending_ || retry_ != 0) return;
  if (waiting_.empty()) return FinishFlush();
  if (auto connected = Connect(); !connected) return RetryLater();
  sending_ = true;
  client_->Call("containerd.services.events.ttrpc.v1.Events", "Forward", waiting_.front(), kCallMillis,
                [this, alive = alive_](Result<std::string> answer) {
                  if (*alive) OnAnswer(std::move(answer));
                });
}

Result<> EventPublisher::Connect() {
  if (client_ && !client_->closed()) return {};
  client_ = TRY(ttrpc::Client::Create(loop_, TRY(sys::ConnectUnix(address_))));
  return {};
}

void EventPublisher::OnAnswer(Result<std::string> answer) {
  sending_ = false;
  bool away = !answer && (answer.error().code == Code::kUnavailable || answer.error().code == Code::kDeadlineExceeded);
  if (away) {
    client_->Close();
    client_.reset();
    return RetryLater();
  }
  if (!answer) log::Warn("containerd refuses an event: {}", answer.error().message);
  retry_millis_ = 0;
  waiting_.pop_front();
  if (waiting_.empty() && std::exchange(dropped_, 0) > 0) log::Warn("containerd takes events again");
  SendNext();
}

void EventPublisher::RetryLater() {
  retry_millis_ = retry_millis_ == 0 ? kFirstRetryMillis : std::min(retry_millis_ * 2, kLastRetryMillis);
  retry_ = loop_->After(retry_millis_, [this] {
    retry_ = 0;
    SendNext();
  });
}

void EventPublisher::Flush(int64_t millis, std::function<void()> done) {
  flushed_ = std::move(done);
  if (waiting_.empty()) return FinishFlush();
  flush_ = loop_->After(millis, [this] {
    flush_ = 0;
    FinishFlush();
  });
}

void EventPublisher::FinishFlush() {
  if (!flushed_) return;
  if (flush_ != 0) loop_->CancelTimer(std::exchange(flush_, 0));
  std::exchange(flushed_, nullptr)();
}

}  // namespace caisson::shim
