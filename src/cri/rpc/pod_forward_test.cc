// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_forward.h"

#include "cri/rpc/fakes_test.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <poll.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <thread>

namespace caisson::cri {
namespace {

class PodForward : public testing::Test {
 protected:
  PodForward() : fleet_(MakeFleet(&world_)), shims_(MakeFakeShims(fleet_)), loop_(std::move(*sys::EventLoop::Create())) {
    char dir[] = "/tmp/cri-forward-XXXXXX";
    dir_ = mkdtemp(dir);
    auto spawned = shims_->Spawn({"pod", "", "", {}});
    EXPECT_TRUE(spawned);
    if (spawned) shim_ = *spawned;
    thread_ = std::thread([this] { (void)loop_->Run(); });
  }
  ~PodForward() override {
    loop_->Post([this] { loop_->Stop(); });
    thread_.join();
    shim_.reset();
    shims_.reset();
    std::filesystem::remove_all(dir_);
  }
  Result<UniqueFd> Forward(uint16_t port, std::shared_ptr<ShimClient> shim) {
    std::promise<Result<UniqueFd>> answer;
    ForwardThroughCompanion(loop_, std::move(shim), dir_ + "/socket", port, [&](Result<UniqueFd> fd) { answer.set_value(std::move(fd)); });
    auto got = answer.get_future().get();
    EXPECT_TRUE(std::filesystem::is_empty(dir_));
    return got;
  }

  World world_;
  std::shared_ptr<Fleet> fleet_;
  std::unique_ptr<Shims> shims_;
  std::shared_ptr<sys::EventLoop> loop_;
  std::string dir_;
  std::shared_ptr<ShimClient> shim_;
  std::thread thread_;
};

TEST_F(PodForward, TheCompanionsConnectionIsThePort) {
  auto fd = Forward(8080, shim_);
  ASSERT_TRUE(fd) << fd.error().message;
  pollfd watched = {fd->get(), POLLIN, 0};
  ASSERT_EQ(poll(&watched, 1, 60'000), 1);
  char buffer[64];
  ssize_t got = read(fd->get(), buffer, sizeof buffer);
  ASSERT_GT(got, 0);
  EXPECT_EQ(std::string(buffer, static_cast<size_t>(got)), "port 8080");
}

TEST_F(PodForward, TheCompanionsErrorIsTheAnswer) {
  world_.failing.insert("Forward");
  auto fd = Forward(81, shim_);
  ASSERT_FALSE(fd);
  EXPECT_THAT(fd.error().message, testing::HasSubstr("forward port 81 of the pod: "));
}

TEST_F(PodForward, ACompanionThatOnlySaysSoIsNotBelieved) {
  auto fd = Forward(1, shim_);
  ASSERT_FALSE(fd);
  EXPECT_THAT(fd.error().message, testing::HasSubstr("has not connected port 1"));
}

TEST_F(PodForward, WithoutACompanionThereIsNoPort) {
  auto fd = Forward(80, nullptr);
  ASSERT_FALSE(fd);
  EXPECT_EQ(fd.error().code, Code::kUnavailable);
}

TEST_F(PodForward, ACompanionThatDiesIsAnError) {
  world_.unanswered.insert("Forward");
  std::thread killer([this] {
    while (world_.Count("Forward") == 0) sched_yield();
    KillCompanion(*fleet_, "pod");
  });
  EXPECT_FALSE(Forward(80, shim_));
  killer.join();
}

}  // namespace
}  // namespace caisson::cri
