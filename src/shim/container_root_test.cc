// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>

#include "base/clock.h"
#include "shim/companion_fixture.h"
#include "sys/path.h"

namespace caisson::shim {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

int64_t Nanos(const wkt::Timestamp& time) { return time.seconds() * kNanosPerSecond + time.nanos(); }

class Containers : public CompanionTest {};

TEST_F(Containers, FromCreateToDelete) {
  StartPod();
  int64_t before = NowNanos();
  auto created = Create("c1", "echo out; echo err >&2; exit 7");
  ASSERT_TRUE(created) << created.error().message;
  EXPECT_FALSE(Info("c1")->running());
  EXPECT_EQ(Info("c1")->started_at_nanos(), 0);
  ASSERT_TRUE(Start("c1"));
  auto ended = Wait("c1");
  EXPECT_EQ(ended.exit_status(), 7u);
  EXPECT_GT(Nanos(ended.exited_at()), before);
  EXPECT_LE(Nanos(ended.exited_at()), NowNanos());
  auto info = Info("c1").value();
  EXPECT_EQ(info.exit_code(), 7);
  EXPECT_FALSE(info.running());
  EXPECT_FALSE(info.oom_killed());
  EXPECT_LE(info.created_at_nanos(), info.started_at_nanos());
  EXPECT_LE(info.started_at_nanos(), info.finished_at_nanos());
  // Whoever has heard of the end finds the whole log.
  auto lines = Log(LogPath("c1"));
  ASSERT_EQ(lines.size(), 2u);
  for (const auto& line : lines) {
    EXPECT_EQ(line.tag, "F");
    EXPECT_EQ(line.text, line.stream == "stdout" ? "out" : "err");
  }
  EXPECT_EQ(Wait("c1").exit_status(), 7u);  // again
  auto deleted = Delete("c1");
  ASSERT_TRUE(deleted) << deleted.error().message;
  EXPECT_EQ(deleted->exit_status(), 7u);
  EXPECT_EQ(Nanos(deleted->exited_at()), Nanos(ended.exited_at()));
  EXPECT_EQ(Delete("c1").error().code, Code::kNotFound);
  EXPECT_THAT(Cgroups(), testing::IsEmpty());
}

// The user namespace owns the pod's others; the companion stays outside.
TEST_F(Containers, UserNamespaceOfAPod) {
  pod::v1::SandboxOptions options;
  for (auto* map : {options.add_uid_maps(), options.add_gid_maps()}) {
    map->set_host_id(200000);
    map->set_size(65536);
  }
  options.set_hostname("mapped");
  options.set_share_pid(true);
  (*options.mutable_sysctls())["kernel.msgmax"] = "12345";
  StartPod(options);
  sandbox::SandboxStatusRequest ask;
  auto status = Call<sandbox::SandboxStatusResponse>(kSandbox, "SandboxStatus", ask);
  ASSERT_TRUE(status) << status.error().message;
  std::string path = status->info().at("user_namespace");
  std::string proc = fmt::format("/proc/{}/ns/", pid_);
  EXPECT_EQ(fs::read_symlink(proc + "user"), fs::read_symlink("/proc/self/ns/user"));
  EXPECT_NE(fs::read_symlink(proc + "net"), fs::read_symlink("/proc/self/ns/net")) << "made without being named";
  EXPECT_NE(fs::read_symlink(path), fs::read_symlink("/proc/self/ns/user"));
  EXPECT_EQ(fs::read_symlink(fmt::format("/proc/{}/ns/user", status->pid())), fs::read_symlink(path));
  ASSERT_EQ(chown(rootfs_.c_str(), 200000, 200000), 0);
  auto spec = Spec("id -u; hostname; cat /proc/sys/kernel/msgmax; stat -c %u:%a /dev/shm; echo x > /dev/stdout");
  for (auto& space : spec["linux"]["namespaces"]) {
    if (space["type"] == "pid") space["path"] = fmt::format("/proc/{}/ns/pid", status->pid());
  }
  spec["linux"]["namespaces"].push_back({{"type", "user"}, {"path", path}});
  spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = {{{"containerID", 0}, {"hostID", 200000}, {"size", 65536}}};
  auto created = Create("c1", spec);
  ASSERT_TRUE(created) << created.error().message;
  ASSERT_TRUE(Start("c1"));
  EXPECT_EQ(Wait("c1").exit_status(), 0u);
  EXPECT_EQ(LogText(LogPath("c1")), "0\nmapped\n12345\n0:1777\nx\n");
  EXPECT_TRUE(Delete("c1"));
}

TEST_F(Containers, UserNamespaceThatCannotBe) {
  pod::v1::SandboxOptions options;
  options.add_uid_maps()->set_size(1);
  EXPECT_THAT(CreateSandbox(options).error().message, HasSubstr("gid_maps is empty"));
  options.add_gid_maps()->set_size(1);
  options.mutable_gid_maps(0)->set_container_id(1);
  EXPECT_THAT(CreateSandbox(options).error().message, HasSubstr("needs a root"));
  options.mutable_gid_maps(0)->set_container_id(0);
  options.set_host_ipc(true);
  EXPECT_THAT(CreateSandbox(options).error().message, HasSubstr("host's IPC"));
}

TEST_F(Containers, ErrorsLeaveNothing) {
  StartPod();
  auto spec = Spec("true");
  spec["process"]["args"] = {"/no/such/program"};
  auto created = Create("c1", spec);
  auto started = created ? Start("c1") : Result<v3::StartResponse>(created.error());
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message, HasSubstr("/no/such/program"));
  if (created) {
    auto deleted = Delete("c1");  // at once, as caissond does
    EXPECT_TRUE(deleted) << deleted.error().message;
  }
  spec = Spec("true");
  spec["mounts"].push_back({{"destination", "/x"}, {"type", "bind"}, {"source", "/no/such/source"}, {"options", {"rbind"}}});
  auto refused = Create("c2", spec);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("/no/such/source"));
  EXPECT_EQ(Info("c2").error().code, Code::kNotFound);
  EXPECT_THAT(Cgroups(), testing::IsEmpty());
  EXPECT_EQ(Start("nobody").error().code, Code::kNotFound);
  pod::v1::CreateOptions options;
  options.set_log_path(folder_ + "/logs/../0.log");
  EXPECT_EQ(Create("c3", Spec("true"), options).error().code, Code::kInvalidArgument);
  v3::CreateTaskRequest request;
  request.set_id("../c4");
  request.set_bundle(folder_ + "/c1");
  EXPECT_EQ((Call<v3::CreateTaskResponse>(kTask, "Create", request).error().code), Code::kInvalidArgument);
  request.set_id("c4");
  request.set_checkpoint("/no/such/images");
  auto restored = Call<v3::CreateTaskResponse>(kTask, "Create", request);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, Code::kNotFound);
  EXPECT_THAT(restored.error().message, HasSubstr("/no/such/images"));
  EXPECT_THAT(Cgroups(), testing::IsEmpty());
}

TEST_F(Containers, CreatedAndNeverStarted) {
  StartPod();
  ASSERT_TRUE(Create("c1", "true"));
  ASSERT_TRUE(Create("c2", "true"));
  EXPECT_EQ(Create("c1", "true").error().code, Code::kAlreadyExists);
  EXPECT_TRUE(Delete("c1"));
  ASSERT_TRUE(Kill("c2", SIGKILL, true));
  EXPECT_EQ(Wait("c2").exit_status(), 137u);
  EXPECT_EQ(Start("c2").error().code, Code::kFailedPrecondition);
  EXPECT_TRUE(Delete("c2"));
}

TEST_F(Containers, SignalsAndExitCodes) {
  StartPod();
  Run("c1", "trap 'echo term; exit 3' TERM; echo ready; while :; do usleep 1000; done");
  Await("the trap", [&] { return LogText(LogPath("c1")) == "ready\n"; });
  EXPECT_EQ(Delete("c1").error().code, Code::kFailedPrecondition);
  ASSERT_TRUE(Kill("c1", SIGTERM));
  EXPECT_EQ(Wait("c1").exit_status(), 3u);
  EXPECT_EQ(LogText(LogPath("c1")), "ready\nterm\n");
  EXPECT_TRUE(Kill("c1", SIGTERM));  // ended: nothing to do
  Run("c2", "sleep 1000");
  ASSERT_TRUE(Kill("c2", SIGTERM));  // PID 1 without a handler does not get it
  EXPECT_TRUE(Info("c2")->running());
  ASSERT_TRUE(Kill("c2", SIGKILL));
  EXPECT_EQ(Wait("c2").exit_status(), 137u);
  EXPECT_EQ(Kill("c2", 4711).error().code, Code::kInvalidArgument);
}

TEST_F(Containers, ManyWaitersHearOfTheSameEnd) {
  StartPod();
  Run("c1", "until test -e /tmp/go; do usleep 1000; done; exit 9");
  std::vector<std::thread> waiters;
  std::atomic<int> right = 0;
  for (int i = 0; i < 20; ++i) {
    waiters.emplace_back([&] { right += Wait("c1").exit_status() == 9; });
  }
  std::ofstream(rootfs_ + "/tmp/go") << "";
  for (auto& waiter : waiters) waiter.join();
  EXPECT_EQ(right, 20);
}

TEST_F(Containers, TheProgramHasAnOrdinaryEnvironmentOfSignals) {
  StartPod();
  // Without a shell, which ignores SIGQUIT on its own account.
  auto spec = Spec("");
  spec["process"]["args"] = {"/bin/cat", "/proc/self/status"};
  ASSERT_TRUE(Create("c1", spec));
  ASSERT_TRUE(Start("c1"));
  Wait("c1");
  std::string text = LogText(LogPath("c1"));
  EXPECT_THAT(text, HasSubstr("SigBlk:\t0000000000000000"));
  EXPECT_THAT(text, HasSubstr("SigIgn:\t0000000000000000"));
}

TEST_F(Containers, LongLinesPartsAndWhatHasNoEnd) {
  StartPod();
  Run("c1", "head -c 40000 /dev/zero 2>/dev/null | busybox tr '\\0' x; echo; echo -n tail");
  auto spec = Spec("yes 0123456789 | head -c 40000; echo; printf tail");
  ASSERT_TRUE(Create("c2", spec));
  ASSERT_TRUE(Start("c2"));
  spec["process"]["args"] = {"/bin/sh", "-c", "dd if=/bin/busybox bs=1 count=0 2>/dev/null; seq -s '' 1 12000 | head -c 40000; echo; printf tail", name_};
  ASSERT_TRUE(Create("c3", spec));
  ASSERT_TRUE(Start("c3"));
  Wait("c2");
  Wait("c3");
  auto lines = Log(LogPath("c3"));
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0].tag + lines[1].tag + lines[2].tag + lines[3].tag, "PPFP");
  EXPECT_EQ(lines[0].text.size(), 16384u);
  EXPECT_EQ(lines[1].text.size(), 16384u);
  EXPECT_EQ(lines[2].text.size(), 40000u - 2 * 16384);
  EXPECT_EQ(lines[3].text, "tail");
}

TEST_F(Containers, NoLineIsLostWhenTheLogIsReopenedUnderLoad) {
  StartPod();
  Run("c1", "i=0; while test $i -lt 40000; do echo line $i; i=$((i+1)); done");
  pod::v1::ReopenLogRequest reopen;
  reopen.set_container_id("c1");
  int moved = 0;
  while (Info("c1")->running()) {
    fs::rename(LogPath("c1"), LogPath("c1") + "." + std::to_string(moved++));
    auto reopened = Call<pod::v1::ReopenLogResponse>(kPod, "ReopenLog", reopen);
    ASSERT_TRUE(reopened) << reopened.error().message;
  }
  Wait("c1");
  std::string text;
  for (int i = 0; i < moved; ++i) text += LogText(LogPath("c1") + "." + std::to_string(i));
  text += LogText(LogPath("c1"));
  std::string expected;
  for (int i = 0; i < 40000; ++i) expected += fmt::format("line {}\n", i);
  EXPECT_GT(moved, 1);
  EXPECT_TRUE(text == expected) << text.size() << " bytes in place of " << expected.size();
  fs::remove(LogPath("c1"));
  fs::create_symlink("/tmp/caisson-shim-victim", LogPath("c1"));
  EXPECT_FALSE((Call<pod::v1::ReopenLogResponse>(kPod, "ReopenLog", reopen)));
  EXPECT_FALSE(fs::exists("/tmp/caisson-shim-victim"));
}

TEST_F(Containers, OomKillIsSeen) {
  StartPod();
  auto spec = Spec("dd if=/dev/zero of=/dev/null bs=200M count=1");
  spec["mounts"][1]["options"] = {"mode=755"};
  spec["linux"]["resources"]["memory"]["limit"] = 24 << 20;
  spec["linux"]["devices"] = nlohmann::json::array();
  auto created = Create("c1", spec);
  ASSERT_TRUE(created) << created.error().message;
  ASSERT_TRUE(Start("c1"));
  EXPECT_NE(Wait("c1").exit_status(), 0u);
  EXPECT_TRUE(Info("c1")->oom_killed()) << LogText(LogPath("c1"));
}

TEST_F(Containers, StdinIsKeptAndClosed) {
  StartPod();
  pod::v1::CreateOptions options;
  options.set_stdin(true);
  ASSERT_TRUE(Create("c1", Spec("cat; echo end"), options));
  ASSERT_TRUE(Start("c1"));
  v3::CloseIORequest close;
  close.set_id("c1");
  close.set_stdin(true);
  EXPECT_TRUE(Info("c1")->running());
  ASSERT_TRUE((Call<wkt::Empty>(kTask, "CloseIO", close)));
  EXPECT_EQ(Wait("c1").exit_status(), 0u);
  EXPECT_EQ(LogText(LogPath("c1")), "end\n");
}

TEST_F(Containers, TerminalIsLoggedAndResized) {
  StartPod();
  pod::v1::CreateOptions options;
  options.set_terminal(true);
  auto spec = Spec("until test -e /tmp/go; do usleep 1000; done; stty size; test -t 0 && echo tty");
  spec["process"]["terminal"] = true;
  auto created = Create("c1", spec, options);
  ASSERT_TRUE(created) << created.error().message;
  ASSERT_TRUE(Start("c1"));
  v3::ResizePtyRequest resize;
  resize.set_id("c1");
  resize.set_width(77);
  resize.set_height(33);
  ASSERT_TRUE((Call<wkt::Empty>(kTask, "ResizePty", resize)));
  std::ofstream(rootfs_ + "/tmp/go") << "";
  EXPECT_EQ(Wait("c1").exit_status(), 0u);
  EXPECT_EQ(LogText(LogPath("c1")), "33 77\r\ntty\r\n");
}

TEST_F(Containers, PauseResumeUpdatePidsStats) {
  StartPod();
  Run("c1", "while :; do echo tick; usleep 1000; done");
  v3::PauseRequest pause;
  pause.set_id("c1");
  ASSERT_TRUE((Call<wkt::Empty>(kTask, "Pause", pause)));
  v3::StateRequest state;
  state.set_id("c1");
  EXPECT_EQ((Call<v3::StateResponse>(kTask, "State", state)->status()), containerd::v1::types::PAUSED);
  EXPECT_EQ(ExecSync("c1", {"true"}).error().code, Code::kFailedPrecondition);
  v3::ResumeRequest resume;
  resume.set_id("c1");
  ASSERT_TRUE((Call<wkt::Empty>(kTask, "Resume", resume)));
  v3::PidsRequest pids;
  pids.set_id("c1");
  EXPECT_GE((Call<v3::PidsResponse>(kTask, "Pids", pids)->processes_size()), 1);
  v3::UpdateTaskRequest update;
  update.set_id("c1");
  update.mutable_resources()->set_value(R"({"memory":{"limit":67108864}})");
  auto updated = Call<wkt::Empty>(kTask, "Update", update);
  ASSERT_TRUE(updated) << updated.error().message;
  auto stats = Call<pod::v1::StatsResponse>(kPod, "Stats", pod::v1::StatsRequest());
  ASSERT_TRUE(stats) << stats.error().message;
  ASSERT_EQ(stats->containers_size(), 1);
  EXPECT_EQ(stats->containers(0).memory_limit_bytes(), 67108864u);
  EXPECT_GT(stats->containers(0).cpu_usage_nanos(), 0u);
  v3::StatsRequest task_stats;
  task_stats.set_id("c1");
  EXPECT_THAT((Call<v3::StatsResponse>(kTask, "Stats", task_stats)->stats().type_url()), HasSubstr("io.containerd.cgroups.v"));
  ASSERT_TRUE((Call<wkt::Empty>(kTask, "Pause", pause)));
  ASSERT_TRUE(Kill("c1", SIGKILL));  // kills although it is frozen
  EXPECT_EQ(Wait("c1").exit_status(), 137u);
  v3::CheckpointTaskRequest checkpoint;
  checkpoint.set_id("c1");
  auto dumped = Call<wkt::Empty>(kTask, "Checkpoint", checkpoint);
  ASSERT_FALSE(dumped);
  EXPECT_EQ(dumped.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(dumped.error().message, HasSubstr("it is not running"));
}

// A client that wants the bytes themselves: containerd.
TEST_F(Containers, FifosOfAClient) {
  StartPod();
  for (const char* name : {"in", "out"}) ASSERT_EQ(mkfifo((folder_ + "/" + name).c_str(), 0600), 0);
  UniqueFd out(open((folder_ + "/out").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_TRUE(Create("prepared", "true"));
  auto spec = Spec("cat; echo done >&2");
  fs::create_directories(folder_ + "/c1");
  spec["linux"]["cgroupsPath"] = "/" + name_ + "/c1";
  std::ofstream(folder_ + "/c1/config.json") << spec.dump();
  v3::CreateTaskRequest request;
  request.set_id("c1");
  request.set_bundle(folder_ + "/c1");
  request.set_stdin(folder_ + "/in");
  request.set_stdout(folder_ + "/out");
  request.set_stderr("file://" + folder_ + "/err");
  auto created = Call<v3::CreateTaskResponse>(kTask, "Create", request);
  ASSERT_TRUE(created) << created.error().message;
  ASSERT_TRUE(Start("c1"));
  fcntl(out.get(), F_SETFL, 0);
  std::string sent, got;
  for (int i = 0; i < 50'000; ++i) sent += fmt::format("line {}\n", i);
  std::thread writer([&] {
    // A client that goes and comes back: no end of the process's stdin until CloseIO says so.
    for (size_t half : {sent.size() / 2, sent.size()}) {
      UniqueFd in(open((folder_ + "/in").c_str(), O_WRONLY | O_CLOEXEC));
      size_t at = half == sent.size() ? sent.size() / 2 : 0;
      while (at < half) {
        ssize_t written = write(in.get(), sent.data() + at, half - at);
        ASSERT_GT(written, 0);
        at += static_cast<size_t>(written);
      }
    }
    v3::CloseIORequest close;
    close.set_id("c1");
    close.set_stdin(true);
    EXPECT_TRUE((Call<wkt::Empty>(kTask, "CloseIO", close)));
  });
  char buffer[4096];
  for (ssize_t count; (count = read(out.get(), buffer, sizeof buffer)) > 0;) got.append(buffer, static_cast<size_t>(count));
  writer.join();
  EXPECT_TRUE(got == sent) << got.size() << " bytes in place of " << sent.size();
  EXPECT_EQ(Wait("c1").exit_status(), 0u);
  EXPECT_EQ(sys::ReadFile(folder_ + "/err", 4096).value(), "done\n");
  request.set_id("c2");
  request.set_stdout("https://example.org/");
  EXPECT_EQ((Call<v3::CreateTaskResponse>(kTask, "Create", request).error().code), Code::kUnimplemented);
}

TEST_F(Containers, ExecOfTheTaskService) {
  StartPod();
  Run("c1", "sleep 1000");
  v3::ExecProcessRequest exec;
  exec.set_id("c1");
  exec.set_exec_id("e1");
  exec.set_stdout("file://" + folder_ + "/out");
  nlohmann::json process = Spec("echo hello; exit 5")["process"];
  exec.mutable_spec()->set_value(process.dump());
  auto added = Call<wkt::Empty>(kTask, "Exec", exec);
  ASSERT_TRUE(added) << added.error().message;
  EXPECT_EQ((Call<wkt::Empty>(kTask, "Exec", exec).error().code), Code::kAlreadyExists);
  v3::StateRequest state;
  state.set_id("c1");
  state.set_exec_id("e1");
  EXPECT_EQ((Call<v3::StateResponse>(kTask, "State", state)->status()), containerd::v1::types::CREATED);
  // containerd's clients wait before they start.
  v3::WaitRequest wait;
  wait.set_id("c1");
  wait.set_exec_id("e1");
  std::atomic<uint32_t> status = 0;
  std::thread waiter([&] { status = Call<v3::WaitResponse>(kTask, "Wait", wait)->exit_status(); });
  v3::StartRequest start;
  start.set_id("c1");
  start.set_exec_id("e1");
  auto started = Call<v3::StartResponse>(kTask, "Start", start);
  EXPECT_TRUE(started) << started.error().message;
  waiter.join();
  EXPECT_EQ(status, 5u);
  EXPECT_EQ(sys::ReadFile(folder_ + "/out", 4096).value(), "hello\n");
  v3::DeleteRequest remove;
  remove.set_id("c1");
  remove.set_exec_id("e1");
  EXPECT_EQ((Call<v3::DeleteResponse>(kTask, "Delete", remove)->exit_status()), 5u);
  EXPECT_EQ((Call<v3::DeleteResponse>(kTask, "Delete", remove).error().code), Code::kNotFound);
}

}  // namespace
}  // namespace caisson::shim
