// SPDX-License-Identifier: Apache-2.0
//
// One TCP connection of a client: TLS if there is any, the HTTP request, its answer, and after an upgrade the link.
// Shared with the operations that are under way; gone when the last has ended. ConnectionList knows all that are open.
#pragma once

#include <atomic>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "stream/loop.h"
#include "stream/tokens.h"

namespace caisson::stream {

// Of the loop's own executor, not of any: less code, in the program and to compile.
using StreamSocket = boost::asio::basic_stream_socket<boost::asio::ip::tcp, boost::asio::io_context::executor_type>;

// All on the loop's thread but Size.
class ConnectionList {
 public:
  using Id = uint64_t;

  // Makes room first: of the connections that have shown no token yet the oldest gives way. False: the list is full.
  bool MakeRoom();
  Id Add(std::function<void()> abort);
  // This one has a session now, which `abort` ends.
  void Promote(Id id, std::function<void()> abort);
  void Remove(Id id);
  void AbortAll();
  size_t Size() const { return size_; }

 private:
  struct Entry {
    std::function<void()> abort;
    bool fresh = true;
  };
  std::map<Id, Entry> entries_;  // ids grow: the oldest first
  Id next_ = 1;
  size_t fresh_ = 0;
  std::atomic<size_t> size_ = 0;
};

struct ConnectionContext {
  Loop loop;
  Tokens& tokens;
  ConnectionList& list;
};

// Serves the client of `socket`. `tls`: null for plain HTTP.
void ServeConnection(const ConnectionContext& context, StreamSocket socket, std::shared_ptr<boost::asio::ssl::context> tls);

}  // namespace caisson::stream
