// SPDX-License-Identifier: Apache-2.0
#include "shim/guest_forward.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <thread>
#include <vector>

#include "base/limits.h"
#include "caisson/guest/v1/guest.pb.h"
#include "sys/netns_fixture.h"
#include "ttrpc/server.h"

namespace caisson::shim {
namespace {

using guest::v1::DialRequest;
using guest::v1::DialResponse;

UniqueFd DialLocalhost(uint16_t port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return fd;
}

bool HasEnded(const UniqueFd& fd) {
  char byte = 0;
  return recv(fd.get(), &byte, 1, MSG_DONTWAIT) == 0;
}

// An agent that keeps each Dial waiting; connections beyond the limit end, those that wait do not, and refusals make room.
TEST(GuestForwards, AsManyAsMayBe) {
  if (geteuid() != 0) GTEST_SKIP() << "network namespaces need root";
  sys::InNewNetns([] {
    sys::RunTool("ip link set lo up");
    auto loop = std::move(*sys::EventLoop::Create());
    auto agent = ttrpc::Server::Create(loop.get());
    std::vector<std::function<void(Result<DialResponse>)>> waiting;
    size_t wanted = limits::kLocalForwards;
    agent->HandleTyped<DialRequest, DialResponse>("caisson.guest.v1.Guest", "Dial", [&](const DialRequest& request, auto respond) {
      EXPECT_EQ(request.port(), 4711u);
      waiting.push_back(respond);
      if (waiting.size() == wanted) loop->Stop();
    });
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    ASSERT_TRUE(agent->Serve(UniqueFd(ends[0])));
    GuestClient client;
    client.Connect(*ttrpc::Client::Create(loop.get(), UniqueFd(ends[1])));
    GuestForwards forwards(loop.get(), &client);
    auto listening = forwards.Listen();
    ASSERT_TRUE(listening) << listening.error().message;
    loop->After(60'000, [&] { ADD_FAILURE() << "it does nothing", loop->Stop(); });

    std::vector<UniqueFd> clients;
    // The backlog may be shorter than that: the loop runs meanwhile.
    std::thread dialler([&] {
      for (size_t i = 0; i < limits::kLocalForwards; ++i) clients.push_back(DialLocalhost(4711));
    });
    ASSERT_TRUE(loop->Run());
    dialler.join();
    UniqueFd beyond = DialLocalhost(4711);
    pollfd watched = {beyond.get(), POLLIN, 0};
    std::thread waiter([&] { poll(&watched, 1, 60'000), loop->Stop(); });
    ASSERT_TRUE(loop->Run());
    waiter.join();
    EXPECT_TRUE(HasEnded(beyond));
    EXPECT_FALSE(HasEnded(clients[0]));
    EXPECT_EQ(waiting.size(), limits::kLocalForwards);
    // Nobody listens at the port after all: its client hears of it, another has its place.
    wanted = limits::kLocalForwards + 1;
    waiting[0](MakeError(Code::kUnavailable, "connect to port 4711: Connection refused"));
    watched = {clients[0].get(), POLLIN, 0};
    waiter = std::thread([&] { poll(&watched, 1, 60'000), loop->Stop(); });
    ASSERT_TRUE(loop->Run());
    waiter.join();
    EXPECT_TRUE(HasEnded(clients[0]));
    UniqueFd next = DialLocalhost(4711);
    ASSERT_TRUE(loop->Run());
    EXPECT_EQ(waiting.size(), wanted);
    EXPECT_FALSE(HasEnded(next));
    for (auto& respond : waiting) respond(MakeError(Code::kUnavailable, "the end"));
  });
}

}  // namespace
}  // namespace caisson::shim
