// SPDX-License-Identifier: Apache-2.0
//
// Of what surrounds a request, the parts that need no server: URLs, proxies, Retry-After, waiting, resumed streams,
// which login goes where.
#include "image/fetch.h"

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "image/auth.h"
#include "image/blob_stream.h"
#include "image/docker_config.h"

namespace caisson::image {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Url, OnlyHttpIsFollowed) {
  auto url = ParseUrl("https://Reg.Example.com/v2/?a=b&c#frag");
  ASSERT_TRUE(url);
  EXPECT_EQ(url->ToString(), "https://reg.example.com/v2/?a=b&c");
  EXPECT_EQ(url->Shown(), "https://reg.example.com/v2/");
  EXPECT_EQ(url->port, 443);
  EXPECT_EQ(ParseUrl("http://[::1]:5000")->Origin(), "http://[::1]:5000");
  EXPECT_EQ(ParseUrl("https://a:443/")->Origin(), "https://a");
  for (const char* bad : {"file:///etc/passwd", "ftp://a/", "gopher://a/", "a", "//a/b", "https://", "https://u:p@a/",
                          "https://u@a/", "https://a b/", "https://a/\r\nX: y", "https://a:99999/", "data:text/plain,x",
                          ""}) {
    EXPECT_FALSE(ParseUrl(bad)) << bad;
  }
  EXPECT_FALSE(ParseUrl("https://a/" + std::string(10000, 'a')));
}

TEST(Url, ResolvesRedirects) {
  Url base = ParseUrl("https://a.example.com/v2/x?y=1").value();
  EXPECT_EQ(ResolveUrl(base, "/z")->ToString(), "https://a.example.com/z");
  EXPECT_EQ(ResolveUrl(base, "//b.example.com/z?q")->ToString(), "https://b.example.com/z?q");
  EXPECT_EQ(ResolveUrl(base, "http://c/")->scheme, "http");
  EXPECT_FALSE(ResolveUrl(base, "file:///etc/passwd"));
  EXPECT_FALSE(ResolveUrl(base, "https://user:pw@b/"));
}

TEST(Proxy, FollowsTheEnvironmentsRules) {
  ProxyRules rules("proxy:3128", "http://secure:3128",
                   "example.com, .dot.com,10.0.0.0/8,192.0.2.7,port.com:444,[fd00::1]");
  auto proxy = [&](const char* url) { return rules.For(ParseUrl(url).value()); };
  EXPECT_EQ(proxy("http://a.io/"), "http://proxy:3128");
  EXPECT_EQ(proxy("https://a.io/"), "http://secure:3128");
  for (const char* direct : {"https://example.com/", "https://sub.example.com/", "https://x.dot.com/",
                             "http://10.1.2.3/", "http://192.0.2.7/", "https://port.com:444/", "http://localhost:5000/",
                             "http://127.0.0.1/", "http://[::1]/", "http://[fd00::1]/"}) {
    EXPECT_EQ(proxy(direct), "") << direct;
  }
  for (const char* proxied : {"https://notexample.com/", "https://dot.com/", "http://11.1.2.3/", "https://port.com/",
                              "http://192.0.2.70/"}) {
    EXPECT_NE(proxy(proxied), "") << proxied;
  }
  EXPECT_EQ(ProxyRules("p", "p", "*").For(ParseUrl("https://a.io/").value()), "");
  EXPECT_EQ(ProxyRules().For(ParseUrl("https://a.io/").value()), "");
}

TEST(Retry, ReadsRetryAfter) {
  EXPECT_EQ(ParseRetryAfter("2"), 2000);
  EXPECT_EQ(ParseRetryAfter("99999999999999999999"), std::nullopt);
  EXPECT_GT(ParseRetryAfter("9999999999").value(), 1'000'000'000);
  EXPECT_EQ(ParseRetryAfter("Wed, 21 Oct 2015 07:28:00 GMT"), 0);
  EXPECT_GT(ParseRetryAfter("Wed, 21 Oct 2099 07:28:00 GMT").value(), 0);
  for (const char* bad : {"", "-1", "soon"}) EXPECT_EQ(ParseRetryAfter(bad), std::nullopt) << bad;
}

TEST(Retry, GivesUpWhenItMust) {
  RetryPolicy policy{.max_attempts = 3, .first_backoff_millis = 1, .max_backoff_millis = 2,
                     .max_retry_after_millis = 1000};
  CallControl control;
  Exchange busy;
  busy.response.status = 503;
  Attempts attempts(policy, control);
  EXPECT_TRUE(attempts.Again(busy).value());
  EXPECT_TRUE(attempts.Again(busy).value());
  EXPECT_FALSE(attempts.Again(busy).value());
  attempts.Progress(uint64_t{2} << 20);
  EXPECT_TRUE(attempts.Again(busy).value());
  Exchange other;
  other.response.status = 404;
  EXPECT_FALSE(Attempts(policy, control).Again(other).value());
  busy.response.headers = {{"retry-after", "5"}};  // more than we are willing to wait
  EXPECT_FALSE(Attempts(policy, control).Again(busy).value());
  Exchange broken;
  broken.failure = Exchange::Failure::kFinal;
  EXPECT_FALSE(Attempts(policy, control).Again(broken).value());
}

TEST(Retry, WaitingCanBeEnded) {
  std::stop_source source;
  CallControl control{source.get_token(), std::nullopt};
  std::jthread stopper([&] { source.request_stop(); });
  auto waited = WaitFor(3'600'000, control);
  ASSERT_FALSE(waited);
  EXPECT_EQ(waited.error().code, Code::kCancelled);
  EXPECT_EQ(WaitFor(1000, {{}, Deadline::After(10)}).error().code, Code::kDeadlineExceeded);
}

HttpResponse Head(int status, std::string_view name = "", std::string_view value = "") {
  HttpResponse head;
  head.status = status;
  if (!name.empty()) head.headers = {{std::string(name), std::string(value)}};
  return head;
}

TEST(BlobStream, EachByteOnceWhateverTheServerDoes) {
  std::string got;
  BlobSink sink = [&](std::string_view chunk) -> Result<> {
    got += chunk;
    return {};
  };
  BlobStream stream(10, 0, sink);
  stream.Begin();
  EXPECT_TRUE(stream.Take(Head(200, "content-length", "10"), "012"));
  stream.Begin();  // the second attempt's server ignores Range
  EXPECT_TRUE(stream.Take(Head(200), "01"));
  EXPECT_TRUE(stream.Take(Head(200), "2345"));
  stream.Begin();  // the third honours it
  EXPECT_TRUE(stream.Take(Head(206, "content-range", "bytes 6-9/10"), "6789"));
  EXPECT_TRUE(stream.complete());
  EXPECT_EQ(got, "0123456789");
}

TEST(BlobStream, RefusesWhatCannotBeTheBlob) {
  BlobSink sink = [](std::string_view) -> Result<> { return {}; };
  auto take = [&](const HttpResponse& head, std::string_view chunk) {
    BlobStream stream(10, 4, sink);
    stream.Begin();
    auto taken = stream.Take(head, chunk);
    return taken ? "fine" : taken.error().message;
  };
  EXPECT_EQ(take(Head(206, "content-range", "bytes 4-9/*"), "456789"), "fine");
  EXPECT_THAT(take(Head(206, "content-range", "bytes 5-9/10"), "5"), HasSubstr("another range"));
  EXPECT_THAT(take(Head(206, "content-range", "bytes 4-9/11"), "4"), HasSubstr("has 11 bytes"));
  EXPECT_THAT(take(Head(206), "4"), HasSubstr("another range"));
  EXPECT_THAT(take(Head(206, "content-range", "bytes 4-10/*"), "4567890"), HasSubstr("more than"));
  EXPECT_THAT(take(Head(200, "content-length", "9"), "0"), HasSubstr("has 9 bytes"));
  EXPECT_THAT(take(Head(200), "0123456789x"), HasSubstr("more than"));
}

RegistryHost Host(const std::string& base, bool upstream) {
  RegistryHost host;
  host.base = ParseUrl(base).value();
  host.upstream = upstream;
  return host;
}

TEST(Login, GoesOnlyToTheHostItIsFor) {
  Reference reference = ParseReference("reg.example.com/app").value();
  RegistryHost upstream = Host("https://reg.example.com/v2", true), mirror = Host("https://mirror.io/v2", false);
  auto user = [&](const RegistryHost& host, std::optional<Credentials> credentials) {
    auto login = ChooseLogin(host, reference, credentials, "");
    return login ? login->username + login->identity_token : login.error().message;
  };
  Credentials plain;
  plain.username = "u", plain.password = "p";
  EXPECT_EQ(user(upstream, plain), "u");
  EXPECT_EQ(user(mirror, plain), "");
  plain.server_address = "https://mirror.io";
  EXPECT_EQ(user(upstream, plain), "");
  EXPECT_EQ(user(mirror, plain), "u");
  plain.server_address = "reg.example.com.evil.io";
  EXPECT_EQ(user(upstream, plain), "");
  Credentials encoded;
  encoded.auth = Base64("x:y");
  EXPECT_EQ(user(upstream, encoded), "x");
  encoded.auth = "hunter2!";
  EXPECT_THAT(user(upstream, encoded), HasSubstr("base64"));
  EXPECT_THAT(user(upstream, encoded), Not(HasSubstr("hunter2")));
  Credentials token;
  token.username = "<token>", token.password = "refresh";
  EXPECT_EQ(user(upstream, token), "refresh");
  Reference hub = ParseReference("busybox").value();
  plain.server_address = "https://index.docker.io/v1/";
  EXPECT_EQ(ChooseLogin(Host("https://registry-1.docker.io/v2", true), hub, plain, "")->username, "u");
}

TEST(Login, RealmRules) {
  RegistryHost secure = Host("https://reg.io/v2", true), plain = Host("http://10.0.0.1:5000/v2", true);
  EXPECT_TRUE(CheckRealm(secure, "https://auth.other.io/token", true));
  EXPECT_FALSE(CheckRealm(secure, "http://reg.io/token", false));
  for (const char* bad : {"file:///etc/passwd", "", "auth", "https://user:pw@auth.io/"}) {
    EXPECT_FALSE(CheckRealm(secure, bad, false)) << bad;
  }
  EXPECT_TRUE(CheckRealm(plain, "http://10.0.0.1:5001/token", true));
  EXPECT_FALSE(CheckRealm(plain, "https://evil.io/token", true));
  EXPECT_TRUE(CheckRealm(plain, "https://auth.io/token", false));
  secure.tls.skip_verify = true;
  EXPECT_FALSE(CheckRealm(secure, "https://auth.other.io/token", true));
  EXPECT_TRUE(CheckRealm(secure, "https://reg.io/token", true));
}

TEST(Login, SecretsAreTakenOutOfWhatServersSay) {
  Login login{"user", "hunter2", "", "", ""};
  std::string said = "bad: hunter2 and " + Base64("user:hunter2") + " and tok123\x1b[0m";
  std::string shown = Redact(said, login, "Bearer tok123");
  EXPECT_THAT(shown, Not(HasSubstr("hunter2")));
  EXPECT_THAT(shown, Not(HasSubstr("tok123")));
  EXPECT_THAT(shown, Not(HasSubstr(Base64("user:hunter2"))));
  EXPECT_EQ(shown.find('\x1b'), std::string::npos);
  EXPECT_EQ(Redact("fine", {}, ""), "fine");
}

TEST(Login, SaysWhatTheServerSays) {
  HttpResponse response = Head(404);
  response.body = R"({"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]})";
  EXPECT_EQ(ServerMessage(response), "manifest unknown (HTTP status 404)");
  response.body = "<html>";
  EXPECT_EQ(ServerMessage(response), "HTTP status 404");
  response.body = R"({"errors":7})";
  EXPECT_EQ(ServerMessage(response), "HTTP status 404");
}

}  // namespace
}  // namespace caisson::image
