// SPDX-License-Identifier: Apache-2.0
//
// The life of pods and containers against made-up companions: every step failing, repeated and concurrent calls, a daemon
// that is replaced by another.
#include "cri/rpc/fakes_test.h"

#include "cri/exits.h"
#include "cri/recovery.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

namespace caisson::cri {
namespace {

using testing::HasSubstr;

// One daemon: all of a Context, without its socket.
struct Daemon {
  Daemon(const Config& the_config, World* world, std::shared_ptr<Fleet> fleet, const std::string& boot_id)
      : config(the_config),
        store(std::move(*Store::Open(config.IndexPath()))),
        images(world),
        cni(world),
        shims(MakeFakeShims(std::move(fleet))),
        pods(store.get(), Store::Table::kPods, "pod sandbox"),
        containers(store.get(), Store::Table::kContainers, "container"),
        faults(config.faults),
        context{config, pods, containers, images, cni, *shims, faults, background, boot_id, false} {
    shims->OnEnd([this](const std::string& id, bool died) {
      background.Post([this, id, died] { died ? PodDied(context, id) : PodLost(context, id); });
    });
    auto recovered = Recover(context);
    EXPECT_TRUE(recovered) << recovered.error().message;
  }
  ~Daemon() {
    background.Stop();
    shims->Stop();
  }

  Config config;
  std::unique_ptr<Store> store;
  FakeImages images;
  FakeCni cni;
  std::unique_ptr<Shims> shims;
  PodIndex pods;
  ContainerIndex containers;
  FaultPoints faults;
  Background background;
  Context context;
};

class Lifecycle : public testing::Test {
 protected:
  Lifecycle() {
    char dir[] = "/tmp/cri-life-XXXXXX";
    dir_ = mkdtemp(dir);
    config_.root = dir_ + "/root";
    config_.state = dir_ + "/state";
    config_.shim_path = "/bin/true";
    for (const char* sub : {"/root", "/state/pods", "/state/containers"}) {
      std::filesystem::create_directories(dir_ + sub);
    }
    fleet_ = MakeFleet(&world_);
    Restart();
  }
  ~Lifecycle() override {
    daemon_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Restart(std::vector<std::string> faults = {}, const std::string& boot_id = "boot-1") {
    daemon_.reset();
    config_.faults = std::move(faults);
    daemon_ = std::make_unique<Daemon>(config_, &world_, fleet_, boot_id);
  }
  Context& context() { return daemon_->context; }

  v1::RunPodSandboxRequest PodRequest(const std::string& name = "pod") {
    v1::RunPodSandboxRequest request;
    auto& config = *request.mutable_config();
    config.mutable_metadata()->set_name(name);
    config.mutable_metadata()->set_uid("uid");
    config.mutable_metadata()->set_namespace_("ns");
    config.set_log_directory(dir_ + "/logs");
    // Without a network namespace: making one takes root. The system tests do that.
    config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_network(v1::NODE);
    return request;
  }
  std::string RunPod(const std::string& name = "pod") {
    auto response = RunPodSandbox(context(), PodRequest(name));
    EXPECT_TRUE(response) << response.error().message;
    return response ? response->pod_sandbox_id() : "";
  }
  v1::CreateContainerRequest ContainerRequest(const std::string& pod, const std::string& name = "c") {
    v1::CreateContainerRequest request;
    request.set_pod_sandbox_id(pod);
    *request.mutable_sandbox_config() = PodRequest().config();
    auto& config = *request.mutable_config();
    config.mutable_metadata()->set_name(name);
    config.mutable_image()->set_image("busybox");
    config.add_command("true");
    config.set_log_path("c/0.log");
    config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_network(v1::NODE);
    return request;
  }
  std::string Create(const std::string& pod, const std::string& name = "c") {
    auto response = CreateContainer(context(), ContainerRequest(pod, name));
    EXPECT_TRUE(response) << response.error().message;
    return response ? response->container_id() : "";
  }
  Result<> Start(const std::string& id) {
    v1::StartContainerRequest request;
    request.set_container_id(id);
    TRY(StartContainer(context(), request));
    return {};
  }
  v1::ContainerStatus Status(const std::string& id) {
    v1::ContainerStatusRequest request;
    request.set_container_id(id);
    auto response = ContainerStatus(context(), request);
    EXPECT_TRUE(response) << response.error().message;
    return response ? response->status() : v1::ContainerStatus();
  }
  v1::ContainerStatus WaitExited(const std::string& id) {
    EXPECT_TRUE((*daemon_->containers.Find(id))->WaitExited(Deadline::After(60'000)));
    return Status(id);
  }
  v1::PodSandboxState PodState(const std::string& id) { return (*daemon_->pods.Find(id))->Get()->state(); }
  Result<> StopPod(const std::string& id) {
    v1::StopPodSandboxRequest request;
    request.set_pod_sandbox_id(id);
    TRY(StopPodSandbox(context(), request));
    return {};
  }
  Result<> RemovePod(const std::string& id) {
    v1::RemovePodSandboxRequest request;
    request.set_pod_sandbox_id(id);
    TRY(RemovePodSandbox(context(), request));
    return {};
  }
  Result<> Stop(const std::string& id, int64_t timeout) {
    v1::StopContainerRequest request;
    request.set_container_id(id);
    request.set_timeout(timeout);
    TRY(StopContainer(context(), request));
    return {};
  }
  void ExpectNothingLeft() {
    EXPECT_TRUE(world_.Empty());
    EXPECT_TRUE(daemon_->pods.List().empty());
    EXPECT_TRUE(daemon_->containers.List().empty());
    for (const char* sub : {"/state/pods", "/state/containers"}) {
      EXPECT_TRUE(std::filesystem::is_empty(dir_ + sub)) << sub;
    }
    for (auto table : {Store::Table::kPods, Store::Table::kContainers}) EXPECT_TRUE(daemon_->store->Load(table)->empty());
  }

  std::string dir_;
  Config config_;
  World world_;
  std::shared_ptr<Fleet> fleet_;
  std::unique_ptr<Daemon> daemon_;
};

TEST_F(Lifecycle, FromRunToRemoved) {
  std::string pod = RunPod(), container = Create(pod);
  EXPECT_EQ(Status(container).state(), v1::CONTAINER_CREATED);
  ASSERT_TRUE(Start(container));
  v1::ContainerStatus status = Status(container);
  EXPECT_EQ(status.state(), v1::CONTAINER_RUNNING);
  EXPECT_EQ(status.image_id(), "sha256:1234");
  EXPECT_EQ(status.image().image(), "docker.io/library/busybox:latest");
  EXPECT_EQ(v1::Signal_Name(status.stop_signal()), "SIGQUIT");
  EXPECT_EQ(status.log_path(), dir_ + "/logs/c/0.log");
  EndContainer(*fleet_, container, 7);
  status = WaitExited(container);
  EXPECT_EQ(status.exit_code(), 7);
  EXPECT_EQ(status.reason(), "Error");
  EXPECT_LE(status.created_at(), status.started_at());
  EXPECT_LE(status.started_at(), status.finished_at());
  ASSERT_TRUE(StopPod(pod));
  ASSERT_TRUE(StopPod(pod));
  EXPECT_EQ(PodState(pod), v1::SANDBOX_NOTREADY);
  ASSERT_TRUE(RemovePod(pod));
  ASSERT_TRUE(RemovePod(pod));
  ExpectNothingLeft();
}

TEST_F(Lifecycle, RemovingAPodEndsWhatRunsInIt) {
  std::string pod = RunPod(), container = Create(pod);
  ASSERT_TRUE(Start(container));
  ASSERT_TRUE(RemovePod(pod));
  ExpectNothingLeft();
}

TEST_F(Lifecycle, OomIsAReason) {
  std::string container = Create(RunPod());
  ASSERT_TRUE(Start(container));
  EndContainer(*fleet_, container, 137, true);
  EXPECT_EQ(WaitExited(container).reason(), "OOMKilled");
}

TEST_F(Lifecycle, StopSendsTheImagesSignalAndThenKills) {
  std::string pod = RunPod(), polite = Create(pod, "polite"), deaf = Create(pod, "deaf");
  ASSERT_TRUE(Start(polite));
  ASSERT_TRUE(Start(deaf));
  ASSERT_TRUE(Stop(polite, 60));
  EXPECT_EQ(Status(polite).exit_code(), 128 + 3);
  world_.deaf = true;
  ASSERT_TRUE(Stop(deaf, 1));
  EXPECT_EQ(Status(deaf).exit_code(), 137);
  ASSERT_TRUE(Stop(deaf, 1));
  ASSERT_TRUE(Stop("0123", 1));
}

TEST_F(Lifecycle, AShorterStopOvertakesALongerOne) {
  std::string container = Create(RunPod());
  ASSERT_TRUE(Start(container));
  world_.deaf = true;
  std::thread patient([&] { EXPECT_TRUE(Stop(container, 3600)); });
  EXPECT_TRUE(Stop(container, 0));
  patient.join();
  EXPECT_EQ(Status(container).exit_code(), 137);
}

TEST_F(Lifecycle, ARepeatedRequestGetsTheFirstsResult) {
  std::string pod = RunPod(), container = Create(pod);
  EXPECT_EQ(RunPod(), pod);
  EXPECT_EQ(Create(pod), container);
  auto other = PodRequest();
  other.mutable_config()->set_hostname("another");
  EXPECT_EQ(RunPodSandbox(context(), other).error().code, Code::kAlreadyExists);
  ASSERT_TRUE(Start(container));
  EXPECT_EQ(CreateContainer(context(), ContainerRequest(pod)).error().code, Code::kAlreadyExists);
  EXPECT_EQ(Start(container).error().code, Code::kFailedPrecondition);
}

TEST_F(Lifecycle, ManyAtOnceMakeOne) {
  std::vector<std::thread> threads;
  std::vector<std::string> ids(8);
  for (std::string& id : ids) threads.emplace_back([&] { id = RunPod(); });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& id : ids) EXPECT_EQ(id, ids[0]);
  EXPECT_EQ(world_.Count("CreateSandbox"), 1);
}

TEST_F(Lifecycle, WhatIsWrongWithARequestIsNamed) {
  auto request = PodRequest();
  request.set_runtime_handler("vm");
  EXPECT_THAT(RunPodSandbox(context(), request).error().message, HasSubstr("'vm' is configured (there are: caisson, caisson-vm)"));
  request = PodRequest();
  request.mutable_config()->mutable_metadata()->clear_name();
  EXPECT_EQ(RunPodSandbox(context(), request).error().code, Code::kInvalidArgument);
  std::string pod = RunPod();
  auto create = ContainerRequest(pod);
  create.mutable_config()->mutable_image()->set_image("none:1");
  EXPECT_THAT(CreateContainer(context(), create).error().message, HasSubstr("'none:1'"));
  create = ContainerRequest(pod);
  create.mutable_config()->set_log_path("../../etc/passwd");
  EXPECT_EQ(CreateContainer(context(), create).error().code, Code::kInvalidArgument);
  ASSERT_TRUE(StopPod(pod));
  EXPECT_EQ(CreateContainer(context(), ContainerRequest(pod)).error().code, Code::kFailedPrecondition);
}

TEST_F(Lifecycle, ExecSyncCarriesTheResult) {
  std::string container = Create(RunPod());
  v1::ExecSyncRequest request;
  request.set_container_id(container);
  request.add_cmd("echo");
  EXPECT_EQ(ExecSync(context(), request, [] { return false; }).error().code, Code::kFailedPrecondition);
  ASSERT_TRUE(Start(container));
  auto response = ExecSync(context(), request, [] { return false; });
  ASSERT_TRUE(response);
  EXPECT_EQ(response->stdout(), "echo");
  EXPECT_EQ(response->exit_code(), 3);
  request.set_cmd(0, "hang");
  EXPECT_EQ(ExecSync(context(), request, [] { return false; }).error().code, Code::kDeadlineExceeded);
}

TEST_F(Lifecycle, ACompanionsDeathEndsItsContainers) {
  std::string pod = RunPod(), container = Create(pod);
  ASSERT_TRUE(Start(container));
  KillCompanion(*fleet_, pod);
  v1::ContainerStatus status = WaitExited(container);
  EXPECT_EQ(status.reason(), "CompanionDied");
  EXPECT_THAT(status.message(), HasSubstr("companion"));
  ASSERT_TRUE(RemovePod(pod));
  ExpectNothingLeft();
}

TEST_F(Lifecycle, ACompanionThatDoesNotStopIsKilled) {
  std::string pod = RunPod();
  world_.failing = {"StopSandbox"};
  ASSERT_TRUE(StopPod(pod));
  EXPECT_TRUE(world_.companions.empty());
}

TEST_F(Lifecycle, ARestartedDaemonFindsAllAgain) {
  std::string pod = RunPod(), running = Create(pod, "running"), ended = Create(pod, "ended"), fresh = Create(pod, "new");
  ASSERT_TRUE(Start(running));
  ASSERT_TRUE(Start(ended));
  std::string before = Status(running).SerializeAsString();
  daemon_.reset();
  EndContainer(*fleet_, ended, 9);
  Restart();
  EXPECT_EQ(PodState(pod), v1::SANDBOX_READY);
  EXPECT_EQ(Status(running).SerializeAsString(), before);
  EXPECT_EQ(Status(fresh).state(), v1::CONTAINER_CREATED);
  EXPECT_EQ(Status(ended).exit_code(), 9);
  ASSERT_TRUE(Start(fresh));
  EndContainer(*fleet_, running, 4);
  EXPECT_EQ(WaitExited(running).exit_code(), 4);
  ASSERT_TRUE(RemovePod(pod));
  ExpectNothingLeft();
}

TEST_F(Lifecycle, ACompanionThatDiedMeanwhileIsFoundOut) {
  std::string pod = RunPod(), container = Create(pod);
  ASSERT_TRUE(Start(container));
  daemon_.reset();
  KillCompanion(*fleet_, pod);
  Restart();
  EXPECT_EQ(PodState(pod), v1::SANDBOX_NOTREADY);
  EXPECT_EQ(Status(container).reason(), "CompanionDied");
  ASSERT_TRUE(RemovePod(pod));
  ExpectNothingLeft();
}

// A guest's agent says what it likes, under any id (adversarial: wrong ids).
TEST_F(Lifecycle, APodSpeaksForItsOwnContainersOnly) {
  std::string liar = RunPod("liar"), honest = RunPod("honest");
  std::string of_liar = Create(liar), of_honest = Create(honest, "d");
  ASSERT_TRUE(Start(of_liar) && Start(of_honest));
  auto figures = [](const std::string& id, uint64_t bytes) {
    pod::v1::ContainerStats one;
    one.set_container_id(id);
    one.set_memory_usage_bytes(bytes);
    return one;
  };
  {
    std::lock_guard lock(world_.mutex);
    world_.figures[honest] = {figures(of_honest, 1)};
    world_.figures[liar] = {figures(of_liar, 2), figures(of_honest, 3), figures(honest, 4), figures("", 5)};
  }
  std::map<std::string, uint64_t> said;
  auto containers = ListContainerStats(context(), {});
  ASSERT_TRUE(containers);
  for (const auto& one : containers->stats()) said[one.attributes().id()] = one.memory().usage_bytes().value();
  EXPECT_EQ(said, (std::map<std::string, uint64_t>{{of_honest, 1}, {of_liar, 2}}));
  auto pods = ListPodSandboxStats(context(), {});
  ASSERT_TRUE(pods);
  for (const auto& one : pods->stats()) EXPECT_EQ(one.linux().memory().usage_bytes().value(), one.attributes().id() == honest ? 1u : 2u);
}

TEST_F(Lifecycle, AfterARebootPodsAreNotReady) {
  std::string pod = RunPod(), container = Create(pod);
  ASSERT_TRUE(Start(container));
  daemon_.reset();
  KillCompanion(*fleet_, pod);
  Restart({}, "boot-2");
  EXPECT_EQ(PodState(pod), v1::SANDBOX_NOTREADY);
  EXPECT_EQ(Status(container).reason(), "NodeRebooted");
  ASSERT_TRUE(RemovePod(pod));
  ExpectNothingLeft();
}

TEST_F(Lifecycle, UnfinishedCreationsAreUndoneAtTheStart) {
  std::string pod = RunPod();
  PodRecord half = *(*daemon_->pods.Find(pod))->Get();
  half.set_creating(true);
  ASSERT_TRUE(daemon_->pods.Announce(half));
  daemon_.reset();
  Restart();
  ExpectNothingLeft();
}

TEST_F(Lifecycle, WhatNoRecordExplainsIsRemovedAtTheStart) {
  RunPod();
  daemon_.reset();
  for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(config_.IndexPath() + suffix);
  std::filesystem::create_directory(config_.ContainerDir("stranger"));
  {
    std::lock_guard lock(world_.mutex);
    world_.snapshots.insert("stranger");
  }
  Restart();
  ExpectNothingLeft();
}

class FailingStep : public Lifecycle, public testing::WithParamInterface<std::string_view> {};

TEST_P(FailingStep, LeavesNothingAndTheNextTryWorks) {
  std::string fault(GetParam());
  Restart({fault});
  std::string pod, error;
  auto ran = RunPodSandbox(context(), PodRequest());
  if (fault.starts_with("run_pod_sandbox.")) {
    ASSERT_FALSE(ran);
    EXPECT_THAT(ran.error().message, HasSubstr(fault));
  } else {
    ASSERT_TRUE(ran) << ran.error().message;
    pod = ran->pod_sandbox_id();
    auto created = CreateContainer(context(), ContainerRequest(pod));
    if (fault.starts_with("create_container.")) {
      ASSERT_FALSE(created);
      EXPECT_THAT(created.error().message, HasSubstr(fault));
      EXPECT_TRUE(daemon_->containers.List().empty());
      EXPECT_TRUE(world_.snapshots.empty());
    } else {
      ASSERT_TRUE(created) << created.error().message;
      EXPECT_THAT(Start(created->container_id()).error().message, HasSubstr(fault));
      EXPECT_EQ(Status(created->container_id()).state(), v1::CONTAINER_EXITED);
      EXPECT_EQ(Status(created->container_id()).reason(), "StartError");
    }
    EXPECT_TRUE(world_.tasks.empty());
    ASSERT_TRUE(RemovePod(pod));
  }
  ExpectNothingLeft();
  Restart();
  std::string container = Create(RunPod());
  EXPECT_TRUE(Start(container));
}

std::vector<std::string_view> Steps() {
  std::vector<std::string_view> steps;
  for (std::string_view fault : kFaultPoints) {
    // A namespace takes root; an image store that is made up has no pull; no pod here is a VM.
    bool elsewhere = fault.ends_with(".netns") || fault.ends_with(".cni_add") || fault.starts_with("pull_image.") || fault.starts_with("template.") ||
                     fault.starts_with("warm_pool.");
    if (!elsewhere) steps.push_back(fault);
  }
  return steps;
}
std::string StepName(const testing::TestParamInfo<std::string_view>& info) {
  std::string name(info.param);
  for (char& c : name) c = c == '.' ? '_' : c;
  return name;
}
INSTANTIATE_TEST_SUITE_P(EveryStep, FailingStep, testing::ValuesIn(Steps()), StepName);

class FailingCall : public Lifecycle, public testing::WithParamInterface<std::string_view> {};

TEST_P(FailingCall, OfTheCompanionLeavesNothing) {
  world_.failing = {std::string(GetParam())};
  auto ran = RunPodSandbox(context(), PodRequest());
  if (ran) {
    EXPECT_FALSE(CreateContainer(context(), ContainerRequest(ran->pod_sandbox_id())));
    EXPECT_TRUE(world_.tasks.empty() && world_.snapshots.empty());
    ASSERT_TRUE(RemovePod(ran->pod_sandbox_id()));
  }
  ExpectNothingLeft();
}
INSTANTIATE_TEST_SUITE_P(EveryCall, FailingCall,
                         testing::Values("spawn", "CreateSandbox", "StartSandbox", "images.Prepare", "Create"));

}  // namespace
}  // namespace caisson::cri
