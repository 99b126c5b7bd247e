// SPDX-License-Identifier: Apache-2.0
#include "stream/process_session.h"

#include "stream/status.h"

namespace caisson::stream {
namespace {

// After the process has ended its output may be held open by a child that it left behind. What it wrote itself is here
// at once; silence for this long means that there is no more of it.
constexpr auto kQuiet = std::chrono::milliseconds(500);

}  // namespace

void ProcessSession::Start() {
  using Brought = Result<std::shared_ptr<Owned>>;
  auto post = loop_.Poster<Brought>([weak = weak_from_this()](Brought brought) {
    auto self = weak.lock();
    if (!self || !self->client_) return;
    if (!brought) return self->Conclude(std::move(brought.error()));
    self->Begin(std::move(*brought));
  });
  // Owned from the first moment: whether this session or even the server is still there shows later.
  auto done = [post](Result<Process> process) {
    if (!process) return post(std::move(process.error()));
    post(std::make_shared<Owned>(std::move(*process)));
  };
  if (attach_) {
    loop_.backend.Attach(target_, done);
  } else {
    loop_.backend.Exec(target_, done);
  }
}

void ProcessSession::Begin(std::shared_ptr<Owned> owned) {
  owned_ = std::move(owned);
  if (auto opened = OpenStreams(); !opened) return Conclude(std::move(opened.error()));
  ApplyTerminalSize();
  has_wait_ = owned_->process.wait != nullptr;
  if (has_wait_) {
    std::function<void(Result<int>)> exited = [weak = weak_from_this()](Result<int> exit_code) {
      if (auto self = weak.lock(); self && self->client_) self->OnExit(std::move(exit_code));
    };
    auto wait = std::move(owned_->process.wait);
    wait(loop_.Poster<Result<int>>(exited));
  } else if (outputs_open_ == 0) {
    OnOutputEnd();
  }
}

Result<> ProcessSession::OpenStreams() {
  Process& process = owned_->process;
  if (process.in) {
    auto taken = [this] {
      if (client_) client_->OnInputTaken(std::exchange(input_taken_late_, 0));
    };
    input_ = TRY(FdWriter::Start(*loop_.context, std::move(process.in), taken, std::move(process.input_end)));
    size_t early = early_input_.size();
    if (early > 0) input_->Write(early_input_);
    std::string().swap(early_input_);
    if (early_input_end_) input_->CloseWhenWritten();
    if (early > 0 && input_->queued() == 0) client_->OnInputTaken(std::exchange(input_taken_late_, 0));
  } else if (!early_input_.empty()) {
    std::string().swap(early_input_);
    client_->OnInputTaken(std::exchange(input_taken_late_, 0));
  }
  if (process.out) out_ = TRY(Read(std::move(process.out), Output::kOut));
  if (process.err) err_ = TRY(Read(std::move(process.err), Output::kErr));
  return {};
}

Result<std::shared_ptr<FdReader>> ProcessSession::Read(UniqueFd fd, Output which) {
  auto reader = FdReader::Start(
      *loop_.context, std::move(fd),
      [this, which](std::string_view data) {
        quiet_ = false;
        client_->SendOutput(which, data);
        auto& self = which == Output::kOut ? out_ : err_;
        if (self && client_->OutputCongested(which)) self->Pause(true);
      },
      [this] {
        --outputs_open_;
        OnOutputEnd();
      });
  if (reader) ++outputs_open_;
  return reader;
}

void ProcessSession::OnWritable() {
  if (out_ && !client_->OutputCongested(Output::kOut)) out_->Pause(false);
  if (err_ && !client_->OutputCongested(Output::kErr)) err_->Pause(false);
}

bool ProcessSession::OnInput(std::string_view data) {
  if (!target_.in || data.empty()) return true;
  if (!owned_) {
    early_input_.append(data);
    input_taken_late_ += data.size();
    return false;
  }
  if (!input_) return true;
  input_->Write(data);
  if (input_->queued() == 0) return true;
  input_taken_late_ += data.size();
  return false;
}

void ProcessSession::OnInputEnd() {
  if (!owned_) {
    early_input_end_ = true;
  } else if (input_) {
    input_->CloseWhenWritten();
  }
}

void ProcessSession::OnTerminalSize(std::string_view json) {
  sizes_.append(json);
  TerminalSize size;
  if (!TakeTerminalSize(&sizes_, &size)) return;
  width_ = size.width;
  height_ = size.height;
  size_known_ = true;
  ApplyTerminalSize();
}

void ProcessSession::ApplyTerminalSize() {
  if (size_known_ && owned_ && owned_->process.resize) owned_->process.resize(width_, height_);
}

void ProcessSession::OnOutputEnd() {
  if (outputs_open_ > 0) return;
  if (exit_code_) return Conclude(*exit_code_);
  if (!has_wait_) Conclude(0);
}

void ProcessSession::OnExit(Result<int> exit_code) {
  exit_code_ = std::move(exit_code);
  if (outputs_open_ == 0) return Conclude(*exit_code_);
  OnQuiet();
}

void ProcessSession::OnQuiet() {
  bool client_behind = client_->OutputCongested(Output::kOut) || client_->OutputCongested(Output::kErr);
  if (quiet_ && !client_behind) return Conclude(*exit_code_);
  quiet_ = true;
  drain_.expires_after(kQuiet);
  drain_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    auto self = weak.lock();
    if (!error && self && self->client_) self->OnQuiet();
  });
}

void ProcessSession::Conclude(const Result<int>& exit_code) {
  ProcessClient* client = client_;
  Result<int> outcome = exit_code;  // may be a member that Stop clears
  Stop();
  client->OnOutcome(outcome);
}

void ProcessSession::Stop() {
  client_ = nullptr;
  drain_.cancel();
  if (input_) input_->Stop();
  if (out_) out_->Stop();
  if (err_) err_->Stop();
  owned_.reset();
}

}  // namespace caisson::stream
