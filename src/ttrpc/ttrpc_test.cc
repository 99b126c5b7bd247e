// SPDX-License-Identifier: Apache-2.0
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include <gtest/gtest.h>

#include "base/limits.h"
#include "ttrpc/client.h"
#include "ttrpc/frame.h"
#include "ttrpc/server.h"
#include "ttrpc/ttrpc.pb.h"

namespace caisson::ttrpc {
namespace {

TEST(Frame, SurvivesAnyCut) {
  std::string bytes = EncodeFrame({7, FrameType::kData, kFlagNoData, "payload"}).value() + EncodeFrame({9, FrameType::kRequest, 0, ""}).value();
  for (size_t step = 1; step <= bytes.size(); ++step) {
    FrameReader reader;
    std::vector<Frame> frames;
    for (size_t at = 0; at < bytes.size(); at += step) {
      reader.Add(std::string_view(bytes).substr(at, step));
      while (auto frame = reader.Next().value()) frames.push_back(*frame);
    }
    ASSERT_EQ(frames.size(), 2u);
    EXPECT_EQ(frames[0].payload, "payload");
    EXPECT_EQ(frames[0].flags, kFlagNoData);
    EXPECT_EQ(frames[1].stream, 9u);
  }
}

TEST(Frame, RefusesWhatIsTooLongOrUnknown) {
  for (std::string_view bad : {std::string_view("\xff\xff\xff\xff\0\0\0\1\1\0", 10), std::string_view("\0\x40\0\1\0\0\0\1\1\0", 10),
                               std::string_view("\0\0\0\0\0\0\0\1\4\0", 10), std::string_view("\0\0\0\0\0\0\0\1\1\x08", 10)}) {
    FrameReader reader;
    reader.Add(bad);
    EXPECT_FALSE(reader.Next().has_value());
  }
  EXPECT_FALSE(EncodeFrame({1, FrameType::kRequest, 0, std::string(limits::kTtrpcMessageBytes + 1, 'x')}).has_value());
}

// A server on a thread of its own, and sockets connected to it.
class ServerTest : public testing::Test {
 protected:
  ServerTest() : loop_(sys::EventLoop::Create().value()), client_loop_(sys::EventLoop::Create().value()), server_(Server::Create(loop_.get())) {
    server_->Handle("s", "Echo", [](std::string_view payload, Reply reply) { reply(std::string(payload)); });
    server_->Handle("s", "Fail", [](std::string_view, Reply reply) { reply(MakeError(Code::kNotFound, "no such thing")); });
    server_->Handle("s", "Never", [this](std::string_view, Reply reply) { kept_.push_back(std::move(reply)); });
    server_->Handle("s", "Huge", [](std::string_view, Reply reply) { reply(std::string(limits::kTtrpcMessageBytes, 'x')); });
    server_thread_ = std::thread([this] { EXPECT_TRUE(loop_->Run()); });
    client_thread_ = std::thread([this] { EXPECT_TRUE(client_loop_->Run()); });
  }
  ~ServerTest() override {
    client_loop_->Post([this] { client_loop_->Stop(); });
    client_thread_.join();
    loop_->Post([this] {
      kept_.clear();
      server_.reset();
      loop_->Stop();
    });
    server_thread_.join();
  }
  UniqueFd Connect() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    auto server_end = std::make_shared<UniqueFd>(ends[1]);
    loop_->Post([this, server_end] { EXPECT_TRUE(server_->Serve(std::move(*server_end))); });
    return UniqueFd(ends[0]);
  }
  std::shared_ptr<Client> NewClient() { return Client::Create(client_loop_.get(), Connect()).value(); }

  std::unique_ptr<sys::EventLoop> loop_, client_loop_;
  std::unique_ptr<Server> server_;
  std::vector<Reply> kept_;
  std::thread server_thread_, client_thread_;
};

TEST_F(ServerTest, CallsAnswersAndErrors) {
  auto client = NewClient();
  EXPECT_EQ(client->CallSync("s", "Echo", "hello", 10'000).value(), "hello");
  auto failed = client->CallSync("s", "Fail", "", 10'000);
  EXPECT_EQ(failed.error().code, Code::kNotFound);
  EXPECT_EQ(failed.error().message, "no such thing");
  auto unknown = client->CallSync("s", "Nope", "", 10'000);
  EXPECT_EQ(unknown.error().code, Code::kUnimplemented);
  EXPECT_NE(unknown.error().message.find("s/Nope"), std::string::npos);
  std::string big(3 << 20, 'b');
  EXPECT_EQ(client->CallSync("s", "Echo", big, 10'000).value(), big);
  EXPECT_EQ(client->CallSync("s", "Huge", "", 10'000).error().code, Code::kResourceExhausted);
  EXPECT_EQ(client->CallSync("s", "Echo", std::string(limits::kTtrpcMessageBytes, 'x'), 10'000).error().code, Code::kResourceExhausted);
  EXPECT_EQ(client->CallSync("s", "Echo", "still", 10'000).value(), "still");
}

TEST_F(ServerTest, ACallThatIsNeverAnsweredTimesOut) {
  auto client = NewClient();
  EXPECT_EQ(client->CallSync("s", "Never", "", 20).error().code, Code::kDeadlineExceeded);
  EXPECT_EQ(client->CallSync("s", "Echo", "after", 10'000).value(), "after");
}

TEST_F(ServerTest, PendingCallsFailWhenTheConnectionEnds) {
  auto client = NewClient();
  std::thread closer([&] { client->Close(); });
  EXPECT_EQ(client->CallSync("s", "Never", "", Client::kNoTimeout).error().code, Code::kUnavailable);
  closer.join();
  EXPECT_TRUE(client->closed());
  EXPECT_EQ(client->CallSync("s", "Echo", "", 10'000).error().code, Code::kUnavailable);
}

TEST_F(ServerTest, ManyThreadsOneConnection) {
  auto client = NewClient();
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        std::string text = fmt::format("{}-{}", t, i);
        EXPECT_EQ(client->CallSync("s", "Echo", text, 10'000).value(), text);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

class HostilePeer : public ServerTest, public testing::WithParamInterface<std::string> {};

// The server ends a connection whose framing is broken, and no other.
TEST_P(HostilePeer, LosesItsConnectionOnly) {
  auto good = NewClient();
  UniqueFd bad = Connect();
  ASSERT_EQ(write(bad.get(), GetParam().data(), GetParam().size()), static_cast<ssize_t>(GetParam().size()));
  char byte;
  EXPECT_EQ(read(bad.get(), &byte, 1), 0);
  EXPECT_EQ(good->CallSync("s", "Echo", "x", 10'000).value(), "x");
}

std::string Raw(uint32_t stream, FrameType type) { return EncodeFrame({stream, type, 0, ""}).value(); }

INSTANTIATE_TEST_SUITE_P(Frames, HostilePeer,
                         testing::Values(std::string("\xff\xff\xff\xff\0\0\0\1\1\0", 10), Raw(2, FrameType::kRequest),
                                         Raw(0, FrameType::kRequest), Raw(1, FrameType::kResponse), Raw(1, FrameType::kData),
                                         std::string("\0\0\0\0\0\0\0\1\x09\0", 10)));

// A server that is hostile, as an agent in a guest may be: each call is answered once, or fails, whatever it sends.
TEST_F(ServerTest, AHostileServersAnswers) {
  ::ttrpc::Response response;
  response.set_payload("first");
  auto answer = [&](uint32_t stream) { return EncodeFrame({stream, FrameType::kResponse, 0, response.SerializeAsString()}).value(); };
  std::string one = answer(1), other = answer(77), even = answer(2);
  response.set_payload("second");
  std::string again = answer(1);
  // Sent once the request has come.
  auto answered = [&](const std::string& bytes) {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    auto client = Client::Create(client_loop_.get(), UniqueFd(ends[0])).value();
    std::thread server([fd = UniqueFd(ends[1]), &bytes] {
      unsigned char header[kFrameHeaderBytes];
      EXPECT_EQ(recv(fd.get(), header, sizeof header, MSG_WAITALL), static_cast<ssize_t>(sizeof header));
      std::string request(header[3], '\0');  // a short one
      EXPECT_EQ(recv(fd.get(), request.data(), request.size(), MSG_WAITALL), static_cast<ssize_t>(request.size()));
      EXPECT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    });
    auto result = client->CallSync("s", "M", "", 10'000);
    server.join();
    return result;
  };
  EXPECT_EQ(answered(one + again).value(), "first");
  EXPECT_EQ(answered(other + even + one).value(), "first") << "answers to what nobody asked";
  EXPECT_FALSE(answered(other));
  for (const std::string& bad : {std::string("\xff\xff\xff\xff\0\0\0\1\2\0", 10), Raw(1, FrameType::kRequest), Raw(1, FrameType::kData),
                                 EncodeFrame({1, FrameType::kResponse, 0, "\xff\xff\xff"}).value()}) {
    EXPECT_FALSE(answered(bad + one)) << "after a breach nothing counts";
  }
}

TEST_F(ServerTest, HalfAFrameThenHangUp) {
  {
    UniqueFd half = Connect();
    ASSERT_EQ(write(half.get(), "\0\0\0\x20\0\0", 6), 6);
  }
  EXPECT_EQ(NewClient()->CallSync("s", "Echo", "x", 10'000).value(), "x");
}

TEST_F(ServerTest, ARequestThatDoesNotParseIsAnswered) {
  UniqueFd raw = Connect();
  std::string frame = EncodeFrame({1, FrameType::kRequest, 0, "\xff\xff\xff"}).value();
  ASSERT_EQ(write(raw.get(), frame.data(), frame.size()), static_cast<ssize_t>(frame.size()));
  char header[kFrameHeaderBytes];
  ASSERT_EQ(recv(raw.get(), header, sizeof header, MSG_WAITALL), static_cast<ssize_t>(sizeof header));
  EXPECT_EQ(header[8], 2);
}

}  // namespace
}  // namespace caisson::ttrpc
