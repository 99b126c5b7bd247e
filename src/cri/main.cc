// SPDX-License-Identifier: Apache-2.0
//
// caissond: reads its flags and configuration, wires the daemon's parts together, and serves until SIGTERM.
#include <CLI/CLI.hpp>

#include "cri/context.h"
#include "cri/daemon_metrics.h"
#include "cri/events.h"
#include "cri/exits.h"
#include "cri/handler_probes.h"
#include "cri/recovery.h"
#include "cri/resident.h"
#include "cri/server.h"
#include "cri/streaming.h"
#include "cri/vm_readings.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <atomic>
#include <cstdio>
#include <iterator>
#include <map>
#include <optional>
#include <thread>

#include "base/log.h"
#include "base/strings.h"
#include "cri/version.h"

namespace caisson::cri {
namespace {

constexpr const char* kDefaultConfigPath = "/etc/caisson/config.toml";
constexpr int64_t kStopMillis = 15'000;  // for RPCs in work when SIGTERM comes
constexpr int64_t kExitMillis = 25'000;  // from SIGTERM to the end, whatever hangs

struct Flags {
  std::string config_path, root, state, socket, image_socket, log_level;
  bool check_config = false, print_config = false, list_faults = false;
  std::vector<std::string> faults;
};

Result<Config> EffectiveConfig(const Flags& flags) {
  Config config = flags.config_path.empty() ? TRY(LoadConfig(kDefaultConfigPath, false))
                                            : TRY(LoadConfig(flags.config_path, true));
  if (!flags.root.empty()) config.root = flags.root;
  if (!flags.state.empty()) config.state = flags.state;
  if (!flags.socket.empty()) config.socket = flags.socket;
  if (!flags.image_socket.empty()) config.image_socket = flags.image_socket;
  if (!flags.log_level.empty()) config.log_level = flags.log_level;
  config.faults = flags.faults;
  for (const std::string& fault : config.faults) {
    if (!FaultPoints::Known(fault)) return MakeError(Code::kInvalidArgument, "--fault: '{}' is no fault point", fault);
  }
  TRY(ValidateConfig(config));
  return config;
}

// Makes `path` and what is missing above it; the last part is for root only.
Result<> MakeDir(const std::string& path) {
  for (size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1)) {
    if (mkdir(path.substr(0, at).c_str(), 0755) != 0 && errno != EEXIST) {
      return ErrnoError("make directory '{}'", path.substr(0, at));
    }
  }
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoError("make directory '{}'", path);
  struct stat st = {};
  if (lstat(path.c_str(), &st) != 0) return ErrnoError("'{}'", path);
  if (!S_ISDIR(st.st_mode)) return MakeError(Code::kFailedPrecondition, "'{}' is not a directory", path);
  if (chmod(path.c_str(), 0700) != 0) return ErrnoError("chmod '{}'", path);
  return {};
}

Result<UniqueFd> LockRoot(const Config& config) {
  UniqueFd lock(open(config.LockPath().c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return ErrnoError("open '{}'", config.LockPath());
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoError("lock '{}'", config.LockPath());
    char holder[32] = {};
    ssize_t n = pread(lock.get(), holder, sizeof holder - 1, 0);
    return MakeError(Code::kFailedPrecondition, "another caissond (pid {}) uses the root '{}'",
                     n > 0 ? Trim(holder) : "unknown", config.root);
  }
  // For the message above only: a full disk must not keep the daemon from its pods.
  std::string pid = fmt::format("{}\n", getpid());
  bool written = ftruncate(lock.get(), 0) == 0 && pwrite(lock.get(), pid.data(), pid.size(), 0) > 0;
  if (!written && errno != ENOSPC) return ErrnoError("write '{}'", config.LockPath());
  return lock;
}

std::string ReadLine(const char* path) {
  UniqueFd fd(open(path, O_RDONLY | O_CLOEXEC));
  char buffer[256];
  ssize_t n = fd ? read(fd.get(), buffer, sizeof buffer) : -1;
  return n > 0 ? std::string(Trim(std::string_view(buffer, static_cast<size_t>(n)))) : std::string();
}

// sd_booted(3) and the driver the kubelet would choose: systemd only where it manages cgroup v2 itself.
bool UseSystemd(CgroupDriver driver) {
  if (driver != CgroupDriver::kAuto) return driver == CgroupDriver::kSystemd;
  struct stat st = {};
  return stat("/run/systemd/system", &st) == 0 && stat("/sys/fs/cgroup/cgroup.controllers", &st) == 0;
}

// sd_notify(3): one datagram to the socket that systemd names. Without systemd: nothing.
void Notify(std::string_view state) {
  const char* path = getenv("NOTIFY_SOCKET");
  sockaddr_un address = {};
  if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof address.sun_path) return;
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  if (path[0] == '@') address.sun_path[0] = '\0';
  UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return;
  auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + strlen(path));
  (void)!sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&address), length);
}

image::Options ImageOptions(const Config& config) {
  image::Options options;
  options.root = config.ImagesRoot();
  options.certs_dir = config.images.certs_dir;
  options.docker_config = config.images.docker_config;
  options.pinned_images = config.images.pinned;
  options.max_parallel_downloads = config.images.max_parallel_downloads;
  options.stall_timeout_millis = config.images.stall_timeout_seconds * 1000;
  return options;
}

net::Options CniOptions(const Config& config) {
  net::Options options;
  options.conf_dir = config.cni.conf_dir;
  options.bin_dirs = config.cni.bin_dirs;
  options.max_conf_files = config.cni.max_conf_files;
  options.add_deadline_millis = config.cni.add_timeout_seconds * 1000;
  options.del_deadline_millis = config.cni.del_timeout_seconds * 1000;
  return options;
}

void PrepareProcess() {
  // One arena per few threads: what is free in one is not in all others too.
  mallopt(M_ARENA_MAX, 2);
  mallopt(M_TRIM_THRESHOLD, 256 << 10);
  signal(SIGPIPE, SIG_IGN);
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  umask(0022);
}

// Blocks the signals that end the daemon in this thread and all that it starts; sigwait takes them.
sigset_t BlockSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, number);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return set;
}

void SetLogLevel(const Config& config) {
  log::Level level = log::Level::kInfo;
  log::ParseLevel(config.log_level, &level);
  log::SetLevel(level);
}

// The configuration is checked as a whole before any of it takes effect. `config`: the latest that was read.
void Reload(const Flags& flags, stream::Server& streams, Config* config) {
  auto fresh = EffectiveConfig(flags);
  if (!fresh) return log::Error("SIGHUP: {}; the configuration stays as it is", fresh.error().message);
  auto reloaded = streams.ReloadTls();
  if (!reloaded) log::Error("SIGHUP: {}; the old streaming certificate stays", reloaded.error().message);
  for (const std::string& key : ChangedKeys(*config, *fresh)) {
    if (key == "log_level") log::Info("SIGHUP: the new '{}' is in effect", key);
    else log::Warn("SIGHUP: '{}' has changed, which takes effect when caissond is started again", key);
  }
  *config = std::move(*fresh);
  SetLogLevel(*config);
  log::Info("SIGHUP: the configuration and the streaming certificate are read again");
}

void WaitForEnd(const Flags& flags, Config config, const sigset_t& signals, const Server& server, stream::Server& streams,
                const std::vector<AddressRange>& loaded) {
  Quiet quiet;
  const timespec tick = {Quiet::kTickMillis / 1000, 0};
  for (;;) {
    int number = sigtimedwait(&signals, nullptr, &tick);
    if (number < 0) {
      if (quiet.Due(server.rpcs())) ReleaseUnused(loaded);
      continue;
    }
    if (number == SIGHUP) {
      Reload(flags, streams, &config);
      continue;
    }
    log::Info("{} received: caissond ends, pods live on", number == SIGTERM ? "SIGTERM" : "SIGINT");
    return;
  }
}

const char* StateWord(int state) {
  constexpr const char* kWords[] = {"created", "running", "exited", "unknown"};  // CRI, ContainerState
  static_assert(std::size(kWords) == runtime::v1::ContainerState_ARRAYSIZE);
  return kWords[state];
}

// What there is, by state, of the daemon itself, and of VM pods.
std::vector<Reading> Readings(PodIndex& pods, ContainerIndex& containers, const HandlerProbes* probes) {
  std::map<std::string, uint64_t> pod_states = {{"ready", 0}, {"notready", 0}}, container_states;
  for (int state = 0; state < runtime::v1::ContainerState_ARRAYSIZE; ++state) container_states[StateWord(state)] = 0;
  for (const PodPtr& pod : pods.List()) ++pod_states[pod->Get()->state() == runtime::v1::SANDBOX_READY ? "ready" : "notready"];
  for (const ContainerPtr& container : containers.List()) {
    ++container_states[StateWord(container->Get()->state())];
  }
  std::vector<Reading> readings = ProcessReadings();
  for (auto& [state, count] : pod_states) readings.push_back({"pods", "Pods", {{"state", state}}, static_cast<double>(count)});
  for (auto& [state, count] : container_states) readings.push_back({"containers", "Containers", {{"state", state}}, static_cast<double>(count)});
  if (probes != nullptr) {
    for (Reading& reading : probes->Read()) readings.push_back(std::move(reading));
  }
  for (Reading& reading : ReadVms(pods)) readings.push_back(std::move(reading));
  return readings;
}

void CompanionEnded(Context& context, const std::string& id, bool died) {
  if (context.templates.OnEnd(id, died) || context.warm_pool.OnEnd(id, died)) return;
  died ? PodDied(context, id) : PodLost(context, id);
}

// They live on.
void LeaveCompanions(Context& context) {
  for (const PodPtr& pod : context.pods.List()) {
    if (auto shim = pod->shim()) shim->Close();
  }
  context.templates.Close();
}

Result<> StartServing(Context& context, std::unique_ptr<Streaming>* streaming, std::unique_ptr<Server>* server) {
  *streaming = TRY(Streaming::Start(context));
  context.streams = &(*streaming)->server();
  *server = TRY(Server::Start(context));
  return {};
}

Result<> Run(const Flags& flags, const Config& config) {
  TRY(MakeDir(config.root));
  TRY(MakeDir(config.state));
  UniqueFd lock = TRY(LockRoot(config));
  sigset_t signals = BlockSignals();
  const std::vector<AddressRange> loaded = LoadedReadOnly();
  for (const char* sub : {"/pods", "/containers", "/seccomp", "/templates"}) TRY(MakeDir(config.state + sub));
  auto store = TRY(Store::Open(config.IndexPath()));
  auto images = TRY(image::ImageStore::Open(ImageOptions(config)));
  auto cni = TRY(net::Cni::Create(CniOptions(config)));
  auto shims = TRY(Shims::Create(config.shim_timeout_seconds * 1000));
  PodIndex pods(store.get(), Store::Table::kPods, "pod sandbox");
  ContainerIndex containers(store.get(), Store::Table::kContainers, "container");
  // Lives longer than the metrics, whose threads read it.
  std::optional<HandlerProbes> probes;
  std::atomic<const HandlerProbes*> readable{nullptr};
  std::unique_ptr<DaemonMetrics> metrics;
  if (!config.metrics.address.empty()) {
    metrics = TRY(DaemonMetrics::Start(config.metrics.address, [&] { return Readings(pods, containers, readable); }));
    log::Info("metrics are served on port {} of '{}'", metrics->port(), config.metrics.address);
  }
  FaultPoints faults(config.faults);
  Background background;
  Context context{config, pods, containers, *images, *cni, *shims, faults, background,
                  ReadLine("/proc/sys/kernel/random/boot_id"), UseSystemd(config.cgroup_driver)};
  Events events([&](const std::string& pod_id, Events::Message* event) { DescribePod(pods, containers, pod_id, event); });
  TellChanges(pods, containers, events);
  context.events = &events;
  context.metrics = metrics.get();
  context.templates.set_metrics(metrics.get());
  shims->OnEnd([&context](const std::string& id, bool died) { context.background.Post([&context, id, died] { CompanionEnded(context, id, died); }); });
  auto recovered = Recover(context);
  probes.emplace(context);
  context.probes = &*probes;
  readable = context.probes;
  std::unique_ptr<Streaming> streaming;
  std::unique_ptr<Server> server;
  if (recovered) recovered = StartServing(context, &streaming, &server);
  if (recovered) {
    // Not before: while the server makes its sockets the process has another umask(2), which companions would inherit.
    probes->Start();
    ReleaseUnused(loaded);
    log::Info("caissond {} serves the CRI on {}", kVersion, config.SocketPath());
    Notify("READY=1");
    WaitForEnd(flags, config, signals, *server, streaming->server(), loaded);
    Notify("STOPPING=1");
    // Everything that matters is on disk already: a hanging RPC must not keep the node from shutting down.
    std::thread([] {
      std::this_thread::sleep_for(std::chrono::milliseconds(kExitMillis));
      log::Warn("caissond ends with work unfinished");
      _exit(0);
    }).detach();
    // A pull lasts as long as its registry likes.
    images->EndPulls();
    server->Stop(kStopMillis);
  }
  streaming.reset();
  probes->Stop();
  context.warm_pool.Close();
  background.Stop();
  LeaveCompanions(context);
  shims->Stop();
  return recovered;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("caissond: a Kubernetes container runtime. Serves the CRI on a unix socket.");
  app.add_option("--config", flags.config_path, fmt::format("configuration file (default {})", kDefaultConfigPath));
  app.add_option("--root", flags.root, "directory of what survives a reboot (default /var/lib/caisson)");
  app.add_option("--state", flags.state, "directory of what does not (default /run/caisson)");
  app.add_option("--socket", flags.socket, "the CRI's socket (default <state>/caisson.sock)");
  app.add_option("--image-socket", flags.image_socket, "a second socket for the image service");
  app.add_option("--log-level", flags.log_level, "debug, info, warn or error");
  app.add_flag("--check-config", flags.check_config, "check the configuration and exit");
  app.add_flag("--print-config", flags.print_config, "print the effective configuration and exit");
  app.add_option("--fault", flags.faults)->group("");
  app.add_flag("--list-faults", flags.list_faults)->group("");
  app.set_version_flag("--version", fmt::format("caissond {}", kVersion));
  CLI11_PARSE(app, argc, argv);
  if (flags.list_faults) {
    for (std::string_view fault : kFaultPoints) puts(std::string(fault).c_str());
    return 0;
  }
  auto config = EffectiveConfig(flags);
  if (!config) {
    fmt::print(stderr, "caissond: {}\n", config.error().message);
    return 2;
  }
  if (flags.print_config) fmt::print("{}", FormatConfig(*config));
  if (flags.check_config || flags.print_config) return 0;
  if (geteuid() != 0) {
    fmt::print(stderr, "caissond: must be started as root: it makes namespaces, cgroups and mounts for pods\n");
    return 1;
  }
  SetLogLevel(*config);
  PrepareProcess();
  if (auto ran = Run(flags, *config); !ran) {
    log::Error("{}", ran.error().message);
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace caisson::cri

int main(int argc, char** argv) { return caisson::cri::Main(argc, argv); }
