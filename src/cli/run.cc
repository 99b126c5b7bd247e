// SPDX-License-Identifier: Apache-2.0
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "base/id.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/lifecycle.h"
#include "cli/log_reader.h"

namespace caisson::cli {

using runtime::v1::ImageService;
using runtime::v1::RuntimeService;

namespace {

struct RunOptions {
  std::string image, handler, name, user, working_dir, cgroup_parent, pull = "missing";
  std::vector<std::string> command, environment, volumes, ports;
  bool remove = false, detach = false, host_network = false, read_only = false, privileged = false;
};

// What a started container is, for following and cleaning up.
struct Started {
  std::string pod_id, container_id, log_folder, log_path;
};

Result<std::string> HaveImage(Client& client, const RunOptions& options) {
  runtime::v1::ImageStatusRequest request;
  request.mutable_image()->set_image(options.image);
  if (options.pull != "always") {
    auto status = TRY(client.Call(client.images(), &ImageService::Stub::ImageStatus, request));
    if (status.has_image() && !status.image().id().empty()) return status.image().id();
    if (options.pull == "never") return MakeError(Code::kNotFound, "image '{}' is not here and --pull=never", options.image);
  }
  return PullWithProgress(client, options.image, /*quiet=*/!isatty(STDERR_FILENO));
}

Result<runtime::v1::PodSandboxConfig> PodConfig(const RunOptions& options, const std::string& log_folder) {
  runtime::v1::PodSandboxConfig config;
  config.mutable_metadata()->set_name(options.name);
  config.mutable_metadata()->set_namespace_("caisson");
  config.mutable_metadata()->set_uid(NewId().substr(0, 32));
  config.set_log_directory(log_folder);
  auto* linux_config = config.mutable_linux();
  linux_config->set_cgroup_parent(options.cgroup_parent);
  auto* security = linux_config->mutable_security_context();
  security->set_privileged(options.privileged);
  auto* namespaces = security->mutable_namespace_options();
  namespaces->set_pid(runtime::v1::CONTAINER);
  if (options.host_network) {
    namespaces->set_network(runtime::v1::NODE);
  } else {
    config.set_hostname(options.name);
  }
  for (const auto& port : options.ports) {
    auto parts = Split(port, ':');
    if (parts.size() != 2) return MakeError(Code::kInvalidArgument, "port '{}' is not HOST:CONTAINER", port);
    auto* mapping = config.add_port_mappings();
    mapping->set_host_port(static_cast<int32_t>(TRY(ParseUint64(parts[0]))));
    mapping->set_container_port(static_cast<int32_t>(TRY(ParseUint64(parts[1]))));
  }
  return config;
}

Result<runtime::v1::ContainerConfig> ContainerConfig(const RunOptions& options, const std::string& image_id) {
  runtime::v1::ContainerConfig config;
  config.mutable_metadata()->set_name("main");
  config.mutable_image()->set_image(image_id);
  config.mutable_image()->set_user_specified_image(options.image);
  config.set_log_path("main.log");
  config.set_working_dir(options.working_dir);
  // As docker does: the words after the image take the place of its Cmd, not of its Entrypoint.
  for (const auto& word : options.command) config.add_args(word);
  for (const auto& variable : options.environment) {
    size_t equals = variable.find('=');
    const char* inherited = equals == std::string::npos ? std::getenv(variable.c_str()) : nullptr;
    auto* env = config.add_envs();
    env->set_key(variable.substr(0, equals));
    env->set_value(equals != std::string::npos ? variable.substr(equals + 1) : inherited != nullptr ? inherited : "");
  }
  for (const auto& volume : options.volumes) {
    auto parts = Split(volume, ':');
    if (parts.size() < 2 || parts.size() > 3 || (parts.size() == 3 && parts[2] != "ro")) {
      return MakeError(Code::kInvalidArgument, "volume '{}' is not SOURCE:TARGET[:ro]", volume);
    }
    auto* mount = config.add_mounts();
    mount->set_host_path(std::string(parts[0]));
    mount->set_container_path(std::string(parts[1]));
    mount->set_readonly(parts.size() == 3);
  }
  auto* security = config.mutable_linux()->mutable_security_context();
  security->set_privileged(options.privileged);
  security->set_readonly_rootfs(options.read_only);
  security->mutable_namespace_options()->set_pid(runtime::v1::CONTAINER);
  if (options.host_network) security->mutable_namespace_options()->set_network(runtime::v1::NODE);
  if (!options.privileged) security->mutable_seccomp()->set_profile_type(runtime::v1::SecurityProfile::RuntimeDefault);
  if (auto uid = ParseInt64(options.user)) {
    security->mutable_run_as_user()->set_value(*uid);
  } else if (!options.user.empty()) {
    security->set_run_as_username(options.user);
  }
  return config;
}

Result<Started> Start(Client& client, RunOptions& options) {
  std::string image_id = TRY(HaveImage(client, options));
  if (options.name.empty()) options.name = "run-" + NewId().substr(0, 8);
  Started started;
  started.log_folder = "/var/log/caisson/" + NewId().substr(0, 16);
  std::error_code failed;
  std::filesystem::create_directories(started.log_folder, failed);
  if (failed) return MakeError(Code::kInternal, "make log folder '{}': {}", started.log_folder, failed.message());
  Rollback rollback;
  rollback.Add([&] { std::filesystem::remove_all(started.log_folder, failed); });

  runtime::v1::RunPodSandboxRequest pod;
  *pod.mutable_config() = TRY(PodConfig(options, started.log_folder));
  pod.set_runtime_handler(options.handler);
  started.pod_id = TRY(client.Call(client.runtime(), &RuntimeService::Stub::RunPodSandbox, pod)).pod_sandbox_id();
  rollback.Add([&] {
    // What failed before is the error to tell; the pod may stay if it cannot be removed, and `caisson pods` shows it.
    if (StopPod(client, started.pod_id)) (void)RemovePod(client, started.pod_id);
  });

  runtime::v1::CreateContainerRequest create;
  create.set_pod_sandbox_id(started.pod_id);
  *create.mutable_sandbox_config() = pod.config();
  *create.mutable_config() = TRY(ContainerConfig(options, image_id));
  started.container_id = TRY(client.Call(client.runtime(), &RuntimeService::Stub::CreateContainer, create)).container_id();
  runtime::v1::StartContainerRequest start;
  start.set_container_id(started.container_id);
  TRY(client.Call(client.runtime(), &RuntimeService::Stub::StartContainer, start));
  started.log_path = started.log_folder + "/main.log";
  rollback.Commit();
  return started;
}

// Prints the container's output until it ends; returns its exit code.
Result<int> Attach(Client& client, const Started& started) {
  LogReader reader(started.log_path);
  auto print = [](bool is_stderr, std::string_view text) {
    if (!is_stderr) return Print(text);
    [[maybe_unused]] ssize_t written = write(STDERR_FILENO, text.data(), text.size());
  };
  runtime::v1::ContainerStatusRequest request;
  request.set_container_id(started.container_id);
  int wait_millis = 2;
  for (;;) {
    if (TakeInterrupt()) TRY(StopContainer(client, started.container_id, 5));
    auto status = TRY(client.Call(client.runtime(), &RuntimeService::Stub::ContainerStatus, request));
    TRY(reader.ReadNew(print));
    if (status.status().state() == runtime::v1::CONTAINER_EXITED) {
      if (status.status().reason() == "OOMKilled") std::fputs("caisson: the container was killed for lack of memory\n", stderr);
      return status.status().exit_code();
    }
    poll(nullptr, 0, wait_millis);
    if (wait_millis < 100) wait_millis *= 2;
  }
}

Result<> Run(Command& command, RunOptions& options) {
  Client& client = command.client();
  Started started = TRY(Start(client, options));
  if (options.detach) {
    Print(started.pod_id + "\n");
    return {};
  }
  CatchInterrupts();
  auto code = Attach(client, started);
  if (options.remove) {
    TRY(StopPod(client, started.pod_id));
    TRY(RemovePod(client, started.pod_id));
    std::error_code ignored;
    std::filesystem::remove_all(started.log_folder, ignored);
  } else {
    TRY(StopPod(client, started.pod_id));
  }
  command.exit_code = TRY(std::move(code));
  return {};
}

}  // namespace

void AddRun(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("run", "Run a pod with one container; its output and exit code are this command's");
  auto options = std::make_shared<RunOptions>();
  sub->add_option("IMAGE", options->image, "Pulled if it is not here")->required();
  sub->add_option("COMMAND", options->command, "In place of the image's own command");
  sub->add_flag("--rm", options->remove, "Remove the pod when the container ends");
  sub->add_flag("-d,--detach", options->detach, "Print the pod's id and return");
  sub->add_option("--handler", options->handler, "Runtime handler, as a RuntimeClass names it");
  sub->add_option("--name", options->name, "The pod's name");
  sub->add_option("-e,--env", options->environment, "NAME=VALUE, or NAME to pass ours on")->allow_extra_args(false);
  sub->add_option("-v,--volume", options->volumes, "SOURCE:TARGET[:ro]")->allow_extra_args(false);
  sub->add_option("-p,--publish", options->ports, "HOST:CONTAINER port")->allow_extra_args(false);
  sub->add_option("-u,--user", options->user, "User id or name");
  sub->add_option("-w,--workdir", options->working_dir, "Working directory");
  sub->add_option("--pull", options->pull, "missing, always or never")->check(CLI::IsMember({"missing", "always", "never"}))
      ->capture_default_str();
  sub->add_option("--cgroup-parent", options->cgroup_parent, "Cgroup that the pod's cgroups are made below");
  sub->add_flag("--host-network", options->host_network, "Use the host's network");
  sub->add_flag("--read-only", options->read_only, "The root filesystem is read-only");
  sub->add_flag("--privileged", options->privileged, "All capabilities and devices of the host");
  sub->positionals_at_end();
  sub->callback([&command, options] { command.Run([&] { return Run(command, *options); }); });
}

}  // namespace caisson::cli
