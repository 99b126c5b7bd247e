// SPDX-License-Identifier: Apache-2.0
//
// What sessions share: the server's loop and backend. The loop is held by the server alone; whoever may outlive it (a
// backend's callback) has a weak reference.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <memory>
#include <utility>

#include "stream/server.h"

namespace caisson::stream {

struct Loop {
  std::shared_ptr<boost::asio::io_context> context;
  Backend& backend;
  const ServerOptions& options;

  // Runs `work` on the loop's thread if the server still exists by then; any thread may call what this returns.
  template <class Value>
  auto Poster(std::function<void(Value)> work) const {
    return [weak = std::weak_ptr(context), work = std::move(work)](Value value) {
      auto alive = weak.lock();
      if (!alive) return;
      // In a shared pointer: handlers are copied, what backends bring is not.
      auto kept = std::make_shared<Value>(std::move(value));
      boost::asio::post(*alive, [work, kept] { work(std::move(*kept)); });
    };
  }
};

}  // namespace caisson::stream
