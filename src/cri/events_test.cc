// SPDX-License-Identifier: Apache-2.0
#include "cri/events.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/limits.h"

namespace caisson::cri {
namespace {

namespace v1 = runtime::v1;

class EventsTest : public testing::Test {
 protected:
  static std::vector<std::string> Take(Events::Client& client) {
    std::vector<std::string> ids;
    for (;;) {
      auto next = client.Next(0);
      if (!next || !*next) return ids;
      ids.push_back((*next)->container_id());
    }
  }
  void Add(const std::string& id) { events_.Add(v1::CONTAINER_STARTED_EVENT, id, "pod-of-" + id); }

  Events events_{[](const std::string& pod_id, Events::Message* event) {
    event->mutable_pod_sandbox_status()->Clear();
    event->mutable_pod_sandbox_status()->set_id(pod_id);
    event->add_containers_statuses()->set_id("described");
  }};
};

TEST_F(EventsTest, EachClientGetsEachEventWithStatuses) {
  auto a = *events_.Listen(), b = *events_.Listen();
  Add("1");
  for (auto* client : {a.get(), b.get()}) {
    auto event = client->Next(0);
    ASSERT_TRUE(event && *event);
    EXPECT_EQ((*event)->container_id(), "1");
    EXPECT_EQ((*event)->pod_sandbox_status().id(), "pod-of-1");
    EXPECT_EQ((*event)->containers_statuses_size(), 1);
    EXPECT_GT((*event)->created_at(), 0);
    EXPECT_FALSE(client->Next(0)->has_value()) << "told twice";
  }
}

TEST_F(EventsTest, WhatNobodyHeardIsForTheNextClientOnce) {
  Add("1");
  Add("2");
  auto client = *events_.Listen();
  Add("3");
  EXPECT_EQ(Take(*client), (std::vector<std::string>{"1", "2", "3"}));
  client = *events_.Listen();
  EXPECT_TRUE(Take(*client).empty());
}

TEST_F(EventsTest, WhatAClientHasNotTakenIsForTheNext) {
  auto client = *events_.Listen();
  Add("1");
  Add("2");
  Add("3");
  ASSERT_TRUE(client->Next(0));  // 1: taken by the next call
  ASSERT_EQ(client->Next(0)->value().container_id(), "2");
  client.reset();
  auto next = *events_.Listen();
  auto event = next->Next(0);
  ASSERT_TRUE(event && *event);
  EXPECT_EQ((*event)->container_id(), "2");
  EXPECT_EQ((*event)->pod_sandbox_status().id(), "pod-of-2");
  EXPECT_EQ((*event)->containers_statuses_size(), 1);
  EXPECT_EQ(Take(*next), std::vector<std::string>{"3"});
}

TEST_F(EventsTest, KeepsTheNewest) {
  for (size_t i = 0; i < limits::kEvents + 1; ++i) Add(std::to_string(i));
  auto client = *events_.Listen();
  auto ids = Take(*client);
  ASSERT_EQ(ids.size(), limits::kEvents);
  EXPECT_EQ(ids.front(), "1");
}

TEST_F(EventsTest, AClientThatTakesNothingIsCutOff) {
  auto slow = *events_.Listen(), good = *events_.Listen();
  for (size_t i = 0; i < limits::kEvents + 1; ++i) {
    Add(std::to_string(i));
    ASSERT_TRUE(good->Next(0));
  }
  EXPECT_EQ(slow->Next(0).error().code, Code::kResourceExhausted);
  EXPECT_TRUE(good->Next(0));
}

TEST_F(EventsTest, ClientsAreBounded) {
  std::vector<std::unique_ptr<Events::Client>> clients;
  for (size_t i = 0; i < limits::kEventClients; ++i) clients.push_back(*events_.Listen());
  EXPECT_EQ(events_.Listen().error().code, Code::kResourceExhausted);
  clients.pop_back();
  EXPECT_TRUE(events_.Listen());
}

TEST_F(EventsTest, CloseEndsTheWait) {
  auto client = *events_.Listen();
  events_.Close();
  EXPECT_EQ(client->Next(60'000).error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace caisson::cri
