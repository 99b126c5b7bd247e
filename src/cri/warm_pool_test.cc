// SPDX-License-Identifier: Apache-2.0
#include "cri/warm_pool.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "cri/rpc/fakes_test.h"

namespace caisson::cri {
namespace {

namespace fs = std::filesystem;

class WarmPoolTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/caisson-warm-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    config_.state = folder_;
    config_.shim_path = "/bin/true";
    fs::create_directory(config_.TemplateDir());
    for (const char* name : {"kernel", "initrd"}) std::ofstream(folder_ + "/" + name) << name;
    auto& handler = config_.handlers.at(kVmHandler);
    handler.kernel = folder_ + "/kernel";
    handler.initrd = folder_ + "/initrd";
    fleet_ = MakeFleet(&world_);
    background_ = std::make_unique<Background>();
    shims_ = MakeFakeShims(fleet_);
    templates_ = std::make_unique<Templates>(config_, *shims_, *background_, faults_);
    pool_ = std::make_unique<WarmPool>(config_, *shims_, *background_, faults_, *templates_, 20);
    shims_->OnEnd([this](const std::string& id, bool died) { background_->Post([this, id, died] { templates_->OnEnd(id, died) || pool_->OnEnd(id, died); }); });
  }
  void TearDown() override {
    Close();
    templates_->Close();
    shims_->Stop();
    pool_.reset();
    templates_.reset();
    shims_.reset();
    fs::remove_all(folder_);
  }
  // As the daemon does.
  void Close() {
    pool_->Close();
    background_->Stop();
  }

  // Of a kind that has a template.
  keeper::v1::MakeRequest Shape(uint32_t vcpus = 1, int64_t limit = 0) {
    PodRecord record;
    record.set_id("pod");
    record.set_resolved_handler(kVmHandler);
    record.mutable_vm()->set_accelerator("tcg");
    record.mutable_vm()->set_vcpus(vcpus);
    record.mutable_vm()->set_memory_bytes(512 << 20);
    record.mutable_config()->mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(limit);
    auto shape = TemplateFor(config_, record);
    templates_->Want(shape);
    EXPECT_TRUE(Becomes([&] { return !templates_->FolderFor(shape).empty(); }));
    return shape;
  }
  static bool Becomes(const std::function<bool()>& condition) {
    Deadline deadline = Deadline::After(20'000);
    while (!condition()) {
      if (deadline.Passed()) return false;
      std::this_thread::yield();
    }
    return true;
  }
  std::vector<std::string> Folders() {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(config_.TemplateDir())) {
      if (std::string name = entry.path().filename(); name.starts_with("warm-")) found.push_back(name.substr(5));
    }
    return found;
  }
  bool Lives(const std::string& id) {
    std::lock_guard lock(world_.mutex);
    return world_.companions.contains(id);
  }

  std::string folder_;
  Config config_;
  World world_;
  FaultPoints faults_;
  std::shared_ptr<Fleet> fleet_;
  std::unique_ptr<Background> background_;
  std::unique_ptr<Shims> shims_;
  std::unique_ptr<Templates> templates_;
  std::unique_ptr<WarmPool> pool_;
};

TEST_F(WarmPoolTest, OneIsTakenWithItsFolder) {
  auto shape = Shape();
  EXPECT_FALSE(pool_->Take(shape));
  pool_->Want(shape);
  ASSERT_TRUE(Becomes([&] { return pool_->Count() == 1; }));
  EXPECT_FALSE(pool_->Take(Shape(2))) << "of another kind";
  auto machine = pool_->Take(shape);
  ASSERT_TRUE(machine);
  EXPECT_EQ(Folders(), std::vector{machine->id});
  EXPECT_EQ(pool_->Count(), 0u);
  EXPECT_FALSE(pool_->Take(shape));
  ASSERT_TRUE(pool_->GiveFolder(machine->id, folder_ + "/pod"));
  EXPECT_TRUE(fs::exists(folder_ + "/pod"));
  EXPECT_FALSE(pool_->OnEnd(machine->id, true)) << "it is the pod's";
  EXPECT_TRUE(Folders().empty());
  pool_->Drop(*machine);
  EXPECT_FALSE(Lives(machine->id));
}

TEST_F(WarmPoolTest, OneThatNoPodCameOfLeavesNothing) {
  auto shape = Shape();
  pool_->Want(shape);
  ASSERT_TRUE(Becomes([&] { return pool_->Count() == 1; }));
  auto machine = pool_->Take(shape);
  ASSERT_TRUE(machine);
  pool_->Drop(*machine);
  EXPECT_TRUE(Folders().empty());
  EXPECT_FALSE(Lives(machine->id));
}

TEST_F(WarmPoolTest, ThereAreAsManyAsConfigured) {
  config_.templates.warm_count = 2;
  auto shape = Shape();
  for (int i = 0; i < 5; ++i) pool_->Want(shape);
  ASSERT_TRUE(Becomes([&] { return pool_->Count() == 2; }));
  auto other = Shape(2);
  pool_->Want(other);
  ASSERT_TRUE(Becomes([&] { return world_.Count("WarmUp") == 4 && pool_->Count() == 2 && Folders().size() == 2; }));
  EXPECT_FALSE(pool_->Take(shape)) << "those of the kind that came before have gone";
  EXPECT_TRUE(pool_->Take(other));
}

TEST_F(WarmPoolTest, NoneForPodsWithAMemoryLimitOrWithoutATemplate) {
  pool_->Want(Shape(1, 256 << 20));
  config_.templates.warm_count = 0;
  pool_->Want(Shape());
  Close();
  EXPECT_EQ(world_.Count("WarmUp"), 0);
}

TEST_F(WarmPoolTest, OneThatDiesIsForgotten) {
  auto shape = Shape();
  pool_->Want(shape);
  ASSERT_TRUE(Becomes([&] { return pool_->Count() == 1; }));
  KillCompanion(*fleet_, Folders().front());
  EXPECT_TRUE(Becomes([&] { return pool_->Count() == 0 && Folders().empty(); }));
  EXPECT_FALSE(pool_->Take(shape));
}

TEST_F(WarmPoolTest, WhatCannotBeMadeIsNotTriedAgainAtOnce) {
  auto shape = Shape();
  world_.failing.insert("WarmUp");
  pool_->Want(shape);
  ASSERT_TRUE(Becomes([&] { return world_.Count("WarmUp") == 1 && Folders().empty(); }));
  pool_->Want(shape);
  Close();
  EXPECT_EQ(world_.Count("WarmUp"), 1);
}

TEST_F(WarmPoolTest, TheDaemonsEndAwaitsNoMachine) {
  auto shape = Shape();
  world_.unanswered.insert("WarmUp");
  pool_->Want(shape);
  ASSERT_TRUE(Becomes([&] { return world_.Count("WarmUp") == 1; }));
  Close();
  EXPECT_TRUE(Folders().empty());
}

TEST_F(WarmPoolTest, WhatAFormerDaemonLeftGoes) {
  fs::create_directories(config_.TemplateDir() + "/warm-" + std::string(64, 'a') + "/vm");
  pool_->Recover();
  EXPECT_TRUE(Folders().empty());
}

}  // namespace
}  // namespace caisson::cri
