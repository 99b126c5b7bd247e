// SPDX-License-Identifier: Apache-2.0
// A client's bytes through the whole of the SPDY side: frames, header blocks, streams. The link counts; nothing may
// grow beyond its limit and nothing may be sent after the session's end.
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "base/limits.h"
#include "stream/spdy_session.h"

namespace {

using caisson::stream::SpdyHeaders;

class CountingLink : public caisson::stream::Link {
 public:
  void Send(std::string data) override { Send(data, ""); }
  void Send(std::string_view head, std::string_view body) override {
    if (finished_) __builtin_trap();
    if (head.size() + body.size() < 8) __builtin_trap();
  }
  void SendText(std::string) override { __builtin_trap(); }
  bool Congested() const override { return false; }
  void PauseReading(bool) override {}
  void Finish() override { finished_ = true; }
  void Abort() override { finished_ = true; }

 private:
  bool finished_ = false;
};

class Echo : public caisson::stream::SpdyHandler {
 public:
  explicit Echo(caisson::stream::Link& link) : session_(link, *this) {}
  bool OnStream(uint32_t stream, const SpdyHeaders& headers) override {
    if (headers.size() > caisson::limits::kSpdyHeaders || !open_.insert(stream).second) __builtin_trap();
    if (open_.size() > (1u << 20)) __builtin_trap();
    return headers.size() % 2 == 0;
  }
  void OnStreamReady(uint32_t stream) override { session_.Send(stream, "hello", false); }
  void OnData(uint32_t stream, std::string_view data, bool fin) override {
    if (!open_.contains(stream)) __builtin_trap();
    session_.Consumed(stream, data.size());
    session_.Send(stream, data, fin);
  }
  void OnReset(uint32_t) override {}
  void OnSendable() override {}

  caisson::stream::SpdySession session_;
  std::set<uint32_t> open_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  CountingLink link;
  Echo echo(link);
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  // In two parts, so that frames are cut where the input says.
  size_t cut = size > 0 ? data[0] % (size + 1) : 0;
  echo.session_.Receive(bytes.substr(0, cut));
  echo.session_.Receive(bytes.substr(cut));
  return 0;
}
