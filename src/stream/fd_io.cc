// SPDX-License-Identifier: Apache-2.0
#include "stream/fd_io.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/post.hpp>
#include <cerrno>

#include "sys/pipe.h"

namespace caisson::stream {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr size_t kFdReadBytes = 64 << 10;  // twice as many cost more than they save: they do not stay in the cache
constexpr int kReadsInARow = 4;           // then the other clients' turn
constexpr size_t kPieceBytes = 64 << 10;

Result<> Adopt(UniqueFd fd, asio::posix::stream_descriptor* descriptor) {
  int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0 || fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) return ErrnoError("make a stream non-blocking");
  error_code error;
  descriptor->assign(fd.get(), error);
  if (error) return SysError(error.value(), "watch a stream");
  fd.Release();
  return {};
}

// epoll(7) refuses regular files; they are always ready.
bool MeansReady(const error_code& error) { return !error || error == asio::error::operation_not_supported; }

}  // namespace

Result<std::shared_ptr<FdReader>> FdReader::Start(asio::io_context& loop, UniqueFd fd, OnData on_data, OnEnd on_end) {
  auto reader = std::make_shared<FdReader>(loop);
  TRY(Adopt(std::move(fd), &reader->fd_));
  reader->on_data_ = std::move(on_data);
  reader->on_end_ = std::move(on_end);
  reader->Wait();
  return reader;
}

void FdReader::Wait() {
  if (waiting_ || paused_ || stopped_) return;
  waiting_ = true;
  fd_.async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](const error_code& error) {
    self->waiting_ = false;
    if (self->stopped_) return;
    if (!MeansReady(error)) return self->End();
    if (!self->paused_) self->Read();
  });
}

void FdReader::Read() {
  // Of the thread, not of each reader: nothing stays in it after the callback. Not in the thread's own storage, which every
  // thread of the program would have on its stack.
  thread_local const auto buffer = std::make_unique_for_overwrite<char[]>(kFdReadBytes);
  for (int i = 0; i < kReadsInARow && !paused_ && !stopped_; ++i) {
    ssize_t got = read(fd_.native_handle(), buffer.get(), kFdReadBytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) break;
    // A terminal's master reads EIO when its last user is gone (pty(7)).
    if (got <= 0) return End();
    if (static_cast<size_t>(got) >= sys::kDefaultPipeBytes && !std::exchange(enlarged_, true)) sys::EnlargePipe(fd_.native_handle());
    on_data_(std::string_view(buffer.get(), static_cast<size_t>(got)));
  }
  Wait();
}

void FdReader::End() {
  OnEnd on_end = std::move(on_end_);
  Stop();
  if (on_end) on_end();
}

void FdReader::Pause(bool paused) {
  paused_ = paused;
  Wait();
}

void FdReader::Stop() {
  if (stopped_) return;
  stopped_ = true;
  error_code ignored;
  fd_.close(ignored);
  on_end_ = nullptr;
  // on_data_ may be what is running.
  asio::post(fd_.get_executor(), [self = shared_from_this()] { self->on_data_ = nullptr; });
}

Result<std::shared_ptr<FdWriter>> FdWriter::Start(asio::io_context& loop, UniqueFd fd, OnDrained on_drained,
                                                  OnClosed on_closed) {
  auto writer = std::make_shared<FdWriter>(loop);
  TRY(Adopt(std::move(fd), &writer->fd_));
  writer->on_drained_ = std::move(on_drained);
  writer->on_closed_ = std::move(on_closed);
  return writer;
}

// Takes off `data` what the kernel takes. False: the other end is gone.
bool FdWriter::WriteSome(std::string_view* data) {
  while (!data->empty()) {
    ssize_t put = write(fd_.native_handle(), data->data(), data->size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return errno == EAGAIN;
    data->remove_prefix(static_cast<size_t>(put));
  }
  return true;
}

void FdWriter::Write(std::string_view data) {
  if (closed_ || closing_) return;
  if (queued() == 0 && !WriteSome(&data)) return Close();
  if (data.empty()) return;
  if (!std::exchange(enlarged_, true)) {
    sys::EnlargePipe(fd_.native_handle());
    if (!WriteSome(&data)) return Close();
    if (data.empty()) return;
  }
  Queue(data);
  Wait();
}

void FdWriter::Queue(std::string_view data) {
  queued_ += data.size();
  while (!data.empty()) {
    if (queue_.empty() || queue_.back().size() == kPieceBytes) queue_.emplace_back();
    std::string_view part = data.substr(0, kPieceBytes - queue_.back().size());
    queue_.back().append(part);
    data.remove_prefix(part.size());
  }
}

void FdWriter::DropQueue() {
  std::deque<std::string>().swap(queue_);
  queued_ = written_ = 0;
}

void FdWriter::Wait() {
  if (waiting_ || closed_) return;
  waiting_ = true;
  fd_.async_wait(asio::posix::stream_descriptor::wait_write, [self = shared_from_this()](const error_code& error) {
    self->waiting_ = false;
    if (self->closed_) return;
    if (MeansReady(error)) return self->Flush();
    self->Close();
    self->TellDrained();
  });
}

void FdWriter::Flush() {
  bool open = true;
  while (open && !queue_.empty()) {
    std::string_view rest = std::string_view(queue_.front()).substr(written_);
    queued_ -= rest.size();
    open = WriteSome(&rest);
    queued_ += rest.size();
    written_ = queue_.front().size() - rest.size();
    if (open && !rest.empty()) return Wait();
    if (!open) break;
    queue_.pop_front();
    written_ = 0;
  }
  if (!open || closing_) Close();
  TellDrained();
}

void FdWriter::TellDrained() {
  // A copy: the callback may stop this writer.
  OnDrained on_drained = on_drained_;
  if (on_drained) on_drained();
}

void FdWriter::CloseWhenWritten() {
  if (closed_ || closing_) return;
  closing_ = true;
  if (queued() == 0) Close();
}

void FdWriter::Close() {
  if (closed_) return;
  closed_ = true;
  // Closing alone would not tell the peer while a duplicate is open for reading. ENOTSOCK is fine.
  shutdown(fd_.native_handle(), SHUT_WR);
  error_code ignored;
  fd_.close(ignored);
  DropQueue();
  if (OnClosed on_closed = std::exchange(on_closed_, nullptr); on_closed && closing_) on_closed();
}

void FdWriter::Stop() {
  on_drained_ = nullptr;
  on_closed_ = nullptr;
  if (closed_) return;
  closed_ = true;
  error_code ignored;
  fd_.close(ignored);
  DropQueue();
}

}  // namespace caisson::stream
