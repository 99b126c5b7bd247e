// SPDX-License-Identifier: Apache-2.0
#include "task/attachments.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "task/process.h"

namespace caisson::task {

// One direction to a client. While bytes wait it keeps itself alive by its watch, so that a container's last words
// outlive the container.
class AttachedOutput : public std::enable_shared_from_this<AttachedOutput> {
 public:
  AttachedOutput(sys::EventLoop* loop, UniqueFd fd) : loop_(loop), fd_(std::move(fd)) {}

  // False: the client is too far behind.
  bool Write(std::string_view bytes) {
    if (!fd_ || ending_) return true;
    if (queued() == 0) bytes = WriteSome(bytes);
    if (bytes.empty() || !fd_) return true;
    if (queued() + bytes.size() > limits::kAttachBacklogBytes) return false;
    if (written_ > queue_.size() / 2) queue_.erase(0, std::exchange(written_, 0));
    queue_.append(bytes);
    Watch();
    return true;
  }
  // When all is written.
  void End() {
    ending_ = true;
    if (queued() == 0) Close();
  }
  void Close() {
    if (!fd_) return;
    loop_->Unwatch(fd_.get());
    watched_ = false;
    fd_.Reset();
    queue_ = std::string();
    written_ = 0;
  }

 private:
  size_t queued() const { return queue_.size() - written_; }

  std::string_view WriteSome(std::string_view bytes) {
    while (!bytes.empty()) {
      ssize_t written = write(fd_.get(), bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0 && errno == EAGAIN) return bytes;
      if (written <= 0) {  // nobody reads any more
        Close();
        return {};
      }
      bytes.remove_prefix(static_cast<size_t>(written));
    }
    return bytes;
  }

  void Watch() {
    if (watched_) return;
    auto watched = loop_->Watch(fd_.get(), EPOLLOUT, [self = shared_from_this()](uint32_t) { self->OnWritable(); });
    if (!watched) return Close();
    watched_ = true;
  }

  void OnWritable() {
    auto self = shared_from_this();  // not only the watch's
    std::string_view left = WriteSome(std::string_view(queue_).substr(written_));
    if (!fd_) return;
    written_ = queue_.size() - left.size();
    if (!left.empty()) return;
    loop_->Unwatch(fd_.get());
    watched_ = false;
    queue_ = std::string();
    written_ = 0;
    if (ending_) Close();
  }

  sys::EventLoop* loop_;
  UniqueFd fd_;
  std::string queue_;
  size_t written_ = 0;  // of the front of queue_
  bool watched_ = false, ending_ = false;
};

struct Attachments::Client {
  explicit Client(sys::EventLoop* loop) : loop(loop) {}
  ~Client() {
    if (life) loop->Unwatch(life.get());
    for (auto& output : outputs) {
      if (output) output->End();
    }
    if (waiter) waiter(too_slow);
  }

  sys::EventLoop* loop;
  UniqueFd life;
  std::shared_ptr<AttachedOutput> outputs[2];
  std::unique_ptr<Pump> in;
  Waiter waiter;
  bool too_slow = false;
};

Attachments::Attachments(sys::EventLoop* loop, Scratch* scratch) : loop_(loop), scratch_(scratch) {}
Attachments::~Attachments() = default;

Result<> Attachments::Add(const std::string& id, const Paths& paths, UniqueFd stdin_writer) {
  if (clients_.contains(id)) return MakeError(Code::kAlreadyExists, "attachment '{}' exists already", id.substr(0, 128));
  if (clients_.size() >= limits::kAttachClients) {
    return MakeError(Code::kResourceExhausted, "{} clients are attached already", clients_.size());
  }
  auto client = std::make_unique<Client>(loop_);
  const std::string* outputs[2] = {&paths.out, &paths.err};
  for (int i = 0; i < 2; ++i) {
    if (outputs[i]->empty()) continue;
    client->outputs[i] = std::make_shared<AttachedOutput>(loop_, TRY(OpenFifo(*outputs[i], O_WRONLY)));
  }
  client->life = TRY(OpenFifo(paths.life, O_WRONLY));
  if (stdin_writer && !paths.in.empty()) {
    UniqueFd fifo = TRY(OpenFifo(paths.in, O_RDONLY));
    client->in = std::make_unique<Pump>(loop_, scratch_, std::move(fifo), std::move(stdin_writer), nullptr);
  }
  // Of a FIFO's writing end EPOLLERR is reported, asked for or not, when the last reader has closed (poll(2), POLLERR).
  TRY(loop_->Watch(client->life.get(), 0, [this, id](uint32_t) { Drop(id, false); }));
  clients_[id] = std::move(client);
  return {};
}

Result<> Attachments::Wait(const std::string& id, Waiter waiter) {
  auto found = clients_.find(id);
  if (found == clients_.end()) return MakeError(Code::kNotFound, "no attachment '{}'", id.substr(0, 128));
  if (found->second->waiter) return MakeError(Code::kFailedPrecondition, "attachment '{}' is awaited already", id);
  found->second->waiter = std::move(waiter);
  return {};
}

void Attachments::Write(LogFile::Stream stream, std::string_view bytes) {
  std::vector<std::string> slow;
  for (auto& [id, client] : clients_) {
    AttachedOutput* output = client->outputs[stream].get();
    if (output != nullptr && !output->Write(bytes)) slow.push_back(id);
  }
  for (const std::string& id : slow) Drop(id, true);
}

void Attachments::Drop(const std::string& id, bool too_slow) {
  auto node = clients_.extract(id);
  if (node.empty()) return;
  Client& client = *node.mapped();
  client.too_slow = too_slow;
  // A client that has gone or does not read: what is queued for it is for nobody.
  for (auto& output : client.outputs) {
    if (output) output->Close();
  }
}

void Attachments::Finish() { std::exchange(clients_, {}).clear(); }

}  // namespace caisson::task
