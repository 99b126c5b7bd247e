// SPDX-License-Identifier: Apache-2.0
#include "task/checkpoint.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/limits.h"
#include "criu/seccomp.pb.h"
#include "sys/cgroup.h"
#include "sys/mountinfo.h"
#include "sys/path.h"
#include "task/criu.h"

namespace caisson::task {
namespace {

constexpr const char* kDescriptors = "/descriptors.json";
constexpr const char* kMounts = "/mounts.json";
constexpr uint32_t kGhostBytes = 64 << 20;  // of an open file that was removed
constexpr uint32_t kSeizeSeconds = 30;
constexpr size_t kLinkBytes = 4096;

Result<UniqueFd> OpenFolder(const std::string& path) {
  if (!path.starts_with('/')) return MakeError(Code::kInvalidArgument, "the checkpoint's folder '{}' is not absolute", path.substr(0, 256));
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return ErrnoError("open the checkpoint's folder '{}'", path);
  return fd;
}

Result<> WriteJson(int images, const char* path, const Json& json) {
  UniqueFd file(openat(images, path + 1, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  std::string text = DumpJson(json);
  if (!file || write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return ErrnoError("write the checkpoint's '{}'", path + 1);
  return {};
}

// criu's name of a descriptor whose file is in no mount of the container: the host's null device, which a container has for
// stdio that nobody wanted (oci/init.cc).
Result<std::string> NameOfOutside(int pid, int number, const std::vector<sys::MountInfo>& mounts) {
  struct stat info {};
  const std::string link = fmt::format("/proc/{}/fd/{}", pid, number);
  if (stat(link.c_str(), &info) != 0 || !S_ISCHR(info.st_mode)) return std::string();
  std::string text = TRY(sys::ReadFile(fmt::format("/proc/{}/fdinfo/{}", pid, number), kLinkBytes));
  size_t at = text.find("mnt_id:");
  int64_t id = at == std::string::npos ? -1 : std::strtoll(text.c_str() + at + 7, nullptr, 10);
  bool inside = std::any_of(mounts.begin(), mounts.end(), [&](const sys::MountInfo& mount) { return mount.id == id; });
  return inside || id < 0 ? std::string() : fmt::format("file[{:x}:{:x}]", id, info.st_ino);
}

Result<> NameDescriptors(int images, int pid, criu::Options* options) {
  auto mounts = TRY(sys::ReadMountInfo(fmt::format("/proc/{}/mountinfo", pid)));
  Json links = Json::array();
  for (int number = 0; number < 3; ++number) {
    char target[kLinkBytes];
    ssize_t length = readlink(fmt::format("/proc/{}/fd/{}", pid, number).c_str(), target, sizeof target);
    std::string name = TRY(NameOfOutside(pid, number, mounts));
    links.push_back(!name.empty() ? name : length > 0 ? std::string(target, static_cast<size_t>(length)) : std::string());
    if (!name.empty()) options->add_external(name);
  }
  return WriteJson(images, kDescriptors, links);
}

// What stdio of the dumped init becomes the new one's: pipes, and what was outside; all else is a file of the container's own.
Result<> InheritStdio(const std::string& images_path, criu::Options* options) {
  Json links = TRY(ParseJson(TRY(sys::ReadFile(images_path + kDescriptors, 3 * kLinkBytes))));
  if (!links.is_array() || links.size() > 3) return MakeError(Code::kInvalidArgument, "the checkpoint's descriptors.json is none");
  for (int number = 0; number < static_cast<int>(links.size()); ++number) {
    if (!links[static_cast<size_t>(number)].is_string()) return MakeError(Code::kInvalidArgument, "the checkpoint's descriptors.json is none");
    const auto& link = links[static_cast<size_t>(number)].get_ref<const std::string&>();
    if (!link.starts_with("pipe:[") && !link.starts_with("file[")) continue;
    // Several descriptors may be one.
    bool known = std::any_of(options->inherit_fd().begin(), options->inherit_fd().end(), [&](const criu::InheritFd& other) { return other.key() == link; });
    if (known) continue;
    criu::InheritFd& inherit = *options->add_inherit_fd();
    inherit.set_key(link);
    inherit.set_fd(oci::kRestorerStdio + number);
  }
  return {};
}

// All mounts but the root and those of a procfs, which a restored process has of its own PID namespace.
Result<> NameMounts(int images, int pid, criu::Options* options) {
  Json names = Json::array();
  for (const auto& mount : TRY(sys::ReadMountInfo(fmt::format("/proc/{}/mountinfo", pid)))) {
    if (mount.mount_point == "/" || mount.fs_type == "proc") continue;
    criu::ExternalMount& external = *options->add_ext_mnt();
    external.set_key(mount.mount_point);
    external.set_val(mount.mount_point);
    names.push_back(mount.mount_point);
  }
  return WriteJson(images, kMounts, names);
}

// For an answer that the pod's owner understands: criu itself tells only numbers. Archives of others have no such list.
Result<> CheckMountsAreThere(const std::string& images_path, const criu::Options& options) {
  auto text = sys::ReadFile(images_path + kMounts, limits::kJsonBytes);
  if (!text) return {};
  Json names = TRY(ParseJson(*text));
  for (const Json& name : names) {
    bool there = std::any_of(options.ext_mnt().begin(), options.ext_mnt().end(), [&](const criu::ExternalMount& mount) { return name == mount.key(); });
    if (!there) return MakeError(Code::kFailedPrecondition, "the checkpoint has a mount on '{}' and the container has none there", name.is_string() ? name.get<std::string>().substr(0, 256) : "");
  }
  return {};
}

Result<> FindMounts(const oci::Container& container, criu::Options* options) {
  const std::string& root = container.root_path();
  for (const auto& mount : TRY(sys::ReadMountInfo(fmt::format("/proc/{}/mountinfo", container.init().pid)))) {
    if (!mount.mount_point.starts_with(root + "/") || mount.fs_type == "proc") continue;
    criu::ExternalMount& external = *options->add_ext_mnt();
    external.set_key(mount.mount_point.substr(root.size()));
    external.set_val(mount.mount_point);
  }
  return {};
}

void SetCommon(int images, criu::Options* options) {
  options->set_images_dir_fd(images);
  options->set_log_level(2);
  options->set_file_locks(true);
  // Connections are not carried over: their other ends go on without us.
  options->set_tcp_close(true);
  options->set_ext_sharing(true);
  options->set_ext_masters(true);
  options->set_manage_cgroups_mode(criu::IGNORE);
  options->set_ghost_limit(kGhostBytes);
  options->set_notify_scripts(true);
}

Result<> CheckDumpable(const Task& task) {
  auto refuse = [&](const char* why) { return MakeError(Code::kFailedPrecondition, "container '{}' cannot be checkpointed: {}", task.id, why); };
  if (task.init.exited || task.init.started_at_nanos == 0) return refuse("it is not running");
  if (task.paused) return refuse("it is paused");
  if (!task.container->cgroup()->IsV2()) return refuse("that needs cgroup v2");
  if (task.init.stdio.terminal) return refuse("it has a terminal");
  const oci::Spec& spec = task.container->spec();
  if (spec.FindNamespace(CLONE_NEWUSER) != nullptr) return refuse("it is in a user namespace");
  const auto* space = spec.FindNamespace(CLONE_NEWPID);
  if (space == nullptr || !space->path.empty()) return refuse("it has no PID namespace of its own");
  return {};
}

// The container may be removed meanwhile: it is looked up by its id each time.
struct DumpState {
  Tasks* tasks;
  sys::EventLoop* loop;
  std::string id;
  int64_t hold_millis;
  bool held = false;
  UniqueFd images, work;  // criu opens them through our descriptors
};

Result<> Hold(DumpState& state) {
  Task* task = TRY(state.tasks->Find(state.id));
  TRY(state.tasks->Pause(task));
  state.held = true;
  // Whoever asked may be gone by then.
  state.loop->After(state.hold_millis, [tasks = state.tasks, id = state.id, hold = ++task->holds] {
    auto found = tasks->Find(id);
    if (found && (*found)->paused && (*found)->holds == hold) (void)tasks->Resume(*found);
  });
  return {};
}

Result<CriuCall::Setup> StartDump(Task* task, const CheckpointRequest& request, DumpState* state, criu::Options* options) {
  TRY(CheckDumpable(*task));
  std::string criu = TRY(FindCriu(request.criu_path));
  state->images = TRY(OpenFolder(request.images_path));
  state->work = TRY(OpenFolder(request.work_path.empty() ? request.images_path : request.work_path));
  TRY(NameDescriptors(state->images.get(), task->init.oci.pid, options));
  TRY(NameMounts(state->images.get(), task->init.oci.pid, options));
  auto sockets = TRY(MakeCriuSockets());
  auto process = TRY(task->container->StartDumper(criu, std::move(sockets.criu)));
  CriuCall::Setup setup;
  setup.socket = std::move(sockets.ours);
  setup.pidfd = std::move(process.pidfd);
  setup.log_path = (request.work_path.empty() ? request.images_path : request.work_path) + "/dump.log";
  setup.deadline_millis = request.deadline_millis > 0 ? request.deadline_millis : limits::kCheckpointMillis;
  return setup;
}

Result<> CheckSeccomp(const Task& task) {
  if (task.container->filter() == nullptr) return {};
  auto image = sys::ReadFile(task.checkpoint + "/seccomp.img", limits::kCriuImageBytes);
  // No image, no filters: then the processes have none, which is seen by their status.
  if (!image && image.error().sys_errno == ENOENT) return {};
  if (!image) return std::move(image.error());
  return CheckFilters(*image, *task.container->filter());
}

Result<criu::Request> RestoreRequest(const Task& task, int images) {
  criu::Request request;
  request.set_type(criu::RESTORE);
  criu::Options& options = *request.mutable_opts();
  SetCommon(images, &options);
  options.set_work_dir_fd(images);
  options.set_log_file("restore.log");
  options.set_root(task.container->root_path());
  options.set_rst_sibling(true);
  TRY(InheritStdio(task.checkpoint, &options));
  TRY(FindMounts(*task.container, &options));
  TRY(CheckMountsAreThere(task.checkpoint, options));
  return request;
}

}  // namespace

Result<std::string> FindCriu(const std::string& path) {
  if (!path.empty()) {
    if (access(path.c_str(), X_OK) == 0) return path;
    return MakeError(Code::kFailedPrecondition, "criu is not at '{}'", path);
  }
  for (const char* folder : {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}) {
    std::string found = std::string(folder) + "/criu";
    if (access(found.c_str(), X_OK) == 0) return found;
  }
  return MakeError(Code::kFailedPrecondition, "criu is not installed");
}

Result<> CheckImages(const std::string& path) {
  TRY(OpenFolder(path));
  if (!sys::IsPureV2()) return MakeError(Code::kFailedPrecondition, "restoring a checkpoint needs cgroup v2");
  return {};
}

void Dump(Tasks* tasks, sys::EventLoop* loop, Task* task, const CheckpointRequest& asked, std::function<void(Result<>)> done) {
  auto state = std::make_shared<DumpState>(DumpState{tasks, loop, task->id, asked.hold_millis, false, {}, {}});
  criu::Request request;
  request.set_type(criu::DUMP);
  criu::Options& options = *request.mutable_opts();
  auto setup = StartDump(task, asked, state.get(), &options);
  if (!setup) return done(std::move(setup.error()));
  SetCommon(state->images.get(), &options);
  options.set_work_dir_fd(state->work.get());
  options.set_log_file("dump.log");
  options.set_pid(task->init.oci.pid);
  options.set_leave_running(true);
  options.set_timeout(kSeizeSeconds);
  setup->loop = loop;
  setup->on_notify = [state](const criu::Notification& notification) -> Result<> {
    if (notification.script() == "post-dump" && state->hold_millis > 0) return Hold(*state);
    return {};
  };
  setup->done = [state, done = std::move(done)](Result<criu::Response> outcome) {
    if (outcome) return done({});
    auto found = state->tasks->Find(state->id);
    if (state->held && found && (*found)->paused) (void)state->tasks->Resume(*found);
    done(std::move(outcome.error()));
  };
  CriuCall::Start(std::move(*setup), request);
}

void Restore(Tasks* tasks, sys::EventLoop* loop, Task* task, std::function<void(Result<>)> done) {
  auto images = OpenFolder(task->checkpoint);
  if (!images) return done(std::move(images.error()));
  if (auto checked = CheckSeccomp(*task); !checked) return done(std::move(checked.error()));
  auto request = RestoreRequest(*task, images->get());
  if (!request) return done(std::move(request.error()));
  CriuCall::Setup setup;
  setup.loop = loop;
  setup.socket = std::move(task->restorer);
  setup.pidfd = UniqueFd(fcntl(task->container->init().pidfd.get(), F_DUPFD_CLOEXEC, 3));
  setup.deadline_millis = limits::kCheckpointMillis;
  setup.log_path = task->checkpoint + "/restore.log";
  auto keep = std::make_shared<UniqueFd>(std::move(*images));
  setup.on_notify = [tasks, id = task->id, pid = 0](const criu::Notification& notification) mutable -> Result<> {
    if (notification.pid() > 0) pid = notification.pid();  // not all of them tell it
    // The last word before they run: all is in place, and each stands still.
    if (notification.script() != "pre-resume") return {};
    Task* task = TRY(tasks->Find(id));
    auto adopted = task->container->Adopt(pid);
    // criu would let them go all the same.
    if (!adopted) (void)task->container->cgroup()->Signal(SIGKILL);
    if (adopted) task->init.oci.pid = pid;
    return adopted;
  };
  setup.done = [tasks, id = task->id, keep, done = std::move(done)](Result<criu::Response> outcome) {
    auto found = tasks->Find(id);
    if (outcome && found && (*found)->container->init().pid != outcome->restore().pid()) outcome = MakeError(Code::kInternal, "criu restored another process than it said");
    if (outcome) return done({});
    if (found) (void)(*found)->container->cgroup()->Signal(SIGKILL);
    done(std::move(outcome.error()));
  };
  CriuCall::Start(std::move(setup), *request);
}

Result<> CheckFilters(std::string_view image, const oci::SeccompFilter& filter) {
  auto refuse = [](const char* why) { return MakeError(Code::kPermissionDenied, "the checkpoint is not restored: {}", why); };
  uint32_t length = 0;
  constexpr size_t kHead = 12;
  if (image.size() >= kHead) std::memcpy(&length, image.data() + 8, sizeof length);
  criu::SeccompFilters filters;
  if (image.size() < kHead || image.size() - kHead != length || !filters.ParseFromArray(image.data() + kHead, static_cast<int>(length))) {
    return refuse("its seccomp.img is none");
  }
  for (int i = 0; i < filters.filters_size(); ++i) {
    const criu::SeccompFilter& one = filters.filters(i);
    // An earlier entry of the file, as criu writes it: every process's chain, wherever it begins, ends at one without.
    if (one.has_prev() && one.prev() >= static_cast<uint32_t>(i)) return refuse("its seccomp filters are in no order");
    if (!one.has_prev() && one.filter() != filter.bpf) return refuse("its seccomp filter is not the container's");
  }
  return {};
}

}  // namespace caisson::task
