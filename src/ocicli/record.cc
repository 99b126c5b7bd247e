// SPDX-License-Identifier: Apache-2.0
#include "ocicli/record.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/id.h"
#include "base/limits.h"
#include "base/strings.h"
#include "oci/cgroup.h"
#include "oci/json_reader.h"
#include "sys/new_file.h"
#include "sys/path.h"
#include "sys/proc_text.h"

namespace caisson::ocicli {
namespace {

constexpr size_t kRecordBytes = limits::kJsonBytes;
constexpr int kGateBacklog = 64;

Json MarkJson(const ProcessMark& mark) { return {{"pid", mark.pid}, {"start", mark.start}}; }

Result<> ReadMark(const oci::JsonReader& reader, const char* key, ProcessMark* mark) {
  return reader.Object(key, [&](const oci::JsonReader& item) -> Result<> {
    TRY(item.Read("pid", &mark->pid));
    return item.Read("start", &mark->start);
  });
}

Result<Record> ParseRecord(std::string_view text) {
  Json document = TRY(ParseJson(text, kRecordBytes));
  if (!document.is_object()) return MakeError(Code::kInvalidArgument, "not a JSON object");
  oci::JsonReader reader(document, "");
  Record record;
  TRY(reader.Read("id", &record.id));
  TRY(reader.Read("bundle", &record.bundle));
  TRY(reader.Read("rootfs", &record.rootfs));
  TRY(reader.Read("created", &record.created));
  TRY(ReadMark(reader, "init", &record.init));
  TRY(ReadMark(reader, "creator", &record.creator));
  TRY(reader.Read("cgroup", &record.cgroup));
  TRY(reader.Read("systemdCgroup", &record.systemd_cgroup));
  TRY(reader.Read("rootless", &record.rootless));
  TRY(reader.Read("ownPidNamespace", &record.own_pid_namespace));
  TRY(reader.Read("owner", &record.owner));
  TRY(reader.Read("annotations", &record.annotations));
  return record;
}

// "<folder>/gate" by a name that fits into a socket address.
struct GateName {
  UniqueFd folder;
  sockaddr_un address{};
};
Result<GateName> NameGate(const std::string& path) {
  GateName name;
  name.folder = UniqueFd(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!name.folder) return ErrnoError("open '{}'", path);
  name.address.sun_family = AF_UNIX;
  std::string short_path = sys::FdPath(name.folder.get()) + "/gate";
  short_path.copy(name.address.sun_path, sizeof name.address.sun_path - 1);
  return name;
}

Result<UniqueFd> GateSocket(int extra) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | extra, 0));
  if (!socket) return ErrnoError("make a socket");
  return socket;
}

bool IsFrozen(const Record& record) {
  auto cgroup = OpenCgroup(record);
  if (!cgroup) return false;
  auto frozen = (*cgroup)->Frozen();
  return frozen && *frozen;
}

}  // namespace

const char* NameOf(Status status) {
  constexpr const char* kNames[] = {"creating", "created", "running", "paused", "stopped"};
  return kNames[static_cast<int>(status)];
}

Result<> Folder::Make() const {
  std::string root = path_.substr(0, path_.rfind('/'));
  for (size_t end = root.find('/', 1);; end = root.find('/', end + 1)) {
    std::string part = root.substr(0, end);
    // Containers with a user namespace pass through it to nothing.
    if (!part.empty() && mkdir(part.c_str(), 0711) != 0 && errno != EEXIST) return ErrnoError("make folder '{}'", part);
    if (end == std::string::npos) break;
  }
  if (mkdir(path_.c_str(), 0700) == 0) return {};
  if (errno == EEXIST) return MakeError(Code::kAlreadyExists, "container '{}' exists already", id_);
  return ErrnoError("make folder '{}'", path_);
}

Result<> Folder::Write(const Record& record) const {
  Json document = {{"id", record.id},
                   {"bundle", record.bundle},
                   {"rootfs", record.rootfs},
                   {"created", record.created},
                   {"init", MarkJson(record.init)},
                   {"creator", MarkJson(record.creator)},
                   {"cgroup", record.cgroup},
                   {"systemdCgroup", record.systemd_cgroup},
                   {"rootless", record.rootless},
                   {"ownPidNamespace", record.own_pid_namespace},
                   {"owner", record.owner},
                   {"annotations", record.annotations}};
  return sys::ReplaceFile(path_ + "/state.json", DumpJson(document), 0600);
}

Result<> Folder::WriteConfig(std::string_view text) const { return sys::ReplaceFile(config_path(), text, 0600); }

Result<Record> Folder::Read() const {
  if (!IsSafeName(id_)) return MakeError(Code::kInvalidArgument, "'{}' cannot be a container's id", id_.substr(0, 128));
  auto text = sys::ReadFile(path_ + "/state.json", kRecordBytes);
  if (!text && text.error().sys_errno == ENOENT) {
    if (access(path_.c_str(), F_OK) != 0) return MakeError(Code::kNotFound, "container '{}' does not exist", id_);
    return MakeError(Code::kDataLoss, "container '{}' is half made; delete it", id_);
  }
  if (!text) return std::move(text.error());
  auto record = ParseRecord(*text);
  if (!record) return std::move(record.error()).Within(fmt::format("state of container '{}'", id_));
  return record;
}

Result<> Folder::Remove() const {
  DIR* opened = opendir(path_.c_str());
  if (opened == nullptr) {
    if (errno == ENOENT) return {};
    return ErrnoError("open folder '{}'", path_);
  }
  std::unique_ptr<DIR, int (*)(DIR*)> stream(opened, closedir);
  // The record last: without it nobody knows what else there is.
  while (dirent* entry = readdir(opened)) {
    if (std::string_view(entry->d_name) != "state.json") unlinkat(dirfd(opened), entry->d_name, 0);
  }
  unlinkat(dirfd(opened), "state.json", 0);
  if (rmdir(path_.c_str()) != 0 && errno != ENOENT) return ErrnoError("remove folder '{}'", path_);
  return {};
}

Result<UniqueFd> Folder::ListenAtGate() const {
  GateName name = TRY(NameGate(path_));
  UniqueFd socket = TRY(GateSocket(0));
  if (bind(socket.get(), reinterpret_cast<sockaddr*>(&name.address), sizeof name.address) != 0 ||
      listen(socket.get(), kGateBacklog) != 0) {
    return ErrnoError("listen at '{}/gate'", path_);
  }
  return socket;
}

Result<UniqueFd> Folder::ConnectToGate() const {
  GateName name = TRY(NameGate(path_));
  UniqueFd socket = TRY(GateSocket(SOCK_NONBLOCK));
  if (connect(socket.get(), reinterpret_cast<sockaddr*>(&name.address), sizeof name.address) == 0) return socket;
  if (errno == ECONNREFUSED || errno == ENOENT) return UniqueFd();
  return ErrnoError("connect to '{}/gate'", path_);
}

Result<std::vector<std::string>> ListFolders(const std::string& root) {
  std::vector<std::string> names;
  DIR* opened = opendir(root.c_str());
  if (opened == nullptr) {
    if (errno == ENOENT) return names;
    return ErrnoError("open folder '{}'", root);
  }
  std::unique_ptr<DIR, int (*)(DIR*)> stream(opened, closedir);
  while (dirent* entry = readdir(opened)) {
    std::string_view name = entry->d_name;
    if (entry->d_type == DT_DIR && IsSafeName(name) && name[0] != '.') names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

Result<std::unique_ptr<oci::Cgroup>> OpenCgroup(const Record& record) {
  oci::CgroupOptions options;
  options.path = record.cgroup;
  options.systemd = record.systemd_cgroup;
  options.rootless = record.rootless;
  return oci::Cgroup::Open(options);
}

ProcessMark MarkOf(int pid) {
  if (pid <= 0) return {};
  auto text = sys::ReadFile(fmt::format("/proc/{}/stat", pid), 4096);
  if (!text) return {};
  constexpr size_t kStartTime = 22 - 3;
  std::vector<std::string_view> fields = sys::StatFields(*text);
  if (fields.size() <= kStartTime || fields[0] == "Z" || fields[0] == "X") return {};
  auto start = ParseUint64(fields[kStartTime]);
  return start ? ProcessMark{pid, *start} : ProcessMark{};
}

bool IsAlive(const ProcessMark& mark) {
  ProcessMark now = MarkOf(mark.pid);
  return now.pid != 0 && now.start == mark.start;
}

UniqueFd OpenProcess(const ProcessMark& mark) {
  if (mark.pid <= 0) return UniqueFd();
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, mark.pid, 0)));
  // Looked at after it is open: the number may have become another's before.
  if (pidfd && !IsAlive(mark)) pidfd.Reset();
  return pidfd;
}

Result<Status> StatusOf(const Folder& folder, const Record& record) {
  if (record.init.pid == 0) return IsAlive(record.creator) ? Status::kCreating : Status::kStopped;
  if (!IsAlive(record.init)) return Status::kStopped;
  if (IsFrozen(record)) return Status::kPaused;
  auto gate = folder.ConnectToGate();
  if (!gate && gate.error().sys_errno == EAGAIN) return Status::kCreated;  // others are looking at this moment
  if (!gate) return std::move(gate.error());
  return *gate ? Status::kCreated : Status::kRunning;
}

Json StateJson(const Record& record, Status status) {
  Json state = {{"ociVersion", "1.2.0"},
                {"id", record.id},
                {"pid", status == Status::kStopped ? 0 : record.init.pid},
                {"status", NameOf(status)},
                {"bundle", record.bundle},
                {"rootfs", record.rootfs},
                {"created", record.created},
                {"owner", record.owner}};
  if (!record.annotations.empty()) state["annotations"] = record.annotations;
  return state;
}

}  // namespace caisson::ocicli
