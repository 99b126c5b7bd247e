// SPDX-License-Identifier: Apache-2.0
//
// The containers of a VM pod with an agent that does as it likes (made-up ends, other numbers than asked for, paths, too much), and a VMM
// that fails when it is told to: what is answered, and that nothing stays attached or open.
#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "base/scope_exit.h"
#include "base/sha256.h"
#include "base/strings.h"
#include "shim/guest_tasks.h"
#include "sys/path.h"

namespace caisson::shim {
namespace {

namespace v3 = containerd::task::v3;
namespace gv1 = caisson::guest::v1;
using nlohmann::json;
using testing::HasSubstr;

constexpr int64_t kMillis = 60'000;

// What is attached, and nothing else of a VMM.
class FakeVm : public vmm::Vm {
 public:
  Result<> Attach(const vmm::Disk& disk, int64_t) override {
    if (fails_to_attach) return MakeError(Code::kInternal, "device_add: no");
    struct stat info {};
    if (fstat(disk.fd, &info) != 0 || disks.contains(disk.serial)) return MakeError(Code::kAlreadyExists, "disk '{}' cannot be attached", disk.serial);
    disks[disk.serial] = disk.read_only;
    return {};
  }
  Result<> Detach(const std::string& serial, int64_t) override {
    disks.erase(serial);
    return {};
  }
  Result<> Start(int64_t) override { return {}; }
  int pidfd() const override { return -1; }
  int pid() const override { return process; }
  Result<UniqueFd> OpenChannel(int64_t) override { return UniqueFd(); }
  Result<> Pause(int64_t) override { return {}; }
  Result<> Resume(int64_t) override { return {}; }
  Result<> Save(int, int64_t) override { return {}; }
  Result<> SetMemory(uint64_t, int64_t) override { return {}; }
  uint64_t PluggedMemory() const override { return 0; }
  Result<uint64_t> Memory(int64_t) override { return 0; }
  Result<vmm::VmMetrics> Metrics() override { return vmm::VmMetrics(); }
  void Kill() override {}
  std::string ConsoleTail(size_t) override { return ""; }
  vmm::ConsolePart Console(uint64_t) override { return {}; }
  std::string EndReason() override { return ""; }

  std::map<std::string, bool> disks;  // serial → read-only
  bool fails_to_attach = false;
  int process = 0;
};

size_t OpenFds() {
  size_t count = 0;
  for ([[maybe_unused]] auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

class GuestTasksTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/caisson-guest-tasks-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    std::ofstream(folder_ + "/layer") << "layer";
    loop_ = std::move(*sys::EventLoop::Create());
    agent_ = ttrpc::Server::Create(loop_.get());
    ServeAgent();
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    ASSERT_TRUE(agent_->Serve(UniqueFd(ends[0])));
    to_agent_.Connect(*ttrpc::Client::Create(loop_.get(), UniqueFd(ends[1])));
    tasks_ = std::make_unique<GuestTasks>(loop_.get(), &to_agent_);
    tasks_->SetVm(&vm_);
    server_ = ttrpc::Server::Create(loop_.get());
    tasks_->Register(server_.get(), [] {});
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    ASSERT_TRUE(server_->Serve(UniqueFd(ends[0])));
    client_ = *ttrpc::Client::Create(loop_.get(), UniqueFd(ends[1]));
    // The first call opens what stays open.
    (void)Call<wkt::Empty>("State", v3::StateRequest());
    fds_ = OpenFds();
  }

  void TearDown() override {
    EXPECT_TRUE(vm_.disks.empty()) << vm_.disks.begin()->first << " is still attached";
    EXPECT_EQ(OpenFds(), fds_);
    client_.reset();
    server_.reset();
    tasks_.reset();
    agent_.reset();
    std::filesystem::remove_all(folder_);
  }

  // One that does what it is asked for, if it is not told otherwise.
  void ServeAgent() {
    constexpr char kGuest[] = "caisson.guest.v1.Guest", kTask[] = "containerd.task.v3.Task";
    agent_->HandleTyped<gv1::AwaitDisksRequest, gv1::AwaitDisksResponse>(kGuest, "AwaitDisks", [this](const auto& request, auto respond) {
      if (never_shows) return respond(MakeError(Code::kDeadlineExceeded, "the disk '{}' has not appeared in the guest", request.serials(0)));
      gv1::AwaitDisksResponse response;
      for (int i = 0; i < request.serials_size() + more_disks; ++i) {
        auto* disk = response.add_disks();
        disk->set_major_number(8);
        disk->set_minor_number(static_cast<uint32_t>(16 * i));
      }
      respond(std::move(response));
    });
    agent_->HandleTyped<gv1::PrepareContainerRequest, gv1::PrepareContainerResponse>(kGuest, "PrepareContainer", [this](const auto& request, auto respond) {
      config = request.config_json();
      gv1::PrepareContainerResponse response;
      response.set_bundle("/../../etc");  // the host makes nothing of it
      respond(std::move(response));
    });
    agent_->HandleTyped<gv1::ReleaseContainerRequest, gv1::ReleaseContainerResponse>(kGuest, "ReleaseContainer", [](const auto&, auto respond) {
      gv1::ReleaseContainerResponse response;
      response.add_unused_serials("b1x1");  // nobody's
      respond(std::move(response));
    });
    agent_->HandleTyped<v3::CreateTaskRequest, v3::CreateTaskResponse>(kTask, "Create", [this](const auto&, auto respond) {
      if (fails_to_create) return respond(MakeError(Code::kInternal, "no"));
      v3::CreateTaskResponse response;
      response.set_pid(7);
      respond(std::move(response));
    });
    agent_->Handle(kTask, "Wait", [this](std::string_view payload, ttrpc::Reply reply) {
      v3::WaitRequest request;
      EXPECT_TRUE(request.ParseFromArray(payload.data(), static_cast<int>(payload.size())));
      waits_[request.id()] = std::move(reply);
    });
    agent_->Handle(kTask, "Delete", [this](std::string_view, ttrpc::Reply reply) {
      End(v3::WaitResponse());
      reply(v3::DeleteResponse().SerializeAsString());
    });
    agent_->HandleTyped<gv1::PutFilesRequest, gv1::PutFilesResponse>(kGuest, "PutFiles", [this](const auto& request, auto respond) {
      ++puts;
      if (fails_to_put) return respond(MakeError(Code::kResourceExhausted, "no space left in the guest"));
      auto& files = volumes[request.volume()];
      files.clear();
      for (const auto& file : request.files()) files[file.path()] = file.content();
      if (files.empty()) volumes.erase(request.volume());
      respond(gv1::PutFilesResponse());
    });
    agent_->HandleTyped<gv1::GetFileRequest, gv1::GetFileResponse>(kGuest, "GetFile", [this](const auto&, auto respond) {
      gv1::GetFileResponse response;
      response.set_content(content);
      response.set_size(size > 0 ? size : content.size());
      respond(std::move(response));
    });
    agent_->HandleTyped<pod::v1::ReadOutputRequest, pod::v1::ReadOutputResponse>("caisson.pod.v1.Pod", "ReadOutput", [this](const auto& request, auto respond) {
      pod::v1::ReadOutputResponse response;
      if (!request.stderr()) response.set_data(std::string(part_bytes, 'x'));
      response.set_ended(request.stderr());
      respond(std::move(response));
    });
    agent_->HandleTyped<pod::v1::ContainerInfoRequest, pod::v1::ContainerInfoResponse>("caisson.pod.v1.Pod", "ContainerInfo", [](const auto&, auto respond) {
      pod::v1::ContainerInfoResponse response;
      response.set_end_reason("VmmKilled");  // not the guest's to say
      respond(std::move(response));
    });
  }

  // The container's process has ended, so the agent says, once it has been asked.
  void EndWith(const v3::WaitResponse& how, const std::string& id = "a") {
    for (int i = 0; !waits_.contains(id) && i < 1000; ++i) (void)Call<wkt::Empty>("State", v3::StateRequest());
    waits_[id](how.SerializeAsString());
    waits_.erase(id);
  }
  void End(const v3::WaitResponse& how) {
    for (auto& [id, wait] : std::exchange(waits_, {})) wait(how.SerializeAsString());
  }

  template <class Response, class Request>
  Result<Response> Call(const char* method, const Request& request, const char* service = "containerd.task.v3.Task") {
    Result<std::string> answer = MakeError(Code::kInternal, "no answer");
    client_->Call(service, method, request.SerializeAsString(), kMillis, [&](Result<std::string> payload) {
      answer = std::move(payload);
      loop_->Stop();
    });
    EXPECT_TRUE(loop_->Run());
    if (!answer) return std::move(answer.error());
    Response response;
    EXPECT_TRUE(response.ParseFromString(*answer));
    return response;
  }

  static json Spec() {
    return json::parse(R"({"root": {}, "process": {"args": ["sh"]}, "mounts": [],
      "linux": {"namespaces": [{"type": "pid"}], "devices": [], "resources": {"devices": [{"allow": false, "access": "rwm"}]}}})");
  }

  Result<v3::CreateTaskResponse> Create(const std::string& id, const json& spec) {
    std::string bundle = folder_ + "/" + id;
    mkdir(bundle.c_str(), 0700);
    std::ofstream(bundle + "/config.json") << spec.dump();
    v3::CreateTaskRequest request;
    request.set_id(id);
    request.set_bundle(bundle);
    auto* layer = request.add_rootfs();
    layer->set_type("erofs");
    layer->set_source(folder_ + "/layer");
    pod::v1::CreateOptions options;
    options.set_log_path(log_path);
    if (!log_path.empty()) request.mutable_options()->set_type_url("caisson.pod.v1.CreateOptions");
    request.mutable_options()->set_value(options.SerializeAsString());
    return Call<v3::CreateTaskResponse>("Create", request);
  }

  // Until the disks are gone: the guest is asked before.
  void Delete(const std::string& id, size_t left = 0) {
    v3::DeleteRequest request;
    request.set_id(id);
    auto deleted = Call<v3::DeleteResponse>("Delete", request);
    EXPECT_TRUE(deleted) << deleted.error().message;
    Settle(left);
  }

  void Settle(size_t left = 0) {
    for (int i = 0; vm_.disks.size() > left && i < 1000; ++i) (void)Call<wkt::Empty>("State", v3::StateRequest());
    EXPECT_EQ(vm_.disks.size(), left);
  }

  // A loop device of the host's in `device`, gone with the descriptor; the test is skipped where there is none.
  void MakeDevice(UniqueFd* device, std::string* path) {
    UniqueFd file(open(folder_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)), control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    ASSERT_EQ(ftruncate(file.get(), 1 << 20), 0);
    for (int tries = 0; control && tries < 16; ++tries) {
      *path = fmt::format("/dev/loop{}", ioctl(control.get(), LOOP_CTL_GET_FREE));
      *device = UniqueFd(open(path->c_str(), O_RDWR | O_CLOEXEC));
      loop_config wanted{};
      wanted.fd = static_cast<uint32_t>(file.get());
      wanted.info.lo_flags = LO_FLAGS_AUTOCLEAR;
      if (*device && ioctl(device->get(), LOOP_CONFIGURE, &wanted) == 0) return;
      device->Reset();
    }
    GTEST_SKIP() << "no loop device to be had here";
  }

  static json WithDevice(const std::string& path, const std::string& access, const std::string& target = "/dev/block") {
    struct stat info {};
    EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
    json spec = Spec();
    spec["linux"]["devices"].push_back({{"path", target}, {"type", "b"}, {"major", major(info.st_rdev)}, {"minor", minor(info.st_rdev)}, {"hostPath", path}});
    spec["linux"]["resources"]["devices"].push_back(
        {{"allow", true}, {"type", "b"}, {"major", major(info.st_rdev)}, {"minor", minor(info.st_rdev)}, {"access", access}});
    return spec;
  }

  static json WithFile(const std::string& target, const std::string& path, const std::string& access) {
    json spec = Spec();
    spec["mounts"].push_back({{"destination", target}, {"type", "bind"}, {"source", path}, {"options", {"rbind", access}}});
    return spec;
  }

  // Until all that comes with its end has been done.
  void EndContainer(const std::string& id) {
    EndWith(v3::WaitResponse(), id);
    v3::WaitRequest wait;
    wait.set_id(id);
    EXPECT_TRUE(Call<v3::WaitResponse>("Wait", wait));
  }

  static std::string SerialOf(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
    return DiskSerial({path, major(info.st_rdev), minor(info.st_rdev), true}, 1);
  }

  std::string folder_, config, content, log_path;
  size_t part_bytes = 0;  // of each answer to who asks for output
  uint64_t size = 0;  // of the file that `content` is the beginning of; 0: it is all
  std::map<std::string, std::map<std::string, std::string>> volumes;  // that the guest has
  int puts = 0;
  bool never_shows = false, fails_to_create = false, fails_to_put = false;
  int more_disks = 0;
  FakeVm vm_;
  size_t fds_ = 0;
  std::unique_ptr<sys::EventLoop> loop_;
  std::unique_ptr<ttrpc::Server> agent_, server_;
  GuestClient to_agent_;
  std::unique_ptr<GuestTasks> tasks_;

 private:
  std::shared_ptr<ttrpc::Client> client_;
  std::map<std::string, ttrpc::Reply> waits_;  // by the container's id
};

TEST_F(GuestTasksTest, ADeviceIsOneDiskForAllContainers) {
  UniqueFd device;
  std::string path;
  MakeDevice(&device, &path);
  if (IsSkipped() || HasFatalFailure()) return;
  ASSERT_TRUE(Create("a", WithDevice(path, "rwm")));
  EXPECT_EQ(vm_.disks.size(), 2u);  // with the layer's
  ASSERT_TRUE(vm_.disks.contains(SerialOf(path)));
  EXPECT_FALSE(vm_.disks[SerialOf(path)]);
  // The guest's numbers, in the device and its rule, and nothing that names the host's.
  json given = json::parse(config)["linux"];
  EXPECT_EQ(given["devices"], json::parse(R"([{"path": "/dev/block", "type": "b", "major": 8, "minor": 0}])"));
  EXPECT_EQ(given["resources"]["devices"][1], json::parse(R"({"allow": true, "type": "b", "major": 8, "minor": 0, "access": "rwm"})"));
  EXPECT_THAT(config, Not(HasSubstr("/dev/loop")));
  ASSERT_TRUE(Create("b", WithDevice(path, "r")));
  EXPECT_EQ(vm_.disks.size(), 2u);
  Delete("a", 2);
  Delete("b");
  // Anew: a disk of another name, since the former may just be going.
  ASSERT_TRUE(Create("c", WithDevice(path, "r")));
  EXPECT_FALSE(vm_.disks.contains(SerialOf(path)));
  Delete("c");
}

TEST_F(GuestTasksTest, ReadOnlyIsReadOnlyForAll) {
  UniqueFd device;
  std::string path;
  MakeDevice(&device, &path);
  if (IsSkipped() || HasFatalFailure()) return;
  ASSERT_TRUE(Create("a", WithDevice(path, "r")));
  EXPECT_TRUE(vm_.disks[SerialOf(path)]);
  auto more = Create("b", WithDevice(path, "rw"));
  ASSERT_FALSE(more);
  EXPECT_THAT(more.error().message, HasSubstr("another container has it read-only"));
  Delete("a");
}

TEST_F(GuestTasksTest, AMadeUpEndIsMadeSense) {
  ASSERT_TRUE(Create("a", Spec()));
  v3::WaitResponse made_up;
  made_up.set_exit_status(UINT32_MAX);
  made_up.mutable_exited_at()->set_seconds(INT64_MAX);
  made_up.mutable_exited_at()->set_nanos(INT32_MAX);
  EndWith(made_up);
  v3::WaitRequest wait;
  wait.set_id("a");
  auto ended = Call<v3::WaitResponse>("Wait", wait);
  ASSERT_TRUE(ended) << ended.error().message;
  EXPECT_EQ(ended->exit_status(), 255u);
  EXPECT_LE(ended->exited_at().seconds(), time(nullptr));
  EXPECT_GT(ended->exited_at().seconds(), time(nullptr) - 1000);
  pod::v1::ContainerInfoRequest ask;
  ask.set_container_id("a");
  auto info = Call<pod::v1::ContainerInfoResponse>("ContainerInfo", ask, "caisson.pod.v1.Pod");
  ASSERT_TRUE(info) << info.error().message;
  EXPECT_EQ(info->end_reason(), "");
  Delete("a");
}

// Whatever the agent says of a process's output, its end is told, and what is taken has a bound.
TEST_F(GuestTasksTest, OutputWithoutEnd) {
  log_path = folder_ + "/log";
  struct {
    size_t part, most;
  } cases[] = {{512 << 10, 64 << 20}, {(512 << 10) + 1, 0}, {3 << 20, 0}};
  for (auto [part, most] : cases) {
    part_bytes = part;
    ASSERT_TRUE(Create("a", Spec()));
    EndContainer("a");
    EXPECT_LE(std::filesystem::file_size(log_path), most) << part;
    Delete("a");
    auto size = std::filesystem::file_size(log_path);
    for (int i = 0; i < 20; ++i) (void)Call<wkt::Empty>("State", v3::StateRequest());
    EXPECT_EQ(std::filesystem::file_size(log_path), size);
    std::filesystem::remove(log_path);
  }
}

// What a container writes into a file of the host's is brought back: no more of it than was asked for, to nowhere else
// (CVE-2026-41326), and whole or not at all.
TEST_F(GuestTasksTest, AFileIsBroughtBackWholeOrNotAtAll) {
  const std::string path = folder_ + "/message", most(limits::kBringBackBytes, 'x'), was(2 * limits::kBringBackBytes, 'w');
  struct {
    std::string content;
    uint64_t size;
    std::string wanted;
  } cases[] = {{"xxx", 0, "xxx"}, {"", 0, ""}, {most, 0, most}, {most + "x", 0, was}, {most, most.size() + 1, was}, {"x", UINT64_MAX, was}};
  for (const auto& one : cases) {
    std::ofstream(path) << was;
    ASSERT_TRUE(Create("a", WithFile("/message", path, "rw")));
    content = one.content;
    size = one.size;
    EndContainer("a");
    EXPECT_TRUE(*sys::ReadFile(path, 1 << 20) == one.wanted) << one.content.size() << " of " << one.size;
    Delete("a");
  }
}

// What nobody in the guest has changed, the host may have changed since.
TEST_F(GuestTasksTest, AFileThatHasNotChangedIsNotWritten) {
  const std::string path = folder_ + "/message";
  std::ofstream(path) << (content = "as it was");
  ASSERT_TRUE(Create("a", WithFile("/message", path, "rw")));
  std::ofstream(path) << "the host's since";
  EndContainer("a");
  EXPECT_EQ(*sys::ReadFile(path, 1 << 20), "the host's since");
  Delete("a");
}

// A container that is created later has the file as it is then: a sub path of a Secret when its container is started again.
TEST_F(GuestTasksTest, AFileIsBroughtAnewForEachContainer) {
  const std::string path = folder_ + "/key", volume = HexEncode(Sha256(path)).substr(0, 32);
  std::ofstream(path) << "one";
  ASSERT_TRUE(Create("a", WithFile("/key", path, "ro")));
  EXPECT_EQ(volumes[volume][kSingleFile], "one");
  std::ofstream(path + ".new") << "two";
  std::filesystem::rename(path + ".new", path);
  ASSERT_TRUE(Create("b", WithFile("/key", path, "rw")));
  EXPECT_EQ(volumes[volume][kSingleFile], "two");
  // The same once more is not sent, and what a container has made of it meanwhile stays.
  volumes[volume][kSingleFile] = "changed in there";
  ASSERT_TRUE(Create("c", WithFile("/key", path, "ro")));
  EXPECT_EQ(volumes[volume][kSingleFile], "changed in there");
  EXPECT_EQ(puts, 2);
  // Brought back into the one that is there now, although the container that came last may not write.
  content = "changed in there";
  EndContainer("b");
  EXPECT_EQ(*sys::ReadFile(path, 100), "changed in there");
  Delete("a", 1);
  Delete("b", 1);
  EXPECT_TRUE(volumes.contains(volume));
  Delete("c");
  (void)Call<wkt::Empty>("State", v3::StateRequest());
  EXPECT_TRUE(volumes.empty()) << "it goes with the last that has it";
}

TEST_F(GuestTasksTest, AFolderThatIsCopiedGoesWithTheLastThatHasIt) {
  const std::string path = folder_ + "/secret", volume = HexEncode(Sha256(path)).substr(0, 32);
  std::filesystem::create_directories(path + "/..1");
  std::ofstream(path + "/..1/key") << "one";
  std::filesystem::create_symlink("..1", path + "/..data");
  ASSERT_TRUE(Create("a", WithFile("/secret", path, "ro")));
  ASSERT_TRUE(Create("b", WithFile("/secret", path, "ro")));
  EXPECT_EQ(puts, 1);
  EXPECT_EQ(volumes[volume]["..1/key"], "one");
  Delete("a", 1);
  EXPECT_TRUE(volumes.contains(volume));
  // What changes is brought while somebody has it, and to whom comes anew.
  std::filesystem::create_directories(path + "/..2");
  std::ofstream(path + "/..2/key") << "two";
  std::filesystem::create_symlink("..2", path + "/..new");
  std::filesystem::rename(path + "/..new", path + "/..data");
  for (int i = 0; volumes[volume]["..data"] != "..2" && i < 100'000; ++i) (void)Call<wkt::Empty>("State", v3::StateRequest());
  EXPECT_EQ(volumes[volume]["..data"], "..2");
  Delete("b");
  (void)Call<wkt::Empty>("State", v3::StateRequest());
  EXPECT_TRUE(volumes.empty());
  ASSERT_TRUE(Create("c", WithFile("/secret", path, "ro")));
  EXPECT_EQ(volumes[volume]["..2/key"], "two");
  Delete("c");
  ++fds_;  // inotify's
}

// What could not be brought whole is neither kept nor brought back.
TEST_F(GuestTasksTest, ACopyThatIsNotWholeIsNotBroughtBack) {
  const std::string path = folder_ + "/key";
  std::ofstream(path) << "one";
  ASSERT_TRUE(Create("a", WithFile("/key", path, "rw")));
  std::ofstream(path) << "two";
  fails_to_put = true;
  auto second = Create("b", WithFile("/key", path, "rw"));
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().message, HasSubstr("no space left in the guest"));
  fails_to_put = false;
  content = "tw";
  EndContainer("a");
  EXPECT_EQ(*sys::ReadFile(path, 100), "two");
  Delete("a");
}

// The VMM inherits what a daemon has (-999 under systemd); it is to go as early or as late as its containers would.
TEST_F(GuestTasksTest, TheVmmIsAsProtectedAsItsContainers) {
  int child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  auto reap = ScopeExit([&] { kill(child, SIGKILL), waitpid(child, nullptr, 0); });
  auto score = [](const std::string& pid) { return std::stoi(*sys::ReadFile(fmt::format("/proc/{}/oom_score_adj", pid), 64)); };
  const int own = std::max(0, score("self"));
  if (own > 600) GTEST_SKIP() << "this process' own oom_score_adj is " << own;
  auto spec = [&](int more) {
    json made = Spec();
    made["process"]["oomScoreAdj"] = own + more;
    return made;
  };
  SetOomScore(child, own + 7);
  vm_.process = child;
  tasks_->SetVm(&vm_);
  EXPECT_EQ(score(std::to_string(child)), own) << "a pod without containers";
  ASSERT_TRUE(Create("a", spec(300)));
  EXPECT_EQ(score(std::to_string(child)), own + 300);
  ASSERT_TRUE(Create("b", spec(100)));
  EXPECT_EQ(score(std::to_string(child)), own + 100);
  ASSERT_TRUE(Create("c", spec(200)));
  EXPECT_EQ(score(std::to_string(child)), own + 100);
  fails_to_create = true;
  ASSERT_FALSE(Create("d", spec(50)));
  EXPECT_EQ(score(std::to_string(child)), own + 100) << "of one that has never been";
  fails_to_create = false;
  // Those that have ended do not count, and when all have it stays.
  EndContainer("b");
  EXPECT_EQ(score(std::to_string(child)), own + 200);
  EndContainer("c");
  EndContainer("a");
  EXPECT_EQ(score(std::to_string(child)), own + 300);
  Delete("a", 1);
  Delete("b", 1);
  Delete("c");
  vm_.process = 0;
}

TEST_F(GuestTasksTest, WhatFailsLeavesNoDisk) {
  UniqueFd device;
  std::string path;
  MakeDevice(&device, &path);
  if (IsSkipped() || HasFatalFailure()) return;
  auto failed = [&](const json& spec, const char* words) {
    auto made = Create("a", spec);
    EXPECT_FALSE(made);
    EXPECT_THAT(made ? "made" : made.error().message, HasSubstr(words));
    Settle();
  };
  vm_.fails_to_attach = true;
  failed(WithDevice(path, "rw"), "device_add");
  vm_.fails_to_attach = false;
  never_shows = true;
  failed(WithDevice(path, "rw"), "has not appeared");
  never_shows = false;
  fails_to_create = true;
  failed(WithDevice(path, "rw"), "no");
  fails_to_create = false;
  // What a hostile agent answers.
  more_disks = 1;
  failed(WithDevice(path, "rw"), "2 disks instead of 1");
  more_disks = -1;
  failed(WithDevice(path, "rw"), "0 disks instead of 1");
  more_disks = 0;
  json gone = WithDevice(path, "rw");
  gone["linux"]["devices"][0]["hostPath"] = folder_ + "/no-such-device";
  failed(gone, "no such file");
  // Another device has its name by now, or something that is none.
  json other = WithDevice(path, "rw");
  other["linux"]["devices"][0]["minor"] = 1000;
  failed(other, "any more");
  other = WithDevice(path, "rw");
  other["linux"]["devices"][0]["hostPath"] = folder_ + "/layer";
  failed(other, "any more");
  int yes = 1, no = 0;
  ASSERT_EQ(ioctl(device.get(), BLKROSET, &yes), 0);
  failed(WithDevice(path, "rw"), "for writing");
  ASSERT_EQ(ioctl(device.get(), BLKROSET, &no), 0) << "it would stay so for the next who uses " << path;
  ASSERT_TRUE(Create("a", WithDevice(path, "r")));
  Delete("a");
}

}  // namespace
}  // namespace caisson::shim
