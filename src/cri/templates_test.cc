// SPDX-License-Identifier: Apache-2.0
#include "cri/templates.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "cri/template_fixture.h"

namespace caisson::cri {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

namespace fs = std::filesystem;

class TemplatesTest : public TemplateFixture {
 protected:
  void SetUp() override {
    TemplateFixture::SetUp();
    Start();
  }
  void TearDown() override {
    Stop();
    TemplateFixture::TearDown();
  }

  // As the daemon does.
  void Start() {
    background_ = std::make_unique<Background>();
    shims_ = MakeFakeShims(fleet_);
    templates_ = std::make_unique<Templates>(config_, *shims_, *background_, faults_);
    shims_->OnEnd([this](const std::string& id, bool died) { background_->Post([this, id, died] { templates_->OnEnd(id, died); }); });
    templates_->Recover();
  }
  void Stop() {
    background_->Stop();
    templates_->Close();
    shims_->Stop();
    templates_.reset();
    shims_.reset();
  }

  size_t Folders() {
    return static_cast<size_t>(std::distance(fs::directory_iterator(config_.TemplateDir()), fs::directory_iterator()));
  }
  bool OnlyOne() {
    std::lock_guard lock(world_.mutex);
    return world_.companions.size() == 1 && Folders() == 1;
  }
  bool Gone() { return world_.Empty() && Folders() == 0; }
  std::string StateOf(size_t i) {
    auto list = templates_->List();
    return i < list.size() ? list[i].state : "";
  }
};

TEST_F(TemplatesTest, TheShapeHasNothingOfThePod) {
  auto shape = Shape();
  EXPECT_EQ(shape.vm().uid(), 0u);
  EXPECT_EQ(shape.vm().cgroup_path(), "");
  EXPECT_EQ(shape.handler(), kVmHandler);
  EXPECT_TRUE(shape.share_memory());
  EXPECT_FALSE(Shape(1, 256 << 20).share_memory()) << "its cgroup would pay twice";
  EXPECT_EQ(shape.idle_millis(), 3'600'000);
}

TEST_F(TemplatesTest, OneIsMadeForAllOfAKind) {
  EXPECT_EQ(templates_->FolderFor(Shape()), "");
  std::vector<std::thread> pods;
  for (int i = 0; i < 4; ++i) pods.emplace_back([this] { templates_->Want(Shape()); });
  for (auto& pod : pods) pod.join();
  std::string folder = Make(Shape());
  EXPECT_TRUE(folder.starts_with(config_.TemplateDir() + "/template-"));
  EXPECT_EQ(world_.Count("Make"), 1);
  EXPECT_EQ(templates_->FolderFor(Shape(2)), "");
  EXPECT_NE(Make(Shape(2)), folder);
  EXPECT_NE(Make(Shape(1, 256 << 20)), folder);
  auto list = templates_->List();
  ASSERT_EQ(list.size(), 3u);
  for (const auto& info : list) EXPECT_EQ(info.state, "ready");
}

TEST_F(TemplatesTest, AKeeperThatDiesIsForgotten) {
  std::string folder = Make(Shape());
  KillCompanion(*fleet_, fs::path(folder).filename());
  EXPECT_TRUE(Becomes([&] { return Gone() && templates_->List().empty(); }));
  EXPECT_EQ(templates_->FolderFor(Shape()), "");
  EXPECT_NE(Make(Shape()), folder) << "that is no failure of the kind";
}

TEST_F(TemplatesTest, AFailureIsNotRepeatedAtOnce) {
  world_.failing.insert("Make");
  templates_->Want(Shape());
  EXPECT_TRUE(Becomes([&] { return StateOf(0) == "failed" && Gone(); }));
  EXPECT_THAT(templates_->List()[0].error, HasSubstr("made up failure"));
  templates_->Want(Shape());
  templates_->Want(Shape());
  EXPECT_EQ(world_.Count("Make"), 1);
  // Another kind is another matter.
  {
    std::lock_guard lock(world_.mutex);
    world_.failing.clear();
  }
  Make(Shape(2));
}

TEST_F(TemplatesTest, ASpawnThatFailsLeavesNothing) {
  world_.failing.insert("spawn");
  templates_->Want(Shape());
  EXPECT_TRUE(Becomes([&] { return StateOf(0) == "failed" && Gone(); }));
}

TEST_F(TemplatesTest, AKeeperThatDiesWhileItMakesIsAFailure) {
  world_.unanswered.insert("Make");
  templates_->Want(Shape());
  ASSERT_TRUE(Becomes([&] { return world_.Count("Make") == 1; }));
  ASSERT_EQ(StateOf(0), "making");
  KillCompanion(*fleet_, templates_->List()[0].id);
  EXPECT_TRUE(Becomes([&] { return StateOf(0) == "failed" && Gone(); }));
}

TEST_F(TemplatesTest, OneThatIsRejectedEnds) {
  std::string folder = Make(Shape());
  templates_->Reject(folder, "it stinks");
  EXPECT_EQ(templates_->FolderFor(Shape()), "");
  EXPECT_TRUE(Becomes([&] { return Gone(); }));
  ASSERT_EQ(StateOf(0), "failed");
  EXPECT_THAT(templates_->List()[0].error, HasSubstr("it stinks"));
  templates_->Reject("/nowhere", "unknown");
}

TEST_F(TemplatesTest, IsRemovedWhetherItIsReadyOrBeingMade) {
  Make(Shape());
  EXPECT_TRUE(templates_->Remove(templates_->List()[0].id));
  EXPECT_TRUE(Becomes([&] { return Gone() && templates_->List().empty(); }));
  EXPECT_EQ(templates_->Remove("template-none").error().code, Code::kNotFound);
  world_.unanswered.insert("Make");
  templates_->Want(Shape());
  ASSERT_TRUE(Becomes([&] { return world_.Count("Make") == 2; }));
  EXPECT_TRUE(templates_->Remove(templates_->List()[0].id));
  EXPECT_TRUE(Becomes([&] { return Gone() && templates_->List().empty(); }));
}

TEST_F(TemplatesTest, ChangedFilesEndIt) {
  std::string folder = Make(Shape());
  std::ofstream(folder_ + "/new") << "another kernel";
  fs::rename(folder_ + "/new", folder_ + "/kernel");
  EXPECT_EQ(templates_->FolderFor(Shape()), "");
  EXPECT_TRUE(Becomes([&] { return Gone(); }));
  EXPECT_NE(Make(Shape()), folder);
  std::ofstream(folder_ + "/initrd", std::ios::app) << "more";
  EXPECT_THAT(templates_->List(), IsEmpty());
  EXPECT_TRUE(Becomes([&] { return Gone(); }));
}

TEST_F(TemplatesTest, TheLeastRecentlyUsedGoes) {
  config_.templates.max_count = 2;
  Make(Shape(1));
  Make(Shape(2));
  EXPECT_NE(templates_->FolderFor(Shape(1)), "");
  Make(Shape(3));
  EXPECT_NE(templates_->FolderFor(Shape(1)), "");
  EXPECT_EQ(templates_->FolderFor(Shape(2)), "");
  EXPECT_TRUE(Becomes([&] { return Folders() == 2; }));
}

TEST_F(TemplatesTest, BytesAreBounded) {
  config_.templates.max_bytes = 1000 << 20;
  Make(Shape(1));
  Make(Shape(2));
  EXPECT_TRUE(Becomes([&] { return OnlyOne(); }));
  config_.templates.max_bytes = 100 << 20;
  templates_->Want(Shape(3));
  EXPECT_EQ(world_.Count("Make"), 2);
  config_.templates.max_count = 0;
  config_.templates.max_bytes = int64_t{4} << 30;
  templates_->Want(Shape(4));
  EXPECT_EQ(world_.Count("Make"), 2);
}

TEST_F(TemplatesTest, AreFoundAgainByTheNextDaemon) {
  std::string folder = Make(Shape());
  Stop();
  Start();
  EXPECT_EQ(templates_->FolderFor(Shape()), folder);
  Stop();
  std::ofstream(folder_ + "/kernel", std::ios::app) << "more";
  fs::create_directory(config_.TemplateDir() + "/template-of-nobody");
  Start();
  EXPECT_THAT(templates_->List(), IsEmpty());
  EXPECT_TRUE(Gone());
  // Without templates there are none to take over.
  Make(Shape());
  Stop();
  config_.handlers.at(kVmHandler).templates = false;
  Start();
  EXPECT_TRUE(Gone());
}

TEST_F(TemplatesTest, AnIdOfAPodIsNoneOfItsBusiness) {
  EXPECT_FALSE(templates_->OnEnd("0123456789abcdef", true));
  EXPECT_TRUE(templates_->OnEnd("template-0123-45", true));
}

}  // namespace
}  // namespace caisson::cri
