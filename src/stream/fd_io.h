// SPDX-License-Identifier: Apache-2.0
//
// FdReader and FdWriter: one direction each of a pipe, socket or terminal on the server's loop. Each owns its
// descriptor. Both are shared with the operations that are under way; Stop ends them at once, closes the descriptor and
// drops the callbacks, after which none is called. All on the loop's thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::stream {

class FdReader : public std::enable_shared_from_this<FdReader> {
 public:
  using OnData = std::function<void(std::string_view)>;  // may pause or stop the reader
  using OnEnd = std::function<void()>;                   // end of file or an error, once; the descriptor is closed then

  static Result<std::shared_ptr<FdReader>> Start(boost::asio::io_context& loop, UniqueFd fd, OnData on_data,
                                                 OnEnd on_end);
  explicit FdReader(boost::asio::io_context& loop) : fd_(loop) {}

  void Pause(bool paused);
  void Stop();

 private:
  void Wait();
  void Read();
  void End();

  boost::asio::posix::stream_descriptor fd_;
  OnData on_data_;
  OnEnd on_end_;
  bool paused_ = false, waiting_ = false, stopped_ = false, enlarged_ = false;
};

class FdWriter : public std::enable_shared_from_this<FdWriter> {
 public:
  using OnDrained = std::function<void()>;  // nothing is queued any more
  using OnClosed = std::function<void()>;   // CloseWhenWritten has been carried out, once

  static Result<std::shared_ptr<FdWriter>> Start(boost::asio::io_context& loop, UniqueFd fd, OnDrained on_drained,
                                                 OnClosed on_closed = nullptr);
  explicit FdWriter(boost::asio::io_context& loop) : fd_(loop) {}

  // What the reader at the other end does not take is queued. When that end is gone, all is dropped.
  void Write(std::string_view data);
  // When all is written, or at once if that end is gone: tells a socket's peer (shutdown(2)), and closes.
  void CloseWhenWritten();
  size_t queued() const { return queued_; }
  void Stop();

 private:
  bool WriteSome(std::string_view* data);
  void Queue(std::string_view data);
  void DropQueue();
  void Wait();
  void Flush();
  void TellDrained();
  void Close();

  boost::asio::posix::stream_descriptor fd_;
  OnDrained on_drained_;
  OnClosed on_closed_;
  std::deque<std::string> queue_;  // in pieces: nothing is moved, and malloc(3) has them again for the next
  size_t queued_ = 0;
  size_t written_ = 0;  // of the first piece
  bool waiting_ = false, closing_ = false, closed_ = false, enlarged_ = false;
};

}  // namespace caisson::stream
