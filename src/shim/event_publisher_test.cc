// SPDX-License-Identifier: Apache-2.0
#include "shim/event_publisher.h"

#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include <gmock/gmock.h>

#include "containerd/ttrpc_events.pb.h"
#include "sys/socket.h"
#include "ttrpc/server.h"

namespace caisson::shim {
namespace {

using containerd::services::events::ttrpc::v1::ForwardRequest;
using testing::ElementsAre;

// A containerd that takes events, or not.
class EventPublisherTest : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/caisson-events-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    loop_ = std::move(*sys::EventLoop::Create());
    publisher_ = std::make_unique<EventPublisher>(loop_.get(), Path(), "ns");
  }
  void TearDown() override {
    publisher_.reset();
    server_.reset();
    unlink(Path().c_str());
    rmdir(folder_.c_str());
  }

  std::string Path() const { return folder_ + "/c.ttrpc"; }

  void Serve() {
    server_ = ttrpc::Server::Create(loop_.get());
    server_->Handle("containerd.services.events.ttrpc.v1.Events", "Forward", [this](std::string_view payload, ttrpc::Reply reply) {
      ForwardRequest request;
      EXPECT_TRUE(request.ParseFromArray(payload.data(), static_cast<int>(payload.size())));
      if (refuse_ == request.envelope().topic()) return reply(MakeError(Code::kInvalidArgument, "no"));
      EXPECT_EQ(request.envelope().namespace_(), "ns");
      EXPECT_GT(request.envelope().timestamp().seconds(), 0);
      seen_.push_back(request.envelope().topic());
      if (seen_.size() == break_after_) return server_.reset();
      reply(std::string());
    });
    auto listener = sys::ListenUnixAnew(Path());
    ASSERT_TRUE(listener.has_value()) << listener.error().message;
    ASSERT_TRUE(server_->Listen(std::move(*listener)).has_value());
  }

  void Publish(const std::string& topic) { publisher_->Publish({topic, "containerd.events.TaskOOM", "x"}); }
  // Until all has been told, or the time is over.
  void Flush(int64_t millis) {
    loop_->Post([this, millis] { publisher_->Flush(millis, [this] { loop_->Stop(); }); });
    ASSERT_TRUE(loop_->Run().has_value());
  }

  std::string folder_, refuse_;
  std::unique_ptr<sys::EventLoop> loop_;
  std::unique_ptr<ttrpc::Server> server_;
  std::unique_ptr<EventPublisher> publisher_;
  std::vector<std::string> seen_;
  size_t break_after_ = 0;
};

TEST_F(EventPublisherTest, InOrder) {
  Serve();
  for (const char* topic : {"1", "2", "3"}) Publish(topic);
  Flush(60'000);
  EXPECT_THAT(seen_, ElementsAre("1", "2", "3"));
}

TEST_F(EventPublisherTest, KeptWhileContainerdIsAway) {
  for (const char* topic : {"1", "2"}) Publish(topic);
  loop_->After(120, [this] { Serve(); });
  Flush(60'000);
  EXPECT_THAT(seen_, ElementsAre("1", "2"));
}

TEST_F(EventPublisherTest, ToldAgainWhenTheConnectionBroke) {
  Serve();
  break_after_ = 2;
  for (const char* topic : {"1", "2", "3"}) Publish(topic);
  loop_->After(120, [this] { Serve(); });
  Flush(60'000);
  EXPECT_THAT(seen_, ElementsAre("1", "2", "2", "3"));
}

TEST_F(EventPublisherTest, OneThatIsRefusedHoldsNoneUp) {
  Serve();
  refuse_ = "2";
  for (const char* topic : {"1", "2", "3"}) Publish(topic);
  Flush(60'000);
  EXPECT_THAT(seen_, ElementsAre("1", "3"));
}

TEST_F(EventPublisherTest, NoMoreThanTheBound) {
  for (size_t i = 0; i < EventPublisher::kMaxEvents + 10; ++i) Publish(std::to_string(i));
  Serve();
  Flush(60'000);
  ASSERT_EQ(seen_.size(), EventPublisher::kMaxEvents);
  EXPECT_EQ(seen_.front(), "10");
}

TEST_F(EventPublisherTest, FlushEndsWithoutContainerd) {
  Publish("1");
  Flush(10);
  EXPECT_TRUE(seen_.empty());
}

}  // namespace
}  // namespace caisson::shim
