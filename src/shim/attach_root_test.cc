// SPDX-License-Identifier: Apache-2.0
// Attaching clients, output in parts, and the end of an exec'd process with all that came of it.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>

#include "base/limits.h"
#include "shim/companion_fixture.h"

namespace caisson::shim {
namespace {

using testing::HasSubstr;

// An attached client's FIFOs, as the daemon makes them.
class Client {
 public:
  Client(const std::string& folder, const std::string& container, const std::string& id) {
    std::string base = folder + "/" + id;
    mkdir(base.c_str(), 0700);
    for (const char* name : {"/life", "/in", "/out", "/err"}) mkfifo((base + name).c_str(), 0600);
    life = Open(base + "/life");
    out = Open(base + "/out");
    err = Open(base + "/err");
    request.set_container_id(container);
    request.set_attach_id(id);
    request.set_life_path(base + "/life");
    request.set_stdin_path(base + "/in");
    request.set_stdout_path(base + "/out");
    request.set_stderr_path(base + "/err");
  }

  void Write(std::string_view text) {
    if (!in) in = UniqueFd(open(request.stdin_path().c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    ASSERT_EQ(write(in.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // Reads until `text` has come, or the end.
  std::string Until(const std::string& text) {
    char buffer[65536];
    while (got.find(text) == std::string::npos) {
      pollfd watched = {out.get(), POLLIN, 0};
      if (poll(&watched, 1, 30'000) != 1) break;
      ssize_t count = read(out.get(), buffer, sizeof buffer);
      if (count <= 0) break;
      got.append(buffer, static_cast<size_t>(count));
    }
    return got;
  }
  void Vanish() {
    for (UniqueFd* fd : {&life, &in, &out, &err}) fd->Reset();
  }

  pod::v1::AttachRequest request;
  UniqueFd life, in, out, err;
  std::string got;

 private:
  static UniqueFd Open(const std::string& path) { return UniqueFd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)); }
};

class Attached : public CompanionTest {
 protected:
  void RunWith(const std::string& id, const std::string& script) {
    pod::v1::CreateOptions options;
    options.set_log_path(LogPath(id));
    options.set_stdin(true);
    auto created = Create(id, Spec(script), options);
    ASSERT_TRUE(created) << created.error().message;
    ASSERT_TRUE(Start(id));
  }
  Result<pod::v1::AttachResponse> Attach(const Client& client) { return Call<pod::v1::AttachResponse>(kPod, "Attach", client.request); }
  static pod::v1::WaitAttachRequest WaitRequest(const Client& client) {
    pod::v1::WaitAttachRequest request;
    request.set_container_id(client.request.container_id());
    request.set_attach_id(client.request.attach_id());
    return request;
  }
  Result<pod::v1::WaitAttachResponse> WaitAttach(const Client& client) {
    return Call<pod::v1::WaitAttachResponse>(kPod, "WaitAttach", WaitRequest(client));
  }
  // The answer of a WaitAttach that the companion has by now: it takes one connection's requests in their order.
  std::future<Result<std::string>> Waiting(const Client& client) {
    auto answer = std::make_shared<std::promise<Result<std::string>>>();
    client_->Call(kPod, "WaitAttach", WaitRequest(client).SerializeAsString(), 60'000,
                  [answer](Result<std::string> reply) { answer->set_value(std::move(reply)); });
    pod::v1::ContainerInfoRequest info;
    info.set_container_id(client.request.container_id());
    EXPECT_TRUE(Call<pod::v1::ContainerInfoResponse>(kPod, "ContainerInfo", info));
    return answer->get_future();
  }
  static bool TooSlow(std::future<Result<std::string>> waiting) {
    auto reply = waiting.get();
    EXPECT_TRUE(reply) << reply.error().message;
    pod::v1::WaitAttachResponse response;
    EXPECT_TRUE(reply && response.ParseFromString(*reply));
    return response.too_slow();
  }
};

TEST_F(Attached, SeveralClientsAndTheLog) {
  StartPod();
  RunWith("c1", "while read x; do echo got $x; done");
  Client first(folder_, "c1", "a1"), second(folder_, "c1", "a2");
  auto attached = Attach(first);
  ASSERT_TRUE(attached) << attached.error().message;
  EXPECT_TRUE(attached->stdin());
  EXPECT_EQ(Attach(first).error().code, Code::kAlreadyExists);
  ASSERT_TRUE(Attach(second));
  first.Write("one\n");
  EXPECT_THAT(first.Until("one\n"), HasSubstr("got one\n"));
  EXPECT_THAT(second.Until("one\n"), HasSubstr("got one\n"));
  first.in.Reset();
  second.Write("two\n");
  EXPECT_THAT(first.Until("two\n"), HasSubstr("got two\n"));
  first.Vanish();
  Await("the first is forgotten", [&] { return WaitAttach(first).error().code == Code::kNotFound; });
  second.Write("three\n");
  EXPECT_THAT(second.Until("three\n"), HasSubstr("got three\n"));
  auto ended = Waiting(second);
  ASSERT_TRUE(Kill("c1", SIGKILL));
  EXPECT_FALSE(TooSlow(std::move(ended)));
  Wait("c1");
  EXPECT_EQ(second.Until("never"), "got one\ngot two\ngot three\n");
  EXPECT_EQ(LogText(LogPath("c1")), "got one\ngot two\ngot three\n");
  EXPECT_EQ(Attach(second).error().code, Code::kFailedPrecondition);
}

TEST_F(Attached, StdinEndsWhenCloseIoSaysSoAndAllIsRead) {
  StartPod();
  RunWith("c1", "cat; echo end");
  Client client(folder_, "c1", "a1");
  ASSERT_TRUE(Attach(client));
  client.Write("text\n");
  EXPECT_EQ(client.Until("text\n"), "text\n");
  client.Write("more\n");
  v3::CloseIORequest close;
  close.set_id("c1");
  close.set_stdin(true);
  ASSERT_TRUE((Call<wkt::Empty>(kTask, "CloseIO", close)));
  client.Write("and more\n");  // until the client itself has ended its input
  client.in.Reset();
  EXPECT_EQ(client.Until("end\n"), "text\nmore\nand more\nend\n");
  EXPECT_EQ(Wait("c1").exit_status(), 0u);
}

// A client that dies while the container does not read what it wrote.
TEST_F(Attached, DyingWithInputThatNobodyReads) {
  StartPod();
  RunWith("c1", "sleep 1000");
  Client client(folder_, "c1", "a1");
  ASSERT_TRUE(Attach(client));
  client.Write("");
  std::string much(16384, 'x');
  // Until pipe, FIFO and the companion's buffer are full.
  for (int full = 0; full < 50;) {
    if (write(client.in.get(), much.data(), much.size()) > 0) full = 0;
    else ++full, poll(nullptr, 0, 1);
  }
  client.Vanish();
  Await("it is forgotten", [&] { return WaitAttach(client).error().code == Code::kNotFound; });
}

TEST_F(Attached, ASlowClientIsGivenUp) {
  StartPod();
  RunWith("c1", "read x; head -c 8000000 /dev/zero | tr '\\0' a; read x");
  Client slow(folder_, "c1", "a1"), quick(folder_, "c1", "a2");
  ASSERT_TRUE(Attach(slow));
  auto ended = Waiting(slow);
  slow.Write("go\n");
  EXPECT_TRUE(TooSlow(std::move(ended)));
  // The container never waited for it. (Its last words are no whole line of the log yet.)
  Await("the rest is in the log", [&] { return LogText(LogPath("c1")).size() > 7'900'000; });
  ASSERT_TRUE(Attach(quick));
  quick.Write("end\n");
  EXPECT_EQ(Wait("c1").exit_status(), 0u);
  EXPECT_EQ(LogText(LogPath("c1")).size(), 8000000u);
}

TEST_F(Attached, ALastWordOutlivesTheContainer) {
  StartPod();
  RunWith("c1", "read x; head -c 500000 /dev/zero; echo end");
  Client client(folder_, "c1", "a1");
  ASSERT_TRUE(Attach(client));
  client.Write("go\n");
  Wait("c1");
  ASSERT_TRUE(Delete("c1"));
  EXPECT_EQ(client.Until("end\n").size(), 500004u);
}

TEST_F(Attached, WhatIsNoFifo) {
  StartPod();
  RunWith("c1", "sleep 1000");
  Client client(folder_, "c1", "a1");
  std::ofstream(folder_ + "/file") << "text";
  client.request.set_stdout_path(folder_ + "/file");
  EXPECT_EQ(Attach(client).error().code, Code::kInvalidArgument);
  client.request.set_stdout_path("");
  client.life.Reset();
  EXPECT_FALSE(Attach(client));  // nobody reads
  EXPECT_EQ(WaitAttach(client).error().code, Code::kNotFound);
}

TEST_F(Attached, ExecSyncInParts) {
  StartPod();
  RunWith("c1", "sleep 1000");
  pod::v1::ExecSyncRequest request;
  request.set_container_id("c1");
  request.set_exec_id("e1");
  for (const char* arg : {"/bin/sh", "-c", "head -c 5000000 /dev/zero; head -c 3000000 /dev/zero >&2; exit 6"}) request.add_args(arg);
  auto part = Call<pod::v1::ExecSyncResponse>(kPod, "ExecSync", request);
  size_t out = 0, err = 0, parts = 0;
  pod::v1::ExecSyncMoreRequest more;
  more.set_container_id("c1");
  more.set_exec_id("e1");
  for (;; ++parts) {
    ASSERT_TRUE(part) << part.error().message;
    EXPECT_LE(part->stdout().size() + part->stderr().size(), limits::kTtrpcMessageBytes - 4096);
    out += part->stdout().size();
    err += part->stderr().size();
    if (!part->more()) break;
    part = Call<pod::v1::ExecSyncResponse>(kPod, "ExecSyncMore", more);
  }
  EXPECT_EQ(out, 5000000u);
  EXPECT_EQ(err, 3000000u);
  EXPECT_GE(parts, 5u);
  EXPECT_EQ(part->exit_code(), 6);
  EXPECT_FALSE(part->truncated());
  EXPECT_EQ((Call<pod::v1::ExecSyncResponse>(kPod, "ExecSyncMore", more).error().code), Code::kNotFound);
  // Killed between two parts.
  request.set_exec_id("e2");
  *request.mutable_args(2) = "sleep 98765 & cat /dev/zero";
  ASSERT_TRUE((Call<pod::v1::ExecSyncResponse>(kPod, "ExecSync", request)));
  v3::KillRequest kill;
  kill.set_id("c1");
  kill.set_exec_id("e2");
  kill.set_signal(SIGKILL);
  kill.set_all(true);
  ASSERT_TRUE((Call<wkt::Empty>(kTask, "Kill", kill)));
  Await("all have ended", [&] { return Processes("98765").empty(); });
  more.set_exec_id("e2");
  do {
    part = Call<pod::v1::ExecSyncResponse>(kPod, "ExecSyncMore", more);
    ASSERT_TRUE(part) << part.error().message;
  } while (part->more());
  EXPECT_EQ(part->exit_code(), 137);
}

}  // namespace
}  // namespace caisson::shim
