// SPDX-License-Identifier: Apache-2.0
#include "cri/warm_pool.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <vector>

#include "cri/template_fixture.h"

namespace caisson::cri {
namespace {

namespace fs = std::filesystem;

class WarmPoolTest : public TemplateFixture {
 protected:
  void SetUp() override {
    TemplateFixture::SetUp();
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
    TemplateFixture::TearDown();
  }
  // As the daemon does.
  void Close() {
    pool_->Close();
    background_->Stop();
  }

  // Of a kind that has a template.
  keeper::v1::MakeRequest Ready(uint32_t vcpus = 1, int64_t limit = 0) {
    auto shape = Shape(vcpus, limit);
    Make(shape);
    return shape;
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

  std::unique_ptr<WarmPool> pool_;
};

TEST_F(WarmPoolTest, OneIsTakenWithItsFolder) {
  auto shape = Ready();
  EXPECT_FALSE(pool_->Take(shape));
  pool_->Want(shape);
  ASSERT_TRUE(Becomes([&] { return pool_->Count() == 1; }));
  EXPECT_FALSE(pool_->Take(Ready(2))) << "of another kind";
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
  auto shape = Ready();
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
  auto shape = Ready();
  for (int i = 0; i < 5; ++i) pool_->Want(shape);
  ASSERT_TRUE(Becomes([&] { return pool_->Count() == 2; }));
  auto other = Ready(2);
  pool_->Want(other);
  ASSERT_TRUE(Becomes([&] { return world_.Count("WarmUp") == 4 && pool_->Count() == 2 && Folders().size() == 2; }));
  EXPECT_FALSE(pool_->Take(shape)) << "those of the kind that came before have gone";
  EXPECT_TRUE(pool_->Take(other));
}

TEST_F(WarmPoolTest, NoneForPodsWithAMemoryLimit) {
  pool_->Want(Ready(1, 256 << 20));
  background_->Stop();
  EXPECT_EQ(world_.Count("WarmUp"), 0);
}

TEST_F(WarmPoolTest, NoneIfNoneIsConfigured) {
  config_.templates.warm_count = 0;
  pool_->Want(Ready());
  background_->Stop();
  EXPECT_EQ(world_.Count("WarmUp"), 0);
}

TEST_F(WarmPoolTest, NoneWithoutATemplate) {
  pool_->Want(Shape());
  background_->Stop();
  EXPECT_EQ(world_.Count("spawn"), 0);
}

TEST_F(WarmPoolTest, OneThatDiesIsForgotten) {
  auto shape = Ready();
  pool_->Want(shape);
  ASSERT_TRUE(Becomes([&] { return pool_->Count() == 1; }));
  KillCompanion(*fleet_, Folders().front());
  EXPECT_TRUE(Becomes([&] { return pool_->Count() == 0 && Folders().empty(); }));
  EXPECT_FALSE(pool_->Take(shape));
}

TEST_F(WarmPoolTest, WhatCannotBeMadeIsNotTriedAgainAtOnce) {
  auto shape = Ready();
  world_.failing.insert("WarmUp");
  pool_->Want(shape);
  ASSERT_TRUE(Becomes([&] { return world_.Count("WarmUp") == 1 && Folders().empty(); }));
  pool_->Want(shape);
  background_->Stop();
  EXPECT_EQ(world_.Count("WarmUp"), 1);
}

TEST_F(WarmPoolTest, TheDaemonsEndAwaitsNoMachine) {
  auto shape = Ready();
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
