// SPDX-License-Identifier: Apache-2.0
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "base/unique_fd.h"
#include "cli/command.h"
#include "cli/log_reader.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

namespace {

struct LogOptions {
  std::string container;
  bool follow = false;
  int tail = -1;
};

void PrintLine(bool is_stderr, std::string_view text) {
  if (!is_stderr) return Print(text);
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, text.data(), text.size());
}

// Reads until the container has ended and its log is read out.
Result<> Follow(Client& client, const std::string& id, const std::string& path, LogReader& reader) {
  UniqueFd watch(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  std::string folder = std::filesystem::path(path).parent_path();
  inotify_add_watch(watch.get(), folder.c_str(), IN_MODIFY | IN_CREATE | IN_MOVED_TO);
  runtime::v1::ContainerStatusRequest request;
  request.set_container_id(id);
  for (;;) {
    auto status = client.Call(client.runtime(), &RuntimeService::Stub::ContainerStatus, request);
    if (!status && status.error().code != Code::kNotFound) return std::move(status.error());
    bool ended = !status || status->status().state() == runtime::v1::CONTAINER_EXITED;
    TRY(reader.ReadNew(PrintLine));  // after asking: what was written before the end is there now
    if (ended) return {};
    pollfd wait = {watch.get(), POLLIN, 0};
    if (poll(&wait, 1, 500) > 0) {
      char events[4096];
      while (read(watch.get(), events, sizeof events) > 0) {
      }
    }
  }
}

Result<> Logs(Command& command, const LogOptions& options) {
  Client& client = command.client();
  auto container = TRY(FindContainer(client, options.container));
  runtime::v1::ContainerStatusRequest request;
  request.set_container_id(container.id());
  auto status = TRY(client.Call(client.runtime(), &RuntimeService::Stub::ContainerStatus, request));
  const std::string& path = status.status().log_path();
  if (path.empty()) {
    return MakeError(Code::kFailedPrecondition, "container '{}' was created without a log path", options.container);
  }
  LogReader reader(path);
  if (options.tail >= 0) reader.SetTail(options.tail);
  if (options.follow) return Follow(client, container.id(), path, reader);
  return reader.ReadNew(PrintLine);
}

}  // namespace

void AddLogs(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("logs", "Print a container's log");
  auto options = std::make_shared<LogOptions>();
  sub->add_option("CONTAINER", options->container, "Id, prefix, name, pod/name, or a pod of one container")->required();
  sub->add_flag("-f,--follow", options->follow, "Go on until the container ends");
  sub->add_option("--tail", options->tail, "Only the last N lines")->check(CLI::NonNegativeNumber);
  sub->callback([&command, options] { command.Run([&] { return Logs(command, *options); }); });
}

}  // namespace caisson::cli
