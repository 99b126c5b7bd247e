// SPDX-License-Identifier: Apache-2.0
//
// cri_bench: times the calls of a kubelet against any CRI socket. bench/run starts it; each measurement is a line of
// JSON on stdout: {"name": VALUE, …}, times in milliseconds. Any call that fails ends it with the call's error.
//
//   cri_bench --socket S [--image I] [--handler H] [--cgroup-parent P] [--log-dir D] [--mark M] COMMAND [ARGS]
//     wait                        until the runtime is ready
//     pods COUNT pod|node         COUNT pods one after the other, each started, exec'ed into, stopped and removed
//     parallel COUNT              COUNT pods started at once, then removed
//     fill COUNT pod|node         COUNT pods that stay
//     stats COUNT                 ListContainerStats and ListPodSandboxStats, COUNT times
//     metrics COUNT               ListPodSandboxMetrics, COUNT times
//     exec COUNT                  ExecSync(true) in the first running container
//     clean                       removes every pod
//     pull                        PullImage
//     rmi                         RemoveImage
//     streams COUNT               exec, attach and port-forward: COUNT first bytes each, then throughput once
//     log FILE TIMES BYTES        a container that writes FILE TIMES times to stdout: BYTES in all
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "base/clock.h"
#include "cri/v1/api.grpc.pb.h"
#include "cri/v1/api.pb.h"
#include "stream_client.h"

namespace {

namespace v1 = runtime::v1;
using caisson::bench::StreamClient;

constexpr int kPort = 7000;            // of the payload
constexpr uint64_t kBulk = 256 << 20;  // bytes of a throughput; BULK of payload.c

[[noreturn]] void Fail(const std::string& what, const std::string& why) {
  fprintf(stderr, "cri_bench: %s: %s\n", what.c_str(), why.c_str());
  exit(1);
}

struct Options {
  std::string socket, image, handler, cgroup_parent, log_dir = "/tmp", mark = "caisson-bench";
};

double Millis(int64_t since) { return static_cast<double>(caisson::MonotonicNanos() - since) / 1e6; }

class Client {
 public:
  explicit Client(Options options) : options_(std::move(options)) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(64 << 20);
    auto channel = grpc::CreateCustomChannel("unix://" + options_.socket, grpc::InsecureChannelCredentials(), arguments);
    runtime_ = v1::RuntimeService::NewStub(channel);
    images_ = v1::ImageService::NewStub(channel);
  }

  // Calls `method` and ends the program on an error.
  template <class Stub, class Method, class Request>
  auto Call(Stub& stub, Method method, const char* name, const Request& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(300));
    return CallIn(context, stub, method, name, request);
  }

  bool Ready() {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    v1::StatusRequest request;
    v1::StatusResponse response;
    auto status = runtime_->Status(&context, request, &response);
    if (!status.ok()) Fail("Status", status.error_message());
    for (const auto& condition : response.status().conditions()) {
      if (!condition.status()) return false;
    }
    return true;
  }

  struct Pod {
    v1::PodSandboxConfig config;
    std::string sandbox, container;
    double run = 0, create = 0, start = 0;
  };

  Pod StartPod(const std::string& name, bool node_network, std::vector<std::string> command = {},
               const std::string& mount = "", bool stdin_open = false) {
    Pod pod;
    pod.config = SandboxConfig(name, node_network);
    v1::RunPodSandboxRequest run;
    *run.mutable_config() = pod.config;
    run.set_runtime_handler(options_.handler);
    int64_t at = caisson::MonotonicNanos();
    pod.sandbox = Call(runtime_, &v1::RuntimeService::Stub::RunPodSandbox, "RunPodSandbox", run).pod_sandbox_id();
    pod.run = Millis(at);
    v1::CreateContainerRequest create = ContainerRequest(pod, std::move(command), mount);
    create.mutable_config()->set_stdin(stdin_open);
    at = caisson::MonotonicNanos();
    pod.container = Call(runtime_, &v1::RuntimeService::Stub::CreateContainer, "CreateContainer", create).container_id();
    pod.create = Millis(at);
    v1::StartContainerRequest start;
    start.set_container_id(pod.container);
    at = caisson::MonotonicNanos();
    Call(runtime_, &v1::RuntimeService::Stub::StartContainer, "StartContainer", start);
    pod.start = Millis(at);
    return pod;
  }

  double Exec(const std::string& container) {
    v1::ExecSyncRequest request;
    request.set_container_id(container);
    request.add_cmd("/bin/true");
    request.set_timeout(30);
    int64_t at = caisson::MonotonicNanos();
    auto response = Call(runtime_, &v1::RuntimeService::Stub::ExecSync, "ExecSync", request);
    double took = Millis(at);
    if (response.exit_code() != 0) Fail("ExecSync", "exit code " + std::to_string(response.exit_code()));
    return took;
  }

  std::string ExecUrl(const std::string& container, const std::vector<std::string>& command, bool in) {
    v1::ExecRequest request;
    request.set_container_id(container);
    for (const std::string& word : command) request.add_cmd(word);
    request.set_stdin(in);
    request.set_stdout(true);
    return Call(runtime_, &v1::RuntimeService::Stub::Exec, "Exec", request).url();
  }

  std::string AttachUrl(const std::string& container) {
    v1::AttachRequest request;
    request.set_container_id(container);
    request.set_stdin(true);
    request.set_stdout(true);
    return Call(runtime_, &v1::RuntimeService::Stub::Attach, "Attach", request).url();
  }

  std::string PortForwardUrl(const std::string& sandbox) {
    v1::PortForwardRequest request;
    request.set_pod_sandbox_id(sandbox);
    request.add_port(kPort);
    return Call(runtime_, &v1::RuntimeService::Stub::PortForward, "PortForward", request).url();
  }

  double Stop(const std::string& container) {
    v1::StopContainerRequest request;
    request.set_container_id(container);
    request.set_timeout(10);
    int64_t at = caisson::MonotonicNanos();
    Call(runtime_, &v1::RuntimeService::Stub::StopContainer, "StopContainer", request);
    return Millis(at);
  }

  // StopPodSandbox and RemovePodSandbox (which removes the containers).
  double RemovePod(const std::string& sandbox) {
    int64_t at = caisson::MonotonicNanos();
    v1::StopPodSandboxRequest stop;
    stop.set_pod_sandbox_id(sandbox);
    Call(runtime_, &v1::RuntimeService::Stub::StopPodSandbox, "StopPodSandbox", stop);
    v1::RemovePodSandboxRequest remove;
    remove.set_pod_sandbox_id(sandbox);
    Call(runtime_, &v1::RuntimeService::Stub::RemovePodSandbox, "RemovePodSandbox", remove);
    return Millis(at);
  }

  std::vector<std::string> Sandboxes() {
    std::vector<std::string> ids;
    auto response = Call(runtime_, &v1::RuntimeService::Stub::ListPodSandbox, "ListPodSandbox", v1::ListPodSandboxRequest());
    for (const auto& pod : response.items()) ids.push_back(pod.id());
    return ids;
  }

  std::vector<std::string> RunningContainers() {
    std::vector<std::string> ids;
    auto response = Call(runtime_, &v1::RuntimeService::Stub::ListContainers, "ListContainers", v1::ListContainersRequest());
    for (const auto& one : response.containers()) {
      if (one.state() == v1::CONTAINER_RUNNING) ids.push_back(one.id());
    }
    return ids;
  }

  double Stats(int* containers) {
    int64_t at = caisson::MonotonicNanos();
    auto response = Call(runtime_, &v1::RuntimeService::Stub::ListContainerStats, "ListContainerStats",
                         v1::ListContainerStatsRequest());
    double took = Millis(at);
    *containers = response.stats_size();
    for (const auto& stats : response.stats()) {
      if (stats.memory().working_set_bytes().value() == 0) Fail("ListContainerStats", "a container without memory usage");
    }
    return took;
  }

  double PodStats(int* pods) {
    int64_t at = caisson::MonotonicNanos();
    auto response = Call(runtime_, &v1::RuntimeService::Stub::ListPodSandboxStats, "ListPodSandboxStats",
                         v1::ListPodSandboxStatsRequest());
    double took = Millis(at);
    *pods = response.stats_size();
    for (const auto& stats : response.stats()) {
      if (stats.linux().cpu().usage_core_nano_seconds().value() == 0) Fail("ListPodSandboxStats", "a pod without CPU usage");
    }
    return took;
  }

  double Metrics(int* pods) {
    int64_t at = caisson::MonotonicNanos();
    auto response = Call(runtime_, &v1::RuntimeService::Stub::ListPodSandboxMetrics, "ListPodSandboxMetrics",
                         v1::ListPodSandboxMetricsRequest());
    *pods = response.pod_metrics_size();
    return Millis(at);
  }

  bool Exited(const std::string& container, int* exit_code) {
    v1::ContainerStatusRequest request;
    request.set_container_id(container);
    auto response = Call(runtime_, &v1::RuntimeService::Stub::ContainerStatus, "ContainerStatus", request);
    *exit_code = response.status().exit_code();
    return response.status().state() == v1::CONTAINER_EXITED;
  }

  double Pull() {
    v1::PullImageRequest request;
    request.mutable_image()->set_image(options_.image);
    int64_t at = caisson::MonotonicNanos();
    Call(images_, &v1::ImageService::Stub::PullImage, "PullImage", request);
    return Millis(at);
  }

  void RemoveImage() {
    v1::RemoveImageRequest request;
    request.mutable_image()->set_image(options_.image);
    Call(images_, &v1::ImageService::Stub::RemoveImage, "RemoveImage", request);
  }

  const Options& options() const { return options_; }

 private:
  // The response type comes from the stub's method.
  template <class Stub, class Request, class Response>
  Response CallIn(grpc::ClientContext& context, std::unique_ptr<Stub>& stub,
                  grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*), const char* name,
                  const Request& request) {
    Response response;
    grpc::Status status = (stub.get()->*method)(&context, request, &response);
    if (!status.ok()) Fail(name, status.error_message());
    return response;
  }

  v1::PodSandboxConfig SandboxConfig(const std::string& name, bool node_network) {
    v1::PodSandboxConfig config;
    config.mutable_metadata()->set_name(name);
    config.mutable_metadata()->set_uid(name + "-" + std::to_string(getpid()));
    config.mutable_metadata()->set_namespace_("bench");
    if (!node_network) config.set_hostname(name);
    config.set_log_directory(options_.log_dir);
    config.mutable_dns_config()->add_servers("10.96.0.10");
    auto* linux_config = config.mutable_linux();
    linux_config->set_cgroup_parent(options_.cgroup_parent);
    auto* security = linux_config->mutable_security_context();
    security->mutable_seccomp()->set_profile_type(v1::SecurityProfile::RuntimeDefault);
    auto* namespaces = security->mutable_namespace_options();
    namespaces->set_network(node_network ? v1::NODE : v1::POD);
    namespaces->set_pid(v1::CONTAINER);
    return config;
  }

  v1::CreateContainerRequest ContainerRequest(const Pod& pod, std::vector<std::string> command, const std::string& mount) {
    if (command.empty()) command = {"/bin/payload", options_.mark};
    v1::CreateContainerRequest create;
    create.set_pod_sandbox_id(pod.sandbox);
    *create.mutable_sandbox_config() = pod.config;
    auto* config = create.mutable_config();
    config->mutable_metadata()->set_name("main");
    config->mutable_image()->set_image(options_.image);
    for (const std::string& word : command) config->add_command(word);
    config->set_log_path(pod.config.metadata().name() + ".log");
    if (!mount.empty()) {
      auto* one = config->add_mounts();
      one->set_host_path(mount);
      one->set_container_path("/payload-file");
      one->set_readonly(true);
    }
    // As the kubelet asks for an ordinary container.
    auto* linux_config = config->mutable_linux();
    linux_config->mutable_resources()->set_memory_limit_in_bytes(256 << 20);
    linux_config->mutable_resources()->set_cpu_shares(102);
    linux_config->mutable_resources()->set_cpu_period(100000);
    linux_config->mutable_resources()->set_oom_score_adj(999);
    auto* security = linux_config->mutable_security_context();
    *security->mutable_namespace_options() = pod.config.linux().security_context().namespace_options();
    security->mutable_seccomp()->set_profile_type(v1::SecurityProfile::RuntimeDefault);
    for (const char* path : {"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                             "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"}) {
      security->add_masked_paths(path);
    }
    for (const char* path : {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}) {
      security->add_readonly_paths(path);
    }
    return create;
  }

  Options options_;
  std::unique_ptr<v1::RuntimeService::Stub> runtime_;
  std::unique_ptr<v1::ImageService::Stub> images_;
};

std::string Name(int i) { return "bench-" + std::to_string(getpid()) + "-" + std::to_string(i); }

void Pods(Client& client, int count, bool node) {
  for (int i = 0; i < count; ++i) {
    auto pod = client.StartPod(Name(i), node);
    client.Exec(pod.container);  // the first reads program and libraries from disk
    double exec = client.Exec(pod.container);
    double stop = client.Stop(pod.container);
    double teardown = client.RemovePod(pod.sandbox);
    printf("{\"start\": %.3f, \"run\": %.3f, \"create\": %.3f, \"start_container\": %.3f, \"exec\": %.3f, \"stop\": %.3f, "
           "\"teardown\": %.3f}\n", pod.run + pod.create + pod.start, pod.run, pod.create, pod.start, exec, stop, teardown);
    fflush(stdout);
  }
}

void Parallel(Client& client, int count) {
  std::vector<std::thread> threads;
  std::vector<std::string> sandboxes(static_cast<size_t>(count));
  int64_t at = caisson::MonotonicNanos();
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&, i] { sandboxes[static_cast<size_t>(i)] = client.StartPod(Name(i), false).sandbox; });
  }
  for (auto& thread : threads) thread.join();
  printf("{\"parallel\": %.3f}\n", Millis(at));
  fflush(stdout);
  for (const std::string& sandbox : sandboxes) client.RemovePod(sandbox);
}

void Log(Client& client, const std::string& file, int times, long long bytes) {
  std::vector<std::string> command = {"/bin/cat"};
  for (int i = 0; i < times; ++i) command.push_back("/payload-file");
  auto pod = client.StartPod(Name(0), true, command, file);
  int64_t at = caisson::MonotonicNanos();
  std::string log = client.options().log_dir + "/" + Name(0) + ".log";
  // Done when the process has exited and its lines are in the file (each line gets a prefix, so it is larger).
  int exit_code = 0;
  double took = 0;
  for (bool exited = false;;) {
    exited = exited || client.Exited(pod.container, &exit_code);
    struct stat st{};
    bool written = stat(log.c_str(), &st) == 0 && st.st_size >= bytes;
    took = Millis(at);
    if (exited && written) break;
    if (took > 120'000) Fail("log", "not written within two minutes");
    usleep(2000);
  }
  if (exit_code != 0) Fail("log", "exit code " + std::to_string(exit_code));
  printf("{\"log\": %.3f}\n", static_cast<double>(bytes) / 1e6 / (took / 1e3));
  client.RemovePod(pod.sandbox);
  unlink(log.c_str());
}

void SendBulk(StreamClient& client, uint32_t stream) {
  const std::string block(32 << 10, 'x');  // as much as io.Copy of Go's clients takes
  for (uint64_t sent = 0; sent < kBulk; sent += block.size()) client.Send(stream, block, false);
}

// A remote command: its connection, its streams.
struct Remote {
  StreamClient client;
  uint32_t error, in = 0, out;
  Remote(const std::string& url, bool with_in) : client(url, "v4.channel.k8s.io"), error(Open("error")) {
    if (with_in) in = Open("stdin");
    out = Open("stdout");
  }
  uint32_t Open(const char* type) { return client.OpenStream({{"streamtype", type}}); }
};

// A forwarded port: its connection, its pair of streams.
struct Forward {
  StreamClient client;
  uint32_t error, data;
  explicit Forward(const std::string& url) : client(url, "portforward.k8s.io"), error(Open("error")), data(Open("data")) {}
  uint32_t Open(const char* type) {
    return client.OpenStream({{"streamtype", type}, {"port", std::to_string(kPort)}, {"requestid", "0"}});
  }
};

double PerSecond(int64_t since) { return static_cast<double>(kBulk) / 1e6 / (Millis(since) / 1e3); }

void Streams(Client& client, int count) {
  auto pod = client.StartPod(Name(0), false, {"/bin/payload", "streams", std::to_string(kPort)}, "", true);
  const std::string& container = pod.container;
  client.Exec(container);  // reads the program from disk
  for (int i = 0; i < count; ++i) {
    int64_t at = caisson::MonotonicNanos();
    Remote exec(client.ExecUrl(container, {"/bin/payload", "zeros", "1"}, false), false);
    exec.client.Await(exec.out, 1);
    double exec_first = Millis(at);
    exec.client.AwaitEnd(exec.error);
    double exec_whole = Millis(at);
    at = caisson::MonotonicNanos();
    Remote attach(client.AttachUrl(container), true);
    attach.client.Send(attach.in, "x", false);
    attach.client.Await(attach.out, 1);
    double attach_first = Millis(at);
    at = caisson::MonotonicNanos();
    Forward forward(client.PortForwardUrl(pod.sandbox));
    forward.client.Send(forward.data, "h", false);
    forward.client.Await(forward.data, 1);
    printf("{\"stream_exec_first\": %.3f, \"stream_exec_whole\": %.3f, \"stream_attach_first\": %.3f, "
           "\"stream_forward_first\": %.3f}\n", exec_first, exec_whole, attach_first, Millis(at));
  }
  Remote zeros(client.ExecUrl(container, {"/bin/payload", "zeros", std::to_string(kBulk)}, false), false);
  int64_t at = caisson::MonotonicNanos();
  zeros.client.Await(zeros.out, kBulk);
  printf("{\"stream_exec_out\": %.3f}\n", PerSecond(at));
  Remote sink(client.ExecUrl(container, {"/bin/payload", "sink"}, true), true);
  at = caisson::MonotonicNanos();
  SendBulk(sink.client, sink.in);
  sink.client.Send(sink.in, "", true);
  sink.client.Await(sink.out, 1);
  printf("{\"stream_exec_in\": %.3f}\n", PerSecond(at));
  Forward down(client.PortForwardUrl(pod.sandbox));
  at = caisson::MonotonicNanos();
  down.client.Send(down.data, "z", false);
  down.client.Await(down.data, kBulk);
  printf("{\"stream_forward_down\": %.3f}\n", PerSecond(at));
  Forward up(client.PortForwardUrl(pod.sandbox));
  at = caisson::MonotonicNanos();
  up.client.Send(up.data, "s", false);
  SendBulk(up.client, up.data);
  up.client.Await(up.data, 1);
  printf("{\"stream_forward_up\": %.3f}\n", PerSecond(at));
  client.RemovePod(pod.sandbox);
}

int Usage() {
  fprintf(stderr, "usage: cri_bench --socket S [options] wait|pods|parallel|fill|stats|metrics|exec|clean|pull|rmi|streams|log [args]\n");
  return 2;
}

int Run(Client& client, const std::vector<std::string>& words) {
  const std::string& command = words[0];
  auto number = [&](size_t i) { return i < words.size() ? atoi(words[i].c_str()) : 0; };
  bool node = words.size() > 2 && words[2] == "node";
  if (command == "wait") {
    for (int i = 0; !client.Ready(); ++i) {
      if (i > 600) Fail("wait", "the runtime is not ready");
      usleep(100'000);
    }
  } else if (command == "pods") {
    Pods(client, number(1), node);
  } else if (command == "parallel") {
    Parallel(client, number(1));
  } else if (command == "fill") {
    for (int i = 0; i < number(1); ++i) client.StartPod(Name(i), node);
  } else if (command == "stats") {
    for (int i = 0; i < number(1); ++i) {
      int containers = 0, pods = 0;
      double took = client.Stats(&containers), of_pods = client.PodStats(&pods);
      printf("{\"stats\": %.3f, \"containers\": %d, \"pod stats\": %.3f, \"pods\": %d}\n", took, containers, of_pods, pods);
    }
  } else if (command == "metrics") {
    for (int i = 0; i < number(1); ++i) {
      int pods = 0;
      double took = client.Metrics(&pods);
      printf("{\"metrics\": %.3f, \"pods\": %d}\n", took, pods);
    }
  } else if (command == "exec") {
    std::vector<std::string> running = client.RunningContainers();
    if (running.empty()) Fail("exec", "no container runs");
    for (int i = 0; i < number(1); ++i) printf("{\"exec\": %.3f}\n", client.Exec(running[0]));
  } else if (command == "clean") {
    for (const std::string& sandbox : client.Sandboxes()) client.RemovePod(sandbox);
  } else if (command == "pull") {
    printf("{\"pull\": %.3f}\n", client.Pull() / 1e3);
  } else if (command == "rmi") {
    client.RemoveImage();
  } else if (command == "streams") {
    Streams(client, number(1));
  } else if (command == "log" && words.size() == 4) {
    Log(client, words[1], number(2), atoll(words[3].c_str()));
  } else {
    return Usage();
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    std::string* value = word == "--socket"          ? &options.socket
                         : word == "--image"         ? &options.image
                         : word == "--handler"       ? &options.handler
                         : word == "--cgroup-parent" ? &options.cgroup_parent
                         : word == "--log-dir"       ? &options.log_dir
                         : word == "--mark"          ? &options.mark
                                                     : nullptr;
    if (value == nullptr) words.push_back(word);
    else if (++i < argc) *value = argv[i];
  }
  if (options.socket.empty() || words.empty()) return Usage();
  Client client(options);
  return Run(client, words);
}
