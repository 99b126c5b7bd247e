// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/id.h"
#include "base/json.h"
#include "base/log.h"
#include "base/result.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "base/unique_fd.h"

namespace caisson {
namespace {

Result<int> Half(int value) {
  if (value % 2 != 0) return MakeError(Code::kInvalidArgument, "{} is odd", value);
  return value / 2;
}
Result<> Nothing(int value) {
  TRY(Half(value));
  return {};
}
Result<int> Quarter(int value) {
  int half = TRY(Half(value));
  return TRY(Half(half));
}

TEST(Result, TryPassesValueAndError) {
  EXPECT_EQ(Quarter(8).value(), 2);
  EXPECT_EQ(Quarter(6).error().message, "3 is odd");
  EXPECT_TRUE(Nothing(2).has_value());
  EXPECT_FALSE(Nothing(1).has_value());
}

TEST(Error, OfErrnoNamesSubjectAndReason) {
  Error error = SysError(EPERM, "mount 'proc' on '/proc'");
  EXPECT_EQ(error.message, "mount 'proc' on '/proc': Operation not permitted");
  EXPECT_EQ(error.code, Code::kPermissionDenied);
  EXPECT_EQ(error.sys_errno, EPERM);
  EXPECT_EQ(MessageForClients(error), "mount 'proc' on '/proc': operation not permitted");
  EXPECT_EQ(MessageForClients(MakeError(Code::kPermissionDenied, "no: Operation not permitted")), "no: Operation not permitted");
  EXPECT_EQ(std::move(error).Within("pod x").message, "pod x: mount 'proc' on '/proc': Operation not permitted");
}

TEST(Rollback, RunsInReverseUnlessCommitted) {
  std::string order;
  {
    Rollback rollback;
    rollback.Add([&] { order += "a"; });
    rollback.Add([&] { order += "b"; });
  }
  EXPECT_EQ(order, "ba");
  {
    Rollback rollback;
    rollback.Add([&] { order += "c"; });
    rollback.Commit();
  }
  EXPECT_EQ(order, "ba");
}

TEST(UniqueFd, ClosesOnce) {
  int raw = open("/dev/null", O_RDONLY | O_CLOEXEC);
  {
    UniqueFd fd(raw);
    UniqueFd moved(std::move(fd));
    EXPECT_FALSE(fd.valid());
    EXPECT_EQ(moved.get(), raw);
  }
  EXPECT_EQ(fcntl(raw, F_GETFD), -1);
}

TEST(Strings, SplitTrimParse) {
  EXPECT_EQ(Split("a,,b", ',').size(), 3u);
  EXPECT_EQ(Split("", ',').size(), 1u);
  EXPECT_EQ(Trim(" x\n"), "x");
  EXPECT_EQ(ParseInt64("-5").value(), -5);
  EXPECT_FALSE(ParseUint64("-5").has_value());
  EXPECT_FALSE(ParseUint64("18446744073709551616").has_value());
  EXPECT_FALSE(ParseInt64("5 ").has_value());
  EXPECT_FALSE(ParseInt64("").has_value());
}

TEST(Id, IsHexAndSafe) {
  std::string id = NewId();
  EXPECT_EQ(id.size(), 64u);
  EXPECT_NE(id, NewId());
  EXPECT_TRUE(IsSafeName(id));
  for (const char* bad : {"", ".", "..", "a/b", "a b", "a\n"}) EXPECT_FALSE(IsSafeName(bad)) << bad;
}

TEST(Clock, FormatsNineDigits) {
  EXPECT_EQ(FormatRfc3339Nano(6), "1970-01-01T00:00:00.000000006Z");
  EXPECT_EQ(FormatRfc3339Nano(-1), "1969-12-31T23:59:59.999999999Z");
}

TEST(Json, RefusesDepthDuplicatesAndSize) {
  EXPECT_EQ(ParseJson(R"({"a":[1,2]})").value()["a"][1], 2);
  EXPECT_FALSE(ParseJson(R"({"a":1,"a":2})").has_value());
  EXPECT_FALSE(ParseJson(std::string(100, '[') + std::string(100, ']')).has_value());
  EXPECT_FALSE(ParseJson("[1,2]", 3).has_value());
  EXPECT_FALSE(ParseJson("{").has_value());
  EXPECT_FALSE(ParseJson("").has_value());
  EXPECT_EQ(DumpJson(Json("\xff")), "\"\xef\xbf\xbd\"");
}

TEST(Log, QuotesControlCharacters) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd reader(ends[0]), writer(ends[1]);
  log::SetFd(writer.get());
  log::Warn("two\nlines \"{}\"", 7);
  log::SetFd(2);
  char text[256] = {};
  ASSERT_GT(read(reader.get(), text, sizeof text - 1), 0);
  EXPECT_NE(std::string(text).find(R"(level=warn msg="two\nlines \"7\"")"), std::string::npos) << text;
}

}  // namespace
}  // namespace caisson
