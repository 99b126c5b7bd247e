// SPDX-License-Identifier: Apache-2.0
#include "stream/forward.h"

#include <fcntl.h>

namespace caisson::stream {

void Forward::Start(const std::string& pod_id, uint16_t port, std::shared_ptr<void> slot) {
  using Brought = Result<std::shared_ptr<UniqueFd>>;
  auto post = loop_.Poster<Brought>([weak = weak_from_this(), pod_id, port](Brought brought) {
    auto self = weak.lock();
    if (!self || self->stopped_) return;
    Result<> begun = brought ? self->Begin(std::move(**brought)) : Result<>(std::move(brought.error()));
    if (begun) return;
    self->events_.failure(fmt::format("error forwarding port {} to pod {}: {}", port, pod_id, begun.error().message));
  });
  loop_.backend.Connect(pod_id, port, [post, slot = std::move(slot)](Result<UniqueFd> fd) {
    if (!fd) return post(std::move(fd.error()));
    post(std::make_shared<UniqueFd>(std::move(*fd)));
  });
}

Result<> Forward::Begin(UniqueFd fd) {
  // epoll(7) knows a descriptor once; reading and writing are watched by two.
  UniqueFd second(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!second) return ErrnoError("duplicate a socket");
  writer_ = TRY(FdWriter::Start(*loop_.context, std::move(second), [this] { Taken(); }));
  reader_ = TRY(FdReader::Start(
      *loop_.context, std::move(fd), [this](std::string_view data) { events_.data(data); }, [this] { events_.end(); }));
  if (!early_.empty()) writer_->Write(early_);
  std::string().swap(early_);
  if (early_end_) writer_->CloseWhenWritten();
  if (writer_->queued() == 0) Taken();
  return {};
}

bool Forward::Write(std::string_view data) {
  if (stopped_ || data.empty()) return true;
  if (writer_) {
    writer_->Write(data);
    if (writer_->queued() == 0) return true;
  } else {
    early_.append(data);
  }
  taken_late_ += data.size();
  return false;
}

void Forward::WriteEnd() {
  early_end_ = true;
  if (writer_) writer_->CloseWhenWritten();
}

void Forward::Stop() {
  stopped_ = true;
  if (reader_) reader_->Stop();
  if (writer_) writer_->Stop();
}

}  // namespace caisson::stream
