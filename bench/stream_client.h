// SPDX-License-Identifier: Apache-2.0
//
// StreamClient: the client's side of one SPDY/3.1 connection to a streaming server, as client-go's: streams are opened
// one after the other, each when the one before has been answered; no flow control but TCP's. Blocking, one thread. Any
// failure ends the program: a benchmark has no use for half a measurement.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "stream/spdy_frame.h"

namespace caisson::bench {

class StreamClient : private stream::SpdyVisitor {
 public:
  // Connects to `url` and upgrades with `protocol`.
  StreamClient(const std::string& url, const std::string& protocol);

  uint32_t OpenStream(const stream::SpdyHeaders& headers);
  void Send(uint32_t stream, std::string_view data, bool fin);
  // Reads until `bytes` have come on `stream`, or its end.
  void Await(uint32_t stream, uint64_t bytes);
  // Reads until the server has ended `stream`; what came on it, if it is short.
  std::string AwaitEnd(uint32_t stream);

 private:
  struct Stream {
    uint64_t bytes = 0;
    std::string head;  // the first of them
    bool open = false, fin = false;
  };

  void Connect(const std::string& host, const std::string& port);
  void Upgrade(const std::string& host, const std::string& path, const std::string& protocol);
  void Write(std::string_view bytes);
  bool Read();  // false at the connection's end

  void OnSynStream(uint32_t, bool, bool, stream::SpdyHeaders) override {}
  void OnSynReply(uint32_t id, bool fin) override;
  void OnHeaders(uint32_t, bool) override {}
  void OnRstStream(uint32_t id, uint32_t status) override;
  void OnSetting(uint32_t, uint32_t) override {}
  void OnPing(uint32_t) override {}
  void OnGoAway(uint32_t) override {}
  void OnWindowUpdate(uint32_t, uint32_t) override {}
  void OnData(uint32_t id, std::string_view piece, bool fin) override;

  UniqueFd socket_;
  stream::SpdyParser parser_;
  stream::SpdyWriter writer_;
  std::map<uint32_t, Stream> streams_;
  uint32_t next_ = 1;
  std::string buffer_;
};

}  // namespace caisson::bench
