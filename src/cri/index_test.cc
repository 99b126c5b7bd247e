// SPDX-License-Identifier: Apache-2.0
#include "cri/index.h"

#include "cri/container_index.h"
#include "cri/pod_index.h"
#include "cri/store.h"

// After the CRI's enum of signals, which <signal.h> would turn into numbers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

namespace caisson::cri {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class IndexTest : public testing::Test {
 protected:
  IndexTest() {
    char dir[] = "/tmp/cri-index-XXXXXX";
    dir_ = mkdtemp(dir);
    path_ = dir_ + "/caissond.db";
    Reopen();
  }
  ~IndexTest() override {
    pods_.reset(), containers_.reset(), store_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Reopen() {
    pods_.reset(), containers_.reset(), store_.reset();
    auto store = Store::Open(path_);
    ASSERT_TRUE(store) << store.error().message;
    store_ = std::move(*store);
    pods_ = std::make_unique<PodIndex>(store_.get(), Store::Table::kPods, "pod sandbox");
    containers_ = std::make_unique<ContainerIndex>(store_.get(), Store::Table::kContainers, "container");
  }
  PodPtr Add(const std::string& id, const std::string& name, int64_t created = 1) {
    PodRecord record;
    record.set_id(id);
    record.set_created_at_nanos(created);
    record.mutable_config()->mutable_metadata()->set_name(name);
    auto pod = std::make_shared<Pod>(record);
    EXPECT_TRUE(pods_->Insert(pod, name));
    return pod;
  }
  std::vector<PodRecord> Load() {
    auto unfinished = pods_->Load([](const PodRecord& record) { return record.config().metadata().name(); });
    EXPECT_TRUE(unfinished) << unfinished.error().message;
    return unfinished ? *unfinished : std::vector<PodRecord>();
  }
  std::string dir_, path_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<PodIndex> pods_;
  std::unique_ptr<ContainerIndex> containers_;
};

TEST_F(IndexTest, WhatWasChangedIsThereAfterReopening) {
  PodPtr pod = Add("aa1", "one");
  ASSERT_TRUE(pods_->Update(pod, [](PodRecord& record) { record.set_reason("changed"); }));
  Add("bb2", "two");
  ASSERT_TRUE(pods_->Remove("bb2"));
  Reopen();
  EXPECT_TRUE(Load().empty());
  EXPECT_EQ((*pods_->Find("aa1"))->Get()->reason(), "changed");
  EXPECT_FALSE(pods_->Find("bb2"));
  EXPECT_TRUE(pods_->Reserve("one", "").exists);
  EXPECT_TRUE(pods_->Reserve("two", "").owner);
}

TEST_F(IndexTest, AnnouncedRecordsAreUnfinishedUntilWithdrawn) {
  PodRecord record;
  record.set_id("aa1");
  record.set_creating(true);
  ASSERT_TRUE(pods_->Announce(record));
  Reopen();
  auto unfinished = Load();
  ASSERT_EQ(unfinished.size(), 1u);
  EXPECT_EQ(unfinished[0].id(), "aa1");
  EXPECT_FALSE(pods_->Find("aa1"));
  ASSERT_TRUE(pods_->Withdraw("aa1"));
  Reopen();
  EXPECT_TRUE(Load().empty());
}

TEST_F(IndexTest, FindsByUnambiguousPrefix) {
  Add("abc1", "one");
  Add("abd2", "two");
  EXPECT_EQ((*pods_->Find("abc"))->id(), "abc1");
  EXPECT_EQ((*pods_->Find("abd2"))->id(), "abd2");
  EXPECT_EQ(pods_->Find("ab").error().code, Code::kInvalidArgument);
  EXPECT_EQ(pods_->Find("x").error().code, Code::kNotFound);
  EXPECT_THAT(pods_->Find("x").error().message, HasSubstr("pod sandbox 'x'"));
  EXPECT_EQ(pods_->Find("").error().code, Code::kInvalidArgument);
}

TEST_F(IndexTest, ListsOldestFirst) {
  Add("aa", "late", 30);
  Add("bb", "early", 10);
  Add("cc", "mid", 20);
  std::vector<std::string> ids;
  for (const PodPtr& pod : pods_->List()) ids.push_back(pod->id());
  EXPECT_THAT(ids, ElementsAre("bb", "cc", "aa"));
}

TEST_F(IndexTest, ARemovedObjectDoesNotComeBackByALateChange) {
  PodPtr pod = Add("aa1", "one");
  ASSERT_TRUE(pods_->Remove("aa1"));
  EXPECT_EQ(pods_->Update(pod, [](PodRecord&) {}).error().code, Code::kNotFound);
  EXPECT_EQ(pods_->Observe(pod, [](PodRecord&) {}).error().code, Code::kNotFound);
  Reopen();
  EXPECT_TRUE(Load().empty());
  EXPECT_TRUE(pods_->List().empty());
}

TEST_F(IndexTest, ARepeatedCreateJoinsTheFirst) {
  auto owner = pods_->Reserve("name", "same");
  ASSERT_TRUE(owner.owner);
  EXPECT_EQ(pods_->Reserve("name", "other").outcome.error().code, Code::kAlreadyExists);
  PodIndex::Reservation joined;
  std::thread second([&] { joined = pods_->Reserve("name", "same"); });
  pods_->Finish("name", Result<std::string>("id-1"));
  second.join();
  // Either it joined and got the outcome, or it came after the end of a creation that inserted nothing.
  if (joined.owner) {
    pods_->Finish("name", Result<std::string>("id-2"));
  } else {
    EXPECT_EQ(*joined.outcome, "id-1");
  }
}

TEST_F(IndexTest, AFailedCreateFreesTheName) {
  ASSERT_TRUE(pods_->Reserve("name", "").owner);
  pods_->Finish("name", Result<std::string>(MakeError(Code::kInternal, "no")));
  EXPECT_TRUE(pods_->Reserve("name", "").owner);
}

TEST_F(IndexTest, WaitExitedSeesAChangeByAnotherThread) {
  ContainerRecord record;
  record.set_id("c");
  record.set_state(runtime::v1::CONTAINER_RUNNING);
  auto container = std::make_shared<Container>(record);
  ASSERT_TRUE(containers_->Insert(container, "c"));
  EXPECT_FALSE(container->WaitExited(Deadline::After(0)));
  std::thread ends([&] {
    EXPECT_TRUE(containers_->Update(
        container, [](ContainerRecord& changed) { changed.set_state(runtime::v1::CONTAINER_EXITED); }));
    container->NotifyChanged();
  });
  EXPECT_TRUE(container->WaitExited(Deadline::After(60'000)));
  ends.join();
}

class StoreFileTest : public IndexTest {
 protected:
  std::string OpenError(const std::string& content) {
    std::ofstream(dir_ + "/broken.db") << content;
    auto opened = Store::Open(dir_ + "/broken.db");
    return opened ? "" : opened.error().message;
  }
};

TEST_F(StoreFileTest, AnEmptyFileIsNotAnEmptyIndex) { EXPECT_THAT(OpenError(""), HasSubstr("empty file")); }

TEST_F(StoreFileTest, GarbageIsDamage) {
  EXPECT_THAT(OpenError(std::string(10'000, 'x')), HasSubstr("broken.db' is damaged"));
}

TEST_F(StoreFileTest, AnIndexOfANewerDaemonIsNotTouched) {
  store_.reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &db), SQLITE_OK);
  sqlite3_exec(db, "PRAGMA user_version=99", nullptr, nullptr, nullptr);
  sqlite3_close(db);
  auto opened = Store::Open(path_);
  ASSERT_FALSE(opened);
  EXPECT_THAT(opened.error().message, HasSubstr("newer caissond"));
}

TEST_F(StoreFileTest, AnotherProgramsDatabaseIsNotOurs) {
  std::string other = dir_ + "/other.db";
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(other.c_str(), &db), SQLITE_OK);
  sqlite3_exec(db, "CREATE TABLE t (x)", nullptr, nullptr, nullptr);
  sqlite3_close(db);
  auto opened = Store::Open(other);
  ASSERT_FALSE(opened);
  EXPECT_THAT(opened.error().message, HasSubstr("not an index of caissond"));
}

TEST_F(StoreFileTest, AHalfMadeFileIsMadeAgain) {
  std::ofstream(dir_ + "/fresh.db.new") << "left by a crash";
  EXPECT_TRUE(Store::Open(dir_ + "/fresh.db"));
}

TEST_F(StoreFileTest, KeepsValues) {
  EXPECT_EQ(*store_->GetValue("k"), "");
  ASSERT_TRUE(store_->PutValue("k", std::string("a\0b", 3)));
  EXPECT_EQ(*store_->GetValue("k"), std::string("a\0b", 3));
}

TEST(Filters, PodsByIdStateAndLabels) {
  PodRecord pod;
  pod.set_id("abcdef");
  pod.set_state(runtime::v1::SANDBOX_NOTREADY);
  (*pod.mutable_config()->mutable_labels())["app"] = "x";
  runtime::v1::PodSandboxFilter filter;
  EXPECT_TRUE(Matches(pod, filter));
  filter.set_id("abc");
  EXPECT_TRUE(Matches(pod, filter));
  (*filter.mutable_label_selector())["app"] = "x";
  EXPECT_TRUE(Matches(pod, filter));
  filter.mutable_state()->set_state(runtime::v1::SANDBOX_READY);
  EXPECT_FALSE(Matches(pod, filter));
  filter.mutable_state()->set_state(runtime::v1::SANDBOX_NOTREADY);
  EXPECT_TRUE(Matches(pod, filter));
  (*filter.mutable_label_selector())["tier"] = "y";
  EXPECT_FALSE(Matches(pod, filter));
}

TEST(Filters, ContainersByPodToo) {
  ContainerRecord container;
  container.set_id("c1");
  container.set_pod_id("pod1");
  runtime::v1::ContainerFilter filter;
  filter.set_pod_sandbox_id("pod2");
  EXPECT_FALSE(Matches(container, filter));
  filter.set_pod_sandbox_id("pod1");
  EXPECT_TRUE(Matches(container, filter));
  filter.mutable_state()->set_state(runtime::v1::CONTAINER_EXITED);
  EXPECT_FALSE(Matches(container, filter));
}

TEST(Fingerprints, DoNotDependOnTheOrderOfMaps) {
  runtime::v1::PodSandboxConfig a, b;
  for (int i = 0; i < 20; ++i) (*a.mutable_labels())[std::to_string(i)] = "v";
  for (int i = 19; i >= 0; --i) (*b.mutable_labels())[std::to_string(i)] = "v";
  EXPECT_EQ(Fingerprint(a), Fingerprint(b));
  (*b.mutable_labels())["0"] = "w";
  EXPECT_NE(Fingerprint(a), Fingerprint(b));
}

}  // namespace
}  // namespace caisson::cri
