// SPDX-License-Identifier: Apache-2.0
#include "oci/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "oci/seccomp_cache.h"

namespace caisson::oci {
namespace {

constexpr char kProfile[] = R"({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
  "syscalls": [
    {"names": ["getppid", "no_such_call_at_all"], "action": "SCMP_ACT_ERRNO", "errnoRet": 55},
    {"names": ["dup3"], "action": "SCMP_ACT_ERRNO"},
    {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77,
     "args": [{"index": 0, "value": 8, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}]},
    {"names": ["uname"], "action": "SCMP_ACT_ALLOW"}]})";

SeccompSpec Parse(std::string_view text) {
  auto json = ParseJson(text);
  EXPECT_TRUE(json) << json.error().message;
  auto spec = ParseSeccomp(*json);
  EXPECT_TRUE(spec) << spec.error().message;
  return spec ? *spec : SeccompSpec{};
}

Error ParseError(std::string_view text) {
  auto json = ParseJson(text);
  EXPECT_TRUE(json) << text;
  auto spec = ParseSeccomp(*json);
  EXPECT_FALSE(spec) << text;
  return spec ? Error{} : spec.error();
}

// Runs `body` under `filter` in a child; returns its exit code, or 1000 + the signal that ended it.
template <class F>
int Under(const SeccompFilter& filter, F body) {
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (LoadSeccomp(filter) != 0) _exit(200);
    // Not _exit: what a sanitizer hooks into it makes calls that a filter does not know.
    syscall(SYS_exit_group, body());
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

int ErrnoOf(long result) { return result < 0 ? errno : 0; }

class SeccompTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = std::filesystem::temp_directory_path() / "caisson-seccomp-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    cache_ = root_ + "/cache";
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::vector<std::string> Cached() {
    std::vector<std::string> out;
    if (!std::filesystem::exists(cache_)) return out;
    for (const auto& entry : std::filesystem::directory_iterator(cache_)) out.push_back(entry.path());
    return out;
  }
  std::string root_, cache_;
};

TEST_F(SeccompTest, FilterDoesWhatTheProfileSays) {
  auto filter = CompileSeccomp(Parse(kProfile), "");
  ASSERT_TRUE(filter) << filter.error().message;
  EXPECT_EQ(Under(*filter, [] { return ErrnoOf(syscall(SYS_getppid)); }), 55);
  EXPECT_EQ(Under(*filter, [] { return ErrnoOf(syscall(SYS_dup3, 0, 100, 0)); }), EPERM) << "the default errno";
  EXPECT_EQ(Under(*filter, [] { return ErrnoOf(syscall(SYS_personality, 0xffffffff)); }), 77);
  EXPECT_EQ(Under(*filter, [] { return ErrnoOf(syscall(SYS_personality, 0)); }), 0);
  EXPECT_EQ(Under(*filter, [] {
    utsname u{};
    return ErrnoOf(uname(&u));
  }), 0);
}

TEST_F(SeccompTest, AllowListDeniesTheRestAndUnknownCallsWithEnosys) {
  auto spec = Parse(R"({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
      {"names": ["exit_group", "getpid", "write", "openat2"], "action": "SCMP_ACT_ALLOW"}]})");
  auto filter = CompileSeccomp(spec, "");
  ASSERT_TRUE(filter) << filter.error().message;
  EXPECT_EQ(Under(*filter, [] { return ErrnoOf(syscall(SYS_getpid)); }), 0);
  EXPECT_EQ(Under(*filter, [] { return ErrnoOf(syscall(SYS_getppid)); }), EPERM);
  EXPECT_EQ(Under(*filter, [] { return ErrnoOf(syscall(5000)); }), ENOSYS) << "newer than anything the profile names";
  spec.default_action = "SCMP_ACT_KILL_PROCESS";
  filter = CompileSeccomp(spec, "");
  ASSERT_TRUE(filter);
  EXPECT_EQ(Under(*filter, [] { return ErrnoOf(syscall(5000)); }), 1000 + SIGSYS) << "never made weaker";
}

TEST_F(SeccompTest, RepeatedArgumentIsOneRuleEach) {
  auto filter = CompileSeccomp(Parse(R"({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["personality"],
      "action": "SCMP_ACT_ERRNO", "errnoRet": 9, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
      {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]})"), "");
  ASSERT_TRUE(filter) << filter.error().message;
  for (int value : {1, 2}) EXPECT_EQ(Under(*filter, [&] { return ErrnoOf(syscall(SYS_personality, value)); }), 9);
  EXPECT_EQ(Under(*filter, [] { return ErrnoOf(syscall(SYS_personality, 0)); }), 0);
}

#ifdef __x86_64__
// A call of the 32-bit interface; -errno on failure.
int Call32(int number, int first) {
  int result;
  asm volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(0), "d"(0) : "memory", "r8", "r9", "r10", "r11");
  return result;
}

TEST_F(SeccompTest, DeniedSocketcallIsNotOpenedByRulesForSocket) {
  constexpr int kSocketcall = 102, kSocket = 1;
  pid_t pid = fork();
  if (pid == 0) _exit(Call32(kSocketcall, kSocket) == -EFAULT ? 0 : 1);
  int status = 0;
  waitpid(pid, &status, 0);
  if (status != 0) GTEST_SKIP() << "needs a kernel with 32-bit emulation";
  std::string text = R"({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
      "syscalls": [{"names": ["exit_group"], "action": "SCMP_ACT_ALLOW"}, DENIAL
      {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
       "args": [{"index": 0, "value": 4294967295, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]}]})";
  std::string denial = R"({"names": ["socketcall"], "action": "SCMP_ACT_ERRNO", "errnoRet": 44},)";
  std::string open = text, closed = text;
  open.replace(open.find("DENIAL"), 6, "");
  closed.replace(closed.find("DENIAL"), 6, denial);
  auto body = [] { return -Call32(kSocketcall, kSocket); };
  EXPECT_EQ(Under(*CompileSeccomp(Parse(open), ""), body), EFAULT) << "what libseccomp makes of the rule for socket";
  EXPECT_EQ(Under(*CompileSeccomp(Parse(closed), ""), body), 44);
}
#endif

TEST_F(SeccompTest, RefusesWhatItDoesNotKnow) {
  EXPECT_NE(ParseError(R"({"defaultAction": "SCMP_ACT_MAYBE"})").message.find("SCMP_ACT_MAYBE"), std::string::npos);
  EXPECT_NE(ParseError("{}").message.find("defaultAction"), std::string::npos);
  EXPECT_EQ(ParseError("[]").code, Code::kInvalidArgument);
  EXPECT_EQ(ParseError(R"({"defaultAction": "SCMP_ACT_NOTIFY"})").code, Code::kUnimplemented);
  EXPECT_EQ(ParseError(R"({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"})").code, Code::kUnimplemented);
  for (const char* rest :
       {R"("architectures": ["SCMP_ARCH_Z80"])", R"("flags": ["SECCOMP_FILTER_FLAG_X"])", R"("defaultErrnoRet": 5)",
        R"("syscalls": {})", R"("syscalls": [{"names": [], "action": "SCMP_ACT_KILL"}])",
        R"("syscalls": [{"names": ["read"], "action": "x"}])", R"("syscalls": [{"names": [1], "action": "SCMP_ACT_KILL"}])",
        R"("syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000}])",
        R"("syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}])",
        R"("syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]}])",
        R"("syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 0, "op": "=="}]}])"}) {
    EXPECT_EQ(ParseError(fmt::format(R"({{"defaultAction": "SCMP_ACT_ALLOW", {}}})", rest)).code, Code::kInvalidArgument) << rest;
  }
}

TEST_F(SeccompTest, CacheIsUsedAndNotNeeded) {
  auto spec = Parse(kProfile);
  auto first = CompileSeccomp(spec, cache_);
  ASSERT_TRUE(first);
  ASSERT_EQ(Cached().size(), 1u);
  struct stat st{};
  ASSERT_EQ(stat(Cached()[0].c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  EXPECT_EQ(CompileSeccomp(spec, cache_)->bpf, first->bpf);
  EXPECT_EQ(CompileSeccomp(spec, "")->bpf, first->bpf);
  struct stat again{};
  ASSERT_EQ(stat(Cached()[0].c_str(), &again), 0);
  EXPECT_EQ(st.st_ino, again.st_ino) << "a hit writes nothing";
  // Flags are not part of the filter, and a different profile is another file.
  spec.flags = {"SECCOMP_FILTER_FLAG_LOG"};
  EXPECT_EQ(CompileSeccomp(spec, cache_)->flags, 2u);
  EXPECT_EQ(Cached().size(), 1u);
  spec.syscalls.pop_back();
  EXPECT_TRUE(CompileSeccomp(spec, cache_));
  EXPECT_EQ(Cached().size(), 2u);
}

TEST_F(SeccompTest, DamagedCacheIsCompiledAnew) {
  auto spec = Parse(kProfile);
  auto good = CompileSeccomp(spec, cache_);
  ASSERT_TRUE(good);
  std::string file = Cached()[0], key = file.substr(file.rfind('/') + 1);
  auto damage = [&](auto how) {
    how();
    EXPECT_FALSE(ReadSeccompCache(cache_, key));
    EXPECT_EQ(CompileSeccomp(spec, cache_)->bpf, good->bpf);
    EXPECT_TRUE(ReadSeccompCache(cache_, key)) << "mended";
  };
  damage([&] { std::filesystem::resize_file(file, 100); });
  damage([&] { std::filesystem::resize_file(file, 0); });
  damage([&] { chmod(file.c_str(), 0666); });
  damage([&] {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(-3, std::ios::end);
    stream.put('x');
  });
  damage([&] {
    std::filesystem::remove(file);
    std::filesystem::create_symlink("/etc/passwd", file);
  });
  // Another profile's filter under this name.
  spec.syscalls.pop_back();
  ASSERT_TRUE(CompileSeccomp(spec, cache_));
  for (const std::string& other : Cached()) {
    if (other != file) std::filesystem::rename(other, file);
  }
  EXPECT_FALSE(ReadSeccompCache(cache_, key));
  // A directory that others may write to is not believed at all.
  chmod(cache_.c_str(), 0777);
  EXPECT_FALSE(ReadSeccompCache(cache_, key));
  EXPECT_TRUE(CompileSeccomp(spec, cache_));
  EXPECT_TRUE(CompileSeccomp(spec, "/nonexistent/dir")) << "no place to keep it is no error";
}

TEST_F(SeccompTest, KeyTellsProfilesApart) {
  SeccompSpec a, b;
  a.default_action = b.default_action = "SCMP_ACT_ALLOW";
  a.architectures = {"ab", "c"};
  b.architectures = {"a", "bc"};
  EXPECT_NE(SeccompCacheKey(a, ""), SeccompCacheKey(b, ""));
  EXPECT_NE(SeccompCacheKey(a, "1"), SeccompCacheKey(a, "2"));
  b = a;
  b.default_errno_ret = 0;
  EXPECT_NE(SeccompCacheKey(a, ""), SeccompCacheKey(b, ""));
}

}  // namespace
}  // namespace caisson::oci
