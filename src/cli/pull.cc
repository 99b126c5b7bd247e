// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <cstdio>
#include <map>
#include <memory>

#include "cli/command.h"

namespace caisson::cli {
namespace {

constexpr int kBarWidth = 30;

// One line per blob, redrawn in place on a terminal; else one line when a blob is done.
class ProgressView {
 public:
  explicit ProgressView(bool quiet) : quiet_(quiet), terminal_(isatty(STDERR_FILENO)) {}

  void Update(const control::v1::PullResponse& update) {
    if (quiet_) return;
    for (const auto& blob : update.blobs()) {
      auto [known, added] = rows_.try_emplace(blob.digest(), rows_.size());
      if (added) order_.emplace_back();
      bool was_done = order_[known->second].unpacked();
      order_[known->second] = blob;
      if (!terminal_ && blob.unpacked() && !was_done) {
        std::fprintf(stderr, "%s: %s\n", ShortId(blob.digest()).c_str(), FormatBytes(blob.total_bytes()).c_str());
      }
    }
    if (terminal_) Draw();
  }

 private:
  void Draw() {
    std::string text;
    if (drawn_ > 0) text += fmt::format("\x1b[{}A", drawn_);
    for (const auto& blob : order_) {
      double part = blob.total_bytes() == 0 ? 1 : static_cast<double>(blob.done_bytes()) / static_cast<double>(blob.total_bytes());
      int cells = static_cast<int>(part * kBarWidth);
      text += fmt::format("\r\x1b[K{}  [{:<{}}]  {:>10} / {}{}\n", ShortId(blob.digest()), std::string(static_cast<size_t>(std::min(cells, kBarWidth)), '#'),
                          kBarWidth, FormatBytes(blob.done_bytes()), FormatBytes(blob.total_bytes()), blob.unpacked() ? "  unpacked" : "");
    }
    drawn_ = order_.size();
    std::fputs(text.c_str(), stderr);
  }

  bool quiet_, terminal_;
  std::map<std::string, size_t> rows_;
  std::vector<control::v1::BlobProgress> order_;
  size_t drawn_ = 0;
};

}  // namespace

Result<std::string> PullWithProgress(Client& client, const std::string& image, bool quiet) {
  grpc::ClientContext context;  // no deadline: the daemon ends a pull that makes no progress
  control::v1::PullRequest request;
  request.set_image(image);
  auto stream = client.control().Pull(&context, request);
  control::v1::PullResponse update;
  ProgressView view(quiet);
  std::string reference;
  while (stream->Read(&update)) {
    view.Update(update);
    if (!update.image_ref().empty()) reference = update.image_ref();
  }
  grpc::Status status = stream->Finish();
  if (!status.ok()) return client.ToError(status);
  return reference;
}

void AddPull(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("pull", "Pull an image, with its progress on stderr; prints the image's id");
  auto image = std::make_shared<std::string>();
  auto quiet = std::make_shared<bool>(false);
  sub->add_option("IMAGE", *image, "e.g. docker.io/library/busybox:1.36")->required();
  sub->add_flag("-q,--quiet", *quiet, "No progress");
  sub->callback([&command, image, quiet] {
    command.Run([&]() -> Result<> {
      Print(TRY(PullWithProgress(command.client(), *image, *quiet)) + "\n");
      return {};
    });
  });
}

}  // namespace caisson::cli
