// SPDX-License-Identifier: Apache-2.0
#include "shim/warm_up.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/stat.h>

#include <csignal>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/json.h"
#include "base/unique_fd.h"
#include "caisson/guest/v1/guest.pb.h"
#include "containerd/task_v3.pb.h"
#include "shim/guest_spec.h"
#include "task/process.h"

namespace caisson::shim {
namespace {

namespace v3 = containerd::task::v3;

constexpr int64_t kStepMillis = 30'000;
// The more often the less is left to translate; the first command in the first container still gains by the third.
constexpr int kRounds = 3;
constexpr char kSerial[] = "warmup";
constexpr char kVolume[] = "warm-up.0";  // goes with the container, as all of its name and a dot
constexpr size_t kRehearsalEntropyBytes = 64;

// What most containers have, as MakeGuestSpec would leave it: what is not in here is new to the guest when the first container has it.
constexpr char kConfig[] = R"({
  "ociVersion": "1.2.0",
  "annotations": {"io.kubernetes.cri.container-type": "container"},
  "root": {"path": "rootfs", "readonly": false},
  "process": {
    "cwd": "/", "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=warm-up"], "terminal": false, "noNewPrivileges": false, "oomScoreAdj": 0,
    "user": {"uid": 0, "gid": 0, "additionalGids": [0]}
  },
  "mounts": [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/etc/warm-up", "type": "bind", "source": "/run/caisson/volumes/warm-up.0/file", "options": ["rbind", "rprivate", "rw"]},
    {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
  ],
  "linux": {
    "cgroupsPath": "/pod/warm-up",
    "namespaces": [{"type": "mount"}, {"type": "cgroup"}, {"type": "pid"}],
    "resources": {"devices": [
      {"allow": false, "access": "rwm"},
      {"allow": true, "type": "c", "access": "m"},
      {"allow": true, "type": "b", "access": "m"},
      {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
      {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
      {"allow": true, "type": "c", "major": 1, "minor": 8, "access": "rwm"},
      {"allow": true, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
      {"allow": true, "type": "c", "major": 136, "access": "rwm"}
    ]},
    "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
    "readonlyPaths": ["/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
  }
})";
constexpr const char* kCapabilities[] = {"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE"};

Result<std::string> Config(const pod::v1::WarmUpRequest& request) {
  Json spec = TRY(ParseJson(kConfig));
  Json& process = spec["process"];
  process["args"] = std::vector<std::string>(request.args().begin(), request.args().end());
  for (const char* set : {"bounding", "effective", "permitted"}) process["capabilities"][set] = kCapabilities;
  return DumpJson(spec);
}

// A filter that lets everything pass.
std::string Filter() {
  const sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  return {reinterpret_cast<const char*>(&allow), sizeof allow};
}

class Steps : public std::enable_shared_from_this<Steps> {
 public:
  Steps(pod::v1::WarmUpRequest request, GuestClient* client, vmm::Vm* vm, std::function<void(Result<>)> done)
      : request_(std::move(request)), client_(client), vm_(vm), done_(std::move(done)) {}

  void Begin() {
    guest::v1::ConfigureRequest configure;
    configure.set_rehearsal(true);
    configure.set_now_nanos(NowNanos());
    configure.set_entropy(std::string(kRehearsalEntropyBytes, '\0'));
    guest::v1::PutFilesRequest put;
    put.set_volume(kVolume);
    put.set_commit(true);
    auto* file = put.add_files();
    file->set_path(kSingleFile);
    file->set_mode(S_IFREG | 0644);
    auto config = Config(request_);
    if (!config) return done_(std::move(config.error()));
    auto prepare = Named<guest::v1::PrepareContainerRequest>();
    prepare.set_config_json(std::move(*config));
    prepare.mutable_seccomp()->set_bpf(Filter());
    prepare.add_layer_serials(kSerial);
    prepare.set_deadline_millis(kStepMillis);
    steps_ = {{guest_service::kGuest, "Configure", configure.SerializeAsString()},
              {guest_service::kGuest, "PutFiles", put.SerializeAsString()},
              {guest_service::kGuest, "PrepareContainer", prepare.SerializeAsString()}};
    Next(0, [self = shared_from_this()](const std::string& answer) {
      guest::v1::PrepareContainerResponse prepared;
      if (!prepared.ParseFromString(answer)) return self->done_(MakeError(Code::kInternal, "the guest's answer does not parse"));
      self->Create(prepared);
    });
  }

 private:
  struct Step {
    std::string_view service;
    const char* method;
    std::string payload;
  };

  void Create(const guest::v1::PrepareContainerResponse& prepared) {
    auto create = Named<v3::CreateTaskRequest>();
    create.set_bundle(prepared.bundle());
    auto* rootfs = create.add_rootfs();
    rootfs->set_type(prepared.rootfs().type());
    rootfs->set_source(prepared.rootfs().source());
    for (const auto& option : prepared.rootfs().options()) rootfs->add_options(option);
    create.set_stdout(task::kBufferPath);
    create.set_stderr(task::kBufferPath);
    pod::v1::ReadOutputRequest read;
    read.set_container_id(kWarmUpContainer);
    read.set_max_bytes(1024);
    read.set_no_wait(true);
    pod::v1::ExecSyncRequest exec;
    exec.set_container_id(kWarmUpContainer);
    *exec.mutable_args() = request_.exec_args();
    exec.set_timeout_nanos(kStepMillis * kNanosPerMilli / 2);
    exec.set_limit_bytes(1024);
    auto kill = Named<v3::KillRequest>();
    kill.set_signal(SIGKILL);
    steps_ = {{guest_service::kTask, "Create", create.SerializeAsString()},
              {guest_service::kTask, "Start", Named<v3::StartRequest>().SerializeAsString()},
              {guest_service::kPod, "ReadOutput", read.SerializeAsString()},
              {guest_service::kPod, "ExecSync", exec.SerializeAsString()},
              {guest_service::kTask, "Kill", kill.SerializeAsString()},
              {guest_service::kTask, "Wait", Named<v3::WaitRequest>().SerializeAsString()},
              {guest_service::kTask, "Delete", Named<v3::DeleteRequest>().SerializeAsString()},
              {guest_service::kGuest, "ReleaseContainer", Named<guest::v1::ReleaseContainerRequest>().SerializeAsString()}};
    Next(0, [self = shared_from_this()](const std::string&) {
      if (--self->rounds_ > 0) return self->Begin();
      self->done_(self->vm_->Detach(kSerial, kStepMillis));
    });
  }

  template <class Request>
  static Request Named() {
    Request request;
    request.set_id(kWarmUpContainer);
    return request;
  }

  // One after the other; `last` hears the last one's answer.
  void Next(size_t at, std::function<void(const std::string&)> last) {
    const Step& step = steps_[at];
    client_->Call(step.service, step.method, step.payload, kStepMillis, [self = shared_from_this(), at, last = std::move(last)](Result<std::string> answer) {
      if (!answer) return self->done_(std::move(answer.error()).Within(self->steps_[at].method));
      if (at + 1 < self->steps_.size()) return self->Next(at + 1, last);
      last(*answer);
    });
  }

  const pod::v1::WarmUpRequest request_;
  GuestClient* client_;
  vmm::Vm* vm_;
  std::function<void(Result<>)> done_;
  std::vector<Step> steps_;
  int rounds_ = kRounds;
};

}  // namespace

void RunWarmUp(const pod::v1::WarmUpRequest& request, GuestClient* client, vmm::Vm* vm, std::function<void(Result<>)> done) {
  UniqueFd disk(open(request.disk().c_str(), O_RDONLY | O_CLOEXEC));
  auto attached = disk ? vm->Attach({kSerial, disk.get(), true}, kStepMillis) : Result<>(ErrnoError("open '{}'", request.disk()));
  if (!attached) return done(std::move(attached.error()));
  std::make_shared<Steps>(request, client, vm, std::move(done))->Begin();
}

}  // namespace caisson::shim
