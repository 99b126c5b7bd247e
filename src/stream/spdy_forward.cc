// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <unordered_map>

#include "base/limits.h"
#include "base/strings.h"
#include "stream/forward.h"
#include "stream/port_forward.h"
#include "stream/spdy_session.h"

namespace caisson::stream {
namespace {

constexpr size_t kRequestIdBytes = 128;

class SpdyForward final : public LinkUser, private SpdyHandler {
 public:
  SpdyForward(const Loop& loop, Link& link, PortForwardTarget target)
      : loop_(loop), spdy_(link, *this), target_(std::move(target)) {}
  ~SpdyForward() override {
    for (auto& [request, pair] : pairs_) pair->Stop();
  }

  void OnReceive(std::string_view data) override { spdy_.Receive(data); }
  void OnWritable() override {
    spdy_.OnWritable();
    OnSendable();
  }

 private:
  // One connection: a data stream and an error stream.
  struct Pair {
    explicit Pair(boost::asio::io_context& loop) : creation(loop) {}
    void Stop() {
      creation.cancel();
      forward->Stop();
    }
    uint16_t port = 0;
    uint32_t data = 0, error = 0;  // streams; 0: not there yet
    bool started = false;
    bool pod_ended = false, client_ended = false;
    bool behind = false;  // the pod does not take what is sent
    std::shared_ptr<Forward> forward;
    boost::asio::steady_timer creation;
  };

  bool OnStream(uint32_t id, const SpdyHeaders& headers) override;
  void OnStreamReady(uint32_t id) override;
  void OnData(uint32_t id, std::string_view data, bool fin) override;
  void OnReset(uint32_t id) override;
  void OnSendable() override;

  std::unique_ptr<Pair> NewPair(const std::string& request, uint16_t port);
  Pair* PairOf(uint32_t stream);
  void OnPodData(Pair* pair, std::string_view data);
  void OnPodEnd(const std::string& request, std::string_view error);
  void OnTaken(Pair* pair, size_t bytes);
  void SetBehind(Pair* pair, bool behind);
  void Drop(const std::string& request);

  Loop loop_;
  SpdySession spdy_;
  const PortForwardTarget target_;
  std::unordered_map<std::string, std::unique_ptr<Pair>> pairs_;  // by request
  std::unordered_map<uint32_t, std::string> requests_;            // by stream
  size_t behind_ = 0;
  // Connections that the backend is making, also for pairs that are gone: opening and resetting streams in a loop must
  // not make it work without bound.
  std::shared_ptr<std::atomic<size_t>> connecting_ = std::make_shared<std::atomic<size_t>>(0);
};

bool SpdyForward::OnStream(uint32_t id, const SpdyHeaders& headers) {
  std::string_view type = SpdyHeader(headers, "streamtype");
  bool data = type == "data";
  auto port = ParseUint64(SpdyHeader(headers, "port"));
  std::string request(SpdyHeader(headers, "requestid"));
  if (!data && type != "error") return false;
  if (!port || *port == 0 || *port > UINT16_MAX || request.size() > kRequestIdBytes) return false;
  if (request.empty()) request = "stream " + std::to_string(data ? id - 2 : id);
  auto found = pairs_.find(request);
  if (found == pairs_.end()) {
    if (*connecting_ >= limits::kSpdyStreams / 2) return false;
    found = pairs_.emplace(request, NewPair(request, static_cast<uint16_t>(*port))).first;
  }
  Pair& pair = *found->second;
  uint32_t& mine = data ? pair.data : pair.error;
  if (mine != 0 || pair.port != *port) return false;
  mine = id;
  requests_[id] = request;
  return true;
}

std::unique_ptr<SpdyForward::Pair> SpdyForward::NewPair(const std::string& request, uint16_t port) {
  auto pair = std::make_unique<Pair>(*loop_.context);
  pair->port = port;
  Forward::Events events;
  events.data = [this, raw = pair.get()](std::string_view data) { OnPodData(raw, data); };
  events.end = [this, request] { OnPodEnd(request, {}); };
  events.failure = [this, request](const std::string& why) {
    OnPodEnd(request, why);
    if (pairs_.contains(request)) Drop(request);
  };
  events.taken = [this, raw = pair.get()](size_t bytes) { OnTaken(raw, bytes); };
  pair->forward = std::make_shared<Forward>(loop_, std::move(events));
  pair->creation.expires_after(std::chrono::milliseconds(loop_.options.creation_timeout_millis));
  // The other stream did not come. (A cancelled timer may have its success under way already.)
  pair->creation.async_wait(
      [this, request, weak = std::weak_ptr(pair->forward)](const boost::system::error_code& error) {
        auto forward = weak.lock();
        if (!error && forward && !forward->stopped()) Drop(request);
      });
  return pair;
}

void SpdyForward::OnStreamReady(uint32_t id) {
  Pair* pair = PairOf(id);
  if (!pair || pair->started || pair->data == 0 || pair->error == 0) return;
  pair->started = true;
  pair->creation.cancel();
  ++*connecting_;
  std::shared_ptr<void> slot(nullptr, [count = connecting_](void*) { --*count; });
  pair->forward->Start(target_.pod_id, pair->port, std::move(slot));
}

SpdyForward::Pair* SpdyForward::PairOf(uint32_t stream) {
  auto request = requests_.find(stream);
  return request == requests_.end() ? nullptr : pairs_.at(request->second).get();
}

void SpdyForward::OnPodData(Pair* pair, std::string_view data) {
  spdy_.Send(pair->data, data, false);
  if (spdy_.Congested(pair->data)) pair->forward->PauseReading(true);
}

void SpdyForward::OnSendable() {
  for (auto& [request, pair] : pairs_) {
    if (!spdy_.Congested(pair->data)) pair->forward->PauseReading(false);
  }
}

// Clients read the error stream to its end and close their own connection only then: so both streams end together.
void SpdyForward::OnPodEnd(const std::string& request, std::string_view error) {
  Pair* pair = pairs_.at(request).get();
  pair->pod_ended = true;
  spdy_.Send(pair->data, {}, true);
  spdy_.Send(pair->error, error, true);
  if (pair->client_ended) Drop(request);
}

void SpdyForward::OnData(uint32_t id, std::string_view data, bool fin) {
  Pair* pair = PairOf(id);
  if (!pair || id != pair->data) return spdy_.Consumed(id, data.size());
  if (pair->forward->Write(data)) {
    spdy_.Consumed(id, data.size());
  } else if (pair->forward->queued() > limits::kStreamBacklogBytes) {
    SetBehind(pair, true);
  }
  if (!fin) return;
  pair->client_ended = true;
  pair->forward->WriteEnd();
  if (pair->pod_ended) Drop(std::string(requests_.at(id)));
}

void SpdyForward::OnTaken(Pair* pair, size_t bytes) {
  spdy_.Consumed(pair->data, bytes);
  SetBehind(pair, false);
}

void SpdyForward::SetBehind(Pair* pair, bool behind) {
  if (pair->behind == behind) return;
  pair->behind = behind;
  behind_ += behind ? 1 : static_cast<size_t>(-1);
  spdy_.SetBacklogged(behind_ > 0);
}

void SpdyForward::OnReset(uint32_t id) {
  Pair* pair = PairOf(id);
  // Without its error stream a connection may go on; without its data stream it has no use.
  if (pair && id == pair->data) Drop(std::string(requests_.at(id)));
}

void SpdyForward::Drop(const std::string& request) {
  auto found = pairs_.find(request);
  std::shared_ptr<Pair> pair = std::move(found->second);
  pairs_.erase(found);
  for (uint32_t stream : {pair->data, pair->error}) {
    if (stream == 0) continue;
    requests_.erase(stream);
    // Whichever side is still open; a stream that is closed on both is not there any more.
    spdy_.Reset(stream);
  }
  SetBehind(pair.get(), false);
  pair->Stop();
  // Not here: one of its callbacks may be what is running.
  boost::asio::post(*loop_.context, [pair] {});
}

}  // namespace

std::vector<std::string_view> SpdyForwardProtocols() { return {"portforward.k8s.io"}; }

std::unique_ptr<LinkUser> MakeSpdyForward(const Loop& loop, Link& link, PortForwardTarget target) {
  return std::make_unique<SpdyForward>(loop, link, std::move(target));
}

}  // namespace caisson::stream
